"""Rating rows one by one: grades, the three ways of choosing, and the command on everybody's files."""

import json
import re

import numpy as np
import pytest
from chat_server import Answer, completion, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import data, select
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.judging import rate
from nbutils.selection import draw

NAN = float("nan")


def test_a_threshold():
    assert draw.draw_threshold(np.array([4.5, 4.4, NAN, 5]), 4.5).tolist() == [0, 3]


def test_the_best_with_ties_to_the_lower_position():
    assert draw.draw_top_k(np.array([4.5, 5, NAN, 4.5, 4.5]), 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("k", [0, 5, -1])
def test_no_more_than_have_a_grade(k):
    for choose_by in (draw.draw_top_k, draw.draw_tiers):
        with pytest.raises(InputError, match="4 rows have a grade"):
            choose_by(np.array([4.5, 5, NAN, 4.5, 4.5]), k)


def test_the_published_mixture_of_tiers():
    """AlpaGasus-1k: 11 rows of 5.0, then 989 of the 4.5s, drawn uniformly."""
    grades = np.full(52_002, 3.5)
    grades[5000:14_217] = 4.5
    grades[100:111] = 5.0
    first, second = draw.draw_tiers(grades, 1000, seed=1), draw.draw_tiers(grades, 1000, seed=2)
    for drawn in (first, second):
        assert len(set(drawn.tolist())) == 1000 and drawn.tolist() == sorted(drawn)
        assert np.unique(grades[drawn], return_counts=True)[1].tolist() == [989, 11]
    assert first.tolist() == draw.draw_tiers(grades, 1000, seed=1).tolist() != second.tolist()
    assert 80 < len(set(first) & set(second)) < 160, "two samples of a ninth share 11 and about a ninth"


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 4.5, 5, NAN]), min_size=1, max_size=30), st.data())
def test_tiers_are_the_best_grades(grades, data):
    array = np.array(grades, dtype=float)
    known = int((~np.isnan(array)).sum())
    if known:
        k = data.draw(st.integers(1, known))
        best = np.sort(array[~np.isnan(array)])[::-1][:k]
        for drawn in (draw.draw_tiers(array, k, 3), draw.draw_top_k(array, k)):
            assert np.sort(array[drawn])[::-1].tolist() == best.tolist()


def test_the_released_scores(mirror):
    """277 of the 1,000 longest pass AlpaGasus' threshold; the released AlpaGasus-1k is 11 of 5.0 and 989 of 4.5."""
    longest = np.array([row.score for row in data.load_rows("alpaca-1k-longest-published")])
    assert len(draw.draw_threshold(longest, 4.5)) == 277
    chosen = np.array([row.score for row in data.load_rows("alpaca-1k-score")])
    assert np.unique(chosen, return_counts=True)[1].tolist() == [989, 11]


ROWS = [
    {"instruction": f"Say {i}.", "input": "loudly" if i == 1 else "", "output": f"reply {i}", "extra": i}
    for i in range(6)
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    disk.write_jsonl(path, ROWS)
    return path


def run(capsys, *arguments):
    try:
        rate.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def choose(rows, out, *options):
    """What `select` takes by the ratings in a folder."""
    chosen = out / "selected.jsonl"
    select.main([str(rows), "--ratings", str(out / "ratings.jsonl"), *options, "-o", str(chosen)])
    return disk.read_jsonl(chosen)


def test_an_endpoint_and_other_choices_from_the_same_ratings(rows, tmp_path, capsys):
    out, grades = tmp_path / "out", ["4.5", "Score: 5/5", "3", "4.5\nfine", "**4.5**", "0"]
    with serving(lambda number, question: grades[int(re.search(r"reply (\d)", question)[1])]) as server:
        options = (rows, "--judge", "fake-1", "--base-url", server.url, "-o", out)
        status, printed, errors = run(capsys, *options)
        assert (status, errors) == (0, "")
        assert "asked 6, judged 6, unparsed 0, failed 0; grades: 5 x1, 4.5 x3, 3 x1, 0 x1" in printed
        chosen = choose(rows, out, "--tiers", "3", "--seed", "0")
        assert len(chosen) == 3 and ROWS[1] in chosen and all(row in ROWS for row in chosen)
        assert choose(rows, out, "--threshold", "4.5") == [ROWS[i] for i in (0, 1, 3, 4)]
        assert choose(rows, out, "--top-k", "2") == [ROWS[i] for i in (0, 1)]
    assert len(server.asked) == 6, "choosing anew asks nothing"
    assert any("Say 1.\n\nloudly" in question for question in server.questions())
    ratings = disk.read_jsonl(out / "ratings.jsonl")
    assert [rating["score"] for rating in ratings] == [4.5, 5, 3, 4.5, 4.5, 0]
    assert set(ratings[0]) == {"id", "source", "text", "judge", "score", "status", "review"}


def test_how_a_rating_ends(rows, tmp_path, capsys):
    """The reasons, the commonest first, and one reply; status 1 where no row was graded."""
    withheld = completion(None, choices=[{"message": {"content": None}, "finish_reason": "content_filter"}])
    replies = ["Nice.", "Nice.", "4", Answer(withheld), Answer(completion("", choices=[])), "Nice."]
    options = ("--judge", "fake-1", "--concurrency", "1")
    with serving(lambda number, question: replies[number]) as server:
        place = ("--base-url", server.url, "-o", tmp_path / "some")
        status, printed, errors = run(capsys, rows, *options, *place)
        assert status == 0 and "asked 6, judged 1, unparsed 4, failed 1" in printed
        assert errors.splitlines() == [
            "3 unparsed: no clear verdict",
            "1 unparsed: withheld by a filter of contents: --retry-empty asks again",
            "1 failed: an empty answer (the answer holds no text)",
            "one of the replies that could not be read: Nice.",
        ]
        ratings = disk.read_jsonl(tmp_path / "some" / "ratings.jsonl")
        assert [rating.get("reason") for rating in ratings] == [None, None, None, "filter", "empty", None]
    with serving(lambda number, question: "Nice.") as server:
        status, _, errors = run(capsys, rows, *options, "--base-url", server.url, "-o", tmp_path / "none")
    assert status == 1 and errors.splitlines()[-1] == "nothing was judged"


def test_nothing_is_chosen_below_99_percent(rows, tmp_path, capsys):
    replies = ["4", "I refuse", Answer(completion("", choices=[])), "9", "4", "4"]
    with serving(lambda number, question: replies[number]) as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        status, printed, errors = run(capsys, rows, *options)
    assert status == 0 and "asked 6, judged 3, unparsed 2, failed 1" in printed
    with pytest.raises(SystemExit) as ended:
        choose(rows, tmp_path / "out", "--top-k", "2")
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and "3 of 6 rows have a grade: nothing is chosen below 99%" in errors
    assert not (tmp_path / "out" / "selected.jsonl").exists()


def test_other_forms_keep_theirs(tmp_path, capsys):
    talk = [
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "word " * n}]}
        for n in (1, 500, 9)
    ]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(talk))
    assert run(capsys, path, "--judge", "longer", "-o", tmp_path / "out")[0] == 0
    chosen, ratings = tmp_path / "selected.json", tmp_path / "out" / "ratings.jsonl"
    select.main([str(path), "--ratings", str(ratings), "--top-k", "1", "-o", str(chosen)])
    assert json.loads(chosen.read_text()) == [talk[1]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"instruction": "x"}\n', "row 0: no response field"), ("", "the file is empty"), (None, "no such file")],
)
def test_faulty_rows_are_one_line(tmp_path, capsys, content, expected):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    status, _, errors = run(capsys, path, "--judge", "longer", "-o", tmp_path / "out")
    assert status == 2 and expected in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_and_options(rows, tmp_path, capsys):
    options = ("--judge", "gpt-4o-mini", "--base-url", "http://127.0.0.1:1/v1", "-o", tmp_path / "out")
    status, printed, _ = run(capsys, rows, *options, "--dry-run")
    assert status == 0 and printed.startswith("6 calls, about ")
    assert run(capsys, rows, *options, "--top-k", "1", "--tiers", "1")[0] == 2
