"""Agreement of judges: by hand, against other libraries, and how often the intervals hold the truth."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from frames import records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.analysis import agreement, intervals
from nbutils.analysis.agreement import ABSENT
from nbutils.analysis.verdicts import ORDERS, verdicts_of

SAID = {"win": 1.0, "tie": 0.5, "lose": 0.0, None: None}


def row(judge, number, said, order="arm_first", **fields):
    head = {"judge": judge, "arm": "a", "baseline": "b", "id": str(number), "test_set": "one", "order": order}
    scores = {"score_arm": None, "score_baseline": None, "preference": SAID[said], "len_arm": 1, "len_baseline": 1}
    return head | scores | {"status": "failed" if said is None else "judged"} | fields


def both(judge, number, first, second=..., **fields):
    said = (first, first if second is ... else second)
    return [row(judge, number, each, order, **fields) for each, order in zip(said, ORDERS, strict=True)]


def by_kind(rows, people=()):
    return {(each["kind"], each["judge"], each["other"]): each for each in records_of(agreement.compare(rows, people))}


def of_table(counts):
    """Kinds and counts of a square table of two raters' verdicts."""
    size = len(counts)
    kinds = np.array([(one, other) for one in range(size) for other in range(size)])
    return kinds, np.array(counts).ravel()


def frame_of(codes, questions=None):
    names = range(len(codes)) if questions is None else questions
    return pd.DataFrame(np.asarray(codes), index=pd.MultiIndex.from_arrays([names], names=["question"]))


# --- figures by hand -----------------------------------------------------------------------------------------------


def test_kappa_by_hand():
    # 20 + 15 of 50 agree; chance alone gives (25 * 30 + 25 * 20) / 2500 = 0.5
    kinds, counts = of_table([[20, 5, 0], [10, 15, 0], [0, 0, 0]])
    assert agreement.share_equal(kinds, counts) == 0.7
    assert agreement.kappa(kinds, counts) == pytest.approx(0.4)
    # 1 of 10 differs, by the full distance; by chance, of margins (4, 3, 3) and (5, 3, 2), one step counts a half
    kinds, counts = of_table([[4, 0, 0], [0, 3, 0], [1, 0, 2]])
    chance = 0.4 * (0.3 * 0.5 + 0.2) + 0.3 * (0.5 * 0.5 + 0.2 * 0.5) + 0.3 * (0.5 + 0.3 * 0.5)
    assert agreement.linear_kappa(kinds, counts) == pytest.approx(1 - 0.1 / chance)
    assert agreement.kappa(kinds, counts) == pytest.approx(1 - 0.1 / (1 - 0.2 - 0.09 - 0.06))


def test_alpha_by_hand():
    # Verdicts 3 win, 1 tie, 2 lose; distances (3/2 + 1/2)^2, (1/2 + 2/2)^2, (3/2 + 1 + 2/2)^2; 1 pair differs.
    kinds, counts = np.array([(0, 0), (0, 1), (2, 2)]), np.array([1, 1, 1])
    expected = 1 - 5 * 1 * 4 / (3 * 1 * 4 + 1 * 2 * 2.25 + 3 * 2 * 12.25)
    assert agreement.ordinal_alpha(kinds, counts) == pytest.approx(expected)


def test_alpha_of_krippendorffs_own_example():
    """Computing Krippendorff's Alpha-Reliability (2011), section D: four observers, gaps, ordinal 0.815."""
    observers = ["12332141 2...", "123322412 5.3", ".33323422 51.", "1233244125 1."]
    codes = np.array([[ABSENT if c == "." else int(c) - 1 for c in text.replace(" ", "")] for text in observers]).T
    assert codes.shape == (12, 4)
    assert agreement.ordinal_alpha(codes, np.ones(len(codes), int)) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("says", [0, 1, 2])
def test_what_is_undefined_is_nan_and_no_warning(says):
    kinds, counts = np.array([(says, says), (says, (says + 1) % 3)]), np.array([5, 0])
    assert math.isnan(agreement.ordinal_alpha(kinds, counts)) and math.isnan(agreement.kappa(kinds, counts))
    assert math.isnan(agreement.kappa(kinds, np.array([3, 2]))), "one of them always says the same"
    assert agreement.ordinal_alpha(kinds, np.array([3, 2])) <= 0


# --- against libraries ---------------------------------------------------------------------------------------------

codes_of = st.lists(st.tuples(*[st.integers(0, 2)] * 2), min_size=2, max_size=60)
gappy_codes = st.lists(st.tuples(*[st.integers(-1, 2)] * 4), min_size=2, max_size=40)


@given(codes_of)
@settings(max_examples=60, deadline=None)
def test_kappa_is_that_of_scikit_learn(codes):
    metrics = pytest.importorskip("sklearn.metrics")
    pairs, one, (first, second) = np.array(codes), np.ones(len(codes), int), zip(*codes, strict=True)
    for weights, mine in ((None, agreement.kappa), ("linear", agreement.linear_kappa)):
        found = mine(pairs, one)
        if math.isnan(found):
            assert min(len(set(first)), len(set(second))) == 1
        else:
            theirs = metrics.cohen_kappa_score(first, second, labels=[0, 1, 2], weights=weights)
            assert found == pytest.approx(theirs, abs=1e-12)


@given(gappy_codes)
@settings(max_examples=60, deadline=None)
def test_alpha_is_that_of_another_library(codes):
    krippendorff = pytest.importorskip("krippendorff", reason="needs requirements-dev.txt")
    kinds, counts = np.unique(codes, axis=0, return_counts=True)
    found = agreement.ordinal_alpha(kinds, counts)
    paired = [each for each in codes if sum(code != ABSENT for code in each) > 1]
    if len({code for each in paired for code in each} - {ABSENT}) < 2:
        assert math.isnan(found)
        return
    data = np.array(codes, float).T
    data[data == ABSENT] = np.nan
    theirs = krippendorff.alpha(data, level_of_measurement="ordinal", value_domain=[0, 1, 2])
    assert found == pytest.approx(theirs, abs=1e-9)


@given(gappy_codes)
@settings(max_examples=40, deadline=None)
def test_the_figures_are_those_of_nltk_and_statsmodels(codes):
    """The libraries' own, unit by unit: of one sample, and of several at once."""
    from nltk.metrics.agreement import AnnotationTask
    from statsmodels.stats.inter_rater import cohens_kappa

    kinds, counts = np.unique(codes, axis=0, return_counts=True)
    samples = np.array([counts, 3 * counts, counts + np.arange(len(counts))])
    for number, found in enumerate(agreement.ordinal_alpha(kinds, samples)):
        units = [each for each in np.repeat(kinds, samples[number], axis=0) if (each != ABSENT).sum() > 1]
        data = [(who, i, said) for i, each in enumerate(units) for who, said in enumerate(each) if said != ABSENT]
        seen = np.bincount([said for *_, said in data], minlength=3)
        if np.count_nonzero(seen) < 2:
            assert math.isnan(found)
            continue
        ranks = np.cumsum(seen) - seen / 2
        task = AnnotationTask(data, lambda one, other, ranks=ranks: float(ranks[one] - ranks[other]) ** 2)
        assert found == pytest.approx(task.alpha(), abs=1e-9)
    both = kinds[(kinds[:, :2] != ABSENT).all(axis=1), :2]
    if len(both):
        table = np.zeros((3, 3))
        np.add.at(table, tuple(both.T), 1)
        for weights, mine in ((None, agreement.kappa), ("linear", agreement.linear_kappa)):
            found = mine(both, np.ones((2, len(both)), int))
            if min(len(set(side)) for side in both.T) == 1:
                assert np.isnan(found).all()
            else:
                assert found == pytest.approx(cohens_kappa(table, wt=weights, return_results=False), abs=1e-12)


@pytest.mark.parametrize(("value", "shown"), [(-0.0001, "0.000 [0.000, 0.500]"), (-0.0006, "-0.001 [0.000, 0.500]")])
def test_nothing_is_shown_as_minus_nothing(value, shown):
    assert agreement._in_words(value, -0.0004, 0.5) == shown


def test_a_hundred_thousand_questions_take_seconds():
    """Intervals leave out one question at a time, all at once: by hand for every question this took minutes."""
    random, n = np.random.default_rng(0), 100_000
    codes = frame_of(random.integers(0, 3, (n, 2)))
    begun = time.process_time()
    found = agreement._compare_two(codes, "judges", "x", "y")
    assert time.process_time() - begun < 5
    # Of independent judges: kappa's standard error is then about that of the share, over what chance leaves.
    error = math.sqrt(1 / 3 * 2 / 3 / n) / (2 / 3)
    assert (found["kappa_high"] - found["kappa_low"]) / 2 == pytest.approx(1.96 * error, rel=0.02)
    assert abs(found["alpha"]) < 0.02 and found["questions"] == n


@given(codes_of, st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_jackknife_is_that_of_leaving_out_each_question(codes, turns):
    questions = np.arange(len(codes)) // turns
    names = np.unique(questions)
    found = agreement._jackknife(agreement.share_equal, agreement._sample(frame_of(codes, questions)))
    if len(names) == 1:
        assert math.isnan(found)
        return
    same = np.array([one == other for one, other in codes])
    without = np.array([same[questions != name].mean() for name in names])
    spread = ((without - without.mean()) ** 2).sum()
    assert found == pytest.approx(math.sqrt((len(names) - 1) / len(names) * spread), abs=1e-12)


@given(codes_of, st.permutations([0, 1]))
@settings(max_examples=30, deadline=None)
def test_who_comes_first_does_not_matter_and_intervals_hold_their_value(codes, sides):
    one, other = (agreement._compare_two(frame_of(np.array(codes)[:, turn]), "judges", "x", "y")
                  for turn in ([0, 1], sides))  # fmt: skip
    for name in agreement._RATES:
        assert one[name] == pytest.approx(other[name], nan_ok=True)
        if not math.isnan(one[f"{name}_low"]):
            assert -1 <= one[f"{name}_low"] <= one[name] <= one[f"{name}_high"] <= 1


# --- what is compared ----------------------------------------------------------------------------------------------

JUDGED = [
    *both("x", 1, "win"),
    *both("x", 2, "win", "tie"),  # a win
    *both("x", 3, "win", "lose"),  # a tie
    *both("x", 4, "lose"),
    *both("x", 5, "win", None),  # unscored
    *both("y", 1, "win"),
    *both("y", 2, "lose"),
    *both("y", 3, "tie"),
    *both("y", 4, "lose"),
    *both("y", 5, "win"),
    *both("y", 6, "win"),  # seen by y alone
]


def test_units_are_counted():
    found = by_kind(JUDGED)[("judges", "x", "y")]
    assert [found[name] for name in ("prompts", "left_out", "decided", "questions")] == [4, 1, 3, 4]
    assert found["agree"] == 0.75 and found["agree_decided"] == pytest.approx(2 / 3, abs=1e-4)
    # x: win win tie lose, y: win lose tie lose; by chance (2*1 + 1*1 + 1*2) / 16
    assert found["kappa"] == pytest.approx(1 - 0.25 / (1 - 5 / 16), abs=1e-4)
    assert found["note"] == ""


def test_verdicts_are_those_of_the_rule_exact():
    codes = agreement._verdicts_of(agreement._calls_of(JUDGED)).query("judge == 'x'")
    names = ("win", "tie", "lose", "unscored")
    mine = {(each.test_set, each.id): names[each.code] for each in codes.itertuples()}
    assert mine == verdicts_of([each for each in JUDGED if each["judge"] == "x"], "exact")


def test_position_consistency():
    found = by_kind(JUDGED)[("orders", "x", "the other order")]
    assert [found["prompts"], found["left_out"], found["agree"]] == [4, 1, 0.5], "prompts 1 and 4 of 1 to 4"
    assert by_kind(JUDGED)[("orders", "y", "the other order")]["agree"] == 1
    assert not any(kind == "orders" for kind, *_ in by_kind([row("x", 1, "win"), row("y", 1, "win")]))


def test_repeated_rows_are_a_retest():
    again = [*both("x", 1, "win"), *both("x", 2, "lose"), *both("x", 4, "lose")]
    found = by_kind([*JUDGED, *again])
    assert found[("retest", "x", "run 2")]["agree"] == pytest.approx(2 / 3, abs=1e-4)
    assert found[("judges", "x", "y")]["agree"] == 0.75, "the first run counts"


def test_people_who_saw_one_order_and_all_together():
    votes = [row("ann", 1, "win"), row("ann", 2, "win", ORDERS[1]), row("ann", 3, None), row("ben", 1, "win")]
    found = by_kind([*JUDGED, *votes], {"ann", "ben"})
    assert found[("judge and person", "x", "ann")]["agree"] == 1
    assert [found[("judge and person", "x", "ann")][name] for name in ("prompts", "left_out")] == [2, 1]
    assert found[("people", "ann", "ben")]["prompts"] == 1
    assert found[("people", "ann", "ben")]["note"] == "both always say win: kappa and alpha are undefined"
    everyone = found[("all", "4 judges", "")]
    assert [everyone["prompts"], everyone["left_out"]] == [4, 1] and -1 < everyone["alpha"] < 1


def test_constant_judges_get_words_and_no_nan():
    rows = [each for number in range(5) for name in "xy" for each in both(name, number, "win")]
    rows[-2:] = both("y", 4, "lose")
    found = by_kind(rows)[("judges", "x", "y")]
    assert found["kappa"] is None and found["note"] == "one always says win: kappa is undefined"
    shown = repr(agreement.describe(agreement.compare(rows)).to_dict("records"))
    assert "nan" not in shown and "0.800 [" in shown


def test_questions_that_are_all_alike_give_no_certainty():
    first = by_kind([each for i in range(40) for each in both("x", i, "win", "lose")])[
        ("orders", "x", "the other order")
    ]
    assert [first["agree"], first["kappa"], first["alpha_low"]] == [0, None, None] and first["alpha"] < -0.9


def test_one_prompt_has_no_certain_interval():
    found = by_kind([*both("x", 1, "win"), *both("y", 1, "win")])[("judges", "x", "y")]
    assert [found[f"agree{end}"] for end in ("", "_low", "_high")] == [1, 0.025, 1]


def test_few_prompts_that_agree_are_no_certainty():
    rows = [each for i in range(10) for name in "xy" for each in both(name, i, "win" if i % 2 else "lose")]
    found = by_kind(rows)[("judges", "x", "y")]
    low = 0.025 ** (1 / 10)
    assert found["kappa"] == 1 and found["kappa_low"] == pytest.approx(1 - (1 - low) / 0.5, abs=1e-4)


def test_clusters_tie_rows_of_one_question_together():
    says = {0: ("win", "win"), 1: ("lose", "lose"), 2: ("win", "lose"), 3: ("lose", "win"), 4: ("tie", "tie")}
    once = [each for i in range(15) for side, name in enumerate("xy") for each in both(name, i, says[i % 5][side])]
    turns = [{**each, "id": f"{each['id']}-{turn}", "cluster": each["id"]} for turn in (1, 2) for each in once]
    tied, alone = by_kind(turns), by_kind([{**each, "cluster": None} for each in turns])
    one, key = by_kind(once), ("judges", "x", "y")
    assert [tied[key]["questions"], alone[key]["questions"], one[key]["questions"]] == [15, 30, 15]
    for name in ("agree", "kappa", "kappa_linear"):
        assert tied[key][name] == one[key][name] == alone[key][name]
        assert tied[key][f"{name}_low"] == pytest.approx(one[key][f"{name}_low"], abs=0.01)
        assert tied[key][f"{name}_low"] < alone[key][f"{name}_low"] - 0.03
    # A file that does not name the questions takes them from the other one.
    half = [{**each, "cluster": None if each["judge"] == "y" else each["cluster"]} for each in turns]
    assert by_kind(half)[key] == tied[key]


def test_comparisons_of_one_question_are_tied_together():
    rows = [{**each, "baseline": name} for name in ("b", "c") for each in JUDGED]
    found = by_kind(rows)[("judges", "x", "y")]
    assert [found["prompts"], found["questions"]] == [8, 4]


# --- coverage ------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("questions", "turns"), [(20, 1), (40, 2)])
def test_intervals_hold_the_truth(questions, turns):
    joint = np.array([[0.30, 0.08, 0.05], [0.08, 0.14, 0.05], [0.05, 0.05, 0.20]])
    exact, replicates, random = of_table((joint * 10_000).round().astype(int)), 500, np.random.default_rng(0)
    figures = {"kappa": agreement.kappa, "linear": agreement.linear_kappa, "alpha": agreement.ordinal_alpha}
    truth = {"agree": agreement.share_equal(*exact), **{name: figure(*exact) for name, figure in figures.items()}}
    hits = dict.fromkeys(truth, 0)
    for _ in range(replicates):
        # A question's turns are mostly judged alike.
        cells = random.choice(9, (questions, turns), p=joint.ravel())
        cells = np.where(random.random((questions, turns)) < 0.7, cells[:, :1], cells).ravel()
        codes = frame_of(np.stack([cells // 3, cells % 3], 1), np.repeat(np.arange(questions), turns))
        sample = agreement._sample(codes)
        found = {"agree": agreement._estimate_share(sample)}
        found |= {name: agreement._estimate(figure, sample, found["agree"]) for name, figure in figures.items()}
        for name, estimate in found.items():
            hits[name] += estimate.low <= truth[name] <= estimate.high
    least = intervals.tolerated(replicates)[0]
    assert min(hits.values()) / replicates >= least, hits
