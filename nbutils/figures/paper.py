"""Scores with intervals as rows of dots: the paper's Figure 5 and Tables 1 and 2, and beside them a run of ours.

`ours`, where a function takes it: what a run measured of the same, as `evidence.beside_paper` gives it, and named by
its profile. What is to be said against such a run is said where it is shown, not in the paper's figures: no notes.
"""

import itertools
import math
from typing import TYPE_CHECKING, Any

from nbutils.figures import style
from nbutils.figures.style import FAINT, PAPER, QUIET, SHADE, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


def draw_open_llm(averages: "DataFrame", ours: "DataFrame | None" = None) -> "Figure":
    """Dots of the published four-task averages (paper: Figure 5), and of ours with their intervals."""
    caption = (
        "Llama-2-7B, mean of ARC-challenge, MMLU, TruthfulQA and Winogrande in percent, as published in Figure 5; the "
        "values per task, which an interval would need, are not. The unrefined longest are said to gain about one "
        "point."
    )
    averaged = averages.set_index("arm").average
    gains = averaged.drop("base model") - averaged["base model"]
    title = f"Published: no knowledge is lost, {gains.min():.1f} to {gains.max():.1f} points gained on four tasks"
    if gains.min() < 0:
        title = f"Published: {style.name_of(gains.idxmin())} loses {-gains.min():.1f} points on four Open LLM tasks"
    published = averages.assign(heading="", value=averages.average, low=averages.average, high=averages.average)
    rows = _stack(published, ours)
    page, axes = style.make_page(0.42 * (rows.place.max() + 1), title, caption, "", 3.3, 0.8, 0.4)
    for _, block in rows.groupby("heading", sort=False):
        if (start := block[block.arm == "base model"].value.max()) == start:
            axes.plot([start, start], [block.place.min() - 0.3, block.place.max() + 0.3], color=FAINT, lw=1)
            for row in block.itertuples():
                axes.plot([start, row.value], [row.place, row.place], color=FAINT, lw=2)
    _draw_scores(axes, rows, "{:.1f}", ms=7, weight="bold")
    _finish(axes, rows, (rows.low.min() - 0.4, rows.high.max() + 0.6), "mean accuracy, %")
    return page


def draw_alpaca_eval(rates: "DataFrame", ours: "DataFrame | None" = None) -> "Figure":
    """The published AlpacaEval 2.0 win rates with intervals, beside the leaderboard's neighbours (paper: Table 1)."""
    shown = rates[rates.base == "Llama-2-7B"].sort_values("win_rate", ascending=False, ignore_index=True)
    of_paper = shown.source == "Table 1"
    best = shown[of_paper].iloc[0]
    above = int((shown.win_rate > best.win_rate).sum())
    within = shown[~of_paper & shown.win_rate.between(best.low, best.high)]
    caption = (
        "Models built on Llama-2-7B: win rate against GPT-4 Turbo in percent, with 95% intervals over the 805 prompts "
        "(the leaderboard's own, or estimated alike). Filled: the paper's Table 1. Hollow: the public leaderboard, on "
        f"which {above} models of the kind stand above the paper's best; whether the paper counted both is not known. "
        + ("" if ours is None or ours.empty else "Another judge's rates are not on the same scale.")
    )
    title = f"Published: “2nd highest” is a rank within the noise: {len(within)} rivals lie inside the interval"
    colours = shown.arm.map(style.colour_of).where(of_paper, QUIET)
    rows = _stack(shown.assign(heading="", value=shown.win_rate, colour=colours, hollow=~of_paper), ours)
    page, axes = style.make_page(0.33 * (rows.place.max() + 1), title, caption, "", 4.3, 0.6, 0.42)
    axes.fill_betweenx([-0.5, len(shown) - 0.5], best.low, best.high, color=SHADE, lw=0)
    _draw_scores(axes, rows, "{:.2f}", size=9)
    limits = (0, max([14, *1.15 * rows.high[len(shown) :]]))
    _finish(axes, rows, limits, "AlpacaEval 2.0 win rate, %")
    return page


def draw_mt_bench(scores: "DataFrame", ours: "DataFrame | None" = None) -> "Figure":
    """The published MT-Bench scores with intervals, one block per base model (paper: Table 2)."""
    caption = (
        "MT-Bench scores (GPT-4, 1 to 10) as published in Table 2, with 95% intervals: a standard error of 0.30 a "
        "score, as measured on another project's public judgments (0.25 to 0.36). They leave out the variation between "
        "training runs: a user's re-run of the first scored 4.32 where the table has 3.96. "
        + ("" if ours is None or ours.empty else "Another judge's scores are not on the same scale.")
    )
    bases = ["Llama-2-7B", "Llama-2-13B", "Mistral-7B"]
    larger, pairs = _count_differences(scores[scores.base.isin(bases)])
    title = (
        f"Published: {pairs - larger} of {pairs} MT-Bench differences within a base model are smaller than their error"
    )
    ordered = scores.sort_values("score", ascending=False, kind="stable").set_index("base").loc[bases]
    rows = _stack(ordered.reset_index(names="heading").rename(columns={"score": "value"}), ours)
    page, axes = style.make_page(0.3 * (rows.place.max() + 1), title, caption, "", 3.3, 0.7, 0.42)
    _draw_scores(axes, rows, "{:.2f}", size=9)
    limits = (min(2.8, rows.low.min() - 0.2), max(8.4, rows.high.max() + 0.8))
    _finish(axes, rows, limits, "MT-Bench score")
    return page


def _count_differences(scores: "DataFrame") -> tuple[int, int]:
    """How many pairs of one base model's scores differ by more than 95% of their error would, and how many there are.

    The errors are taken for independent.
    """
    half = (scores.high - scores.low) / 2
    larger = pairs = 0
    for _, block in scores.assign(half=half).groupby("base"):
        for one, other in itertools.combinations(block.itertuples(), 2):
            larger += abs(one.score - other.score) > math.hypot(one.half, other.half)
            pairs += 1
    return larger, pairs


def _stack(published: "DataFrame", ours: "DataFrame | None") -> "DataFrame":
    """Rows in blocks, each called `heading`, one below the other: `arm`, `value`, `low`, `high`, `colour`, `place`.

    Of ours a block for each judge (or one, where there is no judge), the highest value first. hollow: of the mark.
    """
    import pandas as pd

    parts = [published]
    if ours is not None:
        for judge, block in ours.groupby("judge", sort=False):
            heading = ", ".join(filter(None, [block.run.iloc[0], style.plain(str(judge))]))
            parts.append(block.sort_values("value", ascending=False, kind="stable").assign(heading=heading))
    columns = ["heading", "arm", "value", "low", "high", "colour", "hollow"]
    rows = pd.concat(parts, ignore_index=True).reindex(columns=columns)
    blocks = (rows.heading != rows.heading.shift()).cumsum() - 1
    colour = rows.colour.fillna(rows.arm.map(style.colour_of))
    return rows.assign(colour=colour, hollow=rows.hollow.eq(True), place=rows.index + 0.8 * blocks)


def _draw_scores(axes: "Axes", rows: "DataFrame", number: str, ms: float = 6, **text: Any) -> None:
    for is_hollow, part in rows.groupby("hollow"):
        filling = {"mfc": PAPER} if is_hollow else {}
        style.draw_intervals(axes, part.place, [part.value, part.low, part.high], part.colour, ms=ms, **filling)
    for row in rows.itertuples():
        style.annotate(axes, number.format(row.value), (row.high, row.place), (ms + 2, 0), **text)


def _finish(axes: "Axes", rows: "DataFrame", limits: tuple[float, float], label: str) -> None:
    """Names of the rows, headings beside the lowest row of each block, where there is room, and the axis."""
    names = []
    for arm in rows.arm:
        base, *suffixes = arm.replace("neftune", "NEFTune").replace("max4096", "4,096 tokens").split("+")
        names.append(style.plain(" + ".join([style.name_of(base), *suffixes]), 52))
    style.label_rows(axes, names, rows.colour, rows.place)
    for row in rows.drop_duplicates("heading", keep="last").itertuples():
        style.annotate(axes, row.heading, (0.99, row.place), (0, 0), xycoords=style.BESIDE, ha="right", weight="bold")
    axes.set(xlim=limits, ylim=(rows.place.max() + 0.6, -0.6), xlabel=label)


def draw_pairwise(pairwise: "DataFrame", ours: "DataFrame | None" = None) -> "Figure":
    """Stacked bars of the published win, tie and lose shares with the net win and its interval (paper: Figure 1a)."""
    import pandas as pd

    caption = (
        "Shares of the test prompts in percent, in the colour of the set that is preferred; at the right the net win "
        "(win minus lose) with a 95% interval, which is ours: 1,030 prompts, one training run. The figure on another "
        "base model is one whose base our source does not name."
    )
    weakest = pairwise.loc[pairwise.net.idxmin()]
    title = f"Published: the longest 1,000 beat every rival, {style.name_of(weakest.against)} by least"
    title = title if weakest.low > 0 else "Published: the longest 1,000 do not win everywhere"
    # Above a group of bars stand the base model and the trained set, or for a run of ours also the judge.
    heads = [f"{style.plain(style.name_of(row.arm))}, {row.base}" for row in pairwise.itertuples()]
    labels = [f"against {style.plain(style.name_of(row.against))}, {row.judge}" for row in pairwise.itertuples()]
    for row in ours.itertuples() if ours is not None else ():
        heads.append(f"{style.plain(style.name_of(row.arm))}, {row.run}, {style.plain(row.judge)}")
        labels.append(f"against {style.plain(style.name_of(row.against))}")
    rows = pd.concat([pairwise, ours], ignore_index=True).assign(head=heads)
    # There is room for that line above each group.
    rows["place"] = rows.index + 1.1 * (~rows["head"].duplicated()).cumsum() - 1.1
    page, axes = style.make_page(0.3 * (rows.place.max() + 1) + 0.15, title, caption, "", 3.3, 1.35, 0.4)
    shares = [list(rows[name]) for name in ("win", "tie", "lose")]
    style.draw_shares(axes, list(rows.place), shares, list(zip(rows.arm, rows.against, strict=True)))
    for row in rows.itertuples():
        text = f"{row.net:+.1f} ± {(row.high - row.low) / 2:.1f}"
        style.annotate(axes, text, (1, row.place), (88, 0), xycoords=style.BESIDE, ha="right")
    style.label_rows(axes, labels, places=rows.place)
    kind: Any = {"xycoords": ("figure fraction", "data"), "size": SMALL, "weight": "bold", "color": QUIET}
    for row in rows.drop_duplicates("head").itertuples():
        style.annotate(axes, row.head, (style.MARGIN / style.WIDTH, row.place - 0.85), (0, 0), **kind)
    axes.set(xlim=(0, 100), ylim=(rows.place.max() + 0.6, -1.1), xlabel="share of prompts, %")
    return page


_JUDGES = {"GPT-4": ("o", False), "PaLM-2": ("s", True)}
"""Mark of each of the paper's judges, and whether it is hollow."""


def draw_length_against_wins(pairwise: "DataFrame", lengths: "DataFrame", ours: "DataFrame | None" = None) -> "Figure":
    """How long each set's training responses are, and how far the longest beat it (paper: Figure 6c with Figure 1a).

    lengths: the table `lengths` of stage 01, whose means are ours; ours: with the rival's `words`.
    """
    import pandas as pd

    sizes = dict(zip(lengths.dataset, lengths["mean"], strict=True))
    shown = pairwise[(pairwise.base == "Llama-2-7B") & pairwise.against.isin(sizes)]
    mine, lima = sizes["alpaca-1k-longest-published"], shown[shown.against == "lima-1k"]
    own = pd.DataFrame() if ours is None else ours
    names = sorted(["alpaca-1k-longest-published", *dict.fromkeys(shown.against)], key=sizes.__getitem__)
    arms, words = [*names, *own.get("against", [])], [*map(sizes.__getitem__, names), *own.get("words", [])]
    wins = [shown[shown.against == name] for name in names] + [own.iloc[[place]] for place in range(len(own))]
    labels = list(map(style.name_of, names))
    labels += [f"{style.plain(style.name_of(row.against))}, {style.plain(row.judge)}" for row in own.itertuples()]
    caption = (
        "Left: mean NLTK words of each set's training responses (measured here). Right: Llama-2-7B, published net win "
        "of the longest 1,000 over each (win minus lose), with 95% intervals (ours). If length decided, the longest "
        "would lose to LIMA. The win rates of Figures 6a, 6b and 7 (answers forced or asked to be long; epochs) are "
        "not published as numbers and not drawn."
    )
    if len(own):
        caption += f" Below the line, as diamonds: {own.run.iloc[0]}, net win of {style.name_of(own.arm.iloc[0])}."
    title = f"Published: LIMA's training responses are {sizes['lima-1k'] / mine:.1f} times as long, and "
    title += "lose" if (lima.low > 0).all() else "do not lose for sure"
    page, axes = style.make_page(0.55 * len(arms) + 0.4, title, caption, "", 2.9, 0.35, 0.45)
    left, right = style.split(axes, ["words of a training response", "net win of the longest over it, points"], 0.3)
    colours = list(map(style.colour_of, arms))
    style.draw_bars(left, words, labels, colours)
    right.axvline(0, color=FAINT, lw=1)
    for place, (colour, found) in enumerate(zip(colours, wins, strict=True)):
        _draw_wins(right, place, colour, found)
    for part in (left, right) if len(own) else ():
        part.axhline(len(names) - 0.5, color=FAINT, lw=1)
    lowest = min([-8, *own.get("low", [])])
    left.set(xlim=(0, 1.25 * max(words)))
    right.set(xlim=(lowest, 1.15 * max(found.high.max() for found in wins)), ylim=left.get_ylim())
    return page


def _draw_wins(axes: "Axes", place: int, colour: str, found: "DataFrame") -> None:
    """Net wins over one set by judge, in its colour; the longest set itself has none, and says so."""
    if found.empty:
        style.annotate(axes, "the longest themselves", (0, place), (8, 0), color=colour, size=9)
    for number, row in enumerate(found.itertuples()):
        mark, is_hollow = _JUDGES.get(row.judge, ("D", False))
        at, bounds = place + 0.34 * (number - (len(found) - 1) / 2), [[row.net], [row.low], [row.high]]
        style.draw_intervals(axes, [at], bounds, colour, mark, mfc=PAPER if is_hollow else colour)
        if row.judge in _JUDGES:
            style.annotate(axes, row.judge, (row.high, at), (6, 0), color=QUIET, size=SMALL)
