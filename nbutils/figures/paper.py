"""Scores with intervals as rows of dots: the paper's Figure 5 and Tables 1 and 2, and beside them a run of ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils.figures.style import (
    FAINT,
    MARGIN,
    QUIET,
    VERDICT_COLOURS,
    VERMILION,
    WIDTH,
    colour_of,
    draw_shares,
    in_style,
    make_page,
    name_of,
    page_of,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Ours = Sequence[Mapping[str, Any]]
"""What a run measured of the same: rows as `evidence.beside_paper` gives them, each with its profile as `run`."""

NOTHING_HERE = "Beside it nothing of ours: no model of this size was trained in this repository yet."


# --- figure 5 ------------------------------------------------------------------------------------------------------


@in_style
def draw_open_llm(averages: "DataFrame", note: str = "", ours: Ours = ()) -> "Figure":
    """Dots of the published four-task averages (paper: Figure 5), and of ours with their intervals."""
    caption = (
        "Llama-2-7B, mean of ARC-challenge, MMLU, TruthfulQA and Winogrande in percent, as published in Figure 5; the "
        "values per task, which an interval would need, are not. The unrefined longest are said to gain about one "
        "point. " + ("" if ours else NOTHING_HERE)
    )
    title = "Published: no knowledge is lost on four Open LLM tasks"
    published = [_as_row(row.arm, row.average) for row in averages.itertuples()]
    blocks = [Block("", published), *_our_blocks(ours)]
    axes = make_page(0.42 * _height_of(blocks), title, caption, note, 3.3, 0.8, 0.4)
    for block in blocks:
        start = next((row["value"] for row in block.rows if row["arm"] == "base model"), None)
        _draw_gains(axes, block, start, _places_of(blocks)[blocks.index(block)])
    values = [row[name] for block in blocks for row in block.rows for name in ("low", "high")]
    _finish_blocks(axes, blocks, (min(values) - 0.4, max(values) + 0.6), "mean accuracy, %")
    return page_of(axes)


def _draw_gains(axes: "Axes", block: "Block", start: float | None, places: Sequence[float]) -> None:
    """Each score as a dot, with a line to it from the base model's and its interval, where there are these."""
    if start is not None:
        axes.plot([start] * 2, [places[0] - 0.3, places[-1] + 0.3], color=FAINT, lw=1)
    for row, place in zip(block.rows, places, strict=True):
        colour = colour_of(row["arm"])
        if start is not None:
            axes.plot([start, row["value"]], [place, place], color=colour, lw=3, alpha=0.35)
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        axes.plot(row["value"], place, "o", color=colour, ms=7)
        kind: Any = {"textcoords": "offset points", "va": "center", "weight": "bold"}
        axes.annotate(f"{row['value']:.1f}", (row["high"], place), (8, 0), **kind)


def _plain_name(arm: str) -> str:
    base, _, rest = arm.partition("+")
    words = [part.replace("neftune", "NEFTune").replace("max4096", "4,096 tokens") for part in rest.split("+") if part]
    return " + ".join([name_of(base), *words])


# --- tables 1 and 2 ------------------------------------------------------------------------------------------------


@in_style
def draw_alpaca_eval(rates: "DataFrame", note: str = "", ours: Ours = ()) -> "Figure":
    """The published AlpacaEval 2.0 win rates with intervals, beside the leaderboard's neighbours (paper: Table 1)."""
    shown = rates[rates.base == "Llama-2-7B"].sort_values("win_rate", ascending=False, ignore_index=True)
    best = shown[shown.source == "Table 1"].iloc[0]
    above = int((shown.win_rate > best.win_rate).sum())
    within = shown[(shown.source != "Table 1") & shown.win_rate.between(best.low, best.high)]
    caption = (
        "Models built on Llama-2-7B: win rate against GPT-4 Turbo in percent, with 95% intervals over the 805 prompts "
        "(the leaderboard's own, or estimated alike). Coloured: the paper's Table 1. Grey: the public leaderboard, on "
        f"which {above} models of the kind stand above the paper's best; whether the paper counted both is not known. "
        + ("Another judge's rates are not on the same scale." if ours else "")
    )
    title = f"Published: “2nd highest” is a rank within the noise: {len(within)} rivals lie inside the interval"
    published = [
        _as_row(row.arm, row.win_rate, row.low, row.high) | ({} if row.source == "Table 1" else {"colour": QUIET})
        for row in shown.itertuples()
    ]
    blocks = [Block("", published), *_our_blocks(ours)]
    axes = make_page(0.33 * _height_of(blocks), title, caption, note, 4.3, 0.6, 0.42)
    axes.fill_betweenx([-0.5, len(published) - 0.5], best.low, best.high, color=colour_of(best.arm), alpha=0.12, lw=0)
    _draw_blocks(axes, blocks)
    _finish_blocks(axes, blocks, (0, max([14, *(1.15 * row["high"] for row in ours)])), "AlpacaEval 2.0 win rate, %")
    return page_of(axes)


@in_style
def draw_mt_bench(scores: "DataFrame", note: str = "", ours: Ours = ()) -> "Figure":
    """The published MT-Bench scores with intervals, one block per base model (paper: Table 2)."""
    caption = (
        "MT-Bench scores (GPT-4, 1 to 10) as published in Table 2, with 95% intervals: a standard error of 0.30 a "
        "score, as measured on another project's public judgments (0.25 to 0.36). They leave out the variation between "
        "training runs: a user's re-run of the first scored 4.32 where the table has 3.96. "
        + ("Another judge's scores are not on the same scale." if ours else NOTHING_HERE)
    )
    title = "Published: within a base model most MT-Bench differences are smaller than their error"
    blocks = [Block(base, _scores_of(scores[scores.base == base])) for base in BASES]
    blocks += _our_blocks(ours)
    axes = make_page(0.3 * _height_of(blocks), title, caption, note, 3.3, 0.7, 0.42)
    _draw_blocks(axes, blocks)
    highest = max(row["high"] for block in blocks for row in block.rows)
    lowest = min(row["low"] for block in blocks for row in block.rows)
    _finish_blocks(axes, blocks, (min(2.8, lowest - 0.2), max(8.4, highest + 0.8)), "MT-Bench score")
    return page_of(axes)


BASES = ("Llama-2-7B", "Llama-2-13B", "Mistral-7B")


def _scores_of(scores: "DataFrame") -> list[dict[str, Any]]:
    ordered = scores.sort_values("score", ascending=False, kind="stable")
    return [_as_row(row.arm, row.score, row.low, row.high) for row in ordered.itertuples()]


# --- blocks of rows with intervals ---------------------------------------------------------------------------------


class Block(NamedTuple):
    """Rows that belong together (`arm`, `value`, `low`, `high`, perhaps `colour`), and what they are called."""

    heading: str
    rows: list[dict[str, Any]]


def _as_row(arm: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"arm": arm, "value": value, "low": value if low is None else low, "high": value if high is None else high}


def _our_blocks(ours: Ours) -> list[Block]:
    """A block for each judge of a run (or one, where there is no judge), the highest value first."""
    judges = dict.fromkeys(row.get("judge", "") for row in ours)
    found = [(judge, [dict(row) for row in ours if row.get("judge", "") == judge]) for judge in judges]
    heads = [", ".join(filter(None, [rows[0]["run"], plain(judge)])) for judge, rows in found]
    return [
        Block(head, sorted(rows, key=lambda row: -row["value"])) for head, (_, rows) in zip(heads, found, strict=True)
    ]


def _places_of(blocks: Sequence[Block]) -> list[list[float]]:
    starts = [sum(len(block.rows) + 0.8 for block in blocks[:number]) for number in range(len(blocks))]
    return [[start + row for row in range(len(block.rows))] for start, block in zip(starts, blocks, strict=True)]


def _height_of(blocks: Sequence[Block]) -> float:
    return _places_of(blocks)[-1][-1] + 1


def _draw_blocks(axes: "Axes", blocks: Sequence[Block]) -> None:
    for block, places in zip(blocks, _places_of(blocks), strict=True):
        for row, place in zip(block.rows, places, strict=True):
            colour = row.get("colour") or colour_of(row["arm"])
            axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.8)
            axes.plot(row["value"], place, "o", color=colour, ms=6)
            kind: Any = {"textcoords": "offset points", "va": "center", "size": 9}
            axes.annotate(f"{row['value']:.2f}", (row["high"], place), (6, 0), **kind)


def _finish_blocks(axes: "Axes", blocks: Sequence[Block], limits: tuple[float, float], label: str) -> None:
    """Names of the rows, headings beside the lowest row of each block, where there is room, and the axis."""
    places = _places_of(blocks)
    rows = [row for block in blocks for row in block.rows]
    axes.set_yticks([place for mine in places for place in mine], [plain(_plain_name(row["arm"]), 52) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(row.get("colour") or colour_of(row["arm"]))
    for block, mine in zip(blocks, places, strict=True):
        kind: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center", "weight": "bold"}
        axes.annotate(block.heading, (0.99, mine[-1]), **kind)
    axes.set(xlim=limits, ylim=(places[-1][-1] + 0.6, -0.6), xlabel=label)


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
