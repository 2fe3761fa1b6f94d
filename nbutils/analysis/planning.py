"""How many prompts it takes to see an effect, as judged and at equal length, or what so many prompts can see.

A mean over prompts with the spread that published judgments have, or one's own. Several comparisons at once are
corrected by Holm's method, and planned for its first step, which divides the level by their number.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pandas import DataFrame

from nbutils.analysis.intervals import NORMAL

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
