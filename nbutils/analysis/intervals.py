"""Estimates with 95% intervals: of a mean, a share, a net win, of clusters; and how many prompts an effect takes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pandas import DataFrame

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
    effective /= design_effect(values - value, places)
    low, high = wilson_interval(value, effective, student_margin(independent - 1))
    return Estimate(value, max(0.0, low), min(1.0, high), n, "mean over prompts, Wilson")


def design_effect(apart: Numbers, places: Any) -> float:
    """How many times the variance of a mean grows because items share questions, 1 at least.

    apart: each item's distance from the mean; places: the number of its question; both of shape (n,).
    """
    if not apart.any():
        return 1.0
    return max(1.0, float((np.bincount(places, apart) ** 2).sum() / (apart**2).sum()))


def net_win_interval(signs: Numbers, clusters: Any = None) -> Estimate:
    """Share of wins minus share of losses of prompts (signs: 1, 0 or -1, shape (n,)), with a 95% interval.

    Bonett and Price's (J. Educ. Behav. Stat. 37, 2012): one win and one loss are added before the variance is taken, so
    that three wins of three are no certainty; it holds the truth at 3 prompts as it does at 1,030 (docs/length.md).
    clusters: the question of each prompt; where several share one, the number of prompts is divided by the design
    effect (where all agree, there are as many prompts as questions), and Student's quantile is by questions.
    """
    n = len(signs)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no scored prompt")
    places = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    independent, value = int(places.max()) + 1, float(signs.mean())
    if independent == 1:
        return Estimate(value, -1.0, 1.0, n, "one question")
    apart = signs - value
    effective = n / design_effect(apart, places) if apart.any() else independent
    quantile = NORMAL if independent == n else student_margin(independent - 1)
    win, lose = ((float((signs == side).mean()) * effective + 1) / (effective + 2) for side in (1, -1))
    margin = quantile * math.sqrt((win + lose - (win - lose) ** 2) / (effective + 2))
    low, high = max(-1.0, win - lose - margin), min(1.0, win - lose + margin)
    return Estimate(value, low, high, n, f"{independent} {'prompts' if independent == n else 'questions'}")


def rescale(estimate: Estimate, factor: float, offset: float) -> Estimate:
    """An estimate in another unit: factor * value + offset."""
    value, low, high = (factor * number + offset for number in estimate[:3])
    return Estimate(value, low, high, estimate.n, estimate.method)


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


def paired_interval(differences: Numbers) -> Estimate:
    """Mean of the differences of paired values, shape (n,), with Student's interval; no bounds where all are alike."""
    n, value = len(differences), float(differences.mean()) if len(differences) else math.nan
    if n < 2 or not np.ptp(differences):
        return Estimate(value, math.nan, math.nan, n, "no interval")
    margin = student_margin(n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, value - margin, value + margin, n, "mean of paired differences, Student")


def student_margin(freedom: int) -> float:
    """Student's 97.5% quantile for so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def tolerated(replicates: int, miss: float = 0.001) -> tuple[float, float]:
    """Bounds that the measured coverage of a true 95% interval leaves with probability `miss`."""
    from scipy.stats import binom

    low, high = (float(binom.ppf(share, replicates, 0.95)) for share in (miss / 2, 1 - miss / 2))
    return low / replicates, high / replicates


def draw_counts(clusters: int, draws: int, seed: int | np.random.Generator = 0) -> Any:
    """How often each cluster is drawn in each bootstrap sample of as many clusters, shape (draws, clusters)."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)


def bootstrap_interval(value: float, drawn: Numbers, n: int, what: str) -> Estimate:
    """A value with the percentiles of its bootstrap samples, shape (draws,); what: what was drawn, in words."""
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Estimate(float(value), low, high, n, f"bootstrap over {what}, {len(drawn)} draws")


# --- how many prompts an effect takes ------------------------------------------------------------------------------
# A mean over prompts with the spread of published judgments, or one's own. Several comparisons at once are corrected by
# Holm's method, and planned for its first step, which divides the level by their number.

POWER = 0.8
EFFECTS = (2.0, 3.0, 5.0, 7.5, 10.0, 15.0)
"""Points of win rate above 50; of a net win they are twice as many."""

PROMPTS = (80, 200, 300, 500, 805, 1030)
"""MT-Bench, a quick look, LIMA's test set, a middle, AlpacaEval, the paper's five test sets."""


class Spread(NamedTuple):
    """Standard deviation of what one prompt adds to a win rate (0..1), by estimate.

    judged: as judged; equal: at equal length, by the ratio of lengths; matched: in pairs of equal length, which are
    the `share` of all prompts. A verdict on equal length that is settled takes the last of them.
    """

    judged: float
    equal: float
    matched: float
    share: float


PUBLISHED = Spread(0.412, 0.441, 0.350, 0.179)
"""GPT-4's reviews of Cherry LLM's 5% against Alpaca-7B: 1,019 prompts of the paper's test sets, in both orders."""


def measure_spread(table: DataFrame) -> Spread:
    """The spread of one's own judgments, from their length analysis: the median over its comparisons.

    table: as `comparison.analyse` gives it. NaN where no comparison has an estimate.
    """
    matched = table["length_matched_prompts"].astype(float)
    counts = {"win_rate": table["prompts"], "at_equal_length": table["prompts"], "length_matched": matched}
    widths = (table[f"{name}_high"] - table[f"{name}_low"] for name in counts)
    found = [(width / (2 * NORMAL) * n**0.5).median() for width, n in zip(widths, counts.values(), strict=True)]
    share = (matched / table["prompts"]).median()
    return Spread(*(float(number) for number in (*found, share)))


def plan_prompts(
    effects: Sequence[float] = EFFECTS, comparisons: int = 1, spread: Spread = PUBLISHED, power: float = POWER
) -> DataFrame:
    """Prompts that show an effect with this power, one row per effect: a two-sided test at 5%.

    effects: in points of win rate above or below 50. Columns: points, judged, equal, and matched, the prompts of which
    enough are pairs of equal length.
    """
    rows = []
    for points in effects:
        judged, equal, matched = (_prompts_for(points / 100 / each, comparisons, power) for each in spread[:3])
        rows.append({"points": points, "judged": judged, "equal": equal, "matched": round(matched / spread.share)})
    return DataFrame(rows)


def smallest_effects(
    prompts: Sequence[int] = PROMPTS, comparisons: int = 1, spread: Spread = PUBLISHED, power: float = POWER
) -> DataFrame:
    """The smallest effects, in points of win rate, that so many prompts show with this power; columns as above."""
    rows = []
    for n in prompts:
        sizes = {"judged": n, "equal": n, "matched": max(3.0, n * spread.share)}
        seen = {name: _seen_by(size, comparisons, power) for name, size in sizes.items()}
        rows.append({"prompts": n} | {name: round(100 * seen[name] * getattr(spread, name), 1) for name in seen})
    return DataFrame(rows)


def _seen_by(n: float, comparisons: int, power: float) -> float:
    """The smallest effect that n prompts see, in standard deviations, by Student's quantiles."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - 0.025 / comparisons) + stdtrit(n - 1, power)) / math.sqrt(n)


def _prompts_for(effect: float, comparisons: int, power: float) -> int:
    n = max(3, math.floor((_seen_by(1e9, comparisons, power) * math.sqrt(1e9) / effect) ** 2))
    while _seen_by(n, comparisons, power) > effect:
        n += 1
    return n
