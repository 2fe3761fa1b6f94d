"""The verdict from four estimates: who is preferred at equal length, and where they disagree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from nbutils.analysis import calibration, findings
from nbutils.analysis.findings import NONE, Card
from nbutils.analysis.intervals import Estimate


def rate(value, margin=0.05):
    return Estimate(value, value - margin, value + margin, 100, "by hand")


def card(judged=0.7, decided=0.7, equal=0.65, difference=0.65, matched=0.65, cut=None):
    rates = (judged, decided, equal, difference, matched)
    return Card(*[NONE if each is None else rate(each) for each in rates], NONE if cut is None else rate(cut))


@pytest.mark.parametrize(
    ("given_card", "text", "settled"),
    [
        (card(), "the arm is preferred, also at equal length", True),
        (card(cut=0.51), "the arm is preferred, also at equal length", True),
        (
            card(matched=0.53),
            "the arm is preferred, at equal length too, by the curve alone: pairs of equal length do not confirm it",
            False,
        ),
        (
            card(matched=None),
            "the arm is preferred, at equal length too, by the curve alone: pairs of equal length do not confirm it",
            False,
        ),
        (
            card(cut=0.49),
            "the estimates disagree: at equal length the ratio of lengths is for the arm, answers cut to one length "
            "for the baseline",
            False,
        ),
        (
            card(difference=0.48, matched=0.4),
            "the estimates disagree: at equal length the ratio of lengths is for the arm, the difference of lengths "
            "and pairs of equal length for the baseline",
            False,
        ),
        (card(equal=0.53), "the arm is preferred, but not separably at equal length", False),
        (card(equal=0.51, matched=0.47), "the arm is preferred, but not separably at equal length", False),
        (
            card(equal=0.51, matched=0.47, cut=0.46),
            "the estimates disagree: as judged the arm is preferred, pairs of equal length and answers cut to one "
            "length lean to the baseline",
            False,
        ),
        (
            card(equal=0.51, matched=0.4),
            "the estimates disagree: as judged the arm is preferred, the difference of lengths for the arm, pairs of "
            "equal length for the baseline",
            False,
        ),
        (
            card(judged=0.6, decided=0.45),
            "the estimates disagree: the arm is preferred on average, and the baseline wins more prompts",
            False,
        ),
        (
            card(equal=0.3, difference=0.3, matched=0.35),
            "the arm is preferred, and at equal length the other side would be",
            True,
        ),
        # A raw rate of nothing does not end the analysis.
        (
            card(judged=0.488, decided=0.49, equal=0.306, difference=0.3, matched=0.3),
            "no preference as judged, but at equal length the baseline is preferred",
            True,
        ),
        (card(judged=0.5, decided=0.5, equal=0.51, difference=0.52, matched=0.5), findings.NOTHING, False),
        (card(judged=0.5, decided=0.5, equal=0.51, difference=0.6, matched=0.5), findings.NOTHING, False),
        (
            card(judged=0.5, decided=0.5, equal=0.51, difference=0.6, matched=0.4),
            "the estimates disagree: the difference of lengths for the arm, pairs of equal length for the baseline",
            False,
        ),
        (
            card(equal=None, difference=None, matched=None),
            "the arm is preferred, but one side is nearly always longer: length cannot be told apart",
            False,
        ),
        (card(judged=0.5, equal=None, difference=None, matched=None), findings.NOTHING, False),
    ],
)
def test_what_a_card_says(given_card, text, settled):
    assert findings.find(given_card) == (text, settled)
    mirrored = Card(*[Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.method) for e in given_card])
    other = text.replace("the arm", "ARM").replace("the baseline", "the arm").replace("ARM", "the baseline")
    # The order in which two sides are named is fixed.
    if "the difference of lengths for the arm, pairs" not in text:
        assert findings.find(mirrored) == (other, settled)


def test_a_judge_of_length_alone_is_named_whatever_the_estimates_are():
    expected = "this judge decided by length alone: it prefers the shorter answer"
    assert findings.find(card(), "shorter") == (expected, False)


numbers = st.floats(0, 1)
estimates = st.one_of(
    st.just(NONE),
    st.tuples(numbers, numbers, numbers).map(lambda three: Estimate(*sorted(three)[1:2], *sorted(three)[::2], 9, "")),
)


@given(st.builds(Card, *[estimates] * 6))
def test_settled_needs_the_headline_the_pairs_and_no_contradiction(found):
    finding = findings.find(found)
    sides = [findings.side_of(each) for each in (found.equal, found.matched)]
    leans = {findings.lean_of(each) for each in found[2:]} - {""}
    assert finding.settled == (
        sides[0] != ""
        and sides[0] == sides[1]
        and len(leans) == 1
        and not (
            findings.side_of(found.judged)
            and findings.lean_of(found.decided) == findings.OTHER[findings.side_of(found.judged)]
        )
    )
    assert ("also at equal length" in finding.text) <= finding.settled


def test_the_card_has_a_row_for_each_estimate_that_exists():
    row = {"win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.8, "length_matched": 0.4}
    row |= {"length_matched_low": 0.3, "length_matched_high": 0.45, "at_equal_length": 0.5}
    row |= {"at_equal_length_low": 0.4, "at_equal_length_high": 0.6, "win_rate_cut": math.nan}
    shown = findings.tabulate_card(row)
    assert list(shown.estimate) == [
        "as judged, mean preference",
        "at equal length, by the ratio of lengths",
        "pairs of equal length",
    ]
    assert list(shown.says) == ["the arm", "cannot tell", "the baseline"]


def test_a_card_is_told_in_four_lines():
    row = {"judge": "reference", "prompts": 24, "arm": "long", "baseline": "random", "finding": "as it is"}
    row |= {"win_rate": 0.7, "win_rate_low": 0.604, "win_rate_high": 0.8, "prompts_won": 0.6, "prompts_won_low": 0.5}
    row |= {"length_matched": 0.4, "length_matched_low": 0.3, "length_matched_high": 0.45}
    assert findings.tell_card(row) == [
        "long (the arm) against random (the baseline), judged by reference, 24 prompts: as it is",
        "as judged, mean preference: 0.70 [0.60, 0.80], the arm",
        "at equal length, by the ratio of lengths: cannot be estimated",
        "pairs of equal length: 0.40 [0.30, 0.45], the baseline",
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("prompts", [200, 1030])
def test_judges_that_toss_coins_at_equal_length_are_not_believed(prompts):
    """Over shapes that the model does not hold: a false "settled" in at most 5% of runs, give or take its error."""
    table = calibration.count_findings(replicates=100, sizes=(prompts,), seed=5)
    settled = table[table.finding.str.contains("also at equal|would be$|is preferred$")].groupby("judge").share.sum()
    shapes = list(calibration.CONTROLS)[list(calibration.CONTROLS).index("ratio") :]
    assert settled.reindex(shapes).fillna(0).max() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    assert settled.reindex(shapes).fillna(0).mean() <= 0.05
    assert settled["quality"] >= (0.6 if prompts == 200 else 0.99)


def test_verdicts_are_a_row_for_each_comparison():
    rows = [
        {
            "judge": "a",
            "baseline": "b",
            "finding": "it is so",
            "win_rate": 0.6,
            "win_rate_low": 0.55,
            "win_rate_high": 0.65,
        },
        {"judge": "c", "baseline": "d", "finding": "too few judged prompts"},
    ]
    found = findings.tabulate_verdicts(DataFrame(rows))
    assert list(found.columns) == ["judge", "against", "verdict", "as judged"]
    assert list(found.loc[0]) == ["a", "b", "it is so", "60 [55, 65]"]
    assert list(found.loc[1]) == ["c", "d", "too few judged prompts", ""]
    alike = findings.tabulate_verdicts(DataFrame([row | {"baseline": "b"} for row in rows]))
    assert list(alike.columns) == ["judge", "verdict", "as judged"], "one baseline is named once, above"
