"""The command of stage 06: judge two answer files of anybody's making. `python -m nbutils.judge --help` says how."""

import argparse
import collections
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import artifacts, data, judge, judge_options, llm, tally
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import number_records, open_records
from nbutils.judge import Pair
from nbutils.judge_options import LEDGER
from nbutils.judge_prompts import Prompt
from nbutils.llm import Ledger
from nbutils.settings import JudgeModel

JUDGMENTS = "judgments.jsonl"


# --- answer files --------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read an answer file of anybody's making; raises InputError naming the row and the missing or faulty key."""
    answers = [_checked_answer(path, number, record) for number, record in number_records(open_records(path))]
    if not answers:
        raise InputError(f"{path}: no answers")
    times = collections.Counter((answer["test_set"], answer["id"]) for answer in answers)
    (test_set, prompt), most = times.most_common(1)[0]
    if most > 1:
        raise InputError(f"{path}: prompt '{prompt}' of '{test_set}' is answered {most} times: keep one answer")
    return answers


def _checked_answer(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    answer = {"test_set": "", "arm": path.stem, **record}
    for key in ("id", "prompt", "response"):
        if key not in answer:
            raise InputError(f"{path}: row {number}: no '{key}': an answer needs id, prompt and response")
    if isinstance(answer["id"], bool) or not isinstance(answer["id"], str | int):
        raise InputError(f"{path}: row {number}: 'id' is {answer['id']!r}, neither text nor a whole number")
    answer["id"] = str(answer["id"])
    for key in ("prompt", "response", "test_set", "arm"):
        if not isinstance(answer[key], str):
            raise InputError(f"{path}: row {number}: '{key}' is {type(answer[key]).__name__}, not text")
    return answer


def pairs_of_files(mine: Path, theirs: Path, judging: JudgeModel, references: Path | None) -> list[Pair]:
    """Read and match two answer files, with reference answers where the judge needs them."""
    target, baseline = read_answers(mine), read_answers(theirs)
    test_sets = {answer["test_set"] for answer in target}
    known = _own_references(references, test_sets) if references else {}
    if judging.kind == "reference" and not references:
        known = judge.load_references(test_sets & {"sample", *data.sources_of("prompts")})
    pairs = judge.match_answers(target, baseline, known)
    if judging.kind == "reference" and (without := [pair.id for pair in pairs if not pair.reference]):
        raise InputError(f"no reference answer for prompt '{without[0]}': give --references, or choose another judge")
    if alone := len(target) + len(baseline) - 2 * len(pairs):
        print(f"{len(pairs)} prompts are answered in both files; {alone} answers without a partner are left out")
    return pairs


def _own_references(path: Path, test_sets: set[str]) -> dict[tuple[str, str], str]:
    # An id alone says which prompt it is only where the answers are of one test set.
    names = {path.stem, *(test_sets if len(test_sets) == 1 else ())}
    return {(name, prompt.id): prompt.reference for prompt in data.load_prompts(str(path)) for name in names}


def judge_files(pairs: Sequence[Pair], judging: JudgeModel, out: Path, prompt: Prompt | None = None) -> dict[str, Any]:
    """Judge pairs into a folder; re-running continues. Returns the counts.

    Raises InputError, before anything is asked, where the folder holds the judgments of something else.
    """
    prompt = judge.usable_prompt(judging, prompt)
    held = _held(pairs, judging, prompt)
    judge_options.refuse_other(out, JUDGMENTS, held)
    with contextlib.closing(Ledger(out / LEDGER)) as ledger:
        judgments = judge.judge_pairs(pairs, judging, ledger, prompt)
    artifacts.write_json(out / judge_options.HELD, held)
    return judge.write_judgments(out, judgments)


def _held(pairs: Sequence[Pair], judging: JudgeModel, prompt: Prompt) -> dict[str, Any]:
    sides = f"the judgments of {pairs[0].arm} against {pairs[0].baseline}"
    items = {f"{pair.test_set}/{pair.id}": artifacts.sha256_json(pair) for pair in pairs}
    return judge_options.describe_held(sides, judging, prompt.fingerprint, items)


# --- the command line ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m nbutils.judge", description="Judge two answer files, both orders.")
    parser.add_argument("answers_a", metavar="ANSWERS_A", type=Path, help="answers of the target (JSONL)")
    parser.add_argument("answers_b", metavar="ANSWERS_B", type=Path, help="answers of the baseline (JSONL)")
    parser.add_argument("--references", type=Path, help="prompts with reference answers, for --judge reference")
    judge_options.add_judge_options(parser)
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge`."""
    given = _parser().parse_args(arguments)
    judging = judge_options.judge_of(given)
    prompt = judge.load_prompt(judge_options.prompt_of(given))
    pairs = pairs_of_files(given.answers_a, given.answers_b, judging, given.references)
    run_command(pairs, judging, prompt, given)


def run_command(pairs: Sequence[Pair], judging: JudgeModel, prompt: Prompt, given: argparse.Namespace) -> None:
    """Judge as the options say, and print the counts and the result."""
    prompt = judge.usable_prompt(judging, prompt)
    judge_options.refuse_other(given.out, JUDGMENTS, _held(pairs, judging, prompt))
    ways = [judge.ways_to_ask(pair, order, judging, prompt) for pair in pairs for order in judge.ORDERS]
    with llm.look_into(given.out / LEDGER) as ledger:
        requests = llm.choose_ways(ways, ledger)
    if not judge_options.settle_cost(requests, judging, given):
        return
    facts = judge_files(pairs, judging, given.out, prompt)
    counts = {key: value for key, value in facts.items() if key not in ("outputs", "lacking")}
    print(f"{given.out}: {', '.join(f'{key} {value}' for key, value in counts.items())}")
    table = judge.summarise(artifacts.read_jsonl(given.out / JUDGMENTS))
    for row in table[: len(judge.RULES)]:
        print(tally.describe(row))
    print(tally.describe_length(table[0]))
