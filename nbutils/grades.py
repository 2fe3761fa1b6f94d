"""Grades of a dataset's rows (nbutils/rate.py): reading them, and the three ways of choosing rows by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import stats, topk
from nbutils.artifacts import sha256_json
from nbutils.errors import InputError
from nbutils.files import number_records, open_records
from nbutils.rows import Row

Grades = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int64]]


# --- reading -------------------------------------------------------------------------------------------------------


def fingerprint(row: Row) -> str:
    """Sixteen digits that say which text a grade is of, whatever its file is called."""
    return sha256_json([row.instruction, row.input, row.response])[:16]


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
    if record.get("text", expected := fingerprint(rows[number])) != expected:
        raise InputError(f"{where}: the rating is of another text than row {number} of the dataset: rate this dataset")
    return {"id": number, "score": score}


def refuse_too_few(grades: Grades, what: str) -> None:
    """Raise InputError where less than 99% of the rows have a grade: nothing is chosen then."""
    graded = int((~np.isnan(grades)).sum())
    if not stats.is_enough(graded, len(grades)):
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
    return topk.top_k(np.where(np.isnan(grades), -np.inf, grades), k)


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
