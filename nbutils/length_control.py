"""Estimators of stage 07: the win rate at equal length, and means of preferences with intervals."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbutils.errors import InputError
from nbutils.stats import Estimate

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def length_controlled_win_rate(
    preference: Sequence[float] | Numbers,
    len_model: Sequence[float] | Numbers,
    len_baseline: Sequence[float] | Numbers,
    difficulty: Sequence[float] | Numbers | None = None,
    clusters: Sequence[Any] | None = None,
) -> Estimate:
    """Win rate in 0..1 that would remain if both answers had the same length, with its 95% interval.

    In the manner of length-controlled AlpacaEval (Dubois et al., 2404.04475): a logistic model of the preference on
    tanh of the standardised length difference and, where given, the instruction's difficulty, read off at length
    difference 0 and averaged over the items. Fractional preferences are allowed. Two pseudo-items of half weight with
    preference 1/2 (two more with `difficulty`) keep the fit finite when a column separates the verdicts. Robust (or,
    with `clusters`, cluster-robust) standard errors, delta method on the logit scale. All arguments have shape (n,);
    NaN preferences are left out. Raises InputError for unequal shapes, preferences outside 0..1, lengths or
    difficulties that are not finite, fewer than 3 items or fewer than 2 clusters.
    """
    y, delta, more, groups = _checked_items(preference, len_model, len_baseline, difficulty, clusters)
    if _agree(y):
        return _unanimous(float(y[0]), len(y), len(y) if groups is None else len(np.unique(groups)))
    design = np.column_stack([np.ones(len(y)), _squash(delta), *([_standardise(more)] if more is not None else [])])
    fitted = _fit_logistic(y, design, groups)
    at_zero = design.copy()
    at_zero[:, 1] = 0.0
    value, low, high = _predict_mean(fitted, at_zero)
    return Estimate(value, low, high, len(y), "logistic in tanh(length difference), read off at 0")


def _checked_items(
    preference: Any, len_model: Any, len_baseline: Any, difficulty: Any, clusters: Any
) -> tuple[Numbers, Numbers, Numbers | None, Any]:
    y = np.asarray(preference, dtype=float)
    columns = {"len_model": len_model, "len_baseline": len_baseline, "difficulty": difficulty, "clusters": clusters}
    for name, column in columns.items():
        if column is not None and len(column) != len(y):
            raise InputError(f"{name} has {len(column)} items, preference has {len(y)}: they must match")
    use = ~np.isnan(y)
    for name, column in list(columns.items())[:3]:
        if column is not None and not np.all(np.isfinite(np.asarray(column, dtype=float)[use])):
            raise InputError(f"{name} holds a value that is not a finite number")
    if use.sum() < 3:
        raise InputError(f"{int(use.sum())} judged items: a length-controlled rate needs at least 3")
    if np.any((y[use] < 0) | (y[use] > 1)):
        raise InputError("preferences must lie between 0 and 1")
    delta = np.asarray(len_model, dtype=float) - np.asarray(len_baseline, dtype=float)
    more = None if difficulty is None else np.asarray(difficulty, dtype=float)[use]
    groups = None if clusters is None else np.unique(np.asarray(clusters)[use], return_inverse=True)[1]
    if groups is not None and groups.max() == 0:
        raise InputError("all items are of one cluster: an interval over clusters needs at least 2")
    return y[use], delta[use], more, groups


def _agree(values: Numbers) -> bool:
    return bool(np.all(values == values[0]) and values[0] in (0.0, 1.0))


def _unanimous(value: float, n: int, independent: int) -> Estimate:
    """All of n items agree: the interval is Clopper and Pearson's, for as many items as are independent."""
    bound = 0.025 ** (1 / independent)
    low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    return Estimate(value, low, high, n, "all items agree")


def _squash(delta: Numbers) -> Numbers:
    # Divided by its spread and not centred: 0 has to stay "equally long".
    spread = delta.std()
    return np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)


def _standardise(column: Numbers) -> Numbers:
    spread = column.std()
    return (column - column.mean()) / spread if spread > 0 else np.zeros_like(column)


def _fit_logistic(y: Numbers, design: Numbers, groups: Any) -> Any:
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    pseudo = _pseudo_items(design.shape[1])
    weights = np.append(np.ones(len(y)), np.full(len(pseudo), 0.5))
    preferences = np.append(y, np.full(len(pseudo), 0.5))
    # A column without spread (all lengths equal) would make the design singular.
    used = [0, *(i for i in range(1, design.shape[1]) if np.ptp(design[:, i]) > 0)]
    stacked = np.vstack([design, pseudo])[:, used]
    with warnings.catch_warnings():
        # It may suspect separation where a length-only judge is; the pseudo-items keep the fit finite.
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        fitted = GLM(preferences, stacked, family=Binomial(), freq_weights=weights).fit()
    own = np.arange(len(y)) if groups is None else groups
    clusters = np.append(own, own.max() + 1 + np.arange(len(pseudo)))
    return fitted.params, _sandwich(stacked, preferences, fitted.fittedvalues, weights, clusters), used


def _sandwich(design: Numbers, y: Numbers, fitted: Numbers, weights: Numbers, clusters: Any) -> Numbers:
    """Covariance of the coefficients that holds when items of a cluster depend on each other (HC0 without clusters).

    By hand, because statsmodels does not fully support it together with weights.
    """
    bread = np.linalg.inv((design.T * (weights * fitted * (1 - fitted))) @ design)
    scores = np.zeros((clusters.max() + 1, design.shape[1]))
    np.add.at(scores, clusters, design * (weights * (y - fitted))[:, None])
    covariance: Numbers = bread @ (scores.T @ scores) @ bread
    return covariance


def _pseudo_items(columns: int) -> Numbers:
    """Two items for each column but the constant: 1 and -1 there, nothing elsewhere."""
    axes = np.eye(columns)[1:]
    items: Numbers = np.vstack([axes, -axes])
    items[:, 0] = 1.0
    return items


def _predict_mean(fitted: Any, design: Numbers) -> tuple[float, float, float]:
    coefficients, covariance, used = fitted
    probability = 1 / (1 + np.exp(-design[:, used] @ coefficients))
    value = float(probability.mean())
    gradient = (probability * (1 - probability)) @ design[:, used] / len(probability)
    error = float(np.sqrt(gradient @ covariance @ gradient))
    logit, scale = math.log(value / (1 - value)), error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(logit + z * scale))) for z in (-1.96, 1.96))
    return value, low, high


def mean_with_interval(values: Numbers) -> Estimate:
    """Mean of preferences with a normal 95% interval over prompts, cut to 0..1."""
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no item")
    if _agree(values):
        return _unanimous(float(values[0]), len(values), len(values))
    value = float(values.mean())
    margin = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1.0
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin), len(values), "mean over prompts")
