"""The forms of released files: training rows, test sets, and the tables of published results."""

# ruff: noqa: ARG001, ARG005 (all converters share one signature)

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbutils.core.errors import InputError
from nbutils.data import rows
from nbutils.data.packed import read_bytes
from nbutils.data.records import read_records
from nbutils.data.rows import EvalPrompt, Form, Row
from nbutils.data.turns import read_turns


def split_alpaca_prompt(prompt: str) -> tuple[str, str, str]:
    """Cut a flattened Alpaca prompt into preamble, instruction and input ("" where it has none).

    The released files write prompt and input on one line (paper's repository, data/alpaca). Only the longer preamble,
    which speaks of an input, is followed by one.
    """
    preamble, found, rest = prompt.partition("### Instruction: ")
    if not found:
        raise InputError(f"no '### Instruction:' in a released prompt: {prompt[:60]!r}")
    if " input " in preamble:
        instruction, _, given = rest.partition(" ### Input: ")
        return preamble, instruction, given
    return preamble, rest, ""


def released_row(record: Mapping[str, Any], number: int, source: str) -> Row:
    """Read a row of the paper's repository: FastChat turns around a flattened Alpaca prompt, id `identity_<row>`."""
    turns = read_turns(record.get("conversations"), "conversations")
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise InputError("a released row has one question and one answer")
    (_, prompt), (_, response) = turns
    _, instruction, given = split_alpaca_prompt(prompt)
    source_row = int(str(record["id"]).removeprefix("identity_"))
    return Row(source_row, source, instruction, given, response, rows.score_of(record))


def lima_row(record: Mapping[str, Any], number: int, source: str) -> Row:
    """Read a row of GAIR/lima: `conversations` is a flat list of turns, user first."""
    turns = record["conversations"]
    *history, (question, answer) = zip(turns[0::2], turns[1::2], strict=False)
    stratum = str(record.get("source") or "")
    return Row(number, source, question, "", answer, history=tuple(history), stratum=stratum)


ROW_FORMS: dict[str, Callable[[Mapping[str, Any], int, str], Row]] = {
    "released": released_row,
    "lima": lima_row,
    "alpaca": lambda record, number, source: rows.to_row(record, number, source, Form("text", "output")),
    "sharegpt": lambda record, number, source: rows.to_row(record, number, source, Form("turns", "conversations")),
}


def _own_prompt(record: Mapping[str, Any], number: int) -> EvalPrompt:
    known = {key: record[key] for key in ("input", "reference", "category") if record.get(key)}
    instruction = record.get("instruction") or record.get("prompt")
    if not isinstance(instruction, str):
        raise InputError("a test prompt needs the text field 'instruction' or 'prompt'")
    own_id = record.get("id")
    return EvalPrompt(str(number if own_id is None else own_id), "", instruction, **known)


PROMPT_FORMS: dict[str, Callable[[Mapping[str, Any], int], EvalPrompt]] = {
    "koala": lambda item, number: EvalPrompt(item["id"], "", item["prompt"]),
    # A one-element list; the official scripts format the list itself, which puts its brackets into the prompt.
    "lima": lambda item, number: EvalPrompt(f"lima_{number}", "", item["conversations"][0]),
    "sinstruct": lambda item, number: EvalPrompt(
        item["id"], "", item["instruction"], item["instances"][0]["input"], item["instances"][0].get("output", "")
    ),
    "vicuna": lambda item, number: EvalPrompt(
        f"vicuna_{item['question_id']}", "", item["text"], category=item["category"]
    ),
    "wizardlm": lambda item, number: EvalPrompt(
        f"wizardlm_{item['idx']}", "", item["Instruction"], category=item["Skill"]
    ),
    "mt-bench": lambda item, number: EvalPrompt(
        f"mt_bench_{item['question_id']}", "", item["turns"][0], "", "", item["category"], tuple(item["turns"][1:])
    ),
    "alpaca-eval": lambda item, number: EvalPrompt(
        f"alpaca_eval_{number}", "", item["instruction"], category=item["dataset"]
    ),
    "own": _own_prompt,
}


def to_prompts(records: Iterable[Mapping[str, Any]], form: str, test_set: str, file: str = "") -> list[EvalPrompt]:
    """Read the records of a test set. Raises InputError with file (or test set) and row for one of another form."""
    prompts = []
    for number, record in enumerate(records):
        try:
            prompts.append(PROMPT_FORMS[form](record, number)._replace(test_set=test_set))
        except (KeyError, IndexError, TypeError, InputError) as error:
            where = f"{file or test_set}: row {number}"
            raise InputError(f"{where}: not a prompt of the form '{form}' ({error!s})") from None
    return prompts


def converter(form: str, instructions: Callable[[], list[str]]) -> Callable[[str, Path], Iterator[dict[str, Any]]]:
    """The function (member, path) -> records that reads the raw files of one form; instructions: AlpacaEval's."""
    if form == "cherry-reviews":
        return _cherry_reviews
    if form == "fastchat-pairs":  # without the prompts, which repeat the answers
        return lambda member, path: (
            {"file": member} | {key: value for key, value in record.items() if not key.endswith("_prompt")}
            for record in read_records(path)
        )
    if form == "mt-bench-answers":
        return lambda member, path: ({"file": member, **record} for record in read_records(path))
    # Some models lack answers, so an item's number is the place of its instruction and not of its record.
    numbers = {instruction: number for number, instruction in enumerate(instructions())}

    def of_alpaca_eval(model: str, path: Path) -> Iterator[dict[str, Any]]:
        for record in read_records(path):
            instruction = record["instruction"]
            if instruction not in numbers:
                raise InputError(f"{path}: not one of AlpacaEval's instructions: {instruction[:60]!r}")
            known = {"model": model, "idx": numbers[instruction]}
            if form == "preferences":
                yield {"annotator": record.get("annotator", ""), **known, "preference": record["preference"]}
            else:
                text = {"output": record["output"]} if form == "outputs" else {}
                yield {**known, **text, "n_chars": len(record["output"])}

    return of_alpaca_eval


def in_one_form(form: str, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of a merged container, with the names that the raw form's converter gives."""
    return [_with_prompt(record) if form == "cherry-reviews" else dict(record) for record in records]


def _cherry_reviews(member: str, path: Path) -> Iterator[dict[str, Any]]:
    test_set, _, judge = member.partition("_wrap_reviews_")
    for number, record in enumerate(json.loads(read_bytes(path))["data"]):
        yield _with_prompt({"test_set": test_set, "judge": judge, "index": number, **record})


def _with_prompt(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("prompt", "conversations", "instruction", "text", "Instruction")  # each test set has its own
    prompt = next(record[name] for name in names if record.get(name) is not None)
    kept = {key: record[key] for key in ("test_set", "judge", "index")}
    reviews = ("Answer1", "Answer2", "review", "scores", "review_reverse", "scores_reverse")
    return {**kept, "prompt": prompt, **{key: record[key] for key in reviews}}
