"""The paper's figures in this project's design: its published numbers, with the intervals that they lack, beside ours.

Each function takes small tables (as `claims.write_tables` writes them), a note for the footer and what a run of ours
measured of the same (`ours`). What the paper shows only as bars without numbers (Figure 2's sets, the win rates of
Figures 6 and 7) is said to be missing, never guessed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.figures_scores import NOTHING_HERE, Ours, draw_alpaca_eval, draw_mt_bench, draw_open_llm
from nbutils.style import (
    FAINT,
    MARGIN,
    QUIET,
    VERDICT_COLOURS,
    VERMILION,
    WIDTH,
    colour_of,
    draw_shares,
    in_style,
    label_rows,
    make_page,
    name_of,
    page_of,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

JUDGE_MARKS = {"GPT-4": "o", "PaLM-2": "s"}


# --- figure 1a -----------------------------------------------------------------------------------------------------


@in_style
def draw_pairwise(pairwise: "DataFrame", note: str = "", ours: Ours = ()) -> "Figure":
    """Stacked bars of the published win, tie and lose shares with the net win and its interval (paper: Figure 1a)."""
    rows = [*pairwise.to_dict("records"), *ours]
    caption = (
        "Shares of the test prompts in percent; at the right the net win (win minus lose) with a 95% interval, which "
        "is ours: 1,030 prompts, one training run. The figure on another base model is one whose base our source does "
        "not name. " + ("" if ours else NOTHING_HERE)
    )
    heads = list(map(_head_of, rows))
    places = _spread(heads)
    axes = make_page(0.3 * (places[-1] + 1) + 0.15, _title_of_pairwise(pairwise), caption, note, 3.3, 1.35, 0.4)
    draw_shares(axes, places, [[row[name] for row in rows] for name in VERDICT_COLOURS])
    for place, row in zip(places, rows, strict=True):
        text = f"{row['net']:+.1f} ± {(row['high'] - row['low']) / 2:.1f}"
        axes.annotate(text, (1, place), (88, 0), ("axes fraction", "data"), "offset points", ha="right", va="center")
    axes.set_yticks(places, [_pair_label(row) for row in rows])
    _write_heads(axes, heads, places)
    axes.set(xlim=(0, 100), ylim=(places[-1] + 0.6, -1.1), xlabel="share of prompts, %")
    return page_of(axes)


def _title_of_pairwise(pairwise: "DataFrame") -> str:
    weakest = pairwise.sort_values("net").iloc[0]
    if weakest.low <= 0:
        return "Published: the longest 1,000 do not win everywhere"
    return f"Published: the longest 1,000 beat every rival, {name_of(weakest.against)} by least"


def _head_of(row: Mapping[str, Any]) -> str:
    """What stands above a group of bars: the base model and the trained set, or for a run of ours also the judge."""
    arm = plain(name_of(row["arm"]))
    return f"{arm}, {row['run']}, {plain(row['judge'])}" if "run" in row else f"{arm}, {row['base']}"


def _spread(heads: Sequence[str]) -> list[float]:
    """Places of rows, with room for a line above each new head."""
    return [place + 1.1 * (len(set(heads[: place + 1])) - 1) for place in range(len(heads))]


def _write_heads(axes: "Axes", heads: Sequence[str], places: Sequence[float]) -> None:
    kind: Any = {"xycoords": ("figure fraction", "data"), "va": "center", "size": 8.5, "weight": "bold"}
    for head in dict.fromkeys(heads):
        place = places[heads.index(head)] - 0.85
        axes.annotate(head, (MARGIN / WIDTH, place), color=QUIET, **kind)


def _pair_label(row: Mapping[str, Any]) -> str:
    against = plain(name_of(row["against"]))
    return f"against {against}" if "run" in row else f"against {against}, {row['judge']}"


# --- figure 2 ------------------------------------------------------------------------------------------------------


@in_style
def draw_test_sets(results: Sequence[Mapping[str, str]], note: str = "") -> "Figure":
    """Stacked bars per test set, judge and baseline of a run, by the exact rule (paper: Figure 2).

    results: rows of stage 06's summary.csv.
    """
    rows = [row for row in results if row["test_set"] != "all" and row["rule"] == "exact"]
    caption = (
        "Share of each test set's prompts in percent, with its number of prompts. Figure 2 of the paper shows such "
        "bars for its five sets; their values are not published as numbers, so they are not drawn beside these."
    )
    shares = [[100 * int(row[name]) / max(1, int(row["prompts"])) for row in rows] for name in VERDICT_COLOURS]
    title = f"{name_of(rows[0]['arm'])} on each test set"
    axes = make_page(0.3 * len(rows) + 0.2, title, caption, note, 4.4, 0.4, 0.4)
    draw_shares(axes, range(len(rows)), shares)
    label_rows(axes, [_set_label(row) for row in rows])
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.75), xlabel="share of prompts, %")
    return page_of(axes)


def _set_label(row: Mapping[str, str]) -> str:
    return plain(f"{row['judge']}, against {row['baseline']}: {row['test_set']} ({row['prompts']})", 58)


# --- figure 6 ------------------------------------------------------------------------------------------------------


@in_style
def draw_length_against_wins(pairwise: "DataFrame", lengths: "DataFrame", note: str = "", ours: Ours = ()) -> "Figure":
    """How long a rival's training responses are, and how far the longest beat it (paper: Figure 6c with Figure 1a).

    lengths: rows of the table `lengths` of stage 01, whose means are ours; ours: with the rival's `words`.
    """
    sizes = dict(zip(lengths.dataset, lengths["mean"], strict=True))
    shown = pairwise[(pairwise.base == "Llama-2-7B") & pairwise.against.isin(sizes)]
    mine = sizes["alpaca-1k-longest-published"]
    caption = (
        "Llama-2-7B. Across: mean NLTK words of the rival's training responses (measured here). Up: published net win "
        "of the longest 1,000 over it by GPT-4 (circles) and PaLM-2 (squares), with 95% interval (ours). If length "
        "decided, LIMA would win. The win rates of Figures 6a, 6b and 7 (answers forced or asked to be long; epochs) "
        "are not published as numbers and not drawn. "
        + (f"Diamonds: {ours[0]['run']}, net win of {plain(name_of(ours[0]['arm']))}." if ours else NOTHING_HERE)
    )
    axes = make_page(3.1, _title_of_length(sizes), caption, note, 0.75, 0.4, 0.45)
    axes.axhline(0, color=FAINT, lw=1)
    axes.axvline(mine, color=VERMILION, lw=1.2, ls=(0, (4, 3)))
    _write_beside_line(axes, mine, f"the longest 1,000: {mine:.0f}")
    for row in shown.itertuples():
        _draw_rival(axes, row, sizes[row.against])
    for place, row in enumerate(ours):
        _draw_our_rival(axes, row, place)
    right, lowest = max((row["words"] for row in ours), default=0), min((row["low"] for row in ours), default=0)
    axes.set(xlim=(0, max(700, 1.25 * right)), ylim=(min(-8, lowest - 8), 100 if ours else 84))
    axes.set(xlabel="mean words of the rival's training responses", ylabel="net win of the longest, points")
    return page_of(axes)


def _title_of_length(sizes: Mapping[str, float]) -> str:
    ratio = sizes["lima-1k"] / sizes["alpaca-1k-longest-published"]
    return f"Published: LIMA's training responses are {ratio:.1f} times as long, and lose"


def _write_beside_line(axes: "Axes", x: float, text: str) -> None:
    axes.annotate(text, (x, 78), (6, 0), textcoords="offset points", va="center", color=VERMILION, size=9)


def _draw_rival(axes: "Axes", row: Any, length: float) -> None:
    """A published net win over one rival; its two judges stand side by side, its name beside the second."""
    shift, colour = (-5 if row.judge == "GPT-4" else 5), colour_of(row.against)
    axes.plot([length + shift] * 2, [row.low, row.high], color=colour, lw=1.8)
    axes.plot(length + shift, row.net, JUDGE_MARKS[row.judge], color=colour, ms=7, mec="white")
    kind: Any = {"textcoords": "offset points", "va": "center"}
    side, offset = ("right", -8) if shift < 0 else ("left", 8)
    if row.against == "lima-1k":  # the judges are named once, where there is room
        axes.annotate(row.judge, (length + shift, row.net), (offset, 0), ha=side, color=QUIET, size=8, **kind)
    if row.judge != "GPT-4":
        offset = 46 if row.against == "lima-1k" else 8
        axes.annotate(name_of(row.against), (length + shift, row.net), (offset, 0), color=colour, **kind)


def _draw_our_rival(axes: "Axes", row: Mapping[str, Any], place: int) -> None:
    colour, x = colour_of(row["against"]), row["words"] + 12
    axes.plot([x, x], [row["low"], row["high"]], color=colour, lw=1.2)
    axes.plot(x, row["net"], "D", color=colour, ms=6, mec="white")
    kind: Any = {"textcoords": "offset points", "va": "center", "size": 8, "color": colour}
    label = f"{plain(name_of(row['against']))}, {plain(row['judge'])}"
    side, offset = ("right", -8) if x > 400 else ("left", 8)  # names at the right edge would leave the page
    axes.annotate(label, (x, row["net"]), (offset, -5 * (place % 2)), ha=side, **kind)


FIGURES: "dict[str, tuple[tuple[str, ...], Callable[..., Figure]]]" = {
    "paper-figure-1-pairwise": (("paper-pairwise",), draw_pairwise),
    "paper-figure-5-open-llm": (("paper-open-llm",), draw_open_llm),
    "paper-figure-6-length": (("paper-pairwise", "lengths"), draw_length_against_wins),
    "paper-table-1-alpacaeval": (("paper-alpacaeval",), draw_alpaca_eval),
    "paper-table-2-mt-bench": (("paper-mt-bench",), draw_mt_bench),
}
"""Figures that are drawn from committed tables: the tables' names, and the function that takes them in this order."""
