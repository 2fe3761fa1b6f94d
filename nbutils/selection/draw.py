"""Which rows an arm takes of its pool: by length, at random, by stratum, or by grades."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from nbutils.arms import Arm
from nbutils.core import manifests
from nbutils.core.errors import InputError, check_k
from nbutils.data.records import number_records, open_records
from nbutils.data.rows import Row, fingerprint_row
from nbutils.selection.topk import Count, Ids, Numbers, per_row, top_k

CountRow = Callable[[int], int]
"""What gives the trained tokens of the row at a position of the pool."""


def draw(
    arm: Arm,
    rows: list[Row],
    measured: Count,
    trained: CountRow | None = None,
    turns: str = "sum",
    ratings: Path | None = None,
    max_rows: int | None = None,
) -> Ids:
    """Positions (ascending) of an arm's rows in its pool.

    measured: length of texts under the profile's measure; turns: the rule for rows of several turns; ratings: the file
    of grades that a rated arm needs. A token-matched arm needs `trained`, and `max_rows`, how many of the longest rows
    are trained on. Raises InputError when the pool has fewer rows than the arm asks for.
    """
    if arm.rule == "all":
        return np.arange(len(rows))
    check_k(arm.k, len(rows), f"arm '{arm.name}'")
    if arm.rule == "rated":
        if ratings is None:
            raise InputError(f"arm '{arm.name}' needs a file of ratings")
        return draw_tiers(read_grades(ratings, rows), arm.k, arm.number or 0)
    if arm.rule == "longest-instruction":
        return top_k(measured([row.instruction for row in rows]), arm.k)
    order = np.random.default_rng(arm.number).permutation(len(rows))
    if arm.rule == "random":
        return np.sort(order[: arm.k])
    responses = [row.responses for row in rows]
    lengths = per_row(responses, turns, measured)
    if arm.is_matched:
        if trained is None:
            raise InputError(f"arm '{arm.name}' needs a count of trained tokens")
        budget = sum(trained(position) for position in top_k(lengths, arm.k)[:max_rows].tolist())
        if not budget:
            raise InputError(f"arm '{arm.name}': none of the longest rows has a trained token: raise max_length")
        return np.sort(match_tokens(budget, order.tolist(), trained))
    if arm.rule == "longest-stratified":
        strata = np.array([stratum_of(row) for row in rows])
        names, sizes = np.unique(strata, return_counts=True)
        quotas = zip(names, apportion(sizes, arm.k), strict=True)
        parts = [np.flatnonzero(strata == name)[top_k(lengths[strata == name], quota)] for name, quota in quotas]
        return np.sort(np.concatenate(parts))
    return top_k(-lengths if arm.rule == "shortest" else lengths, arm.k)


def match_tokens(budget: int, order: Iterable[int], trained: CountRow) -> Ids:
    """The first rows of `order`, at least one, whose trained tokens together come closest to `budget`.

    A row that trains nothing is passed over. Rows are counted until the budget is passed, and no further.
    """
    taken: list[int] = []
    total = 0
    for position in order:
        if not (tokens := trained(position)):
            continue
        if taken and abs(total + tokens - budget) >= abs(total - budget):
            break
        taken.append(position)
        total += tokens
    return np.array(taken, dtype=np.int64)


def stratum_of(row: Row) -> str:
    """A row's stratum: its category or origin where the dataset has one, else whether it has an input."""
    return row.stratum or ("with input" if row.input else "without input")


def apportion(sizes: Ids, k: int) -> list[int]:
    """Split k in proportion to sizes by largest remainders (ties to the earlier stratum); never above a size."""
    quota, remainder = np.divmod(np.asarray(sizes) * k, np.sum(sizes))
    by_remainder = np.argsort(-remainder, kind="stable")
    quota[by_remainder[: k - quota.sum()]] += 1
    return [int(value) for value in quota]


def read_grades(path: Path, rows: Sequence[Row]) -> Numbers:
    """The grades of `rows`, shape (n,), from a `ratings.jsonl` with `id`, the row's number, and `score`.

    NaN where a row has none. Raises InputError, naming file and row, unless every row is rated once and 99% of them
    have a grade; ratings that hold the texts' fingerprints (`text`), as ours do, must be of these very texts.
    """
    scores: dict[int, float] = {}
    for place, record in number_records(open_records(path)):
        where, number, score = f"{path}: row {place}", record.get("id"), record.get("score")
        if type(number) is not int or not 0 <= number < len(rows):
            raise InputError(f"{where}: 'id' is {number!r}, none of the dataset's row numbers (0 to {len(rows) - 1})")
        is_number = isinstance(score, int | float) and not isinstance(score, bool) and np.isfinite(score)
        if score is not None and not is_number:
            raise InputError(f"{where}: 'score' is {score!r}, neither a number nor null")
        if record.get("text", expected := fingerprint_row(rows[number])) != expected:
            other = f"the rating is of another text than row {number} of the dataset"
            raise InputError(f"{where}: {other}: rate this dataset")
        if number in scores:
            raise InputError(f"{where}: row {number} is rated twice: keep one rating")
        scores[number] = np.nan if score is None else score
    if len(scores) != len(rows):
        raise InputError(f"{path}: {len(scores):,} ratings, and the dataset has {len(rows):,} rows: rate all of them")
    grades = np.array([scores[number] for number in range(len(rows))], dtype=float)
    if not manifests.is_enough(_count_graded(grades), len(grades)):
        graded = f"{_count_graded(grades)} of {len(grades)} rows have a grade: nothing is chosen below 99%"
        mend = "the next run asks failed calls again; unparsed replies are asked again into another folder only"
        raise InputError(f"{path}: {graded}; {mend}")
    return grades


def _count_graded(grades: Numbers) -> int:
    return int((~np.isnan(grades)).sum())


def draw_threshold(grades: Numbers, threshold: float) -> Ids:
    """Positions (ascending) of the rows graded `threshold` or better."""
    chosen = np.flatnonzero(grades >= threshold)
    if not len(chosen):
        raise InputError(f"no row is graded {threshold:g} or better: the best grade is {np.nanmax(grades):g}")
    return chosen


def draw_top_k(grades: Numbers, k: int) -> Ids:
    """Positions (ascending) of the k best rows, ties to the lower position; never one without a grade."""
    _check_k(grades, k)
    return top_k(np.where(np.isnan(grades), -np.inf, grades), k)


def draw_tiers(grades: Numbers, k: int, seed: int = 0) -> Ids:
    """Positions (ascending) of k rows: whole grades from the best down, and a uniform sample of the last one."""
    _check_k(grades, k)
    chosen = np.empty(0, dtype=np.int64)
    for grade in np.unique(grades[~np.isnan(grades)])[::-1]:
        tier = np.flatnonzero(grades == grade)
        room = k - len(chosen)
        if len(tier) > room:
            tier = np.random.default_rng(seed).choice(tier, room, replace=False)
        chosen = np.concatenate([chosen, tier])
    return np.sort(chosen)


def _check_k(grades: Numbers, k: int) -> None:
    graded = _count_graded(grades)
    if not 1 <= k <= graded:
        raise InputError(f"k = {k}, and {graded} rows have a grade: k must lie between 1 and that")
