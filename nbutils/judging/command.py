"""The commands that judge: their options, what a folder holds, and two answer files of anybody's making."""

import argparse
import contextlib
import difflib
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import JudgeModel, PromptFile, name_endpoint
from nbutils.judging.answers import TURN_1, name_prompt, read_answers
from nbutils.judging.judges import CONTROLS
from nbutils.judging.pairs import (
    Pair,
    cut_pair,
    judge_pairs,
    load_references,
    match_answers,
    usable_prompt,
    ways_to_ask,
)
from nbutils.judging.prompts import FOLDER, JudgePrompt, load_prompt
from nbutils.judging.records import JUDGMENTS, compare, write_judgments
from nbutils.judging.replies import end_command
from nbutils.llm import client, limits
from nbutils.llm.client import Ledger, Request

LEDGER = "ledger.sqlite"
HELD = "judged.json"
"""Says which texts, judge and prompt the results of a folder are of."""


def add_judge_options(parser: argparse.ArgumentParser, controls: Sequence[str] = tuple(CONTROLS)) -> None:
    """Who judges, with which prompt, within which limits, and where the results go."""
    parser.add_argument("--judge", help=f"{', '.join(controls)}, the model name of an endpoint, or --local")
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint (default: OpenAI's own)")
    same = "the base URL of another endpoint that this one is a way to: what is answered there is not asked again"
    parser.add_argument("--same-as", metavar="URL", help=same)
    again = "ask again for answers that came empty, though they were paid for"
    parser.add_argument("--retry-empty", action="store_true", help=again)
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    parser.add_argument("--concurrency", type=int, default=8, help="calls in flight (default 8)")
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="the endpoint's allowance")
    parser.add_argument("--tokens-per-minute", type=int, metavar="N", help="the endpoint's allowance, in and out")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one attempt (default 120)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of a judge's reply (default 512)")
    parser.add_argument("--temperature", type=float, default=0.0, help="default 0; some models allow 1 only")
    names = ("max_tokens", "max_completion_tokens")
    parser.add_argument("--limit-name", choices=names, default=names[0], help="what newer models call max_tokens")
    parser.add_argument("--batch", action="store_true", help="ask by the Batch API: cheaper, done within a day")
    structured = "ask for JSON by a schema, or do not (default: ask until the endpoint refuses)"
    parser.add_argument("--structured", action=argparse.BooleanOptionalAction, default="auto", help=structured)
    without = "for an endpoint that gives no log-probabilities"
    parser.add_argument("--no-logprobs", dest="logprobs", action="store_false", help=without)
    for name in ("--api-key", "--key", "--token"):
        parser.add_argument(name, type=_refuse_key, help=argparse.SUPPRESS)
    local = "--judge is a model folder, or a Hub model with --revision"
    parser.add_argument("--local", action="store_true", help=local)
    parser.add_argument("--revision", help="commit hash of a local judge from the Hub")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts that a local judge answers at once (8)")
    parser.add_argument("--prompt", metavar="FILE", help="a prompt file in place of the project's own (data/prompts)")
    parser.add_argument("--prompt-name", metavar="NAME", help="one prompt of a file that holds several")
    first = "judge the first N prompts only; the same command with more, or without, goes on"
    parser.add_argument("--max-prompts", type=int, metavar="N", help=first)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results and the ledger of calls")
    parser.add_argument("--dry-run", action="store_true", help="say calls, tokens and price, and ask nobody")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop before this much is spent")


def add_questions_option(parser: argparse.ArgumentParser) -> None:
    """Where the prompts are that an answer file leaves out."""
    questions = "question.jsonl for answers without prompts (found beside them or a folder above), or a test set's name"
    parser.add_argument("--questions", metavar="FILE", help=questions)


def _refuse_key(_: str) -> None:
    raise argparse.ArgumentTypeError("a key is never given as an option: set it as an environment variable")


def judge_of(given: argparse.Namespace, controls: Sequence[str] = tuple(CONTROLS)) -> JudgeModel:
    """The judge that the options name. Raises InputError with one line."""
    _check_limits(given)
    if given.judge is None:
        raise InputError("the following arguments are required: --judge")
    if given.judge in controls:
        return JudgeModel(name=given.judge, kind=given.judge)
    near = difflib.get_close_matches(given.judge, controls, 1, 0.8)
    if near and not (given.local or given.base_url):
        raise InputError(f"no judge '{given.judge}': is '{near[0]}' meant? (a model of that name needs --base-url)")
    if given.concurrency < 1:
        raise InputError(f"--concurrency {given.concurrency}: at least one call must be in flight")
    fields = {key: value for key, value in vars(given).items() if key in JudgeModel.model_fields}
    kind = "transformers" if given.local else "openai"
    return JudgeModel.build(name=given.judge, kind=kind, model=given.judge, **fields)


def _check_limits(given: argparse.Namespace) -> None:
    if given.max_cost is not None and not (given.max_cost >= 0 and math.isfinite(given.max_cost)):
        raise InputError(f"--max-cost {given.max_cost}: give an amount in dollars")
    if given.max_prompts is not None and given.max_prompts < 1:
        raise InputError(f"--max-prompts {given.max_prompts}: at least one prompt must be judged")


def prompt_of(given: argparse.Namespace) -> PromptFile | None:
    """The prompt file that the options name; the stem of one of data/prompts will do."""
    if given.prompt is None:
        if given.prompt_name is not None:
            raise InputError("--prompt-name chooses a prompt of a file: give --prompt as well")
        return None
    own = FOLDER / f"{given.prompt}.toml"
    return PromptFile(file=str(own) if own.is_file() else given.prompt, name=given.prompt_name)


@contextlib.contextmanager
def judging_into(
    given: argparse.Namespace, judging: JudgeModel, results: str, held: dict[str, Any], requests: Sequence[Request]
) -> Iterator[Ledger | None]:
    """The ledger to ask requests with, in the folder of the options; None for a dry run, which says what they cost.

    held: `what` is judged, in words, the fingerprint of the `prompt`, and a hash for each of the `items`; once all is
    asked, the folder says so. Raises InputError, before anything is asked, for a ceiling that nobody could keep, and
    where the folder has results of other texts, another judge or another prompt: the same with more items is a
    continuation, and nothing is ever replaced by the results of something else.
    """
    names = ("name", "kind", "model", "base_url", "revision", "temperature", "max_tokens", "structured", "logprobs")
    settings = {name: getattr(judging, name) for name in names}
    settings["base_url"] = judging.same_as or judging.base_url
    held = {"what": held["what"], "judge": settings} | held
    remedy = "give another folder with -o"
    if (given.out / results).is_file():
        if not (given.out / HELD).is_file():
            raise InputError(f"{given.out} holds a {results} that does not say what it is of: {remedy}")
        before = json.loads((given.out / HELD).read_text(encoding="utf-8"))
        if other := _differences(before, held):
            by = before["judge"]["name"] + ("" if before["prompt"] == held["prompt"] else ", another prompt")
            raise InputError(f"{given.out} holds {before['what']}, judged by {by}: {remedy} ({'; '.join(other)})")
    left = client.unanswered(requests, given.out / LEDGER, given.retry_empty)
    cost = limits.estimate(left, judging)
    if given.dry_run:
        print(cost.describe())
    if warning := cost.check_ceiling(given.max_cost):
        print(warning)
    if given.dry_run:
        yield None
        return
    with contextlib.closing(Ledger(given.out / LEDGER)) as ledger:
        if given.retry_empty:
            ledger.forget_empty(requests)
        yield ledger
    disk.write_json(given.out / HELD, held)


def _differences(before: dict[str, Any], held: dict[str, Any]) -> list[str]:
    """What a folder's results were made with that is not as it is now, in words; [] for a continuation."""
    old, new = ({**each["judge"], "base_url": _address(each["judge"])} for each in (before, held))
    found = [f"{name} {old.get(name)} there, {new[name]} here" for name in new if old.get(name) != new[name]]
    found += [] if before["prompt"] == held["prompt"] else ["another prompt"]
    lost = before["items"].items() - held["items"].items()
    return found + ([f"{len(lost)} of its texts are other ones here"] if lost else [])


def _address(judge: dict[str, Any]) -> str | None:
    given = judge.get("base_url")
    return None if given is None else name_endpoint(given)


def pairs_of_files(
    mine: Path, theirs: Path, judging: JudgeModel, references: Path | None = None, questions: str | None = None
) -> list[Pair]:
    """Read and match two answer files, with reference answers where the judge needs them.

    questions: a file with the prompts of answers that leave them out, or a test set's name.
    """
    asked = _questions_file(questions)
    target, baseline = read_answers(mine, asked), read_answers(theirs, asked)
    if len(arms := {answer["arm"] for answer in (*target, *baseline)}) == 1:  # out1/answers.jsonl, out2/answers.jsonl
        for path, answers in ((mine, target), (theirs, baseline)):
            place = path.resolve()
            name = f"{place.parent.name}/{place.stem}" if arms == {path.stem} else f"{min(arms)} ({path})"
            answers[:] = [answer | {"arm": name} for answer in answers]
    _match_by_prompt(target, baseline)
    test_sets, known = {answer["test_set"] for answer in target}, dict[tuple[str, str], str]()
    if references:
        # An id alone says which prompt it is only where the answers are of one test set.
        names = {references.stem, *(test_sets if len(test_sets) == 1 else ())}
        known = {(name, row.id): row.reference for row in data.load_prompts(str(references)) for name in names}
    elif judging.kind == "reference":
        known = load_references(test_sets & {"sample", *data.sources_of("prompts")})
    pairs = match_answers(target, baseline, known)
    if judging.kind == "reference" and (without := [pair.id for pair in pairs if not pair.reference]):
        raise InputError(f"no reference answer for prompt '{without[0]}': give --references, or choose another judge")
    if alone := len(target) + len(baseline) - 2 * len(pairs):
        print(f"{len(pairs)} prompts are answered in both files; {alone} answers without a partner are left out")
    return pairs


def _questions_file(given: str | None) -> Path | None:
    if given is None or Path(given).exists() or given not in data.sources_of("prompts"):
        return None if given is None else Path(given)
    return data.obtain(given)[0]


def _match_by_prompt(target: Sequence[dict[str, Any]], baseline: list[dict[str, Any]]) -> None:
    """Name the baseline's prompts as the target does where only one of the files has ids."""
    places = [[(answer["test_set"], answer["id"]) for answer in answers] for answers in (target, baseline)]
    texts = {answer["prompt"].strip(): place for answer, place in zip(target, places[0], strict=True)}
    theirs = {answer["prompt"].strip() for answer in baseline}
    are_named = [any(each["id"] != name_prompt(each["prompt"]) for each in answers) for answers in (target, baseline)]
    if all(are_named) or set(places[0]) & set(places[1]) or len(texts) < len(target) or len(theirs) < len(baseline):
        return
    if theirs & texts.keys():
        print("only one of the files has ids: prompts are matched by their text")
    for answer in baseline:
        answer["test_set"], answer["id"] = texts.get(answer["prompt"].strip(), (answer["test_set"], answer["id"]))


def first_prompts(pairs: Sequence[Pair], most: int | None) -> list[Pair]:
    """The pairs of the first so many questions, all turns of each."""
    asked = list(dict.fromkeys((pair.test_set, pair.cluster or pair.id) for pair in pairs))[:most]
    return [pair for pair in pairs if (pair.test_set, pair.cluster or pair.id) in set(asked)]


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge`."""
    words = sys.argv[1:] if arguments is None else arguments
    if "--compare" in words:
        return compare(words)
    about = "Judge two answer files in both orders; or, with --cut, cut their answers to one length."
    other = "How far judges agree: python -m nbutils.judge --compare JUDGMENTS... [--votes FILE] [-o DIR]"
    parser = ArgumentParser(prog="python -m nbutils.judge", description=about, epilog=other)
    parser.add_argument("answers_a", metavar="ANSWERS_A", type=Path, help="answers of the target (JSONL)")
    parser.add_argument("answers_b", metavar="ANSWERS_B", type=Path, help="answers of the baseline (JSONL)")
    parser.add_argument("--references", type=Path, help="prompts with reference answers, for --judge reference")
    cut = "judge nothing: write OUT/a.jsonl and OUT/b.jsonl, every pair of answers cut to the shorter one's length"
    parser.add_argument("--cut", action="store_true", help=cut)
    add_questions_option(parser)
    add_judge_options(parser)
    given = parser.parse_args(arguments)
    if given.cut:
        return cut_files(given)
    judging, prompt = judge_of(given), load_prompt("pair", prompt_of(given))
    pairs = pairs_of_files(given.answers_a, given.answers_b, judging, given.references, given.questions)
    run_command(first_prompts(pairs, given.max_prompts), judging, prompt, given)


def run_command(pairs: Sequence[Pair], judging: JudgeModel, prompt: JudgePrompt, given: argparse.Namespace) -> None:
    """Judge pairs as the options say, and print counts, result, and what was lost; exits with 1 where that was all."""
    end_command(judge_into(pairs, judging, prompt, given))


def judge_into(
    pairs: Sequence[Pair], judging: JudgeModel, prompt: JudgePrompt, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Judge pairs as the options say, and print the counts and the result; re-running continues.

    Returns the judgments, none for a dry run. Raises InputError, before anything is asked, where the folder holds the
    judgments of something else.
    """
    prompt = usable_prompt(judging, prompt)
    items = {f"{pair.test_set}/{pair.id}": disk.sha256_json(pair[:-1]) for pair in pairs}
    what = f"the judgments of {pairs[0].arm} against {pairs[0].baseline}"
    held = {"what": what, "prompt": prompt.fingerprint, "items": items}
    ways = [ways_to_ask(pair, order, judging, prompt) for pair in pairs for order in verdicts.ORDERS]
    with client.look_into(given.out / LEDGER) as known:
        requests = client.choose_ways(ways, known)
    with judging_into(given, judging, JUDGMENTS, held, requests) as ledger:
        if not ledger:
            return []
        judgments = judge_pairs(pairs, judging, ledger, prompt)
    write_judgments(given.out, judgments)
    print(f"{given.out}: {', '.join(f'{key} {value}' for key, value in verdicts.count_calls(judgments).items())}")
    table = verdicts.summarise(judgments).head(len(verdicts.RULES)).to_dict("records")
    for row in table:
        print(verdicts.describe(row))
    print(verdicts.describe_length(table[0]))
    return judgments


def cut_files(given: argparse.Namespace) -> None:
    """Match two answer files, cut every pair, write both sides. Errors as of `match_answers`."""
    _check_limits(given)
    if given.judge:
        raise InputError("--cut judges nothing: leave out --judge, and judge the files that it writes")
    sides = {"a": given.answers_a, "b": given.answers_b}
    for name, path in itertools.product(sides, sides.values()):
        if (given.out / f"{name}.jsonl").resolve() == path.resolve():
            raise InputError(f"{path}: the cut answers would replace it: give another folder with -o")
    nobody = JudgeModel(name="nobody", kind="coin")
    matched = pairs_of_files(given.answers_a, given.answers_b, nobody, None, given.questions)
    pairs = [pair for pair in first_prompts(matched, given.max_prompts) if not pair.answer.startswith(TURN_1)]
    cut = [cut_pair(pair) for pair in pairs]
    for name, arm, answer in (("a", "arm", "answer"), ("b", "baseline", "baseline_answer")):
        fields = {"id": "id", "test_set": "test_set", "prompt": "prompt", "arm": arm, "response": answer}
        fields |= {"cluster": "cluster"} if any(pair.cluster for pair in cut) else {}
        rows = [{key: getattr(pair, field) for key, field in fields.items()} for pair in cut]
        disk.write_jsonl(given.out / f"{name}.jsonl", rows)
    shorter = sum(old.answer != new.answer for old, new in zip(pairs, cut, strict=True))
    print(f"{len(cut)} pairs in {given.out}, the target's answer cut in {shorter} of them")
    if later := len(first_prompts(matched, given.max_prompts)) - len(pairs):
        print(f"{later} later turns of conversations are left out: cut, they would lose the answer that is judged")
