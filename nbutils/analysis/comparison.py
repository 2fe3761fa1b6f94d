"""The length analysis of each comparison: rates at equal length, what would remain of a net win, what a cut cost."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame

from nbutils.analysis import findings
from nbutils.analysis.findings import Card
from nbutils.analysis.intervals import (
    Estimate,
    Numbers,
    bootstrap_interval,
    draw_counts,
    mean_with_interval,
    net_win_interval,
    rescale,
)
from nbutils.analysis.items import Items, comparisons, find_faults, list_orders, preferences, to_calls, to_items
from nbutils.analysis.length_control import SCALES, Design, JudgeFit, add_pseudo_items, expit, fit_judge, make_design
from nbutils.analysis.verdicts import CLUSTER, COMPARISON, PROMPT, Rows
from nbutils.core import tables
from nbutils.core.errors import InputError

DRAWS = 1000


class Decomposition(NamedTuple):
    """The net win (win rate minus loss rate, -1..1) and its parts, with 95% intervals over prompts.

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
    the model is fitted again to every draw (of more than LINEAR prompts by one Newton step). The length scale stays
    that of the data. The net win's own interval is that of `mean_with_interval`; where all prompts are alike there is
    nothing to split, and the parts are NaN.
    """
    design = make_design(*arguments, **named)
    prompts = int(design.clusters.max()) + 1
    # As judged, every cluster counts by the mean of its items.
    means = np.bincount(design.clusters, design.y) / np.bincount(design.clusters)
    net = rescale(mean_with_interval(means), 2, -1)
    if np.ptp(means) < 1e-12:
        return Decomposition(net, *[Estimate(math.nan, math.nan, math.nan, prompts, "all items are alike")] * 3)
    # Without difficulty all items are alike at equal length.
    alike = not np.ptp(design.equal, axis=1).any()
    fit_again = _linearise(design) if prompts > LINEAR else functools.partial(refit, design)
    judged, equal = [], []
    for counts in _draw_blocks(prompts, draws, seed, len(design.y)):
        coefficients = fit_again(counts if prompts > LINEAR else counts[:, design.clusters])
        judged.append(counts @ means / counts.sum(axis=1))
        equal.append(_rate_at_equal_length(design, coefficients, None if alike else counts))
    nets, kept = (2 * np.concatenate(rates) - 1 for rates in (judged, equal))

    def estimate(values: Numbers) -> Estimate:
        return bootstrap_interval(values[0], values[1:], prompts, f"{prompts} prompts")

    if net.low > 0 or net.high < 0:
        share = kept / np.where(nets == 0, math.nan, nets)
    else:
        share = np.append(kept[0] / nets[0] if nets[0] else math.nan, np.full(draws, math.nan))
    return Decomposition(net, *map(estimate, (kept, nets - kept, share)))


def _draw_blocks(prompts: int, draws: int, seed: int, items: int) -> Iterator[Numbers]:
    """How often each prompt is drawn, shape (block, prompts): first the data itself, then the bootstrap samples.

    A draw needs a number for each item: in blocks of 2 MB, a cache's size, or of one draw.
    """
    rng, size = np.random.default_rng(seed), max(1, 2**18 // items)
    yield np.ones((1, prompts))
    for start in range(0, draws, size):
        yield draw_counts(prompts, min(size, draws - start), rng).astype(float)


def _rate_at_equal_length(design: Design, coefficients: Numbers, counts: Numbers | None) -> Numbers:
    """The mean rate at equal length for each row of coefficients, shape (draws,): by the counts of prompts in its draw,
    or of one item where all are alike."""
    if counts is None:
        return np.asarray(np.mean([expit(coefficients @ columns[0]) for columns in design.equal], axis=0))
    rates = np.mean([expit(coefficients @ columns.T) for columns in design.equal], axis=0)
    of_item = counts[:, design.clusters]
    return np.asarray((rates * of_item).sum(axis=1) / of_item.sum(axis=1))


LINEAR = 2000
"""Prompts above which a draw is fitted by one Newton step from the data's own fit: the bounds of net wins of 2,000
prompts move by less than 0.001 (of 500 by up to 0.003)."""


def _linearise(design: Design) -> Callable[[Numbers], Numbers]:
    """The function from counts of prompts, shape (draws, prompts), to coefficients, by one Newton step."""
    start = refit(design, np.ones((1, len(design.y))))[0]
    y, columns, weights = add_pseudo_items(design)
    chance, n, width = expit(columns @ start), len(design.y), columns.shape[1]
    scores = columns * (weights * (y - chance))[:, None]
    products = np.einsum("n,nk,nl->nkl", weights * chance * (1 - chance), columns, columns).reshape(len(y), -1)
    both = np.hstack([scores, products])
    own = np.column_stack([np.bincount(design.clusters, column[:n]) for column in both.T])
    pseudo = both[n:].sum(axis=0)

    def step(counts: Numbers) -> Numbers:
        sums = counts @ own + pseudo
        information = sums[:, width:].reshape(-1, width, width)
        return np.asarray(start + np.linalg.solve(information, sums[:, :width, None])[:, :, 0])

    return step


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


MATCHED = 0.10
"""Answers whose lengths differ by less than this share of the longer one count as equally long."""

OVERLAP = 0.05
"""Where the arm is the longer (or the shorter) side in all but this share of prompts, length and arm are one and the
same thing in the data, and a rate at equal length would be extrapolated."""

LENGTH_ONLY = 0.99
"""A judge that prefers the longer (or the shorter) answer in this share of the prompts decides by length alone."""

DECIDED = 20
"""Prompts with answers of different length that it takes to say so."""

BIN_EDGES = (-math.inf, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, math.inf)
"""Edges of the length-difference bins, in natural-log units of len_arm / len_baseline."""

_UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0, "lengths of the two sides do not overlap")


def is_separable(items: Items) -> bool:
    """Whether each side has the longer answer often enough for a rate at equal length to be more than a guess."""
    difference = np.sign(items.len_arm - items.len_baseline)
    return bool(min((difference >= 0).mean(), (difference <= 0).mean()) >= OVERLAP)


def are_alike(items: Items) -> Any:
    """Which prompts have answers of (nearly) the same length: booleans, shape (n,)."""
    return np.abs(np.expm1(-np.abs(items.log_ratio))) < MATCHED


def longer_preferred(items: Items) -> Estimate:
    """Mean preference for the longer answer where the lengths differ; 0.5 is indifference, NaN says none differ."""
    sign = items.longer
    return items.mean(np.where(sign > 0, items.preference, 1 - items.preference), sign != 0)


def decided_by(items: Items) -> str:
    """ "longer" or "shorter" where a judge prefers that answer (nearly) always, else "".

    Only where each side is the longer one often enough: else it may be the arm that is preferred, and not the length.
    """
    sign = items.longer
    differs, longer = int((sign != 0).sum()), longer_preferred(items).value
    if differs < DECIDED or min((sign > 0).mean(), (sign < 0).mean()) < OVERLAP:
        return ""
    return "longer" if longer >= LENGTH_ONLY else "shorter" if longer <= 1 - LENGTH_ONLY else ""


def analyse(rows: Rows, draws: int = DRAWS, cut: Rows = ()) -> DataFrame:
    """The length analysis, one row per (judge, arm, baseline); rates in 0..1 for the arm, lengths as in the file.

    Net wins are wins minus losses (-1..1) and their decomposition, with a bootstrap of so many draws; taste columns are
    coefficients in logits; the verdict, `finding`, is made from all estimates (see `findings`). cut: judgments of the
    same prompts' answers cut to one length, where there are some. What cannot be estimated is NaN.
    """
    shortened = comparisons(cut) if len(cut) else {}
    found = [_analyse_one(key, mine, draws, shortened.get(key)) for key, mine in comparisons(rows).items()]
    return tables.make("length_bias", found)


def _analyse_one(key: tuple[str, str, str], rows: DataFrame, draws: int, cut: DataFrame | None) -> dict[str, Any]:
    orders = list_orders(rows)
    items, notes = to_items(rows, orders), find_faults(rows)
    head: dict[str, Any] = dict(zip(COMPARISON, key, strict=True))
    head |= {"calls": len(rows), "unjudged": int(rows["preference"].isna().sum()), "prompts": len(items.preference)}
    if head["prompts"] < 3:
        return {**head, "finding": "too few judged prompts", "settled": False, "notes": "; ".join(notes)}
    calls = to_calls(rows, orders)
    plain = calls._replace(difficulty=None)
    if is_separable(items):
        fitted, by_ratio = (fit_judge(**plain._asdict(), scale=scale) for scale in SCALES)
        known, headline = fitted, by_ratio
        if calls.difficulty is not None:
            known, headline = (fit_judge(**calls._asdict(), scale=scale) for scale in SCALES)
        parts = decompose(**plain._asdict(), draws=draws)
    else:
        fitted = by_ratio = known = headline = JudgeFit(*[_UNKNOWN] * 4)
        parts = Decomposition(*[_UNKNOWN] * 4)
    raw, matched = items.mean(items.preference), items.mean(items.preference, are_alike(items))
    won = rescale(net_win_interval(items.decision, items.clusters), 0.5, 0.5)
    shortened = findings.NONE if cut is None else _mean_of_cut(rows, cut).after
    # Half of what standing first gains, over the prompts with both orders.
    position = rescale(items.mean(items.position + 0.5, ~np.isnan(items.position)), 1, -0.5)
    finding = findings.find(Card(raw, won, headline.win_rate, known.win_rate, matched, shortened), decided_by(items))
    if np.isnan(items.len_arm + items.len_baseline).any():
        notes.append("the log has no lengths for some answers, so that nothing is said of length")
        text = finding.text.replace("one side is nearly always longer: length", "lengths are not known: it")
        finding = finding._replace(text=text)
    return {
        **head,
        "mean_len_arm": round(float(items.len_arm.mean()), 1),
        "mean_len_baseline": round(float(items.len_baseline.mean()), 1),
        **_columns(win_rate=raw, length_controlled=fitted.win_rate, length_controlled_log=by_ratio.win_rate),
        **({} if calls.difficulty is None else _columns(length_controlled_difficulty=known.win_rate)),
        **_columns(prompts_won=won, at_equal_length=headline.win_rate, length_matched=matched),
        **({} if cut is None else _columns(win_rate_cut=shortened)),
        "length_matched_prompts": matched.n,
        "longer_preferred": round(longer_preferred(items).value, 4),
        "length_only_judge": round(float(np.mean(0.5 + 0.5 * items.longer)), 4),
        **_columns(position_bias=position, length_taste=fitted.length, position_taste=fitted.position),
        **_columns(net_win=parts.net, net_at_equal_length=parts.at_equal_length),
        **_columns(net_due_to_length=parts.due_to_length, share_remaining=parts.share),
        "finding": finding.text,
        "settled": finding.settled,
        "notes": "; ".join(notes),
    }


def _columns(**estimates: Estimate) -> dict[str, float]:
    """Three columns of each estimate: value, lower and upper bound."""
    columns: dict[str, float] = {}
    for name, found in estimates.items():
        columns |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: round(number, 4) for name, number in columns.items()}


def bin_by_length(items: Items) -> DataFrame:
    """Win rate of the arm by how much longer its answer is (natural log of the ratio), with intervals."""
    rows = []
    for low, high in itertools.pairwise(BIN_EDGES):
        inside = items.mean(items.preference, (items.log_ratio >= low) & (items.log_ratio < high))
        rows.append({"from": low, "to": high, "prompts": inside.n, **_columns(win_rate=inside)})
    return tables.make("bins", rows)


def bin_comparisons(rows: Rows) -> DataFrame:
    """`bin_by_length` of every (judge, arm, baseline)."""
    found = {key: bin_by_length(to_items(mine)) for key, mine in comparisons(rows).items()}
    return pd.concat(found, names=COMPARISON).reset_index(COMPARISON).reset_index(drop=True)


def compare_cut(rows: Rows, cut: Rows) -> DataFrame:
    """The truncated counterfactual: win rates as judged and with both answers cut to one length, and their difference.

    One row per (judge, arm, baseline), over the prompts judged in both, paired. Raises InputError where none is.
    """
    shortened, found = comparisons(cut), []
    for key, mine in comparisons(rows).items():
        if key in shortened:
            before, after, lost, prompts = _mean_of_cut(mine, shortened[key])
            if not prompts:
                raise InputError(f"{key[0]}, {key[1]}: no prompt (test_set and id) is judged in both files")
            rates = _columns(win_rate=before, win_rate_cut=after, lost_by_cutting=lost)
            found.append({**dict(zip(COMPARISON, key, strict=True)), "prompts": prompts, **rates})
    if not found:
        raise InputError("the cut judgments share no judge, arm and baseline with the others: judge the same prompts")
    return tables.make("cut", found)


class _Cut(NamedTuple):
    """Win rates over the prompts judged both ways: whole, cut to one length, their difference; and how many prompts."""

    before: Estimate
    after: Estimate
    lost: Estimate
    prompts: int


def _mean_of_cut(rows: DataFrame, cut: DataFrame) -> _Cut:
    both = preferences(rows).to_frame("before").join(preferences(cut).rename("after"), how="inner")
    before, after = both["before"].to_numpy(), both["after"].to_numpy()
    clusters = rows.drop_duplicates(PROMPT).set_index(PROMPT)[CLUSTER].loc[both.index].to_numpy()
    lost = rescale(mean_with_interval(0.5 + (before - after) / 2, clusters), 2, -1)
    return _Cut(mean_with_interval(before, clusters), mean_with_interval(after, clusters), lost, len(both))
