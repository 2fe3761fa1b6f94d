"""The length analysis to play with: what the slider reads off the curve, and that planted tastes are found out."""

import math
import time

import numpy as np
import pytest

from nbutils.analysis import calibration, comparison
from nbutils.analysis.calibration import Taste
from nbutils.analysis.length_control import fit_curve
from nbutils.widgets import length

LENGTH_ALONE = Taste(0.0, 3.0, 0.0)


def judgments(taste=LENGTH_ALONE, prompts=300, seed=1, ratio=1.5):
    calls = calibration.simulate(taste, prompts, np.random.default_rng(seed), ratio)
    return calibration.to_judgments(calls, "planted")


# --- the curve -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taste", [Taste(1.0, 1.5, 0.5), LENGTH_ALONE, Taste()])
def test_at_ratio_1_the_slider_shows_the_length_controlled_rate(taste):
    rows = judgments(taste)
    analysed, rate = comparison.analyse(rows, draws=1).iloc[0], length.compare(rows).curve.at(0)
    wanted = [analysed[f"at_equal_length{end}"] for end in ("", "_low", "_high")]
    assert [round(number, 4) for number in rate[:3]] == wanted


def test_over_all_observed_ratios_the_curve_gives_the_rate_as_judged():
    compared = length.compare(judgments(Taste(0.5, 1.5)))
    judged = compared.items.preference.mean()
    rates = [compared.curve.at(ratio).value for ratio in compared.items.log_ratio]
    # A logistic curve with a constant keeps the mean, but for its pseudo-items.
    assert np.mean(rates) == pytest.approx(judged, abs=0.002)
    # A curve at the mean is no mean of a curve, and where it bends the two are points apart.
    at_mean = compared.curve.at(compared.items.log_ratio.mean()).value
    assert judged == pytest.approx(0.675) and at_mean == pytest.approx(0.743, abs=0.002)


def test_the_curve_is_the_planted_one_at_every_ratio():
    taste = Taste(0.5, 1.5, 0.5)
    calls = calibration.simulate(taste, 20_000, np.random.default_rng(3))
    curve = fit_curve(**calls._asdict())
    for difference in (-200.0, -50.0, 0.0, 50.0, 200.0):
        logit = taste.quality + taste.length * math.tanh(difference / (calls.len_model - calls.len_baseline).std())
        truth = np.mean([1 / (1 + math.exp(-logit - place)) for place in (0.5, -0.5)])
        found = curve.at(difference)
        assert found.value == pytest.approx(truth, abs=0.01)
        assert found.low < found.value < found.high < found.low + 0.06


def test_the_slider_moves_the_rate_and_its_band():
    made = length.ask_ratio(judgments().to_dict("records"), note="a note & more")
    pane = made.box().children[-1]
    compared = length.compare(judgments())
    assert "a note &amp; more" in pane.value
    for ratio, words in ((1, "were equally long"), (2, "were 2.00 times"), (0.25, "were 0.25 times")):
        made.controls["ratio"].value = ratio
        rate = compared.curve.at(math.log(ratio))
        shown = f"it would win {100 * rate.value:.1f}% [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
        assert words in pane.value and shown in pane.value
    assert pane.value.endswith("<p><em>a note &amp; more</em></p></div>") and "data:image/png" in pane.value


def test_beyond_what_was_observed_the_pane_says_so():
    compared = length.compare(judgments(prompts=300))
    assert "extrapolated" not in length.describe_ratio(compared, 1.0)
    assert "extrapolated" in length.describe_ratio(compared, 16.0)


def test_prompts_near_a_ratio_are_counted():
    rows = judgments()
    first = rows[rows["order"] == "arm_first"]
    ratios = first["len_arm"] / first["len_baseline"]
    near = int(((ratios <= 2.2) & (ratios >= 2 / 1.1)).sum())
    assert 10 < near < 100 and f" {near} of 300 prompts are near" in length.describe_ratio(length.compare(rows), 2.0)


def test_where_one_side_is_always_longer_no_curve_is_drawn():
    rows = judgments(ratio=40.0)
    compared = length.compare(rows)
    assert compared.curve is None
    assert "length cannot be told from the arm" in length.show_ratio(compared, 1.0)


def test_nothing_judged_is_said():
    rows = judgments(prompts=4).assign(preference=math.nan)
    assert "No prompt was judged." in length.show_ratio(length.compare(rows), 1.0)


# --- planted judges ------------------------------------------------------------------------------------------------


def test_a_judge_of_length_alone_is_found_out():
    calls = calibration.simulate(LENGTH_ALONE, 200, np.random.default_rng(0))
    analysed = comparison.analyse(calibration.to_judgments(calls, "planted"), draws=1).iloc[0]
    found = length.tabulate_planted(LENGTH_ALONE, analysed).set_index("estimate")
    assert found.low["as judged"] > 0.55  # it prefers the arm, which writes more
    equal = found.loc["at equal length, by the ratio of lengths"]
    assert equal.low < 0.5 < equal.high and equal.found == pytest.approx(0.5, abs=0.06)
    assert found.low["taste for length, logits"] > 2
    assert list(found.held) == [None, True, True, True, True, True]
    assert list(found.planted[1:]) == [0.5, 0.5, 0.5, 3.0, 0.0]
    assert "<b>The arm is preferred, but not separably at equal length.</b>" in length.plant_judge().html()


def test_a_planted_quality_survives_the_control():
    made = length.plant_judge(prompts=400)
    made.controls["length"].value, made.controls["quality"].value = 0.0, 1.0
    pane = made.html()
    assert "<b>The arm is preferred, also at equal length.</b>" in pane
    assert "0.73" in pane  # 1 logit, the truth


def test_a_taste_for_the_first_place_is_no_preference():
    made = length.plant_judge()
    made.controls["length"].value, made.controls["position"].value = 0.0, 2.0
    assert "<b>No preference that could be told from chance.</b>" in made.html()


# --- cards ---------------------------------------------------------------------------------------------------------


def test_a_card_says_the_verdict_first_and_escapes_names():
    biases = comparison.analyse(judgments(), draws=1).assign(judge="<b>judge</b>")
    page = length.browse_cards(biases, "note").html()
    assert page.index("not separably at equal length.") < page.index("&lt;b&gt;judge&lt;/b&gt;")
    row = biases.iloc[0]
    rate, low, high = (100 * row[f"win_rate{end}"] for end in ("", "_low", "_high"))
    assert f"<b>{rate:.0f}%</b> [{low:.0f}, {high:.0f}]" in page and "<em>note</em>" in page


def test_the_menu_chooses_the_card():
    biases = comparison.analyse([*judgments().to_dict("records"), *coin()], draws=1)
    made = length.browse_cards(biases)
    assert list(made.controls["comparison"].options) == ["planted, against baseline", "coin, against baseline"]
    made.controls["comparison"].value = "coin, against baseline"
    assert "No preference that could be told from chance." in made.html()


def coin():
    return calibration.judge_simulated("coin", 200, np.random.default_rng(5)).to_dict("records")


# --- speed ---------------------------------------------------------------------------------------------------------


def seconds(move):
    """The least processor time of a few moves, after one that loads what is drawn with."""
    move(0)
    taken = []
    for place in range(1, 4):
        begun = time.process_time()
        move(place)
        taken.append(time.process_time() - begun)
    return min(taken)


def test_a_move_is_quick():
    asked, planted = length.ask_ratio(judgments(prompts=20_000).to_dict("records")), length.plant_judge()
    options = asked.controls["comparison"].options
    assert seconds(lambda place: asked.draw(options[0], 1 + place / 4)) < 0.6  # 0.1 on an idle core
    assert seconds(lambda place: planted.draw(quality=place / 4, length=1.0, position=0.0)) < 0.6
