"""The figures of stage 01, each a function of small tables (as `explore` writes them) and a note for the footer."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.core.errors import InputError
from nbutils.figures import style
from nbutils.figures.style import FAINT, INK, LONGEST, OTHER, PAPER, QUIET, SHADE, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


def draw_lengths(histograms: "DataFrame", lengths: "DataFrame", note: str = "") -> "Figure":
    """Ridges of response lengths on one logarithmic axis, with medians and means (paper: Figure 1b)."""
    pool = lengths.dataset.iloc[0]
    # The project's own sample is of interest only where it stands in for the real data.
    shown = lengths[(lengths.dataset != "sample") | (pool == "sample")].sort_values("median", ignore_index=True)
    empty = histograms[(histograms.high == 1) & histograms.dataset.isin(shown.dataset)].rows.sum()
    caption = (
        "Length of the responses in NLTK words: the same area for every dataset, a triangle at its median. "
        + f"{empty} empty responses are not drawn. " * bool(empty)
        + "Figure 1b of the paper has the means 51.4 (all of Alpaca), 256.8 (longest), 531.3 (LIMA)."
        * (pool == "alpaca-52k")
    )
    means = dict(zip(shown.dataset, shown["mean"], strict=True))
    longest = next(name for name in shown.dataset if style.is_longest(name))
    rows, times = int(shown[shown.dataset == longest].rows.iloc[0]), means[longest] / means[pool]
    title = f"The {rows:,} longest have {times:.1f} times the words of the average response"
    title += ", and half those of LIMA" if 1.8 < means.get("lima-1k", 0) / means[longest] < 2.2 else ""
    page, axes = style.make_page(0.82 * len(shown) + 0.1, title, caption, note, 2.4, 1.55, 0.42)
    ridges = [ridge_of(histograms[histograms.dataset == name]) for name in shown.dataset]
    tallest = max(density.max() for _, density in ridges)
    for place, (row, (edges, density)) in enumerate(zip(shown.itertuples(), ridges, strict=True)):
        _draw_ridge(axes, edges, density / tallest, row, place)
    style.label_rows(axes, list(map(style.name_of, shown.dataset)), list(map(style.colour_of, shown.dataset)))
    for label in axes.get_yticklabels():
        label.set_verticalalignment("bottom")
    for right, text in ((44, "median"), (100, "mean")):
        style.annotate(axes, text, (1, -0.62), (right, 5), xycoords=style.BESIDE, ha="right", color=QUIET, size=SMALL)
    style.use_log_axis(axes, 4096)
    axes.set(xlim=(0.7, 4096), ylim=(len(shown) - 0.7, -0.95))
    axes.set_xlabel("NLTK words per response", size=9)
    return page


def ridge_of(bins: "DataFrame") -> tuple[np.ndarray, np.ndarray]:
    """Edges of a histogram's bins in words, and in each the share of the rows over its width in octaves."""
    drawn = bins[bins.low >= 1]
    # A bin [low, high) of whole numbers covers low - 1/2 to high - 1/2 on the line.
    edges = np.append(drawn.low, drawn.high.iloc[-1]) - 0.5
    return edges, drawn.rows.to_numpy() / drawn.rows.sum() / np.diff(np.log2(edges))


def _draw_ridge(axes: "Axes", edges: np.ndarray, height: np.ndarray, row: Any, place: int) -> None:
    """A dataset's ridge; height: of its bins, as a part of the tallest of all, which ends below the row above."""
    colour = style.colour_of(row.dataset)
    axes.fill_between(edges, place - 0.8 * np.append(height, height[-1]), place, step="post", color=colour, lw=0)
    axes.plot(row.median, place + 0.07, "^", color=INK, ms=6, mew=0)
    kind: Any = {"xycoords": style.BESIDE, "ha": "right"}
    style.annotate(axes, f"{row.median:,.0f}", (1, place), (44, 5), color=INK, **kind)
    text = style.text_colour(colour)
    style.annotate(axes, f"{row.mean:,.1f}", (1, place), (100, 5), color=text, weight="bold", **kind)
    style.annotate(axes, f"{row.rows:,} rows", (0, place), (-8, -7), color=QUIET, size=SMALL, **kind)


def draw_measures(measures: "DataFrame", note: str = "") -> "Figure":
    """Bars: how many of the longest under each measure are in the paper's selection."""
    shown = measures[measures.pool == measures.pool.iloc[0]].sort_values("shared", ascending=False, kind="stable")
    k, published = int(shown.k.iloc[0]), shown.reference.iloc[0].endswith("published")
    what = "published selection" if published else "selection by NLTK words"
    chance = shown.by_chance.iloc[0]
    caption = f"Rows of the {what} among the {k:,} longest under each measure; chance alone gives {chance:.0f}."
    chars = shown[(shown.measure == "chars") & (shown.text == "response")].shared.iloc[0]
    title = f"The measure decides what is selected: characters keep {chars} of {k:,} rows"
    if published and int(shown.shared.iloc[0]) == k:
        title = f"The paper counted NLTK words: only they give back all {k:,} rows"
    page, axes = style.make_page(0.36 * len(shown), title, caption, note, left=2.75, right=0.8)
    of_text = ["" if text == "response" else f" of the {text}" for text in shown.text]
    names = {"nltk_words": "NLTK words", "words": "words between spaces", "chars": "characters"}
    names["tokens"] = "Llama-2 tokens"
    colours = [LONGEST if measure == "nltk_words" else OTHER for measure in shown.measure]
    style.draw_bars(axes, list(shown.shared), list(shown.measure.map(names) + of_text), colours)
    axes.set_xlim(0, k)
    return page


def draw_content(content: "DataFrame", note: str = "") -> "Figure":
    """Pairs of dots: first verbs and traits of the longest examples against those of the whole dataset."""
    shown = content[content.pool == content.pool.iloc[0]]
    verbs, traits = shown[shown.kind == "first verb"], shown[shown.kind == "trait"]
    caption = (
        "First words of the instructions, and traits of the examples. An unfinished end has neither terminal "
        "punctuation nor a closing sign; an example repeats itself when over a fifth of its word 8-grams came before."
    )
    leading = verbs.nlargest(3, "in_selection", keep="first")
    *some, last = (f"“{verb}”" for verb in leading.value)
    in_longest, in_all = style.percent(leading.share_selection.sum()), style.percent(leading.share_pool.sum())
    title = f"{', '.join(some)} and {last} open {in_longest} of the longest examples, and {in_all} of all"
    # The verbs that open most of the selection, and those of the dataset that it hardly has.
    frequent = verbs.nlargest(8, "in_selection", keep="first")
    rare = verbs[(verbs.share_selection < verbs.share_pool / 3) & ~verbs.value.isin(frequent.value)]
    rare = rare.nlargest(4, "in_pool", keep="first")
    rows: list[Any] = [*frequent.itertuples(), *rare.itertuples(), None, *traits.itertuples()]
    page, axes = style.make_page(0.28 * len(rows) + 0.2, title, caption, note, left=1.75, right=0.6)
    for place, row in enumerate(rows):
        if row is None:
            continue
        axes.plot([row.share_pool, row.share_selection], [place, place], color=FAINT, lw=2, zorder=1)
        axes.scatter(row.share_pool, place, s=44, facecolor=PAPER, edgecolor=QUIET, lw=1.5, zorder=2)
        axes.scatter(row.share_selection, place, s=44, color=LONGEST, zorder=3)
        more = row.share_selection >= row.share_pool
        for share, colour, is_right in ((row.share_selection, LONGEST, more), (row.share_pool, QUIET, not more)):
            offset, align = (8, "left") if is_right else (-8, "right")
            style.annotate(axes, style.percent(share), (share, place), (offset, 0), color=colour, size=SMALL, ha=align)
    style.label_rows(axes, [*(f"“{verb}”" for verb in [*frequent.value, *rare.value]), "", *traits.value])
    most = max(max(row.share_pool, row.share_selection) for row in rows if row)
    axes.set(xlim=(-0.09 * most, 1.01 * most), ylim=(len(rows) - 0.5, -1.1))
    style.hide_x_axis(axes)
    kind: Any = {"ha": "center", "va": "baseline", "size": 9}
    style.annotate(axes, "the longest", (rows[0].share_selection, 0), (0, 9), color=LONGEST, **kind)
    style.annotate(axes, "all", (rows[0].share_pool, 0), (0, 9), color=QUIET, **kind)
    return page


def draw_scores(scores: "DataFrame", note: str = "") -> "Figure":
    """Columns: GPT-3.5's ratings of the longest examples beside those of AlpaGasus-1k."""
    names = ["alpaca-1k-longest-published", "alpaca-1k-score"]
    if not set(names) <= set(scores.dataset):
        raise InputError("the ratings come with the published selections, which are not at hand")
    shown = scores[scores.dataset.isin(names)]
    longest = shown[shown.dataset == names[0]].set_index("score").rows
    rows, kept = longest.sum(), longest[longest.index >= 4.5].sum()
    caption = (
        "Accuracy rated 0 to 5 by GPT-3.5, as in AlpaGasus, which keeps 4.5 and more (shaded). "
        f"Mean of the longest: {(longest.index * longest).sum() / rows:.2f}."
    )
    title = f"GPT-3.5 would have thrown away {rows - kept} of the {rows:,} longest examples"
    page, axes = style.make_page(2.9, title, caption, note, left=0.4, right=0.4, bottom=0.42)
    axes.axvspan(4.25, 5.25, color=SHADE, zorder=0)
    # Bars of one rating stand side by side around its tick, a bar alone on it.
    rated = shown.assign(beside=shown.groupby("score").dataset.transform("size"))
    rated["at"] = rated.score + 0.2 * (rated.groupby("score").cumcount() - (rated.beside - 1) / 2)
    for name in names:
        mine, colour = rated[rated.dataset == name], style.colour_of(name)
        bars = axes.bar(mine["at"], mine.rows, width=0.18, color=colour)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, weight="bold")
        tallest = mine.loc[mine.rows.idxmax()]
        kind: Any = {"ha": "center", "va": "baseline", "color": colour}
        style.annotate(axes, style.name_of(name), (tallest["at"], tallest.rows), (0, 18), **kind)
    axes.set_xticks(sorted(set(shown.score)))
    axes.set(xlim=(2.75, 5.25), ylim=(0, 1.16 * shown.rows.max()), xlabel="rating", ylabel="", yticks=[])
    return page


def draw_overlaps(overlaps: "DataFrame", note: str = "") -> "Figure":
    """Heat map: rows that two selections from one dataset share."""
    import pandas as pd
    import seaborn as sns
    from matplotlib.colors import PowerNorm

    shown = overlaps[overlaps.pool == overlaps.pool.iloc[0]]
    drawn = [name for name in dict.fromkeys(shown.left) if not name.endswith("published")]
    names = sorted(drawn, key=lambda name: (not style.is_longest(name), not name.endswith("score")))
    turned = shown.rename(columns={"left": "right", "right": "left"})
    pairs = pd.concat([shown, turned]).drop_duplicates(["left", "right"]).set_index(["left", "right"])
    shared, of = (pairs[column].unstack().loc[names, names] for column in ("shared", "of"))
    caption = (
        "Rows in common; on the diagonal, the size. "
        f"Two random selections as large as the first share {pairs.by_chance[names[0], names[0]]:.0f}."
    )
    rival, words = _rival_of(names)
    title = (
        f"The longest and {words} have {shared.loc[names[0], rival]} of {of.loc[names[0], rival]:,} examples in common"
    )
    page, axes = style.make_page(0.52 * len(names), title, caption, note, left=0.12, right=2.9)
    kind: Any = {"annot": shared, "fmt": ",", "annot_kws": {"size": 9}, "cbar": False, "linewidths": 2, "ax": axes}
    above, diagonal = np.triu(np.ones_like(of, dtype=bool)), np.eye(len(names), dtype=bool)
    kind |= {"xticklabels": False, "yticklabels": False}
    sns.heatmap(shared / of, mask=above, cmap="Greys", norm=PowerNorm(0.6, -0.02, 1.3), **kind)
    sns.heatmap(shared / of, mask=~diagonal, cmap=[PAPER], **kind | {"annot_kws": {"size": 9, "color": QUIET}})
    cells: Any = axes.collections[0].get_facecolor()
    for text, colour in zip(axes.texts, cells[~above.ravel()], strict=False):
        text.set_color(style.text_on(colour[:3]))
    for place, name in enumerate(names):
        weight = "normal" if place else "bold"
        axes.text(place + 1.12, place + 0.5, label_selection(name), va="center", weight=weight)
    axes.set(xlabel="", ylabel="")
    axes.set_axis_off()
    return page


def _rival_of(names: Iterable[str]) -> tuple[str, str]:
    """What a title holds against the longest, and its name there: AlpaGasus-1k, else the random selection."""
    random = [name for name in names if re.search(r"\d+k?-random-\d+$", name)]
    return ("alpaca-1k-score", "AlpaGasus-1k") if "alpaca-1k-score" in names else (random[0], "a random choice")


def label_selection(arm: str) -> str:
    """What an arm selects, in words, without the dataset that it selects from."""
    if arm in style.NAMES and not style.is_longest(arm):
        return style.NAMES[arm]
    rule = re.sub(r"^[a-z]+-(\d+k?-)?", "", arm)
    if found := re.fullmatch(r"random-(token-matched-)?(\d+)", rule):
        return f"random, {'token-matched, ' if found[1] else ''}seed {found[2]}"
    words = {"longest": "longest responses", "longest-stratified": "longest of each stratum"}
    words |= {"longest-instruction": "longest instructions", "shortest": "shortest responses"}
    return words.get(rule, arm)


def draw_budget(budget: "DataFrame", note: str = "") -> "Figure":
    """Bars: tokens in the loss per epoch of every training set of the paper, and of the controls."""
    pool = budget.arm.iloc[0].split("-")[0]
    is_meant = budget.arm.isin(list(style.NAMES)) | budget.arm.str.startswith(f"{pool}-")
    shown = budget[is_meant & (budget.rows < budget.rows.iloc[0] * 10)].sort_values("trained", ascending=False)
    caption = (
        f"{shown.unit.iloc[0]} in the loss per epoch: responses, and one end of sequence each. In brackets: examples."
    )
    trained = dict(zip(shown.arm, shown.trained, strict=True))
    longest = next(value for name, value in trained.items() if style.is_longest(name))
    rival, words = _rival_of(trained)
    times = f"the longest have {longest / trained[rival]:.1f} times the tokens of {words}"
    title = f"Equal in examples, not in training: {times}"
    page, axes = style.make_page(0.34 * len(shown), title, caption, note, left=3.1, right=0.9)
    labels = [f"{style.NAMES.get(row.arm) or label_selection(row.arm)} ({row.rows:,})" for row in shown.itertuples()]
    style.draw_bars(axes, list(shown.trained), labels, list(map(style.colour_of, shown.arm)))
    return page
