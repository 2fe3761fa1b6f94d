"""Counts of judgments that were counted by hand."""

import math

import numpy as np
import pytest
from frames import records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.analysis.verdicts import ORDERS, summarise
from nbutils.core import manifests


def row(number, order, arm, other, sizes=(10, 5), **fields):
    scores = None if arm is None else (arm, other)
    preference = None if arm is None else 0.5 + 0.5 * ((arm > other) - (arm < other))
    status = {"status": "judged" if scores else "unparsed", "preference": preference}
    head = {"judge": "j", "arm": "a", "baseline": "b", "id": str(number), "test_set": "one", "order": order}
    lengths = {"len_arm": sizes[0], "len_baseline": sizes[1]}
    return head | {"score_arm": arm, "score_baseline": other} | status | lengths | fields


def both(number, first, second, **fields):
    return [row(number, order, *scores, **fields) for order, scores in zip(ORDERS, (first, second), strict=True)]


JUDGED = [
    *both(1, (9, 8), (9, 8)),  # win, and longer
    *both(2, (8.5, 8), (8, 8)),  # win, for the paper's rule a tie; longer
    *both(3, (9, 8), (7, 8), sizes=(5, 5)),  # tie, the orders contradict each other; equally long
    *both(4, (None, None), (9, 1)),  # unscored
    *both(5, (2, 8), (8, 8), sizes=(9, 1), test_set="two"),  # lose, although longer
    *both(6, (1, 2), (1, 2), sizes=(1, 9), test_set="two"),  # lose, and shorter
]


def test_every_column_by_hand():
    table = {(each["test_set"], each["rule"]): each for each in records_of(summarise(JUDGED))}
    pooled = table["all", "exact"]
    assert [pooled[name] for name in ("asked", "judged", "unparsed", "failed")] == [12, 11, 1, 0]
    assert [pooled[name] for name in ("prompts", "win", "tie", "lose", "unscored")] == [6, 2, 1, 2, 1]
    assert pooled["net_win"] == 0 and pooled["headline"] is False
    assert pooled["order_inconsistent"] == 0.2, "prompt 3 of the five that were judged in both orders"
    # mean preferences 1, 0.75, 0.5, 1 (one order of prompt 4), 0.25, 0
    assert pooled["win_rate"] == pytest.approx(3.5 / 6, abs=1e-6)
    assert pooled["win_rate_error"] == pytest.approx(
        np.std([1, 0.75, 0.5, 1, 0.25, 0], ddof=1) / math.sqrt(6), abs=1e-6
    )
    assert [pooled[f"longer_{name}"] for name in ("win", "tie", "lose")] == [4, 1, 1]
    assert pooled["longer_net_win"] == 0.5
    assert pooled["agrees_with_longer"] == 0.75, "prompts 1, 2 and 6 of 1, 2, 5 and 6"
    assert pooled["mean_of_sets"] == pytest.approx((2 / 3 - 1) / 2, abs=1e-4)
    assert table["all", "paper"]["win"] == 1 and table["all", "paper"]["tie"] == 2
    assert table["two", "exact"]["mean_of_sets"] is None and table["two", "exact"]["net_win"] == -1


def test_ties_are_no_decisions():
    found = records_of(
        summarise([*both(1, (9, 8), (9, 8)), *both(2, (8, 8), (8, 8)), *both(3, (9, 1), (9, 1), sizes=(3, 3))])
    )[0]
    assert (found["tie"], found["longer_tie"], found["agrees_with_longer"]) == (1, 1, 1.0)


def test_rows_without_lengths_have_no_length_judge():
    bare = [{key: value for key, value in each.items() if not key.startswith("len_")} for each in JUDGED]
    first = records_of(summarise(bare))[0]
    assert first["agrees_with_longer"] is None and first["longer_win"] == 0 and first["win"] == 2


def test_preferences_without_scores():
    """Judges that weigh letters give 0 to 1: above one half is a win of that order."""
    soft = [
        row(1, order, None, None, preference=value, status="judged")
        for order, value in zip(ORDERS, (0.9, 0.4), strict=True)
    ]
    soft += [
        row(2, order, None, None, preference=value, status="judged")
        for order, value in zip(ORDERS, (0.6, 0.5), strict=True)
    ]
    for rule in verdicts.RULES:
        assert list(verdicts.verdicts_of(soft, rule).values()) == ["tie", "win"]
    assert verdicts.inconsistency(soft) == 0.5
    assert verdicts.win_rate(soft)[0] == pytest.approx((0.65 + 0.55) / 2)


# --- what is asked again -------------------------------------------------------------------------------------------


def judged_by(judge, *failed, **fields):
    """Judgments of 100 prompts in both orders; the prompts of these numbers have a call that failed."""
    rows = [each | {"judge": judge, **fields} for i in range(100) for each in both(i, (9, 8), (9, 8))]
    return [each | {"status": "failed"} if i % 2 and i // 2 in failed else each for i, each in enumerate(rows)]


CONTROLS = [each for name in ("longer", "first", "coin") for each in judged_by(name)]


@pytest.mark.parametrize(
    ("judgments", "expected"),
    [
        (judged_by("m", 1), False),
        (judged_by("m", 1, 2), True),
        (CONTROLS + judged_by("m", 1), False),
        (CONTROLS + judged_by("m", 1, 2), True),
        (judged_by("m", 1, 2, baseline="x") + judged_by("m", baseline="y"), True),
        (judged_by("m", 1, baseline="x") + judged_by("m", 2, baseline="y"), False),
        (judged_by("m", 1, arm="x") + judged_by("m", 2, arm="y"), False),
        (judged_by("m", 1) + judged_by("n", 2), False),
        ([], False),
    ],
    ids=["1%", "2%", "1%, controls", "2%, controls", "a baseline", "baselines", "arms", "judges", "none"],
)
def test_too_many_failed_calls_of_one_judge_arm_and_baseline(judgments, expected):
    facts = verdicts.facts_of(judgments)
    assert facts == {**verdicts.count_calls(judgments), "lacking": expected}
    unpaired = [{key: value for key, value in each.items() if key != "baseline"} for each in judgments[:200]]
    assert verdicts.facts_of(unpaired)["lacking"] == verdicts.facts_of(judgments[:200])["lacking"]


@pytest.mark.parametrize(
    ("facts", "times"),
    [
        ({"asked": 800, "failed": 2, "lacking": True}, 2),
        ({"asked": 800, "failed": 2, "lacking": False}, 1),
        ({"asked": 200, "failed": 2}, 1),
        ({"asked": 200, "failed": 3}, 2),
        ({}, 1),
    ],
)
def test_what_lacks_calls_is_done_again(tmp_path, facts, times):
    planned, done = manifests.Plan("judge", "p", "a", 1, tmp_path, {}, {}), []

    def work(folder):
        done.append(folder)
        return {"outputs": [], **facts}

    manifests.complete_calls(planned, work)
    made = manifests.complete_calls(planned, work)
    assert (len(done), manifests.is_lacking(made)) == (times, times == 2)


def test_descriptions():
    pooled = summarise(JUDGED).iloc[0]
    assert verdicts.describe(pooled).endswith(
        "no headline: 83.3% of the prompts were scored in both orders, 99% are needed"
    )
    assert verdicts.describe_length(pooled) == (
        "length alone: win 4, tie 1, lose 1; net win +0.500; in 75% of the cases the judge decides as length does"
    )
    whole = summarise(JUDGED[:6]).iloc[0]
    assert verdicts.describe(whole).startswith("rule exact: win 2, tie 1, lose 0, unscored 0; net win +0.667 [")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.sampled_from([None, 1, 5, 8.5, 10])] * 4, st.sampled_from("xyz")), min_size=1, max_size=12)
)
def test_counts_always_add_up(prompts):
    rows = []
    for number, (a, b, c, d, name) in enumerate(prompts):
        pairs = [pair if None not in pair else (None, None) for pair in ((a, b), (c, d))]
        rows += both(number, *pairs, test_set=name)
    for each in records_of(summarise(rows)):
        assert each["asked"] == each["judged"] + each["unparsed"] + each["failed"] == 2 * each["prompts"]
        assert each["prompts"] == each["win"] + each["tie"] + each["lose"] + each["unscored"]
        assert each["headline"] == (each["unscored"] <= 0.01 * each["prompts"])


def test_win_rates_equal_the_published_leaderboard(mirror):
    """AlpacaEval 2 of 32 models, from the published preferences: rates and standard errors as on the leaderboard."""
    table, board = data.load_table("alpaca-eval-preferences"), data.load_table("alpaca-eval-leaderboard")
    off = []
    for model, part in table.groupby("model"):
        rows = [
            {"test_set": "", "id": i, "preference": p - 1} for i, p in zip(part["idx"], part["preference"], strict=True)
        ]
        rate, error = verdicts.win_rate([each for each in rows if not math.isnan(each["preference"])])
        if model in board.index:
            off.append(
                (abs(100 * rate - board.loc[model, "win_rate"]), abs(100 * error - board.loc[model, "standard_error"]))
            )
    assert len(off) >= 30
    assert max(rate for rate, _ in off) < 1e-3
    assert max(error for _, error in off) < 1e-3


def test_lost_calls_are_named_with_what_was_said():
    row = {"judge": "j", "status": "judged", "review": "8 9"}
    lost = [row | {"status": "failed", "review": None}, row | {"status": "unparsed", "review": "No."}]
    assert verdicts.describe_lost([row, *lost, lost[1]]) == (
        "no headline: j: 1 failed, j: 2 unparsed of 4 calls; the first reply begins 'No.'"
    )
