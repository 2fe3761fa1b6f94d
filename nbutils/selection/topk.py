"""The k longest of a list, of a stream, or of texts that need not all be counted."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbutils import lengths
from nbutils.core.errors import InputError
from nbutils.data.tokens import Texts, take_texts

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


class _Held(NamedTuple):
    """Rows that are not counted yet: their texts, ids, and the bounds of their lengths."""

    rows: list[list[str]]
    ids: Ids
    lower: Numbers
    upper: Numbers

    def take(self, which: Ids) -> "_Held":
        return _Held([self.rows[i] for i in which], self.ids[which], self.lower[which], self.upper[which])

    def join(self, other: "_Held") -> "_Held":
        joined = (np.concatenate(pair) for pair in zip(self[1:], other[1:], strict=True))
        return _Held(self.rows + other.rows, *joined)


class Candidates:
    """Rows that may be among the k longest, held uncounted as long as bounds on their lengths rule others out.

    Feed batches by `add_texts` and `add_turns`, then `settle`: `kept` is then as if every row had been counted.
    Memory: one batch, and texts of HELD characters at most (far fewer where the bounds are close).
    """

    HELD = 32_000_000

    def __init__(
        self,
        kept: Longest,
        measure: str,
        tokenizer: Any = None,
        count: Count | None = None,
        rule: str = "sum",
        threads: int = 1,
    ) -> None:
        """Hold rows for `kept`.

        count: what gives lengths, where it is not to be `lengths.count` in this process.
        rule: how the texts of a row make its length (see `per_row`). threads: how many compute bounds.
        """
        self.kept, self.rule = kept, rule
        self._count = count or (lambda texts: lengths.count(texts, measure, tokenizer))
        self._upper_bound = functools.partial(
            lengths.upper_bound, measure=measure, tokenizer=tokenizer, threads=threads
        )
        self._lower_bound = functools.partial(lengths.lower_bound, measure=measure)
        self._held = self._hold([], np.empty(0, dtype=np.int64), np.empty(0))

    @property
    def floor(self) -> float:
        """A length that the k longest rows seen so far do reach."""
        known = np.concatenate([self.kept.lengths, self._held.lower])
        place = len(known) - self.kept.k
        return float(np.partition(known, place)[place]) if 0 <= place < len(known) else self.kept.threshold

    def add_texts(self, texts: Texts, first: int) -> None:
        """Take in rows of one text each, numbered from `first`: Python's strings, or an Arrow array of strings."""
        self._add(self._upper_bound(texts), first, len(texts), lambda ids: [[text] for text in take_texts(texts, ids)])

    def add_turns(self, turns: Sequence[list[str]], first: int) -> None:
        """Take in rows of one or more texts each, numbered from `first`."""
        if self.rule in ("first", "last"):
            return self.add_texts([texts[0 if self.rule == "first" else -1] for texts in turns], first)
        bounds = self._upper_bound([text for texts in turns for text in texts])
        of_rows = None if bounds is None else per_row(turns, self.rule, lambda _: bounds)
        self._add(of_rows, first, len(turns), lambda ids: [turns[i] for i in ids])

    def settle(self) -> None:
        """Count the rows that may be among the k longest, those with the highest bounds first."""
        held, n = self._held.take(np.argsort(-self._held.upper, kind="stable")), self.kept.n
        position, step = 0, self.kept.k
        while position < len(held.ids) and held.upper[position] >= self.kept.threshold:
            end = min(position + step, int((held.upper >= self.kept.threshold).sum()))
            some = held.take(np.arange(position, end))
            self.kept.add(per_row(some.rows, self.rule, self._count), some.ids)
            position, step = end, max(self.kept.k // 8, 64)
        self._held, self.kept.n = held.take(held.ids[:0]), n

    def _add(self, upper: Numbers | None, first: int, n: int, take: Callable[[Ids], list[list[str]]]) -> None:
        if upper is None:
            return self.kept.add(per_row(take(np.arange(n)), self.rule, self._count), np.arange(first, first + n))
        self.kept.n += n
        order = np.argsort(-upper, kind="stable")
        # The floor that the first of them set spares most others their lower bound.
        for some in (order[: self.kept.k], order[self.kept.k :]):
            reaching = some[upper[some] >= self.floor]
            self._held = self._held.join(self._hold(take(reaching), first + reaching, upper[reaching]))
        self._held = self._held.take(np.flatnonzero(self._held.upper >= self.floor))
        if sum(len(text) for texts in self._held.rows for text in texts) > self.HELD:
            self.settle()

    def _hold(self, rows: list[list[str]], ids: Ids, upper: Numbers) -> _Held:
        return _Held(rows, ids, per_row(rows, self.rule, self._lower_bound), upper)


def longest(texts: Texts, k: int, measure: str, tokenizer: Any = None) -> Ids:
    """Ids of the k longest texts: `top_k(count(texts, measure), k)`, skipping texts that cannot be among them."""
    _refuse_outside(k, len(texts))
    kept = Longest(k)
    add_texts(kept, texts, 0, measure, tokenizer)
    return kept.ids


def add_texts(
    kept: Longest, texts: Texts, first: int, measure: str, tokenizer: Any = None, count: Count | None = None
) -> None:
    """Feed texts (numbered from `first`) to a top-k, counting exactly only those whose bound reaches its threshold.

    count: what gives their lengths, where it is not to be `lengths.count` in this process.
    """
    candidates = Candidates(kept, measure, tokenizer, count)
    candidates.add_texts(texts, first)
    candidates.settle()


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
