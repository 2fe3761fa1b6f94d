"""The exact strings that a model is trained on and asked with, and which of their tokens are trained.

Style `plain` is ours: one template for training and generation. Style `paper` is the official repository's: three
different formats, whose sentences are read at run time from the pinned released files and never typed in here.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbutils import data
from nbutils.core.errors import InputError
from nbutils.data import forms
from nbutils.data.packed import read_bytes
from nbutils.data.records import read_records
from nbutils.data.rows import EvalPrompt, Row

IGNORED = -100
"""Label of a token that adds nothing to the loss (PyTorch's convention)."""

STYLES = ("plain", "paper")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}### Task\n{{ m.content }}\n\n### Answer\n{% else %}{{ m.content }}\n\n{% endif %}"
    "{% endfor %}"
)
"""Style `plain` as `apply_chat_template` and servers know such things."""


class Prompt(NamedTuple):
    """Everything before the response: `text`, in the style named, for `train` or `generate`."""

    text: str
    style: str
    use: str


class Example(NamedTuple):
    """One tokenised training example; `labels` are the ids where they are trained and IGNORED elsewhere."""

    input_ids: list[int]
    labels: list[int]
    is_truncated: bool

    @property
    def trained(self) -> int:
        """Tokens that add to the loss."""
        return sum(label != IGNORED for label in self.labels)


def render(row: Row | EvalPrompt, style: str = "plain", use: str = "train") -> Prompt:
    """The string before the response, for a training row or a test prompt.

    style: `plain` (the same in training and generation) or `paper` (official repository: training wraps a flattened
    Alpaca prompt as Vicuna v1.1 does; the five test sets and AlpacaEval use the bare Alpaca prompt with CRLF line
    ends; MT-Bench the Vicuna wrapper around the raw question). Raises InputError for an unknown style.
    """
    if style == "plain":
        parts = [row.system] if isinstance(row, Row) and row.system else []
        for question, answer in row.history:
            parts += [f"### Task\n{question}", f"### Answer\n{answer}"]
        parts.append(f"### Task\n{row.instruction}")
        parts += [f"### Input\n{row.input}"] if row.input else []
        return Prompt("\n\n".join([*parts, "### Answer\n"]), style, use)
    if style != "paper":
        raise InputError(f"unknown prompt style '{style}': choose one of {', '.join(STYLES)}")
    if isinstance(row, Row) and row.system:
        mend = 'set prompt_style = "plain", or take it out'
        raise InputError(f"row {row.id} of {row.source}: prompt style 'paper' has no place for its system text: {mend}")
    if use == "train" or (isinstance(row, EvalPrompt) and row.test_set == "mt-bench"):
        return Prompt("</s>".join(_vicuna_turns(row, use)), style, use)
    # The official LIMA prompts are one-element lists put through an f-string, brackets and all.
    from_lima = isinstance(row, EvalPrompt) and row.test_set == "lima"
    instruction = str([row.instruction]) if from_lima else row.instruction
    given = f"### Input:\n{row.input}\r\n\r\n" if row.input else ""
    opening = f"{_preamble(bool(row.input))}\r\n\r\n### Instruction:\r\n{instruction}\r\n\r\n"
    return Prompt(f"{opening}{given}### Response:", style, use)


def response_text(row: Row, style: str) -> str:
    """The response as it follows the prompt: Vicuna's wrapper puts a space before it."""
    return " " + row.response if style == "paper" else row.response


def _flattened(row: Row | EvalPrompt) -> str:
    given = f" ### Input: {row.input}" if row.input else ""
    return f"{_preamble(bool(row.input))} ### Instruction: {row.instruction}{given}"


def _vicuna_turns(prompt: Row | EvalPrompt, use: str) -> list[str]:
    """A conversation in the wrapper, cut where every finished answer is followed by the end of sequence.

    In training the first question is a flattened Alpaca prompt.
    """
    asked = [question for question, _ in prompt.history] + [prompt.instruction]
    if use == "train":
        last = "\n".join(text for text in (prompt.instruction, prompt.input) if text)
        whole = f"{_preamble(False)} ### Instruction: {asked[0]}"
        asked = [whole, *asked[1:-1], last] if prompt.history else [_flattened(prompt)]
    answers = [f" {answer}" for _, answer in prompt.history] + [""]
    turns = [f"USER: {question} ASSISTANT:{answer}" for question, answer in zip(asked, answers, strict=True)]
    return [f"{_vicuna_sentence()} {turns[0]}", *turns[1:]]


@functools.cache
def _preamble(with_input: bool) -> str:
    """Alpaca's opening sentences, with or without an input, as the released training rows carry them."""
    for path in data.obtain("alpaca-1k-longest-published"):
        for record in read_records(path):
            preamble, _, given = forms.split_alpaca_prompt(record["conversations"][0]["value"])
            if bool(given) == with_input:
                return preamble.strip()
    raise InputError("the released rows hold no such prompt: fetch alpaca-1k-longest-published again")


@functools.cache
def _vicuna_sentence() -> str:
    """The system sentence of Vicuna v1.1 in the paper's copy of FastChat's conversation.py."""
    text = read_bytes(data.obtain("paper-conversation")[0]).decode()
    found = re.search(r'name="vicuna_v1\.1",\s*system(?:_message)?=((?:\s*"[^"]*")+)', text)
    if found is None:
        raise InputError("paper-conversation: no template named vicuna_v1.1: fetch it again")
    return "".join(re.findall(r'"([^"]*)"', found.group(1)))


def encode(row: Row, tokenizer: Any, style: str, max_length: int) -> Example:
    """Tokenise a training example: prompt masked, response and end-of-sequence trained, cut at `max_length` tokens.

    Prompt and response are tokenised apart, so that the border between masked and trained is exact. A response that
    is cut keeps no end-of-sequence token: the model must not learn to stop in the middle. Nor must it learn so from a
    response that speaks of "</s>", so special tokens in the data are tokenised as the text that they are. The answers
    of earlier turns are trained as well, where they stand in the prompt (in style `paper` with their ends of sequence).
    """
    prompt = render(row, style).text
    turns = _vicuna_turns(row, "train") if style == "paper" else [prompt]
    response = response_text(row, style)
    before, earlier = _turn_ids(tokenizer, turns, _answer_spans(row, style, turns))
    after = _ids(tokenizer, response)
    # Llama's tokenizer begins every text with a space: alone, " Yes" would become one token more than it is behind the
    # colon of "ASSISTANT:". So the colon goes along and is taken off again.
    border, both = _ids(tokenizer, prompt[-1]), _ids(tokenizer, prompt[-1] + response)
    if style == "paper" and both[: len(border)] == border:
        after = both[len(border) :]
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids = [*start, *before, *after, tokenizer.eos_token_id]
    labels = [*[IGNORED] * len(start), *earlier, *after, tokenizer.eos_token_id]
    return Example(ids[:max_length], labels[:max_length], len(ids) > max_length)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _answer_spans(row: Row, style: str, turns: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Where the earlier answers stand in each of the turns: first character and the one behind the last."""
    if style == "paper":
        said = [f" {answer}" for _, answer in row.history]
        return [[(len(turn) - len(text), len(turn))] for turn, text in zip(turns, said, strict=False)] + [[]]
    spans, place = [], len(f"{row.system}\n\n") if row.system else 0
    for question, answer in row.history:
        begin = place + len(f"### Task\n{question}\n\n### Answer\n")
        spans.append((begin, begin + len(answer)))
        place = begin + len(f"{answer}\n\n")
    return [spans]


def _turn_ids(
    tokenizer: Any, turns: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]] | None = None
) -> tuple[list[int], list[int]]:
    """Ids of turns, each but the last followed by the end of sequence, and labels: trained where `spans` say so."""
    ids: list[int] = []
    labels: list[int] = []
    for number, turn in enumerate(turns):
        trained = spans[number] if spans else ()
        found = _ids(tokenizer, turn)
        marked = [IGNORED] * len(found)
        if trained:
            places = tokenizer(turn, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
            for i, (begin, _) in enumerate(places["offset_mapping"]):
                is_said = any(first <= begin < last for first, last in trained)
                marked[i] = found[i] if is_said else IGNORED
        is_last = number == len(turns) - 1
        ids += found if is_last else [*found, tokenizer.eos_token_id]
        labels += marked if is_last else [*marked, tokenizer.eos_token_id if trained else IGNORED]
    return ids, labels


def encode_prompt(prompt: EvalPrompt, tokenizer: Any, style: str) -> list[int]:
    """Token ids that a model is asked with."""
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    if style == "paper" and prompt.history:
        return ids + _turn_ids(tokenizer, _vicuna_turns(prompt, "generate"))[0]
    return ids + _ids(tokenizer, render(prompt, style, "generate").text)


def add_chat_template(tokenizer: Any, style: str) -> None:
    """Let a tokenizer write the prompts of training, for servers; the paper's formats are no one template."""
    if style == "plain":
        tokenizer.chat_template = CHAT_TEMPLATE


def check_examples(examples: Sequence[Example], eos: int) -> None:
    """Assert on every example that something is trained, and EOS as the last label (unless it was cut) and no other.

    Raises InputError with the example's number. This is what a mask that silently drops a row's loss would break.
    """
    for number, example in enumerate(examples):
        if example.trained == 0:
            raise InputError(f"training row {number}: no trained token within max_length: raise it or drop the row")
        if not example.is_truncated and example.labels[-1] != eos:
            raise InputError(f"training row {number}: its end-of-sequence token is not trained")
        if example.labels[0] != IGNORED:
            raise InputError(f"training row {number}: its first token would be trained, and nothing predicts it")
        within = zip(example.labels[:-1], example.labels[1:], strict=True)
        if any(label == eos and following != IGNORED for label, following in within):
            raise InputError(f"training row {number}: an end of sequence in the middle would be trained")
