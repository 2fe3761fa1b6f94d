"""The ballot in a notebook: votes on disk at once, taken up again by the next session, texts escaped."""

import re

from nbutils.judging import human
from nbutils.judging.pairs import Pair

PAIRS = [
    Pair(f"p{i}", "set", f"Question {i}?", "secret-arm", "secret-base", f"<b>mine {i}", f"theirs {i}") for i in range(4)
]


def press(widget, name):
    next(button for button in widget.children[1].children if button.description == name).click()


def test_votes_are_on_disk_at_once_and_taken_up_again(tmp_path):
    ballots, path = human.draw_ballots(PAIRS, seed=1), tmp_path / "votes" / "me.csv"
    widget = human.show(ballots, path)
    page = widget.children[0]
    assert "Pair 1 of 4, 0 votes given" in page.value and not path.exists()
    press(widget, "Answer 1")
    assert path.read_text() == "number,vote\n1,1\n2,\n3,\n4,\n"
    press(widget, "Tie")
    press(widget, "Back")
    assert "Pair 2 of 4, 2 votes given; this pair's vote: tie" in page.value
    press(widget, "Answer 2")
    assert path.read_text() == "number,vote\n1,1\n2,2\n3,\n4,\n"
    later = human.show(ballots, path)
    assert "Pair 3 of 4, 2 votes given" in later.children[0].value, "a new session goes on"
    for _ in range(5):
        press(later, "Next")
    assert "Pair 4 of 4" in later.children[0].value
    rows = human.read_votes(path, human.make_key(ballots))
    assert [row["status"] for row in rows] == ["judged"] * 2 + ["failed"] * 2
    expected = [float(ballots[0].arm_first), float(not ballots[1].arm_first)]
    assert [row["preference"] for row in rows[:2]] == expected


def test_nobody_is_named_and_nothing_is_markup(tmp_path):
    voting = human.Voting(human.draw_ballots(PAIRS, seed=1), tmp_path / "me.csv")
    for _ in PAIRS:
        shown = voting.render()
        assert "secret" not in shown and "&lt;b&gt;mine" in shown
        assert set(re.findall(r"<([a-z0-9]+)", shown)) == {"p", "h4", "div"}
        voting.move(1)
