"""Estimates with 95% intervals: of a mean, of a share, of clusters that are resampled."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]

NORMAL = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


class Estimate(NamedTuple):
    """A value with its 95% interval, the number of items behind it and the method."""

    value: float
    low: float
    high: float
    n: int
    method: str


def mean_with_interval(values: Numbers, clusters: Any = None) -> Estimate:
    """Mean of preferences in 0..1, shape (n,), with a 95% interval over prompts.

    clusters: the question of each prompt, shape (n,). Where several prompts share one, the number of prompts is divided
    by the design effect, that of the questions' sums on the variance (1 at least), and Student's quantile is by
    questions.

    Wilson's interval for the number of yes-or-no items that would scatter as much as these do (ties scatter less);
    their variance is taken with half a win and half a loss added, so that few equal values are no certainty.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no item")
    places = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    independent = int(places.max()) + 1
    if agree(values):
        return unanimous_interval(float(values[0]), n, independent)
    value = float(values.mean())
    if independent == 1:
        return Estimate(value, 0.0, 1.0, n, "one item")
    centre = (float(values.sum()) + 0.5) / (n + 1)
    variance = (float(((values - centre) ** 2).sum()) + 0.5 * (centre**2 + (1 - centre) ** 2)) / n
    effective = n / min(1.0, variance / (centre * (1 - centre)))
    apart = values - value
    if independent < n and apart.any():
        effective /= max(1.0, float((np.bincount(places, apart) ** 2).sum() / (apart**2).sum()))
    low, high = wilson_interval(value, effective, student_margin(independent - 1))
    return Estimate(value, max(0.0, low), min(1.0, high), n, "mean over prompts, Wilson")


def wilson_interval(share: float, n: float, quantile: float = NORMAL) -> tuple[float, float]:
    """Wilson's interval of a share (0..1) of n items, for a quantile of the distribution (the normal one: 95%).

    By hand because statsmodels' takes the normal quantile only, and few prompts need Student's; it agrees to 1e-12.
    """
    shrink = 1 + quantile**2 / n
    centre = (share + quantile**2 / (2 * n)) / shrink
    margin = quantile / shrink * math.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
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


def draw_counts(clusters: int, draws: int, seed: int = 0, shares: Numbers | None = None) -> Any:
    """How often each cluster is drawn in each bootstrap sample of as many clusters, shape (draws, clusters).

    shares: where items are of a few kinds, each kind's share of the `clusters` items: shape (draws, kinds). The counts
    are multinomial, which has the same distribution as resampling the items themselves.
    """
    chances = np.full(clusters, 1 / clusters) if shares is None else shares
    return np.random.default_rng(seed).multinomial(clusters, chances, size=draws)


def bootstrap_interval(value: float, drawn: Numbers, n: int, what: str) -> Estimate:
    """A value with the percentiles of its bootstrap samples, shape (draws,); what: what was drawn, in words."""
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Estimate(float(value), low, high, n, f"bootstrap over {what}, {len(drawn)} draws")


def bootstrap_mean(groups: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of all values with a 95% interval that resamples groups (clusters), such as the turns of one question."""
    kept = [group for group in groups if len(group)]
    if not kept:
        return Estimate(math.nan, math.nan, math.nan, 0, "nothing to average")
    sums, sizes = np.array([sum(group) for group in kept]), np.array([len(group) for group in kept])
    counts = draw_counts(len(kept), 2000, seed)
    means = (counts @ sums) / (counts @ sizes)
    return bootstrap_interval(sums.sum() / sizes.sum(), means, int(sizes.sum()), f"{len(kept)} questions")
