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
    assert found.n == 1030 and found.method == "1030 prompts"


def test_the_interval_is_near_the_bootstraps():
    signs = np.array([{"win": 1, "tie": 0, "lose": -1}[verdict] for verdict in PAPER[::10]])
    rng = np.random.default_rng(1)
    means = [rng.choice(signs, len(signs)).mean() for _ in range(4000)]
    found = analysis_verdicts.net_win(PAPER[::10])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)


SHARES = [(0.5, 0.2), (0.9, 0.05), (0.95, 0.0), (0.7, 0.3), (0.05, 0.9), (0.02, 0.97), (0.99, 0.005), (0.5, 0.0)]


@pytest.mark.parametrize("n", [3, 20, 80])
@pytest.mark.parametrize(("win", "tie"), SHARES)
def test_few_prompts_and_lopsided_shares_are_covered(n, win, tie):
    """The exact chance that the interval holds the truth, over all outcomes of n prompts."""
    from scipy.stats import multinomial

    wins, ties = (numbers.ravel() for numbers in np.mgrid[: n + 1, : n + 1])
    outcomes = np.column_stack([wins, ties, n - wins - ties])[wins + ties <= n]
    chances = multinomial.pmf(outcomes, n, [win, tie, 1 - win - tie])
    held = 0.0
    for counts, chance in zip(outcomes[chances > 1e-9], chances[chances > 1e-9], strict=True):
        found = intervals.net_win_interval(np.repeat([1.0, 0.0, -1.0], counts))
        assert -1 <= found.low < found.high <= 1 and found.low <= found.value <= found.high
        held += chance * (found.low - 1e-9 <= 2 * win + tie - 1 <= found.high + 1e-9)
    assert held > 0.94


def test_three_wins_of_three_are_no_certainty():
    found = analysis_verdicts.net_win(["win"] * 3)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.6 - intervals.NORMAL * math.sqrt((1 - 0.36) / 5))
    assert found.low < 0


def test_verdicts_of_one_question_count_as_one():
    names = list(np.random.default_rng(3).choice(["win", "tie", "lose"], 80, p=[0.5, 0.2, 0.3]))
    alone, twice = analysis_verdicts.net_win(names), analysis_verdicts.net_win(names * 2, [*range(80)] * 2)
    assert (twice.value, twice.method) == (pytest.approx(alone.value), "80 questions")
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.03), "copies add nothing"
    assert analysis_verdicts.net_win(names, range(80)) == alone
    same = analysis_verdicts.net_win(["win"] * 6, [0, 0, 1, 1, 2, 2])
    assert same.low < analysis_verdicts.net_win(["win"] * 6).low, "three questions, not six"
    assert analysis_verdicts.net_win(["win", "lose"], [5, 5])[:3] == (0, -1, 1)


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
        found = analysis_verdicts.net_win(list(drawn))
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


def test_a_net_win_is_quick():
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
    counts = intervals.draw_counts(50, 200, 3)
    assert counts.shape == (200, 50) and set(counts.sum(axis=1)) == {50}
    assert np.array_equal(counts, intervals.draw_counts(50, 200, 3))
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
