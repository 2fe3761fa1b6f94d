"""From a judge's reply to two scores, and from two orders to a verdict."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from nbutils.analysis.verdicts import ORDERS, ScorePair
from nbutils.llm.thoughts import split_thoughts

LONGEST_LINE = 300
"""Characters of a first line that can still be a verdict; a longer one is prose."""

LONGEST_JSON = 100_000
"""Characters of a JSON reply; no explanation is longer."""

_INVISIBLE = "\\ufeff\\u00ad\\u200b-\\u200f\\u2060"
_HIDDEN = re.compile(f"[{_INVISIBLE}]+")
_DRESSING = re.compile(r"[*_`#|()\[\]{}]+|~~+")
_BEFORE = re.compile(rf"[\s*_`~#|()\[\]{{}}{_INVISIBLE}]*")
_LABEL = r"(?:assistant|answer|response|model|ai)\s*#?\s*([12ab])\b(?:'s)?"
_WORDS = re.compile(
    r"\b(?:scores?|ratings?|rate|grades?|points?|final|overall|verdict|is|are|for|the|my|here|i|would|give|these"
    r"|respectively)\b[:=]?"
)
_NUMBER = r"(?<![\w./+\-])((?:10|[0-9])(?:\.[0-9]{1,4})?)(?:\s*(?:/|out of)\s*10(?:\.0+)?(?![\w/]))?(?![\w/]|\.[0-9])"
_SEPARATOR = r"\s*(?:\s|,|;|&|\band\b|\bvs\.?|\bversus\b|\s-\s|\s[–—]\s)\s*"
_PLAIN = re.compile(rf"{_NUMBER}{_SEPARATOR}{_NUMBER}\.?")
_LABELLED_NUMBER = rf"{_LABEL}\s*[:=\-]?\s*(?:an?\s)?{_NUMBER}"
_LABELLED = re.compile(rf"{_LABELLED_NUMBER}{_SEPARATOR}{_LABELLED_NUMBER}\.?")


def parse_scores(text: str) -> tuple[float, float] | None:
    """The two scores, 1 to 10, that the reply's first non-empty line gives, or None where it is not one clear pair.

    The line may be dressed ("**8 9**", "Score: 8, 9", "8/10 and 7/10", "Assistant 1: 8, Assistant 2: 9"; labels that
    come as 2 then 1 are put in order); anything else in it, a third number or a score out of range gives None. Later
    lines are never looked at, and quotation marks are no dressing, so a verdict that is quoted does not count. A line
    of markup alone (the fence of a code block) counts as empty.
    """
    line, found = _first_line(split_thoughts(text)[1]), None
    if plain := _PLAIN.fullmatch(line):
        found = float(plain[1]), float(plain[2])
    elif labelled := _LABELLED.fullmatch(line):
        labels, scores = (labelled[1] + labelled[3]), (float(labelled[2]), float(labelled[4]))
        found = {"12": scores, "21": scores[::-1]}.get(labels.translate(str.maketrans("ab", "12")))
    return found if found and all(1 <= score <= 10 for score in found) else None


def _first_line(text: str) -> str:
    """The first line that is not empty, without dressing and words around the verdict; "" for one that is too long."""
    # A reply may be a megabyte long, so no more of it is split into lines than a verdict can take.
    line = next(iter(_BEFORE.sub("", text, count=1)[: LONGEST_LINE + 1].splitlines()), "")
    if len(line) > LONGEST_LINE:
        return ""
    bare = _DRESSING.sub(" ", _HIDDEN.sub("", line)).strip().lower()
    return re.sub(r"\s+", " ", _WORDS.sub(" ", bare)).strip(" :=,;")


class Reading(NamedTuple):
    """What a pairwise reply says: the scores of the answers shown first and second where it gives any, and the
    preference for the one shown first, 0 to 1."""

    scores: ScorePair | None
    preference: float


def read_pair(text: str, form: str = "scores") -> Reading | None:
    """Read a pairwise reply of a form of nbutils/judging/prompts.py; None where it is not one clear verdict."""
    text = split_thoughts(text)[1]
    if form == "m/M":
        weight = parse_weighted(text)
        return None if weight is None else Reading(None, weight)
    if form == "[[A]]":
        letter = _only_verdict(text, r"[ABC]")
        return None if letter is None else Reading(None, {"A": 1.0, "B": 0.0, "C": 0.5}[letter])
    if form == "[[rating_a,rating_b]]":
        scores = parse_scores(_only_verdict(text, r"[0-9.]{1,7},\s*[0-9.]{1,7}") or "")
    else:
        scores = parse_structured(text) or parse_scores(text)
    return scores and Reading(scores, 0.5 + 0.5 * ((scores[0] > scores[1]) - (scores[0] < scores[1])))


def read_single(text: str, form: str, low: float = 1, high: float = 10) -> float | None:
    """The one score of a reply of the form `score` (its first line, dressed as in `parse_scores`) or `[[rating]]`."""
    number, text = r"[0-9]{1,2}(?:\.[0-9]{1,4})?", split_thoughts(text)[1]
    if form == "score":
        scored = re.fullmatch(rf"({number})(?:\s*(?:/|out of)\s*{high:g}(?:\.0+)?)?\.?", _first_line(text))
        found = scored and scored[1]
    else:
        found = _only_verdict(text, number)
    return float(found) if found is not None and low <= float(found) <= high else None


def grade(
    reply: str | None, error: str | None, form: str, low: float = 1, high: float = 10
) -> dict[str, float | str | None]:
    """The columns that a reply with one score gives: `score`, `status` and `review`; a reply of None has failed."""
    score = None if reply is None else read_single(reply, form, low, high)
    status = "failed" if reply is None else "unparsed" if score is None else "judged"
    return {"score": score, "status": status, "review": error if reply is None else reply}


def parse_structured(text: str) -> ScorePair | None:
    """The two grades of a JSON reply by our schema (nbutils/judging/pairs.py), or None for anything else.

    It may stand in a code block, and be cut off within its explanation, at the limit of tokens.
    """
    bare = re.sub(r"^```(?:json)?[ \t]*\n", "", text.strip(), count=1, flags=re.IGNORECASE)
    if bare != text.strip():  # the closing fence is missing where a reply was cut off
        bare = bare.removesuffix("```").strip()
    fields = _read_json(bare) or _read_json(bare.rstrip("\\") + '"}')
    grades = [fields.get(name) for name in ("grade_1", "grade_2")]
    numbers = [grade for grade in grades if isinstance(grade, int | float) and not isinstance(grade, bool)]
    known = [float(grade) for grade in numbers if 1 <= grade <= 10]
    if len(known) < len(grades) or set(fields) - {"grade_1", "grade_2", "explanation"}:
        return None
    return known[0], known[1]


def parse_weighted(text: str) -> float | None:
    """The preference for `m` against `M`: by the log-probabilities stored with the reply, else by its one letter."""
    fields = _read_json(text)
    if set(fields) == {"text", "logprobs"} and isinstance(fields["logprobs"], dict):
        # One letter can be several tokens of a vocabulary, with and without a space before it.
        found = [(token.strip(), value) for token, value in fields["logprobs"].items()]
        weights = {name: sum(math.exp(value) for token, value in found if token == name) for name in ("m", "M")}
        if total := sum(weights.values()):
            return weights["m"] / total
        text = str(fields["text"])
    lines = [line for line in split_thoughts(text)[1].splitlines() if line.strip()]
    letters = {read[1] for line in lines[:: max(1, len(lines) - 1)] if (read := _LETTER.fullmatch(line))}
    return {"m": 1.0, "M": 0.0}[letters.pop()] if len(letters) == 1 else None


_LETTER = re.compile(
    r"[\W_]*(?:(?i:the |my |final |best |better )*(?i:answer|verdict|choice)(?i: is)?[\W_]*)?([mM])[\W_]*"
)
"""A line that is one of the letters, on its own or after a word for it."""


def _read_json(text: str) -> dict[str, Any]:
    stripped = text.strip()
    if not stripped.startswith("{") or len(stripped) > LONGEST_JSON:
        return {}
    try:
        found = json.loads(stripped, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|`[^`]*`|'\[\[[^\[\]]*\]\]'")


def _only_verdict(text: str, inside: str) -> str | None:
    """The verdict in double brackets, where all of them agree and one stands, unquoted, on the first or last line.

    FastChat takes the first one found anywhere, so that a verdict quoted from an answer decides.
    """
    # Verdicts of any sort count, so that an unknown one beside ours is no agreement.
    found = set(re.findall(r"\[\[([^\[\]\n]{1,40})\]\]", text))
    if len(found) != 1 or not re.fullmatch(inside, verdict := found.pop()):
        return None
    lines = text.strip().splitlines()
    own_words = (_QUOTED.sub("", line[-LONGEST_JSON:]) for line in (lines[0], lines[-1]))
    return verdict if any(f"[[{verdict}]]" in words for words in own_words) else None


def score_review(review: str | None, order: str, form: str = "scores") -> dict[str, Any]:
    """The columns that a stored review gives: scores by side, preference and status. Re-parsing costs nothing.

    form: the `output_format` of the prompt that asked; a review of None is a call that failed.
    """
    read = read_pair(review, form) if review is not None else None
    is_swapped = order != ORDERS[0]
    scores = (read.scores if read else None) or (None, None)
    return {
        "score_arm": scores[is_swapped],
        "score_baseline": scores[not is_swapped],
        "preference": None if read is None else 1 - read.preference if is_swapped else read.preference,
        "status": "failed" if review is None else "judged" if read else "unparsed",
    }


def rescore(judgments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored judgment rows, read anew from their reviews; a call that failed stays one."""
    reviews = ((row, None if row["status"] == "failed" else row["review"]) for row in judgments)
    return [row | score_review(review, row["order"], row.get("form", "scores")) for row, review in reviews]
