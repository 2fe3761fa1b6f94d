"""The length analysis of each comparison: rates at equal length, what would remain of a net win, what a cut cost."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nbutils.analysis.intervals import Estimate, mean_with_interval
from nbutils.analysis.items import (
    Calls,
    Items,
    are_alike,
    comparisons,
    decided_by,
    describe,
    find_faults,
    is_doubtful,
    is_separable,
    longer_preferred,
    to_calls,
    to_items,
)
from nbutils.analysis.length_control import (
    SCALES,
    Design,
    JudgeFit,
    Numbers,
    add_pseudo_items,
    expit,
    fit_judge,
    make_design,
)
from nbutils.core.errors import InputError

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


BIN_EDGES = (-math.inf, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, math.inf)
"""Edges of the length-difference bins, in natural-log units of len_arm / len_baseline."""


# --- the analysis --------------------------------------------------------------------------------------------------


def analyse(rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> list[dict[str, Any]]:
    """The length analysis, one row per (judge, arm, baseline); rates in 0..1 for the arm, lengths as in the file.

    Net wins are wins minus losses (-1..1) and their decomposition, with a bootstrap of so many draws; taste columns are
    coefficients in logits.
    """
    return [_analyse_one(key, mine, draws) for key, mine in comparisons(rows).items()]


def _analyse_one(key: tuple[str, str, str], rows: Sequence[dict[str, Any]], draws: int) -> dict[str, Any]:
    items, calls = to_items(rows), to_calls(rows)
    head = dict(zip(("judge", "arm", "baseline"), key, strict=True))
    counts = {"calls": len(rows), "unjudged": sum(row["preference"] is None for row in rows)}
    notes = "; ".join(find_faults(rows))
    if len(items.preference) < 3:
        found = {"prompts": len(items.preference), "finding": "too few judged prompts"}
        return {**head, **counts, **found, "notes": notes}
    raw = mean_with_interval(items.preference)
    fitted, by_ratio = (_fit(items, calls, scale) for scale in SCALES)
    finding, other = (describe(raw, each.win_rate, decided_by(items)) for each in (fitted, by_ratio))
    doubts = {
        f"by the ratio of lengths, not their difference: {other}": other != finding,
        "pairs of equal length lean the other way, so the model of length may be wrong": is_doubtful(items, fitted),
    }
    notes = "; ".join(filter(None, [notes, *(text for text, holds in doubts.items() if holds)]))
    return {
        **head,
        **counts,
        "prompts": raw.n,
        "mean_len_arm": round(float(items.len_arm.mean()), 1),
        "mean_len_baseline": round(float(items.len_baseline.mean()), 1),
        **_columns("win_rate", raw),
        **_columns("length_controlled", fitted.win_rate),
        **_columns("length_controlled_log", by_ratio.win_rate),
        **_with_difficulty(items, calls),
        **_matched(items),
        "longer_preferred": _rounded(longer_preferred(items).value),
        "length_only_judge": round(float(np.mean(0.5 + 0.5 * np.sign(items.len_arm - items.len_baseline))), 4),
        **_position(items),
        **_columns("length_taste", fitted.length),
        **_columns("position_taste", fitted.position),
        **_parts(calls, fitted, draws),
        "finding": finding,
        "notes": notes,
    }


_UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0, "lengths of the two sides do not overlap")
_NOT_SEPARABLE = JudgeFit(_UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN)


def _fit(items: Items, calls: Calls, scale: str) -> JudgeFit:
    plain = calls._replace(difficulty=None)._asdict()
    return fit_judge(**plain, scale=scale) if is_separable(items) else _NOT_SEPARABLE


def _with_difficulty(items: Items, calls: Calls) -> dict[str, Any]:
    """The rate at equal length with the instructions' difficulty in the model, where the rows have one."""
    if calls.difficulty is None:
        return {}
    known = fit_judge(**calls._asdict()).win_rate if is_separable(items) else _UNKNOWN
    return _columns("length_controlled_difficulty", known)


def _matched(items: Items) -> dict[str, Any]:
    matched = mean_with_interval(items.preference[are_alike(items)])
    return {**_columns("length_matched", matched), "length_matched_prompts": matched.n}


def _position(items: Items) -> dict[str, Any]:
    """Half the preference gained by standing first (-0.5..0.5), over the prompts with both orders."""
    known = items.position[~np.isnan(items.position)]
    found = mean_with_interval(known + 0.5)
    return _columns("position_bias", _rescale(found, 1, -0.5))


def _parts(calls: Calls, fitted: JudgeFit, draws: int) -> dict[str, Any]:
    nothing = Decomposition(*[_UNKNOWN] * 4)
    parts = (
        nothing
        if math.isnan(fitted.win_rate.value)
        else decompose(**calls._replace(difficulty=None)._asdict(), draws=draws)
    )
    return {
        **_columns("net_win", parts.net),
        **_columns("net_at_equal_length", parts.at_equal_length),
        **_columns("net_due_to_length", parts.due_to_length),
        **_columns("share_remaining", parts.share),
    }


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    value, low, high = (_rounded(number) for number in (estimate.value, estimate.low, estimate.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _rescale(estimate: Estimate, factor: float, offset: float) -> Estimate:
    value, low, high = (factor * number + offset for number in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n, estimate.method)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def bin_by_length(items: Items) -> list[dict[str, Any]]:
    """Win rate of the arm by how much longer its answer is (natural log of the ratio), with intervals."""
    rows = []
    for low, high in itertools.pairwise(BIN_EDGES):
        inside = items.preference[(items.log_ratio >= low) & (items.log_ratio < high)]
        estimate = mean_with_interval(inside)
        rows.append({"from": low, "to": high, "prompts": estimate.n, **_columns("win_rate", estimate)})
    return rows


def compare_cut(rows: Sequence[dict[str, Any]], cut: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The truncated counterfactual: win rates as judged and with both answers cut to one length, and their difference.

    One row per (judge, arm, baseline) in both, over the prompts judged in both, paired. Raises InputError where the
    two share no judged prompt.
    """
    shortened = comparisons(cut)
    found = [_compare_one(key, mine, shortened[key]) for key, mine in comparisons(rows).items() if key in shortened]
    if not found:
        raise InputError("the cut judgments share no judge, arm and baseline with the others: judge the same prompts")
    return found


def _compare_one(key: tuple[str, str, str], rows: Any, cut: Any) -> dict[str, Any]:
    before, after = (_preferences(part) for part in (rows, cut))
    shared = [prompt for prompt in before if prompt in after]
    if not shared:
        raise InputError(f"{key[0]}, {key[1]}: no prompt (test_set and id) is judged in both files")
    one, other = (np.array([side[prompt] for prompt in shared]) for side in (before, after))
    drop = mean_with_interval(0.5 + (one - other) / 2)
    return {
        **dict(zip(("judge", "arm", "baseline"), key, strict=True)),
        "prompts": len(shared),
        **_columns("win_rate", mean_with_interval(one)),
        **_columns("win_rate_cut", mean_with_interval(other)),
        **_columns("lost_by_cutting", _rescale(drop, 2, -1)),
    }


def _preferences(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, Any], float]:
    prompts = dict.fromkeys((row["test_set"], row["id"]) for row in rows if row["preference"] is not None)
    return dict(zip(prompts, to_items(rows).preference.tolist(), strict=True))
