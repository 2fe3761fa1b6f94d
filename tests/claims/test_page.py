"""The report's board: one number for each kind of evidence, the weakest, and what reproduced in words."""

import pytest

from nbutils.claims import page, settle
from nbutils.claims.evidence import Measured
from nbutils.claims.facts import Fact
from nbutils.claims.published import Number


@pytest.fixture(scope="module")
def settled():
    """Every claim with no run at hand."""
    return settle.settle()


def net(value, margin, expected="more"):
    return Number("x", value, value - margin, value + margin, "points net win", expected)


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([net(20, 5), net(10, 5), net(30, 1)], ("+10.0", "[+5.0, +15.0]", "points net win", "weakest of 3")),
        ([net(20, 5), net(30, 31)], ("+30.0", "[-1.0, +61.0]", "points net win", "cannot tell, weakest of 2")),
        ([net(2, 5), net(-9, 5)], ("-9.0", "[-14.0, -4.0]", "points net win", "on the other side, weakest of 2")),
        ([net(-9, 5, "less"), net(-20, 5, "less")], ("-9.0", "[-14.0, -4.0]", "points net win", "weakest of 2")),
        ([Number("x", 71, 66, 75, "% of judgements", "more", 50.0)], ("71.0%", "[66.0, 75.0]", "of judgements", "")),
        ([Number("x", 0.2, -0.6, 1, "points MT-Bench", "more")],
         ("+0.20", "[-0.60, +1.00]", "points MT-Bench", "cannot tell")),
        ([Number("x", 2.8, None, None, "points", "more")], ("+2.8", "", "points", "no interval")),
    ],
)  # fmt: skip
def test_the_weakest_number_stands_for_a_claim(numbers, shown):
    assert page.show_number(numbers) == shown


def test_a_fact_is_shown_with_what_it_is_held_against():
    equal = Fact("D1", "ids shared", 1000, "equal", 1000, "all of them")
    below, failed = (Fact("D3", "rows", 28, relation, 500, "half") for relation in ("below", "above"))
    assert page.show_fact([equal]) == ("1,000", "", "ids shared", "")
    assert page.show_fact([below, equal]) == ("28", "", "< 500 (half); rows", "and 1 more")
    assert page.show_fact([equal, failed]) == ("28", "", "fails against 500 (half); rows", "and 1 more")
    assert page.show_fact([]) is None and page.show_number([]) is None


def test_the_board_has_three_numbers_and_everything_behind_them(settled):
    described = page.describe_claims(settled)
    rows = {row["id"]: row for row in described["board_rows"]}
    assert tuple(rows) == page.BOARD
    assert rows["P1"]["published"].value == "+57.2" and rows["P1"]["independent"].value == "+15.6"
    assert rows["P1"]["here"] is None
    assert (rows["D1"]["published"].value, rows["D1"]["here"].value) == ("1,000", "1,000")
    names = [name for name, _ in rows["P1"]["behind"]]
    assert names == ["published", "independent"]
    assert rows["P1"]["behind"][0][1][1].startswith("PaLM-2, Llama-2-7B: +71.4")
    assert [name for name, _ in described["topics"].items()][-1] == "abstract"
    assert sum(len(rows) for rows, _ in described["topics"].values()) == len(described["claims"]) == 44
    by_id = {row["id"]: row for row in described["claims"]}
    assert by_id["S1"]["published"] is by_id["S1"]["here"] is None and by_id["S1"]["behind"] == []


def test_the_board_as_a_frame_says_the_same(settled):
    board = page.tabulate_board(settled).set_index("claim")
    assert list(board) == ["verdict", "published", "independent", "here"] and len(board) == len(page.BOARD)
    row = board.loc["longest preferred to all of Alpaca-52k"]
    assert row["published"].startswith("+57.2 [+52.7, +61.7] points") and row["independent"].startswith("+15.6 [")
    assert (row["here"], row["verdict"]) == ("", "supported independently")


def test_what_reproduced_is_said_in_words(settled):
    lines = page.answer_in_words(settled)
    assert lines[0] == "Reproduced by this project: abstract (1 of 9), data (7 of 7). Not reproduced: nothing."
    said = "“longest preferred to all of Alpaca-52k”; “refinement helps”"
    assert lines[1] == f"Supported by others' models: {said}. Contradicted: nothing."
    assert lines[2].startswith("Not decided by others' models: “longest preferred to AlpaGasus-1k”; ")
    assert lines[3].startswith(f"{page.NOT_RUN}: abstract (3 of 9), preference (7 of 9), ")


def test_what_a_run_measured_is_said_and_shown():
    measured = Measured({"P3": [net(-20, 5)], "P1": [net(4, 9)], "O1": [net(20, 5)]}, {})
    described = page.describe_claims(settle.settle(measured))
    lines, rows = described["in_words"], {row["id"]: row for row in described["board_rows"]}
    assert lines[0].endswith("Not reproduced: abstract (2 of 9), preference (2 of 9), length (1 of 6).")
    assert "capabilities (1 of 1)" in lines[0].partition("Not reproduced")[0]
    assert rows["P3"]["here"] == ("-20.0", "[-25.0, -15.0]", "points net win", "on the other side")
    assert rows["P3"]["verdict"] == "not reproduced"
