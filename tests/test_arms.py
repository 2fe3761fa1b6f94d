"""Arms: the grammar of their names and how they are drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import arms, lengths, select
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.data.rows import Row
from nbutils.selection import draw, parts


def _words(texts):
    return lengths.count(texts, "words")


def _pool(counts, **more):
    return [Row(i, "pool", f"task {i}", "", "w " * n, **more) for i, n in enumerate(counts)]


def _draw(name, rows, turns="sum"):
    return draw.draw(arms.parse_arm(name), rows, _words, lambda i: len(rows[i].response.split()) + 1, turns).tolist()


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alpaca-1k-longest", ("alpaca", 1000, "longest", None, False)),
        ("alpaca-1k-shortest", ("alpaca", 1000, "shortest", None, False)),
        ("alpaca-250-longest", ("alpaca", 250, "longest", None, False)),
        ("evol-9k-longest", ("evol", 9000, "longest", None, False)),
        ("alpaca-1k-random-7", ("alpaca", 1000, "random", 7, False)),
        ("alpaca-random-token-matched-7", ("alpaca", 1000, "random-token-matched", 7, False)),
        ("alpaca-1k-longest-instruction", ("alpaca", 1000, "longest-instruction", None, False)),
        ("alpaca-1k-longest-stratified", ("alpaca", 1000, "longest-stratified", None, False)),
        ("alpaca-1k-longest-rewritten", ("alpaca", 1000, "longest", None, True)),
        ("alpaca-1k-rated", ("alpaca", 1000, "rated", None, False)),
        ("alpaca-1k-rated-7", ("alpaca", 1000, "rated", 7, False)),
        ("own-12-longest+neftune", ("own", 12, "longest", None, False)),
        ("alpaca-52k", ("alpaca-52k", 0, "all", None, False)),
        ("lima-1k+neftune", ("lima-1k", 0, "all", None, False)),
        ("alpaca-1k-longest-refined", ("alpaca-1k-longest-refined", 0, "all", None, False)),
    ],
)
def test_names(name, expected):
    arm = arms.parse_arm(name)
    assert tuple(arm[:6]) == (name, *expected)
    assert arm.selection == name.removesuffix("+neftune")
    assert arm.suffixes.neftune == name.endswith("+neftune")


def test_what_follows_a_plus_is_training_or_generation():
    arm = arms.parse_arm("lima-1k+neftune+epochs3+min150+asklong+max2048")
    assert (arm.selection, arm.trained) == ("lima-1k", "lima-1k+neftune+epochs3")
    assert arm.suffixes == ("+neftune+epochs3", 3, "+min150+asklong+max2048", 150, True, 2048)
    assert arms.parse_arm("alpaca-52k+min150").trained == "alpaca-52k"
    assert arms.parse_arm("alpaca-52k").suffixes == arms.Suffixes()


@pytest.mark.parametrize(
    "suffix", ["+", "+other", "+min0", "+min150+neftune", "+asklong+asklong", "+max", "+epochs1.5"]
)
def test_unknown_suffixes_are_refused_with_those_that_there_are(suffix):
    with pytest.raises(InputError, match=r"unknown arm 'lima-1k.*then any of \+neftune, \+epochs3, \+min150"):
        arms.parse_arm("lima-1k" + suffix)


@pytest.mark.parametrize(
    "name",
    ["", "longest", "alpaca", "alpaca-1k", "alpaca-1k-best", "dolly-1k-longest", "alpaca-1m-longest",
     "alpaca-longest-1k", "alpaca-1k-longest ",
     "Alpaca-1k-longest", "alpaca-1k-longest+other", "koala", "alpaca--1-longest", "../lima-1k"],
)  # fmt: skip
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match=r"unknown arm.*alpaca-1k-longest, alpaca-1k-random-7"):
        arms.parse_arm(name)


@pytest.mark.parametrize("name", ["alpaca-1k-random", "alpaca-random-token-matched", "alpaca-1k-longest-7"])
def test_only_random_arms_end_in_a_number(name):
    with pytest.raises(InputError, match="a random arm ends in its sampling seed"):
        arms.parse_arm(name)


def test_where_an_arm_is_drawn_from():
    profile = load_profile("tiny").model_copy(update={"dataset": "mine.jsonl"})
    drawn_from = {
        name: arms.pool_source(arms.parse_arm(name), profile) for name in ("lima-1k", "evol-longest", "own-longest")
    }
    assert drawn_from == {"lima-1k": "lima-1k", "evol-longest": "evol-70k", "own-longest": "mine.jsonl"}


# --- drawing -------------------------------------------------------------------------------------------------------


def test_longest_and_shortest():
    rows = _pool([3, 1, 4, 1, 5, 3])
    assert _draw("own-3-longest", rows) == [0, 2, 4]
    assert _draw("own-3-shortest", rows) == [0, 1, 3]


def test_longest_instruction():
    rows = [Row(i, "pool", "w " * n, "", "x " * (9 - n)) for i, n in enumerate([2, 5, 1, 4])]
    assert _draw("own-2-longest-instruction", rows) == [1, 3]


def test_several_turns_follow_the_rule():
    rows = [Row(0, "p", "q", "", "w " * 3, history=(("q", "w " * 3),)), Row(1, "p", "q", "", "w " * 4), *_pool([5])]
    assert _draw("own-1-longest", rows, "sum") == [0]
    assert _draw("own-1-longest", rows, "last") == [2]
    assert _draw("own-1-shortest", rows, "mean") == [0]


def test_stratified_keeps_the_proportions():
    # Ten rows of "a" (all longer) and five of "b": of six, four come from a and two from b.
    rows = _pool([20 + i for i in range(10)], stratum="a") + _pool([1, 5, 2, 4, 3], stratum="b")
    assert _draw("own-6-longest-stratified", rows) == [6, 7, 8, 9, 11, 13]


def test_strata_are_categories_or_whether_there_is_an_input():
    assert draw.stratum_of(Row(0, "p", "q", "given", "a")) == "with input"
    assert draw.stratum_of(Row(0, "p", "q", "", "a")) == "without input"
    assert draw.stratum_of(Row(0, "p", "q", "given", "a", stratum="coding")) == "coding"


@pytest.mark.parametrize("name", ["own-3-random-7", "own-2-random-token-matched-7"])
def test_random_arms_depend_on_their_number_alone(name):
    rows = _pool([3, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 20)
    drawn = _draw(name, rows)
    assert drawn == _draw(name, rows) == sorted(set(drawn))
    assert drawn != _draw(name.replace("7", "8"), rows)


def test_a_larger_random_arm_holds_the_smaller_one():
    rows = _pool([1] * 50)
    assert set(_draw("own-5-random-7", rows)) < set(_draw("own-20-random-7", rows))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.data())
def test_token_matched_is_within_one_row_of_its_target(counts, data):
    k, number = data.draw(st.integers(1, len(counts))), data.draw(st.integers(0, 99))
    drawn = _draw(f"own-{k}-random-token-matched-{number}", _pool(counts))
    tokens = np.array(counts) + 1
    target = np.sort(tokens)[-k:].sum()
    assert abs(tokens[drawn].sum() - target) <= tokens.max() / 2
    assert len(drawn) >= 1


def test_more_rows_than_there_are_are_refused():
    for name in ("own-7-longest", "own-7-random-1", "own-7-longest-stratified", "own-7-random-token-matched-1"):
        with pytest.raises(InputError, match=f"arm '{name}': k = 7 is more than the 6 rows"):
            _draw(name, _pool([3, 1, 4, 1, 5, 3]))
    with pytest.raises(InputError, match="k = 0"):
        _draw("own-0-longest", _pool([1]))


def test_a_whole_source():
    assert draw.draw(arms.parse_arm("lima-1k"), _pool([1, 2, 3]), _words).tolist() == [0, 1, 2]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12), st.data())
def test_apportion(sizes, data):
    k = data.draw(st.integers(0, sum(sizes)))
    quota = draw.apportion(np.array(sizes), k)
    assert sum(quota) == k
    for share, size in zip(quota, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share * sum(sizes) - size * k) < sum(sizes), "within one row of the exact share"


def test_apportion_values():
    assert draw.apportion(np.array([10, 5]), 6) == [4, 2]
    assert draw.apportion(np.array([1, 1, 1]), 2) == [1, 1, 0]
    assert draw.apportion(np.array([7, 2, 1]), 3) == [2, 1, 0]


# --- what is at hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alpaca-1k-longest", "sample-60-longest"),
        ("alpaca-1k-random-7", "sample-60-random-7"),
        ("alpaca-random-token-matched-3", "sample-60-random-token-matched-3"),
        ("alpaca-1k-longest-rewritten", "sample-60-longest-rewritten"),
        ("alpaca-1k-longest+neftune", "sample-60-longest+neftune"),
        ("alpaca-1k-random-7+epochs3+min150", "sample-60-random-7+epochs3+min150"),
    ],
)
def test_stand_ins(name, expected):
    assert arms.stand_in(name, load_profile("tiny")) == expected
    assert arms.parse_arm(expected).k == 60


def test_a_whole_source_has_no_stand_in():
    with pytest.raises(InputError, match=r"arm 'lima-1k' needs its source: run `python -m nbutils.data fetch lima-1k`"):
        arms.stand_in("lima-1k", load_profile("tiny"))


def test_without_data_the_sample_stands_in(no_data):
    given_profile = load_profile("tiny")
    resolved = arms.with_data_at_hand(given_profile)
    assert resolved.dataset == "sample"
    assert resolved.arms == tuple(arms.stand_in(name, given_profile) for name in given_profile.arms)
    assert resolved.judging.target == "sample-60-longest"
    assert set(resolved.judging.baselines) <= set(resolved.arms)
    assert arms.resolve_arm("alpaca-1k-longest", given_profile, resolved) == "sample-60-longest"
    assert arms.resolve_arm("alpaca-1k-longest+min150", given_profile, resolved) == "sample-60-longest+min150"
    assert arms.resolve_arm("lima-1k", given_profile, resolved) == "lima-1k"
    line = arms.data_line(given_profile, resolved)
    assert "alpaca-52k is not at hand" in line and "260 rows, licence Apache-2.0" in line


def test_with_data_the_profile_stays_as_it_is(mirror):
    profile = load_profile("tiny")
    assert arms.with_data_at_hand(profile) is profile
    assert arms.data_line(profile, profile) == "Data: alpaca-52k (52,002 rows, licence CC BY-NC 4.0)."


# --- the stage -----------------------------------------------------------------------------------------------------


def test_the_stage_without_data(runs, no_data):
    made = select.run("tiny", "alpaca-1k-longest")
    rows = select.load_arm(made)
    assert (made.arm, len(rows)) == ("sample-60-longest", 60)
    assert made.facts["threshold"] == lengths.count([row.response for row in rows], "nltk_words").min()
    assert made.facts["ids_sha256"] == parts.ids_sha256(row.id for row in rows)
    assert (made.facts["exact"], made.facts["pool_rows"]) == (False, 260)
    assert select.run("tiny", "alpaca-1k-longest") == made, "the second call returns what the first one wrote"


def test_alpaca_arms_are_pinned(alpaca):
    """A draw that changes would silently change what every later result means."""
    drawn = _draw("alpaca-1k-random-7", alpaca)
    assert len(drawn) == 1000
    assert parts.ids_sha256(drawn) == "8c395ed53f1b24143e22903dcccf3c3f3d52f778b0e4d22a50078bba54432588"
    matched = _draw("alpaca-random-token-matched-7", alpaca)
    assert parts.ids_sha256(matched) == "3d6270cf9b13343849a9653711c9002a345dc72896914a30b032f383af8d496e"
    tokens = _words([row.response for row in alpaca]) + 1
    target = tokens[select.top_k(tokens, 1000)].sum()
    assert abs(tokens[matched].sum() - target) <= tokens.max() / 2


@pytest.mark.slow
def test_the_stage_selects_the_published_rows(counted_runs):
    made = select.run("tiny", "alpaca-1k-longest")
    assert made.facts["ids_sha256"] == "b6691885e9c956494c44d574f60ed34147780fba56335f86e0d9d263f8190d33"
    assert made.facts["ids_in_published_selection"] == 1000
    assert (made.facts["threshold"], made.facts["ties_at_threshold"], made.facts["ties_taken"]) == (192, 15, 2)
    assert made.facts["mean_length"] == pytest.approx(256.8, abs=0.05)
    assert made.facts["trained_tokens"] == 324_720
