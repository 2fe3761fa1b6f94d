"""One palette with fixed meanings, which colour-blind readers can tell apart and everybody can read."""

import itertools

import pytest
import vision
from matplotlib.colors import to_rgb

from nbutils.figures import style

MEANINGS = {
    "longest": style.LONGEST,
    "refined": style.REFINED,
    "rated": style.RATED,
    "lima": style.LIMA,
    "other": style.OTHER,
    "as judged": style.INK,
    "at equal length": style.EQUAL,
}
GROUNDS = (style.PAPER, style.SHADE)


def test_the_simulation_keeps_greys_and_merges_what_it_must():
    for kind in vision.KINDS:
        for grey in (0.0, 0.3, 1.0):
            assert vision.simulate([grey] * 3, kind) == pytest.approx([grey] * 3, abs=1e-4)
    red, green = to_rgb("#B8860B"), to_rgb("#8FA000")
    assert vision.distance(red, green) > 30
    assert vision.distance(*(vision.simulate(colour, "deuteranopia") for colour in (red, green))) < 15


def test_known_distances_and_contrasts():
    assert vision.to_lab(to_rgb("#FF0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert vision.distance((0, 0, 0), (1, 1, 1)) == pytest.approx(100, abs=0.01)
    assert vision.contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert vision.contrast(to_rgb("#767676"), (1, 1, 1)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("kind", [None, *vision.KINDS])
def test_no_two_meanings_look_alike(kind):
    seen = {name: to_rgb(colour) for name, colour in MEANINGS.items()}
    if kind:
        seen = {name: vision.simulate(colour, kind) for name, colour in seen.items()}
    for (one, first), (other, second) in itertools.combinations(seen.items(), 2):
        assert vision.distance(first, second) >= vision.FAR, f"{one} and {other}"


@pytest.mark.parametrize("name", MEANINGS)
def test_marks_stand_out_from_the_page_and_from_grounds(name):
    for ground in GROUNDS:
        assert vision.contrast(to_rgb(MEANINGS[name]), to_rgb(ground)) >= 3


@pytest.mark.parametrize("name", MEANINGS)
def test_words_in_a_marks_colour_and_on_it_can_be_read(name):
    colour = MEANINGS[name]
    assert vision.contrast(to_rgb(style.text_colour(colour)), to_rgb(style.PAPER)) >= 4.5
    assert vision.contrast(to_rgb(style.text_on(colour)), to_rgb(colour)) >= 4.5


def test_words_of_the_second_rank_can_be_read_on_every_ground():
    assert all(vision.contrast(to_rgb(style.QUIET), to_rgb(ground)) >= 4.5 for ground in GROUNDS)


@pytest.mark.parametrize("level", range(0, 256, 5))
def test_on_every_grey_a_word_can_be_read(level):
    grey = (level / 255,) * 3
    assert vision.contrast(to_rgb(style.text_on(grey)), grey) >= 4.5


@pytest.mark.parametrize(
    ("arm", "colour"),
    [
        ("alpaca-1k-longest", style.LONGEST),
        ("alpaca-1k-longest-published", style.LONGEST),
        ("evol-1k-longest", style.LONGEST),
        ("alpaca-1k-longest-refined", style.REFINED),
        ("alpaca-1k-longest-refined+neftune", style.REFINED),
        ("alpaca-1k-score", style.RATED),
        ("evol-1k-score", style.RATED),
        ("lima-1k", style.LIMA),
        ("alpaca-52k", style.OTHER),
        ("alpaca-1k-random-7", style.OTHER),
        ("alpaca-1k-longest-instruction", style.OTHER),
    ],
)
def test_an_arms_colour_tells_how_its_rows_were_chosen(arm, colour):
    assert style.colour_of(arm) == colour
