"""Conversations as people write them: whose turn it is, what is said, and what the model is to see besides."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nbutils.core.errors import InputError

TURN_FIELDS = ("conversations", "conversation", "messages", "dialogue", "dialog", "turns")
"""Fields that hold a whole conversation; `data` holds one where it is a list of texts (UltraChat)."""

NOT_ROWS = (*TURN_FIELDS, "history", "tools", "functions", "prompt", "completion", "chosen", "rejected", "images")
"""Fields of a row that may hold a list of objects without being a list of rows."""

_ROLES = {
    "user": "human user prompter questioner customer student",
    "assistant": "gpt assistant model bot chatbot chatgpt gpt4 gpt-4 gpt-3.5 gpt-3.5-turbo gpt-4o bing bard claude "
    "gemini llama mistral ai llm agent function_call tool_call",
    "system": "system developer",
    "tool": "tool function function_response tool_response tool_result observation ipython environment",
}
SPEAKERS = {name: role for role, names in _ROLES.items() for name in names.split()}
"""The one table of who speaks: name in lower case -> user, assistant, system or tool.

What a model writes to call a function is its own turn, what comes back is a tool's (LLaMA-Factory's data format).
"""

ROLE_KEYS, TEXT_KEYS = ("from", "role", "speaker", "author"), ("value", "content", "text", "utterance")


class Tags(NamedTuple):
    """Keys and speakers of a file's turns where they are its own (LLaMA-Factory's `tags` in dataset_info.json)."""

    role: str = ""
    text: str = ""
    speakers: tuple[tuple[str, str], ...] = ()


class Turn(NamedTuple):
    """One turn: whose (user, assistant, system or tool), and its text."""

    role: str
    text: str


def read_turns(value: Any, field: str, tags: Tags | None = None) -> list[Turn]:
    """The turns of a conversation: objects with speaker and text, pairs of input and output, or texts in alternation.

    Raises InputError naming the turn (from 0) whose speaker is not known or whose text cannot be read.
    """
    turns: list[Turn] = []
    for number, turn in enumerate(as_list(value, field)):
        where = f"turn {number} of '{field}'"
        if isinstance(turn, str):
            turns.append(Turn("assistant" if number % 2 else "user", turn))
        elif not isinstance(turn, Mapping):
            raise InputError(f"{where} is not an object but {type(turn).__name__}: give it a speaker and a text")
        elif isinstance(turn.get("input"), str) and isinstance(turn.get("output"), str):
            turns += [Turn("user", turn["input"]), Turn("assistant", turn["output"])]
        else:
            turns.append(_read_turn(turn, where, tags or Tags()))
    return turns


def as_list(value: Any, field: str) -> Sequence[Any]:
    """A list, also where it was written as the JSON text of one, or as one list a key (`datasets.Sequence`).

    Raises InputError for anything else.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"'{field}' is text that begins like a list but is no JSON ({error}): mend it") from None
    columns = list(value.values()) if isinstance(value, Mapping) else []
    if columns and all(isinstance(each, list) and len(each) == len(columns[0]) for each in columns):
        value = [dict(zip(value, each, strict=True)) for each in zip(*columns, strict=True)]
    if not isinstance(value, list | tuple):
        raise InputError(f"'{field}' is {type(value).__name__}, not a list of turns: make it one")
    return value


def _read_turn(turn: Mapping[str, Any], where: str, tags: Tags) -> Turn:
    role_key = tags.role or next((key for key in ROLE_KEYS if isinstance(turn.get(key), str)), "")
    name = turn.get(role_key)
    if not isinstance(name, str):
        raise InputError(f"{where} lacks its speaker: one of {', '.join(ROLE_KEYS)} must name it")
    role = dict(tags.speakers).get(name) or SPEAKERS.get(name.strip().lower())
    if role is None:
        known = ", ".join(sorted({*SPEAKERS, *dict(tags.speakers)}))
        raise InputError(f"{where} is by '{name}', whose role is not known: call it one of {known}")
    keys = [tags.text] if tags.text else [key for key in TEXT_KEYS if key in turn]
    calls = [call for key in ("tool_calls", "function_call") if (call := turn.get(key))]
    text = _read_content(turn.get(keys[0]), where) if keys else None
    if text is None and not calls:
        raise InputError(f"{where} has no text: write it into '{keys[0] if keys else TEXT_KEYS[1]}', or take it out")
    return Turn(role, "\n".join([*([text] if text else []), *map(write_json, calls)]) if calls else text or "")


def _read_content(content: Any, where: str) -> str | None:
    """A turn's text; None where it has none. A list of parts is the texts of its parts, one behind the other."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{where} holds {type(content).__name__}, not text: make it text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            what = kind if kind else type(part).__name__
            raise InputError(f"{where} has a part of type '{what}': only text is read, take the row out")
        texts.append(text)
    return "".join(texts)


def write_json(value: Any) -> str:
    """A call or a definition of a tool as the model is to see it, without the nulls that a table fills in."""
    return value if isinstance(value, str) else json.dumps(_without_nulls(value), ensure_ascii=False, default=str)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list | tuple) else value


def read_history(value: Any, field: str) -> list[Turn]:
    """LLaMA-Factory's `history`: pairs of a question and its answer; a conversation of another form is read as one."""
    turns: list[Turn] = []
    for number, pair in enumerate(as_list(value, field)):
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        if isinstance(pair, Mapping):
            return read_turns(value, field)
        if not is_pair:
            raise InputError(f"entry {number} of '{field}' is no pair of a question and an answer: make it one")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns
