"""Answers of an arm's model: what is asked, the answers one by one so that an interrupted run goes on, their counts.

Test prompts are asked as token ids that fit the model's context. A variant of an arm is the same trained model asked
under another condition; its name is the arm's with a suffix:

    alpaca-52k+min150    the end of sequence is banned for the first 150 tokens     (paper, section 5, Figure 6a)
    alpaca-52k+asklong   every instruction ends with a wish for a long answer       (paper, section 5, Figure 6b)
    alpaca-52k+max2048   answers are cut there and not at the profile's limit
"""

import hashlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import data, prompts
from nbutils.arms import parse_arm
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import Benchmark
from nbutils.core.machine import track
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Generation
from nbutils.core.tables import one_line
from nbutils.data.rows import EvalPrompt
from nbutils.generation import backends
from nbutils.generation.backends import Completion, Job, Question

TWO_TURNS = "mt-bench"

ASK_FOR_LENGTH = "Please answer at length: explain your points in detail and give examples where they help."
"""Our wording: the paper's is not published."""

Answer = dict[str, Any]


def load_test_prompts(settings: Generation) -> list[EvalPrompt]:
    """The prompts of all test sets of a profile, the first `max_prompts` of each."""
    return [prompt for name in settings.test_sets for prompt in data.load_prompts(name)[: settings.max_prompts]]


def vary(settings: Generation, arm: str) -> Generation:
    """The settings under which an arm's variant answers. Raises InputError for a ban longer than the answers."""
    asked = parse_arm(arm).suffixes
    changes: dict[str, Any] = {"length_prompt": ASK_FOR_LENGTH} if asked.asks_for_length else {}
    if asked.min_tokens:
        changes["min_new_tokens"] = asked.min_tokens
    if asked.max_tokens:
        changes["max_new_tokens"] = asked.max_tokens
    return settings.changed(f"arm '{arm}'", **changes)


def ask(
    test_prompts: Sequence[EvalPrompt], tokenizer: Any, settings: Generation, context: int, seed: int
) -> list[Question]:
    """The questions of a generation, in the prompts' order. Raises InputError for an id that occurs twice."""
    made: dict[str, Question] = {}
    for prompt in test_prompts:
        asked = prompt._replace(instruction=word(prompt.instruction, settings))
        text = prompts.render(asked, settings.prompt_style, "generate", tokenizer).text
        whole = prompts.encode_prompt(asked, tokenizer, settings.prompt_style)
        ids = fit_to_context(whole, settings.max_new_tokens, context)
        room = min(settings.max_new_tokens, context - len(ids))
        digest = hashlib.sha256(f"{seed} {prompt.test_set} {prompt.id}".encode("utf-8", "replace")).digest()
        own_seed = int.from_bytes(digest[:4], "big") >> 1  # 31 bits: what every server takes
        question = Question(prompt, text, ids, room, len(ids) < len(whole), own_seed)
        if question.name in made:
            raise InputError(f"{prompt.test_set}: two prompts have the id '{prompt.id}'")
        made[question.name] = question
    return list(made.values())


def word(instruction: str, settings: Generation) -> str:
    """An instruction as the model gets it, with the settings' wish for length behind it."""
    return f"{instruction}\n\n{settings.length_prompt}" if settings.length_prompt else instruction


def fit_to_context(ids: list[int], max_new: int, context: int) -> list[int]:
    """The ids of a prompt, without its middle where not even one new token would fit behind them.

    A prompt that leaves any room is kept whole, and its answer gets the room that is left (the official script caps
    prompt and answer together). One that leaves none is cut so far that the whole answer fits, or at least half of
    the context; the middle goes, because template and instruction stand at the two ends (the rule of LongBench's
    pred.py).
    """
    if len(ids) < context:
        return ids
    kept = max(context - max_new, context // 2)
    head = kept // 2
    return ids[:head] + ids[len(ids) - (kept - head) :]


def load_answers(manifest: Manifest) -> list[Answer]:
    """The answers that a finished generation holds."""
    return disk.read_jsonl(manifest.path("answers.jsonl"))


def answer_prompts(
    job: Job, planned: Plan, asked: Sequence[EvalPrompt], part: str = "answers"
) -> tuple[list[Answer], dict[str, Any]]:
    """Answer prompts with an arm's model: the answers in the prompts' order, and the facts worth recording.

    `part` names the file in the plan's folder to which every answer is written at once; a run that was interrupted
    goes on behind it. `forget_parts` removes it when the stage has written its outputs. Speed and the backend's facts
    are of this session alone.
    """
    wanted = ask(asked, job.tokenizer, job.settings, job.context, job.seed)
    path = planned.folder / f".{part}-{planned.key[:12]}.part.jsonl"
    answers = _read_part(path)
    missing = [question for question in wanted if question.name not in answers]
    facts: dict[str, Any] = {}
    if missing:
        backend = backends.open_backend(job)
        started, tokens = time.monotonic(), 0
        progress = track([], f"answers of {job.arm}", total=len(missing) + len(answers), initial=len(answers))
        with open(path, "a", encoding="utf-8") as file, progress:
            for completion in backend.answer(missing):
                answer = _to_answer(completion, job.arm)
                file.write(disk.json_line(answer))
                file.flush()
                answers[completion.question.name] = answer
                tokens += completion.n_tokens
                progress.update()
        speed = round(tokens / max(time.monotonic() - started, 1e-9), 1)
        facts = {"answered_last": len(missing), "tokens_per_second": speed, **backend.facts()}
    ordered = [answers[question.name] for question in wanted]
    cuts = {
        "truncated_prompts": sum(question.is_cut for question in wanted),
        "shortened_answers": sum(question.max_new < job.settings.max_new_tokens for question in wanted),
    }
    return ordered, {**summarise(ordered), **cuts, **facts}


def forget_parts(planned: Plan) -> None:
    """Remove what `answer_prompts` has kept for an interrupted run of a plan."""
    for path in planned.folder.glob(f".*-{planned.key[:12]}.part.jsonl"):
        path.unlink()


def _read_part(path: Path) -> dict[str, Answer]:
    """Answers of an interrupted run; a torn last line is dropped from the file before it goes on."""
    whole = disk.drop_torn_line(path) if path.is_file() else []
    return {f"{answer['test_set']}/{answer['id']}": answer for answer in whole}


def _to_answer(completion: Completion, arm: str) -> Answer:
    prompt = completion.question.prompt
    return {
        "id": prompt.id,
        "test_set": prompt.test_set,
        "prompt": prompt.text,
        "response": completion.text,
        "arm": arm,
        "n_tokens": completion.n_tokens,
        "finish_reason": completion.finish_reason,
    }


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts of a set of answers: how many, mean tokens, the share that ended by itself and the share that was cut."""
    n, stopped = len(answers), sum(answer["finish_reason"] == "stop" for answer in answers)
    return {
        "answers": n,
        "mean_tokens": round(sum(answer["n_tokens"] for answer in answers) / n, 2),
        "mean_chars": round(sum(len(answer["response"]) for answer in answers) / n, 2),
        "eos_rate": round(stopped / n, 4),
        "cut_rate": round(1 - stopped / n, 4),
    }


def show_summary(made: Manifest) -> dict[str, Any]:
    """What a finished generation says about itself in a line of a table."""
    lengths = [answer["n_tokens"] for answer in load_answers(made)]
    shown = ("answers", "mean_tokens", "eos_rate", "cut_rate", "truncated_prompts", "useful_slots", "tokens_per_second")
    facts = {name: made.facts[name] for name in shown if name in made.facts}
    return {"arm": made.arm, **facts, "median_tokens": statistics.median(lengths), "longest": max(lengths)}


def tell_answers(mine: Sequence[Answer], theirs: Sequence[Answer]) -> list[str]:
    """The first prompt that two arms answered, and both answers, shortened, each on one line of text."""
    others = {(each["test_set"], each["id"]): each for each in theirs}
    for answer in mine:
        if other := others.get((answer["test_set"], answer["id"])):
            both = (
                f"  {each['arm']}, {each['n_tokens']} tokens: {one_line(each['response'])}" for each in (answer, other)
            )
            return [f"{answer['test_set']}/{answer['id']}: {one_line(answer['prompt'])}", *both]
    return []


def load_benchmark_answers(manifest: Manifest, benchmark: Benchmark) -> list[Answer]:
    """The answers to a benchmark that a finished generation holds."""
    return [answer for answer in load_answers(manifest) if answer["test_set"] == benchmark]


def second_turns(asked: Sequence[EvalPrompt], answers: Sequence[Answer], settings: Generation) -> list[EvalPrompt]:
    """The second questions, each behind the first as it was asked and the answer that was given to it."""
    turns = []
    for prompt, answer in zip(asked, answers, strict=True):
        before = (word(prompt.instruction, settings), answer["response"])
        turns.append(prompt._replace(instruction=prompt.turns[0], turns=(), history=(before,)))
    return turns


def join_turns(first: Sequence[Answer], second: Sequence[Answer]) -> list[Answer]:
    """One row a question: the first turn's, with both texts as `turns` and the second's length and end beside it."""
    return [
        {
            **one,
            "turns": [one["response"], two["response"]],
            "n_tokens_turns": [one["n_tokens"], two["n_tokens"]],
            "finish_reasons": [one["finish_reason"], two["finish_reason"]],
        }
        for one, two in zip(first, second, strict=True)
    ]
