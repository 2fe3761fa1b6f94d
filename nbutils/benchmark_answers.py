"""Stage 05 for the benchmarks that a profile asks for: every arm's answers to MT-Bench's two turns, and to AlpacaEval.

They lie beside the answers to the test sets, in runs/<profile>/generate/<arm>/seed-<n>/<benchmark>/answers.jsonl.
MT-Bench's rows hold both answers as `turns`; the second question is asked behind the first and the arm's own answer to
it. Decoding is the profile's, where FastChat samples by category (temperature 0.7 for writing and roleplay).
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbutils import arms, artifacts, data, finetune, generate, questions
from nbutils.artifacts import Manifest, Plan
from nbutils.generate import Answer
from nbutils.rows import EvalPrompt
from nbutils.settings import Benchmark, Generation, Profile

TWO_TURNS = "mt-bench"


def plan(profile: str | Profile, arm: str, seed: int, benchmark: Benchmark) -> Plan:
    """What an arm would answer of a benchmark; one turn that is among the test sets already is not answered twice."""
    chosen, name = arms.prepare(profile, arm)
    if benchmark != TWO_TURNS and benchmark in chosen.generation.test_sets:
        return generate.plan(chosen, name, seed)
    settings = questions.vary(chosen.generation, name).model_dump(exclude={"test_sets"})
    inputs = {"finetune": artifacts.upstream(finetune.plan(chosen, name, seed))}
    inputs["questions"] = generate.fingerprint_test_set(benchmark)
    folder = artifacts.stage_folder(chosen.name, "generate", name, seed) / benchmark
    return Plan(f"generate {benchmark}", chosen.name, name, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str, seed: int, benchmark: Benchmark) -> Manifest:
    """Answer a benchmark with an arm: `answers.jsonl`, the first `max_prompts` of its questions."""
    chosen, name = arms.prepare(profile, arm)
    tuned = finetune.run(chosen, name, seed)
    planned = plan(chosen, name, seed, benchmark)
    if planned.stage == "generate":
        return generate.run(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_answer_all, chosen, tuned, planned, benchmark))


def run_for_all(
    grade: Callable[[Profile, str, int], Manifest], benchmark: Benchmark, profile: str | Profile, seed: int
) -> list[Manifest]:
    """A benchmark's stage for every arm of a profile that asks for it; [] for one that does not."""
    chosen = arms.with_data_at_hand(arms.load(profile))
    return [grade(chosen, arm, seed) for arm in chosen.arms if benchmark in chosen.judging.benchmarks]


def load_answers(manifest: Manifest, benchmark: Benchmark) -> list[Answer]:
    """The answers to a benchmark that a finished generation holds."""
    return [answer for answer in generate.load_answers(manifest) if answer["test_set"] == benchmark]


def _answer_all(profile: Profile, tuned: Manifest, planned: Plan, benchmark: str, folder: Path) -> dict[str, Any]:
    asked = data.load_prompts(benchmark)[: profile.generation.max_prompts]
    answers, facts = generate.answer_prompts(profile, tuned, planned, asked, "first")
    if benchmark == TWO_TURNS:
        later_turns = _second_turns(asked, answers, questions.vary(profile.generation, planned.arm))
        second, later = generate.answer_prompts(profile, tuned, planned, later_turns, "second")
        answers, facts = _join(answers, second), {"first": facts, "second": later}
    artifacts.write_jsonl(folder / "answers.jsonl", answers)
    generate.forget_parts(planned)
    return {"outputs": ["answers.jsonl"], **facts}


def _second_turns(asked: Sequence[EvalPrompt], answers: Sequence[Answer], settings: Generation) -> list[EvalPrompt]:
    """The second questions, each behind the first as it was asked and the answer that was given to it."""
    turns = []
    for prompt, answer in zip(asked, answers, strict=True):
        before = (questions.word(prompt.instruction, settings), answer["response"])
        turns.append(prompt._replace(instruction=prompt.turns[0], turns=(), history=(before,)))
    return turns


def _join(first: Sequence[Answer], second: Sequence[Answer]) -> list[Answer]:
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
