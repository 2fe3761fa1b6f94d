"""The exact strings that a model is trained on and asked with, and which of their tokens are trained.

Style `plain` is ours: one template for training and generation. Style `paper` is the official repository's: three
different formats, whose sentences are read at run time from the pinned released files and never typed in here. Style
`chat` is the base model's own chat template, for models that were tuned to chat.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbutils import data
from nbutils.core.errors import InputError
from nbutils.data import forms
from nbutils.data.packed import read_bytes
from nbutils.data.records import read_records
from nbutils.data.rows import EvalPrompt, Row

IGNORED = -100
"""Label of a token that adds nothing to the loss (PyTorch's convention)."""

STYLES = ("plain", "paper", "chat")

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


def render(row: Row | EvalPrompt, style: str = "plain", use: str = "train", tokenizer: Any = None) -> Prompt:
    """The string before the response, for a training row or a test prompt.

    style: `plain` (the same in training and generation), `paper` (official repository: training wraps a flattened
    Alpaca prompt as Vicuna v1.1 does; the five test sets and AlpacaEval use the bare Alpaca prompt with CRLF line
    ends; MT-Bench the Vicuna wrapper around the raw question) or `chat` (the chat template of `tokenizer`, the same in
    training and generation). Raises InputError for an unknown style.
    """
    if style == "chat":
        return Prompt("".join(piece.text for piece in _chat_pieces(row, tokenizer)), style, use)
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


class Piece(NamedTuple):
    """A stretch of a chat prompt. kind: `template` (its own words), `said` (a message), `answer` (an earlier one)."""

    text: str
    kind: str


def conversation(row: Row | EvalPrompt) -> list[tuple[str, str]]:
    """What is said before the response, as pairs of role and text."""
    messages = [("system", row.system)] if isinstance(row, Row) and row.system else []
    for question, answer in row.history:
        messages += [("user", question), ("assistant", answer)]
    return [*messages, ("user", "\n\n".join(text for text in (row.instruction, row.input) if text))]


def _chat_pieces(row: Row | EvalPrompt, tokenizer: Any) -> list[Piece]:
    """A chat prompt, cut where the template's words and the messages meet.

    Only so can a message that speaks of control tokens be told from the template, whose control tokens they are.
    Raises InputError where the tokenizer has no template, or it refuses the messages or rewrites them.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise InputError("prompt style 'chat' needs a model with a chat template: set prompt_style = \"plain\"")
    messages = conversation(row)
    try:
        return _fill_template(messages, tokenizer)
    except TemplateError as error:
        (role, system), *rest = messages
        if role == "system":  # some templates have no place for one: there it opens the first question
            return _fill_template([("user", f"{system}\n\n{rest[0][1]}"), *rest[1:]], tokenizer)
        raise InputError(f"the model's chat template refuses a row's messages: {error}") from None


def _fill_template(messages: Sequence[tuple[str, str]], tokenizer: Any) -> list[Piece]:
    """The pieces of a chat template around messages: filled with marks, and cut at them."""

    def fill(texts: Sequence[str]) -> str:
        said = [{"role": role, "content": text} for (role, _), text in zip(messages, texts, strict=True)]
        return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))

    texts = [text for _, text in messages]
    kinds = ["answer" if role == "assistant" else "said" for role, _ in messages]
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    whole, framed = fill(texts), re.split("\ue000\\d+\ue001", fill(marks))
    # Many templates strip what is said.
    for said in (texts, [text.strip() for text in texts]):
        pieces = [Piece(framed[0], "template")]
        for text, kind, template in zip(said, kinds, framed[1:], strict=False):
            pieces += [Piece(text, kind), Piece(template, "template")]
        if len(framed) == len(said) + 1 and "".join(piece.text for piece in pieces) == whole:
            return pieces
    raise InputError('the model\'s chat template rewrites what is said: set prompt_style = "plain"')


def _chat_ids(row: Row | EvalPrompt, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of a chat prompt, and labels: trained are earlier answers with the ends of sequence behind them.

    Text between two control tokens is tokenised as one, as it would be in the whole prompt.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, spans, control in _between_controls(_chat_pieces(row, tokenizer), tokenizer):
        found, marked = _marked_ids(tokenizer, text, spans)
        ids, labels = ids + found, labels + marked
        if control:
            is_end = control == tokenizer.eos_token and bool(spans) and spans[-1][1] == len(text)
            ids.append(tokenizer.convert_tokens_to_ids(control))
            labels.append(ids[-1] if is_end else IGNORED)
    return ids, labels


def _between_controls(pieces: Sequence[Piece], tokenizer: Any) -> Iterator[tuple[str, list[tuple[int, int]], str]]:
    """Texts without the template's control tokens, where answers stand in them, and the control token behind each."""
    known = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    control = re.compile(f"({'|'.join(map(re.escape, known))})")
    text, spans = "", list[tuple[int, int]]()
    for piece in pieces:
        for place, part in enumerate(control.split(piece.text) if piece.kind == "template" and known else [piece.text]):
            if place % 2:
                yield text, spans, part
                text, spans = "", []
                continue
            if piece.kind == "answer":
                spans.append((len(text), len(text) + len(part)))
            text += part
    yield text, spans, ""


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
    if style == "chat":
        before, earlier = _chat_ids(row, tokenizer)
        after = [*_ids(tokenizer, row.response), tokenizer.eos_token_id]
        ids, labels = before + after, earlier + after
        return Example(ids[:max_length], labels[:max_length], len(ids) > max_length)
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
        found, marked = _marked_ids(tokenizer, turn, trained)
        is_last = number == len(turns) - 1
        ids += found if is_last else [*found, tokenizer.eos_token_id]
        labels += marked if is_last else [*marked, tokenizer.eos_token_id if trained else IGNORED]
    return ids, labels


def _marked_ids(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Ids of a text, and labels: trained are the tokens that begin within one of the spans of characters."""
    found = _ids(tokenizer, text)
    if not spans:
        return found, [IGNORED] * len(found)
    places = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    is_said = [any(first <= begin < last for first, last in spans) for begin, _ in places["offset_mapping"]]
    return found, [token if said else IGNORED for token, said in zip(found, is_said, strict=True)]


def encode_prompt(prompt: EvalPrompt, tokenizer: Any, style: str) -> list[int]:
    """Token ids that a model is asked with."""
    if style == "chat":
        return _chat_ids(prompt, tokenizer)[0]
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    if style == "paper" and prompt.history:
        return ids + _turn_ids(tokenizer, _vicuna_turns(prompt, "generate"))[0]
    return ids + _ids(tokenizer, render(prompt, style, "generate").text)


def add_chat_template(tokenizer: Any, style: str) -> None:
    """Let a tokenizer write the prompts of training, for servers; the paper's formats are no one template.

    In style `chat` the tokenizer's own template is that of training.
    """
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
