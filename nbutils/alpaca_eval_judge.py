"""AlpacaEval 2: answers to its 805 instructions against GPT-4's, weighted by the judge's log-probabilities.

    python -m nbutils.alpaca_eval_judge ANSWERS --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]

ANSWERS is an answer file of this project (test set `alpaca-eval`) or a model_outputs.json of AlpacaEval. The judge
replies with one letter; its log-probabilities give a preference between 0 and 1, and where an endpoint gives none, the
letter does. Both orders are asked, where the official evaluation draws one at random. The length-controlled rate is
`python -m nbutils.length_bias DIR/judgments.jsonl`.

In a profile, `benchmarks = ["alpaca-eval"]` under [judging] makes it a part of stage 06: `run(profile, arm, seed)`.
"""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import (
    arms,
    artifacts,
    benchmark_answers,
    data,
    judge,
    judge_files,
    judge_options,
    judge_prompts,
    length_bias,
    stats,
    tally,
)
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import read_records
from nbutils.judge import Pair
from nbutils.judge_options import LEDGER
from nbutils.judge_prompts import Prompt
from nbutils.llm import Ledger
from nbutils.settings import Benchmark, Profile, PromptFile

TEST_SET: Benchmark = "alpaca-eval"
BASELINE = "gpt4_1106_preview"
"""The baseline of AlpacaEval 2; its published answers are in the source `alpaca-eval-outputs`."""


def load_prompt(given: PromptFile | None = None) -> Prompt:
    """The prompt that is named, or the project's own (data/prompts/alpaca-eval.toml)."""
    return judge_prompts.load(given, "alpaca-eval", "pairwise")


def baseline_answers(model: str = BASELINE) -> list[dict[str, Any]]:
    """Published answers of a model, as rows of an answer file. Raises InputError for a model that is not there."""
    prompts = data.load_prompts(TEST_SET)
    table = data.load_table("alpaca-eval-outputs").to_dict("records")
    found = [record for record in table if record["model"] == model]
    if not found:
        known = ", ".join(sorted({record["model"] for record in table}))
        raise InputError(f"no published answers of '{model}': choose one of {known}, or give a file")
    return [_answer(prompts[record["idx"]], record["output"], model) for record in found]


def _answer(prompt: Any, response: str, arm: str) -> dict[str, Any]:
    return {"id": prompt.id, "test_set": TEST_SET, "prompt": prompt.text, "response": response, "arm": arm}


def read_answers(path: Path) -> list[dict[str, Any]]:
    """An answer file of this project or a model_outputs.json. Raises InputError naming file, row and key."""
    first = next(iter(read_records(path)), {})
    if "instruction" not in first or "output" not in first:
        answers = [row for row in judge_files.read_answers(path) if row["test_set"] == TEST_SET]
        if not answers:
            raise InputError(f"{path}: no answers of the test set '{TEST_SET}'")
        return answers
    prompts = {prompt.instruction: prompt for prompt in data.load_prompts(TEST_SET)}
    return [_official(path, number, record, prompts) for number, record in enumerate(read_records(path))]


def _official(path: Path, number: int, record: Any, prompts: dict[str, Any]) -> dict[str, Any]:
    prompt, response = prompts.get(record.get("instruction")), record.get("output")
    if prompt is None:
        raise InputError(f"{path}: row {number}: 'instruction' is none of AlpacaEval's")
    if not isinstance(response, str):
        raise InputError(f"{path}: row {number}: 'output' is {type(response).__name__}, not text")
    return _answer(prompt, response, str(record.get("generator") or path.stem))


def make_pairs(answers: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> list[Pair]:
    """Pairs of both sides' answers to the same instruction."""
    return judge.match_answers(answers, baseline, {})


# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 06 would judge of an arm's answers to AlpacaEval."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"answers": artifacts.upstream(benchmark_answers.plan(chosen, name, seed, TEST_SET))}
    inputs["baseline"] = data.fingerprint("alpaca-eval-outputs")
    inputs["difficulty"] = data.fingerprint("alpaca-eval-difficulty")
    prompts = (judge.load_prompt(), _prompt_of(chosen))
    settings = {"judges": [each.model_dump() for each in chosen.judging.judges_for(TEST_SET)], "baseline": BASELINE}
    settings["prompts"] = [prompt.fingerprint for prompt in prompts]
    folder = artifacts.stage_folder(chosen.name, "alpaca_eval", name, seed)
    return Plan("alpaca_eval", chosen.name, name, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Judge an arm's answers to AlpacaEval by every judge that can: `judgments.jsonl`, `rates.csv`."""
    chosen, name = arms.prepare(profile, arm)
    answers = benchmark_answers.run(chosen, name, seed, TEST_SET)
    return tally.complete(plan(chosen, name, seed), functools.partial(_judge, chosen, answers))


def run_all(profile: str | Profile, seed: int = 42) -> list[Manifest]:
    """`run` for every arm of a profile that asks for AlpacaEval; [] for one that does not."""
    return benchmark_answers.run_for_all(run, TEST_SET, profile, seed)


def _prompt_of(profile: Profile) -> Prompt:
    return load_prompt(profile.judging.benchmark_prompts.get(TEST_SET))


def _judge(profile: Profile, answers: Manifest, folder: Path) -> dict[str, Any]:
    pairs = make_pairs(benchmark_answers.load_answers(answers, TEST_SET), baseline_answers())
    rows: list[dict[str, Any]] = []
    with contextlib.closing(Ledger(artifacts.runs_folder() / profile.name / LEDGER)) as ledger:
        for judging in profile.judging.judges_for(TEST_SET):
            rows += judge.judge_pairs(pairs, judging, ledger, _prompt_of(profile))
    rows = add_difficulty(rows)
    artifacts.write_jsonl(folder / "judgments.jsonl", rows)
    artifacts.write_csv(folder / "rates.csv", rate_arms(rows))
    return {"outputs": ["judgments.jsonl", "rates.csv"], **tally.facts_of(rows)}


def add_difficulty(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with each instruction's published `difficulty`, which is one against BASELINE only."""
    if not any(row["baseline"] == BASELINE for row in rows):
        return list(rows)
    table = data.load_table("alpaca-eval-difficulty")["instruction_difficulty"]
    known = {f"alpaca_eval_{number}": float(value) for number, value in table.items()}
    return [row | {"difficulty": known.get(row["id"])} if row["baseline"] == BASELINE else row for row in rows]


def rate_arms(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each arm, baseline and judge: rates in 0..1 with 95% intervals over instructions, mean characters.

    The rate at equal length uses the difficulties where the rows have them. Rates are None below 99% judged, and the
    one at equal length also where the two sides' lengths do not overlap.
    """
    return [_rate(found, rows) for found in length_bias.analyse(rows)]


def _rate(found: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    head = {key: found[key] for key in ("arm", "baseline", "judge")}
    mine = [row for row in rows if all(row[key] == value for key, value in head.items())]
    calls = tally.count_calls(mine)
    is_enough = stats.is_enough(calls["judged"], calls["asked"])
    controlled = "length_controlled_difficulty" if "length_controlled_difficulty" in found else "length_controlled"
    columns = {"win_rate": "win_rate", "win_low": "win_rate_low", "win_high": "win_rate_high"}
    columns |= {"lc_win_rate": controlled, "lc_low": f"{controlled}_low", "lc_high": f"{controlled}_high"}
    rates = {name: found.get(column) if is_enough else None for name, column in columns.items()}
    sizes = {"mean_chars": _mean(mine, "len_arm"), "baseline_mean_chars": _mean(mine, "len_baseline")}
    return {**head, "asked": calls["asked"], "judged": calls["judged"], **rates, **sizes}


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return round(sum(row[name] for row in rows) / len(rows), 2)


# --- the command ---------------------------------------------------------------------------------------------------


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """AlpacaEval's line: the win rate in percent with its standard error, only where 99% of the calls were judged."""
    calls, instructions = tally.count_calls(rows), len({row["id"] for row in rows})
    if not stats.is_enough(calls["judged"], calls["asked"]):
        return f"AlpacaEval: {calls['judged']} of {calls['asked']} calls judged: no win rate below 99%"
    rate, error = tally.win_rate(rows)
    shown = f"{100 * (rate or 0):.2f}% +- {100 * (error or 0):.2f} (one standard error)"
    weighted = sum(row["preference"] not in (None, 0.0, 0.5, 1.0) for row in rows)
    size = _mean(rows, "len_arm")
    return (
        f"AlpacaEval: win rate {shown}, {instructions} instructions, {size:.0f} characters, {weighted} calls weighted"
    )


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.alpaca_eval_judge`."""
    parser = ArgumentParser(prog="python -m nbutils.alpaca_eval_judge", description="Judge answers as AlpacaEval 2.")
    parser.add_argument("answers", metavar="ANSWERS", type=Path, help="answers to AlpacaEval's instructions")
    parser.add_argument("--baseline", default=BASELINE, help=f"a published model or an answer file ({BASELINE})")
    judge_options.add_judge_options(parser)
    given = parser.parse_args(arguments)
    judging = judge_options.judge_of(given)
    prompt = load_prompt(judge_options.prompt_of(given))
    other = Path(given.baseline)
    baseline = read_answers(other) if other.is_file() else baseline_answers(given.baseline)
    judge_files.run_command(make_pairs(read_answers(given.answers), baseline), judging, prompt, given)
    if not given.dry_run:
        path = given.out / judge_files.JUDGMENTS
        rows = add_difficulty(artifacts.read_jsonl(path))
        artifacts.write_jsonl(path, rows)
        print(describe(rows))


if __name__ == "__main__":
    main()
