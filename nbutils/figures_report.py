"""Figures of a run's own results, for the report and the notebooks 04 to 09."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbutils import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Sequence[dict[str, str]]

VERDICT_COLOURS = {"win": style.BLUE, "tie": style.FAINT, "lose": style.ORANGE}


def draw_verdicts(results: Table, note: str = "") -> "Figure":
    """Stacked bars of win, tie and lose under the exact rule, one bar per judge and baseline.

    results: rows of a judging's summary.csv.
    """
    import matplotlib.pyplot as plt

    rows = [row for row in results if row["test_set"] == "all" and row["rule"] == "exact"]
    with plt.rc_context(style.STYLE):
        title = f"How often {style.name_of(rows[0]['arm'])} wins, by judge"
        axes = style.make_page(0.42 * len(rows) + 0.4, title, _CAPTION, note, _LABELS, 0.4, 0.45)
        left = [0.0] * len(rows)
        for name, colour in VERDICT_COLOURS.items():
            widths = [100 * int(row[name]) / max(1, int(row["prompts"])) for row in rows]
            bars = axes.barh(range(len(rows)), widths, left=left, color=colour, height=0.62)
            labels = [f"{name} {width:.0f}" if width >= 12 else "" for width in widths]
            axes.bar_label(bars, labels, label_type="center", color=style.INK if name == "tie" else "white", size=9)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        style.label_rows(axes, [_name(row) for row in rows])
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="share of prompts, %")
    return style.page_of(axes)


_LABELS = 3.2
"""Inches for names such as "reference, against alpaca-random-token-matched-7"."""

_CAPTION = "Verdicts of both orders together, rule 'exact'. The judges longer, first and coin are controls."


def _name(row: dict[str, str]) -> str:
    return f"{row['judge']}, against {row['baseline']}".replace("$", r"\$")  # two of them would begin a formula


def draw_control(biases: Table, note: str = "") -> "Figure":
    """Win rates as judged and at equal length, with 95% intervals; what cannot be estimated is left out.

    biases: rows of stage 07's length_bias.csv.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context(style.STYLE):
        caption = "Win rate with 95% interval: as judged (blue), at equal answer length (red) where that is identified."
        axes = style.make_page(
            0.5 * len(biases) + 0.4, "Does the preference outlive the control?", caption, note, _LABELS, 0.4, 0.45
        )
        axes.axvline(0.5, color=style.FAINT, linewidth=1)
        _draw_rates(axes, biases, "win_rate", style.BLUE, -0.13)
        _draw_rates(axes, biases, "length_controlled", style.VERMILION, 0.13)
        style.label_rows(axes, [_name(row) for row in biases])
        axes.set(xlim=(-0.02, 1.02), ylim=(len(biases) - 0.5, -0.5), xlabel="win rate of the target")
    return style.page_of(axes)


def _draw_rates(axes: "style.Axes", biases: Table, column: str, colour: str, shift: float) -> None:
    for place, row in enumerate(biases):
        if row.get(column):
            value, low, high = (float(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.6)
            axes.plot(value, place + shift, "o", color=colour, markersize=6)


def draw_losses(losses: Mapping[str, Table], note: str = "") -> "Figure":
    """Training loss by optimizer step, one line per arm, named at its end."""
    import matplotlib.pyplot as plt

    with plt.rc_context(style.STYLE):
        axes = style.make_page(2.6, "Training loss", "Mean loss per trained token, in nats.", note, 0.6, 2.0, 0.4)
        colours = [style.colour_of(arm) for arm in losses]
        for (arm, rows), colour in zip(losses.items(), colours, strict=True):
            steps, values = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
            axes.plot(steps, values, color=colour, linewidth=1.8)
            axes.annotate(style.name_of(arm), (steps[-1], values[-1]), (5, 0), textcoords="offset points", color=colour)
        axes.set(xlabel="optimizer step")
    return style.page_of(axes)
