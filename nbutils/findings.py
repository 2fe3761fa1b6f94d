"""What a length analysis concludes, in words, and when it must not conclude anything."""

import math
from typing import Any

import numpy as np

from nbutils.judgments import Items
from nbutils.length_control import JudgeFit, mean_with_interval
from nbutils.stats import Estimate

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
