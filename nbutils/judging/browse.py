"""The answer pairs of a report: every prompt with both answers and all reviews, as data for the page's browser.

Texts that models and datasets wrote reach the page as JSON inside a data block, and the browser's document only as text
nodes (report.js): nothing of it is ever read as HTML.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nbutils.analysis import verdicts as analysis_verdicts
from nbutils.core.tables import shorten

LONGEST_TEXT = 20_000
"""Characters that are shown of one text."""

MAXIMUM_BYTES = 7_000_000
"""Most that the pairs may take up, so that a whole report stays below 8 MB."""

Answers = Mapping[tuple[str, str], Mapping[str, Any]]


class Pairs(NamedTuple):
    """The data block's text, and how many of the run's pairs and reviews it holds."""

    json: str
    shown: int
    total: int
    reviews: int


def collect(judgments: Sequence[dict[str, Any]], answers: Mapping[str, Answers], rule: str) -> list[dict[str, Any]]:
    """One record per baseline and prompt: both answers, and per judge the verdict and the reviews of its orders.

    answers: by arm, then by (test set, prompt id); rule: the rule of the verdicts.
    """
    pairs: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (name, baseline), rows in _by_comparison(judgments).items():
        verdicts = analysis_verdicts.verdicts_of(rows, rule)
        for row in rows:
            place = (row["test_set"], row["id"])
            pair = pairs.setdefault((baseline, *place), _start(row, answers, place))
            judged = pair["judges"].setdefault(name, {"verdict": verdicts[place], "reviews": []})
            judged["reviews"].append(_review(row))
    return list(pairs.values())


def _by_comparison(judgments: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in judgments:
        groups.setdefault((row["judge"], row["baseline"]), []).append(row)
    return groups


def _start(row: dict[str, Any], answers: Mapping[str, Answers], place: tuple[str, str]) -> dict[str, Any]:
    mine, theirs = (answers[row[side]][place] for side in ("arm", "baseline"))
    head = {"set": row["test_set"], "id": row["id"], "prompt": shorten(mine["prompt"], LONGEST_TEXT), "judges": {}}
    return {**head, "arm": row["arm"], "baseline": row["baseline"], "mine": _answer(mine), "theirs": _answer(theirs)}


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"text": shorten(answer["response"], LONGEST_TEXT), "chars": len(answer["response"])}
    return {**shown, "tokens": answer.get("n_tokens"), "finish": answer.get("finish_reason")}


def _review(row: dict[str, Any]) -> list[Any]:
    text = shorten(row.get("review") or "", LONGEST_TEXT)
    return [row["order"], row["status"], row["score_arm"], row["score_baseline"], text]


def pack(pairs: Sequence[dict[str, Any]], most: int = MAXIMUM_BYTES) -> Pairs:
    """The pairs as a data block of at most `most` bytes; where they do not fit, as many as do, evenly spread."""
    kept = list(pairs)
    text = to_json(kept)
    while len(text) > most and kept:
        # The target's length per pair is only known on average, so this may take a second round.
        count = min(len(kept) - 1, int(len(kept) * most / len(text)))
        kept = [kept[i * len(kept) // count] for i in range(count)] if count else []
        text = to_json(kept)
    reviews = sum(len(judged["reviews"]) for pair in kept for judged in pair["judges"].values())
    return Pairs(text, len(kept), len(pairs), reviews)


def to_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` block: no `<`, `>` or `&`, no line separators, no lone surrogates.

    The escapes are JSON's own, so that the parsed value is unchanged. The length in characters is the one in bytes.
    """
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, separators=(",", ":")))
