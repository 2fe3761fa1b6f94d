"""Answer files of anybody's making and of other tools, read as rows with id, prompt, response and arm.

FastChat's and arena-hard's `model_answer`, AlpacaEval's `model_outputs.json`, lm-eval's samples, chats as servers write
them, the Batch API's output, and tables whose columns are called as people call them.
"""

import collections
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils.core.disk import writable
from nbutils.core.errors import InputError
from nbutils.data.records import number_records, open_records
from nbutils.data.turns import read_turns

_IDS = ("custom_id", "id", "question_id", "uid", "doc_id", "idx", "index", "key", "task_id")
_PROMPTS = ("prompt", "instruction", "question", "query", "request", "user_prompt", "user_input", "problem", "input")
_RESPONSES = (
    *("response", "output", "outputs", "completion", "generation", "generated_text", "model_output", "model_response"),
    *("model_answer", "prediction", "reply", "answer"),
)
_TALKS = ("messages", "conversations", "conversation")
TURN_1 = "[Turn 1]"
"""Begins a text that shows several turns."""
_BENCHES = {"mt_bench": "mt-bench", "arena-hard": "arena-hard"}
"""Folders of question files, by how their names begin, and the test set that judgments of them are called by."""


class Talk(NamedTuple):
    """What a record says: the questions put to a model (none where its file leaves them out), and its answers."""

    questions: list[str]
    answers: list[str]


class Questions:
    """Questions that lie in a file of their own, as FastChat and arena-hard keep them: question.jsonl.

    It is looked for beside an answer file and in the folder above, or `given`.
    """

    def __init__(self, answers: Path, given: Path | None = None) -> None:
        near = [folder / "question.jsonl" for folder in answers.resolve().parents[:2]]
        self.path = given or next((path for path in near if path.is_file()), None)
        self.test_set, self._known = "", dict[str, list[str]]()

    def ask(self, record: Mapping[str, Any]) -> list[str]:
        """The questions of an answer without any. Raises InputError saying how to give them."""
        name = next((str(record[key]) for key in _IDS if record.get(key) is not None), None)
        mend = "give the file that holds the questions with --questions FILE, or put it beside the answers"
        if name is None or self.path is None:
            raise InputError(f"no 'prompt': an answer needs id, prompt and response; {mend} (question.jsonl)")
        if not self._known:
            self._known = dict(_read_questions(self.path))
            folder = self.path.resolve().parent.name
            self.test_set = next((known for begins, known in _BENCHES.items() if folder.startswith(begins)), "")
        if name not in self._known:
            raise InputError(f"question '{name}' is not in {self.path}: {mend}")
        return self._known[name]


def _read_questions(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, record in number_records(open_records(path)):
        named = _under_our_names(record.get("body", record) | {key: record[key] for key in _IDS if key in record})
        turns = record.get("turns") or _talk_of(named).questions or named.get("prompt", named.get("text"))
        texts = [_text_of(turn) for turn in (turns if isinstance(turns, list) else [turns])]
        if "id" not in named or not texts or None in texts:
            raise InputError(f"{path}: row {number}: a question needs question_id and turns, or id and prompt")
        yield str(named["id"]), [text for text in texts if text is not None]


def read_answers(path: Path, questions: Path | None = None) -> list[dict[str, Any]]:
    """Read an answer file of anybody's making, or of another tool (docs/judging.md lists them).

    questions: the file with the prompts of answers that leave them out. Each turn of FastChat's is an answer of its
    own, the turns of one question one `cluster`. Where no row has an id, the prompt's text is one (the row's number
    where a prompt comes twice), which a line says. Raises InputError naming the row and the missing or faulty key.
    """
    answers, known = [], Questions(path, questions)
    for number, record in number_records(open_records(path)):
        place = f"{path}: row {number}"
        try:
            found = list(_to_answers(record, known))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        for answer in found:
            answers.append({"test_set": "", "arm": path.stem} | answer)
            _check_answer(answers[-1], place)
    if not answers:
        raise InputError(f"{path}: no answers")
    _name_answers(answers, path)
    # lm-eval writes an answer once for each filter that it is scored by.
    once = {(each["id"], each["response"]) if "resps" in each else place: each for place, each in enumerate(answers)}
    answers = list(once.values())
    times = collections.Counter((answer["test_set"], answer["id"]) for answer in answers)
    (test_set, prompt), most = times.most_common(1)[0]
    if most > 1:
        raise InputError(f"{path}: prompt '{prompt}' of '{test_set}' is answered {most} times: keep one answer")
    if turns := sum("cluster" in answer for answer in answers):
        print(f"{path}: {turns} turns of conversations: each is judged by itself, with what was said before it")
    return answers


def _check_answer(answer: Mapping[str, Any], place: str) -> None:
    for key in ("prompt", "response"):
        if key not in answer:
            raise InputError(f"{place}: no '{key}': an answer needs id, prompt and response")
    if "id" in answer and (isinstance(answer["id"], bool) or not isinstance(answer["id"], str | int)):
        raise InputError(f"{place}: 'id' is {answer['id']!r}, neither text nor a whole number")
    for key in ("prompt", "response", "test_set", "arm"):
        if not isinstance(answer[key], str):
            raise InputError(f"{place}: '{key}' is {type(answer[key]).__name__}, not text")
    for key in ("id", "test_set", "arm"):
        if writable(text := str(answer.get(key, ""))) != text:
            raise InputError(f"{place}: '{key}' is {answer[key]!a}, which holds half a character: write it anew")


def _name_answers(answers: Sequence[dict[str, Any]], path: Path) -> None:
    """Give ids to answers without any, and make all of them texts."""
    without = [number for number, answer in enumerate(answers) if "id" not in answer]
    if without and len(without) < len(answers):
        raise InputError(f"{path}: row {without[0]}: no 'id', and other rows have one: give every row one")
    is_unique = len({(answer["test_set"], answer["prompt"]) for answer in answers}) == len(answers)
    for number, answer in enumerate(answers):
        answer["id"] = str(answer.get("id", name_prompt(answer["prompt"]) if is_unique else number))
    if without:
        print(f"{path}: no ids: rows are matched by {'their prompt' if is_unique else 'their number'}")


def _to_answers(record: Mapping[str, Any], known: Questions) -> Iterator[dict[str, Any]]:
    """The answers that a record of an answer file stands for, under our names; a faulty one stays as it is."""
    named = _under_our_names(record)
    questions, answers = _talk_of(named)
    is_bare = not answers and "prompt" not in named and isinstance(named.get("response"), str)
    if not (answers or is_bare):
        yield named
        return
    answers = answers or [named["response"]]
    # FastChat's turns are judged one by one, a chat's last one only.
    is_whole = is_bare or isinstance(named.get("choices"), list)
    if not questions:
        questions = [named["prompt"]] if isinstance(named.get("prompt"), str) else known.ask(record)
        named = {"test_set": known.test_set} | named if known.test_set else named
    if len(answers) > len(questions):
        raise InputError(f"{len(answers)} answers to {len(questions)} questions: give the file of all questions")
    for turn in range(1 if is_whole else len(answers), len(answers) + 1):
        answer = named | {"prompt": _tell(questions[:turn], True), "response": _tell(answers[:turn])}
        if is_whole and len(questions) > 1 and "id" in named:
            answer |= {"id": f"{named['id']}-{turn}", "cluster": str(named["id"])}
        yield answer


def _tell(turns: Sequence[str], are_questions: bool = False) -> str:
    """Several turns as one text; one turn stays as it is."""
    if len(turns) == 1:
        return turns[0]
    told = "\n\n".join(f"[Turn {number}]\n{text}" for number, text in enumerate(turns, start=1))
    end = f"\n\n(The answer to turn {len(turns)} is to be judged; the turns before it are shown for what they lead to.)"
    return told + (end if are_questions else "")


def _under_our_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with id, prompt, response and arm, where it has them by another name, or in capitals."""
    named = {re.sub(r"[\s.-]+", "_", str(key).strip().lower()): value for key, value in record.items()} | dict(record)
    if isinstance(named.get("doc"), dict) and "resps" in named:
        named |= _lm_eval_answer(named)
    for name, aliases in (("id", _IDS), ("prompt", _PROMPTS), ("response", _RESPONSES)):
        place = next((key for key in aliases if not is_missing(named.get(key))), None)
        if place and (name not in record or place == "custom_id"):  # the Batch API's `id` is its own line's
            named[name] = named[place]
    named |= {"prompt": _text_of(named["prompt"], named["prompt"])} if "prompt" in named else {}
    named |= {"response": _only(named["response"])} if "response" in named else {}
    given = named.get("input")
    if "prompt" not in record and "instruction" in named and isinstance(given, str) and given:
        named["prompt"] = f"{named['prompt']}\n\n{given}"
    arm = next((named[key] for key in ("model_id", "generator", "model") if isinstance(named.get(key), str)), None)
    named |= {"arm": arm} if arm and "arm" not in named else {}
    named |= {"test_set": "arena-hard"} if {"uid", "ans_id"} <= record.keys() and "test_set" not in named else {}
    return named


def _lm_eval_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """A line of lm-eval's samples: the document's own question, or else the prompt that was sent."""
    asked, said = record.get("arguments"), record["resps"]
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, str):
        raise InputError("likelihoods of choices, or several answers: samples of a task that generates one are judged")
    asked = next(iter(asked.values())) if isinstance(asked, dict) and asked else asked
    while isinstance(asked, list | dict) and asked:
        asked = asked[0] if isinstance(asked, list) else asked.get("arg_0")
    own = next((record["doc"][key] for key in _PROMPTS if isinstance(record["doc"].get(key), str)), asked)
    return {"prompt": own, "response": said}


def _only(value: Any) -> Any:
    """The text of a list that holds one: what servers and batch runners write where several could be asked for."""
    return (
        _only(value[0])
        if isinstance(value, list) and len(value) == 1 and _text_of(value[0])
        else _text_of(value, value)
    )


def _text_of(value: Any, other: Any = None) -> Any:
    """A text, or the one that an object holds (arena-hard's `content` and `answer`, vLLM's `text`), else `other`."""
    if isinstance(value, dict):
        return next(
            (text for key in ("content", "answer", "text") if (text := _text_of(value.get(key))) is not None), other
        )
    return value if isinstance(value, str) else other


def _talk_of(record: Mapping[str, Any]) -> Talk:
    """The conversation that a record holds as FastChat, a server's reply or a chat has it; empty for none."""
    body = record.get("response")
    body = body.get("body", body) if isinstance(body, dict) else record  # a line of the Batch API's output
    choices = body.get("choices") if isinstance(body, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        turns = choices[0].get("turns", [choices[0].get("message", choices[0])])
        texts = [_text_of(turn) for turn in (turns if isinstance(turns, list) else [turns])]
        if not texts or None in texts:
            raise InputError("'choices' holds no texts: an answer needs choices[0].turns, or .message")
        return Talk([], texts)
    field = next((key for key in _TALKS if isinstance(record.get(key), list)), None)
    said = [*record[field]] if field else []
    if (
        not field
        and isinstance(record.get("prompt"), list)
        and all(isinstance(each, dict) for each in record["prompt"])
    ):
        answer = record.get("response")
        field, said = "prompt", [*record["prompt"], *(answer if isinstance(answer, list) else [_said(answer)])]
    if not field or (
        field in _TALKS and isinstance(record.get("response"), str) and isinstance(record.get("prompt"), str)
    ):
        return Talk([], [])
    plain = [
        turn | {"content": _text_of(turn["content"], turn["content"])} if "content" in turn else turn for turn in said
    ]
    turns = [turn for turn in read_turns(plain, field) if turn.role in ("user", "assistant")]
    questions, answers = ([turn.text for turn in turns if turn.role == role] for role in ("user", "assistant"))
    return Talk(questions, answers)


def _said(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def length_of(said: Any, turn: int | None) -> int | None:
    """Characters of a side: a text, or what the model says in a conversation, in all or in one turn of it."""
    if isinstance(said, str) and re.match(r'\s*\[\s*"', said):  # LMSYS's tables hold lists of texts as JSON
        with contextlib.suppress(ValueError):
            said = json.loads(said)
    if isinstance(said, str):
        return len(said.rpartition("\n\nAssistant:")[2].strip() if said.lstrip().startswith("Human:") else said)
    if not isinstance(said, list):
        return None
    spoken = [each.get("content") for each in said if isinstance(each, dict) and each.get("role") == "assistant"]
    texts = spoken if any(isinstance(each, dict) for each in said) else said
    parts = [each if isinstance(each, list) else [each] for each in (texts[turn - 1 : turn] if turn else texts)]
    words = [each.get("text") if isinstance(each, dict) else each for part in parts for each in part]
    return sum(len(word) for word in words if isinstance(word, str)) if words else None


def is_missing(value: Any) -> bool:
    """Whether a table's cell holds nothing: None, an empty text, or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def name_prompt(text: str) -> str:
    """An id for a prompt that has none: a hash of its text."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:12]
