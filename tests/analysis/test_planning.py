"""How many prompts an effect takes: against the textbook, the published spread, and judges that are simulated."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nbutils.analysis import calibration, intervals
from nbutils.analysis.calibration import Taste
from nbutils.analysis.comparison import analyse
from nbutils.analysis.intervals import PUBLISHED, Spread
from nbutils.analysis.verdicts import ORDERS
from nbutils.judging import records
from nbutils.length_bias import main


def test_prompts_by_the_textbook():
    found = intervals.plan_prompts([1.0, 5.0], spread=Spread(0.4, 0.5, 0.4, 0.2)).set_index("points")
    factor = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2
    assert found.judged[1.0] == pytest.approx(factor * (0.4 / 0.01) ** 2, rel=0.001)
    assert found.equal[5.0] == pytest.approx(factor * (0.5 / 0.05) ** 2, rel=0.01)
    assert found.matched[5.0] == 5 * found.judged[5.0], "a fifth of the pairs are of equal length"
    corrected = intervals.plan_prompts([1.0], comparisons=5, spread=Spread(0.4, 0.5, 0.4, 0.2)).judged[0]
    assert corrected == pytest.approx((stats.norm.ppf(0.995) + stats.norm.ppf(0.8)) ** 2 * 1600, rel=0.001)


def test_what_prompts_see_is_what_effects_take():
    seen = intervals.smallest_effects([200, 1030]).set_index("prompts")
    assert (seen.equal[200], seen.equal[1030]) == (8.8, 3.9)
    back = intervals.plan_prompts(seen.equal, comparisons=1).equal
    assert list(back) == pytest.approx([200, 1030], rel=0.03), "rounded to a tenth of a point"
    assert list(seen.judged) < list(seen.equal) < list(seen.matched)


def test_the_published_spread_is_that_of_the_reviews(mirror):
    rows = [row for row in records.cherry_judgments() if row["judge"] == "gpt4"]
    assert intervals.measure_spread(analyse(rows, draws=1)) == pytest.approx(PUBLISHED, abs=0.0006)


@pytest.mark.thorough
def test_simulated_judges_show_the_planned_effect_as_often_as_planned():
    taste, rng = Taste(0.45, 1.5, 0.3, 1.5), np.random.default_rng(2)
    effect = 100 * (calibration.true_rate(taste) - 0.5)

    def judge(prompts):
        calls = calibration.simulate(taste, prompts, rng)
        sides = {"judge": "j", "arm": "a", "baseline": "b", "test_set": "s", "id": calls.clusters, "measure": None}
        lengths = {"len_arm": calls.len_model, "len_baseline": calls.len_baseline, "difficulty": np.nan}
        return pd.DataFrame({**sides, "order": np.repeat(ORDERS, prompts), "preference": calls.preference} | lengths)

    spread = intervals.measure_spread(analyse(judge(20_000), draws=1))
    prompts = int(intervals.plan_prompts([effect], spread=spread).equal[0])
    found = [analyse(judge(prompts), draws=1).iloc[0] for _ in range(300)]
    power = np.mean([each.at_equal_length_low > 0.5 for each in found])
    assert power == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / 300) ** 0.5 + 0.03)


def test_the_command(capsys, tmp_path):
    main(["--plan", "--comparisons", "3"])
    printed = capsys.readouterr().out
    assert "at 5% over 3 comparison(s)" in printed
    assert f"{'5.0':>8}" in printed and "714" in printed and "at equal length" in printed
    for arguments, words in (
        ([], "the following arguments are required: JUDGMENTS (or --plan)"),
        (["--plan", "--comparisons", "0"], "--comparisons: at least 1"),
        (["--plan", "-o", str(tmp_path / "x.csv")], "--plan writes no table"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


def test_ones_own_judgments_give_the_spread(capsys, tmp_path):
    rng = np.random.default_rng(0)
    frame = calibration.judge_simulated("mixed", 150, rng).drop(columns=["difficulty", "measure"])
    frame.to_json(path := tmp_path / "rows.jsonl", orient="records", lines=True)
    main([str(path), "--plan"])
    printed = capsys.readouterr().out
    spread = intervals.measure_spread(analyse(frame.assign(difficulty=np.nan, measure=None), draws=1))
    assert str(intervals.plan_prompts([5.0], spread=spread).equal[0]) in printed
    frame.query("len_arm > 2 * len_baseline").to_json(path, orient="records", lines=True)
    with pytest.raises(SystemExit):
        main([str(path), "--plan"])
    assert "no comparison with pairs of equal length" in capsys.readouterr().err
