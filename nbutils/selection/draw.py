"""Which rows an arm takes of its pool: by length, at random, by stratum, or by grades."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import arms
from nbutils.arms import Arm
from nbutils.core import manifests
from nbutils.core.errors import InputError, check_k
from nbutils.data.records import number_records, open_records
from nbutils.data.rows import Row, fingerprint_row
from nbutils.selection.topk import per_row, top_k

# --- drawing -------------------------------------------------------------------------------------------------------


Ids = arms.Ids
Grades = np.ndarray[Any, np.dtype[np.float64]]
Measured = Callable[[list[str]], Ids]


def draw(
    arm: Arm,
    rows: list[Row],
    measured: Measured,
    trained: Measured,
    turns: str = "sum",
    ratings: Path | None = None,
) -> Ids:
    """Positions (ascending) of an arm's rows in its pool.

    measured: length of texts under the profile's measure; trained: tokens that a text adds to the loss; turns: the
    rule for rows of several turns; ratings: the file of grades that a rated arm needs. Raises InputError when the pool
    has fewer rows than the arm asks for.
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
    if arm.rule == "random-token-matched":
        tokens = per_row(responses, "sum", trained)
        budget = tokens[top_k(lengths, arm.k)].sum()
        return np.sort(order[: 1 + int(np.abs(np.cumsum(tokens[order]) - budget).argmin())])
    if arm.rule == "longest-stratified":
        return _draw_stratified(rows, lengths, arm.k)
    return top_k(-lengths if arm.rule == "shortest" else lengths, arm.k)


def _draw_stratified(rows: list[Row], lengths: Ids, k: int) -> Ids:
    strata = np.array([stratum_of(row) for row in rows])
    names, sizes = np.unique(strata, return_counts=True)
    chosen = [
        np.flatnonzero(strata == name)[top_k(lengths[strata == name], quota)]
        for name, quota in zip(names, apportion(sizes, k), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def stratum_of(row: Row) -> str:
    """A row's stratum: its category or origin where the dataset has one, else whether it has an input."""
    return row.stratum or ("with input" if row.input else "without input")


def apportion(sizes: Ids, k: int) -> list[int]:
    """Split k in proportion to sizes by largest remainders (ties to the earlier stratum); never above a size."""
    quota, remainder = np.divmod(np.asarray(sizes) * k, np.sum(sizes))
    by_remainder = np.argsort(-remainder, kind="stable")
    quota[by_remainder[: k - quota.sum()]] += 1
    return [int(value) for value in quota]


# --- reading -------------------------------------------------------------------------------------------------------


def grades_of(ratings: Sequence[dict[str, Any]]) -> Grades:
    """The scores as an array of shape (n,), NaN where a row has none."""
    return np.array([np.nan if rating["score"] is None else rating["score"] for rating in ratings], dtype=float)


def read_grades(path: Path, rows: Sequence[Row]) -> Grades:
    """The grades of `rows`, shape (n,), from a `ratings.jsonl` with `id`, the row's number, and `score`.

    Raises InputError, naming file and row, unless every row is rated once and 99% of them have a grade; ratings that
    hold the texts' fingerprints (`text`), as ours do, must be of these very texts.
    """
    ratings: dict[int, dict[str, Any]] = {}
    for number, record in number_records(open_records(path)):
        rating = _checked_rating(f"{path}: row {number}", record, rows)
        if rating["id"] in ratings:
            raise InputError(f"{path}: row {number}: row {rating['id']} is rated twice: keep one rating")
        ratings[rating["id"]] = rating
    if len(ratings) != len(rows):
        raise InputError(f"{path}: {len(ratings):,} ratings, and the dataset has {len(rows):,} rows: rate all of them")
    grades = grades_of([ratings[number] for number in range(len(rows))])
    refuse_too_few(grades, str(path))
    return grades


def _checked_rating(where: str, record: Any, rows: Sequence[Row]) -> dict[str, Any]:
    number, score = record.get("id"), record.get("score")
    if type(number) is not int or not 0 <= number < len(rows):
        raise InputError(f"{where}: 'id' is {number!r}, none of the dataset's row numbers (0 to {len(rows) - 1})")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score)):
        raise InputError(f"{where}: 'score' is {score!r}, neither a number nor null")
    if record.get("text", expected := fingerprint_row(rows[number])) != expected:
        raise InputError(f"{where}: the rating is of another text than row {number} of the dataset: rate this dataset")
    return {"id": number, "score": score}


def refuse_too_few(grades: Grades, what: str) -> None:
    """Raise InputError where less than 99% of the rows have a grade: nothing is chosen then."""
    graded = int((~np.isnan(grades)).sum())
    if not manifests.is_enough(graded, len(grades)):
        mend = "the next run asks failed calls again; unparsed replies are asked again into another folder only"
        raise InputError(f"{what}: {graded} of {len(grades)} rows have a grade: nothing is chosen below 99%; {mend}")


# --- choosing ------------------------------------------------------------------------------------------------------


def draw_threshold(grades: Grades, threshold: float) -> Ids:
    """Positions (ascending) of the rows graded `threshold` or better."""
    chosen = np.flatnonzero(grades >= threshold)
    if not len(chosen):
        raise InputError(f"no row is graded {threshold:g} or better: the best grade is {np.nanmax(grades):g}")
    return chosen


def draw_top_k(grades: Grades, k: int) -> Ids:
    """Positions (ascending) of the k best rows, ties to the lower position; never one without a grade."""
    _check_k(grades, k)
    return top_k(np.where(np.isnan(grades), -np.inf, grades), k)


def draw_tiers(grades: Grades, k: int, seed: int = 0) -> Ids:
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


def _check_k(grades: Grades, k: int) -> None:
    graded = int((~np.isnan(grades)).sum())
    if not 1 <= k <= graded:
        raise InputError(f"k = {k}, and {graded} rows have a grade: k must lie between 1 and that")
