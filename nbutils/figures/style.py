"""The one style of all figures: palette, names, a page with a title that states the finding, and saving.

Figures are read on a screen 700 pixels wide, in print and by colour-blind readers: few colours, each with one meaning
in all figures, labels beside what they name, no legend, no grid. tests/figures/test_palette.py holds the palette to it.
"""

import contextlib
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.core import disk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0
DPI = 160
MARGIN = 0.15

LONGEST, REFINED, RATED, LIMA, OTHER = "#C84C0C", "#5A0A60", "#1560F0", "#1E663D", "#8A8A8A"
"""How a training set was chosen: longest responses, rewritten, rated best by a model, by hand, otherwise or not."""
INK, EQUAL = "#222222", "#A055C0"
"""What a judge prefers: as judged (circles), and what the length analysis makes of it (diamonds). Ink also writes."""
QUIET, FAINT, SHADE, PAPER = "#595959", "#C4C4C4", "#F1F1F1", "#FFFFFF"
"""What accompanies: text of the second rank, guide lines and ranges, grounds and ties, the page."""

SMALL = 8.5
"""Points of the smallest text, above 10 pixels where a page is shown 700 pixels wide."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": FAINT,
    "xtick.labelcolor": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "ytick.left": False,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "svg.fonttype": "path",
    "svg.hashsalt": "long-is-more",
}

NAMES = {
    "alpaca-52k": "Alpaca-52k",
    "alpaca-1k-longest": "Alpaca-1k-longest",
    "alpaca-1k-longest-published": "Alpaca-1k-longest",
    "alpaca-1k-longest-refined": "Refined-Alpaca-1k-longest",
    "alpaca-1k-score": "AlpaGasus-1k",
    "lima-1k": "LIMA-1k",
    "evol-70k": "Evol-Instruct-70k",
    "evol-1k-longest": "Evol-Instruct-1k-longest",
    "evol-1k-longest-published": "Evol-Instruct-1k-longest",
    "evol-1k-score": "Evol-Instruct-AlpaGasus-1k",
}


def name_of(arm: str) -> str:
    """An arm's or dataset's name as the paper writes it, where the paper has one."""
    return NAMES.get(arm, arm)


def is_longest(arm: str) -> bool:
    """Whether a name is that of a plain selection of the longest responses."""
    return re.search(r"-longest(-published)?$", arm) is not None


def colour_of(arm: str) -> str:
    """The colour that an arm or dataset has in every figure, by how its rows were chosen and not from where."""
    if is_longest(arm):
        return LONGEST
    parts = {"refined": REFINED, "rewritten": REFINED, "score": RATED, "lima": LIMA}
    return next((colour for part, colour in parts.items() if part in arm), OTHER)


def text_colour(colour: str) -> str:
    """What a word in a mark's colour is written in: the one colour that is too light for text gives way to grey."""
    return QUIET if colour in (OTHER, FAINT) else colour


def text_on(colour: str) -> str:
    """What is written on a mark of a colour: white where it is dark enough, else black; one of them always reads."""
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # of sRGB, as in WCAG 2
    return PAPER if luminance < 0.18 else "#000000"


def percent(share: float) -> str:
    """A share (0 to 1) in percent, with a decimal below one percent; halves are rounded up."""
    is_small = 0 < share < 0.00995
    return f"{100 * share:.1f}%" if is_small else f"{int(100 * share + 0.5 + 1e-9)}%"


@contextlib.contextmanager
def in_style() -> Iterator[None]:
    """Draw in the project's style what a `with` block or, as `@in_style()`, a function draws."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def make_page(
    height: float, title: str, caption: str, note: str = "", left: float = 2.2, right: float = 0.4, bottom: float = 0.15
) -> "tuple[Figure, Axes]":
    """A page and its axes: a title that states the finding and a caption above, a note in the footer.

    height: of the axes, in inches; left, right, bottom: inches around them, for labels.
    """
    import matplotlib.pyplot as plt

    titles, captions = textwrap.wrap(title, 68), textwrap.wrap(caption, 116)
    head = MARGIN + 0.26 * len(titles) + 0.05
    top = head + 0.18 * len(captions) + 0.2
    bottom += MARGIN + (0.28 if note else 0)
    whole = top + height + bottom
    page = plt.figure(figsize=(WIDTH, whole))
    plt.close(page)  # pyplot would show what it holds open at the end of a notebook's cell, a second time

    def write(inches: float, lines: list[str], **kind: Any) -> None:
        page.text(MARGIN / WIDTH, inches / whole, "\n".join(lines), va="top", **kind)

    write(whole - MARGIN, titles, size=13, weight="bold", linespacing=1.3)
    write(whole - head, captions, size=SMALL, color=QUIET, linespacing=1.4)
    if note:
        write(MARGIN + 0.12, [note], size=SMALL, color=QUIET, style="italic")
    return page, page.add_axes((left / WIDTH, bottom / whole, 1 - (left + right) / WIDTH, height / whole))


def split(axes: "Axes", headings: Sequence[str], gap: float = 0.25) -> "list[Axes]":
    """Axes in the place of one, side by side and each under its heading; only the first keeps names of rows.

    gap: inches between them. The headings' lines take their room from the axes' height.
    """
    page: Any = axes.figure
    box = axes.get_position()
    space = gap / WIDTH
    width = (box.width - space * (len(headings) - 1)) / len(headings)
    lines = 1 + max(heading.count("\n") for heading in headings)
    height = box.height - (0.04 + 0.17 * lines) / page.get_figheight()
    axes.remove()
    parts = []
    for number, heading in enumerate(headings):
        part = page.add_axes((box.x0 + number * (width + space), box.y0, width, height))
        part.tick_params(labelleft=number == 0)
        part.set_title(heading, size=9, color=INK, loc="left", pad=6, linespacing=1.3)
        parts.append(part)
    return parts


def plain(name: str, most: int = 44) -> str:
    """A name from a run as a label: not too long, and no formula (two dollar signs would begin one)."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


BESIDE: Any = ("axes fraction", "data")
"""Units of a place beside the axes: 0 is their left, 1 their right."""


def annotate(axes: "Axes", text: str, place: tuple[float, float], shift: tuple[float, float], **kind: Any) -> None:
    """Write so many points away from a place in the data's units (or others, `xycoords`), in the middle of its height.

    kind: what else matplotlib's `annotate` takes.
    """
    axes.annotate(text, place, shift, **({"textcoords": "offset points", "va": "center"} | kind))


def label_rows(
    axes: "Axes", labels: Sequence[str], colours: Sequence[str] = (), places: Sequence[float] | None = None
) -> None:
    """Name the rows of horizontal axes on their left: 0, 1, ... or those at `places`."""
    axes.set_yticks(range(len(labels)) if places is None else places, labels)
    for tick, colour in zip(axes.get_yticklabels(), colours, strict=False):
        tick.set_color(text_colour(colour))


def draw_bars(axes: "Axes", values: Sequence[float], labels: Sequence[str], colours: Sequence[str]) -> None:
    """Horizontal bars, the first on top, each with its number at its end, which makes an axis needless."""
    axes.barh(range(len(values)), values, color=colours, height=0.66)
    for place, value in enumerate(values):
        annotate(axes, f"{value:,.0f}", (value, place), (5, 0), weight="bold")
    label_rows(axes, labels)
    axes.set_ylim(len(values) - 0.5, -0.5)
    hide_x_axis(axes)


def draw_intervals(
    axes: "Axes", places: Sequence[float], bounds: Sequence[Any], colours: Any, mark: str = "o", **kind: Any
) -> None:
    """Horizontal 95% intervals with a mark at the value, in one colour or one for each; a missing value is left out.

    bounds: the values, their lower and their upper ends; kind: what else matplotlib's `plot` takes for the mark, as
    `mfc=PAPER` for a hollow one.
    """
    shades = [colours] * len(places) if isinstance(colours, str) else colours
    for place, value, low, high, colour in zip(places, *bounds, shades, strict=True):
        axes.plot([low, high], [place, place], color=colour, lw=1.6)
        axes.plot(value, place, mark, **({"color": colour, "ms": 6, "mew": 1.5} | kind))


def draw_shares(
    axes: "Axes", places: Sequence[float], shares: Sequence[Sequence[float]], pairs: Sequence[tuple[str, str]]
) -> None:
    """Stacked horizontal bars of win, tie and lose (in percent), each with its number where there is room.

    pairs: for each bar the arms whose answers win and lose: a segment has the colour of the arm that is preferred.
    """
    ends = [(colour_of(arm), SHADE, colour_of(rival)) for arm, rival in pairs]
    left = [0.0] * len(places)
    sides = _sides_of_words([widths[0] for widths in shares])
    for number, (name, widths) in enumerate(zip(("win", "tie", "lose"), shares, strict=True)):
        colours = [colour[number] for colour in ends]
        bars = axes.barh(places, widths, left=left, color=colours, height=0.74, edgecolor=PAPER, lw=0.8)
        texts = [f"{width:.0f}" if width >= 4 else "" for width in widths]
        if widths[0] < 4 and (wide := [place for place, width in enumerate(widths) if width >= 12]):
            texts[wide[0]] = f"{name} {texts[wide[0]]}"  # where there is no room for the word above the first bar
        labels = axes.bar_label(bars, texts, label_type="center", size=9)
        for label, colour in zip(labels, colours, strict=True):
            label.set_color(text_on(colour))
        if widths[0] >= 4:
            middle = (left[0] + widths[0] / 2, places[0])
            annotate(axes, name, middle, (0, 12), ha=sides[number], va="baseline", color=QUIET, size=SMALL)
        left = [start + width for start, width in zip(left, widths, strict=True)]


def use_log_axis(axes: "Axes", most: float) -> None:
    """A horizontal axis of lengths on a logarithmic scale, with ticks at the powers of four up to `most`."""
    axes.set_xscale("log", base=2)
    ticks = [4**power for power in range(8) if 4**power <= most]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _sides_of_words(widths: Sequence[float], apart: float = 10) -> list[str]:
    """How words stand over the middles of stacked segments (in percent): two that would touch turn from each other."""
    middles = [sum(widths[:number]) + width / 2 for number, width in enumerate(widths)]
    near = [False, *(right - left < apart for left, right in itertools.pairwise(middles)), False]
    return ["left" if before else "right" if after else "center" for before, after in itertools.pairwise(near)]


def hide_x_axis(axes: "Axes") -> None:
    """Take away the horizontal axis where every mark carries its number."""
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def save(figure: "Figure", name: str, folder: Path) -> None:
    """Write `name`.svg and `name`.png, with the same bytes whenever the figure is the same."""
    with in_style():
        for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
            with disk.atomic_path(folder / f"{name}{suffix}") as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
