"""The command of stage 06: judge two answer files of anybody's making. `python -m nbutils.judge --help` says how."""

import argparse
import collections
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import artifacts, data, judge, judges, llm, prices
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import open_records
from nbutils.judge import Pair
from nbutils.llm import Ledger, Request
from nbutils.settings import JudgeModel

LEDGER = "ledger.sqlite"


# --- answer files --------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read an answer file of anybody's making; raises InputError naming the row and the missing or faulty key."""
    answers: list[dict[str, Any]] = []
    for first, records in open_records(path).batches():
        answers += [_checked_answer(path, number, record) for number, record in enumerate(records, first)]
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


def judge_files(pairs: Sequence[Pair], judging: JudgeModel, out: Path) -> dict[str, Any]:
    """Judge pairs into a folder; re-running continues. Returns the counts."""
    with contextlib.closing(Ledger(out / LEDGER)) as ledger:
        judgments = judge.judge_pairs(pairs, judging, ledger)
    return judge.write_judgments(out, judgments)


# --- the command line ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m nbutils.judge", description="Judge two answer files, both orders.")
    parser.add_argument("answers_a", metavar="ANSWERS_A", type=Path, help="answers of the target (JSONL)")
    parser.add_argument("answers_b", metavar="ANSWERS_B", type=Path, help="answers of the baseline (JSONL)")
    controls = ", ".join(judges.CONTROLS)
    parser.add_argument("--judge", required=True, help=f"{controls}, the model name of an endpoint, or --local")
    _add_endpoint(parser)
    parser.add_argument(
        "--local", action="store_true", help="--judge is a model folder, or a Hub model with --revision"
    )
    parser.add_argument("--revision", help="commit hash of a local judge from the Hub")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts that a local judge answers at once (8)")
    parser.add_argument("--references", type=Path, help="prompts with reference answers, for --judge reference")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for judgments.jsonl and summary.csv")
    parser.add_argument("--dry-run", action="store_true", help="say calls, tokens and price, and ask nobody")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop before this much is spent")
    return parser


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint (default: OpenAI's own)")
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    parser.add_argument("--concurrency", type=int, default=8, help="calls in flight (default 8)")
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="the endpoint's allowance")
    parser.add_argument("--tokens-per-minute", type=int, metavar="N", help="the endpoint's allowance, in and out")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one attempt (default 120)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of a judge's reply (default 512)")
    parser.add_argument("--temperature", type=float, default=0.0, help="default 0; some models allow 1 only")
    limits = ("max_tokens", "max_completion_tokens")
    parser.add_argument("--limit-name", choices=limits, default=limits[0], help="what newer models call max_tokens")
    parser.add_argument("--batch", action="store_true", help="ask by the Batch API: cheaper, done within a day")
    for name in ("--api-key", "--key", "--token"):
        parser.add_argument(name, type=_refuse_key, help=argparse.SUPPRESS)


def _refuse_key(_: str) -> None:
    raise argparse.ArgumentTypeError("a key is never given as an option: set it as an environment variable")


def _judge_of(given: argparse.Namespace) -> JudgeModel:
    if given.judge in judges.CONTROLS:
        return JudgeModel(name=given.judge, kind=given.judge)
    if given.concurrency < 1:
        raise InputError(f"--concurrency {given.concurrency}: at least one call must be in flight")
    same = set(JudgeModel.model_fields) & set(vars(given))
    kind = "transformers" if given.local else "openai"
    return JudgeModel.build(
        name=given.judge, kind=kind, model=given.judge, **{key: getattr(given, key) for key in same}
    )


def _cost(pairs: Sequence[Pair], judging: JudgeModel, out: Path) -> prices.Cost:
    """What is still to be paid for: an earlier run's answers are in the folder's ledger."""
    requests: list[Request] = [judge.build_request(pair, order, judging) for pair in pairs for order in judge.ORDERS]
    return prices.estimate(llm.unanswered(requests, out / LEDGER), judging)


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge`."""
    given = _parser().parse_args(arguments)
    if given.max_cost is not None and not (given.max_cost >= 0 and math.isfinite(given.max_cost)):
        raise InputError(f"--max-cost {given.max_cost}: give an amount in dollars")
    judging = _judge_of(given)
    pairs = pairs_of_files(given.answers_a, given.answers_b, judging, given.references)
    cost = _cost(pairs, judging, given.out)
    if given.dry_run:
        return print(cost.describe())
    if warning := cost.check_ceiling(given.max_cost):
        print(warning)
    facts = judge_files(pairs, judging, given.out)
    print(f"{given.out}: {', '.join(f'{key} {value}' for key, value in facts.items() if key != 'outputs')}")
    for row in judge.summarise(artifacts.read_jsonl(given.out / "judgments.jsonl"))[:2]:
        shares = f"win {row['win']}, tie {row['tie']}, lose {row['lose']}, unscored {row['unscored']}"
        print(f"rule {row['rule']}: {shares}; net win {row['net_win']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
