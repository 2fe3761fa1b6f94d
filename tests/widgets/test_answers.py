"""Two arms' answers side by side: what the filters choose, both orders of every judge, and all texts escaped."""

import math
import re

import pytest

from nbutils.analysis import verdicts
from nbutils.judging import records, replies
from nbutils.widgets import answers

NASTY = '<script>alert(1)</script> & "x" \ud800'


def answer(arm, number, text, tokens=3, finish="stop"):
    names = {"id": f"p{number}", "test_set": "set", "prompt": f"Question {number}?", "arm": arm}
    return names | {"response": text, "n_tokens": tokens, "finish_reason": finish}


def judged(number, judge, first, swapped, baseline="base"):
    """Rows of both orders; each review gives the score of the answer shown first, and then of the other."""
    for order, review in zip(verdicts.ORDERS, (first, swapped), strict=True):
        names = {"id": f"p{number}", "test_set": "set", "arm": "mine", "baseline": baseline, "judge": judge}
        yield names | {"order": order, "review": review} | replies.score_review(review, order)


def of_letter(number, first, swapped):
    """Rows of a judge that gives no scores, but a preference for the arm."""
    for row, preference in zip(judged(number, "letters", "m", "m"), (first, swapped), strict=True):
        yield row | {"preference": preference, "status": "judged"}


MINE = [answer("mine", 0, "x" * 40), answer("mine", 1, "x" * 10), answer("mine", 2, "x" * 5, 7, "length")]
THEIRS = [answer("base", 0, "y" * 10), answer("base", 1, "y" * 10), answer("base", 2, "y" * 20)]
JUDGMENTS = [
    *judged(0, "wise", "8 6\nBetter, since it says more.", "6 8\nThe second is better."),
    *judged(1, "wise", "6 8", "8 6"),
    *judged(2, "wise", "8 6", "8 6"),  # always the one shown first
    *judged(0, "longer", "8 6", "6 8"),
    *judged(1, "longer", "7 7", "7 7"),
    *judged(2, "longer", "no idea", "8 6"),
]


@pytest.fixture
def pairs():
    return records.collect_pairs(
        JUDGMENTS, {"mine": records.by_place(MINE), "base": records.by_place(THEIRS)}, rule="exact"
    )


@pytest.fixture
def compared(pairs):
    return answers.tabulate(pairs, JUDGMENTS)


def test_one_row_a_pair_and_judge(compared):
    shown = compared[["pair", "judge", "verdict", "orders_differ", "judges_differ", "length_ratio"]]
    assert shown.values.tolist() == [
        [0, "wise", "win", False, False, 4.0],
        [0, "longer", "win", False, False, 4.0],
        [1, "wise", "lose", False, True, 1.0],
        [1, "longer", "tie", False, True, 1.0],
        [2, "wise", "tie", True, False, 0.25],  # the other judge is unscored, which is no other verdict
        [2, "longer", "unscored", False, False, 0.25],
    ]


def test_orders_of_a_judge_without_scores_differ_by_its_preferences():
    rows = [*of_letter(0, 1.0, 0.0), *of_letter(1, 0.9, 0.6), *of_letter(2, 1.0, 0.5)]
    written = {"mine": records.by_place(MINE), "base": records.by_place(THEIRS)}
    found = answers.tabulate(records.collect_pairs(rows, written, "exact"), rows)
    assert found["orders_differ"].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({}, [0, 1, 2]),
        ({"judge": "wise", "verdict": "lose"}, [1]),
        ({"judge": "longer", "verdict": "lose"}, []),
        ({"judge": "longer", "verdict": "unscored"}, [2]),
        ({"judge": "wise", "differ": answers.ORDERS_DIFFER}, [2]),
        ({"judge": "longer", "differ": answers.ORDERS_DIFFER}, []),
        ({"judge": "longer", "differ": answers.JUDGES_DIFFER}, [1]),
        ({"judge": "wise", "ratio": ("1", "4")}, [0, 1]),
        ({"judge": "wise", "ratio": ("0", "1/4")}, [2]),
        ({"judge": "wise", "ratio": ("5/4", "∞"), "verdict": "win"}, [0]),
        ({"judge": "wise", "against": "base", "test_set": "set"}, [0, 1, 2]),
        ({"judge": "wise", "against": "another"}, []),
    ],
)
def test_filters_choose(compared, filters, chosen):
    assert answers.choose(compared, **filters) == chosen


def test_ratios_of_empty_answers():
    assert answers.ratio_of(0, 0) == 1.0 and answers.ratio_of(3, 0) == math.inf and answers.ratio_of(0, 3) == 0.0


# --- moves ---------------------------------------------------------------------------------------------------------


def test_a_move_draws_the_pair_that_is_left(pairs, compared):
    made = answers.browse(pairs, compared, "a note")
    controls = made.controls
    assert list(controls) == ["judge", "verdict", "differ", "ratio", "place"]
    assert [*controls["verdict"].options] == ["all", "win", "tie", "lose", "unscored"]
    pane = made.box().children[-1]
    assert "Pair 1 of 3, of 3 in all." in pane.value and "set/p0" in pane.value and "a note" in pane.value
    controls["place"].value = 3
    assert "Pair 3 of 3" in pane.value and "set/p2" in pane.value
    controls["verdict"].value = "lose"
    assert "Pair 1 of 1, of 3" in pane.value and "set/p1" in pane.value and controls["place"].max == 1
    controls["judge"].value = "longer"
    assert "No pair passes these filters." in pane.value
    controls["verdict"].value = "all"
    assert controls["place"].max == 3 and "set/p0" in pane.value
    controls["ratio"].value = ("0", "1/2")
    assert "Pair 1 of 1" in pane.value and "set/p2" in pane.value


def test_some_of_the_rows_can_be_browsed(pairs, compared):
    made = answers.browse(pairs, compared.query("length_ratio < 1"))
    assert "Pair 1 of 1, of 1 in all." in made.html() and "set/p2" in made.html()
    assert "differ" in made.controls and made.controls["place"].max == 1


def test_answers_that_nobody_judged():
    unjudged = records.unjudged_pairs(MINE, THEIRS[1:]) + records.unjudged_pairs(MINE, [answer("other", 0, "")])
    compared = answers.tabulate(unjudged)
    assert compared[["baseline", "id", "judge", "verdict"]].values.tolist() == [
        ["base", "p1", "", ""],
        ["base", "p2", "", ""],
        ["other", "p0", "", ""],
    ]
    made = answers.browse(unjudged, compared)
    assert list(made.controls) == ["against", "ratio", "place"]
    assert "verdict" not in made.html() and "Pair 1 of 3" in made.html()
    made.controls["against"].value = "other"
    assert "40 characters, 3 tokens" in made.html() and "(empty)" in made.html()


def test_nothing_to_lay_beside_is_said_in_a_line():
    assert re.sub("<.*?>", "", answers.browse([], answers.tabulate([])).html()).startswith("Nobody else's answers")


# --- what is shown -------------------------------------------------------------------------------------------------


def cells(html):
    return [re.sub("<.*?>", "|", cell) for cell in re.findall("<td[^>]*>(.*?)</td>", html, re.DOTALL)]


def test_both_orders_of_every_judge_with_its_reasons_the_chosen_one_first(pairs):
    shown = answers.show_pair(pairs[0], "longer")
    assert shown.index(">longer<") < shown.index(">wise<")
    heads = re.findall("<th[^>]*>(.*?)</th>", shown)
    assert heads == ["judge", "verdict", "mine shown first", "base shown first"]
    assert [re.sub(r"\|+", "|", cell).strip("|") for cell in cells(shown)[-4:]] == [
        "wise",
        "win",
        "8 : 6|Better, since it says more.",
        "8 : 6|The second is better.",  # its 6 8 was of the baseline first
    ]


def test_what_was_not_judged_says_so(pairs):
    shown = cells(answers.show_pair(pairs[2], "longer"))
    assert "7 tokens, cut at the limit" in shown[0]
    assert "unparsed" in shown[4] and "no idea" in shown[4] and "6 : 8" in shown[5]
    one_order = pairs[2] | {
        "judges": {"half": {"verdict": "unscored", "reviews": pairs[2]["judges"]["wise"]["reviews"][:1]}}
    }
    assert cells(answers.show_pair(one_order))[-1] == "not asked"


@pytest.mark.parametrize(
    ("review", "reason"),
    [
        ("8 6", ""),
        ("8 6\n\nBecause.\nIndeed.", "Because.\nIndeed."),
        ('{"grade_1": 8, "grade_2": 6, "explanation": " Because. "}', "Because."),
        ('{"grade_1": 8, "grade_2": 6}', '{"grade_1": 8, "grade_2": 6}'),
        ("I cannot say.\nSorry.", "I cannot say.\nSorry."),
        ("7", "7"),
        ("", ""),
    ],
)
def test_reasons_are_what_is_not_the_scores(review, reason):
    assert answers.reason_of(review) == reason


def test_every_text_is_escaped_and_can_be_sent():
    name = NASTY.rstrip(" \ud800")  # half characters are in texts: names with them are refused when they are read
    nasty = {"id": name, "test_set": name, "prompt": NASTY, "response": NASTY, "n_tokens": 1, "finish_reason": "stop"}
    sides = {side: f"{side}{name}" for side in ("arm", "baseline")}
    rows = [
        {"id": name, "test_set": name, **sides, "judge": name, "order": order, "review": f"8 6\n{NASTY}"}
        | replies.score_review("8 6", order)
        for order in verdicts.ORDERS
    ]
    written = {side: {(name, name): nasty} for side in sides.values()}
    pairs = records.collect_pairs(rows, written, "exact")
    made = answers.browse(pairs, answers.tabulate(pairs, rows), name)
    shown = made.html()
    shown.encode()
    assert set(re.findall("<([a-z0-9]+)", shown)) == {"p", "strong", "div", "table", "tr", "td", "th", "em"}
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot;") >= 12
