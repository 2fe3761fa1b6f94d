"""Figures of a run's own results: verdicts, the control for length, controls, losses, answers' lengths.

Their titles say what was found, from the numbers; judges that only calibrate are shown, but find nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.arms import parse_arm
from nbutils.figures import style
from nbutils.figures.style import EQUAL, FAINT, INK, QUIET, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_LABELS = 4.4
"""Inches for names such as "gpt-4o-mini, against alpaca-random-token-matched-7"."""

_CALIBRATING = ("longer", "first", "coin")
"""Judges that look at no answer: what they prefer is no finding."""


def _of_judges(rows: "DataFrame") -> "DataFrame":
    """What a title may speak of: the rows of judges that read the answers; all rows, where there is none."""
    read = rows[~rows.judge.isin(_CALIBRATING)]
    return read if len(read) else rows


def short_name(arm: str, most: int = 34) -> str:
    """An arm's name in a title or beside a mark."""
    return style.plain(style.name_of(arm), most)


def say_chance(value: float, low: float, high: float, even: float = 0.0) -> str:
    """What can be said of a number against the one that means no difference; nothing without an interval."""
    if not np.isfinite([value, low, high]).all():
        return "cannot be estimated"
    return "beyond chance" if low > even or high < even else "within chance"


@style.in_style()
def draw_verdicts(summary: "DataFrame", note: str = "") -> "Figure":
    """Stacked bars of win, tie and lose under the exact rule, one bar per judge and baseline.

    summary: a judging's summary.csv.
    """
    rows = summary.query("test_set == 'all' and rule == 'exact'")
    labels = [style.plain(f"{row.judge}, against {row.baseline}", 50) for row in rows.itertuples()]
    caption = (
        "Verdicts of both orders together, rule 'exact', in the colour of the arm that is preferred. The judges "
        "longer, first and coin are controls."
    )
    return _draw_bars(rows, 0.36 * len(rows) + 0.3, _tell_wins(rows), caption, note, labels)


def _tell_wins(rows: "DataFrame") -> str:
    """The finding of verdicts: the net win where there is one judge and rival, else over how many it is assured."""
    told = _of_judges(rows)
    arm = short_name(rows.arm.iloc[0])
    if len(told) == 1:
        row = told.iloc[0]
        net = 100 * (row.win - row.lose) / max(row.prompts, 1)
        by = f"{'loses' if net < 0 else 'wins'} by {abs(net):.0f} points net against {short_name(row.baseline)}"
        return f"{arm} {by}, {say_chance(row.net_win, row.low, row.high)} ({style.plain(row.judge, 24)})"
    won, lost = (told.low > 0).sum(), (told.high < 0).sum()
    loses = f", and loses {lost}" if lost else ""
    return f"{arm} wins {won} of {len(told)} comparisons beyond chance{loses}"


@style.in_style()
def draw_test_sets(summary: "DataFrame", note: str = "") -> "Figure":
    """Stacked bars per test set, judge and baseline of a run, by the exact rule (paper: Figure 2).

    summary: stage 06's summary.csv.
    """
    rows = summary.query("test_set != 'all' and rule == 'exact'")
    caption = (
        "Share of each test set's prompts in percent, with its number of prompts, in the colour of the arm that is "
        "preferred. Figure 2 of the paper shows such bars for its five sets; their values are not published as "
        "numbers, so they are not drawn beside these."
    )
    names = [f"{row.judge}, against {row.baseline}: {row.test_set} ({row.prompts})" for row in rows.itertuples()]
    labels = [style.plain(name, 58) for name in names]
    told = _of_judges(rows)
    title = f"{short_name(rows.arm.iloc[0])} wins more than it loses on {(told.win > told.lose).sum()} of {len(told)}"
    title += " test sets" if told.groupby(["judge", "baseline"]).ngroups == 1 else " test sets by judge and rival"
    if len(told) == 1:
        shares = (style.percent(told[name].iloc[0] / max(told.prompts.iloc[0], 1)) for name in ("win", "lose"))
        title = "{} wins {} and loses {} of the prompts".format(short_name(rows.arm.iloc[0]), *shares)
    return _draw_bars(rows, 0.3 * len(rows) + 0.2, title, caption, note, labels)


def _draw_bars(
    rows: "DataFrame", height: float, title: str, caption: str, note: str, labels: Sequence[str]
) -> "Figure":
    page, axes = style.make_page(height, title, caption, note, _LABELS, 0.4, 0.45)
    shares = [list(100 * rows[name] / rows.prompts.clip(lower=1)) for name in ("win", "tie", "lose")]
    style.draw_shares(axes, range(len(rows)), shares, list(zip(rows.arm, rows.baseline, strict=True)))
    style.label_rows(axes, labels)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.75), xlabel="share of prompts, %")
    return page


_ESTIMATES = {
    "win_rate": (INK, "o", -0.16, "as judged"),
    "at_equal_length": (EQUAL, "D", 0.16, "at equal length"),
}


@style.in_style()
def draw_control(biases: "DataFrame", note: str = "") -> "Figure":
    """Win rates as judged and at equal length, with 95% intervals; what cannot be estimated is left out.

    biases: stage 07's length_bias.csv.
    """
    caption = (
        "Win rate with 95% interval: as judged (circles), and at equal length, by the ratio of lengths (diamonds). The "
        "judges longer, first and coin are controls."
    )
    page, axes = style.make_page(0.5 * len(biases) + 0.6, _tell_control(biases), caption, note, _LABELS, 0.4, 0.45)
    axes.axvline(0.5, color=FAINT, lw=1)
    for column, (colour, mark, shift, what) in _ESTIMATES.items():
        if column in biases:
            bounds = [biases[f"{column}{end}"] for end in ("", "_low", "_high")]
            style.draw_intervals(axes, [place + shift for place in range(len(biases))], bounds, colour, mark)
            at = (0.0 if shift < 0 else 1.0, 1.0)
            kind: Any = {
                "xycoords": "axes fraction",
                "ha": "left" if shift < 0 else "right",
                "color": colour,
                "size": 9,
            }
            style.annotate(axes, f"{'●' if mark == 'o' else '◆'} {what}", at, (0, -6), **kind)
    style.label_rows(axes, [style.plain(f"{row.judge}, against {row.baseline}", 50) for row in biases.itertuples()])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(biases) - 0.5, -1.1), xlabel="win rate of the target")
    return page


def _tell_control(biases: "DataFrame") -> str:
    """The finding of the control for length: both rates of the one comparison, or in how many a preference stays."""
    told = _of_judges(biases)
    if "at_equal_length" not in told:
        return "The win rate at equal length cannot be estimated"
    if len(told) == 1:
        row = told.iloc[0]
        if not np.isfinite(row.at_equal_length):
            return f"{short_name(row.arm)} is preferred in {style.percent(row.win_rate)}; at equal length, not known"
        said = say_chance(row.at_equal_length, row.at_equal_length_low, row.at_equal_length_high, 0.5)
        equal = f"at equal length in {style.percent(row.at_equal_length)}, {said}"
        return f"{short_name(row.arm)} is preferred in {style.percent(row.win_rate)}; {equal}"
    counts = [int((told[f"{name}_low"] > 0.5).sum()) for name in _ESTIMATES]
    stays = f"at equal length in {counts[1]}"
    return f"The target is preferred beyond chance in {counts[0]} of {len(told)} comparisons, {stays}"


@style.in_style()
def draw_controls(controls: "DataFrame", note: str = "") -> "Figure":
    """Net win of the target over each control with its interval, and both sides' mean answers (paper: Figures 6, 7).

    controls: as `evidence.tabulate` gives it.
    """
    caption = (
        "Net win of the target over each baseline in points, with 95% intervals, by what the baseline controls for; "
        "right: mean characters of the target's answers and of the baseline's."
    )
    has_won = controls.low > 0
    title = f"The target wins beyond chance against {has_won.sum()} of {len(controls)} baselines"
    if (is_longer := controls.controls_for == "answer length").any():
        title += f", {has_won[is_longer].sum()} of the {is_longer.sum()} with longer answers"
    # Above each kind of control there is room for a line with its name.
    is_first = ~controls.controls_for.duplicated()
    places = np.arange(len(controls)) + 0.9 * is_first.cumsum().to_numpy() - 0.9
    lowest = float(places.max(initial=0))
    page, axes = style.make_page(0.36 * (lowest + 1) + 0.5, title, caption, note, 4.3, 1.3, 0.45)
    axes.axvline(0, color=FAINT, lw=1)
    style.draw_intervals(axes, list(places), [controls.net_win, controls.low, controls.high], INK)
    for place, answer, rival in zip(places, controls.answer, controls.its_answer, strict=True):
        if answer == answer:
            text = f"{answer:,.0f} : {rival:,.0f}"
            style.annotate(axes, text, (1, place), (84, 0), xycoords=style.BESIDE, ha="right", color=QUIET)
    names = [", ".join(filter(None, [style.name_of(row.selection), row.treatment])) for row in controls.itertuples()]
    style.label_rows(axes, [style.plain(name, 56) for name in names], places=list(places))
    kind: Any = {"xycoords": ("figure fraction", "data"), "size": SMALL, "weight": "bold", "color": QUIET}
    for place, words in zip(places[is_first], controls.controls_for[is_first], strict=True):
        style.annotate(axes, str(words), (style.MARGIN / style.WIDTH, place - 0.8), (0, 0), **kind)
    axes.set(ylim=(lowest + 0.6, -1.2), xlabel="net win of the target, points")
    return page


TREND = 8
"""Steps from which on a loss may show a trend: each is of other rows."""


@style.in_style()
def draw_losses(losses: "Mapping[str, DataFrame]", note: str = "", steps: int | None = None) -> "Figure":
    """Training loss by optimizer step, one line per arm, named at its end.

    losses: by arm, its loss.csv; steps: how far the axis reaches (while a model trains, to the end that is to come).
    """
    # One step's loss is noise: what a title says is the mean of a fifth of the steps.
    last = {arm: float(rows.loss.iloc[-max(1, len(rows) // 5) :].mean()) for arm, rows in losses.items()}
    low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    too_few = max(map(len, losses.values())) < TREND
    if len(losses) == 1:
        first = float(losses[low].loss.iloc[: max(1, len(losses[low]) // 5)].mean())
        made = f"{losses[low].step.iloc[-1]:,} steps" + ", too few for a trend," * too_few
        title = f"In {made} the training loss goes from {first:.2f} to {last[low]:.2f}"
    else:
        title = f"The training loss ends lowest for {short_name(low)}, at {last[low]:.2f}"
        title += f", and highest for {short_name(high)}, at {last[high]:.2f}" + ": too few steps for a trend" * too_few
    caption = (
        "Mean loss per trained token, in nats, by step of the optimizer. The title has means of a fifth of the steps."
    )
    page, axes = style.make_page(2.6, title, caption, note, 0.6, 2.6, 0.4)
    looks = list(_looks_of(losses))
    for rows, look in zip(losses.values(), looks, strict=True):
        axes.plot(rows.step, rows.loss, **look)
    if steps:
        axes.set_xlim(0, 1.02 * steps)
    ends = [(int(rows.step.iloc[-1]), float(rows.loss.iloc[-1])) for rows in losses.values()]
    bottom, top = axes.get_ylim()
    _name_ends(axes, [short_name(arm) for arm in losses], ends, [look["color"] for look in looks], top - bottom)
    axes.set(xlabel="optimizer step", ylabel="")
    axes.locator_params(axis="x", integer=True)
    return page


def _looks_of(arms: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Colour of each arm's line, and a dash of its own where another line has the colour already."""
    used: dict[str, int] = {}
    for arm in arms:
        colour = style.colour_of(arm)
        dash = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))[used.get(colour, 0) % 4]
        used[colour] = used.get(colour, 0) + 1
        yield {"color": colour, "ls": dash, "lw": 1.8}


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
    table = pd.concat({name: pd.DataFrame(written) for name, written in answers.items()}, names=["line"])
    # An answer that was cut has not ended anywhere on the axis.
    table["ended"] = table.n_tokens.where(table.finish_reason == "stop", 2 * cap)
    names = [style.name_of(arm.trained) + arm.suffixes.variant for arm in map(parse_arm, answers)]
    page, axes = style.make_page(2.6, _tell_lengths(table, names), caption, note, 0.7, 2.4, 0.4)
    looks = list(_looks_of(parse_arm(arm).trained for arm in answers))
    for name, look in zip(answers, looks, strict=True):
        sns.ecdfplot(x=table.ended[name], stat="percent", ax=axes, **look)
    axes.set(xlabel="tokens", ylabel="% ended", xlim=(0, cap), ylim=(0, 102))
    shares = 100 * (table.ended <= cap).groupby("line", sort=False).mean()
    _name_ends(axes, names, [(cap, shares[name]) for name in answers], [look["color"] for look in looks], 100)
    return page


def _tell_lengths(table: "DataFrame", names: Sequence[str]) -> str:
    """The finding on answers' lengths: their median, of several lines the greatest and the least."""
    ended = (table.finish_reason == "stop").groupby("line", sort=False).mean()
    typical = table.n_tokens.groupby("line", sort=False).median()
    if len(names) == 1:
        return f"Half of the answers have at most {typical.iloc[0]:,.0f} tokens; {style.percent(ended.iloc[0])} end"
    most, least = typical.argmax(), typical.argmin()
    return (
        f"Half of {style.plain(names[most])}'s answers have at least {typical.iloc[most]:,.0f} tokens, "
        f"of {style.plain(names[least])}'s {typical.iloc[least]:,.0f}"
    )


def _name_ends(
    axes: "Axes", names: Sequence[str], ends: Sequence[tuple[float, float]], colours: Sequence[str], height: float
) -> None:
    """Name lines at their ends (x, y), so far apart that no name covers another. height: of the axis, in its unit."""
    places, right = spread([100 * y / height for _, y in ends]), axes.get_xlim()[1]
    line = {"arrowstyle": "-", "color": FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    for name, end, place, colour in zip(names, ends, places, colours, strict=True):
        kind: Any = {"textcoords": "data", "va": "center", "size": SMALL, "annotation_clip": False}
        kind["color"] = style.text_colour(colour)
        axes.annotate(f" {name}", end, (right, place * height / 100), arrowprops=line, **kind)


def spread(wanted: Sequence[float]) -> list[float]:
    """Places of labels in percent of the axis, each at or above the one it wants, so that none covers another."""
    places, lowest = [0.0] * len(wanted), float("-inf")
    for number in sorted(range(len(wanted)), key=lambda number: wanted[number]):
        places[number] = max(wanted[number], lowest)
        lowest = places[number] + LABEL_HEIGHT
    return places
