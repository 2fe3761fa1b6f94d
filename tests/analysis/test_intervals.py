"""Counts of verdicts that add up, and net wins with honest intervals."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.analysis import intervals
from nbutils.analysis import verdicts as analysis_verdicts

PAPER = ["win"] * 477 + ["tie"] * 262 + ["lose"] * 291
"""Longest against LIMA as GPT-4 judged it in the paper, pooled over 1,030 prompts: net win 18.0 +- 5.2 points."""

verdicts = st.lists(st.sampled_from(["win", "tie", "lose", "unscored"]), max_size=60)


def test_counts():
    found = analysis_verdicts.count_verdicts(["win", "lose", "win", "tie", "unscored", "win"])
    assert found == {"win": 3, "tie": 1, "lose": 1, "unscored": 1}
    assert analysis_verdicts.count_verdicts([]) == {"win": 0, "tie": 0, "lose": 0, "unscored": 0}


@settings(deadline=None)
@given(verdicts)
def test_counts_add_up(given_verdicts):
    assert sum(analysis_verdicts.count_verdicts(given_verdicts).values()) == len(given_verdicts)
    described = analysis_verdicts.describe_verdicts(given_verdicts)
    assert described["prompts"] == sum(described[key] for key in ("win", "tie", "lose", "unscored"))
    if described["prompts"] > described["unscored"]:
        assert -1 <= described["low"] <= described["net_win"] <= described["high"] <= 1


def test_the_papers_net_win_and_interval():
    found = analysis_verdicts.net_win(PAPER)
    assert found.value == pytest.approx(0.1806, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.1806 - 0.052, 0.1806 + 0.052), abs=0.003)
    assert found.n == 1030 and found.method == "bootstrap over 1030 prompts, 10000 draws"


def test_drawing_counts_is_resampling_prompts():
    """The multinomial draw against the textbook bootstrap that it stands for."""
    signs = np.array([{"win": 1, "tie": 0, "lose": -1}[verdict] for verdict in PAPER[::10]])
    rng = np.random.default_rng(1)
    means = [rng.choice(signs, len(signs)).mean() for _ in range(4000)]
    found = analysis_verdicts.net_win(PAPER[::10])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)


def test_unscored_prompts_are_left_out():
    assert analysis_verdicts.net_win([*PAPER, *["unscored"] * 500]) == analysis_verdicts.net_win(PAPER)
    assert analysis_verdicts.net_win(PAPER[::-1]) == analysis_verdicts.net_win(PAPER), (
        "the order of the prompts does not matter"
    )


def test_the_sides_are_symmetric():
    swapped = [{"win": "lose", "lose": "win"}.get(verdict, verdict) for verdict in PAPER]
    one, other = analysis_verdicts.net_win(PAPER), analysis_verdicts.net_win(swapped)
    assert other.value == -one.value
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=0.004)


def test_nothing_scored():
    found = analysis_verdicts.net_win(["unscored"] * 3)
    assert found.n == 0 and math.isnan(found.value) and math.isnan(found.low)


def test_an_interval_covers_the_truth_19_times_out_of_20():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = rng.choice(["win", "tie", "lose"], 200, p=[0.5, 0.2, 0.3])
        found = analysis_verdicts.net_win(list(drawn), draws=1000)
        hits += found.low <= 0.2 <= found.high
    assert 364 <= hits <= 394, "a true coverage of 0.95 misses this once in a thousand times"


@pytest.mark.parametrize(
    ("unscored", "headline"), [(0, True), (1, True), (2, False), (100, False)]
)  # fmt: skip
def test_no_headline_below_99_percent(unscored, headline):
    described = analysis_verdicts.describe_verdicts(["win"] * (100 - unscored) + ["unscored"] * unscored)
    assert described["headline"] is headline
    assert described["unscored"] == unscored


def test_no_headline_on_nothing():
    assert analysis_verdicts.describe_verdicts([])["headline"] is False


def test_ten_thousand_draws_are_quick():
    times = []
    for _ in range(5):
        started = time.perf_counter()
        analysis_verdicts.net_win(PAPER)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.floats(1, 5000))
def test_wilsons_interval_is_the_librarys(share, n):
    """Also for counts that are no whole numbers."""
    from statsmodels.stats.proportion import proportion_confint

    library = proportion_confint(share * n, n, method="wilson")
    assert intervals.wilson_interval(share, n) == pytest.approx(library, abs=1e-12)


def test_every_bootstrap_draws_as_many_as_there_are():
    for shares, kinds in ((None, 50), (np.array([0.2, 0.8]), 2)):
        counts = intervals.draw_counts(50, 200, 3, shares)
        assert counts.shape == (200, kinds) and set(counts.sum(axis=1)) == {50}
        assert np.array_equal(counts, intervals.draw_counts(50, 200, 3, shares))
    found = intervals.bootstrap_interval(0.5, np.linspace(0, 1, 1001), 7, "7 things")
    assert found == (0.5, 0.025, 0.975, 7, "bootstrap over 7 things, 1001 draws")


def test_prompts_of_one_question_count_as_one():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 60)
    alone = intervals.mean_with_interval(values)
    apart = intervals.mean_with_interval(values, np.arange(60))
    twice = intervals.mean_with_interval(np.repeat(values, 2), np.repeat(np.arange(60), 2))
    assert apart == alone
    assert twice.value == pytest.approx(alone.value)
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.03), "copies add nothing"
    assert intervals.mean_with_interval(np.ones(4), [0, 0, 1, 1]).low == pytest.approx(0.025**0.5)
    assert intervals.mean_with_interval(np.array([0.0, 1.0]), [7, 7])[:3] == (0.5, 0.0, 1.0)
