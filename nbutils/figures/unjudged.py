"""The figure of what a run can say without a judge: likelihoods of held-out references, lengths, ends, repetition."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.figures import style
from nbutils.figures.results import say_chance, short_name
from nbutils.figures.style import FAINT, INK, PAPER, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_MEASURES = {
    "log_likelihood": ("likelihood of\nreferences, nats", 1, "{:+.3f}", 0.01),
    "tokens": ("answer length,\ntokens", 1, "{:+.0f}", 2),
    "stopped": ("ended by itself,\n% of answers", 100, "{:+.0f}", 2),
    "repetition": ("repeated,\n% of an answer", 100, "{:+.1f}", 2),
}
"""For each measure its heading, what turns it into the heading's unit, a number's form, and half of the least axis."""


@style.in_style()
def draw_differences(measured: "DataFrame", note: str = "") -> "Figure":
    """How the target differs from each baseline in what needs no judge: paired differences with 95% intervals.

    measured: stage 07's answer_measures.csv; of several sets of texts the line of all.
    """
    texts = measured.groupby(["measure", "arm", "baseline"]).texts_of.transform("size")
    rows = measured[(texts == 1) | (measured.texts_of == "all")]
    baselines, arm = list(dict.fromkeys(rows.baseline)), short_name(rows.arm.iloc[0])
    shown = {name: about for name, about in _MEASURES.items() if name in set(rows.measure)}
    counted = rows.groupby("measure").texts.unique()
    nouns = {"log_likelihood": "references that no arm was trained on", "tokens": "answers"}
    used = " and ".join(f"{_span(counted[name])} {noun}" for name, noun in nouns.items() if name in counted)
    caption = (
        f"{arm} minus each baseline, text by text: means with 95% intervals, of {used}. "
        "Likelihoods are of a token, in nats. No judge, hence no judge's taste; but nothing on an answer's quality."
    )
    page, axes = style.make_page(0.5 * len(baselines) + 0.8, _tell(rows), caption, note, 2.55, 0.3, 0.3)
    parts = style.split(axes, [heading for heading, *_ in shown.values()], 0.25)
    for part, (name, about) in zip(parts, shown.items(), strict=True):
        _draw_measure(part, rows[rows.measure == name].set_index("baseline").reindex(baselines), *about[1:])
        style.label_rows(part, [short_name(baseline, 30) for baseline in baselines])
    return page


def _span(counts: "np.ndarray") -> str:
    """How many texts: of a baseline that was taught one of the sets the others alone are counted."""
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _draw_measure(axes: "Axes", found: "DataFrame", unit: float, form: str, least: float) -> None:
    """Intervals of one measure, a row for each baseline, on an axis that holds zero."""
    bounds = [unit * found[f"difference{end}"] for end in ("", "_low", "_high")]
    axes.axvline(0, color=FAINT, lw=1)
    style.draw_intervals(axes, range(len(found)), bounds, INK)
    for place, value in enumerate(bounds[0]):
        if np.isfinite(value):
            number: Any = {"ha": "center", "size": SMALL, "bbox": {"fc": PAPER, "ec": "none", "pad": 0.5}}
            style.annotate(axes, form.format(value).replace("-", "−"), (value, place), (0, 11), **number)
    low, high = np.nanmin([*bounds[0], *bounds[1], 0]), np.nanmax([*bounds[0], *bounds[2], 0])
    more = max(0.25 * (high - low), least)
    axes.set(xlim=(low - more, high + more), ylim=(len(found) - 0.5, -0.6))
    axes.locator_params(axis="x", nbins=2)
    axes.xaxis.set_major_formatter("{x:g}")  # 0 and not 0.00, which would touch its neighbours


def _tell(rows: "DataFrame") -> str:
    """The finding without a judge: the two differences to the one baseline, or over how many each is assured."""
    arm = short_name(rows.arm.iloc[0])
    longer, likelier = (rows[rows.measure == name] for name in ("tokens", "log_likelihood"))
    if len(longer) == 1:
        row = longer.iloc[0]
        title = f"{arm} answers in {row.arm_mean:,.0f} tokens, {short_name(row.baseline)} in {row.baseline_mean:,.0f}"
        if len(likelier):
            one = likelier.iloc[0]
            said = say_chance(one.difference, one.difference_low, one.difference_high)
            title += f"; held-out references are {'likelier' if one.difference > 0 else 'less likely'} to it, {said}"
        return title
    counts = [int((part.difference_low > 0).sum()) for part in (longer, likelier)]
    title = f"{arm} writes more than {counts[0]} of {len(longer)} baselines"
    return title + (f", and finds references likelier than {counts[1]} of {len(likelier)}" if len(likelier) else "")
