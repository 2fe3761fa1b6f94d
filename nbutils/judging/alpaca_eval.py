"""AlpacaEval 2: answers to its 805 instructions against GPT-4's, weighted by the judge's log-probabilities.

    python -m nbutils.judging.alpaca_eval ANSWERS --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]

ANSWERS is an answer file of this project (test set `alpaca-eval`) or a model_outputs.json of AlpacaEval. The judge
replies with one letter; its log-probabilities give a preference between 0 and 1, and where an endpoint gives none, the
letter does. Both orders are asked, where the official evaluation draws one at random. The length-controlled rate is
`python -m nbutils.length_bias DIR/judgments.jsonl`.

In a profile, `benchmarks = ["alpaca-eval"]` under [judging] makes it a part of stage 06:
`judge.run_benchmark(profile, arm, seed, "alpaca-eval")`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.analysis.leaderboards import BASELINE, mean_of
from nbutils.core import disk, manifests
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import Benchmark
from nbutils.data.records import read_records
from nbutils.judging import command
from nbutils.judging.pairs import match_answers
from nbutils.judging.prompts import load_prompt
from nbutils.judging.replies import end_command

TEST_SET: Benchmark = "alpaca-eval"


def baseline_answers(model: str = BASELINE) -> list[dict[str, Any]]:
    """Published answers of a model, as rows of an answer file. Raises InputError for a model that is not there."""
    return [_answer(prompt, output, model) for prompt, output in data.load_outputs(model).values()]


def _answer(prompt: Any, response: str, arm: str) -> dict[str, Any]:
    return {"id": prompt.id, "test_set": TEST_SET, "prompt": prompt.text, "response": response, "arm": arm}


def read_answers(path: Path) -> list[dict[str, Any]]:
    """An answer file of this project or a model_outputs.json. Raises InputError naming file, row and key."""
    first = next(iter(read_records(path)), {})
    if "instruction" not in first or "output" not in first:
        answers = [row for row in command.read_answers(path) if row["test_set"] == TEST_SET]
        if not answers:
            raise InputError(f"{path}: no answers of the test set '{TEST_SET}'")
        return answers
    prompts, answers = {prompt.instruction: prompt for prompt in data.load_prompts(TEST_SET)}, []
    for number, record in enumerate(read_records(path)):
        prompt, response = prompts.get(str(record.get("instruction"))), record.get("output")
        if prompt is None:
            raise InputError(f"{path}: row {number}: 'instruction' is none of AlpacaEval's")
        if not isinstance(response, str):
            raise InputError(f"{path}: row {number}: 'output' is {type(response).__name__}, not text")
        answers.append(_answer(prompt, response, str(record.get("generator") or path.stem)))
    return answers


def add_difficulty(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with each instruction's published `difficulty`, which is one against BASELINE only."""
    if not any(row["baseline"] == BASELINE for row in rows):
        return list(rows)
    table = data.load_table("alpaca-eval-difficulty")["instruction_difficulty"]
    known = {f"alpaca_eval_{number}": float(value) for number, value in table.items()}
    return [row | {"difficulty": known.get(row["id"])} if row["baseline"] == BASELINE else row for row in rows]


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """AlpacaEval's line: the win rate in percent with its standard error, only where 99% of the calls were judged."""
    calls = verdicts.count_calls(rows)
    if not manifests.is_enough(calls["judged"], calls["asked"]):
        return f"AlpacaEval: {calls['judged']} of {calls['asked']} calls judged: no win rate below 99%"
    rate, error = verdicts.win_rate(rows)
    shown = f"{100 * (rate or 0):.2f}% +- {100 * (error or 0):.2f} (one standard error)"
    counts = f"{len({row['id'] for row in rows})} instructions, {mean_of(rows, 'len_arm'):.0f} characters"
    weighted = sum(row["preference"] not in (None, 0.0, 0.5, 1.0) for row in rows)
    return f"AlpacaEval: win rate {shown}, {counts}, {weighted} calls weighted"


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.alpaca_eval`."""
    parser = ArgumentParser(prog="python -m nbutils.judging.alpaca_eval", description="Judge answers as AlpacaEval 2.")
    parser.add_argument("answers", metavar="ANSWERS", type=Path, help="answers to AlpacaEval's instructions")
    parser.add_argument("--baseline", default=BASELINE, help=f"a published model or an answer file ({BASELINE})")
    command.add_judge_options(parser)
    given = parser.parse_args(arguments)
    judging = command.judge_of(given)
    prompt = load_prompt(TEST_SET, command.prompt_of(given))
    other = Path(given.baseline)
    baseline = read_answers(other) if other.is_file() else baseline_answers(given.baseline)
    pairs = match_answers(read_answers(given.answers), baseline, {})[: given.max_prompts]
    command.judge_into(pairs, judging, prompt, given)
    if not given.dry_run:
        path = given.out / command.JUDGMENTS
        rows = add_difficulty(disk.read_jsonl(path))
        disk.write_jsonl(path, rows)
        print(describe(rows))
        end_command(rows)


if __name__ == "__main__":
    main()
