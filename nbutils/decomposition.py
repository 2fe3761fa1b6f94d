"""How much of a net win would remain at equal length: a decomposition with a bootstrap over prompts."""

import math
from typing import Any, NamedTuple

import numpy as np

from nbutils.length_control import Design, Numbers, add_pseudo_items, expit, make_design
from nbutils.stats import Estimate

DRAWS = 1000


class Decomposition(NamedTuple):
    """The net win (win rate minus loss rate, -1..1) and its parts, with 95% bootstrap intervals over prompts.

    net = at_equal_length + due_to_length; share = at_equal_length / net, NaN bounds where the net win itself cannot be
    told from 0, since a share of nothing means nothing.
    """

    net: Estimate
    at_equal_length: Estimate
    due_to_length: Estimate
    share: Estimate


def decompose(*arguments: Any, draws: int = DRAWS, seed: int = 0, **named: Any) -> Decomposition:
    """Split the net win of judged items; arguments and errors as of `length_controlled_win_rate`.

    Prompts (`clusters`; items where none are given) are resampled by multinomial counts, which is the bootstrap, and
    the model is fitted again to every draw. The length scale stays that of the data.
    """
    design = make_design(*arguments, **named)
    drawn = draw_counts(int(design.clusters.max()) + 1, draws, seed)[:, design.clusters]
    # The first row is the data itself.
    counts = np.vstack([np.ones(len(design.y)), drawn])
    nets, kept = 2 * _weighted_means(design, counts) - 1, 2 * rates_at_equal_length(design, counts) - 1
    net = _percentiles(nets, design)
    if net.low > 0 or net.high < 0:
        share = kept / np.where(nets == 0, math.nan, nets)
    else:
        share = np.append(kept[0] / nets[0] if nets[0] else math.nan, np.full(draws, math.nan))
    parts = (_percentiles(values, design) for values in (kept, nets - kept, share))
    return Decomposition(net, *parts)


def draw_counts(clusters: int, draws: int, seed: int = 0) -> Numbers:
    """How often each cluster is drawn in each bootstrap sample, shape (draws, clusters)."""
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    counts: Numbers = drawn.astype(float)
    return counts


def rates_at_equal_length(design: Design, counts: Numbers) -> Numbers:
    """Win rate at equal length of every bootstrap sample, shape (draws,); counts: (draws, n) of the items."""
    coefficients = refit(design, counts)
    rates = np.mean([expit(coefficients @ equal.T) for equal in design.equal], axis=0)
    found: Numbers = (rates * counts).sum(axis=1) / counts.sum(axis=1)
    return found


def refit(design: Design, counts: Numbers, steps: int = 50) -> Numbers:
    """Coefficients of the model for many weightings of the items at once, by Newton's method, shape (draws, k).

    By hand because a library fits one weighting at a time; it agrees with statsmodels' GLM to 1e-6.
    """
    y, columns, weights = add_pseudo_items(design)
    pseudo = np.broadcast_to(weights[len(design.y) :], (len(counts), len(y) - len(design.y)))
    weighted = np.hstack([counts, pseudo])
    products = np.einsum("nk,nl->nkl", columns, columns).reshape(len(y), -1)
    found = np.zeros((len(counts), columns.shape[1]))
    if len(counts) > 1:
        found += refit(design, counts.mean(axis=0, keepdims=True))  # near to all of them: fewer steps
    for _ in range(steps):
        probability = expit(found @ columns.T)
        score = (weighted * (y - probability)) @ columns
        information = (weighted * probability * (1 - probability)) @ products
        change = np.linalg.solve(information.reshape(len(counts), *[columns.shape[1]] * 2), score[:, :, None])[:, :, 0]
        # Separated verdicts make the first steps overshoot.
        found += change * np.minimum(1.0, 2.0 / np.maximum(np.abs(change).max(axis=1, keepdims=True), 1e-12))
        if np.abs(change).max() < 1e-8:
            break
    return found


def _weighted_means(design: Design, counts: Numbers) -> Numbers:
    """Mean preference of each sample, every cluster counting by the mean of its items."""
    sizes = np.bincount(design.clusters)[design.clusters]
    means: Numbers = (counts * (design.y / sizes)).sum(axis=1) / (counts / sizes).sum(axis=1)
    return means


def _percentiles(values: Numbers, design: Design) -> Estimate:
    """The first value, which is that of the data, with the percentiles of the others."""
    low, high = (float(bound) for bound in np.quantile(values[1:], [0.025, 0.975]))
    prompts = int(design.clusters.max()) + 1
    return Estimate(float(values[0]), low, high, prompts, f"bootstrap over {prompts} prompts, {len(values) - 1} draws")
