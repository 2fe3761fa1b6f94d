"""What the pooled model says: each arm's rate against a reference, and net wins between any two arms of a file."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pandas import DataFrame

from nbutils.analysis import intervals, pooled
from nbutils.analysis.comparison import OVERLAP
from nbutils.analysis.intervals import Estimate, Numbers
from nbutils.analysis.length_control import expit, logit_bounds
from nbutils.analysis.pooled import Field, Penalties, Pooled
from nbutils.core import tables

EVERY = "all judges"
"""What stands for a judge where there are several: the strengths that they share."""

SCALES = ("log_ratio", "difference")


class Fits(NamedTuple):
    """The pooled model without length, and with it by both scales (None where no lengths are known).

    scale: the one that predicts better what was left out.
    """

    raw: Pooled
    log_ratio: Pooled | None
    difference: Pooled | None
    scale: str

    @property
    def equal(self) -> Pooled | None:
        """The model at equal length by the scale that predicts better."""
        return self.difference if self.scale == "difference" else self.log_ratio


def is_pooled(field: Field) -> bool:
    """Whether comparisons connect three models or more, over three questions or more, which is what pooling takes."""
    is_enough = len(np.unique(field.cluster_of[field.prompt])) > 2
    return is_enough and bool((np.bincount(pooled.components_of(field)) > 2).any())


def fit_all(field: Field, penalties: Penalties | None = None, scale: str = "") -> Fits:
    """Fit judgments with and without length; penalties and the scale by cross-validation where none are given.

    The penalties are chosen with the ratio of lengths in the model, and serve all fits.
    """
    known = field.part(~np.isnan(field.sizes).any(axis=1))
    if not len(known.preference):
        return Fits(pooled.fit(field, "none", penalties), None, None, "none")
    chosen = penalties or pooled.choose_penalties(known)
    better = scale or min(SCALES, key=lambda each: pooled.validate(pooled.sample(known), each, chosen))
    by_ratio, by_difference = (pooled.fit(known, each, chosen) for each in SCALES)
    return Fits(pooled.fit(field, "none", chosen), by_ratio, by_difference, better)


class Ground(NamedTuple):
    """What all rates of a fit and a judge (None: the strengths that all share) have in common.

    component: each model's, by this judge's rows; seen: the prompts that are averaged over; place: the question of each
    of them, in the order of `Pooled.left_out`; slack: by how many logits each model that lost (0) or won (1) everything
    may be nearer to the others than the fit has it, shape (2, models).
    """

    fit: Pooled
    judge: int | None
    component: Any
    seen: Any
    place: Any
    slack: Numbers


def survey(fit: Pooled, judge: int | None = None) -> Ground:
    """Look at a fit's rows once, for `win_rate`."""
    field = fit.field
    use = np.ones(len(field.judge), bool) if judge is None else field.judge == judge
    mine, chances = field.part(use), fit.chances[use]
    seen = np.unique(field.prompt)
    place = np.unique(field.cluster_of[seen], return_inverse=True)[1]
    slack = np.array([[_slack(mine, chances, model, won) for model in range(len(field.models))] for won in (0.0, 1.0)])
    return Ground(fit, judge, pooled.components_of(mine), seen, place, slack)


def win_rate(ground: Ground, one: int, other: int) -> Estimate:
    """The rate (0..1) at which one model is preferred to another, over all prompts and both places.

    Where no effect of a prompt is known of either, those of the model that meets most are taken for as large as theirs,
    to either side. The interval is the jackknife's over questions, on the logit scale, with Student's quantile. NaN for
    models of which no chain of comparisons leads to the other.
    """
    fit, field, width = ground.fit, ground.fit.field, len(ground.fit.coefficients)
    if ground.component[one] != ground.component[other]:
        return Estimate(math.nan, math.nan, math.nan, 0, "no chain of comparisons")
    direction, turned = np.zeros(width), np.zeros(width)
    judges, models = len(field.judges), len(field.models)
    for start in (0, *([models * (1 + ground.judge)] if ground.judge is not None and judges > 1 else [])):
        direction[start + one] += 1
        direction[start + other] -= 1
    chosen = list(range(judges)) if ground.judge is None else [ground.judge]
    turned[[width - judges + number for number in chosen]] = 1 / len(chosen)
    effects, moves, variants = fit.effects[ground.seen], fit.moves[ground.seen], _signs(field, one, other)
    rates, gradient = np.zeros(len(effects)), np.zeros(width)
    for signs, turn in itertools.product(variants, (1.0, -1.0)):
        slope = direction + turn * turned
        chance = expit(slope @ fit.coefficients + effects @ signs)
        weight = chance * (1 - chance)
        rates += chance / (2 * len(variants))
        moved = weight.mean() * slope + weight @ (signs @ moves) / len(effects)
        gradient += moved / (2 * len(variants))
    return _interval(ground, rates, gradient, ground.slack[:, one], ground.slack[::-1, other])


def _interval(ground: Ground, rates: Numbers, gradient: Numbers, *slack: Numbers) -> Estimate:
    value, sizes = float(rates.mean()), np.bincount(ground.place)
    # A question that is left out takes its own prompts out of the mean as well.
    others = np.maximum(len(rates) - sizes, 1)
    gone = (value * sizes - np.bincount(ground.place, rates)) / others
    error = math.sqrt(float(((ground.fit.left_out @ gradient + gone) ** 2).sum()))
    upper, lower = np.max(slack, axis=0)
    low, high = logit_bounds(value, intervals.student_margin(max(1, len(sizes) - 1)) * error, lower, upper)
    return Estimate(value, low, high, len(rates), f"pooled model, {len(sizes)} questions left out one by one")


def _slack(field: Field, chances: Numbers, model: int, won: float) -> float:
    """The slack of `Ground`: up to Clopper and Pearson's bound for as many questions, which leaving one out, where all
    agree, cannot show. 0 for a model that won something and lost something."""
    found = np.concatenate([field.preference[field.mine == model], 1 - field.preference[field.theirs == model]])
    if not len(found) or (found != won).any():
        return 0.0
    rows = (field.mine == model) | (field.theirs == model)
    bound = 0.025 ** (1 / len(np.unique(field.cluster_of[field.prompt[rows]])))
    fitted = np.where(field.mine == model, chances, 1 - chances)[rows].mean()
    rate = max(bound, float(fitted if won else 1 - fitted))
    return math.log(rate / (1 - rate)) - math.log(bound / (1 - bound))


def _signs(field: Field, one: int, other: int) -> list[Numbers]:
    """How the hubs' effects enter a comparison, in one or two variants, each of shape (hubs,)."""
    hubs = np.array(field.hubs, int)
    signs = (hubs == one).astype(float) - (hubs == other)
    if signs.any() or not len(hubs):
        return [signs]
    met = np.bincount(np.append(field.mine, field.theirs), minlength=len(field.models))[hubs]
    main = (np.arange(len(hubs)) == met.argmax()).astype(float)
    return [main, -main]


def find_reference(field: Field, component: Any, number: int) -> int:
    """The model of a component that the others are measured by: the one that meets most others, and is judged most."""
    pairs = set(zip(field.mine.tolist(), field.theirs.tolist(), strict=True))
    others = np.bincount([side for pair in pairs for side in pair], minlength=len(field.models))
    judged = np.bincount(np.append(field.theirs, field.mine), minlength=len(field.models))
    baseline = np.bincount(field.theirs, minlength=len(field.models))
    return int(np.lexsort((baseline, judged, others, component == number))[-1])


def tabulate(field: Field, fits: Fits | None = None) -> tuple[DataFrame, DataFrame]:
    """Two tables of the pooled model: `standings`, each arm against a reference, and `pairs`, any two arms.

    One row for each judge and, where there are several, one for the strengths that they share (EVERY). Rates in 0..1,
    net wins (wins minus losses) in -1..1. `equal` is at equal length by the scale that the row names; NaN where one
    side of all comparisons is nearly always longer. Pairs within a component only.
    """
    found = fits or fit_all(field)
    judges = [(name, number) for number, name in enumerate(field.judges)]
    standings: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for name, judge in [*judges, *([(EVERY, None)] if len(judges) > 1 else [])]:
        mine = field if judge is None else field.part(field.judge == judge)
        fitted = (found.raw, found.log_ratio, found.difference)
        grounds = [None if fit is None else survey(fit, judge) for fit in fitted]
        component = pooled.components_of(mine)
        for number in [label for label, size in enumerate(np.bincount(component)) if size > 1]:
            members = np.flatnonzero(component == number).tolist()
            reference = find_reference(mine, component, number)
            usable = is_separable(mine, reference)
            kept = [ground if place == 0 or usable else None for place, ground in enumerate(grounds)]
            head = {"judge": name, "scale": found.scale}
            for arm in [member for member in members if member != reference]:
                standings.append({**head, **_standing(mine, kept, found.scale, arm, reference)})
            pairs += [{**head, **_pair(mine, kept, found.scale, *two)} for two in itertools.combinations(members, 2)]
    return tables.make("standings", standings), tables.make("pairs", pairs)


def _standing(field: Field, grounds: list[Ground | None], scale: str, arm: int, reference: int) -> dict[str, Any]:
    rates = rates_of(grounds, scale, arm, reference)
    with_arm = (field.mine == arm) | (field.theirs == arm)
    difference = _longer(field, arm)
    alone = min((difference >= 0).mean(), (difference <= 0).mean()) < OVERLAP if len(difference) else False
    names = {"arm": field.models[arm], "reference": field.models[reference]}
    counts = {"prompts": len(np.unique(field.prompt[with_arm])), "against": len(_opponents(field, arm))}
    own = np.concatenate([field.sizes[field.mine == arm, 0], field.sizes[field.theirs == arm, 1]])
    size = round(float(np.nanmean(own)), 1) if np.isfinite(own).any() else math.nan
    evidence = {"evidence": _evidence(field, arm, reference), "borrowed": bool(alone)}
    return {**names, **evidence, **counts, "mean_length": size, **rates}


def _pair(field: Field, grounds: list[Ground | None], scale: str, one: int, other: int) -> dict[str, Any]:
    forward, backward = ((field.mine == a) & (field.theirs == b) for a, b in ((one, other), (other, one)))
    direct = np.concatenate([field.preference[forward], 1 - field.preference[backward]])
    rates = rates_of(grounds, scale, one, other)
    nets = {f"net_{name}": 2 * value - 1 for name, value in rates.items()}
    return {
        "arm": field.models[one],
        "other": field.models[other],
        "evidence": _evidence(field, one, other),
        "direct_prompts": len(np.unique(field.prompt[forward | backward])),
        "direct_net": round(2 * float(direct.mean()) - 1, 4) if len(direct) else math.nan,
        **{name: round(value, 4) for name, value in nets.items()},
    }


def rates_of(grounds: Sequence[Ground | None], scale: str, one: int, other: int) -> dict[str, float]:
    """Columns of the rates: as judged, at equal length by the better scale, and by each of both."""
    unknown = Estimate(math.nan, math.nan, math.nan, 0, "not known")
    raw, *both = (unknown if each is None else win_rate(each, one, other) for each in grounds)
    by_scale = dict(zip(SCALES, both, strict=True))
    columns: dict[str, float] = {}
    for name, rate in {"raw": raw, "equal": by_scale.get(scale, unknown), **by_scale}.items():
        columns |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
    return {name: round(number, 4) for name, number in columns.items()}


def is_separable(field: Field, reference: int) -> bool:
    """Whether the reference, over all its comparisons, is the longer and the shorter side often enough to tell what
    length is worth. An arm that is always longer borrows the taste for length from the others."""
    difference = _longer(field, reference)
    difference = difference if len(difference) else np.zeros(1)
    return bool(min((difference >= 0).mean(), (difference <= 0).mean()) >= OVERLAP)


def _longer(field: Field, model: int) -> Numbers:
    """1 where a model's answer is the longer one, -1 where it is the shorter, over its rows with known lengths."""
    apart = np.sign(field.sizes[:, 0] - field.sizes[:, 1])
    own = np.concatenate([apart[field.mine == model], -apart[field.theirs == model]])
    return own[~np.isnan(own)]


def _opponents(field: Field, model: int) -> set[int]:
    return {*field.theirs[field.mine == model].tolist(), *field.mine[field.theirs == model].tolist()} - {model}


def _evidence(field: Field, one: int, other: int) -> str:
    """Whether two models were set against each other, are linked by others that both met, or both."""
    is_direct = other in _opponents(field, one)
    is_linked = bool(_opponents(field, one) & _opponents(field, other))
    return "direct and indirect" if is_direct and is_linked else "direct" if is_direct else "indirect"


def describe_components(field: Field) -> list[str]:
    """A line for each judge whose comparisons fall into sets that nothing connects; none where all are connected."""
    lines = []
    for judge, name in enumerate(field.judges):
        mine = field.part(field.judge == judge)
        component = pooled.components_of(mine)
        sets = [np.flatnonzero(component == label) for label, size in enumerate(np.bincount(component)) if size > 1]
        if len(sets) > 1:
            names = "; ".join(", ".join(field.models[place] for place in members) for members in sets)
            lines.append(f"{name}: no chain of comparisons connects these, so each is rated within itself: {names}")
    return lines
