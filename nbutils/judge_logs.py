"""Judge logs of other projects, read as judgment rows: AlpacaEval's annotations, and pairwise reviews in both orders.

Known by their keys: `generator_1`, `generator_2`, `output_1`, `output_2` and `preference` (1 to 2) are AlpacaEval's;
`Answer1`, `Answer2`, `review` and `review_reverse` are those of the Cherry LLM authors and of others who use the same
script.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nbutils import judge
from nbutils.errors import InputError

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
        "measure": judge.MEASURE,
    }


def reviews_of(record: Record, number: int, arm: str = "answer 1", baseline: str = "answer 2") -> list[dict[str, Any]]:
    """Both orders of a pair from its two reviews: the first answer is the arm's."""
    head = {"id": str(record.get("index", number)), "test_set": record.get("test_set", "")}
    sides = {"judge": record.get("judge", "judge"), "arm": arm, "baseline": baseline, "measure": judge.MEASURE}
    sizes = {"len_arm": _size(record, "Answer1", number), "len_baseline": _size(record, "Answer2", number)}
    orders = zip(judge.ORDERS, (record["review"], record["review_reverse"]), strict=True)
    return [{**head, **sides, **sizes, "order": order, **judge.score_review(text, order)} for order, text in orders]


def _size(record: Record, key: str, number: int) -> int:
    if not isinstance(record[key], str):
        raise InputError(f"row {number}: '{key}' is {type(record[key]).__name__}, not text")
    return len(record[key])
