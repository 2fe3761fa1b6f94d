"""Figures of a run's own results: answers' lengths, verdicts, the control for length, losses, controls."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.arms import parse_arm
from nbutils.figures import style
from nbutils.figures.style import BLUE, FAINT, GREEN, GREY, PURPLE, QUIET, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_LABELS = 4.4
"""Inches for names such as "gpt-4o-mini, against alpaca-random-token-matched-7"."""


@style.in_style()
def draw_verdicts(summary: "DataFrame", note: str = "") -> "Figure":
    """Stacked bars of win, tie and lose under the exact rule, one bar per judge and baseline.

    summary: a judging's summary.csv.
    """
    rows = summary.query("test_set == 'all' and rule == 'exact'")
    labels = [style.plain(f"{row.judge}, against {row.baseline}", 50) for row in rows.itertuples()]
    title = f"How often {style.plain(style.name_of(rows.arm.iloc[0]))} wins, by judge"
    caption = "Verdicts of both orders together, rule 'exact'. The judges longer, first and coin are controls."
    return _draw_bars(rows, 0.36 * len(rows) + 0.3, title, caption, note, labels)


@style.in_style()
def draw_test_sets(summary: "DataFrame", note: str = "") -> "Figure":
    """Stacked bars per test set, judge and baseline of a run, by the exact rule (paper: Figure 2).

    summary: stage 06's summary.csv.
    """
    rows = summary.query("test_set != 'all' and rule == 'exact'")
    caption = (
        "Share of each test set's prompts in percent, with its number of prompts. Figure 2 of the paper shows such "
        "bars for its five sets; their values are not published as numbers, so they are not drawn beside these."
    )
    names = [f"{row.judge}, against {row.baseline}: {row.test_set} ({row.prompts})" for row in rows.itertuples()]
    labels = [style.plain(name, 58) for name in names]
    title = f"{style.name_of(rows.arm.iloc[0])} on each test set"
    return _draw_bars(rows, 0.3 * len(rows) + 0.2, title, caption, note, labels)


def _draw_bars(
    rows: "DataFrame", height: float, title: str, caption: str, note: str, labels: Sequence[str]
) -> "Figure":
    page, axes = style.make_page(height, title, caption, note, _LABELS, 0.4, 0.45)
    shares = [100 * rows[name] / rows.prompts.clip(lower=1) for name in style.VERDICT_COLOURS]
    style.draw_shares(axes, range(len(rows)), list(map(list, shares)))
    style.label_rows(axes, labels)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.75), xlabel="share of prompts, %")
    return page


@style.in_style()
def draw_control(biases: "DataFrame", note: str = "") -> "Figure":
    """Win rates as judged and at equal length, with 95% intervals; what cannot be estimated is left out.

    biases: stage 07's length_bias.csv.
    """
    caption = "Win rate with 95% interval: as judged (blue); at equal length, by the ratio of lengths (orange)."
    title = "Does the preference outlive the control?"
    page, axes = style.make_page(0.5 * len(biases) + 0.4, title, caption, note, _LABELS, 0.4, 0.45)
    axes.axvline(0.5, color=FAINT, linewidth=1)
    for column, colour, shift in (("win_rate", BLUE, -0.13), ("at_equal_length", VERMILION, 0.13)):
        if column in biases:
            bounds = [biases[f"{column}{end}"] for end in ("", "_low", "_high")]
            style.draw_intervals(axes, [place + shift for place in range(len(biases))], bounds, colour)
    style.label_rows(axes, [style.plain(f"{row.judge}, against {row.baseline}", 50) for row in biases.itertuples()])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(biases) - 0.5, -0.5), xlabel="win rate of the target")
    return page


@style.in_style()
def draw_controls(controls: "DataFrame", note: str = "") -> "Figure":
    """Net win of the target over each control with its interval, and both sides' mean answers (paper: Figures 6, 7).

    controls: as `evidence.tabulate` gives it.
    """
    caption = (
        "Net win of the target over each baseline in points, with 95% intervals; right: mean characters of the "
        "target's answers and of the baseline's. Controls: longer answers (orange), as many trained tokens (purple), "
        "fewer epochs (green), other numbers of rows (blue)."
    )
    title = "Would the longest still win if the others answered as long, or trained as much?"
    page, axes = style.make_page(0.36 * len(controls) + 0.2, title, caption, note, 4.3, 1.2, 0.45)
    axes.axvline(0, color=FAINT, linewidth=1)
    by_kind = {"answer length": VERMILION, "trained tokens": PURPLE, "epochs": GREEN, "number of rows": BLUE}
    colours = [by_kind.get(kind, GREY) for kind in controls.controls_for]
    style.draw_intervals(axes, range(len(controls)), [controls.net_win, controls.low, controls.high], colours)
    for place, (answer, rival) in enumerate(zip(controls.answer, controls.its_answer, strict=True)):
        if answer == answer:
            text = f"{answer:,.0f} : {rival:,.0f}"
            style.annotate(axes, text, (1, place), (84, 0), xycoords=style.BESIDE, ha="right", color=QUIET)
    names = [", ".join(filter(None, [style.name_of(row.selection), row.treatment])) for row in controls.itertuples()]
    style.label_rows(axes, [style.plain(name, 56) for name in names])
    axes.set(ylim=(len(controls) - 0.4, -0.6), xlabel="net win of the target, points")
    return page


@style.in_style()
def draw_losses(losses: "Mapping[str, DataFrame]", note: str = "") -> "Figure":
    """Training loss by optimizer step, one line per arm, named at its end. losses: by arm, its loss.csv."""
    import pandas as pd
    import seaborn as sns

    page, axes = style.make_page(2.6, "Training loss", "Mean loss per trained token, in nats.", note, 0.6, 2.6, 0.4)
    table = pd.concat(losses, names=["arm"]).reset_index("arm")
    colours = {arm: style.colour_of(arm) for arm in losses}
    sns.lineplot(table, x="step", y="loss", hue="arm", palette=colours, lw=1.8, errorbar=None, legend=False, ax=axes)
    ends = [(int(rows.step.iloc[-1]), float(rows.loss.iloc[-1])) for rows in losses.values()]
    low, high = axes.get_ylim()
    _name_ends(axes, [style.plain(style.name_of(arm), 34) for arm in losses], ends, list(colours.values()), high - low)
    axes.set(xlabel="optimizer step", ylabel="")
    return page


LABEL_HEIGHT = 8.0
"""Height of a label, in percent of the axis."""


@style.in_style()
def draw_lengths(answers: Mapping[str, Sequence[dict[str, Any]]], cap: int, note: str = "") -> "Figure":
    """Share of the answers that have ended by each length in tokens, one line per arm or variant, named at its end.

    cap: tokens at which answers are cut; what a line lacks to 100% there was cut.
    """
    import pandas as pd
    import seaborn as sns

    caption = f"Share of the answers that the model had ended itself by each length. They are cut at {cap:,} tokens."
    page, axes = style.make_page(2.6, "How long the answers are", caption, note, 0.7, 2.4, 0.4)
    table = pd.concat({name: pd.DataFrame(written) for name, written in answers.items()}, names=["line"])
    # An answer that was cut has not ended anywhere on the axis.
    table["ended"] = table.n_tokens.where(table.finish_reason == "stop", 2 * cap)
    colours = dict(zip(answers, itertools.cycle((VERMILION, BLUE, GREEN, PURPLE, GREY)), strict=False))
    kind: Any = {"stat": "percent", "hue": "line", "palette": colours, "legend": False, "lw": 1.8}
    sns.ecdfplot(table.reset_index("line"), x="ended", ax=axes, **kind)
    axes.set(xlabel="tokens", ylabel="% ended", xlim=(0, cap), ylim=(0, 102))
    shares = 100 * (table.ended <= cap).groupby("line", sort=False).mean()
    names = [style.name_of(arm.trained) + arm.suffixes.variant for arm in map(parse_arm, answers)]
    _name_ends(axes, names, [(cap, shares[name]) for name in answers], list(colours.values()), 100)
    return page


def _name_ends(
    axes: "Axes", names: Sequence[str], ends: Sequence[tuple[float, float]], colours: Sequence[str], height: float
) -> None:
    """Name lines at their ends (x, y), so far apart that no name covers another. height: of the axis, in its unit."""
    places, right = spread([100 * y / height for _, y in ends]), axes.get_xlim()[1]
    line = {"arrowstyle": "-", "color": FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    for name, end, place, colour in zip(names, ends, places, colours, strict=True):
        kind: Any = {"textcoords": "data", "va": "center", "size": 8.5, "color": colour, "annotation_clip": False}
        axes.annotate(f" {name}", end, (right, place * height / 100), arrowprops=line, **kind)


def spread(wanted: Sequence[float]) -> list[float]:
    """Places of labels in percent of the axis, each at or above the one it wants, so that none covers another."""
    places, lowest = [0.0] * len(wanted), float("-inf")
    for number in sorted(range(len(wanted)), key=lambda number: wanted[number]):
        places[number] = max(wanted[number], lowest)
        lowest = places[number] + LABEL_HEIGHT
    return places
