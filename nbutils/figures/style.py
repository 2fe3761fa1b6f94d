"""The one style of all figures: palette, names, a page with a title that states the finding, and saving.

Figures are read on a screen, in print and by colour-blind readers: few colours, direct labels, no legend, no grid.
"""

import contextlib
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

# Okabe and Ito's palette (purple and sky darkened, for text), which colour-blind readers can tell apart.
VERMILION, BLUE, GREEN, PURPLE, SKY, ORANGE = "#D55E00", "#0072B2", "#009E73", "#AA4499", "#4A9CC9", "#C98A00"
VERDICT_COLOURS = {"win": BLUE, "tie": "#C4C4C4", "lose": ORANGE}
INK, QUIET, GREY, FAINT = "#222222", "#666666", "#858585", "#C4C4C4"

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
    "ytick.left": False,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
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
    """The colour that an arm or dataset has in every figure; grey for whole datasets and controls."""
    if is_longest(arm):
        return ORANGE if arm.startswith("evol") else VERMILION
    if arm.startswith("evol"):
        return SKY if arm.endswith("score") else GREY
    parts = {"refined": PURPLE, "rewritten": PURPLE, "score": BLUE, "lima": GREEN}
    return next((colour for part, colour in parts.items() if part in arm), GREY)


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
    bottom += MARGIN + (0.2 if note else 0)
    whole = top + height + bottom
    page = plt.figure(figsize=(WIDTH, whole))
    plt.close(page)  # pyplot would show what it holds open at the end of a notebook's cell, a second time

    def write(inches: float, lines: list[str], **kind: Any) -> None:
        page.text(MARGIN / WIDTH, inches / whole, "\n".join(lines), va="top", **kind)

    write(whole - MARGIN, titles, size=13, weight="bold", linespacing=1.3)
    write(whole - head, captions, size=8.5, color=QUIET, linespacing=1.4)
    if note:
        write(MARGIN + 0.1, [note], size=7.5, color=QUIET, style="italic")
    return page, page.add_axes((left / WIDTH, bottom / whole, 1 - (left + right) / WIDTH, height / whole))


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
        tick.set_color(colour)


def draw_bars(axes: "Axes", values: Sequence[float], labels: Sequence[str], colours: Sequence[str]) -> None:
    """Horizontal bars, the first on top, each with its number at its end, which makes an axis needless."""
    axes.barh(range(len(values)), values, color=colours, height=0.66)
    for place, value in enumerate(values):
        annotate(axes, f"{value:,.0f}", (value, place), (5, 0), weight="bold")
    label_rows(axes, labels)
    axes.set_ylim(len(values) - 0.5, -0.5)
    hide_x_axis(axes)


def draw_intervals(
    axes: "Axes", places: Sequence[float], bounds: Sequence[Any], colours: Any, ms: float = 6, lw: float = 1.6
) -> None:
    """Horizontal 95% intervals with a dot at the value, in one colour or one for each; a missing value is left out.

    bounds: the values, their lower and their upper ends.
    """
    shades = [colours] * len(places) if isinstance(colours, str) else colours
    for place, value, low, high, colour in zip(places, *bounds, shades, strict=True):
        axes.plot([low, high], [place, place], color=colour, lw=lw)
        axes.plot(value, place, "o", color=colour, ms=ms)


def draw_shares(axes: "Axes", places: Sequence[float], shares: Sequence[Sequence[float]]) -> None:
    """Stacked horizontal bars of win, tie and lose (in percent), each with its number where there is room."""
    left = [0.0] * len(places)
    for (name, colour), widths in zip(VERDICT_COLOURS.items(), shares, strict=True):
        bars = axes.barh(places, widths, left=left, color=colour, height=0.74)
        labels = [f"{width:.0f}" if width >= 4 else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color=INK if name == "tie" else "white", size=8.5)
        if widths[0] >= 4:
            middle = (left[0] + widths[0] / 2, places[0])
            annotate(axes, name, middle, (0, 12), ha="center", va="baseline", color=QUIET, size=8.5)
        left = [start + width for start, width in zip(left, widths, strict=True)]


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
