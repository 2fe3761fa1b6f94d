"""Published tables in their raw form: AlpacaEval's preferences and outputs, Cherry LLM's reviews, MT-Bench answers."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbutils.errors import InputError
from nbutils.files import read_bytes, read_records

Records = Iterator[dict[str, Any]]
Converter = Callable[[str, Path], Records]

_CHERRY_PROMPT_KEYS = ("prompt", "conversations", "instruction", "text", "Instruction")


def converter(form: str, alpaca_eval_instructions: Callable[[], list[str]]) -> Converter:
    """The function (member, path) -> records that reads the raw files of one form."""
    if form == "cherry-reviews":
        return _cherry_reviews
    if form == "mt-bench-answers":
        return _mt_bench_answers
    # Some models lack answers, so an item's number is the place of its instruction and not of its record.
    numbers = {instruction: number for number, instruction in enumerate(alpaca_eval_instructions())}
    convert = {"preferences": _preferences, "outputs": _outputs, "lengths": _lengths}[form]
    return lambda member, path: convert(member, path, numbers)


def in_one_form(form: str, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of a merged container, with the names that the raw form's converter gives."""
    return [_with_prompt(record) if form == "cherry-reviews" else dict(record) for record in records]


def _preferences(model: str, path: Path, numbers: Mapping[str, int]) -> Records:
    for record in read_records(path):
        number = _number(record, path, numbers)
        annotator = record.get("annotator", "")
        yield {"annotator": annotator, "model": model, "idx": number, "preference": record["preference"]}


def _outputs(model: str, path: Path, numbers: Mapping[str, int]) -> Records:
    for record in read_records(path):
        number = _number(record, path, numbers)
        yield {"model": model, "idx": number, "output": record["output"], "n_chars": len(record["output"])}


def _lengths(model: str, path: Path, numbers: Mapping[str, int]) -> Records:
    for record in _outputs(model, path, numbers):
        yield {key: record[key] for key in ("model", "idx", "n_chars")}


def _number(record: Mapping[str, Any], path: Path, numbers: Mapping[str, int]) -> int:
    instruction = record["instruction"]
    if instruction not in numbers:
        raise InputError(f"{path}: not one of AlpacaEval's instructions: {instruction[:60]!r}")
    return numbers[instruction]


def _cherry_reviews(member: str, path: Path) -> Records:
    test_set, _, judge = member.partition("_wrap_reviews_")
    for number, record in enumerate(json.loads(read_bytes(path))["data"]):
        yield _with_prompt({"test_set": test_set, "judge": judge, "index": number, **record})


def _with_prompt(record: Mapping[str, Any]) -> dict[str, Any]:
    """Each test set calls its prompt otherwise."""
    prompt = next(record[key] for key in _CHERRY_PROMPT_KEYS if record.get(key) is not None)
    kept = {key: record[key] for key in ("test_set", "judge", "index")}
    reviews = ("Answer1", "Answer2", "review", "scores", "review_reverse", "scores_reverse")
    return {**kept, "prompt": prompt, **{key: record[key] for key in reviews}}


def _mt_bench_answers(member: str, path: Path) -> Records:
    for record in read_records(path):
        yield {"file": member, **record}
