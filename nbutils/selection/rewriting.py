"""What a rewritten response looks like: taken out of the reply, checked, and compared with the original."""

import re
from collections.abc import Sequence
from typing import Any

from nbutils import lengths

FLAGS = ("critique", "markers", "unclosed", "longer", "shorter")
REFUSED = ("critique", "markers")
"""Flags with which the original response is kept."""

_BEGINNING = 300
"""Characters in which a critique shows itself; further on, an answer may speak of answers."""

_TEXT = r"(?:answer|response|output|reply)"
_CRITIQUES = (
    rf"\bto (?:further )?(?:improve|enhance|increase) (?:the |this |its )?(?:[a-z]+(?:,| and| or)? ){{0,6}}"
    rf"(?:of |in )?(?:the |this |given |provided )*{_TEXT}\b",
    rf"\b(?:the|this|your) (?:provided|given|original|current|existing) {_TEXT}\b",
    r"^\W*(?:the|this|your) (?:provided|given|original|current|existing) [a-z ]{3,60}\b(?:lacks?|fails?|exceeds?|"
    r"does not|do not|is (?:limited|relevant|suitable|well|incomplete)|are (?:well|relevant)|accurately|outlines)\b",
    rf"^\W*(?:the|this) {_TEXT} (?:lacks?|fails?|does not|could|should|provided|provides|needs?|"
    r"is (?:not|well|too|quite|relevant|suitable|clear|helpful|incomplete|limited))\b",
    r"^\W*(?:upon|after|on) (?:analy[sz]ing|reviewing|examining) the (?:given|provided|original)\b",
    r"^\W*(?:helpfulness|relevance|accuracy|level of details?|structure)\s*:",
)
_CRITIQUE = re.compile("|".join(f"(?:{pattern})" for pattern in _CRITIQUES), re.IGNORECASE)
_HEADINGS = re.compile(
    r"\[/?\s*(?:better|revised|improved|end of)\s+answer\s*\]|\[end\]|^\W*(?:better|improved|revised) answer\W*$"
    r"|<</?[0-9a-f]{16}>>",
    re.IGNORECASE | re.MULTILINE,
)
_LIST = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S", re.MULTILINE)
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) sorry|sorry|i apologi[sz]e|apologies|i can(?:not|'t)|i(?:'m| am) unable|as an ai)\b",
    re.IGNORECASE,
)


def extract_rewrite(reply: str, tags: tuple[str, str]) -> str | None:
    """The text between the tags, or None unless there is exactly one opening tag with text after it.

    Only the whole closing tag ends the text; the word "End" in an answer cuts nothing.
    """
    _, *found = reply.split(tags[0])
    if len(found) != 1:
        return None
    return found[0].partition(tags[1])[0].strip() or None


def find_flags(original: str, rewritten: str, factor: float, marker: str = "", is_closed: bool = True) -> list[str]:
    """What is doubtful about a rewritten response, of FLAGS.

    critique: it begins by speaking of the answer instead of answering; markers: headings or fences of the prompt are
    left in it; unclosed: the closing tag is missing, so it may have been cut off; longer, shorter: it has `factor`
    times the characters of the original, or less than one such part. What the original says itself is no fault.
    """
    has_marker = bool(marker and marker in rewritten) or bool(_HEADINGS.search(rewritten))
    found = {
        "critique": is_critique(rewritten) and not is_critique(original),
        "markers": has_marker and not _HEADINGS.search(original),
        "unclosed": not is_closed,
        "longer": len(rewritten) > factor * max(1, len(original)),
        "shorter": factor * len(rewritten) < len(original),
    }
    return [name for name in FLAGS if found[name]]


def is_critique(text: str) -> bool:
    """Whether a text begins by speaking of an answer that was given."""
    return bool(_CRITIQUE.search(text[:_BEGINNING]))


def has_list(text: str) -> bool:
    """Whether a text has at least two lines that begin with a bullet or a number."""
    return len(_LIST.findall(text)) > 1


def is_refusal(text: str) -> bool:
    """Whether a text begins with an apology or a refusal."""
    return bool(_REFUSAL.search(text[:_BEGINNING]))


def count_changes(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What became of the rows, how many are flagged, and mean NLTK words, lists and refusals before and after.

    Rows are rewritten, kept (no usable rewriting) or failed (no reply); the last two have the original response.
    """
    counts = {name: sum(record["status"] == name for record in records) for name in ("rewritten", "kept", "failed")}
    before = lengths.count([record["original"] for record in records], "nltk_words")
    after = lengths.count([record["refined"] for record in records], "nltk_words")
    means = {"mean_before": round(float(before.mean()), 2), "mean_after": round(float(after.mean()), 2)}
    flagged = {f"flag_{flag}": sum(flag in record.get("flags", ()) for record in records) for flag in FLAGS}
    return {
        "rows": len(records),
        **counts,
        **means,
        "shorter": int((after < before).sum()),
        **flagged,
        **_looks(records),
    }


def _looks(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    found = {}
    for name, holds in (("lists", has_list), ("refusals", is_refusal)):
        for side, when in (("original", "before"), ("refined", "after")):
            found[f"{name}_{when}"] = sum(holds(record[side]) for record in records)
    return found
