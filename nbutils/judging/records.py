"""Judgment files: our own, anybody's, and the logs of other projects, read as judgment rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.analysis.items import LARGEST
from nbutils.analysis.verdicts import summarise
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest
from nbutils.data.records import number_records, open_records
from nbutils.judging import pairs, replies


def load_judgments(manifest: Manifest) -> list[dict[str, Any]]:
    """The judgment rows that a finished judging holds."""
    return disk.read_jsonl(manifest.path("judgments.jsonl"))


def write_judgments(folder: Path, judgments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the judgments and their summary; return the facts for the manifest."""
    summary = summarise(judgments)
    disk.write_jsonl(folder / "judgments.jsonl", judgments)
    disk.write_csv(folder / "summary.csv", summary)
    return {"outputs": ["judgments.jsonl", "summary.csv"], **verdicts.facts_of(judgments)}


# --- reading -------------------------------------------------------------------------------------------------------


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Read judgment rows of anybody's making, or a log that `judge_logs` knows.

    Raises InputError naming the row and the missing or faulty key.
    """
    rows = [row for number, record in number_records(open_records(path)) for row in _judgments(path, number, record)]
    if not rows:
        raise InputError(f"{path}: no judgments")
    return rows


def _judgments(path: Path, number: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        expanded = list(expand(record, number))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return [_checked_judgment(path, number, row) for row in expanded]


_OPTIONAL = {"test_set": "", "arm": "arm", "baseline": "baseline", "judge": "judge", "order": "arm_first"}


def _checked_judgment(path: Path, number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = _OPTIONAL | {
        key: value for key, value in record.items() if key not in _OPTIONAL or value is not None
    }
    for key in ("id", "preference", "len_arm", "len_baseline"):
        if key not in row:
            raise InputError(f"{path}: row {number}: no '{key}': id, preference, len_arm and len_baseline are needed")
    for key in ("id", *_OPTIONAL):
        if not isinstance(row[key], str | int | float):
            raise InputError(f"{path}: row {number}: '{key}' is {_shown(row[key])}, neither text nor a number")
    is_judged = row.get("status") not in ("unparsed", "failed")
    row["preference"] = _checked_preference(row["preference"], f"{path}: row {number}: ") if is_judged else None
    for key in ("len_arm", "len_baseline"):
        if not _is_number(row[key]) or row[key] < 0:
            raise InputError(f"{path}: row {number}: '{key}' is {_shown(row[key])}, not a length")
    difficulty = row.get("difficulty")
    if difficulty is not None and not _is_number(difficulty):
        raise InputError(f"{path}: row {number}: 'difficulty' is {_shown(difficulty)}, not a number")
    return row


def _checked_preference(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None  # tables write what is missing as NaN
    if not _is_number(value):
        raise InputError(f"{place}'preference' is {_shown(value)}, not a number")
    if not 0 <= value <= 1:
        raise InputError(f"{place}preference {value} is outside 0..1")
    return float(value)


def _shown(value: Any) -> str:
    """A value for an error's one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


# --- published judgments -------------------------------------------------------------------------------------------


def cherry_judgments() -> list[dict[str, Any]]:
    """The published Cherry LLM reviews as judgment rows: cherry-5% against alpaca-7b, two judges, five test sets."""
    records = data.load_table("cherry-reviews").to_dict("records")
    return [row for record in records for row in reviews_of(record, 0, "cherry-5%", "alpaca-7b")]


Record = Mapping[str, Any]

_ANNOTATION = ("generator_1", "generator_2", "output_1", "output_2", "preference")
_REVIEWS = ("Answer1", "Answer2", "review", "review_reverse")


def expand(record: Record, number: int) -> Iterator[Record]:
    """The judgment rows that a record of a log stands for; a record of no known log stands for itself.

    number: the record's place in its file, which is its id where it has none. Raises InputError naming a faulty key.
    """
    if isinstance(record.get("data"), list):  # a whole log as one object
        for place, inner in enumerate(record["data"]):
            if not isinstance(inner, dict):
                raise InputError(f"row {place} of 'data' is {type(inner).__name__}, not an object")
            yield from expand(inner, place)
    elif all(key in record for key in _ANNOTATION):
        yield _annotation(record, number)
    elif all(key in record for key in _REVIEWS):
        yield from reviews_of(record, number)
    else:
        yield record


def _annotation(record: Record, number: int) -> Record:
    """AlpacaEval draws the order at random and does not say which; its preferences lie between 1 and 2."""
    weight = record["preference"]
    if isinstance(weight, int | float) and (weight < 1 or weight > 2):  # NaN is neither: nothing was judged
        raise InputError(f"row {number}: AlpacaEval's 'preference' is {weight}, not between 1 and 2")
    return {
        "id": str(record.get("idx", number)),
        "test_set": "alpaca-eval",
        "arm": record["generator_2"],
        "baseline": record["generator_1"],
        "judge": record.get("annotator") or "judge",
        "order": "random",
        "preference": weight - 1 if isinstance(weight, int | float) else weight,
        "len_arm": _size(record, "output_2", number),
        "len_baseline": _size(record, "output_1", number),
        "measure": pairs.MEASURE,
    }


def reviews_of(record: Record, number: int, arm: str = "answer 1", baseline: str = "answer 2") -> list[dict[str, Any]]:
    """Both orders of a pair from its two reviews: the first answer is the arm's."""
    head = {"id": str(record.get("index", number)), "test_set": record.get("test_set", "")}
    sides = {"judge": record.get("judge", "judge"), "arm": arm, "baseline": baseline, "measure": pairs.MEASURE}
    sizes = {"len_arm": _size(record, "Answer1", number), "len_baseline": _size(record, "Answer2", number)}
    orders = zip(verdicts.ORDERS, (record["review"], record["review_reverse"]), strict=True)
    return [{**head, **sides, **sizes, "order": order, **replies.score_review(text, order)} for order, text in orders]


def _size(record: Record, key: str, number: int) -> int:
    if not isinstance(record[key], str):
        raise InputError(f"row {number}: '{key}' is {type(record[key]).__name__}, not text")
    return len(record[key])
