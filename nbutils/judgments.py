"""Judgment files of anybody's making: reading, checking, and one item per prompt."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import data, judge, judge_logs
from nbutils.errors import InputError
from nbutils.files import number_records, open_records
from nbutils.length_control import Numbers

LARGEST = 1e15
"""No length and no difficulty is larger; beyond it sums of squares would lose their meaning."""

Rows = Sequence[dict[str, Any]]
Key = tuple[str, str, str]


class Items(NamedTuple):
    """Judged prompts of one comparison: mean preference over the orders, and both lengths; each of shape (n,).

    position: half the preference that the arm gains by standing first, NaN where a prompt has not both orders.
    """

    preference: Numbers
    len_arm: Numbers
    len_baseline: Numbers
    position: Numbers

    @property
    def log_ratio(self) -> Numbers:
        """log(len_arm / len_baseline), an empty answer counting as one character."""
        return np.log(np.maximum(self.len_arm, 1)) - np.log(np.maximum(self.len_baseline, 1))


class Calls(NamedTuple):
    """Judged orders of one comparison, as arguments of `length_controlled_win_rate`, each of shape (n,).

    clusters: a number for each prompt; first: 1 where the arm's answer stood first, else -1; first and difficulty
    are None where a row lacks them.
    """

    preference: Numbers
    len_model: Numbers
    len_baseline: Numbers
    difficulty: Numbers | None
    clusters: Any
    first: Numbers | None


# --- reading -------------------------------------------------------------------------------------------------------


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Read judgment rows of anybody's making, or a log that `judge_logs` knows.

    Raises InputError naming the row and the missing or faulty key.
    """
    rows = [row for number, record in number_records(open_records(path)) for row in _judgments(path, number, record)]
    if not rows:
        raise InputError(f"{path}: no judgments")
    return rows


def _judgments(path: Path, number: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        expanded = list(judge_logs.expand(record, number))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return [_checked_judgment(path, number, row) for row in expanded]


_OPTIONAL = {"test_set": "", "arm": "arm", "baseline": "baseline", "judge": "judge", "order": "arm_first"}


def _checked_judgment(path: Path, number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = _OPTIONAL | {
        key: value for key, value in record.items() if key not in _OPTIONAL or value is not None
    }
    for key in ("id", "preference", "len_arm", "len_baseline"):
        if key not in row:
            raise InputError(f"{path}: row {number}: no '{key}': id, preference, len_arm and len_baseline are needed")
    for key in ("id", *_OPTIONAL):
        if not isinstance(row[key], str | int | float):
            raise InputError(f"{path}: row {number}: '{key}' is {_shown(row[key])}, neither text nor a number")
    is_judged = row.get("status") not in ("unparsed", "failed")
    row["preference"] = _checked_preference(row["preference"], f"{path}: row {number}: ") if is_judged else None
    for key in ("len_arm", "len_baseline"):
        if not _is_number(row[key]) or row[key] < 0:
            raise InputError(f"{path}: row {number}: '{key}' is {_shown(row[key])}, not a length")
    difficulty = row.get("difficulty")
    if difficulty is not None and not _is_number(difficulty):
        raise InputError(f"{path}: row {number}: 'difficulty' is {_shown(difficulty)}, not a number")
    return row


def _checked_preference(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None  # tables write what is missing as NaN
    if not _is_number(value):
        raise InputError(f"{place}'preference' is {_shown(value)}, not a number")
    if not 0 <= value <= 1:
        raise InputError(f"{place}preference {value} is outside 0..1")
    return float(value)


def _shown(value: Any) -> str:
    """A value for an error's one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def comparisons(rows: Iterable[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Judgment rows by (judge, arm, baseline)."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["judge"], row["arm"], row["baseline"]), []).append(row)
    return groups


def find_faults(rows: Rows) -> list[str]:
    """What makes the rows of one comparison doubtful, in words: repeated rows, mixed measures, lengths that differ."""
    orders = Counter((row["test_set"], row["id"], row["order"]) for row in rows)
    sizes: dict[tuple[Any, Any], set[tuple[float, float]]] = {}
    for row in rows:
        sizes.setdefault(_prompt(row), set()).add((row["len_arm"], row["len_baseline"]))
    measures = sorted({str(row["measure"]) for row in rows if row.get("measure") is not None})
    repeated = sum(count - 1 for count in orders.values())
    differing = sum(len(found) > 1 for found in sizes.values())
    faults = {
        f"{repeated} rows repeat a prompt and order: each order counts by its mean": repeated > 0,
        f"lengths in mixed measures ({', '.join(measures)}) cannot be compared": len(measures) > 1,
        f"{differing} prompts have rows with different lengths: the first row's count": differing > 0,
    }
    return [text for text, holds in faults.items() if holds]


# --- items ---------------------------------------------------------------------------------------------------------


def to_items(rows: Iterable[dict[str, Any]]) -> Items:
    """One item per prompt: the mean preference over its judged orders, and what the order alone did to it.

    An order that was judged several times (or a file that does not name its orders) counts by its mean.
    """
    found = [_item(orders, *sizes) for sizes, orders in _by_prompt(rows).values()]
    return Items(*np.array(found, dtype=float).reshape(len(found), 4).T)


def to_calls(rows: Iterable[dict[str, Any]]) -> Calls:
    """One item per prompt and order, for a model that knows the position; repeated rows count by their mean."""
    rows = list(rows)
    by_prompt = _by_prompt(rows)
    hard = {_prompt(row): row["difficulty"] for row in rows if row.get("difficulty") is not None}
    places = {ORDER_FIRST: 1.0, ORDER_SECOND: -1.0}
    found = [
        (mean, *sizes, hard.get(key, math.nan), number, places.get(order, 0.0))
        for number, (key, (sizes, orders)) in enumerate(by_prompt.items())
        for order, mean in _means(orders).items()
    ]
    preference, arm, baseline, difficulty, prompt, first = np.array(found, dtype=float).reshape(len(found), 6).T
    known = None if np.isnan(difficulty).any() else difficulty
    return Calls(preference, arm, baseline, known, prompt.astype(int), first if np.all(first) else None)


ORDER_FIRST, ORDER_SECOND = judge.ORDERS


def _prompt(row: dict[str, Any]) -> tuple[Any, Any]:
    return row["test_set"], row["id"]


def _by_prompt(rows: Iterable[dict[str, Any]]) -> dict[Any, tuple[tuple[float, float], dict[Any, list[float]]]]:
    """Both lengths, and the preferences by order, of every prompt that was judged."""
    sizes: dict[tuple[Any, Any], tuple[float, float]] = {}
    judged: dict[tuple[Any, Any], dict[Any, list[float]]] = {}
    for row in rows:
        if row["preference"] is not None:
            sizes.setdefault(_prompt(row), (row["len_arm"], row["len_baseline"]))
            judged.setdefault(_prompt(row), {}).setdefault(row["order"], []).append(row["preference"])
    return {key: (sizes[key], orders) for key, orders in judged.items()}


def _means(orders: dict[Any, list[float]]) -> dict[Any, float]:
    return {order: sum(given) / len(given) for order, given in orders.items()}


def _item(orders: dict[Any, list[float]], len_arm: float, len_baseline: float) -> tuple[float, float, float, float]:
    means = _means(orders)
    both = {ORDER_FIRST, ORDER_SECOND} <= set(means)
    position = (means[ORDER_FIRST] - means[ORDER_SECOND]) / 2 if both else math.nan
    return sum(means.values()) / len(means), len_arm, len_baseline, position


# --- published judgments -------------------------------------------------------------------------------------------


def cherry_judgments() -> list[dict[str, Any]]:
    """The published Cherry LLM reviews as judgment rows: cherry-5% against alpaca-7b, two judges, five test sets."""
    records = data.load_table("cherry-reviews").to_dict("records")
    return [row for record in records for row in judge_logs.reviews_of(record, 0, "cherry-5%", "alpaca-7b")]
