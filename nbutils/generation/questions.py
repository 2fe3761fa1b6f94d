"""What a model is asked: test prompts as token ids that fit its context, with the length controls of a variant.

A variant of an arm is the same trained model asked under another condition; its name is the arm's with a suffix:

    alpaca-52k+min150    the end of sequence is banned for the first 150 tokens     (paper, section 5, Figure 6a)
    alpaca-52k+asklong   every instruction ends with a wish for a long answer       (paper, section 5, Figure 6b)
    alpaca-52k+max2048   answers are cut there and not at the profile's limit
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbutils import prompts
from nbutils.arms import parse_arm
from nbutils.core.errors import InputError
from nbutils.core.settings import Generation
from nbutils.data.rows import EvalPrompt

ASK_FOR_LENGTH = "Please answer at length: explain your points in detail and give examples where they help."
"""Our wording: the paper's is not published."""


class Question(NamedTuple):
    """A test prompt as the model gets it: `text`, its token `ids`, and how many tokens the answer may have.

    `is_cut`: the ids lack the middle of the text, which did not fit; `seed` is the answer's own, where it is sampled.
    """

    prompt: EvalPrompt
    text: str
    ids: list[int]
    max_new: int
    is_cut: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Test set and id, for messages."""
        return f"{self.prompt.test_set}/{self.prompt.id}"


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
    made = [_ask(prompt, tokenizer, settings, context, seed) for prompt in test_prompts]
    seen: set[str] = set()
    for question in made:
        if question.name in seen:
            raise InputError(f"{question.prompt.test_set}: two prompts have the id '{question.prompt.id}'")
        seen.add(question.name)
    return made


def _ask(prompt: EvalPrompt, tokenizer: Any, settings: Generation, context: int, seed: int) -> Question:
    asked = prompt._replace(instruction=word(prompt.instruction, settings))
    text = prompts.render(asked, settings.prompt_style, "generate").text
    whole = prompts.encode_prompt(asked, tokenizer, settings.prompt_style)
    ids = fit_to_context(whole, settings.max_new_tokens, context)
    room = min(settings.max_new_tokens, context - len(ids))
    return Question(prompt, text, ids, room, len(ids) < len(whole), _own_seed(seed, prompt))


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


def _own_seed(seed: int, prompt: EvalPrompt) -> int:
    digest = hashlib.sha256(f"{seed} {prompt.test_set} {prompt.id}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: what every server takes
