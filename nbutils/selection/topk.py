"""The k longest of a list, of a stream, or of texts that need not all be counted."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbutils import lengths
from nbutils.core.errors import InputError

Numbers = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
Count = Callable[[list[str]], Numbers]
"""What gives one length a text."""


def top_k(lengths: Numbers, k: int) -> Ids:
    """Ids of the k longest, ties to the lower id, in ascending id order.

    lengths: shape (n,). Linear in n. Raises InputError unless 0 <= k <= n.
    """
    lengths = np.asarray(lengths)
    _refuse_outside(k, len(lengths))
    if k == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(lengths, len(lengths) - k)[len(lengths) - k]
    above = np.flatnonzero(lengths > threshold)
    tied = np.flatnonzero(lengths == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, tied]))


def _refuse_outside(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise InputError(f"k = {k} of {n} rows: k must lie between 0 and the number of rows")


class Longest:
    """The k longest of a stream, in memory O(k): feed batches by `add`, in any order; `merge` joins partitions."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.n = 0
        self.ids = np.empty(0, dtype=np.int64)
        self.lengths = np.empty(0)
        self._ties_left_out = 0

    @property
    def threshold(self) -> float:
        """Length of the shortest row kept; minus infinity until k rows have come, infinity where k is none."""
        if self.k == 0:
            return np.inf
        return float(self.lengths.min()) if len(self.ids) == self.k else -np.inf

    @classmethod
    def restore(cls, k: int, n: int, lengths: Numbers, ids: Ids, ties_left_out: int) -> "Longest":
        """The k longest of `n` rows, of which another process kept these (at least k, or all) by ids and lengths.

        ties_left_out: rows as long as the shortest one kept that it did not keep.
        """
        kept = cls(k)
        kept.add(lengths, ids)
        kept.n = n
        if ties_left_out and lengths.min() == kept.threshold:
            kept._ties_left_out += ties_left_out
        return kept

    @property
    def ties(self) -> tuple[int, int]:
        """Rows of exactly the threshold's length: how many there are, and how many of them were taken."""
        taken = int((self.lengths == self.threshold).sum())
        return taken + self._ties_left_out, taken

    def add(self, lengths: Numbers, ids: Numbers) -> None:
        """Take in rows by their lengths and ids."""
        self.n += len(ids)
        self._keep(np.concatenate([self.lengths, lengths]), np.concatenate([self.ids, ids]))

    def merge(self, other: "Longest") -> None:
        """Take in what another partition kept: the same as if its rows had come here."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the {other.k} longest into the {self.k} longest")
        if other.threshold == self.threshold:
            self._ties_left_out += other._ties_left_out
        elif other.threshold > self.threshold:
            self._ties_left_out = other._ties_left_out
        self.n += other.n
        self._keep(np.concatenate([self.lengths, other.lengths]), np.concatenate([self.ids, other.ids]), other)

    def _keep(self, lengths: Numbers, ids: Numbers, other: "Longest | None" = None) -> None:
        known = max(self.threshold, other.threshold) if other else self.threshold
        order = np.argsort(ids, kind="stable")
        lengths, ids = lengths[order], ids[order]
        chosen = top_k(lengths, min(self.k, len(ids)))
        self.ids, self.lengths = ids[chosen], lengths[chosen]
        if self.threshold != known:
            self._ties_left_out = 0
        self._ties_left_out += int((lengths == self.threshold).sum() - (self.lengths == self.threshold).sum())


def longest(texts: list[str], k: int, measure: str, tokenizer: Any = None) -> Ids:
    """Ids of the k longest texts: `top_k(count(texts, measure), k)`, skipping texts that cannot be among them."""
    _refuse_outside(k, len(texts))
    kept = Longest(k)
    add_texts(kept, texts, 0, measure, tokenizer)
    return kept.ids


def add_texts(
    kept: Longest, texts: list[str], first: int, measure: str, tokenizer: Any = None, count: Count | None = None
) -> None:
    """Feed texts (numbered from `first`) to a top-k, counting exactly only those whose bound reaches its threshold.

    count: what gives their lengths, where it is not to be `lengths.count` in this process.
    """
    count = count or (lambda some: lengths.count(some, measure, tokenizer))
    bounds = lengths.upper_bound(texts, measure, tokenizer)
    if bounds is None:
        return kept.add(count(texts), np.arange(first, first + len(texts)))
    order = np.argsort(-bounds, kind="stable")
    position, step = 0, max(2 * kept.k, 1000)
    while position < len(order) and bounds[order[position]] >= kept.threshold:
        chunk = order[position : position + step]
        chunk = chunk[bounds[chunk] >= kept.threshold]
        kept.add(count([texts[i] for i in chunk]), first + chunk)
        position += step
    kept.n = first + len(texts)


def per_row(turns: Sequence[list[str]], rule: str, count: Callable[[list[str]], Numbers]) -> Numbers:
    """One number per row of one or more texts: their sum or mean, or that of the first or last text.

    count: one number per text. Every row must have a text.
    """
    if rule in ("first", "last"):
        return count([texts[0 if rule == "first" else -1] for texts in turns])
    sizes = np.fromiter(map(len, turns), dtype=np.int64, count=len(turns))
    totals = np.concatenate([[0], np.cumsum(count([text for texts in turns for text in texts]))])
    ends = np.cumsum(sizes)
    sums = totals[ends] - totals[ends - sizes]
    return sums / sizes if rule == "mean" else sums
