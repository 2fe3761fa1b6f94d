"""Who judges: an endpoint, a model on this machine, or a judge that needs neither.

The latter are a reference judge, and three controls that calibrate the length analysis.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.batch import BatchBackend
from nbutils.llm.client import Backend, LocalBackend, Request
from nbutils.llm.endpoint import OpenAIBackend
from nbutils.llm.local import TransformersBackend, identify


def make_backend(judge: JudgeModel, controls: Mapping[str, Callable[[Request], str]] | None = None) -> Backend:
    """The backend of a judge's settings. `controls` are the functions that answer without a service (CONTROLS)."""
    if judge.kind == "openai":
        return BatchBackend(judge) if judge.batch else OpenAIBackend(judge)
    if judge.kind == "transformers":
        return TransformersBackend(judge)
    return LocalBackend((controls or CONTROLS)[judge.kind])


def service_of(judge: JudgeModel) -> str:
    """Who answers, as far as it determines the answers: the endpoint, or what identifies a model on this machine."""
    return identify(judge) if judge.kind == "transformers" else judge.same_as or judge.base_url or judge.kind


def make_request(
    judge: JudgeModel,
    messages: tuple[tuple[str, str], ...],
    facts: dict[str, Any],
    options: dict[str, Any] | None = None,
    max_tokens: int | None = None,
) -> Request:
    """The call that asks a judge; `facts` is what those look at that are no language model."""
    place, known = (service_of(judge), judge.model or judge.name), {} if judge.is_llm else facts
    return Request(*place, messages, max_tokens or judge.max_tokens, judge.temperature, known, options or {})


def judge_by_reference(request: Request) -> str:
    """Score both answers by their overlap with the held-out reference answer (`score_by_reference`)."""
    reference = request.facts["reference"]
    if not reference:
        raise InputError("the reference judge needs test prompts with reference answers: choose another judge")
    scores = (score_by_reference(request.facts[name], reference) for name in ("answer_1", "answer_2"))
    return " ".join(f"{score:.2f}" for score in scores) + "\nchrF with the reference answer."


def score_by_reference(answer: str, reference: str) -> float:
    """An answer's chrF overlap with a reference answer (sacrebleu), mapped to 1..10, to two decimals."""
    import sacrebleu

    return round(1 + 9 * sacrebleu.sentence_chrf(answer, [reference]).score / 100, 2)


FIRST, SECOND = "8 6", "6 8"
"""What the controls give two answers of which they prefer the one shown first, or second."""


def prefer_longer(first: int, second: int) -> str:
    """What `judge_longer` gives two answers of so many characters."""
    return "7 7" if first == second else FIRST if first > second else SECOND


def judge_longer(request: Request) -> str:
    """Prefer the longer answer, whatever it says: a length analysis must unmask this judge."""
    scores = prefer_longer(len(request.facts["answer_1"]), len(request.facts["answer_2"]))
    return f"{scores}\nThe longer answer is better."


def judge_first(_: Request) -> str:
    """Prefer the answer shown first: pure position bias."""
    return f"{FIRST}\nThe first answer is better."


def judge_coin(request: Request) -> str:
    """Toss a coin, the same for the same request: a length analysis must acquit this judge."""
    heads = hashlib.sha256(request.key.encode()).digest()[0] % 2
    return (FIRST if heads else SECOND) + "\nThe coin decided."


def grade_longer(request: Request) -> str:
    """Grade one answer by its length alone: the highest grade from 400 words on."""
    low, high = request.facts["scale"]
    share = min(1.0, len(request.facts["answer"].split()) / 400)
    return f"{low + (high - low) * share:.2f}\nLonger is better."


def grade_coin(request: Request) -> str:
    """Grade one answer by chance, the same for the same request."""
    low, high = request.facts["scale"]
    steps = hashlib.sha256(request.key.encode()).digest()[0] % (2 * (high - low) + 1)
    return f"{low + steps / 2:.1f}\nThe coin decided."


CONTROLS: dict[str, Callable[[Request], str]] = {
    "reference": judge_by_reference,
    "longer": judge_longer,
    "first": judge_first,
    "coin": judge_coin,
}

SINGLE_CONTROLS: dict[str, Callable[[Request], str]] = {"longer": grade_longer, "coin": grade_coin}
"""The judges without a service that grade one answer at a time (MT-Bench, rating)."""
