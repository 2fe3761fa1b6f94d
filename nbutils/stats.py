"""Small statistics on verdicts: counts that add up, net win, and bootstrap intervals that resample prompts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

VERDICTS = ("win", "tie", "lose")
MINIMUM_JUDGED = 0.99
"""Below this share of judged prompts no headline is given."""


class Estimate(NamedTuple):
    """A value with its 95% interval, the number of items behind it and the method."""

    value: float
    low: float
    high: float
    n: int
    method: str


def count_verdicts(verdicts: Sequence[str]) -> dict[str, int]:
    """How many are win, tie, lose and unscored; the four add up to all."""
    return {name: sum(verdict == name for verdict in verdicts) for name in (*VERDICTS, "unscored")}


def is_enough(judged: int, asked: int) -> bool:
    """Whether so many of what was asked were judged that a headline may rest on them."""
    return judged >= MINIMUM_JUDGED * asked


def net_win(verdicts: Sequence[str], draws: int = 10_000, seed: int = 0) -> Estimate:
    """Share of wins minus share of losses among scored prompts, with a bootstrap interval over prompts.

    A multinomial draw of the three counts has the same distribution as resampling the prompts themselves.
    """
    counts = np.array([sum(verdict == name for verdict in verdicts) for name in VERDICTS])
    n = int(counts.sum())
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "no scored prompt")
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 2]) / n, [0.025, 0.975])
    value = float(counts[0] - counts[2]) / n
    return Estimate(value, float(low), float(high), n, f"bootstrap over {n} prompts, {draws} draws")


def describe_verdicts(verdicts: Sequence[str]) -> dict[str, Any]:
    """One row of a result table: counts, net win with interval, and whether enough was judged for a headline."""
    counts, estimate = count_verdicts(verdicts), net_win(verdicts)
    judged = estimate.n / max(1, len(verdicts))
    return {
        "prompts": len(verdicts),
        **counts,
        "net_win": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "headline": judged >= MINIMUM_JUDGED,
    }
