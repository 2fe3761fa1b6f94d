"""The commands that judge: each says what it takes, and puts what is wrong into one line."""

import json

import pytest
from chat_server import Answer, completion, serving

from nbutils import data
from nbutils.judging import alpaca_eval, command, human, mt_bench, rate

COMMANDS = {"judge": command, "mt_bench": mt_bench, "alpaca_eval": alpaca_eval, "rate": rate, "human": human}


def run(capsys, module, *arguments):
    """Status, what was printed, and what was said of errors."""
    try:
        module.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def write_answers(path, arm, *texts):
    rows = [{"id": str(i), "test_set": "s", "prompt": f"Q{i}", "arm": arm, "response": t} for i, t in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    mine = write_answers(tmp_path / "mine.jsonl", "long", "One is here. Two is a little longer.", "Short.")
    return mine, write_answers(tmp_path / "theirs.jsonl", "short", "One is here.", "Not as short.")


@pytest.mark.parametrize("name", COMMANDS)
def test_help(capsys, name):
    status, said, errors = run(capsys, COMMANDS[name], "--help")
    place = "nbutils" if name == "judge" else "nbutils.judging"
    assert (status, errors) == (0, "") and said.startswith(f"usage: python -m {place}.{name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_missing_is_one_line(capsys, name):
    status, _, said = run(capsys, COMMANDS[name])
    assert status == 2 and said.startswith("error: the following arguments are required: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("judge", ("{gone}", "{gone}", "--judge", "longer", "-o", "{out}")),
        ("mt_bench", ("{gone}", "--judge", "longer", "-o", "{out}")),
        ("alpaca_eval", ("{gone}", "--baseline", "{gone}", "--judge", "longer", "-o", "{out}")),
        ("rate", ("{gone}", "--judge", "longer", "-o", "{out}")),
        ("human", ("export", "{gone}", "{gone}", "-o", "{out}")),
        ("human", ("read", "{gone}", "{gone}")),
    ],
)
def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys, no_data, name, arguments):
    places = {"gone": tmp_path / "gone.jsonl", "out": tmp_path / "out"}
    status, _, said = run(capsys, COMMANDS[name], *(each.format(**places) for each in arguments))
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["judge", "mt_bench", "alpaca_eval", "rate"])
def test_somebody_has_to_judge(tmp_path, capsys, files, name):
    given = files if name == "judge" else files[:1]
    status, _, said = run(capsys, COMMANDS[name], *given, "-o", tmp_path / "out")
    assert (status, said) == (2, "error: the following arguments are required: --judge\n")


def test_cutting_needs_no_judge(tmp_path, capsys, files):
    out = tmp_path / "cut"
    status, said, errors = run(capsys, command, *files, "--cut", "-o", out)
    assert (status, errors) == (0, "")
    assert said == f"2 pairs in {out}, the target's answer cut in 1 of them\n"
    rows = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["response"]) for row in rows] == [("long", "One is here."), ("long", "Short.")]
    assert json.loads((out / "b.jsonl").read_text().splitlines()[1])["response"] == "Not as"
    assert sorted(path.name for path in out.iterdir()) == ["a.jsonl", "b.jsonl"], "no ledger, no judgments"


def test_cutting_and_judging_are_two_commands(tmp_path, capsys, files):
    status, _, said = run(capsys, command, *files, "--cut", "--judge", "longer", "-o", tmp_path / "cut")
    assert status == 2
    assert said == "error: --cut judges nothing: leave out --judge, and judge the files that it writes\n"


def test_cutting_replaces_no_answers(tmp_path, capsys, files):
    mine, theirs = files[0].rename(tmp_path / "b.jsonl"), files[1]
    before = mine.read_bytes()
    status, _, said = run(capsys, command, mine, theirs, "--cut", "-o", tmp_path)
    assert status == 2 and said == f"error: {mine}: the cut answers would replace it: give another folder with -o\n"
    assert mine.read_bytes() == before


def test_help_says_what_cutting_does(capsys):
    said = " ".join(run(capsys, command, "--help")[1].split())
    assert "Judge two answer files in both orders; or, with --cut, cut their answers to one length." in said
    assert "judge nothing: write OUT/a.jsonl and OUT/b.jsonl, every pair of answers cut" in said


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_of_other_tools_and_without_ids(tmp_path, capsys):
    plain = [{"prompt": f"Q{n}", "response": f"R{n}"} for n in range(3)]
    first, second = command.read_answers(write_rows(tmp_path / "a.jsonl", plain)), tmp_path / "b.csv"
    second.write_text("prompt,response\nQ2,S2\nQ0,S0\n", encoding="utf-8")
    others = {answer["id"]: answer["response"] for answer in command.read_answers(second)}
    assert [others.get(answer["id"]) for answer in first] == ["S0", None, "S2"]
    assert "no ids: rows are matched by their prompt" in capsys.readouterr().out
    twice = command.read_answers(write_rows(tmp_path / "c.jsonl", [plain[0], plain[0]]))
    assert [answer["id"] for answer in twice] == ["0", "1"]
    outputs = [{"instruction": "Do.", "input": "it", "output": "Done.", "generator": "g", "dataset": "d"}]
    (answer,) = command.read_answers(write_rows(tmp_path / "model_outputs.jsonl", outputs))
    assert (answer["prompt"], answer["response"], answer["arm"]) == ("Do.\n\nit", "Done.", "g")


def test_half_a_character_in_an_id_is_one_line(tmp_path, capsys):
    rows = [{"id": "\ud800", "prompt": "Q", "response": "R"}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    status, _, said = run(capsys, command, path, path, "--judge", "longer", "-o", tmp_path / "out")
    assert status == 2 and said.count("\n") == 1 and "row 0: 'id' is '\\ud800'" in said


def test_every_judging_command_takes_the_first_prompts_only(tmp_path, capsys, mirror):
    talks = [{"question_id": n, "choices": [{"turns": ["One.", "Two."]}]} for n in (81, 82)]
    rows = [{"instruction": f"Q{n}", "output": f"R{n}"} for n in range(3)]
    outputs = data.load_table("alpaca-eval-outputs").query("model == 'gpt4_1106_preview'").head(3)
    asked = [prompt.instruction for prompt in data.load_prompts("alpaca-eval")]
    answers = [{"instruction": asked[row.idx], "output": "Short.", "generator": "g"} for row in outputs.itertuples()]
    for module, given, found in (
        (mt_bench, talks, "1 of 80 questions; asked 2, judged 2"),
        (rate, rows, "asked 1, judged 1"),
        (alpaca_eval, answers, "asked 2, judged 2"),
    ):
        name = module.__name__.rpartition(".")[2]
        path, judge = write_rows(tmp_path / f"{name}.jsonl", given), "longer" if module is alpaca_eval else "coin"
        status, said, errors = run(capsys, module, path, "--judge", judge, "-o", tmp_path / name, "--max-prompts", 1)
        assert (status, errors) == (0, "") and found in said, name
        status, _, said = run(capsys, module, path, "--judge", judge, "-o", tmp_path / name, "--max-prompts", -1)
        assert status == 2 and "--max-prompts -1: at least one prompt must be judged" in said


# --- --retry-empty, --same-as ---------------------------------------------------------------


def answer_of(said, reason):
    """An answer without a text: an empty one, one that a filter withheld, or a refusal in its field."""
    message = {"content": None, "refusal": said} if reason == "refusal" else {"content": said}
    finish = "content_filter" if reason == "filter" else "stop"
    return Answer(completion("", choices=[{"message": message, "finish_reason": finish}]))


@pytest.mark.parametrize(("reason", "said"), [("empty", ""), ("filter", None), ("refusal", "I will not.")])
def test_empty_answers_are_asked_for_again_on_demand_only(tmp_path, capsys, files, reason, said):
    first = answer_of(said, reason)
    with serving(lambda number, question: first if number == 0 else "8 9") as server:
        options = (*files, "--judge", "m", "--base-url", server.url, "-o", tmp_path / "out", "--concurrency", "1")
        options += ("--no-structured",)
        for _ in range(2):
            status, printed, errors = run(capsys, command, *options)
            assert status == 0 and "asked 4, judged 3, unparsed 1, failed 0" in printed
            assert "--retry-empty asks again" in errors and len(server.asked) == 4
        rows = [json.loads(line) for line in (tmp_path / "out" / "judgments.jsonl").read_text().splitlines()]
        assert [row.get("reason") for row in rows] == [reason, None, None, None] and rows[0]["review"] == (said or "")
        assert run(capsys, command, *options, "--retry-empty", "--dry-run")[1].startswith("1 calls, ")
        assert run(capsys, command, *options, "--dry-run")[1].startswith("0 calls, ")
        assert len(server.asked) == 4, "a dry run forgets nothing"
        status, printed, errors = run(capsys, command, *options, "--retry-empty")
        assert (status, errors, len(server.asked)) == (0, "", 5) and "judged 4" in printed
        assert server.questions()[4] == server.questions()[0]


def test_another_way_to_one_endpoint(tmp_path, capsys, files):
    out, first = tmp_path / "out", "https://judge.example/v1"
    with serving(lambda number, question: "8 9") as server, serving(lambda number, question: "1 9") as other:
        options = (*files, "--judge", "m", "-o", out, "--no-structured")
        by_way = (*options, "--base-url", server.url, "--same-as", first)
        assert run(capsys, command, *by_way)[0] == 0 and len(server.asked) == 4
        assert run(capsys, command, *options, "--base-url", other.url, "--same-as", first)[0] == 0
        assert other.asked == [], "what the one has answered is not asked of the other"
        status, _, errors = run(capsys, command, *options, "--base-url", other.url)
        assert status == 2 and f"base_url {first} there, http://localhost/v1 here" in errors
        assert other.asked == []


def test_the_first_prompts_only(tmp_path, capsys, files):
    status, said, _ = run(capsys, command, *files, "--judge", "longer", "-o", tmp_path / "o", "--max-prompts", 1)
    assert status == 0 and "asked 2" in said
    status, _, said = run(capsys, command, *files, "--judge", "longer", "-o", tmp_path / "p", "--max-prompts", 0)
    assert status == 2 and "--max-prompts 0" in said
