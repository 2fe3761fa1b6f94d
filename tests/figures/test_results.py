"""Figures of a run: whole on their page, with the numbers of the run, and shown once in a notebook."""

import itertools
import math

import matplotlib
import pytest

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd

from nbutils.figures import registry, results

LONG = "alpaca-random-token-matched-7"


def verdict_row(baseline, judge="gpt-4o-mini $x$"):
    counts = {"prompts": 80, "win": 40, "tie": 20, "lose": 20}
    return {
        "judge": judge,
        "arm": "alpaca-1k-longest",
        "baseline": baseline,
        "test_set": "all",
        "rule": "exact",
    } | counts


def bias_row(baseline):
    rates = {"win_rate": 0.6, "win_rate_low": 0.5, "win_rate_high": 0.7}
    rates |= dict.fromkeys(("length_controlled", "length_controlled_low", "length_controlled_high"), math.nan)
    return {"judge": "gpt-4o-mini", "arm": "alpaca-1k-longest", "baseline": baseline} | rates


def control_row(selection, treatment, net, kind):
    row = {"judge": "j", "against": selection, "selection": selection, "treatment": treatment, "controls_for": kind}
    return row | {"answer": 1810.4, "its_answer": 586.2, "net_win": net, "low": net - 5, "high": net + 5}


CONTROLS = pd.DataFrame(
    [
        control_row("alpaca-52k", "trained for 3 epochs, may not stop before 150 tokens", 31.5, "answer length"),
        control_row(LONG, "", -4.0, "trained tokens"),
    ]
)
LOSSES = {f"alpaca-1k-random-{n}": pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0 + n / 1000]}) for n in range(6)}

DRAWN = {
    "verdicts": lambda: results.draw_verdicts(pd.DataFrame([verdict_row("lima-1k"), verdict_row(LONG)]), "a note"),
    "control": lambda: results.draw_control(pd.DataFrame([bias_row("lima-1k"), bias_row(LONG)]), "a note"),
    "controls": lambda: results.draw_controls(CONTROLS, "a note"),
    "losses": lambda: results.draw_losses(LOSSES, "a note"),
}


def texts_of(figure):
    figure.draw_without_rendering()
    shown = figure.findobj(matplotlib.text.Text)
    return [text for text in shown if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", ["verdicts", "controls"])
def test_every_text_lies_on_the_page(name):
    figure = DRAWN[name]()
    page = figure.bbox.padded(1)
    for text in texts_of(figure):
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()


@pytest.mark.parametrize("name", DRAWN)
def test_pyplot_holds_no_figure_that_a_notebook_would_show_twice(name):
    DRAWN[name]()
    registry.draw("token-budget", registry.FOLDER / "tables")
    assert plt.get_fignums() == []


def test_controls_show_both_lengths_and_what_was_done():
    shown = {text.get_text() for text in texts_of(DRAWN["controls"]())}
    assert {"1,810 : 586", LONG, "a note"} <= shown
    assert "Alpaca-52k, trained for 3 epochs, may not stop before 1…" in shown


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    figure = DRAWN["losses"]()
    names = [text for text in texts_of(figure) if text.get_text().strip().startswith("alpaca-1k-random-")]
    # Of the text alone: an annotation's own extent holds its line as well.
    heights = sorted((box.y0, box.y1) for box in map(matplotlib.text.Text.get_window_extent, names))
    assert len(heights) == 6
    assert all(below[1] <= above[0] + 1 for below, above in itertools.pairwise(heights))


def test_arms_whose_names_are_cut_alike_are_all_named():
    arms = [f"an-arm-of-{'x' * 40}-{n}" for n in range(2)]
    figure = results.draw_losses({arm: pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]}) for arm in arms})
    assert len([text for text in texts_of(figure) if text.get_text().strip().startswith("an-arm-of-")]) == 2
