"""Blind judging by people: nobody is named, votes come back to the right side, and agreement is a library's."""

import csv
import io
import json
import re

import pytest
from browsing import open_page

from nbutils import judge
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.judging import human
from nbutils.judging.pairs import Pair

PAIRS = [
    Pair(f"p{i}", "set", f"Question {i}?", "secret-arm", "secret-base", f"mine {i}", f"theirs {i}") for i in range(20)
]


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def vote_by(folder, choose, name="ann.csv", **style):
    """Fill in the ballot: `choose(row)` gives the vote."""
    rows = read_csv((folder / "ballot.csv").read_text(encoding="utf-8"))
    path = folder / name
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, human.COLUMNS, **style)
        writer.writeheader()
        writer.writerows([row | {"vote": choose(row)} for row in rows])
    return path


@pytest.fixture
def ballot(tmp_path):
    human.export(human.draw_ballots(PAIRS, 12, seed=4), tmp_path / "ballot")
    return tmp_path / "ballot"


def for_mine(row):
    return "1" if row["answer_1"].startswith("mine") else "2"


def test_a_draw_is_shuffled_balanced_and_repeatable():
    drawn = human.draw_ballots(PAIRS, 12, seed=4)
    assert drawn == human.draw_ballots(PAIRS, 12, seed=4) != human.draw_ballots(PAIRS, 12, seed=5)
    assert [ballot.number for ballot in drawn] == list(range(1, 13))
    assert len({ballot.pair.id for ballot in drawn}) == 12
    assert sum(ballot.arm_first for ballot in drawn) == 6
    assert [ballot.pair.id for ballot in drawn] != sorted(ballot.pair.id for ballot in drawn)
    with pytest.raises(InputError, match="n = 21 of 20 pairs"):
        human.draw_ballots(PAIRS, 21)


def test_nobody_is_named_on_a_ballot(ballot):
    for name in ("ballot.csv", "ballot.html"):
        text = (ballot / name).read_text(encoding="utf-8")
        assert "secret" not in text and "p1" not in re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)
        assert text.count("mine ") == text.count("theirs ") == 12
    assert "secret-arm" in (ballot / "key.json").read_text()


def test_votes_come_back_to_the_right_side(ballot):
    key = human.read_key(ballot)
    rows = human.read_votes(vote_by(ballot, for_mine), key)
    assert [row["preference"] for row in rows] == [1.0] * 12 and {row["judge"] for row in rows} == {"ann"}
    assert {row["order"] for row in rows} == {"arm_first", "baseline_first"}
    assert {(row["arm"], row["baseline"], row["status"]) for row in rows} == {("secret-arm", "secret-base", "judged")}
    assert all(row["len_arm"] == len(PAIRS[int(row["id"][1:])].answer) for row in rows)
    always_first = human.read_votes(vote_by(ballot, lambda row: "1"), key)
    assert sum(row["preference"] for row in always_first) == 6


@pytest.mark.parametrize("style", [{}, {"delimiter": ";"}, {"delimiter": "\t"}, {"quoting": csv.QUOTE_ALL}])
def test_spreadsheets_write_csv_in_many_ways(ballot, style):
    rows = human.read_votes(
        vote_by(ballot, lambda row: " TIE " if row["number"] == "3" else for_mine(row), **style), human.read_key(ballot)
    )
    assert [row["preference"] for row in rows].count(0.5) == 1


def test_a_vote_that_is_still_to_come(ballot):
    rows = human.read_votes(vote_by(ballot, lambda row: "" if row["number"] == "1" else "tie"), human.read_key(ballot))
    missing = [row for row in rows if row["status"] == "failed"]
    assert len(missing) == 1 and missing[0]["preference"] is None and missing[0]["number"] == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("\n5,", "\n55,"), "line 6: the ballot has no number '55'"),
        (lambda text: text.replace("\n5,", "\n4,"), "line 6: number 4 comes twice"),
        (lambda text: text.replace("number", "nr"), "no columns 'number' and 'vote'"),
        (lambda text: text.replace(",tie", ",A", 1), "line 2: the vote 'a' is none of 1, 2 and tie"),
        (lambda text: "", "no columns"),
    ],
)
def test_faulty_votes_are_one_line(ballot, change, expected):
    path = vote_by(ballot, lambda row: "tie", lineterminator="\n")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError, match=expected) as caught:
        human.read_votes(path, human.read_key(ballot))
    assert "ann.csv" in str(caught.value)


def test_two_annotators_of_one_name_are_refused(ballot, tmp_path, capsys):
    key, names = human.read_key(ballot), [tmp_path / "x" / "votes.csv", tmp_path / "y" / "votes.csv"]
    for path, vote in zip(names, ("1", "2"), strict=True):
        path.parent.mkdir()
        path.write_text("number,vote\n" + "".join(f"{number},{vote}\n" for number in key["items"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"x/votes.csv and .*y/votes.csv: both are of an annotator 'votes': give each"):
        human.read_all_votes(names, key)
    with pytest.raises(SystemExit) as ended:
        human.main(["read", str(ballot), *map(str, names)])
    assert ended.value.code == 2 and not (ballot / "votes.jsonl").exists()
    for path, name in zip(names, ("Ann", "Bo, the 2nd"), strict=True):
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [lines[0] + ",annotator", *(f'{line},"{name}"' for line in lines[1:])]
        path.write_text("\n".join(rows), encoding="utf-8")
    rows = human.read_all_votes(names, key)
    assert [row["judge"] for row in rows] == ["Ann"] * len(key["items"]) + ["Bo, the 2nd"] * len(key["items"])
    names[0].write_text("number,vote,annotator\n1,1,Ann\n2,1,Bo\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 3: of 'Bo', but of 'Ann' before"):
        human.read_votes(names[0], key)


def test_votes_on_another_ballot_are_refused(ballot, tmp_path):
    human.export(human.draw_ballots(PAIRS, 12, seed=5), tmp_path / "other")
    theirs = vote_by(tmp_path / "other", for_mine)
    with pytest.raises(InputError, match=r"ann.csv: line 2: of the ballot \w+, and not of this folder's \(\w+\)"):
        human.read_votes(theirs, human.read_key(ballot))
    assert sum(row["preference"] for row in human.read_votes(theirs, human.read_key(tmp_path / "other"))) == 12
    (ballot / "key.json").write_text('{"items": []}', encoding="utf-8")
    with pytest.raises(InputError, match="give the folder of an exported ballot"):
        human.read_key(ballot)


def test_names_that_look_alike_are_one_name(ballot):
    key, names = human.read_key(ballot), ("ZOË", "Zoe\u0308 ", "zoë")
    paths = [ballot / f"{number}.csv" for number in range(len(names))]
    for path, name in zip(paths, names, strict=True):
        path.write_text(f"Number, Vote ,annotator\n1.0,2.0,{name}\n", encoding="utf-8")
    assert human.read_votes(paths[0], key)[0]["review"] == "2", "a spreadsheet's number"
    for other in paths[1:]:
        with pytest.raises(InputError, match="both are of an annotator"):
            human.read_all_votes([paths[0], other], key)


def test_a_ballot_is_not_replaced_and_its_votes_stay(ballot):
    vote_by(ballot, lambda row: "tie", "ballot.csv")
    human.export(human.draw_ballots(PAIRS, 12, seed=4), ballot)
    assert "tie" in (ballot / "ballot.csv").read_text(encoding="utf-8"), "votes are kept"
    with pytest.raises(InputError, match="holds another ballot"):
        human.export(human.draw_ballots(PAIRS, 12, seed=5), ballot)


def test_a_spreadsheet_runs_no_formula_and_a_browser_no_script():
    evil = Pair("x", "s", "=1+1", "a", "b", "@SUM(A1)", "</script><script>alert(1)</script>&lt;")
    drawn = human.draw_ballots([evil])
    (row,) = read_csv(human.to_csv(drawn))
    assert row["request"] == "'=1+1" and "'@SUM(A1)" in (row["answer_1"], row["answer_2"])
    page = human.to_html(drawn)
    assert page.count("</script>") == 2 and "<script>alert" not in page
    embedded = json.loads(re.search(r'id="content">(.*?)</script>', page, re.DOTALL)[1])
    assert evil.baseline_answer in embedded["items"][0]["answers"]
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")


def test_texts_that_look_like_our_places_stay_as_they_are():
    odd = Pair("x", "s", "@N@ and @CONTENT@", "a", "b", "\0=1+1", "@N@")
    drawn = human.draw_ballots([odd])
    embedded = json.loads(re.search(r'id="content">(.*?)</script>', human.to_html(drawn), re.DOTALL)[1])
    assert embedded["items"] == [{"number": 1, "request": odd.prompt, "answers": list(drawn[0].answers)}]
    assert "'=1+1" in read_csv(human.to_csv(drawn))[0].values(), "a zero byte hides no formula"


def rows_of(judge, *weights):
    return [
        {"judge": judge, "arm": "a", "baseline": "b", "test_set": "s", "id": str(i)}
        | {"order": "arm_first", "preference": weight}
        for i, weight in enumerate(weights)
    ]


def test_both_orders_of_a_judge_count_together():
    rows = rows_of("j", 1, 1, 0) + [row | {"order": "baseline_first"} for row in rows_of("j", 0, 0.5, None)]
    assert human.decisions_of(rows) == {("a", "b", "s", "0"): "tie", ("a", "b", "s", "1"): "win"}


def test_a_prompt_against_two_baselines_is_two_decisions():
    rows = rows_of("j", 1) + [row | {"baseline": "c"} for row in rows_of("j", 0)]
    assert list(human.decisions_of(rows).values()) == ["win", "lose"]


def test_the_command(tmp_path, capsys):
    for name, text in (("a", "a long answer"), ("b", "short")):
        rows = [{"id": str(i), "prompt": f"Q{i}", "response": f"{text} {i}", "arm": name} for i in range(6)]
        disk.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    out = tmp_path / "ballot"
    human.main(["export", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "-o", str(out), "-n", "5"])
    assert "5 pairs in ballot.csv and ballot.html" in capsys.readouterr().out

    def by_length(row):
        return "1" if len(row["answer_1"]) > len(row["answer_2"]) else "2"

    ann = vote_by(out, by_length)
    ben = vote_by(out, lambda row: "tie" if row["number"] == "2" else by_length(row), "ben.csv")
    human.main(["read", str(out), str(ann), str(ben)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["ann: win 5, tie 0, lose 0, 5 votes", "ben: win 4, tie 1, lose 0, 5 votes"]
    (line,) = [line.split() for line in printed if line.startswith("people")]
    assert line[:5] == ["people", "ann", "ben", "5", "0"] and "0.800" in line
    assert len(disk.read_jsonl(out / "votes.jsonl")) == 10
    judge.main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--judge", "longer", "-o", str(tmp_path / "out")])
    human.main(["read", str(out), str(ben), "--judgments", str(tmp_path / "out" / "judgments.jsonl")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("judge and person")]
    assert line.split()[3:8] == ["ben", "longer", "5", "0", "4"] and " 0.800 [" in line
    rows = [row | {"judge": "ben"} for row in disk.read_jsonl(tmp_path / "out" / "judgments.jsonl")]
    disk.write_jsonl(tmp_path / "ben.jsonl", rows)
    with pytest.raises(SystemExit):
        human.main(["read", str(out), str(ben), "--judgments", str(tmp_path / "ben.jsonl")])
    assert "'ben' is a judge there, and an annotator here" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        human.main(["read", str(tmp_path), str(ann)])
    assert ended.value.code == 2 and "give the folder of an exported ballot" in capsys.readouterr().err


# --- the page in a browser -----------------------------------------------------------------------------------------

PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'><img src='https://example.com/pixel.png'>",
    "</script></pre><script>window.hacked = 1</script>",
    "</textarea><svg/onload=window.hacked=1>",
    "${window.hacked = 1} {{constructor.constructor('window.hacked = 1')()}}",
    "javascript:window.hacked=1",
    "<meta http-equiv=refresh content='0;url=https://example.com'>",
    "<style>@import 'https://example.com/x.css'; * { display: none }</style>",
    "<iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "\u2028\u2029 line ends of JavaScript, \u202e turned around, \ud83d half a character",
]


@pytest.fixture
def page():
    """A page of a real browser; `asked` is whom it asks beyond its own files, `complaints` what it complains of."""
    with open_page(accept_downloads=True) as (opened, asked, complaints):
        opened.asked, opened.complaints = asked, complaints
        yield opened


def shown_side(page, text):
    """Which of the two answers on the page holds a text."""
    return "1" if text in page.locator("#answer1").inner_text() else "2"


@pytest.mark.system
def test_votes_by_mouse_and_keyboard_stay_and_come_back(page, ballot, capsys):
    page.goto((ballot / "ballot.html").as_uri())
    assert page.locator("#place").inner_text() == "Pair 1 of 12; 0 votes given"
    for _ in range(3):
        page.get_by_role("button", name=f"Answer {shown_side(page, 'mine')}").click()
    for _ in range(3):
        page.keyboard.press(shown_side(page, "mine"))
    page.keyboard.press("0")
    page.keyboard.press("Control+1")
    page.keyboard.press("x")
    assert page.locator("#place").inner_text() == "Pair 8 of 12; 7 votes given"
    page.reload()
    assert page.locator("#place").inner_text() == "Pair 8 of 12; 7 votes given", "it goes on at the first open pair"
    page.get_by_role("button", name="Back").click()
    assert page.get_by_role("button", name="Tie").get_attribute("aria-pressed") == "true"
    assert page.locator("[aria-pressed=true]").count() == 1
    page.get_by_role("button", name="Save").click()
    assert page.locator("#name").get_attribute("placeholder") == "write your name first"
    page.locator("#name").press_sequentially('anna "2"')  # a digit in a name is no vote
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "votes-anna-2-.csv"
    download.value.save_as(ballot / "anna.csv")
    human.main(["read", str(ballot), str(ballot / "anna.csv")])
    assert 'anna "2": win 6, tie 1, lose 0, 7 votes' in capsys.readouterr().out
    weights = [row["preference"] for row in disk.read_jsonl(ballot / "votes.jsonl")]
    assert weights == [1] * 6 + [0.5] + [None] * 5
    assert page.asked == page.complaints == []


@pytest.mark.system
def test_the_end_of_a_ballot_is_said_and_a_vote_can_be_changed(page, ballot):
    page.goto((ballot / "ballot.html").as_uri())
    for _ in range(12):
        assert not page.locator("#done").is_visible()
        page.keyboard.press("1")
    assert page.locator("#done").is_visible()
    assert page.locator("#place").inner_text() == "Pair 12 of 12; 12 votes given"
    page.keyboard.press("2")
    assert page.locator("[aria-pressed=true]").inner_text() == "Answer 2 (key 2)"
    assert page.locator("#place").inner_text() == "Pair 12 of 12; 12 votes given"


@pytest.mark.system
@pytest.mark.parametrize("width", [1280, 400])
def test_payloads_are_texts_and_nothing_is_asked_of_the_network(page, tmp_path, width):
    pairs = [Pair(str(n), "s", text, "a", "b", text * 2, text + "x" * 300) for n, text in enumerate(PAYLOADS)]
    drawn = human.draw_ballots(pairs, seed=3)
    human.export(drawn, tmp_path)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((tmp_path / "ballot.html").as_uri())
    for ballot in drawn:
        for name, text in zip(("request", "answer1", "answer2"), (ballot.pair.prompt, *ballot.answers), strict=True):
            assert page.locator(f"#{name}").text_content() == text
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "nothing runs out of the page"
        )
        assert page.locator("#request").is_visible()
        page.keyboard.press("1")
    assert page.evaluate("window.hacked") is None
    assert page.asked == page.complaints == []
