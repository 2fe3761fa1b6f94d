"""From a judge's reply to two scores, and from two orders to a verdict."""

import math
import re

Pair = tuple[float, float] | None

LONGEST_LINE = 300
"""Characters of a first line that can still be a verdict; a longer one is prose."""

_INVISIBLE = "\\ufeff\\u00ad\\u200b-\\u200f\\u2060"
_HIDDEN = re.compile(f"[{_INVISIBLE}]+")
_DRESSING = re.compile(r"[*_`#|()\[\]{}]+|~~+")
_BEFORE = re.compile(rf"[\s*_`~#|()\[\]{{}}{_INVISIBLE}]*")
_LABEL = r"(?:assistant|answer|response|model|ai)\s*#?\s*([12ab])\b(?:'s)?"
_WORDS = re.compile(r"\b(?:scores?|ratings?|rate|points?|final|overall|verdict|is|are|for|the|respectively)\b[:=]?")
_NUMBER = r"(?<![\w./+\-])((?:10|[0-9])(?:\.[0-9]{1,4})?)(?:\s*(?:/|out of)\s*10(?:\.0+)?(?![\w/]))?(?![\w/]|\.[0-9])"
_SEPARATOR = r"\s*(?:\s|,|;|&|\band\b|\bvs\.?|\bversus\b|\s-\s|\s[–—]\s)\s*"
_PLAIN = re.compile(rf"{_NUMBER}{_SEPARATOR}{_NUMBER}\.?")
_LABELLED = re.compile(rf"{_LABEL}\s*[:=\-]?\s*{_NUMBER}{_SEPARATOR}{_LABEL}\s*[:=\-]?\s*{_NUMBER}\.?")


def parse_scores(text: str) -> tuple[float, float] | None:
    """The two scores, 1 to 10, that the reply's first non-empty line gives, or None where it is not one clear pair.

    The line may be dressed ("**8 9**", "Score: 8, 9", "8/10 and 7/10", "Assistant 1: 8, Assistant 2: 9"; labels that
    come as 2 then 1 are put in order); anything else in it, a third number or a score out of range gives None. Later
    lines are never looked at, and quotation marks are no dressing, so a verdict that is quoted does not count. A line
    of markup alone (the fence of a code block) counts as empty.
    """
    line = _first_line(text)
    if len(line) > LONGEST_LINE:
        return None
    bare = _DRESSING.sub(" ", _HIDDEN.sub("", line)).strip().lower()
    found = _read_labelled(bare) or _read_plain(bare)
    return found if found and all(1 <= score <= 10 for score in found) else None


def _first_line(text: str) -> str:
    # A reply may be a megabyte long, so no more of it is split into lines than a verdict can take.
    start = _BEFORE.sub("", text, count=1)[: LONGEST_LINE + 1]
    return (start.splitlines() or [""])[0]


def _read_plain(line: str) -> Pair:
    found = _PLAIN.fullmatch(_without_words(line))
    return (float(found[1]), float(found[2])) if found else None


def _read_labelled(line: str) -> Pair:
    found = _LABELLED.fullmatch(_without_words(line))
    if found is None:
        return None
    labels = found[1].translate(str.maketrans("ab", "12")), found[3].translate(str.maketrans("ab", "12"))
    scores = float(found[2]), float(found[4])
    return {("1", "2"): scores, ("2", "1"): scores[::-1]}.get(labels)


def _without_words(line: str) -> str:
    return re.sub(r"\s+", " ", _WORDS.sub(" ", line)).strip(" :=,;")


def verdict(first_order: Pair, swapped_order: Pair, rule: str = "exact") -> str:
    """`win`, `tie`, `lose` or `unscored` for the target, from its scores in both orders.

    Each order is a (target, baseline) pair. The signs of the two orders are added up (paper, utils/result_graph.py:
    win and tie make a win, win and lose a tie). `exact` compares the scores, `paper` their integer parts, so that 8.5
    against 8 is equal there. Any missing order makes the prompt unscored under both rules; so does a NaN, as which
    tables store what is missing. Raises ValueError for an unknown rule.
    """
    if rule not in ("exact", "paper"):
        raise ValueError(f"unknown rule '{rule}': choose exact or paper")
    if first_order is None or swapped_order is None or any(map(math.isnan, (*first_order, *swapped_order))):
        return "unscored"
    total = _sign(first_order, rule) + _sign(swapped_order, rule)
    return "win" if total > 0 else "lose" if total < 0 else "tie"


def _sign(scores: tuple[float, float], rule: str) -> int:
    target, baseline = map(int, scores) if rule == "paper" else scores
    return (target > baseline) - (target < baseline)
