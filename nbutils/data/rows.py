"""One schema for training rows, one for test prompts, and the forms in which the world keeps them.

A record of a file becomes a `Row`: one response with all that was asked (Alpaca and its kin, Dolly, OpenOrca,
LLaMA-Factory), or a conversation (ShareGPT, messages, TRL's prompt with completion or chosen, LIMA, Capybara,
UltraChat). A test set's record becomes an `EvalPrompt`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nbutils.core.disk import sha256_json
from nbutils.core.errors import InputError
from nbutils.data.turns import TURN_FIELDS, Tags, Turn, read_history, read_turns, write_json

RESPONSE_FIELDS = ("output", "response", "completion", "answer", "solution", "chosen", "target", "targets")
INSTRUCTION_FIELDS = ("instruction", "prompt", "question", "query", "problem", "inputs")
INPUT_FIELDS = ("input", "context")
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
TOOL_FIELDS = ("tools", "functions")
PROMPTED = ("completion", "chosen")
"""Responses that may follow a conversation in `prompt` (TRL's data formats)."""

ABOUT_FIELDS = ("score", "category", "source")
"""Fields that a row keeps without showing them to the model: its grade, and its stratum."""


class Form(NamedTuple):
    """How the records of a file are read. kind: `text` (one response) or `turns` (a conversation).

    response: the field that holds the response or the conversation. others: fields that could hold it as well.
    names: other names of fields -> the names that are read. tags: of the turns, where they are the file's own.
    """

    kind: str
    response: str
    others: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    tags: Tags | None = None

    @property
    def is_one_text(self) -> bool:
        """Whether the response is one text that says all by itself, and needs no other field to be read."""
        return self.kind == "text" and self.response not in PROMPTED

    @property
    def note(self) -> str | None:
        """Which response is read, and how to read the other, where a file has two."""
        if not self.others:
            return None
        other = self.others[0]
        return f"the response is '{self.response}'; to take '{other}' instead, give --field {other}"

    def rename(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The record with its fields under the names that are read."""
        if not self.names:
            return record
        given = dict(self.names)
        return {given.get(name, name): value for name, value in record.items()}

    @property
    def column(self) -> str:
        """The name that the response's field has in the file."""
        return {name: given for given, name in self.names}.get(self.response, self.response)

    def fields(self) -> list[str]:
        """The fields, by their names in the file, that are looked at for a row's responses."""
        given = {name: old for old, name in self.names}
        wanted = [self.response, "history", *(INSTRUCTION_FIELDS if self.response in PROMPTED else ())]
        return [given.get(name, name) for name in wanted]


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


def detect_form(record: Mapping[str, Any], field: str | None = None) -> Form:
    """The form of a record, by its fields. field: the response's, where it is to be another than the first one known.

    Raises InputError naming the fields that were looked for.
    """
    if field is not None:
        return Form("turns" if _is_talk(record.get(field)) else "text", field)
    fields = [name for name in TURN_FIELDS if _is_list(record.get(name))]
    fields += [name for name in RESPONSE_FIELDS if name in record and not (fields and name == "chosen")]
    data = record.get("data")
    if isinstance(data, list) and data and all(isinstance(text, str) for text in data):
        fields.append("data")
    if fields:
        is_turns = fields[0] not in RESPONSE_FIELDS or _is_talk(record[fields[0]])
        return Form("turns" if is_turns else "text", fields[0], tuple(fields[1:]))
    found = ", ".join(map(repr, list(record)[:8])) or "none"
    wrong = next((name for name in TURN_FIELDS if name in record), None)
    if wrong:
        read_turns(record[wrong], wrong)
    raise InputError(
        f"no response field: expected one of {', '.join(RESPONSE_FIELDS)}, 'conversations' or 'messages', "
        f"found {found} (`nbutils.select` takes another one by --field)"
    )


def _is_talk(value: Any) -> bool:
    return any(isinstance(turn, Mapping) for turn in value) if isinstance(value, list) else _is_list(value)


def _is_list(value: Any) -> bool:
    is_text_of_one = isinstance(value, str) and re.match(r"\s*\[\s*\{", value) is not None
    is_columns = isinstance(value, Mapping) and bool(value) and all(isinstance(each, list) for each in value.values())
    return isinstance(value, list) or is_text_of_one or is_columns


def responses_of(record: Mapping[str, Any], form: Form) -> list[str]:
    """The assistant turns of a record, in order. Raises InputError when there is none or one is not text."""
    record = form.rename(record)
    before = _earlier_turns(record)
    if form.kind == "text":
        return [text for role, text in before if role == "assistant"] + [_response(record, form)]
    turns, _ = _conversation(record, form)
    if not any(role == "assistant" for role, _ in turns):
        raise InputError(f"no assistant turn in '{form.response}': add one, or take the row out")
    return [text for role, text in [*before, *turns] if role == "assistant"]


def to_row(record: Mapping[str, Any], number: int, source: str, form: Form | None = None) -> Row:
    """Read a record as the row `number` of a source, with all that a model is to see of it.

    Raises InputError where something of that cannot be read.
    """
    form = form or detect_form(record)
    record = form.rename(record)
    stratum = str(record.get("category") or record.get("source") or "")
    systems = [_optional(record, name) for name in SYSTEM_FIELDS]
    systems += [write_json(record[name]) for name in TOOL_FIELDS if record.get(name)]
    before = _earlier_turns(record)
    if form.kind == "text":
        turns = [Turn("assistant", _response(record, form))]
        asked, given = _questions(record, form)
        turns.insert(0, Turn("user", asked))
        context: list[Turn] = []
    else:
        (turns, context), given = _conversation(record, form), ""
    systems += [text for role, text in [*context, *turns] if role == "system"]
    questions: list[str] = []
    pairs: list[tuple[str, str]] = []
    for role, text in [*before, *context, *turns]:
        if role == "assistant":
            pairs.append(("\n\n".join(questions), text))
            questions = []
        elif role != "system":
            questions.append(text)
    if not any(role == "assistant" for role, _ in turns):
        raise InputError(f"a conversation without an assistant turn in '{form.response}': add one, or take the row out")
    *history, (question, answer) = pairs
    system = "\n".join(text for text in systems if text)
    return Row(number, source, question, given, answer, score_of(record), tuple(history), system, stratum)


def _earlier_turns(record: Mapping[str, Any]) -> list[Turn]:
    return read_history(record["history"], "history") if record.get("history") else []


def _conversation(record: Mapping[str, Any], form: Form) -> tuple[list[Turn], list[Turn]]:
    """The turns whose answers are trained, and those before them (TRL's `prompt` of a completion or a preference)."""
    turns = read_turns(record.get(form.response), form.response, form.tags)
    prompt = record.get("prompt")
    if form.response not in PROMPTED or prompt is None:
        return turns, []
    asked = read_turns(prompt, "prompt", form.tags) if _is_list(prompt) else [Turn("user", _optional(record, "prompt"))]
    if turns[: len(asked)] == asked or any(turn.role == "user" for turn in turns[:1]):
        return turns, []  # the conversation holds its prompt
    return turns, asked


def _questions(record: Mapping[str, Any], form: Form) -> tuple[str, str]:
    """Instruction and input: what several fields ask stands in both, what one of them repeats of another only once."""
    asked = [name for name in INSTRUCTION_FIELDS if name in record and name != form.response]
    given = [name for name in INPUT_FIELDS if name in record and name != form.response]
    if not asked and not any(record[name] for name in given):
        wanted = f"expected one of {', '.join(INSTRUCTION_FIELDS)}"
        raise InputError(f"no instruction field: {wanted}, or 'conversations' or 'messages'")
    texts = {name: _optional(record, name) for name in (*asked, *given)}
    said = [texts[name] for name in asked]
    kept = [text for i, text in enumerate(said) if not any(text in other for other in (*said[:i], *_longer(said, i)))]
    more = [*kept[1:], *dict.fromkeys(texts[name] for name in given)]
    return kept[0] if kept else "", "\n\n".join(text for text in more if text)


def _longer(texts: list[str], i: int) -> list[str]:
    return [text for text in texts[i + 1 :] if len(text) > len(texts[i])]


def _response(record: Mapping[str, Any], form: Form) -> str:
    value = record.get(form.response)
    if form.response not in record:
        given = ", ".join(list(record)[:8]) or "none"
        mend = "add it, or name another one by --field"
        raise InputError(f"the response field '{form.column}' is missing (the fields are {given}): {mend}")
    if not isinstance(value, str):
        mend = "make it text, or name another field by --field"
        raise InputError(f"the response field '{form.column}' is {type(value).__name__}, not text: {mend}")
    if form.response == "chosen" and not any(name in record for name in INSTRUCTION_FIELDS):
        raise InputError("'chosen' is text and there is no 'prompt': split the dialogue into prompt and chosen")
    return value


def _optional(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str | None):
        raise InputError(f"the field '{field}' is {type(value).__name__}, not text: make it text, or take it out")
    return value or ""


def used_fields(record: Mapping[str, Any], form: Form) -> tuple[list[str], list[str]]:
    """The fields of a record that its row is made of, and those that are left unread."""
    known = {form.response, "history", *SYSTEM_FIELDS, *TOOL_FIELDS, *ABOUT_FIELDS}
    known |= {*INSTRUCTION_FIELDS, *INPUT_FIELDS} if form.kind == "text" else set()
    known |= {"prompt"} if form.response in PROMPTED else set()
    used = [name for name in record if dict(form.names).get(name, name) in known]
    return used, [name for name in record if name not in used]


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
