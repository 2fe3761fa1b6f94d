"""docs/own-data.md, followed to the letter: own rows, an own test set, and what is said of bad files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbutils import ROOT, run
from nbutils.core import disk, manifests
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.selection import preflight

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
ROW = {"instruction": "Name a prime.", "output": "7 is a prime."}
PROMPT = {"id": "q1", "instruction": "Explain primes.", "reference": "A whole number above 1."}


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The example profile beside two small good files, in the working directory."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "profiles" / "own-data.toml").read_text(encoding="utf-8")
    text = text.replace("own-1k-", "own-2-").replace("own-random-", "own-2-random-")
    (tmp_path / "my-profile.toml").write_text(text, encoding="utf-8")
    (tmp_path / "my_rows.jsonl").write_text(lines(ROW, ROW), encoding="utf-8")
    (tmp_path / "my_prompts.jsonl").write_text(lines(PROMPT, PROMPT | {"id": "q2"}), encoding="utf-8")
    return tmp_path


def check():
    return preflight.check_inputs(load_profile("my-profile.toml"))


# --- what is said --------------------------------------------------------------------------------------------------


def test_good_files_are_described(place):
    assert check() == [f"{place}/my_rows.jsonl: 2 rows", f"{place}/my_prompts.jsonl: 2 prompts, 2 with a reference"]


def test_what_may_be_misread_is_noted(place):
    row = {"instruction": "写一首诗。", "answer": "床前明月光，疑是地上霜。", "solution": "举头望明月。"}
    (place / "my_rows.jsonl").write_text(lines(row, row), encoding="utf-8")
    _, first, second, _ = check()
    assert first == (
        f"note: {place}/my_rows.jsonl: the response is 'answer'; to take 'solution' instead, give --field solution"
    )
    assert "most of the text is in a script that puts no spaces between words" in second and "chars" in second


def test_a_whole_example_is_shown_as_it_is_trained(place):
    row = {"instruction": "Sum up.", "context": "Long text.", "response": "Short.", "system": "Be brief.", "url": "x"}
    (place / "my_rows.jsonl").write_text(lines(row, row), encoding="utf-8")
    *_, fields, said, example = preflight.check_whole(load_profile("my-profile.toml"))
    assert fields.endswith("fields used: instruction, context, response, system; not used: url")
    assert "as it would be trained in style 'plain'" in said
    assert example == "Be brief.\n\n### Task\nSum up.\n\n### Input\nLong text.\n\n### Answer\n→Short."


def test_empty_responses_are_counted(place):
    (place / "my_rows.jsonl").write_text(lines(ROW, ROW, ROW | {"output": " \n"}), encoding="utf-8")
    assert check()[0] == f"{place}/my_rows.jsonl: 3 rows, 1 of them with an empty response"


def test_empty_instructions_are_counted_and_those_with_an_input_are_none(place):
    (place / "my_rows.jsonl").write_text(
        lines(ROW, ROW | {"instruction": " "}, {"input": "2 + 2?", "output": "4"}), encoding="utf-8"
    )
    assert check()[0] == f"{place}/my_rows.jsonl: 3 rows, 1 of them with an empty instruction"


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL), ids=["rows", "prompts"])
def test_the_pages_examples_are_read(place, example):
    kind = "my_prompts" if "reference" in example else "my_rows"
    (place / f"{kind}.jsonl").write_text(example, encoding="utf-8")
    (place / "my-profile.toml").write_text((place / "my-profile.toml").read_text().replace("own-2-", "own-1-"))
    assert check()


ROWS, PROMPTS = "my_rows.jsonl", "my_prompts.jsonl"
BAD = {
    "no response": (
        ROWS,
        lines(ROW, {"instruction": "x"}),
        "row 1: no response field: expected one of output, response, completion, answer",
    ),
    "unknown form": (
        ROWS,
        lines({"text": "x"}, ROW),
        "row 0: no response field: expected one of output, response, completion, answer",
    ),
    "number": (ROWS, lines(ROW, ROW | {"output": 7}), "row 1: the response field 'output' is int, not text"),
    "cut short": (ROWS, lines(ROW, '{"instruction": "Na'), "my_rows.jsonl: row 1, line 2: not valid JSON"),
    "list": (ROWS, lines(ROW, [1]), "row 1 is not an object but a list"),
    "no answer": (
        ROWS,
        lines(
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, {"messages": []}
        ),
        "row 1: a conversation without an assistant turn",
    ),
    "too few": (ROWS, lines(ROW), "my_rows.jsonl: k = 2 is more than the 1 rows there are"),
    "empty": (ROWS, "", "my_rows.jsonl: the file is empty"),
    "no text": (PROMPTS, lines(PROMPT, {"id": "q2"}), "my_prompts.jsonl: row 1: not a prompt of the form 'own'"),
    "no instruction": (
        ROWS,
        lines(ROW, {"output": "x"}),
        "row 1: no instruction field: expected one of instruction, prompt, question",
    ),
    "no text as instruction": (ROWS, lines(ROW, ROW | {"instruction": ["a"]}), "'instruction' is list, not text"),
    "blank": (
        PROMPTS,
        lines(PROMPT, {"id": "q2", "instruction": " \n"}),
        "my_prompts.jsonl: row 1: the prompt is empty",
    ),
    "no prompts": (PROMPTS, "[]", "my_prompts.jsonl: no prompts"),
    "twice": (PROMPTS, lines(PROMPT, PROMPT), "my_prompts.jsonl: 2 prompts have the id 'q1'"),
    "reference": (PROMPTS, lines(PROMPT, PROMPT | {"id": "q2", "reference": ["x"]}), "row 1: 'reference' is list, not"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_explained_by_row(place, case):
    name, content, said = BAD[case]
    (place / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(said)):
        check()


def test_the_reference_judge_needs_references(place):
    profile = place / "my-profile.toml"
    profile.write_text(profile.read_text().replace('kind = "longer"', 'kind = "reference"'), encoding="utf-8")
    assert check()
    (place / PROMPTS).write_text(lines(PROMPT, {"id": "q2", "instruction": "x"}), encoding="utf-8")
    with pytest.raises(InputError, match="row 1: no 'reference', which the reference judge needs"):
        check()


def test_what_the_page_says_of_bad_files_is_what_is_said():
    told = [line.split("|")[2].strip(" `") for line in PAGE.splitlines() if re.match(r"\|.*\| `.*`", line)]
    told = [line for line in told if not line.startswith(("explore", "judge", "length_bias"))]
    said = [said for _, _, said in BAD.values()] + ["row 1: no 'reference', which the reference judge needs"]
    assert len(told) == 9
    unsaid = [line for line in told if not any(loosely(line) in loosely(each) for each in said)]
    assert unsaid == []


def loosely(text):
    """Without the numbers, which are an example's."""
    return re.sub(r"\d+", "0", text)


@pytest.mark.parametrize("name", [ROWS, PROMPTS])
def test_a_missing_file_is_named_with_the_place_where_it_was_looked_for(place, name):
    (place / name).unlink()
    with pytest.raises(
        InputError, match=rf"'{name}'.*\(looked for beside the profile, then in the working directory, .*{place.name}"
    ):
        check()


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_pages_arms_are_the_profiles():
    arms = load_profile("own-data").arms
    assert arms == ("own-1k-longest", "own-1k-random-7", "own-random-token-matched-7")
    assert all(f"| `{arm}` |" in PAGE for arm in arms)


@pytest.mark.long  # trains four models and executes thirteen notebooks
def test_the_page_followed_to_the_letter(tmp_path):
    folder = tmp_path / "own data"
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    write_own_files(folder)
    follow(folder, "\n".join(COMMANDS[:4]))
    results = folder / "runs" / "own-data"
    selected = {path.parent.parent.name: manifests.read_manifest(path.parent) for path in results.glob("select/*/*/m*")}
    assert {"own-100-longest", "own-100-random-7", "own-100-random-token-matched-7"} <= set(selected)
    trained = {
        path.parent.parent.name: manifests.read_manifest(path.parent) for path in results.glob("finetune/*/*/m*")
    }
    tokens = {arm: made.facts["trained_tokens_per_epoch"] for arm, made in trained.items()}
    assert abs(tokens["own-100-random-token-matched-7"] / tokens["own-100-longest"] - 1) < 0.03
    assert tokens["own-100-random-7"] < 0.8 * tokens["own-100-longest"]
    verdicts = (results / "length_bias" / "own-100-longest" / "seed-42" / "length_bias.csv").read_text(encoding="utf-8")
    assert verdicts.count("\nlonger,own-100-longest,") == verdicts.count("\ncoin,own-100-longest,") == 2
    assert "Name a prime" not in (results / "report" / "own-100-longest" / "seed-42" / "report.html").read_text()
    answer_yourself(folder, results)
    follow(folder, COMMANDS[-1])
    assert len(disk.read_jsonl(folder / "judged" / "judgments.jsonl")) == 24


def write_own_files(folder):
    """300 rows and 12 prompts, made from the sample."""
    rows = disk.read_jsonl(ROOT / "data" / "sample" / "rows.jsonl")
    rows += [row | {"instruction": f"{row['instruction']} Be brief."} for row in rows[:40]]
    disk.write_jsonl(folder / ROWS, rows)
    prompts = disk.read_jsonl(ROOT / "data" / "sample" / "prompts.jsonl")[:12]
    disk.write_jsonl(folder / PROMPTS, [{"instruction": each["instruction"]} for each in prompts])


def follow(folder, commands):
    """Run commands of the page in a shell, with `python` as the page's reader has it."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LIM_OFFLINE": "1"}
    environment |= {"LIM_RUNS": str(folder / "runs"), "LIM_DATA_MIRROR": "", "LIM_DATA_CACHE": str(folder / "cache")}
    done = subprocess.run(["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def answer_yourself(folder, results):
    """Answers of another model to the same prompts."""
    answers = disk.read_jsonl(next(results.glob("generate/*-longest/seed-42/answers.jsonl")))
    mine = [{key: answer[key] for key in ("id", "prompt", "test_set")} | {"response": "Yes."} for answer in answers]
    disk.write_jsonl(folder / "my_answers.jsonl", mine)


def test_prompts_that_were_trained_on_are_named(place):
    assert len(check()) == 2
    trained = {"id": "q2", "instruction": f"{ROW['instruction']} ", "reference": "x"}
    (place / "my_prompts.jsonl").write_text(lines(PROMPT, trained), encoding="utf-8")
    (leak,) = check()[2:]
    said = "prompts that stand in the training rows as well: 1 (first: id 'q2'): take them out"
    assert leak == f"note: {place}/my_prompts.jsonl: {said}"


def test_the_same_instruction_with_another_input_is_no_leak(place):
    row = {"instruction": "Summarise the text.", "input": "Text one.", "output": "One."}
    (place / "my_rows.jsonl").write_text(lines(row, row), encoding="utf-8")
    other = PROMPT | {"instruction": "Summarise the text.", "input": "Text two."}
    (place / "my_prompts.jsonl").write_text(lines(other, other | {"id": "q2"}), encoding="utf-8")
    assert len(check()) == 2


# --- what a machine lacks ------------------------------------------------------------------------------------------


@pytest.fixture
def bare(no_data, runs, monkeypatch):
    """Neither data nor a network nor a GPU."""
    monkeypatch.setattr("nbutils.run.execute", lambda step: pytest.fail(f"{step.notebook} was run"))


def test_a_profile_for_a_gpu_says_so_before_anything_runs(bare):
    said = r"profile 'colab-t4' .* needs a GPU, and this machine has none .*; alpaca-52k, .* fetched as well: .*--cpu"
    with pytest.raises(InputError, match=said):
        run.run_profile("colab-t4")


def test_missing_data_are_named_before_anything_runs(bare):
    said = (
        r"needs alpaca-52k, lima, vicuna: not on this machine, and LIM_OFFLINE .*: run `python -m nbutils\.data fetch"
    )
    with pytest.raises(InputError, match=said):
        run.run_profile("colab-t4", on_cpu=True)


def test_a_missing_base_model_is_named_before_anything_runs(bare, place, monkeypatch):
    path = place / "my-profile.toml"
    text = re.sub(r"(?s)\[tiny_base\].*?\n\n", "", path.read_text(encoding="utf-8"))
    path.write_text(text.replace('base = "tiny"', 'base = "someone/missing"'), encoding="utf-8")
    with pytest.raises(InputError, match="base model someone/missing is not on this machine, and LIM_OFFLINE forbids"):
        run.run_profile("my-profile.toml")
