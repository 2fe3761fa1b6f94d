"""The estimators find planted tastes again, and their intervals hold the truth as often as they say."""

import csv

import numpy as np
import pytest
from frames import records_of

from nbutils.analysis import calibration, intervals, length_control
from nbutils.analysis.calibration import Taste
from nbutils.figures import registry

UNUSED = ("first", "difficulty")

CELLS = {
    "nothing": Taste(),
    "length": Taste(0, 3, 0),
    "quality and position": Taste(1, 1.5, 1),
    "dependent orders": Taste(0.5, 1.5, 0.5, 2.0),
}


@pytest.mark.parametrize("name", CELLS)
def test_no_bias_and_honest_intervals(name):
    low, high = intervals.tolerated(400)
    for row in records_of(calibration.calibrate([CELLS[name]], replicates=400, prompts=150, seed=7)):
        assert low <= row["coverage"] <= high, row
        # Four standard errors, and what logistic coefficients are biased by at 150 prompts (rates much less).
        allowed = 0.004 if row["estimator"] == "win_rate" else 0.03 * max(1, abs(row["truth"]))
        assert abs(row["bias"]) < 4 * row["bias_error"] + allowed, row


def test_tastes_are_found_again():
    rows = records_of(calibration.calibrate([Taste(1, 1.5, -1)], replicates=60))
    assert [row["estimator"] for row in rows] == ["win_rate", "quality", "length", "position"]
    assert [row["truth"] for row in rows][1:] == [1, 1.5, -1]
    for row in rows:
        assert abs(row["bias"]) < 4 * row["bias_error"] + 0.01
        assert row["coverage"] >= 0.85


def test_orders_taken_for_independent_are_found_out():
    """The same data: without clusters the intervals are too narrow."""
    cell = [Taste(0, 1.5, 0, 3.0)]
    (clustered,) = records_of(calibration.calibrate(cell, replicates=60))
    (naive,) = records_of(calibration.calibrate(cell, replicates=60, clustered=False))
    assert naive["mean"] == clustered["mean"]
    assert naive["width"] < 0.85 * clustered["width"]


def test_the_bootstrap_agrees_with_the_jackknife():
    cell = [Taste(0.5, 1.5, 0.5)]
    (drawn,) = records_of(calibration.calibrate_bootstrap(cell, replicates=20))
    jackknife = records_of(calibration.calibrate(cell, replicates=20))[0]
    assert drawn["mean"] == pytest.approx(jackknife["mean"], abs=1e-4), "the same judges"
    assert drawn["width"] == pytest.approx(jackknife["width"], rel=0.08)


def test_the_true_rate():
    assert calibration.true_rate(Taste(0.7)) == pytest.approx(1 / (1 + np.exp(-0.7)), abs=1e-9)
    assert calibration.true_rate(Taste(0, 5, 2)) == pytest.approx(0.5, abs=1e-9)
    logits = 0.5 + 2 * np.random.default_rng(0).normal(size=400_000)
    drawn = np.mean([1 / (1 + np.exp(-logits - place)) for place in (1, -1)])
    assert calibration.true_rate(Taste(0.5, 3, 1, 2.0)) == pytest.approx(drawn, abs=2e-3)


def test_coverage_and_bias_by_hand():
    found = [intervals.Estimate(value, value - 1, value + 1, 9, "") for value in (0.0, 1.0, 2.0, 3.0)]
    row = calibration.score(found, 1.0)
    assert (row["coverage"], row["bias"], row["width"]) == (0.75, 0.5, 2.0)
    assert row["bias_error"] == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2, abs=1e-5)


def test_the_tolerance_is_binomial():
    low, high = intervals.tolerated(400)
    hits = np.random.default_rng(0).binomial(400, 0.95, 200_000) / 400
    assert np.mean((hits < low) | (hits > high)) == pytest.approx(0.001, abs=5e-4)


@pytest.mark.thorough
def test_the_coin_is_acquitted_and_the_longer_judge_convicted():
    rows = records_of(calibration.count_findings(replicates=40))
    share = {(row["judge"], row["finding"]): row["share"] for row in rows}
    assert share["longer", "this judge decided by length alone: it prefers the longer answer"] == 1.0
    assert share["coin", "no preference that could be told from chance"] >= 0.85
    assert not any("length alone" in finding for judge, finding in share if judge != "longer")
    assert share["quality", "the arm is preferred, also at equal length"] == 1.0
    assert share["first", "no preference that could be told from chance"] == 1.0


def test_the_committed_calibration_is_within_tolerance():
    with open(registry.FOLDER / "tables" / "length-calibration.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["interval"] != "not clustered"]
    grid = {tuple(row[f"planted_{name}"] for name in ("quality", "length", "position")) for row in kept}
    assert len(grid) >= len(calibration.GRID) and min(int(row["replicates"]) for row in rows) >= 400
    low, high = intervals.tolerated(400)
    assert all(low <= float(row["coverage"]) <= high for row in kept)
    assert max(abs(float(row["bias"])) for row in kept if row["estimator"] == "win_rate") < 0.005
    assert all(float(row["coverage"]) < low for row in rows if row["interval"] == "not clustered")


def test_a_length_only_judge_of_few_prompts():
    """Length separates the verdicts: with pseudo-items of weight 0.5 the mean rate is 0.60, and with a sandwich the
    intervals hold the truth in 0.85."""
    rng, found = np.random.default_rng(4), []
    for _ in range(250):
        calls = calibration.simulate(Taste(), 40, rng, ratio=2.0)._asdict()
        longer = 0.5 + 0.5 * np.sign(calls["len_model"] - calls["len_baseline"])
        one = {name: column[:40] for name, column in (calls | {"preference": longer}).items() if name not in UNUSED}
        found.append(length_control.fit_judge(**one).win_rate)
    assert np.mean([each.value for each in found]) == pytest.approx(0.5, abs=0.075)
    assert np.mean([each.low <= 0.5 <= each.high for each in found]) > 0.92
