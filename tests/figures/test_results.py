"""Figures of a run: whole on their page, with the numbers of the run, and shown once in a notebook."""

import itertools

import matplotlib
import pandas as pd
import pytest
from run_figures import BIASES, CONTROLS, DRAWN, LONG, LOSSES, MEASURES, SETS, VERDICTS, verdict_row

matplotlib.use("agg")

import matplotlib.pyplot as plt

from nbutils.figures import registry, results, style, unjudged


def texts_of(figure):
    figure.draw_without_rendering()
    shown = figure.findobj(matplotlib.text.Text)
    return [text for text in shown if text.get_visible() and text.get_text().strip()]


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


# --- titles --------------------------------------------------------------------------------------------------------


def title_of(figure):
    return figure.texts[0].get_text().replace("\n", " ")


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([verdict_row("lima-1k")], "Alpaca-1k-longest wins by 25 points net against LIMA-1k, beyond chance"),
        ([verdict_row("lima-1k", low=-0.1)], "Alpaca-1k-longest wins by 25 points net against LIMA-1k, within chance"),
        (
            [verdict_row("lima-1k", win=10, net_win=-0.12, low=-0.2, high=-0.02), verdict_row("x", "coin")],
            "Alpaca-1k-longest loses by 12 points net against LIMA-1k, beyond chance",
        ),
        (
            [verdict_row("lima-1k"), verdict_row("a", low=0), verdict_row("b", low=-0.4, high=-0.1)],
            "Alpaca-1k-longest wins 1 of 3 comparisons beyond chance, and loses 1",
        ),
    ],
)
def test_the_title_of_verdicts_is_what_judges_found_and_no_control(rows, title):
    assert title_of(results.draw_verdicts(pd.DataFrame(rows))).startswith(title)


def test_the_title_of_test_sets_counts_where_it_wins():
    assert title_of(results.draw_test_sets(SETS)) == "Alpaca-1k-longest wins more than it loses on 1 of 2 test sets"
    one = results.draw_test_sets(SETS.head(1))
    assert title_of(one) == "Alpaca-1k-longest wins 50% and loses 25% of the prompts"


def test_the_title_of_the_control_is_what_length_leaves():
    one = title_of(results.draw_control(BIASES.iloc[[0, 2]]))
    assert one == "Alpaca-1k-longest is preferred in 60%; at equal length in 55%, within chance"
    both = title_of(results.draw_control(BIASES))
    assert both == "The target is preferred beyond chance in 2 of 2 comparisons, at equal length in 0"
    unknown = title_of(results.draw_control(BIASES.iloc[[1]]))
    assert unknown == "Alpaca-1k-longest is preferred in 60%; at equal length, not known"
    none = title_of(results.draw_control(BIASES.drop(columns=["at_equal_length"])))
    assert none == "The win rate at equal length cannot be estimated"


def test_the_title_of_controls_counts_those_with_longer_answers():
    title = title_of(results.draw_controls(CONTROLS))
    assert title == "The target wins beyond chance against 1 of 2 baselines, 1 of the 1 with longer answers"
    assert title_of(results.draw_controls(CONTROLS.tail(1))).endswith("against 0 of 1 baselines")


def test_the_title_of_losses_is_where_they_end():
    steps = pd.DataFrame({"step": range(1, 11), "loss": [4.0, 3.0, *[2.0] * 6, 1.5, 1.0]})
    assert title_of(results.draw_losses({"lima-1k": steps})) == "In 10 steps the training loss goes from 3.50 to 1.25"
    both = title_of(results.draw_losses({"lima-1k": steps, "alpaca-52k": steps.assign(loss=3.0)}))
    assert both == "The training loss ends lowest for LIMA-1k, at 1.25, and highest for Alpaca-52k, at 3.00"
    short = results.draw_losses({"lima-1k": steps.head(4)})
    assert title_of(short) == "In 4 steps, too few for a trend, the training loss goes from 4.00 to 2.00"
    assert all(float(tick).is_integer() for tick in short.axes[0].get_xticks()), "there is no half of a step"


def test_the_axis_of_losses_reaches_to_the_end_that_is_to_come():
    steps = pd.DataFrame({"step": range(1, 4), "loss": [4.0, 3.0, 2.0]})
    assert results.draw_losses({"lima-1k": steps}, steps=100).axes[0].get_xlim() == (0, 102)
    assert results.draw_losses({"lima-1k": steps}).axes[0].get_xlim() == pytest.approx((0.9, 3.1))


# --- colours and marks ---------------------------------------------------------------------------------------------


def test_a_segment_has_the_colour_of_the_arm_that_is_preferred():
    axes = results.draw_verdicts(VERDICTS.head(1)).axes[0]
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in axes.patches]
    assert colours == [style.LONGEST, style.SHADE, style.LIMA]


def test_lines_of_one_colour_have_dashes_of_their_own():
    lines = results.draw_losses(LOSSES).axes[0].lines[:4]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 4
    assert {line.get_color() for line in lines} == {style.OTHER}


def test_a_tie_is_named_where_the_first_bar_has_none():
    rows = [verdict_row("lima-1k", win=60, tie=0), verdict_row(LONG)]
    texts = [text.get_text() for text in texts_of(results.draw_verdicts(pd.DataFrame(rows)))]
    assert "tie 25" in texts and "tie" not in texts


# --- without a judge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "sides"),
    [
        ([72, 12, 16], ["center"] * 3),
        ([88, 4, 8], ["center", "right", "left"]),
        ([6, 5, 89], ["right", "left", "center"]),
        ([100], ["center"]),
    ],
)
def test_words_over_narrow_segments_turn_from_each_other(widths, sides):
    assert style._sides_of_words(widths) == sides


def test_differences_without_a_judge_show_every_measure_and_baseline():
    figure = unjudged.draw_differences(MEASURES)
    shown = [text.get_text() for text in texts_of(figure)]
    assert [axes.get_title(loc="left").split(",")[0].replace("\n", " ") for axes in figure.axes] == [
        "likelihood of references",
        "answer length",
        "ended by itself",
        "repeated",
    ]
    # Of several sets of references the line of all; what only one baseline has stands in its row alone.
    assert (shown.count("+0.045"), shown.count("+52"), shown.count("−38"), shown.count("+0.0")) == (2, 2, 1, 1)
    assert all(min(axes.get_xlim()) < 0 < max(axes.get_xlim()) for axes in figure.axes)
    assert (
        title_of(figure)
        == "Alpaca-1k-longest writes more than 1 of 2 baselines, and finds references likelier than 2 of 2"
    )


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((0.045, 0.03, 0.06), "likelier to it, beyond chance"),
        ((-0.01, -0.03, 0.01), "less likely to it, within chance"),
    ],
)
def test_the_title_without_a_judge_says_both_findings_of_one_baseline(bounds, said):
    rows = MEASURES[MEASURES.baseline == "lima-1k"].copy()
    rows.loc[rows.measure == "log_likelihood", ["difference", "difference_low", "difference_high"]] = bounds
    title = title_of(unjudged.draw_differences(rows))
    assert title == f"Alpaca-1k-longest answers in 162 tokens, LIMA-1k in 110; held-out references are {said}"


def test_a_run_without_references_is_drawn_as_well():
    figure = unjudged.draw_differences(MEASURES[MEASURES.measure != "log_likelihood"])
    assert len(figure.axes) == 3
    assert title_of(figure) == "Alpaca-1k-longest writes more than 1 of 2 baselines"


def test_of_a_baseline_that_was_taught_some_references_the_others_are_counted():
    rows = MEASURES.copy()
    rows["texts"] = 200
    rows.loc[(rows.measure == "log_likelihood") & (rows.baseline == "lima-1k"), "texts"] = 129
    shown = " ".join(" ".join(text.get_text() for text in texts_of(unjudged.draw_differences(rows))).split())
    assert "of 129 to 200 references that no arm was trained on and 200 answers." in shown


def test_no_controls_are_a_figure_that_says_so():
    columns = dict.fromkeys(("controls_for", "selection", "treatment"), "str")
    columns |= dict.fromkeys(("net_win", "low", "high", "answer", "its_answer"), "float64")
    page = results.draw_controls(pd.DataFrame(columns=list(columns)).astype(columns))
    assert any("against 0 of 0 baselines" in text.get_text() for text in page.texts)
