"""Judgments as items: one per prompt (or per order), grouped by comparison, and what they say of length."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbutils.analysis import verdicts
from nbutils.analysis.intervals import Estimate, mean_with_interval
from nbutils.analysis.length_control import JudgeFit, Numbers

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


ORDER_FIRST, ORDER_SECOND = verdicts.ORDERS


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


MATCHED = 0.10
"""Answers whose lengths differ by less than this share of the longer one count as equally long."""

OVERLAP = 0.05
"""Where the arm is the longer (or the shorter) side in all but this share of prompts, length and arm are one and the
same thing in the data, and a rate at equal length would be extrapolated."""

LENGTH_ONLY = 0.99
"""A judge that prefers the longer (or the shorter) answer in this share of the prompts decides by length alone."""

DECIDED = 20
"""Prompts with answers of different length that it takes to say so."""


def is_separable(items: Items) -> bool:
    """Whether each side has the longer answer often enough for a rate at equal length to be more than a guess."""
    difference = np.sign(items.len_arm - items.len_baseline)
    return bool(min((difference >= 0).mean(), (difference <= 0).mean()) >= OVERLAP)


def are_alike(items: Items) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which prompts have answers of (nearly) the same length, shape (n,)."""
    alike: np.ndarray[Any, np.dtype[np.bool_]] = np.abs(np.expm1(-np.abs(items.log_ratio))) < MATCHED
    return alike


def is_doubtful(items: Items, fitted: JudgeFit) -> bool:
    """Whether a model sees a preference at equal length that the pairs of equal length, if not few, do not lean to."""
    found, seen = fitted.win_rate, items.preference[are_alike(items)]
    if len(seen) < DECIDED or math.isnan(found.value) or found.low <= 0.5 <= found.high:
        return False
    return bool((found.value > 0.5) != (seen.mean() > 0.5))


def longer_preferred(items: Items) -> Estimate:
    """Mean preference for the longer answer where the lengths differ; 0.5 is indifference, NaN says none differ."""
    sign = np.sign(items.len_arm - items.len_baseline)
    return mean_with_interval(np.where(sign > 0, items.preference, 1 - items.preference)[sign != 0])


def decided_by(items: Items) -> str:
    """ "longer" or "shorter" where a judge prefers that answer (nearly) always, else "".

    Only where each side is the longer one often enough: else it may be the arm that is preferred, and not the length.
    """
    sign = np.sign(items.len_arm - items.len_baseline)
    differs, longer = int((sign != 0).sum()), longer_preferred(items).value
    if differs < DECIDED or min((sign > 0).mean(), (sign < 0).mean()) < OVERLAP:
        return ""
    return "longer" if longer >= LENGTH_ONLY else "shorter" if longer <= 1 - LENGTH_ONLY else ""


def describe(raw: Estimate, controlled: Estimate, decided: str = "") -> str:
    """In words: does the preference outlive the control for length? A judge of length alone is named as such.

    raw, controlled: win rates as judged and at equal length; decided: what `decided_by` says.
    """
    if decided:
        return f"this judge decided by length alone: it prefers the {decided} answer"
    if raw.low <= 0.5 <= raw.high:
        return "no preference that could be told from chance"
    side = "arm" if raw.value > 0.5 else "baseline"
    if math.isnan(controlled.value):
        return f"the {side} is preferred, but one side is nearly always longer: length cannot be told apart"
    if controlled.low <= 0.5 <= controlled.high:
        return f"the {side} is preferred, but not separably at equal length"
    if (controlled.value > 0.5) != (raw.value > 0.5):
        return f"the {side} is preferred, and at equal length the other side would be"
    return f"the {side} is preferred, also at equal length"
