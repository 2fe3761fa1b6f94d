"""From a judge's reply to two scores, and from two orders to a verdict."""

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nbutils.analysis.verdicts import ORDERS, ScorePair
from nbutils.llm.client import Reply, in_a_line
from nbutils.llm.thoughts import split_thoughts

LONGEST_LINE = 300  # characters of a first line that can still be a verdict; a longer one is prose
LONGEST_JSON = 100_000  # characters of a JSON reply; no explanation is longer

_INVISIBLE = "\\ufeff\\u00ad\\u200b-\\u200f\\u2060"
_HIDDEN = re.compile(f"[{_INVISIBLE}]+")
_DRESSING = re.compile(r"</?answer>|\\boxed|[$*_`#|()\[\]{}]+|~~+", re.IGNORECASE)
_MARKUP = rf"[\s$*_`~#|()\[\]{{}}{_INVISIBLE}]*"
_BEFORE = re.compile(rf"{_MARKUP}(?:(?:<answer>|\\boxed){_MARKUP}){{0,2}}", re.IGNORECASE)
_LABEL = r"(?:assistant|answer|response|model|ai)\s*#?\s*([12ab])\b(?:'s)?"
_WORDS = re.compile(
    r"\b(?:final answers?(?=\s*(?::|is\b|are\b))|scores?|ratings?|rate|grades?|points?|final|overall|verdict|is|are|for"
    r"|the|my|here|i|would|give|these|respectively)\b[:=]?"
)
_NUMBER = r"(?<![\w./+\-])((?:10|[0-9])(?:\.[0-9]{1,4})?)(?:\s*(?:/|out of)\s*10(?:\.0+)?(?![\w/]))?(?![\w/]|\.[0-9])"
_SEPARATOR = r"\s*(?:\s|,|;|&|\band\b|\bvs\.?|\bversus\b|\s-\s|\s[–—]\s)\s*"
_PLAIN = re.compile(rf"{_NUMBER}{_SEPARATOR}{_NUMBER}\.?")
_LABELLED_NUMBER = rf"{_LABEL}\s*[:=\-]?\s*(?:an?\s)?{_NUMBER}"
_LABELLED = re.compile(rf"{_LABELLED_NUMBER}{_SEPARATOR}{_LABELLED_NUMBER}\.?")


def parse_scores(text: str) -> tuple[float, float] | None:
    """The two scores, 1 to 10, that the reply's first non-empty line gives, or None where it is not one clear pair.

    A block of thoughts before it is set aside. The line may be dressed ("**8 9**", "Score: 8, 9", "8/10 and 7/10",
    "Assistant 1: 8, Assistant 2: 9"; labels that come as 2 then 1 are put in order); anything else in it, a third
    number or a score out of range gives None. Later lines are never looked at, and quotation marks are no dressing, so
    a verdict that is quoted does not count. A line of markup alone (the fence of a code block) counts as empty.
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

    It may stand in a code block, behind words of the judge's own, and be cut off within its explanation, at the limit
    of tokens. An object that the words before or behind it quote from an answer is none.
    """
    bare = text.strip()
    bare = bare if _OBJECT.match(bare) else _only_object(bare)
    fields = _read_json(bare) or _read_json(bare.rstrip("\\") + '"}')
    grades = [fields.get(name) for name in ("grade_1", "grade_2")]
    numbers = [grade for grade in grades if isinstance(grade, int | float) and not isinstance(grade, bool)]
    known = [float(grade) for grade in numbers if 1 <= grade <= 10]
    if len(known) < len(grades) or set(fields) - {"grade_1", "grade_2", "explanation"}:
        return None
    return known[0], known[1]


_OBJECT = re.compile(r"\{\s*\"(?:grade_[12]|explanation)\"\s*:")
_FENCE = re.compile(r"(?:\A|(?<=[\s:]))```[ \t]*(?:json)?\s*\Z", re.IGNORECASE)
_OWN = re.compile(
    r"\b(?:my|here (?:is|are) the|the (?:final|following)|final|json)\b[^\n]{0,80}"
    r"\b(?:evaluations?|grades?|grading|scores?|ratings?|assessment|verdict|judge?ment|reply|response|object|output)\b"
    r"[^\n.;]{0,60}:[\s*_]*\Z",
    re.IGNORECASE,
)


def _only_object(text: str) -> str:
    """The one JSON object with grades that a reply gives beside other words; "" where none is clearly the judge's own.

    It stands in a code block, or on lines of its own at the end, or behind words that announce the judge's grades.
    Words of which one tells what somebody else says make it a quotation, and so do numbers behind it.
    """
    found = list(itertools.islice(_OBJECT.finditer(text), 2)) if len(text) <= LONGEST_JSON else []
    if len(found) != 1:
        return ""
    before, inside = text[: found[0].start()], text[found[0].start() :]
    head = _FENCE.sub("", before)
    try:
        end = json.JSONDecoder(strict=False).raw_decode(inside)[1]
    except (ValueError, RecursionError):
        end = len(inside)  # cut off within its explanation, or no object
    behind = inside[end:].strip()
    if is_fenced := head != before:
        behind = behind.removeprefix("```").strip()
    is_own, line = bool(_OWN.search(head[-300:])), head.rpartition("\n")[2]
    sentences = re.split(r"(?<=[.!?])\s+|\n+", head.strip()[-1000:])
    is_told = any(_IS_NO_DECISION.search(each) for each in [*sentences[-1 if is_own else -3 :], behind])
    is_read_on = bool(behind) and (not is_fenced or len(behind) > LONGEST_LINE or re.search(r"\d", behind))
    stands_out = is_fenced or is_own or not line.strip()
    return inside[:end] if stands_out and not is_told and not is_read_on and not line.startswith(">") else ""


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
    if not (stripped := text.strip()).startswith("{") or len(stripped) > LONGEST_JSON:
        return {}
    try:
        return dict(json.loads(stripped, object_pairs_hook=_once, strict=False))
    except (ValueError, RecursionError):
        return {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|`[^`]*`|'\[\[[^\[\]]*\]\]'")
_BY_ITSELF = re.compile(
    r"(?:[\"“«`]|(?<!\w)')(?:[*_ ]*rating[*_ ]*:)?[*_ ]*\[\[[^\[\]]*\]\][*_ .]*(?:[\"”»`]|'(?!\w))", re.IGNORECASE
)
_NAMES_IT = re.compile(
    r"\b(?:verdict|decision|conclusion|judge?ment|assessment|evaluation|winner|ranking|rating|score|grade|output|final|tie"
    r"|format for (?:this|my))\b[^;\"]{0,90}?(?:\b(?:is|be|as|by)|[:\-–])\W*$"
    r"|\bI(?:['’]m| am| would| will| must|['’]d)?(?: therefore)? (?:rate|rating|give|giving|choose|score|grade)\b"
    r"[^;\"]{0,90}$",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(r"^\W*(?:therefore|thus|hence|so|as such|consequently)\b[^;\"]{0,90}$", re.IGNORECASE)
_DECIDES = re.compile(r"^\W*(?:assistant [ab] )?(?:is|wins|provide[sd]|gives?|gave|has|for a tie)\b|^\W*$", re.I)
_SPEAKS = (
    r"says?|said|saying|writes?|wrote|writing|written|states?|stated|claims?|claimed|reads"
    r"|(?:ends?|begins?|closes?) with"
    r"|inserts?|inserted|embed\w*|appends?|appended|prints?|printed|repeats?|repeated|quote[sd]?|quoting|tells?|told"
    r"|demand\w*|insist\w*|instruct(?:s|ed|ing)|declar\w*|announc\w*|pretend\w*|asserts?|manipulat\w*|inject\w*"
    r"|trick\w*|itself"
)
_REPORTS = re.compile(rf"\b(?:{_SPEAKS})\b", re.IGNORECASE)
_IS_NO_DECISION = re.compile(
    rf"\b(?:{_SPEAKS}|contains?|contained|includes?|included|adds?|added|adding|outputs|outputted|asks?|asked|asking"
    r"|requests|requested|orders|ordered|suggests|suggested|awards|awarded|tri(?:es|ed)|attempt\w*|ignore[sd]?|wants?"
    r"|wanted|expects|expected|if|unless|whether|otherwise|example|e\.g|instead of|rather than|called|named"
    r"|in (?:the |its |an? )?(?:first |second |assistant [ab](?:['’]s)? )?(?:answer|response) (?:the|its|an?)"
    r"|(?:assistant|answer|response|model|user|prompt|text)(?: [ab12])?['’]s (?:\w+ )?(?:verdict|rating|score|decision"
    r"|output|judge?ment|conclusion|grade))\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bcannot|\bneither|\bnor|\bno)(?: \w+){0,3}[\s:*_\"“«`'(]*\[\[", re.IGNORECASE
)
_SAYS_IT = re.compile(
    r"\b(?:says|said|writes|wrote|states|claims|claimed|reads|(?:ends|begins) (?:with|in|by)|contains|includes|inserts"
    r"|prints|asks for|demands)(?: (?:that|the|its|own|a|final|words?|verdict|rating|of|is|with))*[\s:,]*\[\[",
    re.IGNORECASE,
)


def _only_verdict(text: str, inside: str) -> str | None:
    """The verdict in double brackets, where all of them agree and one is the judge's own on the first or last line.

    A verdict in quotation marks, as FastChat's prompt shows it, is a decision only on the last line, by itself within
    its marks, and in a sentence that decides and reports of nobody's words. FastChat takes the first one found
    anywhere, so that a verdict quoted from an answer decides.
    """
    # Verdicts of any sort count, so that an unknown one beside ours is no agreement.
    found = set(re.findall(r"\[\[([^\[\]\n]{1,40})\]\]", text))
    if len(found) != 1 or not re.fullmatch(inside, verdict := found.pop()):
        return None
    lines = [line[-LONGEST_JSON:] for line in text.strip().splitlines()]
    mark = f"[[{verdict}]]"
    if _is_own(lines[0], mark) or (_is_own(lines[-1], mark) and not _closes_quotation(lines, mark)):
        return verdict
    return verdict if _decides(lines, mark) else None


def _is_own(line: str, mark: str) -> bool:
    """Whether a line gives a verdict outside of quotation marks, and neither denies it nor says who else gives it."""
    words = _QUOTED.sub("", line)
    is_told = line.startswith(">") or any(pattern.search(words) for pattern in (_DENIED, _SAYS_IT))
    return mark in words and not is_told


def _closes_quotation(lines: Sequence[str], mark: str) -> bool:
    """Whether the verdict on the last line stands within quotation marks that were opened on a line before."""
    head, last = "\n".join(lines[:-1]), lines[-1]
    is_open = head.count('"') % 2 == 1 and last.count('"') % 2 == 1
    return (is_open and '"' in last.rpartition(mark)[2]) or head.count("“") > head.count("”")


def _decides(lines: Sequence[str], mark: str) -> bool:
    """Whether the verdict on the last line, quoted by itself, is the decision of the sentence that it stands in."""
    places = [found for found in _BY_ITSELF.finditer(lines[-1]) if mark in found.group()]
    if not places or lines[-1].startswith(">"):
        return False
    place = places[-1]
    behind = re.split(r"(?<=[.!?])\s|\n", lines[-1][place.end() :])[0]
    filled = [line for line in lines[-8:-1] if line.strip()]
    before = "\n".join([*filled[-1:], lines[-1][: place.start()]])
    *_, above, sentence = ["", *re.split(r"(?<=[.!?])[\"”»)]*\s+", before)]
    if not (sentence + behind).strip(" .*_\n"):  # a sentence of the verdict alone: the one above says whose it is
        return not _REPORTS.search(above)
    told = f"{sentence}{mark}{behind}"
    is_decision = _NAMES_IT.search(sentence) or (_FOLLOWS.search(sentence) and _DECIDES.search(behind))
    return bool(is_decision) and not _IS_NO_DECISION.search(told) and not _DENIED.search(told)


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


# --- what was lost ----------------------------------------------------------------------------------------------------

_REASONS = {
    "length": "cut off at the limit of tokens: raise --max-tokens (max_tokens), with another folder",
    "empty": "an empty answer: it was paid for, --retry-empty asks again",
    "filter": "withheld by a filter of contents: --retry-empty asks again",
    "refusal": "the model refused: --retry-empty asks again",
    "overflow": "too long for the model's context",
}


def told_by(reply: Reply, status: str) -> dict[str, str]:
    """The columns `reason`, of what was not judged, and `reasoning`, where there are any."""
    found = {"reason": reply.reason if status != "judged" else "", "reasoning": reply.reasoning}
    return {name: said for name, said in found.items() if said}


def describe_losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that say what was not judged, the commonest reasons first, and show one reply that could not be read."""
    lost = [row for row in rows if row["status"] in ("failed", "unparsed")]
    counted = Counter(_why(row) for row in lost)
    lines = [f"{times} {why}" for why, times in counted.most_common(5)]
    if more := sum(counted.values()) - sum(times for _, times in counted.most_common(5)):
        lines.append(f"{more} for other reasons")
    if shown := next((text for row in lost if row["status"] == "unparsed" and (text := in_a_line(row["review"]))), ""):
        lines.append(f"one of the replies that could not be read: {shown}")
    return lines


def end_command(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say on stderr what was lost; exits with status 1 where nothing was judged at all."""
    for line in describe_losses(rows):
        print(line, file=sys.stderr)
    if rows and all(row["status"] in ("failed", "unparsed", "kept") for row in rows):
        print("nothing was judged", file=sys.stderr)
        sys.exit(1)


def _why(row: Mapping[str, Any]) -> str:
    reason = row.get("reason", "")
    said = _REASONS.get(reason, "") or (in_a_line(row["review"]) if row["status"] == "failed" else "no clear verdict")
    if row["status"] == "failed" and reason in _REASONS:  # such a call is made again unbidden: the mend is not for it
        said = f"{said.partition(':')[0]} ({in_a_line(row['review'])})"
    return f"{row['status']}: {said}"
