"""MT-Bench: which prompt for which turn, references, grades, counts by hand, and the command."""

import contextlib
import json

import pytest
from chat_server import Answer, completion, serving
from frames import records_of

from nbutils import data
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel, PromptFile
from nbutils.judging import mt_bench
from nbutils.judging.prompts import load_prompts
from nbutils.llm.client import Ledger

ENDPOINT = JudgeModel(name="fake", kind="openai", model="fake-1", base_url="http://127.0.0.1:1/v1")


def record(number, *turns, **fields):
    return {"question_id": number, "model_id": "mine", "choices": [{"index": 0, "turns": list(turns)}]} | fields


@pytest.fixture
def talks(mirror):
    """A question of writing (81) and one of maths (111), which has reference answers."""
    return mt_bench.to_conversations([record(111, "a one", "a two"), record(81, "w one", "w two")], "x", "here")


def test_answers_are_matched_with_questions_and_references(talks):
    writing, maths = talks
    assert (writing.id, writing.category, writing.references, writing.arm) == ("mt_bench_81", "writing", (), "mine")
    assert (maths.id, maths.category, maths.answers) == ("mt_bench_111", "math", ("a one", "a two"))
    assert len(maths.references) == 2 and len(mt_bench.load_references()) == 30
    categories = {
        prompt.category for prompt in data.load_prompts("mt-bench") if prompt.id in mt_bench.load_references()
    }
    assert categories == {"reasoning", "math", "coding"}


@pytest.mark.parametrize("given", [None, PromptFile(source="mt-bench-judge-prompts")], ids=["ours", "FastChat's"])
def test_each_turn_gets_its_prompt(talks, given):
    prompts = load_prompts("mt-bench", given)
    for talk in talks:
        for turn in mt_bench.TURNS:
            text = mt_bench.request_grade(talk, turn, ENDPOINT, prompts).messages[-1][1]
            assert (talk.questions[1] in text) == (talk.answers[1] in text) == (turn == 2)
            assert talk.questions[0] in text and talk.answers[0] in text
            assert [reference in text for reference in talk.references] == [True, turn == 2][: len(talk.references)]


def test_the_judge_of_length_looks_at_the_graded_answer(talks):
    longer = JudgeModel(name="longer", kind="longer")
    facts = [mt_bench.request_grade(talks[0], turn, longer, load_prompts("mt-bench")).facts for turn in mt_bench.TURNS]
    assert [each["answer"] for each in facts] == ["w one", "w two"]


def test_a_file_that_lacks_a_prompt(talks):
    only = load_prompts("mt-bench", PromptFile(source="mt-bench-judge-prompts", name="single-v1"))
    assert mt_bench.request_grade(talks[0], 1, ENDPOINT, only)
    with pytest.raises(InputError, match="no prompt of type 'single' for turn 2, without a reference answer"):
        mt_bench.request_grade(talks[0], 2, ENDPOINT, only)


def test_grades_and_counts_by_hand(talks, tmp_path):
    replies = {"w one": "8\nGood.", "w two": "Score: 6/10", "a one": "3", "a two": "I cannot grade that."}

    def script(number, question):
        graded = max(replies, key=question.rfind)
        return replies[graded]

    with serving(script) as server, contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        rows = mt_bench.judge_conversations(talks, ENDPOINT.model_copy(update={"base_url": server.url}), ledger)
    assert [(row["id"], row["turn"], row["score"], row["status"]) for row in rows] == [
        ("mt_bench_81", 1, 8, "judged"), ("mt_bench_81", 2, 6, "judged"),
        ("mt_bench_111", 1, 3, "judged"), ("mt_bench_111", 2, None, "unparsed"),
    ]  # fmt: skip
    table = {row["part"]: row for row in records_of(mt_bench.summarise(rows))}
    assert list(table) == ["all", "turn 1", "turn 2", "writing", "math"]
    assert table["all"]["score"] == pytest.approx(17 / 3, abs=1e-4) and table["all"]["headline"] is False
    assert [table["all"][name] for name in ("questions", "asked", "judged", "unparsed", "failed")] == [2, 4, 3, 1, 0]
    assert [table[name]["score"] for name in ("turn 1", "turn 2", "writing", "math")] == [5.5, 6, 7, 3]
    assert mt_bench.describe(table["all"]).endswith("no score below 99% judged")
    # One question says nothing of the others: its interval is the whole scale.
    assert mt_bench.describe(table["writing"]) == "MT-Bench: 7.00 [1.00, 10.00]; 1 of 80 questions; asked 2, judged 2"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(9, "a", "b")], "row 0: 'mt_bench_9' is none of MT-Bench's questions"),
        ([record(81, "a", "b"), record(81, "a", "b")], "row 1: question 'mt_bench_81' is answered twice"),
        ([record(81, "a")], r"row 0: an answer needs 'turns' \(or choices\[0\].turns\), two texts"),
        ([record(81, "a", None)], "two texts"),
        ([{"question_id": 81}], "two texts"),
        ([{"question_id": 81, "turns": 5}], "two texts"),
        ([{"question_id": 81, "turns": "ab"}], "two texts"),
        ([{"question_id": 81, "turns": {"a": 1, "b": 2}}], "two texts"),
        ([{"question_id": 81, "choices": ["x"]}], "two texts"),
        ([], "no answers"),
    ],
)
def test_faulty_answers_are_one_line(mirror, records, expected):
    with pytest.raises(InputError, match=f"here: ?{expected}|{expected}"):
        mt_bench.to_conversations(records, "x", "here")


@pytest.mark.parametrize(("said", "status"), [("8", 0), ("I cannot grade that.", 1)])
def test_how_the_command_ends(tmp_path, capsys, mirror, said, status):
    disk.write_jsonl(tmp_path / "a.jsonl", [record(81, "w one", "w two"), record(82, "x one", "x two")])
    cut = completion("", choices=[{"message": {"content": "<think>Let me"}, "finish_reason": "length"}])
    replies = [said, Answer(cut), "Fine.", "Fine."]
    options = [str(tmp_path / "a.jsonl"), "--judge", "m", "-o", str(tmp_path / "out"), "--concurrency", "1"]
    with serving(lambda number, question: replies[number]) as server:
        try:
            mt_bench.main([*options, "--base-url", server.url])
            ended = 0
        except SystemExit as stopped:
            ended = stopped.code
    printed, told = capsys.readouterr(), ["1 unparsed: cut off at the limit of tokens: raise --max-tokens"]
    assert ended == status and f"asked 4, judged {1 - status}: no score below 99% judged" in printed.out
    errors = printed.err.splitlines()
    assert errors[0] == f"{2 + status} unparsed: no clear verdict" and errors[1].startswith(told[0])
    assert errors[2].removeprefix("one of the replies that could not be read: ") == ("Fine." if not status else said)
    assert errors[3:] == ["nothing was judged"] * status
    rows = disk.read_jsonl(tmp_path / "out" / "mt_bench.jsonl")
    assert [row.get("reason") for row in rows] == [None, "length", None, None]
    assert rows[1]["reasoning"] == "Let me" and rows[1]["review"] == ""


def test_the_command(tmp_path, capsys, mirror):
    """The authors' own answers (key "file" aside), graded by length: one judge that needs no service."""
    table = data.load_table("mt-bench-answers").to_dict("records")
    mine = [each for each in table if each["file"] == "llama-2-evol-instruct-1k-longest-15-epoch"]
    path = tmp_path / "evol.jsonl"
    disk.write_jsonl(path, json.loads(json.dumps(mine, default=list)))
    out = tmp_path / "out"
    mt_bench.main([str(path), "--judge", "longer", "-o", str(out)])
    printed = capsys.readouterr().out
    assert "47 of 80 questions; asked 94, judged 94" in printed
    assert len(disk.read_jsonl(out / "mt_bench.jsonl")) == 94
    assert (out / "mt_bench.csv").read_text().splitlines()[1].startswith("all,47,94,94,0,0,")
    with pytest.raises(SystemExit) as ended:
        mt_bench.main([str(path), "--judge", "coin", "-o", str(out)])
    assert ended.value.code == 2 and "judged by longer: give another folder" in capsys.readouterr().err
