"""The paper's figures in this project's design: its published numbers, with the intervals that they lack, beside ours.

Each function takes small tables (as `claims.write_tables` writes them) and a note for the footer. What the paper shows
only as bars without numbers (Figure 2's sets, the win rates of Figures 6 and 7) is said to be missing, never guessed.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    QUIET,
    STYLE,
    VERMILION,
    colour_of,
    label_rows,
    make_page,
    name_of,
    page_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

VERDICT_COLOURS = {"win": BLUE, "tie": FAINT, "lose": ORANGE}
JUDGE_MARKS = {"GPT-4": "o", "PaLM-2": "s"}

NOTHING_HERE = "Beside it nothing of ours: no model of this size was trained in this repository yet."


def in_style(draw: "Callable[..., Figure]") -> "Callable[..., Figure]":
    """Draw in the project's style, and close the figure, else a notebook would show it twice."""

    @functools.wraps(draw)
    def styled(*tables: Any, **options: Any) -> "Figure":
        import matplotlib.pyplot as plt

        with plt.rc_context(STYLE):
            figure = draw(*tables, **options)
        plt.close(figure)
        return figure

    return styled


# --- figure 1a -----------------------------------------------------------------------------------------------------


@in_style
def draw_pairwise(pairwise: "DataFrame", note: str = "", ours: Sequence[Mapping[str, str]] = ()) -> "Figure":
    """Stacked bars of the published win, tie and lose shares with the net win and its interval (paper: Figure 1a).

    ours: rows of a run's summary.csv that may stand beside them (an LLM judged, and the profile has no note).
    """
    rows = [*pairwise.to_dict("records"), *map(_as_published, ours)]
    caption = (
        "Shares of the test prompts in percent; at the right the net win (win minus lose) with a 95% interval, which "
        "is ours: 1,030 prompts, one training run. Upper part: Llama-2-7B (Figure 1a). Lower part: Llama-2-13B or "
        "Mistral-7B, a figure whose base model our source does not name. " + ("" if ours else NOTHING_HERE)
    )
    groups = [(row["base"], row["arm"]) for row in rows]
    places = [place + 0.7 * (len(set(groups[: place + 1])) - 1) for place in range(len(rows))]
    axes = make_page(0.3 * (places[-1] + 1), _title_of_pairwise(pairwise), caption, note, 3.05, 1.35, 0.4)
    _stack(axes, places, [[row[name] for row in rows] for name in VERDICT_COLOURS])
    for place, row in zip(places, rows, strict=True):
        text = f"{row['net']:+.1f} ± {(row['high'] - row['low']) / 2:.1f}"
        axes.annotate(text, (1, place), (88, 0), ("axes fraction", "data"), "offset points", ha="right", va="center")
    axes.set_yticks(places, [_pair_label(row) for row in rows])
    axes.set(xlim=(0, 100), ylim=(places[-1] + 0.6, -0.6), xlabel="share of prompts, %")
    return page_of(axes)


def _title_of_pairwise(pairwise: "DataFrame") -> str:
    weakest = pairwise.sort_values("net").iloc[0]
    if weakest.low <= 0:
        return "Published: the longest 1,000 do not win everywhere"
    return f"Published: the longest 1,000 beat every rival, {name_of(weakest.against)} by least"


def _pair_label(row: Mapping[str, Any]) -> str:
    refined = "Refined, " if "refined" in row["arm"] else ""
    return f"{refined}against {name_of(row['against'])}, {row['judge']}"


def _as_published(row: Mapping[str, str]) -> dict[str, Any]:
    shares = {name: 100 * int(row[name]) / max(1, int(row["prompts"])) for name in VERDICT_COLOURS}
    net = {"net": 100 * float(row["net_win"]), "low": 100 * float(row["low"]), "high": 100 * float(row["high"])}
    names = {"base": "ours", "arm": row["arm"], "against": row["baseline"], "judge": f"{row['judge']} (ours)"}
    return {**names, **shares, **net}


def _stack(axes: "Axes", places: Sequence[float], shares: Sequence[Sequence[float]]) -> None:
    """Stacked horizontal bars of win, tie and lose (in percent), each with its number where there is room."""
    left = [0.0] * len(places)
    for (name, colour), widths in zip(VERDICT_COLOURS.items(), shares, strict=True):
        bars = axes.barh(places, widths, left=left, color=colour, height=0.74)
        labels = [f"{width:.0f}" if width >= 4 else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color=INK if name == "tie" else "white", size=8.5)
        middle = left[0] + widths[0] / 2
        axes.annotate(
            name, (middle, places[0]), (0, 12), textcoords="offset points", ha="center", color=QUIET, size=8.5
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]


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
    axes = make_page(0.3 * len(rows) + 0.2, title, caption, note, 4.0, 0.4, 0.4)
    _stack(axes, range(len(rows)), shares)
    label_rows(axes, [_set_label(row) for row in rows])
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.75), xlabel="share of prompts, %")
    return page_of(axes)


def _set_label(row: Mapping[str, str]) -> str:
    # Two dollar signs would begin a formula.
    return f"{row['judge']}, against {row['baseline']}: {row['test_set']} ({row['prompts']})".replace("$", r"\$")


# --- figure 5 ------------------------------------------------------------------------------------------------------


@in_style
def draw_open_llm(averages: "DataFrame", note: str = "") -> "Figure":
    """Dots of the published four-task averages (paper: Figure 5)."""
    caption = (
        "Llama-2-7B, mean of ARC-challenge, MMLU, TruthfulQA and Winogrande in percent, as published in Figure 5; the "
        "values per task, which an interval would need, are not. The unrefined longest are said to gain about one "
        "point. " + NOTHING_HERE
    )
    title = "Published: no knowledge is lost on four Open LLM tasks"
    axes = make_page(0.42 * len(averages), title, caption, note, 2.9, 0.7, 0.4)
    base = averages.average.iloc[0]
    axes.axvline(base, color=FAINT, lw=1)
    for place, row in enumerate(averages.itertuples()):
        axes.plot([base, row.average], [place, place], color=colour_of(row.arm), lw=2)
        axes.plot(row.average, place, "o", color=colour_of(row.arm), ms=7)
        _write_at(axes, row.average, place, f"{row.average:.1f}")
    label_rows(axes, [_plain_name(name) for name in averages.arm])
    axes.set(xlim=(base - 0.4, averages.average.max() + 0.6), ylim=(len(averages) - 0.5, -0.5))
    axes.set_xlabel("mean accuracy, %")
    return page_of(axes)


def _write_at(axes: "Axes", x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), (8, 0), textcoords="offset points", va="center", weight="bold")


def _plain_name(arm: str) -> str:
    base, plus, rest = arm.partition("+")
    return name_of(base) + (f" + {rest.replace('neftune', 'NEFTune')}" if plus else "")


# --- figure 6 ------------------------------------------------------------------------------------------------------


@in_style
def draw_length_against_wins(pairwise: "DataFrame", lengths: "DataFrame", note: str = "") -> "Figure":
    """How long a rival's training responses are, and how far the longest beat it (paper: Figure 6c with Figure 1a).

    lengths: rows of the table `lengths` of stage 01, whose means are ours.
    """
    sizes = dict(zip(lengths.dataset, lengths["mean"], strict=True))
    shown = pairwise[(pairwise.base == "Llama-2-7B") & pairwise.against.isin(sizes)]
    mine = sizes["alpaca-1k-longest-published"]
    caption = (
        "Llama-2-7B. Across: mean NLTK words of the rival's training responses (measured here). Up: published net win "
        "of the longest 1,000 over it by GPT-4 (circles) and PaLM-2 (squares), with 95% interval (ours). If length "
        "decided, LIMA would win. The win rates of Figures 6a, 6b and 7 (answers forced or asked to be long; epochs) "
        "are not published as numbers and not drawn."
    )
    axes = make_page(3.1, _title_of_length(sizes), caption, note, 0.75, 0.4, 0.45)
    axes.axhline(0, color=FAINT, lw=1)
    axes.axvline(mine, color=VERMILION, lw=1.2, ls=(0, (4, 3)))
    _write_beside_line(axes, mine, f"the longest 1,000: {mine:.0f}")
    for row in shown.itertuples():
        _draw_rival(axes, row, sizes[row.against])
    axes.set(xlim=(0, 700), ylim=(-8, 84), xlabel="mean words of the rival's training responses")
    axes.set_ylabel("net win of the longest, points")
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


# --- tables 1 and 2 ------------------------------------------------------------------------------------------------


@in_style
def draw_alpaca_eval(rates: "DataFrame", note: str = "") -> "Figure":
    """The published AlpacaEval 2.0 win rates with intervals, beside the leaderboard's neighbours (paper: Table 1)."""
    shown = rates[rates.base == "Llama-2-7B"].sort_values("win_rate", ascending=False, ignore_index=True)
    best = shown[shown.source == "Table 1"].iloc[0]
    above = int((shown.win_rate > best.win_rate).sum())
    within = shown[(shown.source != "Table 1") & shown.win_rate.between(best.low, best.high)]
    caption = (
        "Models built on Llama-2-7B: win rate against GPT-4 Turbo in percent, with 95% intervals over the 805 prompts "
        "(the leaderboard's own, or estimated alike). Coloured: the paper's Table 1. Grey: the public leaderboard, on "
        f"which {above} models of the kind stand above the paper's best; whether the paper counted both is not known."
    )
    title = f"Published: “2nd highest” is a rank within the noise: {len(within)} rivals lie inside the interval"
    axes = make_page(0.33 * len(shown), title, caption, note, 3.85, 0.6, 0.42)
    axes.axvspan(best.low, best.high, color=colour_of(best.arm), alpha=0.12, lw=0)
    colours = [colour_of(row.arm) if row.source == "Table 1" else QUIET for row in shown.itertuples()]
    _draw_intervals(axes, shown.win_rate, shown.low, shown.high, colours)
    label_rows(axes, [_plain_name(name) for name in shown.arm], colours)
    axes.set(xlim=(0, 14), ylim=(len(shown) - 0.4, -0.6), xlabel="AlpacaEval 2.0 win rate, %")
    return page_of(axes)


@in_style
def draw_mt_bench(scores: "DataFrame", note: str = "") -> "Figure":
    """The published MT-Bench scores with intervals, one block per base model (paper: Table 2)."""
    shown = scores[scores.base.isin(["Llama-2-7B", "Llama-2-13B", "Mistral-7B"])].sort_values(
        ["base", "score"], ascending=[True, False], ignore_index=True, kind="stable"
    )
    caption = (
        "MT-Bench scores (GPT-4, 1 to 10) as published in Table 2, with 95% intervals: a standard error of 0.30 a "
        "score, as measured on another project's public judgments (0.25 to 0.36). They leave out the variation between "
        "training runs: a user's re-run of the first scored 4.32 where the table has 3.96. " + NOTHING_HERE
    )
    places = [place + 0.8 * (place // 5) for place in range(len(shown))]
    title = "Published: within a base model most MT-Bench differences are smaller than their error"
    axes = make_page(0.3 * (places[-1] + 1), title, caption, note, 3.3, 0.7, 0.42)
    colours = list(map(colour_of, shown.arm))
    _draw_intervals(axes, shown.score, shown.low, shown.high, colours, places)
    axes.set_yticks(places, [f"{name_of(row.arm)}" for row in shown.itertuples()])
    for tick, colour in zip(axes.get_yticklabels(), colours, strict=True):
        tick.set_color(colour)
    for place in range(0, len(shown), 5):
        # Beside the lowest score of its block, where there is room.
        kind: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center", "weight": "bold"}
        axes.annotate(shown.base[place], (0.99, places[place + 4]), **kind)
    axes.set(xlim=(2.8, 8.4), ylim=(places[-1] + 0.6, -0.6), xlabel="MT-Bench score")
    return page_of(axes)


def _draw_intervals(
    axes: "Axes", values: Any, lows: Any, highs: Any, colours: Sequence[str], places: Sequence[float] = ()
) -> None:
    places = places or range(len(values))
    for place, value, low, high, colour in zip(places, values, lows, highs, colours, strict=True):
        axes.plot([low, high], [place, place], color=colour, lw=1.8)
        axes.plot(value, place, "o", color=colour, ms=6)
        axes.annotate(f"{value:.2f}", (high, place), (6, 0), textcoords="offset points", va="center", size=9)


FIGURES: "dict[str, tuple[tuple[str, ...], Callable[..., Figure]]]" = {
    "paper-figure-1-pairwise": (("paper-pairwise",), draw_pairwise),
    "paper-figure-5-open-llm": (("paper-open-llm",), draw_open_llm),
    "paper-figure-6-length": (("paper-pairwise", "lengths"), draw_length_against_wins),
    "paper-table-1-alpacaeval": (("paper-alpacaeval",), draw_alpaca_eval),
    "paper-table-2-mt-bench": (("paper-mt-bench",), draw_mt_bench),
}
"""Figures that are drawn from committed tables: the tables' names, and the function that takes them in this order."""
