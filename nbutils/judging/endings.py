"""How a command that judges ends: what was lost and why, with one reply to look at, and whether anything was judged."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nbutils.llm.client import Reply

_WORDS = {
    "length": "cut off at the limit of tokens: raise --max-tokens, with another folder",
    "empty": "an empty answer, which was paid for: --retry-empty asks again",
    "filter": "withheld by a filter of contents",
    "refusal": "the model refused",
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
    if shown := next((text for row in lost if row["status"] == "unparsed" and (text := _in_a_line(row["review"]))), ""):
        lines.append(f"one of the replies that could not be read: {shown}")
    return lines


def end(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say on stderr what was lost; exits with status 1 where nothing was judged at all."""
    for line in describe_losses(rows):
        print(line, file=sys.stderr)
    if rows and all(row["status"] in ("failed", "unparsed", "kept") for row in rows):
        print("nothing was judged", file=sys.stderr)
        sys.exit(1)


def _why(row: Mapping[str, Any]) -> str:
    reason = row.get("reason", "")
    said = _WORDS.get(reason, "") or (_in_a_line(row["review"]) if row["status"] == "failed" else "no clear verdict")
    if row["status"] == "failed" and reason in _WORDS:
        said = f"{said} ({_in_a_line(row['review'])})"
    return f"{row['status']}: {said}"


def _in_a_line(text: str | None) -> str:
    said = " ".join((text or "").split())
    return said if len(said) <= 200 else f"{said[:199]}…"
