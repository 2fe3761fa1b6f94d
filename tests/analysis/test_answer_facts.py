"""Differences between two arms in what needs no judge: by hand, and by scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbutils.analysis import answer_facts, intervals
from nbutils.core import tables


def facts(arm, likelihoods=(), answers=()):
    names = "references", "id", "tokens", "log_likelihood"
    kept = "test_set", "id", "tokens", "words", "stopped", "repetition"
    rows = [dict(zip(names, row, strict=True)) for row in likelihoods]
    lines = [dict(zip(kept, row, strict=True)) for row in answers]
    return arm, (tables.make("likelihoods", rows), tables.make("answer_facts", lines))


MINE = facts(
    "long",
    [("lima", "1", 10, -1.0), ("lima", "2", 20, -2.0), ("sample", "1", 5, -0.5), ("sample", "9", 5, -9.0)],
    [("sample", "a", 100, 80, True, 0.0), ("sample", "b", 50, 40, False, 0.5)],
)
THEIRS = facts(
    "random",
    [("sample", "1", 5, -0.7), ("lima", "2", 20, -2.4), ("lima", "1", 10, -1.2)],
    [("sample", "b", 20, 15, True, 0.1), ("sample", "a", 40, 30, True, 0.0)],
)


def test_texts_are_paired_whatever_their_order_and_others_left_out():
    found = {(row["measure"], row["texts_of"]): row for row in answer_facts.compare(MINE, THEIRS)}
    assert list(found) == [
        ("log_likelihood", "lima"), ("log_likelihood", "sample"), ("log_likelihood", "all"),
        ("tokens", "sample"), ("words", "sample"), ("stopped", "sample"), ("repetition", "sample"),
    ]  # fmt: skip
    lima = found["log_likelihood", "lima"]
    assert (lima["texts"], lima["arm_mean"], lima["baseline_mean"], lima["difference"]) == (2, -1.5, -1.8, 0.3)
    everything = found["log_likelihood", "all"]
    assert (everything["texts"], everything["difference"]) == (3, pytest.approx(0.8 / 3, abs=1e-6))
    assert math.isnan(found["log_likelihood", "sample"]["difference_low"]), "one text gives no interval"
    assert found["tokens", "sample"]["difference"] == 45
    assert found["stopped", "sample"] | {"difference": -0.5, "arm_mean": 0.5} == found["stopped", "sample"]
    assert (lima["arm"], lima["baseline"]) == ("long", "random")


def test_the_same_arm_differs_in_nothing_and_has_no_interval():
    for row in answer_facts.compare(MINE, MINE):
        assert row["difference"] == 0 and math.isnan(row["difference_low"]) and math.isnan(row["difference_high"])


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=30))
def test_the_interval_is_students(pairs):
    mine, theirs = map(np.array, zip(*pairs, strict=True))
    found = intervals.paired_interval(np.subtract(mine, theirs))
    if (mine - theirs).std() < 1e-9:
        return
    low, high = stats.ttest_rel(mine, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_a_line_is_told_with_its_interval():
    told = answer_facts.tell(tables.make("answer_measures", answer_facts.compare(MINE, THEIRS)))
    assert told[1].endswith("1 texts of sample: long -0.5 against -0.7, +0.2 (random)")
    assert told[3].startswith("length of an answer in tokens, 2 texts of sample: long 75 against 30, +45 [")


def test_a_side_without_likelihoods_leaves_them_out():
    alone = facts("random", (), [("sample", "a", 1, 1, True, 0.0)])
    assert {row["measure"] for row in answer_facts.compare(MINE, alone)} == {"tokens", "words", "stopped", "repetition"}
