"""Answer files as other tools write them, and the questions that they leave out; each through the command as well."""

import json
import re

import pytest

from nbutils import judge
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.judging import answers, command, human

FASTCHAT = {"question_id": 81, "answer_id": "YSMw7q", "model_id": "vicuna", "tstamp": 1716.5}
QUESTION = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def said(*turns):
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]


def fastchat(name, *turns, **changes):
    return FASTCHAT | {"model_id": name, "choices": [{"index": 0, "turns": list(turns)}]} | changes


@pytest.fixture
def bench(tmp_path):
    """FastChat's folder: data/mt_bench with the questions, and the answers of two models in model_answer."""
    folder = tmp_path / "data" / "mt_bench"
    write(folder / "question.jsonl", QUESTION, QUESTION | {"question_id": 82, "turns": ["Count.", "Sum."]})
    other = {"question_id": 82}
    write(folder / "model_answer" / "a.jsonl", fastchat("a", "One.", "Two more."), fastchat("a", "1", "2", **other))
    write(folder / "model_answer" / "b.jsonl", fastchat("b", "First.", "2nd."), fastchat("b", "one", "3", **other))
    return folder


def run(capsys, *arguments):
    """Judge by length; the judgments, and what was printed."""
    judge.main([str(each) for each in arguments])
    printed = capsys.readouterr().out
    return disk.read_jsonl(arguments[arguments.index("-o") + 1] / "judgments.jsonl"), printed


def test_fastchats_answers_are_judged_turn_by_turn(bench, tmp_path, capsys):
    files = [bench / "model_answer" / f"{name}.jsonl" for name in "ab"]
    rows, printed = run(capsys, *files, "--judge", "longer", "-o", tmp_path / "out")
    found = [(row["id"], row["cluster"], row["preference"]) for row in rows if row["order"] == "arm_first"]
    # One. < First.; [Turn 1] One. [Turn 2] Two more. > [Turn 1] First. [Turn 2] 2nd.
    assert found == [("81-1", "81", 0), ("81-2", "81", 1), ("82-1", "82", 0), ("82-2", "82", 0)]
    assert {(row["arm"], row["baseline"], row["test_set"]) for row in rows} == {("a", "b", "mt-bench")}
    assert printed.count("4 turns of conversations: each is judged by itself, with what was said before it") == 2
    assert "asked 8, judged 8" in printed
    first, second, *_ = command.read_answers(files[0])
    assert (first["prompt"], first["response"]) == ("Write.", "One.")
    assert second["prompt"].startswith("[Turn 1]\nWrite.\n\n[Turn 2]\nAgain.\n\n(The answer to turn 2 is to be judged")
    assert second["response"] == "[Turn 1]\nOne.\n\n[Turn 2]\nTwo more."


def test_max_prompts_counts_questions_with_all_their_turns(bench, tmp_path, capsys):
    files, out = [bench / "model_answer" / f"{name}.jsonl" for name in "ab"], tmp_path / "out"
    rows, _ = run(capsys, *files, "--judge", "longer", "-o", out, "--max-prompts", 1)
    assert [row["id"] for row in rows] == ["81-1", "81-1", "81-2", "81-2"]
    rows, _ = run(capsys, *files, "--judge", "longer", "-o", out)
    assert len(rows) == 8, "the same command without the limit goes on"


def test_questions_that_lie_elsewhere_are_given(bench, tmp_path, capsys):
    lone = [write(tmp_path / name / "answers.jsonl", fastchat(name, "x" * n)) for n, name in enumerate("pq", start=1)]
    with pytest.raises(SystemExit) as stopped:
        judge.main([*map(str, lone), "--judge", "longer", "-o", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1 and "answers.jsonl: row 0: no 'prompt'" in message
    assert "with --questions FILE, or put it beside the answers (question.jsonl)" in message
    rows, _ = run(capsys, *lone, "--judge", "longer", "--questions", bench / "question.jsonl", "-o", tmp_path / "out")
    assert [(row["id"], row["preference"]) for row in rows] == [("81-1", 0), ("81-1", 0)], "one turn was answered"
    with pytest.raises(InputError, match=r"row 0: question '7' is not in .*question.jsonl: give the file"):
        command.read_answers(write(bench / "model_answer" / "c.jsonl", fastchat("c", "x", question_id=7)))
    with pytest.raises(InputError, match="row 0: 3 answers to 2 questions"):
        command.read_answers(write(bench / "model_answer" / "d.jsonl", fastchat("d", "x", "y", "z")))


def test_a_test_sets_name_gives_its_questions(tmp_path, capsys, mirror):
    files = [write(tmp_path / f"{name}.jsonl", fastchat(name, "x" * n, "y")) for n, name in enumerate("pq", start=1)]
    rows, _ = run(capsys, *files, "--judge", "longer", "--questions", "mt-bench", "-o", tmp_path / "out")
    assert [(row["id"], row["preference"]) for row in rows[::2]] == [("81-1", 0), ("81-2", 0)]
    assert command.read_answers(files[0], command._questions_file("mt-bench"))[0]["prompt"].startswith("Compose an")


def test_questions_of_answers_with_an_id_alone(bench, tmp_path):
    path = write(tmp_path / "a.jsonl", {"id": 82, "response": "R"})
    (answer,) = command.read_answers(path, bench / "question.jsonl")
    assert [answer[key] for key in ("id", "prompt", "response")] == ["82-1", "Count.", "R"], "the first turn's"
    prompts = write(tmp_path / "prompts.jsonl", {"id": 82, "instruction": "Sum."})
    (answer,) = command.read_answers(path, prompts)
    assert [answer[key] for key in ("id", "prompt", "response")] == ["82", "Sum.", "R"]
    with pytest.raises(InputError, match=r"prompts.jsonl: row 0: a question needs question_id and turns, or id and"):
        command.read_answers(path, write(prompts, {"id": 82, "turns": [1]}))


def test_arena_hard_of_both_versions(tmp_path, capsys):
    old = tmp_path / "data" / "arena-hard-v0.1"
    question = {"question_id": "328c", "category": "arena-hard-v0.1", "cluster": "ABC Sequence Puzzles & Groups"}
    write(old / "question.jsonl", question | {"turns": [{"content": "Use ABC notation."}]})
    turns = {"index": 0, "turns": [{"content": "X:1", "token_len": 3}]}
    answered = {"question_id": "328c", "answer_id": "e", "model_id": "gpt-4-0314", "choices": [turns], "tstamp": 1.5}
    new = {"uid": "328c", "ans_id": "f", "model": "o3-mini", "tstamp": 1.5, "metadata": {"token_len": 4}}
    system, (asked, reply) = (
        {"role": "system", "content": "Be brief."},
        said("Use ABC notation.", {"answer": "X:1 T:2"}),
    )
    files = [
        write(old / "model_answer" / "gpt-4-0314.jsonl", answered),
        write(tmp_path / "v2" / "o3-mini.jsonl", new | {"messages": [system, asked, reply]}),
    ]
    rows, _ = run(capsys, *files, "--judge", "longer", "-o", tmp_path / "out")
    names = [(row["id"], row["test_set"], row["arm"], row["baseline"], row["preference"]) for row in rows]
    assert names == [("328c", "arena-hard", "gpt-4-0314", "o3-mini", 0)] * 2 and "cluster" not in rows[0]


SAMPLE = {"doc_id": 4, "doc": {"question": "Q", "answer": "gold"}, "target": "gold", "filter": "strict-match"}
ARGUMENTS = {"gen_args_0": {"arg_0": "Q: Q\nA:", "arg_1": {"until": ["\n"]}}}
BODY = {"model": "gpt", "choices": [{"index": 0, "message": {"role": "assistant", "content": "R"}}]}

FORMS = {
    "lm-eval's samples": SAMPLE | {"arguments": ARGUMENTS, "resps": [["R"]], "filtered_resps": ["4"]},
    "lm-eval's older samples": SAMPLE | {"arguments": [["Q: Q\nA:", {}]], "resps": [["R"]]},
    "a chat": {"messages": [{"role": "system", "content": "S"}, *said("Q", "R")]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "R"}]},
    "TRL": {"prompt": said("Q"), "completion": [{"role": "assistant", "content": "R"}]},
    "parts of text": {"messages": [said("Q")[0], {"role": "assistant", "content": [{"type": "text", "text": "R"}]}]},
    "vLLM": {"prompt": "Q", "outputs": [{"index": 0, "text": "R"}]},
    "a server's reply": {"prompt": "Q"} | BODY,
    "names of a gold answer": {"question": "Q", "answer": "gold", "prediction": "R"},
    "capitals": {"Question": "Q", "Model Output": "R"},
    "AlpacaEval": {"dataset": "helpful_base", "instruction": "Q", "output": "R", "generator": "g"},
    "a list of one": {"prompt": "Q", "response": ["R"]},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_and_its_answer_by_any_name(form, tmp_path):
    (answer,) = command.read_answers(write(tmp_path / "a.jsonl", FORMS[form]))
    assert (answer["prompt"], answer["response"]) == ("Q", "R")
    assert answer["id"] == ("4" if "doc_id" in FORMS[form] else answers.name_prompt("Q"))


def test_tables_by_any_name_and_inputs(tmp_path):
    table = tmp_path / "a.tsv"
    table.write_text("ID\tInstruction\tInput\tOutput\n4\tDo.\tit\tDone.\n5\tGo.\t\tGone.\n", encoding="utf-8")
    found = [(answer["id"], answer["prompt"], answer["response"]) for answer in command.read_answers(table)]
    assert found == [("4", "Do.\n\nit", "Done."), ("5", "Go.", "Gone.")]


def test_the_batch_apis_output_takes_its_questions_from_the_input(tmp_path):
    line = {"id": "batch_1", "custom_id": "r1", "response": {"status_code": 200, "body": BODY}, "error": None}
    asked = {"custom_id": "r1", "method": "POST", "body": {"model": "gpt", "messages": said("Q")}}
    (answer,) = command.read_answers(write(tmp_path / "o.jsonl", line), write(tmp_path / "i.jsonl", asked))
    assert (answer["id"], answer["prompt"], answer["response"]) == ("r1", "Q", "R")


def test_the_last_turn_of_a_chat_is_judged_with_what_was_said_before(tmp_path):
    (answer,) = command.read_answers(write(tmp_path / "a.jsonl", {"id": "c", "messages": said("Q1", "R1", "Q2", "R2")}))
    assert answer["id"] == "c" and answer["response"] == "[Turn 1]\nR1\n\n[Turn 2]\nR2"
    assert answer["prompt"].startswith("[Turn 1]\nQ1\n\n[Turn 2]\nQ2\n\n")


def test_an_answer_that_is_written_for_every_score_counts_once(tmp_path):
    rows = [FORMS["lm-eval's samples"] | {"filter": name} for name in ("strict-match", "flexible-extract")]
    assert len(command.read_answers(write(tmp_path / "a.jsonl", *rows))) == 1
    other = rows[0] | {"resps": [["S"]]}
    with pytest.raises(InputError, match="prompt '4' of '' is answered 2 times: keep one answer"):
        command.read_answers(write(tmp_path / "b.jsonl", *rows, other))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (SAMPLE | {"arguments": [], "resps": [[[-1.5, False]], [[-2.5, True]]]}, "row 0: likelihoods of choices"),
        (SAMPLE | {"arguments": ARGUMENTS, "resps": [["-0.5", "True"]]}, "row 0: likelihoods of choices, or several"),
        ({"prompt": "Q", "response": ["R", "S"]}, "row 0: 'response' is list, not text"),
        ({"question_id": 1, "choices": [{"index": 0, "turns": [None]}]}, "row 0: 'choices' holds no texts"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "row 0: turn 0 of 'messages' is by 'narrator'"),
        ({"id": 1, "prompt": "Q"}, "row 0: no 'response': an answer needs id, prompt and response"),
        ({"id": 1, "messages": said("Q")}, "row 0: no 'prompt'"),
    ],
)
def test_what_cannot_be_read_is_named(record, message, tmp_path):
    path = write(tmp_path / "a.jsonl", record)
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        command.read_answers(path)


def test_two_files_of_one_name_are_two_arms(tmp_path, capsys):
    files = [write(tmp_path / name / "answers.jsonl", {"prompt": "Q", "response": name}) for name in ("x", "yy")]
    rows, _ = run(capsys, *files, "--judge", "longer", "-o", tmp_path / "out")
    assert (rows[0]["arm"], rows[0]["baseline"], rows[0]["preference"]) == ("x/answers", "yy/answers", 0)


def test_prompts_are_matched_by_their_text_where_ids_differ(tmp_path, capsys):
    mine = write(tmp_path / "a.jsonl", {"id": "one", "test_set": "s", "prompt": "Q ", "response": "long"})
    theirs = write(tmp_path / "b.jsonl", {"prompt": "Q", "response": "R"}, {"prompt": "other", "response": "R"})
    rows, printed = run(capsys, mine, theirs, "--judge", "longer", "-o", tmp_path / "out")
    assert [(row["id"], row["test_set"], row["preference"]) for row in rows] == [("one", "s", 1)] * 2
    assert "only one of the files has ids: prompts are matched by their text" in printed


def test_cutting_and_voting_keep_turns_together(bench, tmp_path, capsys):
    files = [bench / "model_answer" / f"{name}.jsonl" for name in "ab"]
    judge.main([*map(str, files), "--cut", "--max-prompts", "1", "-o", str(tmp_path / "cut")])
    assert "1 later turns of conversations are left out" in capsys.readouterr().out
    assert [row["cluster"] for row in command.read_answers(tmp_path / "cut" / "b.jsonl")] == ["81"]
    human.main(["export", *map(str, files), "-o", str(tmp_path / "ballot")])
    key = human.read_key(tmp_path / "ballot")
    votes = tmp_path / "ann.csv"
    votes.write_text("number,vote\n" + "".join(f"{number},1\n" for number in key["items"]), encoding="utf-8")
    found = {row["id"]: row["cluster"] for row in human.read_votes(votes, key)}
    assert found == {"81-1": "81", "81-2": "81", "82-1": "82", "82-2": "82"}
    capsys.readouterr()
