"""Estimates with 95% intervals: of a mean, of a share, of groups that are resampled."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Estimate(NamedTuple):
    """A value with its 95% interval, the number of items behind it and the method."""

    value: float
    low: float
    high: float
    n: int
    method: str


# --- means ---------------------------------------------------------------------------------------------------------


def mean_with_interval(values: Numbers) -> Estimate:
    """Mean of preferences in 0..1, shape (n,), with a 95% interval over prompts.

    Wilson's interval for the number of yes-or-no items that would scatter as much as these do (ties scatter less);
    their variance is taken with half a win and half a loss added, so that few equal values are no certainty.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no item")
    if agree(values):
        return unanimous_interval(float(values[0]), n, n)
    value = float(values.mean())
    if n == 1:
        return Estimate(value, 0.0, 1.0, 1, "one item")
    low, high = wilson_interval(value, _effective_number(values), student_margin(n - 1))
    return Estimate(value, max(0.0, low), min(1.0, high), n, "mean over prompts, Wilson")


def _effective_number(values: Numbers) -> float:
    n, centre = len(values), (float(values.sum()) + 0.5) / (len(values) + 1)
    variance = (float(((values - centre) ** 2).sum()) + 0.5 * (centre**2 + (1 - centre) ** 2)) / n
    return n / min(1.0, variance / (centre * (1 - centre)))


def wilson_interval(value: float, n: float, quantile: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a share (0..1) of n items, for a quantile of the distribution (the normal one: 95%)."""
    shrink = 1 + quantile**2 / n
    centre = (value + quantile**2 / (2 * n)) / shrink
    margin = quantile / shrink * math.sqrt(value * (1 - value) / n + quantile**2 / (4 * n**2))
    return centre - margin, centre + margin


def agree(values: Numbers) -> bool:
    """Whether all preferences are the same certain one, 0 or 1."""
    return bool(np.all(values == values[0]) and values[0] in (0.0, 1.0))


def unanimous_interval(value: float, n: int, independent: int) -> Estimate:
    """All of n items agree: the interval is Clopper and Pearson's, for as many items as are independent."""
    bound = 0.025 ** (1 / independent)
    low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    return Estimate(value, low, high, n, "all items agree")


def student_margin(freedom: int) -> float:
    """Student's 97.5% quantile for so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def tolerated(replicates: int, miss: float = 0.001) -> tuple[float, float]:
    """Bounds that the measured coverage of a true 95% interval leaves with probability `miss`."""
    from scipy.stats import binom

    low, high = (float(binom.ppf(share, replicates, 0.95)) for share in (miss / 2, 1 - miss / 2))
    return low / replicates, high / replicates


DRAWS = 2000


def bootstrap_mean(groups: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of all values with a 95% interval that resamples groups (clusters), such as the turns of one question."""
    kept = [group for group in groups if len(group)]
    if not kept:
        return Estimate(math.nan, math.nan, math.nan, 0, "nothing to average")
    sums, sizes = np.array([sum(group) for group in kept]), np.array([len(group) for group in kept])
    drawn = np.random.default_rng(seed).integers(len(kept), size=(DRAWS, len(kept)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    method = f"bootstrap over {len(kept)} questions, {DRAWS} draws"
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), int(sizes.sum()), method)
