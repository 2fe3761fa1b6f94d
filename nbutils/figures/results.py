"""Figures of a run's own results: answers' lengths, verdicts, the control for length, losses, controls."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.arms import parse_arm
from nbutils.figures import style
from nbutils.figures.style import VERDICT_COLOURS, draw_shares, in_style, label_rows, make_page, name_of, page_of, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = Sequence[Mapping[str, Any]]


@style.in_style
def draw_verdicts(results: Table, note: str = "") -> "Figure":
    """Stacked bars of win, tie and lose under the exact rule, one bar per judge and baseline.

    results: rows of a judging's summary.csv.
    """
    rows = [row for row in results if row["test_set"] == "all" and row["rule"] == "exact"]
    title = f"How often {style.plain(style.name_of(rows[0]['arm']))} wins, by judge"
    axes = style.make_page(0.36 * len(rows) + 0.3, title, _CAPTION, note, _LABELS, 0.4, 0.45)
    shares = [[100 * int(row[name]) / max(1, int(row["prompts"])) for row in rows] for name in style.VERDICT_COLOURS]
    style.draw_shares(axes, range(len(rows)), shares)
    style.label_rows(axes, [_name(row) for row in rows])
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.75), xlabel="share of prompts, %")
    return style.page_of(axes)


_LABELS = 4.4
"""Inches for names such as "gpt-4o-mini, against alpaca-random-token-matched-7"."""

_CAPTION = "Verdicts of both orders together, rule 'exact'. The judges longer, first and coin are controls."


def _name(row: Mapping[str, Any]) -> str:
    return style.plain(f"{row['judge']}, against {row['baseline']}", 50)


@style.in_style
def draw_control(biases: Table, note: str = "") -> "Figure":
    """Win rates as judged and at equal length, with 95% intervals; what cannot be estimated is left out.

    biases: rows of stage 07's length_bias.csv.
    """
    caption = "Win rate with 95% interval: as judged (blue), at equal answer length (red) where that is identified."
    title = "Does the preference outlive the control?"
    axes = style.make_page(0.5 * len(biases) + 0.4, title, caption, note, _LABELS, 0.4, 0.45)
    axes.axvline(0.5, color=style.FAINT, linewidth=1)
    _draw_rates(axes, biases, "win_rate", style.BLUE, -0.13)
    _draw_rates(axes, biases, "length_controlled", style.VERMILION, 0.13)
    style.label_rows(axes, [_name(row) for row in biases])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(biases) - 0.5, -0.5), xlabel="win rate of the target")
    return style.page_of(axes)


def _draw_rates(axes: "Axes", biases: Table, column: str, colour: str, shift: float) -> None:
    for place, row in enumerate(biases):
        if row.get(column):
            value, low, high = (float(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.6)
            axes.plot(value, place + shift, "o", color=colour, markersize=6)


@style.in_style
def draw_controls(controls: Table, note: str = "") -> "Figure":
    """Net win of the target over each control with its interval, and both sides' mean answers (paper: Figures 6, 7).

    controls: rows of `controls.tabulate`.
    """
    caption = (
        "Net win of the target over each baseline in points, with 95% intervals; right: mean characters of the "
        "target's answers and of the baseline's. Controls: longer answers (orange), as many trained tokens (purple), "
        "fewer epochs (green), other numbers of rows (blue)."
    )
    title = "Would the longest still win if the others answered as long, or trained as much?"
    axes = style.make_page(0.36 * len(controls) + 0.2, title, caption, note, 4.3, 1.2, 0.45)
    axes.axvline(0, color=style.FAINT, linewidth=1)
    for place, row in enumerate(controls):
        colour = _CONTROL_COLOURS.get(row["controls_for"], style.GREY)
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
        axes.plot(row["net_win"], place, "o", color=colour, markersize=6)
        _write_lengths(axes, place, row)
    style.label_rows(axes, [_label_control(row) for row in controls])
    axes.set(ylim=(len(controls) - 0.4, -0.6), xlabel="net win of the target, points")
    return style.page_of(axes)


_CONTROL_COLOURS = {
    "answer length": style.VERMILION,
    "trained tokens": style.PURPLE,
    "epochs": style.GREEN,
    "number of rows": style.BLUE,
}


def _write_lengths(axes: "Axes", place: int, row: Mapping[str, Any]) -> None:
    if row["answer"]:
        text = f"{float(row['answer']):,.0f} : {float(row['its_answer']):,.0f}"
        where: Any = ("axes fraction", "data")
        axes.annotate(text, (1, place), (84, 0), where, "offset points", ha="right", va="center", color=style.QUIET)


def _label_control(row: Mapping[str, Any]) -> str:
    name = style.name_of(row["selection"])
    return style.plain(f"{name}, {row['treatment']}" if row["treatment"] else name, 56)


@style.in_style
def draw_losses(losses: Mapping[str, Table], note: str = "") -> "Figure":
    """Training loss by optimizer step, one line per arm, named at its end."""
    axes = style.make_page(2.6, "Training loss", "Mean loss per trained token, in nats.", note, 0.6, 2.6, 0.4)
    ends = []
    for arm, rows in losses.items():
        steps, values = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
        axes.plot(steps, values, color=style.colour_of(arm), linewidth=1.8)
        ends.append((values[-1], steps[-1], arm))
    _name_ends(axes, sorted(ends))
    axes.set(xlabel="optimizer step")
    return style.page_of(axes)


def _name_ends(axes: "Axes", ends: Sequence[tuple[float, int, str]]) -> None:
    """Name lines at their ends, from the lowest up, so far apart that no name covers another."""
    low, high = axes.get_ylim()
    apart, place = (high - low) / 15, -float("inf")
    for value, step, arm in ends:
        place = max(value, place + apart)
        kind: Any = {"textcoords": "data", "va": "center", "size": 8.5, "color": style.colour_of(arm)}
        right = axes.get_xlim()[1]
        line = {"arrowstyle": "-", "color": style.FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 0}
        label = style.plain(style.name_of(arm), 34)
        axes.annotate(label, (step, value), (right, place), arrowprops=line, annotation_clip=False, **kind)


COLOURS = (style.VERMILION, style.BLUE, style.GREEN, style.PURPLE, style.GREY)
LABEL_HEIGHT = 8.0
"""Height of a label, in percent of the axis."""


def draw_lengths(answers: Mapping[str, Sequence[dict[str, Any]]], cap: int, note: str = "") -> "Figure":
    """Share of the answers that have ended by each length in tokens, one line per arm or variant, named at its end.

    cap: tokens at which answers are cut; what a line lacks to 100% there was cut.
    """
    import matplotlib.pyplot as plt

    caption = f"Share of the answers that the model had ended itself by each length. They are cut at {cap:,} tokens."
    with plt.rc_context(style.STYLE):
        axes = style.make_page(2.6, "How long the answers are", caption, note, 0.7, 2.4, 0.4)
        curves = {name: ended_by(written, cap) for name, written in answers.items()}
        places = spread([shares[-1] for _, shares in curves.values()])
        for (name, (lengths, shares)), place, colour in zip(curves.items(), places, COLOURS, strict=False):
            axes.step(lengths, shares, where="post", color=colour, linewidth=1.8, clip_on=False)
            axes.text(cap * 1.015, place, _label(name), color=colour, va="center")
        axes.set(xlabel="tokens", ylabel="% ended", xlim=(0, cap), ylim=(0, 102))
        plt.close(style.page_of(axes))  # else a notebook would show it twice
    return style.page_of(axes)


def ended_by(written: Sequence[dict[str, Any]], cap: int) -> tuple[list[int], list[float]]:
    """Lengths in tokens, and the percentage of the answers that had ended by themselves at each; both end at `cap`."""
    ended = sorted(each["n_tokens"] for each in written if each["finish_reason"] == "stop")
    shares = [100 * count / len(written) for count in range(len(ended) + 1)]
    return [0, *ended, cap], [*shares, shares[-1]]


def spread(wanted: Sequence[float]) -> list[float]:
    """Places of labels, each at or above the one it wants, so that none covers another."""
    places, lowest = [0.0] * len(wanted), float("-inf")
    for number in sorted(range(len(wanted)), key=lambda number: wanted[number]):
        places[number] = max(wanted[number], lowest)
        lowest = places[number] + LABEL_HEIGHT
    return places


def _label(name: str) -> str:
    arm = parse_arm(name)
    return style.name_of(arm.trained) + arm.suffixes.variant


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
