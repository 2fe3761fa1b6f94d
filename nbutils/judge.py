"""Stage 06: pairwise judging in both orders, by an endpoint or by a judge that needs none.

    python -m nbutils.judge ANSWERS_A ANSWERS_B --judge reference -o DIR
    python -m nbutils.judge ANSWERS_A ANSWERS_B --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]

ANSWERS_A is the target, ANSWERS_B the baseline. Re-running continues: what was answered is in DIR/ledger.sqlite.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import (
    arms,
    artifacts,
    benchmark_answers,
    data,
    generate,
    judge_prompts,
    judges,
    lengths,
    llm,
    tally,
    verdicts,
)
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import InputError
from nbutils.judge_prompts import Prompt
from nbutils.llm import Backend, Ledger, Reply, Request
from nbutils.settings import JudgeModel, Profile, PromptFile
from nbutils.tally import ORDERS, RULES, inconsistency, summarise, verdicts_of
from nbutils.verdicts import parse_scores, preference, verdict

__all__ = ["ORDERS", "RULES", "inconsistency", "parse_scores", "preference", "summarise", "verdict", "verdicts_of"]

MEASURE = "chars"
"""Length of an answer in judgment files, as AlpacaEval counts it."""


class Pair(NamedTuple):
    """Two answers to one prompt: the target's and the baseline's, with a reference answer where there is one."""

    id: str
    test_set: str
    prompt: str
    arm: str
    baseline: str
    answer: str
    baseline_answer: str
    reference: str = ""


# --- the question to the judge -------------------------------------------------------------------------------------


def load_prompt(given: PromptFile | None = None) -> Prompt:
    """The prompt that a profile names, or the project's own (data/prompts/pair.toml)."""
    return judge_prompts.load(given, "pair", "pairwise")


def usable_prompt(judge: JudgeModel, prompt: Prompt | None) -> Prompt:
    """The prompt that a judge gets: those that need no service know the form of the project's own only."""
    return prompt if prompt and judge.kind not in judges.CONTROLS else load_prompt()


def build_request(pair: Pair, order: str, judge: JudgeModel, prompt: Prompt | None = None) -> Request:
    """The call that grades a pair in one order. The fence's marker depends on all the texts inside the fence."""
    prompt = prompt or load_prompt()
    answers = (pair.answer, pair.baseline_answer)
    first, second = answers if order == "arm_first" else answers[::-1]
    facts = {} if judge.kind in ("openai", "transformers") else _facts(pair, first, second)
    options = _options(prompt, judge)
    messages = prompt.messages(_texts(pair, first, second), "response_format" in options)
    service, model = judges.service_of(judge), judge.model or judge.name
    most = 1 if prompt.output_format == "m/M" else judge.max_tokens
    return Request(service, model, messages, most, judge.temperature, facts, options)


def ways_to_ask(pair: Pair, order: str, judge: JudgeModel, prompt: Prompt | None = None) -> list[Request]:
    """The calls that grade a pair in one order, best first: as JSON where that may be tried, and in plain words."""
    best = build_request(pair, order, judge, prompt)
    if judge.structured != "auto" or "response_format" not in best.options:
        return [best]
    return [best, build_request(pair, order, judge.model_copy(update={"structured": False}), prompt)]


def _texts(pair: Pair, first: str, second: str) -> dict[str, str]:
    named = {"question": pair.prompt, "answer_1": first, "answer_2": second, "reference_1": pair.reference}
    return {**named, "answer_a": first, "answer_b": second, "ref_answer_1": pair.reference}


def _facts(pair: Pair, first: str, second: str) -> dict[str, str]:
    return {"answer_1": first, "answer_2": second, "reference": pair.reference, "id": f"{pair.test_set}/{pair.id}"}


_GRADES = {
    "type": "object",
    "properties": {
        "grade_1": {"type": "number"},
        "grade_2": {"type": "number"},
        "explanation": {"type": "string"},
    },
    "required": ["grade_1", "grade_2", "explanation"],
    "additionalProperties": False,
}


def _options(prompt: Prompt, judge: JudgeModel) -> dict[str, Any]:
    """What the prompt asks of an endpoint beside its messages."""
    if judge.kind != "openai":
        return {}
    if prompt.output_format == "m/M" and judge.logprobs:
        return {"logprobs": True, "top_logprobs": 5}  # as AlpacaEval 2 asks
    is_wanted = judge.structured is True or (judge.structured == "auto" and not judge.batch)
    if is_wanted and prompt.reply_format_structured:
        schema = {"name": "grades", "strict": True, "schema": _GRADES}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {}


# --- judging -------------------------------------------------------------------------------------------------------


def judge_pairs(
    pairs: Sequence[Pair],
    judge: JudgeModel,
    ledger: Ledger,
    prompt: Prompt | None = None,
    backend: Backend | None = None,
) -> list[dict[str, Any]]:
    """Judge every pair in both orders: one judgment row per order (design, section 6), in the order of the pairs.

    A `backend` that several calls share keeps one ceiling of costs for all of them.
    """
    chosen = usable_prompt(judge, prompt)
    asked = [(pair, order) for pair in pairs for order in ORDERS]
    ways = [ways_to_ask(pair, order, judge, chosen) for pair, order in asked]
    replies = llm.ask_in_some_way(ways, backend or judges.make_backend(judge), ledger, f"judge {judge.name}")
    arm_lengths = lengths.count([pair.answer for pair, _ in asked], MEASURE)
    baseline_lengths = lengths.count([pair.baseline_answer for pair, _ in asked], MEASURE)
    sizes = zip(arm_lengths, baseline_lengths, strict=True)
    counted = zip(asked, replies, sizes, strict=True)
    form = chosen.output_format
    return [_judgment(*place, judge, reply, (int(a), int(b)), form) for place, reply, (a, b) in counted]


def _judgment(
    pair: Pair, order: str, judge: JudgeModel, reply: Reply, sizes: tuple[int, int], form: str
) -> dict[str, Any]:
    return {
        "id": pair.id,
        "test_set": pair.test_set,
        "arm": pair.arm,
        "baseline": pair.baseline,
        "judge": judge.name,
        "order": order,
        **score_review(reply.text, order, form),
        "review": reply.text if reply.text is not None else reply.error,
        "len_arm": sizes[0],
        "len_baseline": sizes[1],
        "measure": MEASURE,
        **({} if form == "scores" else {"form": form}),
    }


def score_review(review: str | None, order: str, form: str = "scores") -> dict[str, Any]:
    """The columns that a stored review gives: scores by side, preference and status. Re-parsing costs nothing.

    form: the `output_format` of the prompt that asked; a review of None is a call that failed.
    """
    read = verdicts.read_pair(review, form) if review is not None else None
    is_swapped = order != "arm_first"
    arm_score, baseline_score = _by_side(read.scores if read else None, is_swapped)
    return {
        "score_arm": arm_score,
        "score_baseline": baseline_score,
        "preference": None if read is None else 1 - read.preference if is_swapped else read.preference,
        "status": "failed" if review is None else "judged" if read else "unparsed",
    }


def _by_side(scores: tuple[float, float] | None, is_swapped: bool) -> tuple[float | None, float | None]:
    if scores is None:
        return None, None
    return scores[::-1] if is_swapped else scores


def rescore(judgments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored judgment rows, read anew from their reviews; a call that failed stays one."""
    return [
        row
        | score_review(None if row["status"] == "failed" else row["review"], row["order"], row.get("form", "scores"))
        for row in judgments
    ]


# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 06 would judge: an arm's answers against those of every baseline, by every judge.

    Where the profile asks for benchmarks all arms' answers to them count as inputs: the notebook shows their grades.
    """
    chosen, name = arms.prepare(profile, arm)
    judging = chosen.judging
    inputs = {f"answers {side}": artifacts.upstream(generate.plan(chosen, side, seed)) for side in _sides(chosen, name)}
    for each, benchmark in itertools.product(chosen.arms, judging.benchmarks):
        answered = benchmark_answers.plan(chosen, each, seed, benchmark)
        inputs[f"{benchmark} answers {each}"] = artifacts.upstream(answered)
    folder = artifacts.stage_folder(chosen.name, "judge", name, seed)
    prompts = {prompt.fingerprint for prompt in (load_prompt(), load_prompt(judging.prompt))}
    pairwise = judging.model_dump(exclude={"benchmarks", "benchmark_prompts"})
    settings = {"judging": pairwise, "prompts": sorted(prompts)}
    return Plan("judge", chosen.name, name, seed, folder, settings, inputs, version=2)


def _sides(profile: Profile, name: str) -> list[str]:
    return list(dict.fromkeys((name, *profile.judging.baselines)))


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Judge an arm (the profile's target by default) against every baseline: `judgments.jsonl`, `summary.csv`."""
    chosen, name = arms.prepare(profile, arm)
    answers = {side: generate.run(chosen, side, seed) for side in _sides(chosen, name)}
    for each, benchmark in itertools.product(chosen.arms, chosen.judging.benchmarks):
        benchmark_answers.run(chosen, each, seed, benchmark)
    planned = plan(chosen, name, seed)
    return tally.complete(planned, functools.partial(_judge_all, chosen, name, answers))


def load_pairs(profile: str | Profile, arm: str | None = None, seed: int = 42) -> list[Pair]:
    """The pairs of answers that `run` judges, baseline by baseline."""
    chosen, name = arms.prepare(profile, arm)
    mine = generate.load_answers(generate.run(chosen, name, seed))
    references = load_references(chosen.generation.test_sets)
    others = (generate.load_answers(generate.run(chosen, side, seed)) for side in chosen.judging.baselines)
    return [pair for other in others for pair in match_answers(mine, other, references)]


def load_judgments(manifest: Manifest) -> list[dict[str, Any]]:
    """The judgment rows that a finished judging holds."""
    return artifacts.read_jsonl(manifest.path("judgments.jsonl"))


def _judge_all(profile: Profile, name: str, answers: dict[str, Manifest], folder: Path) -> dict[str, Any]:
    mine = generate.load_answers(answers[name])
    references = load_references(profile.generation.test_sets)
    judgments, prompt = [], load_prompt(profile.judging.prompt)
    backends = {judge.name: judges.make_backend(judge) for judge in profile.judging.judges}
    with contextlib.closing(Ledger(artifacts.runs_folder() / profile.name / "ledger.sqlite")) as ledger:
        for baseline in profile.judging.baselines:
            pairs = match_answers(mine, generate.load_answers(answers[baseline]), references)
            for judge in profile.judging.judges:
                judgments += judge_pairs(pairs, judge, ledger, prompt, backends[judge.name])
    return write_judgments(folder, judgments)


def write_judgments(folder: Path, judgments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the judgments and their summary; return the facts for the manifest."""
    summary = summarise(judgments)
    artifacts.write_jsonl(folder / "judgments.jsonl", judgments)
    artifacts.write_csv(folder / "summary.csv", summary)
    return {"outputs": ["judgments.jsonl", "summary.csv"], **tally.facts_of(judgments)}


def load_references(test_sets: Iterable[str]) -> dict[tuple[str, str], str]:
    """Reference answers of test sets by (test set, prompt id), "" where a prompt has none."""
    found = (prompt for name in test_sets for prompt in data.load_prompts(name))
    return {(prompt.test_set, prompt.id): prompt.reference for prompt in found}


def match_answers(
    mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], references: dict[tuple[str, str], str]
) -> list[Pair]:
    """Pair the answers to the same prompt.

    Raises InputError where the two sides share no prompt, or give one id to two different prompts.
    """
    other = {(answer["test_set"], answer["id"]): answer for answer in theirs}
    shared = [answer for answer in mine if (answer["test_set"], answer["id"]) in other]
    if not shared:
        raise InputError("the two answer files share no prompt (test_set and id): they answer different test sets")
    for answer in shared:
        if answer["prompt"].strip() != other[answer["test_set"], answer["id"]]["prompt"].strip():
            what = "a prompt is an instruction and, after an empty line, its input"
            raise InputError(f"prompt '{answer['id']}' is not the same text on both sides ({what})")
    return [_pair(answer, other[answer["test_set"], answer["id"]], references) for answer in shared]


def _pair(mine: dict[str, Any], theirs: dict[str, Any], references: dict[tuple[str, str], str]) -> Pair:
    reference = references.get((mine["test_set"], mine["id"]), "")
    texts = (mine["prompt"], mine["arm"], theirs["arm"], mine["response"], theirs["response"])
    return Pair(mine["id"], mine["test_set"], *texts, reference)


# --- the command ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge`; the command itself is in nbutils/judge_files.py."""
    from nbutils import judge_files

    judge_files.main(arguments)


if __name__ == "__main__":
    main()
