"""Answers of an arm's model, written one by one so that an interrupted run goes on, and what they come to."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.core import disk
from nbutils.core.judge_settings import Benchmark
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.progress import track
from nbutils.core.settings import Generation
from nbutils.data.rows import EvalPrompt
from nbutils.generation import backends, questions
from nbutils.generation.backends import Completion, Job
from nbutils.generation.questions import Question

TWO_TURNS = "mt-bench"

Answer = dict[str, Any]


def load_answers(manifest: Manifest) -> list[Answer]:
    """The answers that a finished generation holds."""
    return disk.read_jsonl(manifest.path("answers.jsonl"))


def load_test_prompts(settings: Generation) -> list[EvalPrompt]:
    """The prompts of all test sets of a profile, the first `max_prompts` of each."""
    return [prompt for name in settings.test_sets for prompt in data.load_prompts(name)[: settings.max_prompts]]


def answer_prompts(
    job: Job, planned: Plan, asked: Sequence[EvalPrompt], part: str = "answers"
) -> tuple[list[Answer], dict[str, Any]]:
    """Answer prompts with an arm's model: the answers in the prompts' order, and the facts worth recording.

    `part` names the file in the plan's folder to which every answer is written at once; a run that was interrupted
    goes on behind it. `forget_parts` removes it when the stage has written its outputs.
    """
    wanted = questions.ask(asked, job.tokenizer, job.settings, job.context, job.seed)
    path = planned.folder / f".{part}-{planned.key[:12]}.part.jsonl"
    answers = _read_part(path)
    missing = [question for question in wanted if question.name not in answers]
    facts = _write_missing(job, missing, path, answers) if missing else {}
    ordered = [answers[question.name] for question in wanted]
    return ordered, {**summarise(ordered), **_count_cuts(wanted, job.settings), **facts}


def forget_parts(planned: Plan) -> None:
    """Remove what `answer_prompts` has kept for an interrupted run of a plan."""
    for path in planned.folder.glob(f".*-{planned.key[:12]}.part.jsonl"):
        path.unlink()


def _read_part(path: Path) -> dict[str, Answer]:
    """Answers of an interrupted run; a torn last line is dropped from the file before it goes on."""
    if not path.is_file():
        return {}
    whole = disk.drop_torn_line(path)
    return {f"{answer['test_set']}/{answer['id']}": answer for answer in whole}


def _write_missing(job: Job, missing: Sequence[Question], part: Path, answers: dict[str, Answer]) -> dict[str, Any]:
    """Answer what is missing, each answer on disk as soon as it is there; the facts are of this session alone."""
    backend = backends.open_backend(job)
    started, tokens = time.monotonic(), 0
    progress = track([], f"answers of {job.arm}", total=len(missing) + len(answers), initial=len(answers))
    with open(part, "a", encoding="utf-8") as file, progress:
        for completion in backend.answer(missing):
            answer = _to_answer(completion, job.arm)
            file.write(disk.json_line(answer))
            file.flush()
            answers[completion.question.name] = answer
            tokens += completion.n_tokens
            progress.update()
    speed = round(tokens / max(time.monotonic() - started, 1e-9), 1)
    return {"answered_last": len(missing), "tokens_per_second": speed, **backend.facts()}


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


# --- counts --------------------------------------------------------------------------------------------------------


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts of a set of answers: how many, mean tokens, the share that ended by itself and the share that was cut."""
    stopped = sum(answer["finish_reason"] == "stop" for answer in answers)
    return {
        "answers": len(answers),
        "mean_tokens": round(sum(answer["n_tokens"] for answer in answers) / len(answers), 2),
        "mean_chars": round(sum(len(answer["response"]) for answer in answers) / len(answers), 2),
        "eos_rate": round(stopped / len(answers), 4),
        "cut_rate": round(1 - stopped / len(answers), 4),
    }


def show_summary(made: Manifest) -> dict[str, Any]:
    """What a finished generation says about itself in a line of a table."""
    lengths = sorted(answer["n_tokens"] for answer in load_answers(made))
    shown = ("answers", "mean_tokens", "eos_rate", "cut_rate", "truncated_prompts", "useful_slots", "tokens_per_second")
    facts = {name: made.facts[name] for name in shown if name in made.facts}
    return {"arm": made.arm, **facts, "median_tokens": lengths[len(lengths) // 2], "longest": lengths[-1]}


def _count_cuts(asked: Sequence[Question], settings: Generation) -> dict[str, int]:
    """Prompts that lost their middle, and those whose answers got less room than the settings allow."""
    return {
        "truncated_prompts": sum(question.is_cut for question in asked),
        "shortened_answers": sum(question.max_new < settings.max_new_tokens for question in asked),
    }


def load_benchmark_answers(manifest: Manifest, benchmark: Benchmark) -> list[Answer]:
    """The answers to a benchmark that a finished generation holds."""
    return [answer for answer in load_answers(manifest) if answer["test_set"] == benchmark]


def second_turns(asked: Sequence[EvalPrompt], answers: Sequence[Answer], settings: Generation) -> list[EvalPrompt]:
    """The second questions, each behind the first as it was asked and the answer that was given to it."""
    turns = []
    for prompt, answer in zip(asked, answers, strict=True):
        before = (questions.word(prompt.instruction, settings), answer["response"])
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
