"""One schema for training rows, one for test prompts, and the forms in which the world keeps them.

A record of a file becomes a `Row` by one of the forms: `alpaca` (instruction, input, output), `sharegpt`
(conversations with from and value) or `messages` (role and content). A test set's record becomes an `EvalPrompt`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nbutils.core.disk import sha256_json
from nbutils.core.errors import InputError

RESPONSE_FIELDS = ("output", "response", "completion", "answer")
INSTRUCTION_FIELDS = ("instruction", "prompt", "question")
TURN_KEYS = {"sharegpt": "conversations", "messages": "messages"}
ASSISTANTS = ("gpt", "assistant", "model", "bot", "chatgpt")


class Row(NamedTuple):
    """One training example. `id` is the number of its row in `source`, and stays with it from end to end."""

    id: int
    source: str
    instruction: str
    input: str
    response: str
    score: float | None = None
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""
    stratum: str = ""

    @property
    def responses(self) -> list[str]:
        """Every assistant turn, the last one last."""
        return [answer for _, answer in self.history] + [self.response]


class EvalPrompt(NamedTuple):
    """One prompt of a test set; `turns` holds MT-Bench's second question, `reference` an answer if there is one.

    `history`: questions and answers that come before, where this is a later turn.
    """

    id: str
    test_set: str
    instruction: str
    input: str = ""
    reference: str = ""
    category: str = ""
    turns: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The question as a person would put it: instruction, then the input on lines of its own."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


def row_from_json(record: Mapping[str, Any]) -> Row:
    """Read back a row that `row._asdict()` wrote."""
    history = tuple((question, answer) for question, answer in record.get("history", ()))
    return Row(**{**record, "history": history})


def detect_form(record: Mapping[str, Any]) -> str:
    """The form of a record, by its keys. Raises InputError naming the keys that were looked for."""
    for form, key in TURN_KEYS.items():
        if isinstance(record.get(key), list):
            return form
    if any(field in record for field in RESPONSE_FIELDS):
        return "alpaca"
    found = ", ".join(map(repr, list(record)[:8])) or "none"
    raise InputError(
        f"no response field: expected one of {', '.join(RESPONSE_FIELDS)}, 'conversations' or 'messages', "
        f"found {found} (`nbutils.select` takes another one by --field)"
    )


def responses_of(record: Mapping[str, Any], form: str, field: str | None = None) -> list[str]:
    """The assistant turns of a record, in order. Raises InputError when there is none or one is not text."""
    if form == "alpaca":
        return [_text(record, field or response_field(record))]
    turns = [text for role, text in turns_of(record, form) if role in ASSISTANTS]
    if not turns:
        raise InputError(f"no assistant turn in '{TURN_KEYS[form]}'")
    return turns


def to_row(record: Mapping[str, Any], number: int, source: str, form: str | None = None) -> Row:
    """Read a record as the row `number` of a source."""
    form = form or detect_form(record)
    stratum = str(record.get("category") or record.get("source") or "")
    if form == "alpaca":
        response, given = _text(record, response_field(record)), _optional(record, "input")
        field = next((field for field in INSTRUCTION_FIELDS if field in record), None)
        if field is None and not given:
            raise InputError(f"no instruction field: expected one of {', '.join(INSTRUCTION_FIELDS)}")
        asked = _optional(record, field) if field else ""
        return Row(number, source, asked, given, response, score_of(record), stratum=stratum)
    system: list[str] = []
    questions: list[str] = []
    pairs: list[tuple[str, str]] = []
    for role, text in turns_of(record, form):
        if role in ASSISTANTS:
            pairs.append(("\n\n".join(questions), text))
            questions = []
        else:
            (system if role == "system" else questions).append(text)
    if not pairs:
        raise InputError("a conversation without an assistant turn")
    *history, (question, answer) = pairs
    return Row(number, source, question, "", answer, score_of(record), tuple(history), "\n".join(system), stratum)


def turns_of(record: Mapping[str, Any], form: str) -> list[tuple[str, str]]:
    """Speaker and text of every turn of a record in ShareGPT or messages form."""
    key = TURN_KEYS[form]
    turns = record.get(key)
    if not isinstance(turns, list):
        raise InputError(f"no list '{key}' of turns")
    found = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise InputError(f"a turn in '{key}' is not an object")
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(role, str) or not isinstance(text, str):
            raise InputError(f"a turn in '{key}' lacks its role or its text")
        found.append((role.lower(), text))
    return found


def response_field(record: Mapping[str, Any]) -> str:
    """Name of the field that holds the response of a record in Alpaca form."""
    return next((field for field in RESPONSE_FIELDS if field in record), RESPONSE_FIELDS[0])


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        state = f"is {type(value).__name__}, not text" if field in record else "is missing"
        raise InputError(f"the response field '{field}' {state}")
    return value


def _optional(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str | None):
        raise InputError(f"the field '{field}' is {type(value).__name__}, not text")
    return value or ""


def score_of(record: Mapping[str, Any]) -> float | None:
    """The grade that a released record carries, if it is a number."""
    score = record.get("score")
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def first_verb(instruction: str) -> str:
    """First word of an instruction in lower case: the verb, in most of them ("write", "generate", ...)."""
    found = re.search(r"[A-Za-z]+", instruction)
    return found.group().lower() if found else ""


def fingerprint_row(row: Row) -> str:
    """Sixteen digits that say which text a grade is of, whatever its file is called."""
    return sha256_json([row.instruction, row.input, row.response])[:16]
