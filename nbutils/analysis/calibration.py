"""Do the estimators say what is there? Judges with planted tastes, and how often the intervals hold the truth."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pandas import DataFrame

from nbutils.analysis.comparison import analyse, decompose
from nbutils.analysis.intervals import Estimate, Numbers
from nbutils.analysis.items import Calls
from nbutils.analysis.length_control import expit, fit_judge
from nbutils.analysis.verdicts import ORDERS
from nbutils.core import tables

REPLICATES = 400
PROMPTS = 200


class Taste(NamedTuple):
    """A simulated judge, in logits: for the arm's quality, per unit of tanh(standardised length difference), for the
    first place; `shared` is the spread of what only the prompt decides, which both orders of a prompt share."""

    quality: float = 0.0
    length: float = 0.0
    position: float = 0.0
    shared: float = 0.0


GRID = tuple(Taste(*planted) for planted in itertools.product((-1.0, 0.0, 1.0), (0.0, 1.5, 3.0), (0.0, 1.0)))
"""The planted tastes of the calibration: quality by length by position."""

DEPENDENT = (Taste(0.0, 1.5, 0.0, 2.0), Taste(0.5, 1.5, 0.5, 2.0))
"""Judges whose two orders of a prompt depend on each other."""


def simulate(taste: Taste, prompts: int, rng: np.random.Generator, ratio: float = 1.5) -> Calls:
    """Judge random pairs in both orders; lengths are log-normal (spread 0.5), the arm's median `ratio` times."""
    arm = np.round(rng.lognormal(5 + math.log(ratio), 0.5, prompts))
    baseline = np.round(rng.lognormal(5, 0.5, prompts))
    squashed = np.tanh((arm - baseline) / (arm - baseline).std())
    own = taste.quality + taste.length * squashed + taste.shared * rng.normal(size=prompts)
    orders = [(rng.random(prompts) < expit(own + place * taste.position)).astype(float) for place in (1, -1)]
    first = np.repeat([1.0, -1.0], prompts)
    return Calls(
        np.concatenate(orders), np.tile(arm, 2), np.tile(baseline, 2), None, np.tile(np.arange(prompts), 2), first
    )


def true_rate(taste: Taste) -> float:
    """The judge's win rate for the arm at equal length, averaged over both positions and what prompts share."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    logits = taste.quality + taste.shared * nodes[:, None] + taste.position * np.array([1.0, -1.0])
    return float(weights @ expit(logits).mean(axis=1) / weights.sum())


def truths(taste: Taste) -> dict[str, float]:
    """What each estimator should find. Coefficients are defined where the model is the judge's own (shared = 0)."""
    planted = {"quality": taste.quality, "length": taste.length, "position": taste.position}
    return {"win_rate": true_rate(taste)} | ({} if taste.shared else planted)


def calibrate(
    tastes: Iterable[Taste] = GRID,
    replicates: int = REPLICATES,
    prompts: int = PROMPTS,
    seed: int = 0,
    clustered: bool = True,
) -> DataFrame:
    """One row per taste and estimator: truth, mean, bias with its standard error, share of intervals with the truth.

    clustered: False takes the two orders of a prompt for independent, which they are not.
    """
    rows = []
    for number, taste in enumerate(tastes):
        rng = np.random.default_rng([seed, number])
        kept = {} if clustered else {"clusters": None}
        fits = [fit_judge(**simulate(taste, prompts, rng)._asdict() | kept) for _ in range(replicates)]
        for name, truth in truths(taste).items():
            head = _head(taste, prompts, name, "jackknife" if clustered else "not clustered")
            rows.append({**head, **score([getattr(fit, name) for fit in fits], truth)})
    return tables.make("length-calibration", rows)


def calibrate_bootstrap(
    tastes: Iterable[Taste], replicates: int = REPLICATES, prompts: int = PROMPTS, draws: int = 300, seed: int = 0
) -> DataFrame:
    """The same for the rate at equal length, its interval by the bootstrap over prompts."""
    rows = []
    for number, taste in enumerate(tastes):
        rng, rates = np.random.default_rng([seed, number]), []
        for place in range(replicates):
            net = decompose(**simulate(taste, prompts, rng)._asdict(), draws=draws, seed=place).at_equal_length
            value, low, high = ((1 + bound) / 2 for bound in net[:3])
            rates.append(Estimate(value, low, high, net.n, net.method))
        rows.append({**_head(taste, prompts, "win_rate", "bootstrap"), **score(rates, true_rate(taste))})
    return tables.make("length-calibration", rows)


def _head(taste: Taste, prompts: int, name: str, interval: str) -> dict[str, Any]:
    planted = {f"planted_{key}": value for key, value in taste._asdict().items()}
    return {**planted, "prompts": prompts, "estimator": name, "interval": interval}


def score(found: list[Estimate], truth: float) -> dict[str, Any]:
    """Bias and coverage of estimates of one truth."""
    values, widths = np.array([each.value for each in found]), [each.high - each.low for each in found]
    numbers = {
        "truth": truth,
        "mean": values.mean(),
        "bias": values.mean() - truth,
        "bias_error": values.std(ddof=1) / math.sqrt(len(found)),
        "width": np.mean(widths),
    }
    hits = sum(each.low <= truth <= each.high for each in found)
    rounded = {name: round(float(number), 5) for name, number in numbers.items()}
    return {"replicates": len(found), **rounded, "coverage": hits / len(found)}


CONTROLS = {
    "coin": "a coin",
    "longer": "always the longer answer",
    "first": "always the first answer",
    "quality": "quality alone (1 logit)",
    "little quality": "quality alone (0.5 logits)",
    "mixed": "quality (1 logit) and length (1.5 logits)",
    "ratio": "the logarithm of the lengths' ratio",
    "threshold": "answers over 20% longer",
    "one-sided threshold": "the arm, where its answer is over 20% longer",
    "saturating": "length, up to 1.6 times",
    "one-sided saturating": "length, the more from 0.9 to 1.35 times",
    "ideal": "answers near an ideal length",
}
"""Simulated judges. All after "mixed" toss a coin at equal length, with a taste that no model here holds."""


def judge_simulated(control: str, prompts: int, rng: np.random.Generator) -> DataFrame:
    """Judgments of one simulated comparison by a control judge of CONTROLS, as a frame of `verdicts.to_frame`."""
    tastes = {"quality": Taste(1.0), "little quality": Taste(0.5), "mixed": Taste(1.0, 1.5)}
    calls = simulate(tastes.get(control, Taste()), prompts, rng)
    preference = calls.preference
    if control == "longer":
        preference = 0.5 + 0.5 * np.sign(calls.len_model - calls.len_baseline)
    elif control == "first":
        preference = np.repeat([1.0, 0.0], prompts)
    elif control not in tastes and control != "coin":
        logits = _taste_in_shape(control, np.log(calls.len_model), np.log(calls.len_baseline))
        preference = (rng.random(2 * prompts) < expit(logits)).astype(float)
    return to_judgments(calls._replace(preference=preference), control)


def to_judgments(calls: Calls, judge: str) -> DataFrame:
    """Simulated calls as judgments, a frame of `verdicts.to_frame`."""
    head = {"judge": judge, "arm": "arm", "baseline": "baseline", "test_set": "simulated", "id": calls.clusters}
    orders = np.repeat(ORDERS, len(calls.preference) // 2)
    numbers = {"preference": calls.preference, "len_arm": calls.len_model, "len_baseline": calls.len_baseline}
    return DataFrame({**head, "order": orders, **numbers, "difficulty": math.nan, "measure": None})


def _taste_in_shape(control: str, mine: Numbers, theirs: Numbers) -> Numbers:
    """Logits for the arm of a judge whose taste for length has another shape; mine, theirs: logarithms of lengths."""
    ratio, step, ideal = mine - theirs, math.log(1.2), 5.4
    return {
        "ratio": 1.5 * ratio,
        "threshold": 1.5 * np.sign(ratio) * (np.abs(ratio) > step),
        "one-sided threshold": 1.5 * (ratio > step),
        "saturating": 4 * np.clip(ratio, -0.5, 0.5),
        "one-sided saturating": np.clip(20 / 3 * ratio, -0.7, 2.0),
        "ideal": 2 * (np.abs(theirs - ideal) - np.abs(mine - ideal)),
    }[control]


def count_findings(replicates: int = REPLICATES, sizes: Iterable[int] = (200, 1030), seed: int = 0) -> DataFrame:
    """How often the analysis reaches each of its findings about each control judge, as shares of the replicates."""
    rows = []
    for prompts, (number, (control, what)) in itertools.product(sizes, enumerate(CONTROLS.items())):
        rng = np.random.default_rng([seed, number])
        tables_of = (analyse(judge_simulated(control, prompts, rng), draws=1) for _ in range(replicates))
        found = Counter(str(table["finding"].iloc[0]) for table in tables_of)
        head = {"judge": control, "what": what, "prompts": prompts, "replicates": replicates}
        rows += [{**head, "finding": name, "share": times / replicates} for name, times in found.most_common()]
    return tables.make("length-findings", rows)
