"""Is it only length? The estimators recover what was planted; the analysis convicts and acquits the right judges."""

import csv
import gzip
import itertools
import json
import math
import subprocess
import sys
import time
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from frames import records_of
from hypothesis import given, settings
from hypothesis import strategies as st
from report_run import ARM, BASELINE, make_answers, make_judgments, make_profile, manifest, write_jsonl

from nbutils import data, length_bias
from nbutils.analysis import comparison, length_control
from nbutils.analysis import items as analysis_items
from nbutils.analysis.intervals import mean_with_interval
from nbutils.analysis.verdicts import ORDERS
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.generation import measures
from nbutils.judging import judges, records
from nbutils.judging import records as judging_records
from nbutils.judging.pairs import Pair, judge_pairs
from nbutils.length_bias import length_controlled_win_rate
from nbutils.llm.client import Ledger


def test_the_stage_hands_on_the_length_controlled_rate():
    """A stable name, wherever it is defined."""
    assert length_bias.length_controlled_win_rate is length_control.length_controlled_win_rate


def analyse(rows, **options):
    """The analysis as records, None for what cannot be estimated."""
    return records_of(comparison.analyse(rows, **options))


@pytest.fixture
def rng():
    """Reproducible randomness."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def logistic(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def lengths(rng, n, ratio=1.5):
    """Lengths of both sides; the arm's answers are `ratio` times as long in the median."""
    return np.round(rng.lognormal(5 + math.log(ratio), 0.5, n)), np.round(rng.lognormal(5, 0.5, n))


def simulate(rng, n, quality, by_length, ratio=1.5, difficulty=None):
    """Preferences of a judge with a planted taste for quality (in logits at equal length) and for length."""
    arm, baseline = lengths(rng, n, ratio)
    squashed = np.tanh((arm - baseline) / (arm - baseline).std())
    wins = rng.random(n) < logistic(quality + by_length * squashed + (0 if difficulty is None else difficulty))
    return wins.astype(float), arm, baseline


# --- planted effects -----------------------------------------------------------------------------------------------


def assert_recovered(estimates, truths, within):
    """On average the truths, and 95% intervals that hold 16 of 20 of them (fewer by chance once in 3,000 times)."""
    errors = [found.value - truth for found, truth in zip(estimates, truths, strict=True)]
    assert abs(np.mean(errors)) < within
    assert sum(found.low <= truth <= found.high for found, truth in zip(estimates, truths, strict=True)) >= 16


@pytest.mark.parametrize(
    ("quality", "by_length"), [(0, 0), (0, 3), (0, -2), (0.8, 0), (-1, 0), (0.8, 2), (-0.8, 2), (1.5, -2)]
)
def test_a_planted_effect_is_recovered(rng, quality, by_length):
    found = [length_controlled_win_rate(*simulate(rng, 600, quality, by_length)) for _ in range(20)]
    assert_recovered(found, [logistic(quality)] * 20, within=0.02)
    assert all(each.n == 600 and 0.05 < each.high - each.low < 0.2 for each in found)


def test_a_taste_for_length_alone_is_taken_out(rng):
    made = [simulate(rng, 600, 0, 3, ratio=2) for _ in range(20)]
    assert all(wins.mean() > 0.7 for wins, _, _ in made), "the raw rate says that the arm is far better"
    assert_recovered([length_controlled_win_rate(*each) for each in made], [0.5] * 20, within=0.03)


def test_fractional_preferences(rng):
    found = []
    for _ in range(20):
        arm, baseline = lengths(rng, 600)
        squashed = np.tanh((arm - baseline) / (arm - baseline).std())
        halves = rng.binomial(2, logistic(0.6 + squashed)) / 2
        found.append(length_controlled_win_rate(halves, arm, baseline))
    assert_recovered(found, [logistic(0.6)] * 20, within=0.02)


def test_difficulty_is_averaged_over(rng):
    found, truths = [], []
    for _ in range(20):
        difficulty = rng.normal(0, 2, 600)
        wins, arm, baseline = simulate(rng, 600, 0.7, 1.5, difficulty=difficulty)
        truths.append(logistic(0.7 + difficulty).mean())
        found.append(length_controlled_win_rate(wins, arm, baseline, difficulty))
    assert_recovered(found, truths, within=0.02)


def test_the_unit_of_difficulty_does_not_matter(rng):
    difficulty = rng.normal(0, 1, 500)
    wins, arm, baseline = simulate(rng, 500, 0.5, 1, difficulty=difficulty)
    plain = length_controlled_win_rate(wins, arm, baseline, difficulty)
    scaled = length_controlled_win_rate(wins, arm, baseline, 1e6 * difficulty + 3e7)
    assert scaled[:3] == pytest.approx(plain[:3], abs=1e-6)


def test_the_unit_of_length_does_not_matter(rng):
    wins, arm, baseline = simulate(rng, 500, 0.5, 1)
    plain = length_controlled_win_rate(wins, arm, baseline)
    assert length_controlled_win_rate(wins, 4.2 * arm, 4.2 * baseline)[:3] == pytest.approx(plain[:3], abs=1e-9)


def test_clusters_widen_the_interval_of_repeated_items(rng):
    wins, arm, baseline = simulate(rng, 300, 0.4, 1)
    once = length_controlled_win_rate(wins, arm, baseline)
    four = [np.repeat(column, 4) for column in (wins, arm, baseline)]
    naive = length_controlled_win_rate(*four)
    clustered = length_controlled_win_rate(*four, clusters=np.repeat(np.arange(300), 4))
    assert naive.high - naive.low == pytest.approx((once.high - once.low) / 2, rel=0.05), "too sure by a factor of 2"
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=0.05)
    assert clustered.value == pytest.approx(naive.value, abs=1e-9)


def test_names_serve_as_clusters(rng):
    wins, arm, baseline = simulate(rng, 120, 0.4, 1)
    numbered = length_controlled_win_rate(wins, arm, baseline, clusters=np.arange(120) // 3)
    named = length_controlled_win_rate(wins, arm, baseline, clusters=[f"set {i // 3}" for i in range(120)])
    assert named[:4] == pytest.approx(numbered[:4], abs=1e-12)


# --- what must always hold -----------------------------------------------------------------------------------------

preferences = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
items = st.lists(st.tuples(preferences, st.integers(0, 5000), st.integers(0, 5000)), min_size=3, max_size=40)


@settings(deadline=None, max_examples=60)
@given(items)
def test_swapping_the_sides_gives_the_complement(found):
    y, arm, baseline = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    one, other = length_controlled_win_rate(y, arm, baseline), length_controlled_win_rate(1 - y, baseline, arm)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert (other.value, other.low, other.high) == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low), abs=1e-5)


def test_equal_lengths_give_the_raw_rate(rng):
    wins = (rng.random(400) < 0.7).astype(float)
    same = rng.integers(1, 999, 400)
    found = length_controlled_win_rate(wins, same, same)
    raw = mean_with_interval(wins)
    assert found.value == pytest.approx(raw.value, abs=2e-3), "two pseudo-items of half weight pull a little"
    assert (found.low, found.high) == pytest.approx((raw.low, raw.high), abs=5e-3)


@pytest.mark.parametrize("n", [4, 40, 400])
def test_length_that_separates_the_verdicts_gives_a_finite_answer(n):
    half = n // 2
    wins = np.array([1.0] * half + [0.0] * half)
    arm, baseline = np.array([200.0] * half + [50.0] * half), np.full(n, 125.0)
    found = length_controlled_win_rate(wins, arm, baseline)
    assert found.value == pytest.approx(0.5, abs=1e-6)
    assert 0 < found.low < 0.5 < found.high < 1


def test_difficulty_that_separates_the_verdicts_gives_a_finite_answer(rng):
    wins = (rng.random(60) < 0.5).astype(float)
    arm, baseline = lengths(rng, 60)
    found = length_controlled_win_rate(wins, arm, baseline, difficulty=wins * 100)
    assert found.value == pytest.approx(wins.mean(), abs=0.02)
    assert 0 < found.low < found.value < found.high < 1


@pytest.mark.parametrize(("n", "low"), [(3, 0.2924), (5, 0.4782), (6, 0.5407), (100, 0.9638)])
def test_items_that_all_agree_are_no_certainty(n, low):
    """Clopper and Pearson's exact interval; the numbers are scipy.stats.beta.ppf(0.025, n, 1)."""
    won = length_controlled_win_rate(np.ones(n), np.arange(n), np.arange(n)[::-1])
    lost = length_controlled_win_rate(np.zeros(n), np.arange(n), np.arange(n)[::-1])
    assert won[:4] == (1.0, pytest.approx(low, abs=1e-4), 1.0, n)
    assert lost[:4] == (0.0, 0.0, pytest.approx(1 - low, abs=1e-4), n)
    assert mean_with_interval(np.ones(n))[:4] == won[:4]
    three = length_controlled_win_rate(np.ones(3 * n), np.arange(3 * n), np.ones(3 * n), clusters=np.arange(3 * n) // 3)
    assert three.low == pytest.approx(low, abs=1e-4), "as sure as n independent items can be"


def test_nan_preferences_are_left_out(rng):
    wins, arm, baseline = simulate(rng, 200, 0.5, 1)
    without = length_controlled_win_rate(wins, arm, baseline)
    holes = np.insert(wins, [0, 50, 50, 200], np.nan)
    longer = [np.insert(column, [0, 50, 50, 200], 9999.0) for column in (arm, baseline)]
    assert length_controlled_win_rate(holes, *longer) == without
    assert length_controlled_win_rate([None, *wins], [np.nan, *arm], [1, *baseline]) == without


BAD = {
    "fewer lengths": (([1, 0, 1], [1, 2], [1, 2, 3]), {}, "len_model has 2 items, preference has 3: they must match"),
    "more lengths": (([1, 0, 1], [1, 2, 3], [1] * 4), {}, "len_baseline has 4 items, preference has 3"),
    "fewer difficulties": (([1, 0, 1], [1, 2, 3], [3, 2, 1]), {"difficulty": [1]}, "difficulty has 1 items"),
    "fewer clusters": (([1, 0, 1], [1, 2, 3], [3, 2, 1]), {"clusters": list("ab")}, "clusters has 2 items"),
    "one cluster": (([1, 0, 1], [1, 2, 3], [3, 2, 1]), {"clusters": list("aaa")}, "all items are of one cluster"),
    "two items": (([1, 0], [1, 2], [2, 1]), {}, "2 judged items: a length-controlled rate needs at least 3"),
    "two judged": (([1, 0, math.nan], [1, 2, 3], [2, 1, 1]), {}, "2 judged items"),
    "nothing": (([], [], []), {}, "0 judged items"),
    "a preference of 2": (([1, 0, 2], [1, 2, 3], [2, 1, 1]), {}, "preferences must lie between 0 and 1"),
    "a preference below 0": (([1, 0, -0.1], [1, 2, 3], [2, 1, 1]), {}, "preferences must lie between 0 and 1"),
    "an endless preference": (([1, 0, math.inf], [1, 2, 3], [2, 1, 1]), {}, "preferences must lie between 0 and 1"),
    "no length": (([1, 0, 1], [1, math.nan, 3], [2, 1, 1]), {}, "len_model holds a value that is not a finite number"),
    "endless": (([1, 0, 1], [1, 2, 3], [2, math.inf, 1]), {}, "len_baseline holds a value that is not a finite number"),
    "unknown": (([1, 0, 1], [1, 2, 3], [2, 1, 1]), {"difficulty": [1, 2, math.nan]}, "difficulty holds a value"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    arguments, options, expected = BAD[name]
    with pytest.raises(InputError) as refused:
        length_controlled_win_rate(*arguments, **options)
    assert expected in str(refused.value)


def test_a_fit_is_quick(rng):
    wins, arm, baseline = simulate(rng, 1000, 0.5, 1)
    length_controlled_win_rate(wins, arm, baseline)  # imports statsmodels
    times = []
    for _ in range(3):
        started = time.perf_counter()
        length_controlled_win_rate(wins, arm, baseline, rng.normal(size=1000), np.arange(1000) // 2)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.2


COVERAGE = [(60, 0.0, 2.0, False), (200, 0.8, 1.0, False), (200, -0.5, 1.0, True)]


@pytest.mark.parametrize(("n", "quality", "by_length", "has_difficulty"), COVERAGE)
def test_an_interval_of_95_percent_covers_the_truth_that_often(n, quality, by_length, has_difficulty):
    """300 replicates: a true coverage of 0.95 gives fewer than 273 or more than 296 hits once in a thousand times."""
    rng, hits = np.random.default_rng(n), 0
    for _ in range(300):
        difficulty = rng.normal(size=n) if has_difficulty else None
        wins, arm, baseline = simulate(rng, n, quality, by_length, difficulty=difficulty)
        found = length_controlled_win_rate(wins, arm, baseline, difficulty)
        truth = logistic(quality + (0 if difficulty is None else difficulty)).mean()
        hits += found.low <= truth <= found.high
    assert 272 <= hits <= 297


def test_means_cover_as_well():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        found = mean_with_interval(rng.binomial(2, 0.6, 150) / 2)
        hits += found.low <= 0.6 <= found.high
    assert 925 <= hits <= 972


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # By hand: Wilson's interval 1/2 +- q / (2 sqrt(m + q^2)), q Student's quantile, m = n / (variance / 0.25).
        ([0.0, 1.0], (0.5, 0.5 - 12.7062 / 2 / math.sqrt(2 + 12.7062**2), 0.5 + 12.7062 / 2 / math.sqrt(163.4476), 2)),
        ([0.5], (0.5, 0.0, 1.0, 1)),
        ([0.5] * 3, (0.5, 0.5 - 4.30265 / 2 / math.sqrt(9 + 18.5128), 0.5 + 4.30265 / 2 / math.sqrt(27.5128), 3)),
        ([0.0, 0.5, 1.0, 0.5], (0.5, 0.5 - 3.18245 / 2 / math.sqrt(16 / 3 + 10.12799), 0.904677, 4)),
    ],
)
def test_a_mean_and_its_interval(values, expected):
    assert mean_with_interval(np.array(values))[:4] == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_nothing():
    found = mean_with_interval(np.array([]))
    assert found.n == 0 and all(map(math.isnan, found[:3]))


# --- the analysis of judgments -------------------------------------------------------------------------------------


def judgment(number, order, preference, len_arm=100, len_baseline=100, **fields):
    sides = {"test_set": "s", "arm": "long", "baseline": "short", "judge": "j"}
    sizes = {"len_arm": len_arm, "len_baseline": len_baseline}
    return {"id": str(number), "order": order, "preference": preference} | sizes | sides | fields


def text_pairs(rng, n=400, ratio=1.4):
    arm, baseline = lengths(rng, n, ratio)
    sizes = zip(arm.astype(int), baseline.astype(int), strict=True)
    return [Pair(f"p{i}", "s", f"Q{i}", "long", "short", "a" * a, "b" * b) for i, (a, b) in enumerate(sizes)]


def judged_by(kind, pairs, tmp_path):
    ledger = Ledger(tmp_path / f"{kind}.sqlite")
    rows = judge_pairs(pairs, JudgeModel(name=kind, kind=kind), ledger)
    ledger.close()
    return rows


def test_the_longer_judge_is_convicted_and_the_coin_acquitted(rng, tmp_path):
    """Through the real judging: both orders, the controls, their parsed replies."""
    pairs = text_pairs(rng)
    rows = [row for kind in ("longer", "coin", "first") for row in judged_by(kind, pairs, tmp_path)]
    longer, coin, first = analyse(rows)
    assert [row["judge"] for row in (longer, coin, first)] == ["longer", "coin", "first"]
    assert longer["win_rate_low"] > 0.55, "it prefers the arm clearly"
    assert longer["longer_preferred"] == 1.0
    assert longer["win_rate"] == longer["length_only_judge"]
    assert longer["length_controlled_low"] < 0.5 < longer["length_controlled_high"]
    assert longer["finding"] == "this judge decided by length alone: it prefers the longer answer"
    assert longer["position_bias"] == 0.0
    assert coin["win_rate_low"] < 0.5 < coin["win_rate_high"]
    assert coin["longer_preferred"] == pytest.approx(0.5, abs=0.06)
    assert coin["length_controlled_low"] < 0.5 < coin["length_controlled_high"]
    assert coin["finding"] == "no preference that could be told from chance"
    assert first["win_rate"] == 0.5 and first["position_bias"] == 0.5 and first["position_bias_low"] > 0.49
    assert first["finding"] == "no preference that could be told from chance"
    assert all(row["calls"] == 800 and row["unjudged"] == 0 and row["prompts"] == 400 for row in (longer, coin, first))


def planted(rng, quality, by_length, n=600, ratio=1.4):
    wins, arm, baseline = simulate(rng, n, quality, by_length, ratio)
    items = list(zip(wins, arm, baseline, strict=True))
    return [judgment(i, order, *item) for i, item in enumerate(items) for order in ORDERS]


@pytest.mark.parametrize(
    ("quality", "by_length", "ratio", "finding"),
    [
        (1.0, 0.0, 1.4, "the arm is preferred, also at equal length"),
        (-1.0, 0.0, 1.4, "the baseline is preferred, also at equal length"),
        (0.0, 3.0, 2.0, "the arm is preferred, but not separably at equal length"),
        (-1.2, 5.0, 2.0, "the arm is preferred, and at equal length the other side would be"),
    ],
)
def test_what_is_found_of_a_planted_taste(rng, quality, by_length, ratio, finding):
    found = [analyse(planted(rng, quality, by_length, ratio=ratio), draws=20)[0] for _ in range(20)]
    assert sum(each["finding"] == finding for each in found) >= 16
    assert np.mean([each["length_controlled"] for each in found]) == pytest.approx(logistic(quality), abs=0.03)


def test_lengths_that_do_not_overlap_cannot_be_told_apart(rng):
    rows = [judgment(i, "arm_first", float(rng.random() < 0.8), 300 + i, 100) for i in range(200)]
    (found,) = analyse(rows)
    assert found["finding"] == "the arm is preferred, but one side is nearly always longer: length cannot be told apart"
    assert found["length_controlled"] is found["length_controlled_low"] is found["length_controlled_high"] is None
    assert found["length_matched"] is None and found["length_matched_prompts"] == 0
    few = [row | {"len_arm": 50} if int(row["id"]) < 9 else row for row in rows]
    assert analyse(few)[0]["length_controlled"] is None, "9 of 200 are below the 5 % that are needed"
    more = [row | {"len_arm": 50} if int(row["id"]) < 10 else row for row in rows]
    assert analyse(more)[0]["length_controlled"] is not None


def test_numbers_by_hand():
    rows = [
        judgment(1, "arm_first", 1.0, 200, 100), judgment(1, "baseline_first", 1.0, 200, 100),
        judgment(2, "arm_first", 1.0, 100, 200), judgment(2, "baseline_first", 0.0, 100, 200),
        judgment(3, "arm_first", 0.5, 105, 100), judgment(3, "baseline_first", None, 105, 100),
        judgment(4, "arm_first", 0.0, 90, 100), judgment(4, "baseline_first", 0.5, 90, 100),
        judgment(5, "arm_first", None, 1, 1),
    ]  # fmt: skip
    (found,) = analyse(rows)
    assert (found["calls"], found["unjudged"], found["prompts"]) == (9, 2, 4)
    assert (found["mean_len_arm"], found["mean_len_baseline"]) == (123.8, 125.0)
    assert found["win_rate"] == (1 + 0.5 + 0.5 + 0.25) / 4
    assert found["longer_preferred"] == (1 + 0.5 + 0.5 + 0.75) / 4
    assert found["length_only_judge"] == 0.5
    assert found["position_bias"] == pytest.approx((0 + 0.5 - 0.25) / 3, abs=1e-4)
    assert (found["length_matched"], found["length_matched_prompts"]) == (0.5, 1), "90 to 100 is just too different"


def test_comparisons_are_kept_apart():
    rows = [judgment(i, "arm_first", 1.0, judge=name) for name in "xy" for i in range(4)]
    rows += [judgment(i, "arm_first", 0.0, baseline="other") for i in range(4)]
    rows += [judgment(i, "arm_first", 0.0, test_set="t") for i in range(3)]
    found = analyse(rows)
    assert [(row["judge"], row["baseline"], row["prompts"]) for row in found] == [
        ("x", "short", 4), ("y", "short", 4), ("j", "other", 4), ("j", "short", 3),
    ]  # fmt: skip
    assert [row["win_rate"] for row in found] == [1, 1, 0, 0]


def test_the_same_id_in_two_test_sets_is_two_prompts():
    rows = [judgment(1, "arm_first", value, test_set=name) for name, value in zip("abc", (1.0, 0.0, 0.0), strict=True)]
    (found,) = analyse(rows)
    assert found["prompts"] == 3 and found["win_rate"] == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_judged_prompts(n):
    rows = [judgment(i, "arm_first", 1.0) for i in range(n)] + [judgment(9, "arm_first", None)]
    (found,) = analyse(rows)
    assert (found["prompts"], found["finding"]) == (n, "too few judged prompts")


def test_bins_by_length():
    sizes = [(100, 1000), (100, 180), (100, 120), (100, 100), (0, 0), (120, 100), (180, 100), (1000, 100), (1001, 100)]
    items = analysis_items.to_items([judgment(i, "arm_first", i / 8, *size) for i, size in enumerate(sizes)])
    bins = records_of(comparison.bin_by_length(items))
    assert [row["prompts"] for row in bins] == [1, 1, 1, 2, 1, 1, 2]
    assert [row["win_rate"] for row in bins] == [0.0, 0.125, 0.25, 0.4375, 0.625, 0.75, 0.9375]
    assert (bins[0]["from"], bins[-1]["to"]) == (-math.inf, math.inf)
    assert all(left["to"] == right["from"] for left, right in itertools.pairwise(bins))


def test_an_empty_bin_has_no_rate():
    items = analysis_items.to_items([judgment(i, "arm_first", 1.0) for i in range(3)])
    assert [row["win_rate"] for row in records_of(comparison.bin_by_length(items))] == [
        None,
        None,
        None,
        1.0,
        None,
        None,
        None,
    ]


def test_an_arm_that_is_always_longer_is_not_taken_for_the_judges_taste():
    """It may win because it is better: only a judge that sees both sides longer can be convicted."""
    rows = [judgment(i, "arm_first", 1.0, 100 if i < 5 else 200, 100) for i in range(100)]
    (found,) = analyse(rows)
    assert found["longer_preferred"] == 1.0 and "length alone" not in found["finding"]
    rows = [judgment(i, "arm_first", 1.0 if i < 90 else 0.0, 200 if i < 90 else 50, 100) for i in range(100)]
    assert analyse(rows)[0]["finding"].startswith("this judge decided by length alone: it prefers the longer")
    shorter = [row | {"preference": 1 - row["preference"]} for row in rows]
    assert analyse(shorter)[0]["finding"].endswith("it prefers the shorter answer")
    assert "length alone" not in analyse(rows[:18] + rows[-1:])[0]["finding"], "19 prompts are too few"


def test_a_finding_that_hangs_on_the_scale_of_length_says_no_more_than_both(mirror):
    rows = [row for row in records.cherry_judgments() if row["test_set"] == "sinstruct"]
    found = {row["judge"]: row for row in analyse(rows, draws=20)}
    assert found["gpt4"]["at_equal_length_low"] < 0.5 < found["gpt4"]["length_controlled_low"]
    assert (found["gpt4"]["finding"], found["gpt4"]["settled"]) == (
        "the arm is preferred, but not separably at equal length",
        False,
    )


def test_an_unknown_scale_is_refused():
    with pytest.raises(InputError, match="unknown scale 'ratio': choose one of difference, log_ratio"):
        length_controlled_win_rate([1, 0, 1], [1, 2, 3], [3, 2, 1], scale="ratio")


def test_the_scale_of_ratios(rng):
    """A judge of ratios: read off without bias on its own scale."""
    arm, baseline = lengths(rng, 4000)
    ratio = np.log(arm / baseline)
    wins = (rng.random(4000) < logistic(0.4 + 1.5 * np.tanh(ratio / ratio.std()))).astype(float)
    found = length_controlled_win_rate(wins, arm, baseline, scale="log_ratio")
    assert found.low < logistic(0.4) < found.high and found.high - found.low < 0.06
    same = length_controlled_win_rate(wins, 7 * arm, 7 * baseline, scale="log_ratio")
    assert same[:3] == pytest.approx(found[:3], abs=1e-9)


FAULTS = {
    "repeated rows": ([judgment(1, "arm_first", 0.0)],
                      "1 rows repeat a prompt and order: each order counts by its mean"),
    "mixed measures": ([judgment(i, "arm_first", 1.0, measure=name) for i, name in enumerate(("tokens", "chars"), 8)],
                       "lengths in mixed measures (chars, tokens) cannot be compared"),
    "differing lengths": ([judgment(2, "baseline_first", 1.0, len_arm=7)],
                          "1 prompts have rows with different lengths: the first row's count"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_doubtful_rows_are_named(tmp_path, capsys, name):
    more, expected = FAULTS[name]
    rows = [judgment(i, "arm_first", 1.0) for i in range(6)]
    assert analyse(rows)[0]["notes"] == ""
    assert analyse(rows + more)[0]["notes"] == expected
    assert f"  note: {expected}\n" in run(capsys, write(tmp_path / "rows.jsonl", rows + more))[1]


def test_position_and_length_tastes_are_told_apart(rng):
    arm, baseline = lengths(rng, 1500)
    squashed = np.tanh((arm - baseline) / (arm - baseline).std())
    rows = [
        judgment(i, order, float(rng.random() < logistic(0.5 + 1.5 * squashed[i] + place)), arm[i], baseline[i])
        for order, place in zip(ORDERS, (0.8, -0.8), strict=True)
        for i in range(1500)
    ]
    (found,) = analyse(rows, draws=50)
    assert found["length_taste_low"] < 1.5 < found["length_taste_high"]
    assert found["position_taste_low"] < 0.8 < found["position_taste_high"]
    truth = (logistic(1.3) + logistic(-0.3)) / 2
    assert found["length_controlled_low"] < truth < found["length_controlled_high"]
    assert found["net_win"] == pytest.approx(found["net_at_equal_length"] + found["net_due_to_length"], abs=2e-4)
    assert found["net_at_equal_length"] == pytest.approx(2 * found["length_controlled"] - 1, abs=2e-4)


def test_difficulty_is_used_where_every_prompt_has_one(tmp_path, capsys, rng):
    hard = rng.normal(0, 2, 300)
    wins, arm, baseline = simulate(rng, 300, 0.7, 1.5, difficulty=hard)
    rows = [judgment(i, "arm_first", wins[i], arm[i], baseline[i], difficulty=hard[i]) for i in range(300)]
    _, printed, _ = run(capsys, write(tmp_path / "rows.jsonl", rows))
    expected = length_controlled_win_rate(wins, arm, baseline, hard)
    assert (
        f"  length controlled, difficulty    {expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}]\n"
        in printed
    )
    plain = length_controlled_win_rate(wins, arm, baseline)
    assert f"  length controlled                {plain.value:.3f} [{plain.low:.3f}, {plain.high:.3f}]\n" in printed
    del rows[5]["difficulty"]
    assert "length_controlled_difficulty" not in analyse(rows, draws=5)[0]


def test_one_order_alone_says_nothing_of_position(rng):
    rows = [row for row in planted(rng, 0.5, 1.0, n=200) if row["order"] == ORDERS[0]]
    (found,) = analyse(rows, draws=20)
    assert found["position_bias"] is found["position_taste"] is None
    assert found["length_controlled"] is not None


# --- the command, on files of anybody's making ---------------------------------------------------------------------


def run(capsys, *arguments):
    """Call the command; give its status, what it printed and the lines of stderr."""
    try:
        length_bias.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(rng):
    return planted(rng, 0.8, 1.5, n=150)


def test_every_kind_of_file_gives_the_same(tmp_path, capsys, rows):
    made = [write(tmp_path / "rows.jsonl", rows)]
    made.append(tmp_path / "rows.jsonl.gz")
    made[-1].write_bytes(gzip.compress(made[0].read_bytes()))
    made.append(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(rows), made[-1])
    made.append(tmp_path / "rows.json")
    made[-1].write_text(json.dumps(rows, indent=1))
    printed = [run(capsys, path, "-o", tmp_path / f"{path.suffix}.csv") for path in made]
    assert printed[0][0] == 0 and printed[0][2] == []
    assert printed[0][1].startswith("long against short, judged by j: 150 prompts\n")
    assert f"  finding: {analyse(rows)[0]['finding']}\n" in printed[0][1]
    assert all(each == printed[0] for each in printed)
    with open(tmp_path / ".parquet.csv", encoding="utf-8") as file:
        (table,) = csv.DictReader(file)
    expected = analyse(rows)[0]
    assert float(table["length_controlled"]) == expected["length_controlled"]
    assert list(table) == list(expected)


def test_optional_columns_may_be_missing_or_null(tmp_path, capsys, rows):
    first = [row for row in rows if row["order"] == "arm_first"]
    needed = ("id", "preference", "len_arm", "len_baseline")
    bare = [{key: row[key] for key in needed} for row in first]
    nulls = [row | dict.fromkeys(("test_set", "arm", "baseline", "judge", "order")) for row in bare]
    _, printed, errors = run(capsys, write(tmp_path / "bare.jsonl", bare))
    assert errors == [] and printed.startswith("arm against baseline, judged by judge: 150 prompts\n")
    assert run(capsys, write(tmp_path / "nulls.jsonl", nulls))[1] == printed
    pq.write_table(pa.Table.from_pylist(nulls), tmp_path / "nulls.parquet")
    assert run(capsys, tmp_path / "nulls.parquet")[1] == printed


@pytest.mark.parametrize("orders", [(None, None), ("ab", "ba"), ("arm_first", "arm_first")])
def test_orders_without_the_agreed_names_are_averaged(tmp_path, capsys, orders):
    values = [(1, 0), (1, 1), (0, 0), (1, 0.5)]
    records = [
        {"id": i, "preference": value, "len_arm": 10 + i, "len_baseline": 11} | ({"order": order} if order else {})
        for i, pair in enumerate(values)
        for order, value in zip(orders, pair, strict=True)
    ]
    found = analyse(judging_records.read_judgments(write(tmp_path / "rows.jsonl", records)))[0]
    assert (found["calls"], found["prompts"], found["win_rate"]) == (8, 4, (0.5 + 1 + 0 + 0.75) / 4)
    assert found["position_bias"] is None


def test_integer_ids_extra_columns_and_missing_preferences(tmp_path):
    values = [1, True and 0.5, None, math.nan, 0, 0.25]
    records = [
        {"id": i, "preference": value, "len_arm": 10.5, "len_baseline": 9, "extra": {"deep": [1]}}
        for i, value in enumerate(values)
    ]
    found = analyse(judging_records.read_judgments(write(tmp_path / "rows.jsonl", records)))[0]
    assert (found["calls"], found["unjudged"], found["prompts"], found["win_rate"]) == (6, 2, 4, 0.4375)


@pytest.mark.parametrize("status", ["unparsed", "failed"])
def test_what_was_not_judged_has_no_preference(tmp_path, status):
    """A foreign log may hold the tie that its parser made of a failure."""
    records = [judgment(i, "arm_first", 1.0, status="judged") for i in range(3)]
    records += [judgment(i, "arm_first", 0.5, status=status) for i in range(3, 9)]
    found = analyse(judging_records.read_judgments(write(tmp_path / "rows.jsonl", records)))[0]
    assert (found["prompts"], found["unjudged"], found["win_rate"]) == (3, 6, 1.0)


def test_a_comparison_with_too_few_prompts_comes_first(tmp_path, capsys, rows):
    few = [judgment(0, "arm_first", 1.0, judge="few")]
    out = tmp_path / "table.csv"
    status, printed, errors = run(capsys, write(tmp_path / "rows.jsonl", few + rows), "-o", out)
    assert (status, errors) == (0, [])
    assert printed.startswith("long against short, judged by few: 1 prompts\n  too few judged prompts\n")
    with open(out, encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["win_rate"] == "" and float(second["win_rate"]) > 0.5


def test_lengths_that_do_not_overlap_are_printed_as_that(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", [judgment(i, "arm_first", 1.0, 200, 100) for i in range(50)])
    _, printed, _ = run(capsys, path)
    rates = ("at equal length", "length controlled", "length controlled, by the ratio", "length matched (0)")
    assert "".join(f"  {name:32} cannot be estimated\n" for name in rates) in printed
    assert "finding: the arm is preferred, but one side is nearly always longer: length cannot be told apart" in printed


def test_a_rate_with_difficulty_is_missed_only_where_there_are_difficulties(tmp_path, capsys):
    hard = [judgment(i, "arm_first", 1.0, 200, 100, judge="hard", difficulty=0.1 * i) for i in range(50)]
    plain = [judgment(i, "arm_first", 1.0, 200, 100, judge="plain") for i in range(50)]
    _, printed, _ = run(capsys, write(tmp_path / "rows.jsonl", hard + plain))
    first, second = printed.split("long against short, judged by ")[1:]
    missed = f"  {'length controlled, difficulty':32} cannot be estimated\n"
    assert first.startswith("hard: ") and missed in first
    assert second.startswith("plain: ") and "difficulty" not in second


ROW = judgment(1, "arm_first", 1.0)


def without(key):
    return {name: value for name, value in ROW.items() if name != key}


BAD_FILES = {
    "no id": ([ROW, without("id")], "row 1: no 'id': id, preference, len_arm and len_baseline are needed"),
    "no preference": ([without("preference")], "row 0: no 'preference'"),
    "no length": ([without("len_arm")], "row 0: no 'len_arm'"),
    "no other length": ([without("len_baseline")], "row 0: no 'len_baseline'"),
    "a text": ([ROW | {"preference": "win"}], "row 0: 'preference' is 'win', not a number"),
    "a truth": ([ROW | {"preference": True}], "row 0: 'preference' is True, not a number"),
    "an endless one": ([ROW | {"preference": math.inf}], "row 0: 'preference' is inf, not a number"),
    "on another scale": ([ROW | {"preference": 1.5}], "row 0: preference 1.5 is outside 0..1"),
    "below 0": ([ROW | {"preference": -1}], "row 0: preference -1 is outside 0..1"),
    "a null length": ([ROW | {"len_arm": None}], "row 0: 'len_arm' is None, not a length"),
    "a text for a length": ([ROW | {"len_arm": "10"}], "row 0: 'len_arm' is '10', not a length"),
    "a negative length": ([ROW | {"len_baseline": -1}], "row 0: 'len_baseline' is -1, not a length"),
    "a length of NaN": ([ROW | {"len_arm": math.nan}], "row 0: 'len_arm' is nan, not a length"),
    "a text for a difficulty": ([ROW | {"difficulty": "hard"}], "row 0: 'difficulty' is 'hard', not a number"),
    "a list for an id": ([ROW | {"id": [1]}], "row 0: 'id' is [1], neither text nor a number"),
    "a null id": ([ROW | {"id": None}], "row 0: 'id' is None, neither text nor a number"),
    "a list for a judge": ([ROW | {"judge": ["a"]}], "row 0: 'judge' is ['a'], neither text nor a number"),
    "an empty file": ("", "the file is empty"),
    "an empty list": ("[]", "no judgments"),
    "no JSON": ("id;preference\n", "not valid JSON"),
    "no object": ("[1]", "row 0 is not an object but a int"),
    "half a Parquet file": (b"PAR1....", "not readable as Parquet"),
    "no file": (None, "no such file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_judgments_are_one_line(tmp_path, capsys, name):
    content, expected = BAD_FILES[name]
    path = tmp_path / "rows.jsonl"
    if isinstance(content, list):
        write(path, content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, printed, errors = run(capsys, path)
    assert (status, printed, len(errors)) == (2, "", 1)
    assert errors[0].startswith(f"error: {path}") and expected in errors[0]


def test_bad_options_are_one_line(capsys):
    status, printed, errors = run(capsys)
    assert (status, printed, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: the following arguments are required: JUDGMENTS")


def test_the_command_as_a_process(tmp_path, rows):
    path = write(tmp_path / "rows.jsonl", rows)
    call = [sys.executable, "-W", "error", "-m", "nbutils.length_bias", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "long against short, judged by j: 150 prompts"
    path.write_text("")
    refused = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        2,
        "",
        f"error: {path}: the file is empty: give one that has rows\n",
    )


# --- three models and more ---------------------------------------------------------------------------------------


def three_arms(rng):
    """Two arms against one baseline, and a third whose answers are always the longer ones."""
    rows = [
        row | {"arm": f"arm {n}"} for n, quality in enumerate((0.8, 0.0)) for row in planted(rng, quality, 1.5, n=80)
    ]
    return rows + [row | {"arm": "long", "len_arm": 3 * row["len_baseline"] + 1} for row in planted(rng, 0, 0, n=80)]


def test_three_models_are_analysed_together_by_default(tmp_path, capsys, rng):
    out, pairs = tmp_path / "table.csv", tmp_path / "pairs.csv"
    path = write(tmp_path / "rows.jsonl", three_arms(rng))
    status, printed, errors = run(capsys, path, "-o", out, "--pairs", pairs, "--draws", "100")
    assert (status, errors) == (0, [])
    first, *lines = printed.splitlines()
    assert first.startswith("pooled, against short, judged by j: 3 arms, by the ")
    assert sum("(always longer or shorter)" in line for line in lines[:3]) == 1
    with open(out, encoding="utf-8") as file:
        table = {row["arm"]: row for row in csv.DictReader(file)}
    assert table["long"]["length_controlled"] == "" and 0 < float(table["long"]["pooled"]) < 1
    with open(pairs, encoding="utf-8") as file:
        nets = {(row["arm"], row["other"]): row for row in csv.DictReader(file)}
    assert len(nets) == 6 and nets["arm 0", "arm 1"]["evidence"] == "indirect"
    assert nets["arm 0", "short"]["evidence"] == "direct" and nets["arm 0", "short"]["direct_prompts"] == "80"
    assert float(nets["arm 0", "arm 1"]["net_equal"]) > 0
    assert float(table["arm 0"]["pooled"]) == pytest.approx(
        (1 + float(nets["arm 0", "short"]["net_equal"])) / 2, abs=1e-3
    )
    assert any(line.startswith("  arm 0 over arm 1, j: as judged ") for line in lines)


BAD_POOLING = {
    "two models": (["--pairs", "pairs.csv"], "--pairs needs three models or more that comparisons connect"),
    "few draws": (["--draws", "5"], "--draws 5: an interval of 95% takes at least 100 draws"),
}


@pytest.mark.parametrize("name", BAD_POOLING)
def test_what_cannot_be_pooled_is_one_line(tmp_path, capsys, rows, name):
    options, expected = BAD_POOLING[name]
    path = write(tmp_path / "rows.jsonl", rows)
    status, printed, errors = run(capsys, path, *[tmp_path / each if "." in each else each for each in options])
    assert (status, printed, len(errors)) == (2, "", 1) and expected in errors[0]
    assert not (tmp_path / "pairs.csv").exists()


# --- the truncated counterfactual ----------------------------------------------------------------------------------


def test_what_cutting_costs(tmp_path, capsys, rng):
    full = [judgment(i, "arm_first", 1.0 if i < 80 else 0.0, 200, 100) for i in range(100)]
    cut = [judgment(i, "arm_first", 1.0 if i < 60 else 0.5 if i < 80 else 0.0, 100, 100) for i in range(100)]
    (found,) = records_of(comparison.compare_cut([*full, judgment(200, "arm_first", 1.0)], cut))
    assert (found["prompts"], found["win_rate"], found["win_rate_cut"], found["lost_by_cutting"]) == (
        100,
        0.8,
        0.7,
        0.1,
    )
    assert 0.04 < found["lost_by_cutting_low"] < 0.1 < found["lost_by_cutting_high"] < 0.2
    files = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("full", full), ("cut", cut))]
    status, printed, errors = run(capsys, files[0], "--cut", files[1])
    assert (status, errors) == (0, []) and "lost by cutting                  0.100 [0.0" in printed


def test_cut_judgments_of_other_prompts_are_refused(tmp_path, capsys):
    rows, other = ([judgment(i, "arm_first", 1.0) for i in numbers] for numbers in (range(5), range(5, 9)))
    files = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", rows), ("b", other))]
    assert run(capsys, files[0], "--cut", files[1])[2] == [
        "error: j, long: no prompt (test_set and id) is judged in both files"
    ]
    write(files[1], [row | {"judge": "k"} for row in rows])
    assert run(capsys, files[0], "--cut", files[1])[2] == [
        "error: the cut judgments share no judge, arm and baseline with the others: judge the same prompts"
    ]


# --- published judgments -------------------------------------------------------------------------------------------


def test_the_published_reviews_give_their_published_win_rates(mirror, tmp_path, capsys):
    """Computed here from the scores that their authors published, with none of the project's code."""
    table = data.load_table("cherry-reviews")
    rows = records.cherry_judgments()
    assert len(rows) == 2 * len(table) == 4120
    path = tmp_path / "cherry.jsonl"
    disk.write_jsonl(path, rows)
    for found in analyse(records.read_judgments(path)):
        mine = table[table["judge"] == found["judge"]]
        wins, sizes, unjudged = [], [], 0
        for answer, scores, swapped in zip(mine["Answer1"], mine["scores"], mine["scores_reverse"], strict=True):
            (a, b), (d, c) = json.loads(scores), json.loads(swapped)
            orders = [(x > y) + 0.5 * (x == y) for x, y in ((a, b), (c, d)) if min(x, y) >= 1]
            unjudged += 2 - len(orders)
            if orders:
                wins.append(sum(orders) / len(orders))
                sizes.append(len(answer))
        assert (found["prompts"], found["unjudged"], found["calls"]) == (len(wins), unjudged, 2060)
        assert found["win_rate"] == pytest.approx(np.mean(wins), abs=5e-5)
        assert found["mean_len_arm"] == pytest.approx(np.mean(sizes), abs=0.05)
    assert {found["judge"] for found in analyse(rows)} == {"gpt4", "gpt3.5"}


def test_all_controls_are_known_to_the_analysis():
    assert set(judges.CONTROLS) == {"reference", "longer", "first", "coin"}


# --- the stage -----------------------------------------------------------------------------------------------------


def test_the_stage_compares_what_needs_no_judge_too(tmp_path):
    """Stage 07 pairs the tables of stage 05 by text, the target first."""
    prompts = [f"question {number}" for number in range(6)]
    mine = make_answers(ARM, ["one two three four five six"] * 6, prompts)
    theirs = make_answers(BASELINE, ["one two"] * 5 + ["one two three"], prompts)
    judged = manifest("judge", ARM, tmp_path / "judge")
    write_jsonl(tmp_path / "judge" / "judgments.jsonl", make_judgments(mine, theirs, [("8 6", "6 8")] * 6))
    write_jsonl(tmp_path / "judge" / "judgments_cut.jsonl", [])
    measured = {}
    for arm, answers, level in ((ARM, mine, -1.0), (BASELINE, theirs, -1.5)):
        measured[arm] = manifest("measures", arm, tmp_path / arm)
        likelihoods = [
            {"references": "lima", "id": str(number), "tokens": 9, "log_likelihood": level - number / 8 * (level < -1)}
            for number in range(3)
        ]
        tables.write(tmp_path / arm / "likelihoods.csv", likelihoods)
        tables.write(tmp_path / arm / "answer_facts.csv", measures.describe_answers(answers))
    made = length_bias._analyse_all(judged, measured, tmp_path / "out")
    assert "answer_measures.csv" in made["outputs"]
    found = tables.read(tmp_path / "out" / "answer_measures.csv").set_index("measure")
    assert list(found.index) == ["log_likelihood", "tokens", "words", "stopped", "repetition"]
    assert set(found.arm) == {ARM} and set(found.baseline) == {BASELINE}
    assert found.difference.to_dict() == {
        "log_likelihood": 0.625, "tokens": 3.833333, "words": 3.833333, "stopped": 0, "repetition": 0
    }  # fmt: skip
    assert found.texts["log_likelihood"] == 3 and found.texts["words"] == 6
    assert found.difference_low["words"] < 3.833333 < found.difference_high["words"]
    assert math.isnan(found.difference_low["stopped"])


def test_a_run_tells_a_prompt_both_answers_and_the_verdict(tmp_path, monkeypatch, no_data):
    profile = make_profile(fallback=None)
    prompts = [f"Prompt {number}" for number in range(4)]
    answers = {arm: make_answers(arm, [f"{arm} \x07{i}" for i in range(4)], prompts) for arm in (ARM, BASELINE)}
    made = {}
    for arm, written in answers.items():
        made["generate", arm] = manifest("generate", arm, tmp_path / arm)
        write_jsonl(tmp_path / arm / "answers.jsonl", written)
    reviews = [("9 2", "2 9"), ("9 2", "2 9"), ("9 2", "2 9"), ("5 5", "5 5")]
    rows = [row for name in ("coin", "reference") for row in make_judgments(*answers.values(), reviews, name)]
    tables.write(tmp_path / "length_bias.csv", comparison.analyse(rows))
    made["length_bias", ARM] = manifest("length_bias", ARM, tmp_path)
    monkeypatch.setattr(manifests, "fresh_manifest", lambda planned: made.get((planned.stage, planned.arm)))
    first, mine, theirs, verdict, judged, equal, matched, judge, note = length_bias.tell(profile)
    assert first == "sample/0: Prompt 0"
    assert mine == f"  {ARM}, 2 tokens: {ARM} \ufffd0"
    assert theirs == f"  {BASELINE}, 2 tokens: {BASELINE} \ufffd0"
    assert verdict.startswith(f"{ARM} (the arm) against {BASELINE} (the baseline), judged by reference, 4 prompts: ")
    assert judged == "  as judged, mean preference: 0.88 [0.24, 0.99], cannot tell"
    assert equal.startswith("  at equal length, by the ratio of lengths: ")
    assert matched.startswith("  pairs of equal length: ")
    assert judge == "  the judge reference: no model, but overlap (chrF) with an answer known to be good"
    assert note == "(tiny model: shows the machinery, not the paper's result)"
    del made["length_bias", ARM]
    assert length_bias.tell(profile) == [first, mine, theirs, note], "what is stale is left out"
    del made["generate", BASELINE]
    assert length_bias.tell(profile) == []
