"""What one plays with in notebook 07: verdict cards, "at which length ratio?", and judges whose tastes one plants.

A curve is the length analysis' own model (`analysis.length_control`), read off at other ratios than 1.
"""

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from nbutils.analysis import calibration, findings
from nbutils.analysis.calibration import Taste
from nbutils.analysis.comparison import analyse, is_separable
from nbutils.analysis.intervals import Estimate, Numbers
from nbutils.analysis.items import Items, comparisons, list_orders, to_calls, to_items
from nbutils.analysis.length_control import Curve, fit_curve
from nbutils.analysis.verdicts import Rows
from nbutils.core import tables
from nbutils.figures import style
from nbutils.figures.style import EQUAL, FAINT, INK, OTHER
from nbutils.widgets.live import Live, picture, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR = 0.1
"""Prompts whose ratio of lengths is within this share of the one asked for are called near it."""

SHOWN_POINTS = 2000
"""More points than these would be one grey field, and slow."""

_CAPTION = (
    "A point is a prompt: the preference of both orders together, shifted a little so that none hides another. Line: "
    "the fitted curve with its 95% interval; dashed, it lies beyond 95% of the prompts. Its mean over the points is "
    "the rate as judged."
)
_TICKS = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1: "equal", 2: "2×", 4: "4×", 8: "8×", 16: "16×"}


class Compared(NamedTuple):
    """One comparison, ready to be asked: its prompts, and the fitted curve, None where no length is separable."""

    items: Items
    curve: Curve | None

    @property
    def ratios(self) -> Numbers:
        """Binary logarithm of the arm's length over the baseline's, by prompt; shape (n,)."""
        return self.items.log_ratio / math.log(2)


def compare(rows: pd.DataFrame) -> Compared:
    """The prompts of one comparison's judgments and their curve: the headline model of the length analysis."""
    orders = list_orders(rows)
    items = to_items(rows, orders)
    if len(items.preference) < 3 or not is_separable(items):
        return Compared(items, None)
    return Compared(items, fit_curve(**to_calls(rows, orders)._asdict(), scale="log_ratio"))


def ask_ratio(rows: Rows, note: str = "") -> Live:
    """Every prompt as a point, the fitted curve, and a slider: what if all answers were so many times as long?

    rows: judgments; a menu names their comparisons. note: a line below, as a profile has one.
    """
    import ipywidgets

    compared = {f"{judge}: {arm} against {rival}": compare(of) for (judge, arm, rival), of in comparisons(rows).items()}
    if not compared:
        return say("No judgments are there yet.")
    shape = _shape("8em")
    menu = ipywidgets.Dropdown(options=list(compared), description="judge", **shape)
    times = {"value": 1.0, "base": 2, "min": -2, "max": 2, "step": 0.05, "readout_format": ".2f"}
    slider = ipywidgets.FloatLogSlider(description="times as long", **times, **shape)

    def draw(comparison: str, ratio: float) -> str:
        return show_ratio(compared[comparison], ratio) + tables.show_note(note)

    return Live(draw, {"comparison": menu, "ratio": slider})


def _shape(words: str) -> dict[str, Any]:
    """Looks of a control whose description takes such a width."""
    return {"style": {"description_width": words}, "layout": {"width": "40em"}}


def show_ratio(compared: Compared, ratio: float, truth: float | None = None) -> str:
    """The pane of `ask_ratio`: the rate at a ratio of lengths in words, over points and curve.

    truth: the win rate at equal length, where a judge was planted.
    """
    said = describe_ratio(compared, ratio)
    caption = _CAPTION + " Square: the planted truth." * (truth is not None)
    image = picture(draw_ratio(compared, ratio, truth), said)
    return f'<p>{escape(said)}</p>{image}<p style="font-size: 0.85em; opacity: 0.75">{caption}</p>'


def describe_ratio(compared: Compared, ratio: float) -> str:
    """The win rate at a ratio of lengths with its interval, the one as judged, and how many prompts are near it."""
    items, asked = compared.items, math.log2(ratio)
    if not len(items.preference):
        return "No prompt was judged."
    judged = f"As judged the arm wins {_percent(items.mean(items.preference))}"
    if compared.curve is None:
        return f"{judged}. One side is nearly always longer, so that length cannot be told from the arm."
    times = "were equally long" if abs(asked) < 1e-9 else f"were {ratio:.2f} times as long as the baseline's"
    rate = _percent(compared.curve.at(math.log(ratio)))
    near = int((np.abs(compared.ratios - asked) <= math.log2(1 + NEAR)).sum())
    middle = 2 ** float(np.median(compared.ratios))
    median = f"its answers {middle:.2f} times as long in the median"
    said = f"If all answers of the arm {times}, it would win {rate}. {judged}, {median}."
    low, high = _observed(compared)
    beyond = "" if low <= asked <= high else " The curve is extrapolated there."
    return f"{said} {near:,} of {len(items.preference):,} prompts are near this ratio.{beyond}"


def _percent(rate: Estimate) -> str:
    return f"{100 * rate.value:.1f}% [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _observed(compared: Compared) -> tuple[float, float]:
    """The ratios between which 95% of the prompts lie."""
    low, high = np.quantile(compared.ratios, (0.025, 0.975)).tolist()
    return low, high


@style.in_style()
def draw_ratio(compared: Compared, ratio: float, truth: float | None = None) -> "Figure":
    """Preference by ratio of lengths: prompts as points, the curve with its 95% band, and the rate at one ratio."""
    page, axes = style.make_page(2.7, "", "", left=1.25, right=0.3, bottom=0.45)
    known = compared.ratios[np.isfinite(compared.ratios)]
    edge = float(np.clip(np.quantile(np.abs(known), 0.99) if len(known) else 0, 2.1, 4.2))
    axes.axhline(0.5, color=FAINT, lw=1)
    axes.axvline(0, color=FAINT, lw=1)
    _draw_points(axes, compared, edge)
    if compared.curve:
        _draw_curve(axes, compared, compared.curve, edge)
        _mark_rate(axes, compared.curve, ratio)
    if truth is not None:
        axes.plot(0, truth, "s", mfc="none", mec=INK, ms=11, mew=1.6)
    ticks = {math.log2(times): words for times, words in _TICKS.items() if abs(math.log2(times)) <= edge}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_yticks([0, 0.5, 1], ["the baseline's", "neither", "the arm's"])
    axes.set(xlim=(-edge, edge), ylim=(-0.09, 1.09), xlabel="length of the arm's answer over the baseline's")
    return page


def _draw_points(axes: "Axes", compared: Compared, edge: float) -> None:
    """Prompts as points, those beyond the edge on it; of too many a fixed random part."""
    rng, n = np.random.default_rng(0), len(compared.ratios)
    shown = rng.choice(n, min(n, SHOWN_POINTS), replace=False)
    shift = rng.uniform(-0.035, 0.035, len(shown))
    places = np.clip(compared.ratios[shown], -edge, edge)
    kind: Any = {"color": OTHER, "alpha": 0.55 if n < 300 else 0.3, "mew": 0, "ms": 5 if n < 300 else 3.5}
    axes.plot(places, compared.items.preference[shown] + shift, "o", **kind)


def _draw_curve(axes: "Axes", compared: Compared, curve: Curve, edge: float) -> None:
    places = np.linspace(-edge, edge, 81)
    rates = np.array([curve.at(place * math.log(2))[:3] for place in places])
    low, high = _observed(compared)
    inside = (places >= low) & (places <= high)
    axes.fill_between(places, rates[:, 1], rates[:, 2], color=EQUAL, alpha=0.16, lw=0)
    axes.plot(places, rates[:, 0], color=EQUAL, lw=1.2, ls=(0, (4, 3)))
    axes.plot(places[inside], rates[inside, 0], color=EQUAL, lw=2.4)


def _mark_rate(axes: "Axes", curve: Curve, ratio: float) -> None:
    """The rate at one ratio with its interval; its number stands on the side that the curve leaves free."""
    rate, place = curve.at(math.log(ratio)), math.log2(ratio)
    rises = curve.at(1).value >= curve.at(-1).value
    axes.plot([place, place], [rate.low, rate.high], color=INK, lw=2.5, zorder=3)
    axes.plot(place, rate.value, "D", color=EQUAL, mec=INK, mew=1.2, ms=9, zorder=4)
    kind: Any = {"ha": "right" if rises else "left", "color": INK, "weight": "bold", "size": 12}
    style.annotate(axes, f"{rate.value:.0%}", (place, rate.value), (-10 if rises else 10, 12), **kind)


# --- a judge with planted tastes -----------------------------------------------------------------------------------


def plant_judge(prompts: int = calibration.PROMPTS, seed: int = 0) -> Live:
    """Sliders for the tastes of a simulated judge, and what the length analysis finds of them.

    The judge reads `prompts` pairs of answers in both orders, the arm's 1.5 times as long in the middle; the pairs, and
    the judge's luck, stay the same at every move.
    """
    import ipywidgets

    def make_slider(words: str, value: float, low: float, high: float) -> Any:
        return ipywidgets.FloatSlider(value, min=low, max=high, step=0.25, description=words, **_shape("12em"))

    def draw(**planted: float) -> str:
        return show_planted(Taste(**planted), prompts, seed)

    return Live(
        draw,
        {
            "quality": make_slider("taste for quality", 0.0, -2, 2),
            "length": make_slider("taste for length", 3.0, -3, 6),
            "position": make_slider("for the first place", 0.0, -2, 2),
        },
    )


def show_planted(taste: Taste, prompts: int, seed: int = 0) -> str:
    """The pane of `plant_judge`: the verdict, what was found of what was planted, the prompts and the curve."""
    calls = calibration.simulate(taste, prompts, np.random.default_rng(seed))
    rows = calibration.to_judgments(calls, "planted")
    found = analyse(rows, draws=1).iloc[0]
    listed = tables.Table(tabulate_planted(taste, found))._repr_html_()
    truth = calibration.true_rate(taste)
    return f"<p><b>{_sentence(found['finding'])}</b></p>{listed}{show_ratio(compare(rows), 1.0, truth)}"


PLANTED = {
    "win_rate": ("as judged", ""),
    "at_equal_length": ("at equal length, by the ratio of lengths", "rate"),
    "length_controlled": ("at equal length, by their difference", "rate"),
    "length_matched": ("pairs of equal length", "rate"),
    "length_taste": ("taste for length, logits", "length"),
    "position_taste": ("taste for the first place, logits", "position"),
}
"""By column of the length analysis: its name in words, and the planted truth that it estimates."""


def tabulate_planted(taste: Taste, found: Mapping[Any, Any]) -> pd.DataFrame:
    """What was found of a planted judge beside the truth. found: its row of the length analysis.

    Columns: estimate, found, low, high, planted, held (whether the interval holds the truth; None without one).
    """
    truths = {"rate": calibration.true_rate(taste), "length": taste.length, "position": taste.position}
    lines = []
    for column, (words, truth) in PLANTED.items():
        value, low, high = (found[f"{column}{end}"] for end in ("", "_low", "_high"))
        planted = truths.get(truth, math.nan)
        held = bool(low <= planted <= high) if truth and value == value else None
        numbers = {"found": value, "low": low, "high": high, "planted": planted}
        lines.append({"estimate": words, **{name: round(number, 2) for name, number in numbers.items()}, "held": held})
    return pd.DataFrame(lines)


def _sentence(finding: str) -> str:
    return escape(finding[:1].upper() + finding[1:] + ".")


# --- cards ---------------------------------------------------------------------------------------------------------


def browse_cards(biases: pd.DataFrame, note: str = "") -> Live:
    """A menu of a length analysis' comparisons over the chosen one's verdict card. biases: as `analyse` gives it."""
    import ipywidgets

    rows = {f"{row['judge']}, against {row['baseline']}": row for row in biases.to_dict("records")}
    if not rows:
        return say("Nothing was judged, so that there is no verdict.")
    menu = ipywidgets.Dropdown(options=list(rows), description="judge", **_shape("8em"))
    return Live(lambda comparison: show_card(rows[comparison], note), {"comparison": menu})


def show_card(row: Mapping[Any, Any], note: str = "") -> str:
    """One comparison of a length analysis as HTML: the verdict, who was compared, every estimate with its interval."""
    who = f"{row['arm']} (the arm) against {row['baseline']} (the baseline), judged by {row['judge']}"
    card = findings.tabulate_card(row)
    lines = "".join(map(_draw_estimate, card.to_dict("records")))
    return (
        f'<div style="border-left: 5px solid {EQUAL}; padding: 0.1em 0 0.1em 1em; max-width: 56em">'
        f'<p style="font-size: 1.25em; margin: 0.2em 0"><b>{_sentence(row["finding"])}</b></p>'
        f'<p style="margin: 0.2em 0 0.6em">{escape(who)}, {row["prompts"]:,} prompts. Win rates of the arm with 95% '
        f'intervals:</p><table style="border-collapse: collapse">{lines}</table>{tables.show_note(note)}</div>'
    )


def _draw_estimate(line: Mapping[Any, Any]) -> str:
    """A row of a card: words, an interval drawn from 0 to 1 with a line at one half, the numbers, what it says."""
    low, value, high = (100 * float(line[name]) for name in ("low", "rate", "high"))
    # The page's own ink: a notebook may be dark.
    colour = "currentColor" if line["estimate"].startswith("as judged") else EQUAL
    place = "position: absolute"
    bar = (
        '<div style="position: relative; width: 10em; height: 1em; background: rgba(128, 128, 128, 0.15)">'
        f'<div style="{place}; left: 50%; top: 0; bottom: 0; border-left: 1px solid {OTHER}"></div>'
        f'<div style="{place}; left: {low:.1f}%; width: {high - low:.1f}%; top: 0.4em; height: 0.2em; '
        f'background: {colour}"></div>'
        f'<div style="{place}; left: calc({value:.1f}% - 0.25em); top: 0.25em; width: 0.5em; height: 0.5em; '
        f'border-radius: 50%; background: {colour}"></div></div>'
    )
    numbers = f"<b>{value:.0f}%</b> [{low:.0f}, {high:.0f}]"
    cells = (escape(line["estimate"]), bar, numbers, escape(line["says"]))
    cell = '<td style="text-align: left; padding: 0.15em 0.8em 0.15em 0; white-space: nowrap">'
    return f"<tr>{''.join(f'{cell}{content}</td>' for content in cells)}</tr>"
