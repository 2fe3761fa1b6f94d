"""What the commands that ask a judge have in common: the judge's options, the price before, and the folder after."""

import argparse
import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import judges, llm, prices
from nbutils.errors import InputError
from nbutils.judge_prompts import FOLDER
from nbutils.llm import Request
from nbutils.settings import JudgeModel, PromptFile

LEDGER = "ledger.sqlite"
HELD = "judged.json"
"""Says which texts, judge and prompt the results of a folder are of."""


def add_judge_options(parser: argparse.ArgumentParser, controls: Sequence[str] = tuple(judges.CONTROLS)) -> None:
    """Who judges, with which prompt, within which limits, and where the results go."""
    parser.add_argument(
        "--judge", required=True, help=f"{', '.join(controls)}, the model name of an endpoint, or --local"
    )
    _add_endpoint(parser)
    _add_local(parser)
    parser.add_argument("--prompt", metavar="FILE", help="a prompt file in place of the project's own (data/prompts)")
    parser.add_argument("--prompt-name", metavar="NAME", help="one prompt of a file that holds several")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results and the ledger of calls")
    parser.add_argument("--dry-run", action="store_true", help="say calls, tokens and price, and ask nobody")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop before this much is spent")


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
    structured = "ask for JSON by a schema, or do not (default: ask until the endpoint refuses)"
    parser.add_argument("--structured", action=argparse.BooleanOptionalAction, default="auto", help=structured)
    parser.add_argument(
        "--no-logprobs", dest="logprobs", action="store_false", help="for an endpoint that gives no log-probabilities"
    )
    for name in ("--api-key", "--key", "--token"):
        parser.add_argument(name, type=_refuse_key, help=argparse.SUPPRESS)


def _add_local(parser: argparse.ArgumentParser) -> None:
    local = "--judge is a model folder, or a Hub model with --revision"
    parser.add_argument("--local", action="store_true", help=local)
    parser.add_argument("--revision", help="commit hash of a local judge from the Hub")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts that a local judge answers at once (8)")


def _refuse_key(_: str) -> None:
    raise argparse.ArgumentTypeError("a key is never given as an option: set it as an environment variable")


def judge_of(given: argparse.Namespace, controls: Sequence[str] = tuple(judges.CONTROLS)) -> JudgeModel:
    """The judge that the options name. Raises InputError with one line."""
    if given.max_cost is not None and not (given.max_cost >= 0 and math.isfinite(given.max_cost)):
        raise InputError(f"--max-cost {given.max_cost}: give an amount in dollars")
    if given.judge in controls:
        return JudgeModel(name=given.judge, kind=given.judge)
    near = difflib.get_close_matches(given.judge, controls, 1, 0.8)
    if near and not (given.local or given.base_url):
        raise InputError(f"no judge '{given.judge}': is '{near[0]}' meant? (a model of that name needs --base-url)")
    if given.concurrency < 1:
        raise InputError(f"--concurrency {given.concurrency}: at least one call must be in flight")
    same = set(JudgeModel.model_fields) & set(vars(given))
    kind = "transformers" if given.local else "openai"
    fields = {key: getattr(given, key) for key in same}
    return JudgeModel.build(name=given.judge, kind=kind, model=given.judge, **fields)


def prompt_of(given: argparse.Namespace) -> PromptFile | None:
    """The prompt file that the options name; the stem of one of data/prompts will do."""
    if given.prompt is None:
        if given.prompt_name is not None:
            raise InputError("--prompt-name chooses a prompt of a file: give --prompt as well")
        return None
    own = FOLDER / f"{given.prompt}.toml"
    return PromptFile(file=str(own) if own.is_file() else given.prompt, name=given.prompt_name)


def settle_cost(requests: Sequence[Request], judging: JudgeModel, given: argparse.Namespace) -> bool:
    """Say what is still to be paid for; whether to go on. Raises InputError for a ceiling that nobody could keep."""
    cost = prices.estimate(llm.unanswered(requests, given.out / LEDGER), judging)
    if given.dry_run:
        print(cost.describe())
    if warning := cost.check_ceiling(given.max_cost):
        print(warning)
    return not given.dry_run


# --- what a folder holds -------------------------------------------------------------------------------------------


def describe_held(what: str, judging: JudgeModel, prompt: str, items: dict[str, str]) -> dict[str, Any]:
    """The record of a folder: in words, what was judged; the judge and the prompt; a hash for each item."""
    names = ("kind", "model", "base_url", "revision", "temperature", "max_tokens", "structured", "logprobs")
    judge = {"name": judging.name} | {name: getattr(judging, name) for name in names}
    return {"what": what, "judge": judge, "prompt": prompt, "items": items}


def refuse_other(out: Path, results: str, held: dict[str, Any]) -> None:
    """Raise InputError where a folder has results of other texts, another judge or another prompt.

    The same with more items is a continuation. Nothing is ever replaced by the results of something else.
    """
    if not (out / results).is_file():
        return
    if not (out / HELD).is_file():
        raise InputError(f"{out} holds a {results} that does not say what it is of: give another folder with -o")
    before = json.loads((out / HELD).read_text(encoding="utf-8"))
    is_same = all(before[key] == held[key] for key in ("judge", "prompt"))
    if not is_same or before["items"].items() - held["items"].items():
        by = f"judged by {before['judge']['name']}" + ("" if before["prompt"] == held["prompt"] else ", another prompt")
        raise InputError(f"{out} holds {before['what']}, {by}: give another folder with -o")
