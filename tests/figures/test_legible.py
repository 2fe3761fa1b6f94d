"""Every figure, committed or a run's, shown 700 pixels wide: no small, pale, cut or covered word, no stray colour."""

import functools
import itertools

import matplotlib
import numpy as np
import pytest
import vision
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from run_figures import DRAWN

matplotlib.use("agg")

from nbutils.figures import registry, style

SHOWN = 700
"""Pixels of width at which a figure must be readable: a column of a page on a phone or of a README."""
SMALLEST = 9
"""Pixels of the smallest text there."""

MARKS = {style.LONGEST, style.REFINED, style.RATED, style.LIMA, style.OTHER, style.INK, style.EQUAL, style.QUIET}
GROUNDS = {style.FAINT, style.SHADE, style.PAPER}
ALL = [*registry.FIGURES, *DRAWN]


@functools.cache
def drawn(name):
    """A figure laid out in pixels of 700 in width, with each visible text and the box that its letters take."""
    figure = DRAWN[name]() if name in DRAWN else registry.draw(name)
    figure.set_dpi(SHOWN / figure.get_figwidth())
    figure.draw_without_rendering()
    written = [text for part in figure.axes for text in texts_of(part)] + figure.texts
    texts = [text for text in written if text.get_visible() and text.get_text().strip()]
    # Of the text alone: an annotation's own extent holds its line as well.
    return figure, [(text, Text.get_window_extent(text)) for text in texts]


def texts_of(axes):
    """Its texts, titles and labels; of ticks only those within the view, as the others are not drawn."""
    yield from (*axes.texts, axes.title, axes._left_title, axes._right_title)
    for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
        low, high = sorted(axis.get_view_interval())
        if axis.get_visible():
            yield axis.label
            yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)


@functools.cache
def grounds(name):
    """The figure's pixels without its texts, the first row at the bottom, each colour as one number."""
    figure, texts = drawn(name)
    shown = [text for text, _ in texts]
    for text in shown:
        text.set_alpha(0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1].copy()
    for text in shown:
        text.set_alpha(None)
    return pixels.view(np.uint32)[..., 0]


def ground_of(name, box):
    """What lies under a text: its commonest colour, and the share of its pixels that are otherwise."""
    pixels = grounds(name)
    part = pixels[max(0, round(box.y0)) : round(box.y1), max(0, round(box.x0)) : round(box.x1)]
    colours, counts = np.unique(part, return_counts=True)
    most = colours[[counts.argmax()]].view(np.uint8)[:3] / 255
    return most, 1 - counts.max() / counts.sum()


@pytest.mark.parametrize("name", ALL)
def test_no_text_is_too_small(name):
    figure, texts = drawn(name)
    assert figure.get_figwidth() == style.WIDTH
    small = {text.get_text(): text.get_fontsize() * figure.dpi / 72 for text, _ in texts}
    assert min(small.values()) >= SMALLEST, min(small, key=small.get)


@pytest.mark.parametrize("name", ALL)
def test_every_text_lies_on_the_page(name):
    figure, texts = drawn(name)
    page = figure.bbox.padded(1)
    for text, box in texts:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()


@pytest.mark.parametrize("name", ALL)
def test_no_text_covers_another(name):
    for (one, first), (other, second) in itertools.combinations(drawn(name)[1], 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide <= 1 or high <= 2, (one.get_text(), other.get_text())  # boxes hold room for letters as g and É


@pytest.mark.parametrize("name", ALL)
def test_neighbours_on_a_line_are_apart(name):
    """As many pixels as a space takes: `0.05` beside `0.10` must not be read as one number."""
    for (one, first), (other, second) in itertools.combinations(drawn(name)[1], 2):
        apart = max(first.x0, second.x0) - min(first.x1, second.x1)
        on_a_line = min(first.y1, second.y1) - max(first.y0, second.y0) > 0.5 * min(first.height, second.height)
        assert not on_a_line or apart >= 4, (one.get_text(), other.get_text(), apart)


@pytest.mark.parametrize("name", ALL)
def test_every_text_stands_out_from_what_is_under_it(name):
    for text, box in drawn(name)[1]:
        ground, _ = ground_of(name, box)
        assert vision.contrast(to_rgb(text.get_color()), ground) >= 4.5, text.get_text()


@pytest.mark.parametrize("name", ALL)
def test_no_mark_runs_through_a_text(name):
    for text, box in drawn(name)[1]:
        assert ground_of(name, box)[1] <= 0.12, text.get_text()


@pytest.mark.parametrize("name", ALL)
def test_marks_have_the_palettes_colours_and_no_others(name):
    known = {colour.lower() for colour in MARKS | GROUNDS}
    for axes in drawn(name)[0].axes:
        lines = [(line.get_color(), line.get_alpha()) for line in axes.lines]
        fillings = [(line.get_markerfacecolor(), None) for line in axes.lines if line.get_marker() != "None"]
        patches = [(patch.get_facecolor(), patch.get_alpha()) for patch in axes.patches]
        areas = [part for part in axes.collections if not isinstance(part, QuadMesh)]  # a heat map has a scale of greys
        spread = [(face, part.get_alpha()) for part in areas for face in part.get_facecolor()]
        for colour, alpha in [*lines, *fillings, *patches, *spread]:
            assert to_hex(colour) in known, to_hex(colour)
            assert alpha in (None, 1)  # what shines through is a colour of its own


@pytest.mark.parametrize("name", ALL)
def test_titles_hold_numbers_and_fit_two_lines(name):
    title = drawn(name)[0].texts[0].get_text()
    assert title.count("\n") <= 1
    assert any(letter.isdigit() for letter in title)
