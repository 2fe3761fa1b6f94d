"""Scores with intervals as rows of dots: the paper's Figure 5 and Tables 1 and 2, and beside them a run of ours.

`ours`, where a function takes it: what a run measured of the same, as `evidence.beside_paper` gives it.
"""

from typing import TYPE_CHECKING, Any

from nbutils.figures import style
from nbutils.figures.style import FAINT, QUIET, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

NOTHING_HERE = "Beside it nothing of ours: no model of this size was trained in this repository yet."


def draw_open_llm(averages: "DataFrame", note: str = "", ours: "DataFrame | None" = None) -> "Figure":
    """Dots of the published four-task averages (paper: Figure 5), and of ours with their intervals."""
    caption = (
        "Llama-2-7B, mean of ARC-challenge, MMLU, TruthfulQA and Winogrande in percent, as published in Figure 5; the "
        "values per task, which an interval would need, are not. The unrefined longest are said to gain about one "
        "point. " + (NOTHING_HERE if ours is None or ours.empty else "")
    )
    title = "Published: no knowledge is lost on four Open LLM tasks"
    published = averages.assign(heading="", value=averages.average, low=averages.average, high=averages.average)
    rows = _stack(published, ours)
    page, axes = style.make_page(0.42 * (rows.place.max() + 1), title, caption, note, 3.3, 0.8, 0.4)
    for _, block in rows.groupby("heading", sort=False):
        if (start := block[block.arm == "base model"].value.max()) == start:
            axes.plot([start, start], [block.place.min() - 0.3, block.place.max() + 0.3], color=FAINT, lw=1)
            for row in block.itertuples():
                axes.plot([start, row.value], [row.place, row.place], color=row.colour, lw=3, alpha=0.35)
    _draw_scores(axes, rows, "{:.1f}", lw=1.4, ms=7, weight="bold")
    _finish(axes, rows, (rows.low.min() - 0.4, rows.high.max() + 0.6), "mean accuracy, %")
    return page


def draw_alpaca_eval(rates: "DataFrame", note: str = "", ours: "DataFrame | None" = None) -> "Figure":
    """The published AlpacaEval 2.0 win rates with intervals, beside the leaderboard's neighbours (paper: Table 1)."""
    shown = rates[rates.base == "Llama-2-7B"].sort_values("win_rate", ascending=False, ignore_index=True)
    of_paper = shown.source == "Table 1"
    best = shown[of_paper].iloc[0]
    above = int((shown.win_rate > best.win_rate).sum())
    within = shown[~of_paper & shown.win_rate.between(best.low, best.high)]
    caption = (
        "Models built on Llama-2-7B: win rate against GPT-4 Turbo in percent, with 95% intervals over the 805 prompts "
        "(the leaderboard's own, or estimated alike). Coloured: the paper's Table 1. Grey: the public leaderboard, on "
        f"which {above} models of the kind stand above the paper's best; whether the paper counted both is not known. "
        + ("" if ours is None or ours.empty else "Another judge's rates are not on the same scale.")
    )
    title = f"Published: “2nd highest” is a rank within the noise: {len(within)} rivals lie inside the interval"
    colours = shown.arm.map(style.colour_of).where(of_paper, QUIET)
    rows = _stack(shown.assign(heading="", value=shown.win_rate, colour=colours), ours)
    page, axes = style.make_page(0.33 * (rows.place.max() + 1), title, caption, note, 4.3, 0.6, 0.42)
    axes.fill_betweenx([-0.5, len(shown) - 0.5], best.low, best.high, color=style.colour_of(best.arm), alpha=0.12, lw=0)
    _draw_scores(axes, rows, "{:.2f}", size=9)
    limits = (0, max([14, *1.15 * rows.high[len(shown) :]]))
    _finish(axes, rows, limits, "AlpacaEval 2.0 win rate, %")
    return page


def draw_mt_bench(scores: "DataFrame", note: str = "", ours: "DataFrame | None" = None) -> "Figure":
    """The published MT-Bench scores with intervals, one block per base model (paper: Table 2)."""
    caption = (
        "MT-Bench scores (GPT-4, 1 to 10) as published in Table 2, with 95% intervals: a standard error of 0.30 a "
        "score, as measured on another project's public judgments (0.25 to 0.36). They leave out the variation between "
        "training runs: a user's re-run of the first scored 4.32 where the table has 3.96. "
        + (NOTHING_HERE if ours is None or ours.empty else "Another judge's scores are not on the same scale.")
    )
    title = "Published: within a base model most MT-Bench differences are smaller than their error"
    bases = ["Llama-2-7B", "Llama-2-13B", "Mistral-7B"]
    ordered = scores.sort_values("score", ascending=False, kind="stable").set_index("base").loc[bases]
    rows = _stack(ordered.reset_index(names="heading").rename(columns={"score": "value"}), ours)
    page, axes = style.make_page(0.3 * (rows.place.max() + 1), title, caption, note, 3.3, 0.7, 0.42)
    _draw_scores(axes, rows, "{:.2f}", size=9)
    limits = (min(2.8, rows.low.min() - 0.2), max(8.4, rows.high.max() + 0.8))
    _finish(axes, rows, limits, "MT-Bench score")
    return page


def _stack(published: "DataFrame", ours: "DataFrame | None") -> "DataFrame":
    """Rows in blocks, each called `heading`, one below the other: `arm`, `value`, `low`, `high`, `colour`, `place`.

    Of ours a block for each judge (or one, where there is no judge), the highest value first.
    """
    import pandas as pd

    parts = [published]
    if ours is not None:
        for judge, block in ours.groupby("judge", sort=False):
            heading = ", ".join(filter(None, [block.run.iloc[0], style.plain(str(judge))]))
            parts.append(block.sort_values("value", ascending=False, kind="stable").assign(heading=heading))
    rows = pd.concat(parts, ignore_index=True).reindex(columns=["heading", "arm", "value", "low", "high", "colour"])
    blocks = (rows.heading != rows.heading.shift()).cumsum() - 1
    return rows.assign(colour=rows.colour.fillna(rows.arm.map(style.colour_of)), place=rows.index + 0.8 * blocks)


def _draw_scores(axes: "Axes", rows: "DataFrame", number: str, ms: float = 6, lw: float = 1.8, **text: Any) -> None:
    style.draw_intervals(axes, rows.place, [rows.value, rows.low, rows.high], rows.colour, ms=ms, lw=lw)
    for row in rows.itertuples():
        style.annotate(axes, number.format(row.value), (row.high, row.place), (ms, 0), **text)


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


def draw_pairwise(pairwise: "DataFrame", note: str = "", ours: "DataFrame | None" = None) -> "Figure":
    """Stacked bars of the published win, tie and lose shares with the net win and its interval (paper: Figure 1a)."""
    import pandas as pd

    caption = (
        "Shares of the test prompts in percent; at the right the net win (win minus lose) with a 95% interval, which "
        "is ours: 1,030 prompts, one training run. The figure on another base model is one whose base our source does "
        "not name. " + (NOTHING_HERE if ours is None or ours.empty else "")
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
    page, axes = style.make_page(0.3 * (rows.place.max() + 1) + 0.15, title, caption, note, 3.3, 1.35, 0.4)
    style.draw_shares(axes, list(rows.place), [list(rows[name]) for name in style.VERDICT_COLOURS])
    for row in rows.itertuples():
        text = f"{row.net:+.1f} ± {(row.high - row.low) / 2:.1f}"
        style.annotate(axes, text, (1, row.place), (88, 0), xycoords=style.BESIDE, ha="right")
    style.label_rows(axes, labels, places=rows.place)
    kind: Any = {"xycoords": ("figure fraction", "data"), "size": 8.5, "weight": "bold", "color": QUIET}
    for row in rows.drop_duplicates("head").itertuples():
        style.annotate(axes, row.head, (style.MARGIN / style.WIDTH, row.place - 0.85), (0, 0), **kind)
    axes.set(xlim=(0, 100), ylim=(rows.place.max() + 0.6, -1.1), xlabel="share of prompts, %")
    return page


def draw_length_against_wins(
    pairwise: "DataFrame", lengths: "DataFrame", note: str = "", ours: "DataFrame | None" = None
) -> "Figure":
    """How long a rival's training responses are, and how far the longest beat it (paper: Figure 6c with Figure 1a).

    lengths: the table `lengths` of stage 01, whose means are ours; ours: with the rival's `words`.
    """
    sizes = dict(zip(lengths.dataset, lengths["mean"], strict=True))
    shown = pairwise[(pairwise.base == "Llama-2-7B") & pairwise.against.isin(sizes)]
    mine = sizes["alpaca-1k-longest-published"]
    rivals = list(ours.itertuples()) if ours is not None else []
    caption = (
        "Llama-2-7B. Across: mean NLTK words of the rival's training responses (measured here). Up: published net win "
        "of the longest 1,000 over it by GPT-4 (circles) and PaLM-2 (squares), with 95% interval (ours). If length "
        "decided, LIMA would win. The win rates of Figures 6a, 6b and 7 (answers forced or asked to be long; epochs) "
        "are not published as numbers and not drawn. "
    )
    arm = style.plain(style.name_of(rivals[0].arm)) if rivals else ""
    caption += f"Diamonds: {rivals[0].run}, net win of {arm}." if rivals else NOTHING_HERE
    title = f"Published: LIMA's training responses are {sizes['lima-1k'] / mine:.1f} times as long, and lose"
    page, axes = style.make_page(3.1, title, caption, note, 0.75, 0.4, 0.45)
    axes.axhline(0, color=FAINT, lw=1)
    axes.axvline(mine, color=VERMILION, lw=1.2, ls=(0, (4, 3)))
    style.annotate(axes, f"the longest 1,000: {mine:.0f}", (mine, 78), (6, 0), color=VERMILION, size=9)
    for row in shown.itertuples():
        # The two judges of a rival stand side by side, its name beside the second.
        shift, colour = (-5 if row.judge == "GPT-4" else 5), style.colour_of(row.against)
        x, is_lima = sizes[row.against] + shift, row.against == "lima-1k"
        axes.plot([x, x], [row.low, row.high], color=colour, lw=1.8)
        axes.plot(x, row.net, "o" if row.judge == "GPT-4" else "s", color=colour, ms=7, mec="white")
        if is_lima:  # the judges are named once, where there is room
            side, offset = ("right", -8) if shift < 0 else ("left", 8)
            style.annotate(axes, row.judge, (x, row.net), (offset, 0), ha=side, color=QUIET, size=8)
        if row.judge != "GPT-4":
            style.annotate(axes, style.name_of(row.against), (x, row.net), (46 if is_lima else 8, 0), color=colour)
    for place, row in enumerate(rivals):
        x, colour = row.words + 12, style.colour_of(row.against)
        axes.plot([x, x], [row.low, row.high], color=colour, lw=1.2)
        axes.plot(x, row.net, "D", color=colour, ms=6, mec="white")
        label = f"{style.plain(style.name_of(row.against))}, {style.plain(row.judge)}"
        side, offset = ("right", -8) if x > 400 else ("left", 8)  # names at the right edge would leave the page
        style.annotate(axes, label, (x, row.net), (offset, -5 * (place % 2)), ha=side, size=8, color=colour)
    right, lowest = max((row.words for row in rivals), default=0), min((row.low for row in rivals), default=0)
    axes.set(xlim=(0, max(700, 1.25 * right)), ylim=(min(-8, lowest - 8), 100 if rivals else 84))
    axes.set(xlabel="mean words of the rival's training responses", ylabel="net win of the longest, points")
    return page
