"""Stage 05: answers of one arm on the test sets, written as they come.

python -m nbutils.generate PROFILE ARM            ARM may be a variant: alpaca-52k+min150 (nbutils/questions.py)
"""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import answer_backends, arms, artifacts, data, finetune, models, questions
from nbutils.answer_backends import Completion, Job
from nbutils.artifacts import Manifest, Plan
from nbutils.commands import seed_of, stage_parser
from nbutils.errors import InputError, exits_cleanly
from nbutils.progress import track
from nbutils.questions import Question
from nbutils.rows import EvalPrompt
from nbutils.settings import Generation, Profile

Answer = dict[str, Any]


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 05 would answer with an arm's model, or with a variant of it (see nbutils/questions.py)."""
    chosen, name = arms.prepare(profile, arm)
    settings = questions.vary(chosen.generation, name)
    inputs = {"finetune": artifacts.upstream(finetune.plan(chosen, name, seed))}
    inputs |= {f"test set {test_set}": fingerprint_test_set(test_set) for test_set in settings.test_sets}
    folder = artifacts.stage_folder(chosen.name, "generate", name, seed)
    return Plan("generate", chosen.name, name, seed, folder, settings.model_dump(), inputs, version=2)


def fingerprint_test_set(name: str) -> str:
    """Hash of a test set's source, or of one's own file."""
    if Path(name).suffix in (".json", ".jsonl"):
        return artifacts.sha256_file(Path(name))
    return artifacts.sha256_json([prompt._asdict() for prompt in data.load_prompts(name)])


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Answer the profile's test sets: `answers.jsonl`, one object a prompt, in the test sets' order.

    A run that was killed goes on behind its last answer, and ends with the answers of an uninterrupted one: exactly
    in fp32; in 16 bits a tie between two tokens may fall otherwise in a batch of other rows.
    """
    chosen, name = arms.prepare(profile, arm)
    tuned = finetune.run(chosen, name, seed)
    planned = plan(chosen, name, seed)
    made = artifacts.complete(planned, functools.partial(_answer_all, chosen, tuned, planned))
    for benchmark in chosen.judging.benchmarks:
        from nbutils import benchmark_answers

        benchmark_answers.run(chosen, name, seed, benchmark)
    return made


def load_answers(manifest: Manifest) -> list[Answer]:
    """The answers that a finished generation holds."""
    return artifacts.read_jsonl(manifest.path("answers.jsonl"))


def load_test_prompts(settings: Generation) -> list[EvalPrompt]:
    """The prompts of all test sets of a profile, the first `max_prompts` of each."""
    return [prompt for name in settings.test_sets for prompt in data.load_prompts(name)[: settings.max_prompts]]


def context_of(profile: Profile, settings: Generation, seed: int) -> int:
    """How many tokens prompt and answer may have together: the settings' number, at most the model's own."""
    own = models.load_config(profile, seed).get_text_config().max_position_embeddings
    if settings.context and settings.context > own:
        raise InputError(f"generation.context = {settings.context}, and the model reads {own} tokens: lower it")
    return int(settings.context or own)


def _answer_all(profile: Profile, tuned: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    settings = questions.vary(profile.generation, planned.arm)
    answers, facts = answer_prompts(profile, tuned, planned, load_test_prompts(settings))
    artifacts.write_jsonl(folder / "answers.jsonl", answers)
    forget_parts(planned)
    return {"outputs": ["answers.jsonl"], **facts}


def answer_prompts(
    profile: Profile, tuned: Manifest, planned: Plan, asked: Sequence[EvalPrompt], part: str = "answers"
) -> tuple[list[Answer], dict[str, Any]]:
    """Answer prompts with an arm's model: the answers in the prompts' order, and the facts worth recording.

    `part` names the file in the plan's folder to which every answer is written at once; a run that was interrupted
    goes on behind it. `forget_parts` removes it when the stage has written its outputs.
    """
    settings = questions.vary(profile.generation, planned.arm)
    tokenizer, context = models.load_tokenizer(profile, planned.seed), context_of(profile, settings, planned.seed)
    wanted = questions.ask(asked, tokenizer, settings, context, planned.seed)
    job = Job(profile, settings, tuned, planned.arm, tokenizer, context, planned.seed)
    path = planned.folder / f".{part}-{planned.key[:12]}.part.jsonl"
    answers = _read_part(path)
    missing = [question for question in wanted if question.name not in answers]
    facts = _write_missing(job, missing, path, answers) if missing else {}
    ordered = [answers[question.name] for question in wanted]
    return ordered, {**summarise(ordered), **_count_cuts(wanted, settings), **facts}


def forget_parts(planned: Plan) -> None:
    """Remove what `answer_prompts` has kept for an interrupted run of a plan."""
    for path in planned.folder.glob(f".*-{planned.key[:12]}.part.jsonl"):
        path.unlink()


def _read_part(path: Path) -> dict[str, Answer]:
    """Answers of an interrupted run; a torn last line is dropped from the file before it goes on."""
    if not path.is_file():
        return {}
    whole = artifacts.drop_torn_line(path)
    return {f"{answer['test_set']}/{answer['id']}": answer for answer in whole}


def _write_missing(job: Job, missing: Sequence[Question], part: Path, answers: dict[str, Answer]) -> dict[str, Any]:
    """Answer what is missing, each answer on disk as soon as it is there; the facts are of this session alone."""
    backend = answer_backends.open_backend(job)
    started, tokens = time.monotonic(), 0
    progress = track([], f"answers of {job.arm}", total=len(missing) + len(answers), initial=len(answers))
    with open(part, "a", encoding="utf-8") as file, progress:
        for completion in backend.answer(missing):
            answer = _to_answer(completion, job.arm)
            file.write(artifacts.json_line(answer))
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


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.generate`."""
    given = stage_parser("generate", "Answer a profile's test sets with an arm.").parse_args(arguments)
    made = run(given.profile, given.arm, seed_of(given))
    print(", ".join(f"{name} {value}" for name, value in show_summary(made).items()))
    print(made.path("answers.jsonl"))


if __name__ == "__main__":
    main()
