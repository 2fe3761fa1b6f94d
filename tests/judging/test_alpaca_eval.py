"""AlpacaEval 2 through our own client: one letter, weighted by log-probabilities where the endpoint gives them."""

import json
import math

import pytest
from chat_server import Answer, completion, serving

from nbutils import data
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.judging import alpaca_eval


def run(capsys, *arguments):
    try:
        alpaca_eval.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def answers(tmp_path, mirror):
    """Three answers of one's own in AlpacaEval's form."""
    asked = data.load_prompts("alpaca-eval")[:3]
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps([{"instruction": p.instruction, "output": "yes", "generator": "mine"} for p in asked]))
    return path


def letter(text, **logprobs):
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    content = [{"token": text, "logprob": logprobs.get(text, -9.0), "top_logprobs": top}]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": {"content": content}}
    return Answer(completion("", choices=[choice]))


def test_weighted_preferences(answers, tmp_path, capsys):
    """A judge that gives the first answer 1 in 4, whatever it is: 0.25 and 0.75 for the arm."""
    given = letter("M", m=math.log(0.2), M=math.log(0.6), The=math.log(0.1))
    with serving(lambda number, question: given) as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out")
        status, printed, errors = run(capsys, answers, *options)
        assert (status, errors) == (0, "")
        assert run(capsys, answers, *options)[0] == 0
    assert len(server.asked) == 6, "the second run asks nothing"
    asked = server.asked[0]
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"]) == (1, True, 5)
    rows = disk.read_jsonl(tmp_path / "out" / "judgments.jsonl")
    assert [row["preference"] for row in rows] == pytest.approx([0.25, 0.75] * 3)
    assert [(row["arm"], row["baseline"], row["form"]) for row in rows[:1]] == [("mine", "gpt4_1106_preview", "m/M")]
    assert "AlpacaEval: win rate 50.00% +- 0.00" in printed and "6 calls weighted" in printed
    assert json.loads(rows[0]["review"])["text"] == "M", "the weights are stored and can be read anew"


def test_letters_alone_where_there_are_no_log_probabilities(answers, tmp_path, capsys):
    with serving(lambda number, question: "m" if number < 4 else "I cannot say") as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        status, printed, _ = run(capsys, answers, *options, "--no-logprobs")
    assert status == 0 and "logprobs" not in server.asked[0]
    rows = disk.read_jsonl(tmp_path / "out" / "judgments.jsonl")
    assert [row["preference"] for row in rows] == [1, 0, 1, 0, None, None]
    assert "AlpacaEval: 4 of 6 calls judged: no win rate below 99%" in printed


def test_nonsense_in_place_of_log_probabilities(answers, tmp_path, capsys):
    broken = [
        {"content": None},
        {"content": []},
        {"content": [{"token": "m"}]},
        "no",
        {"content": [{"top_logprobs": 3}]},
        5,
    ]

    def script(number, question):
        choice = {"index": 0, "message": {"role": "assistant", "content": "m"}, "logprobs": broken[number]}
        return Answer(completion("", choices=[choice]))

    with serving(script) as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        assert run(capsys, answers, *options)[0] == 0
    rows = disk.read_jsonl(tmp_path / "out" / "judgments.jsonl")
    assert [row["preference"] for row in rows] == [1, 0] * 3


def test_the_length_judge_on_published_answers(tmp_path, capsys, mirror):
    """Counted from the data: vicuna's answers are longer than GPT-4's in 70 of 805."""
    found = alpaca_eval.baseline_answers("vicuna-7b-v1.5")
    path = tmp_path / "vicuna.jsonl"
    disk.write_jsonl(path, found)
    status, printed, _ = run(capsys, path, "--judge", "longer", "-o", tmp_path / "out")
    assert status == 0
    assert "asked 1610, judged 1610" in printed and "win 70, tie 5, lose 730" in printed
    assert "win rate 9.01% +- 1.00" in printed


def test_what_is_refused(answers, tmp_path, capsys, mirror):
    with pytest.raises(InputError, match="no published answers of 'nobody'"):
        alpaca_eval.baseline_answers("nobody")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"instruction": "Unheard of", "output": "x"}]))
    status, _, errors = run(capsys, bad, "--judge", "longer", "-o", tmp_path / "out")
    assert status == 2 and "row 0: 'instruction' is none of AlpacaEval's" in errors
    disk.write_jsonl(tmp_path / "other.jsonl", [{"id": "1", "prompt": "p", "response": "r", "test_set": "lima"}])
    status, _, errors = run(capsys, tmp_path / "other.jsonl", "--judge", "longer", "-o", tmp_path / "out")
    assert status == 2 and "no answers of the test set 'alpaca-eval'" in errors


def test_a_model_that_thinks_gets_room_after_two_trials(answers, tmp_path, capsys):
    """One token holds nothing but the beginning of its thoughts."""

    def script(number, question):
        return letter("<think>") if number < 2 else Answer(completion("<think>M is longer.</think>\n\nm"))

    with serving(script) as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        status, printed, errors = run(capsys, answers, *options)
        assert (status, errors) == (0, "")
        assert run(capsys, answers, *options)[0] == 0
    assert [body["max_tokens"] for body in server.asked] == [1, 1] + [512] * 6
    rows = disk.read_jsonl(tmp_path / "out" / "judgments.jsonl")
    assert [row["preference"] for row in rows] == [1, 0] * 3
    assert {row["reasoning"] for row in rows} == {"M is longer."}
    assert "judged 6" in printed


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(answers, tmp_path, capsys):
    refused = Answer({"error": {"message": "logprobs is not supported with reasoning models"}}, 400)
    with serving(lambda number, question: refused if number < 1 else "M") as server:
        options = ("--judge", "fake-1", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        assert run(capsys, answers, *options)[0] == 0
    assert ["logprobs" in body for body in server.asked] == [True] + [False] * 6
    assert server.asked[-1]["max_tokens"] == 512
