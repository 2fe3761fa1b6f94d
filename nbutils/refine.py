"""Stage 03 (optional): introspective rewriting of a selection's responses by a language model.

The model first says what is wrong with a response and then writes a better one (paper, section on refinement;
refinement/refine_responses.py). The wording is ours (data/prompts/refine.toml) or that of the file that the profile
names. What comes back is checked: a critique in place of an answer, or a prompt's headings left in it, keeps the
original response; other doubts are flagged. Without an endpoint a scripted stand-in answers, which shows the machinery
and improves nothing.

    python -m nbutils.refine PROFILE [ARM]
"""

import contextlib
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import arms, data, lengths, select
from nbutils.core import disk, manifests
from nbutils.core.errors import InputError, exits_cleanly
from nbutils.core.judge_settings import Refining
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile, as_profile, seed_of, stage_parser
from nbutils.data.rows import Row
from nbutils.judging import judges
from nbutils.judging import prompts as judge_prompts
from nbutils.judging.prompts import JudgePrompt
from nbutils.judging.replies import describe_losses
from nbutils.llm import client
from nbutils.llm.client import Ledger, LocalBackend, Reply, Request
from nbutils.llm.control_tokens import restore
from nbutils.llm.thoughts import split_thoughts

if TYPE_CHECKING:
    from pandas import DataFrame

OPEN, CLOSE = "[Better Answer]", "[End]"
"""The tags of the project's own prompt."""

STAND_IN = "scripted stand-in"
STAND_IN_NOTE = f"Rewritten by a {STAND_IN}: it sets every sentence on a line of its own and improves nothing."


def describe(profile: str | Profile) -> str:
    """One line that says who rewrites how many rows."""
    settings = _settings(as_profile(profile))
    rows = f"{settings.rows:,}" if settings.rows else "all"
    if settings.refiner is None:
        return f"No endpoint is set, so a {STAND_IN} rewrites {rows} rows: it improves nothing."
    return f"{settings.refiner.model} rewrites {rows} rows."


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 03 would rewrite."""
    chosen, name = _prepare(profile, arm)
    settings = _settings(chosen)
    inputs = {"select": manifests.upstream(select.plan(chosen, name, seed))}
    made_of = {**settings.model_dump(), "prompt": load_prompt(settings).fingerprint}
    folder = manifests.stage_folder(chosen.name, "refine", name, seed)
    return Plan("refine", chosen.name, name, seed, folder, made_of, inputs, version=4)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Rewrite an arm's responses: `refined.jsonl`, one object a row with both versions and what became of it."""
    chosen, name = _prepare(profile, arm)
    selected = select.run(chosen, name, seed)
    return manifests.complete_calls(plan(chosen, name, seed), functools.partial(_refine, chosen, selected))


def rewritten_rows(profile: Profile, arm: str, seed: int, rows: Sequence[Row]) -> list[Row]:
    """The rows of a selection with the responses that stage 03 wrote for them."""
    refined = {record["id"]: record["refined"] for record in load_refined(run(profile, arm, seed))}
    return [row._replace(response=refined.get(row.id, row.response)) for row in rows]


def load_refined(manifest: Manifest) -> list[dict[str, Any]]:
    """The records that a finished rewriting holds."""
    return disk.read_jsonl(manifest.path("refined.jsonl"))


def published_rewrites(factor: float) -> "DataFrame":
    """The paper's 1,000 longest and what GPT-3.5 made of them: both texts, their NLTK words, and flags (of FLAGS).

    factor: the change of length that is flagged (see `find_flags`). Empty where a published file is not at hand.
    """
    import pandas as pd

    names = ("alpaca-1k-longest-published", "alpaca-1k-longest-refined")
    if not all(map(data.is_at_hand, names)):
        columns = dict.fromkeys(("instruction", "original", "refined", "flags"), "str")
        columns |= dict.fromkeys(("id", "words_before", "words_after"), "int64")
        return pd.DataFrame(columns=list(columns)).astype(columns)
    before, after = (data.load_rows(name) for name in names)
    words = [lengths.count_again([row.response for row in rows], "nltk_words") for rows in (before, after)]
    frame = pd.DataFrame({"id": [row.id for row in before], "instruction": [row.instruction for row in before]})
    frame["original"], frame["refined"] = ([row.response for row in rows] for rows in (before, after))
    frame["words_before"], frame["words_after"] = words
    frame["flags"] = [
        ", ".join(find_flags(*pair, factor)) for pair in zip(frame["original"], frame["refined"], strict=True)
    ]
    return frame


def _prepare(profile: str | Profile, arm: str | None) -> tuple[Profile, str]:
    given = as_profile(profile)
    return arms.prepare(given, arm or _settings(given).arm)


def _settings(profile: Profile) -> Refining:
    if profile.refining is None:
        raise InputError(f"profile '{profile.name}' has no table [refining]: add one to rewrite responses")
    return profile.refining


def _refine(profile: Profile, selected: Manifest, folder: Path) -> dict[str, Any]:
    settings = _settings(profile)
    rows = select.load_arm(selected)[: settings.rows]
    backend = judges.make_backend(settings.refiner) if settings.refiner else LocalBackend(rewrite_by_script)
    prompt = load_prompt(settings)
    requests = [build_request(row, settings, prompt) for row in rows]

    def reads(_: Request, reply: Reply) -> bool:
        return extract_rewrite(reply.text or "", prompt.tags) is not None

    with contextlib.closing(Ledger(disk.runs_folder() / profile.name / "ledger.sqlite")) as ledger:
        replies = client.ask_all(requests, backend, ledger, "rewriting", reads)
    records = [_record(row, reply.text, settings, prompt) for row, reply in zip(rows, replies, strict=True)]
    disk.write_jsonl(folder / "refined.jsonl", records)
    _say_losses(records, replies)
    refiner = settings.refiner.model if settings.refiner else STAND_IN
    return {"outputs": ["refined.jsonl"], "refiner": refiner, "asked": len(requests), **count_changes(records)}


def _say_losses(records: Sequence[dict[str, Any]], replies: Sequence[Reply]) -> None:
    """Say which rows got no rewriting and why, with one reply to look at."""
    names = {"failed": "failed", "kept": "unparsed"}
    rows = [
        {"status": names.get(record["status"], ""), "reason": reply.reason, "review": reply.text or reply.error}
        for record, reply in zip(records, replies, strict=True)
    ]
    for line in describe_losses(rows):
        print(f"rewriting: {line}", file=sys.stderr)


def load_prompt(settings: Refining) -> JudgePrompt:
    """The prompt that a profile names, or the project's own. A stand-in knows the form of the latter only."""
    return judge_prompts.load_prompt("refine", settings.prompt if settings.refiner else None)


def _texts(row: Row) -> dict[str, str]:
    given = f"\n\nInput:\n{row.input}" if row.input else ""
    return {"question": f"{row.instruction}{given}", "answer": row.response}


def build_request(row: Row, settings: Refining, prompt: JudgePrompt | None = None) -> Request:
    """The call that rewrites one response."""
    messages = (prompt or load_prompt(settings)).messages(_texts(row))
    if model := settings.refiner:
        service = judges.service_of(model)
        return Request(service, model.model, messages, settings.max_tokens, model.temperature, {})
    return Request("default", STAND_IN, messages, settings.max_tokens, 0.0, {"response": row.response})


def rewrite_by_script(request: Request) -> str:
    """The stand-in: it sets every sentence of the response on a line of its own, and nothing more."""
    sentences = re.split(r"(?<=[.!?])\s+", request.facts["response"].strip())
    return f"It could be easier to scan.\n{OPEN}\n" + "\n".join(sentences) + f"\n{CLOSE}"


def _record(row: Row, reply: str | None, settings: Refining, prompt: JudgePrompt) -> dict[str, Any]:
    rewritten = extract_rewrite(reply, prompt.tags) if reply is not None else None
    flags: list[str] = []
    if rewritten:
        marker = judge_prompts.make_marker(*_texts(row).values())
        is_closed = prompt.tags[1] in split_thoughts(str(reply))[1].partition(prompt.tags[0])[2]
        flags = find_flags(row.response, rewritten, settings.length_factor, marker, is_closed)
    usable = None if {"critique", "markers"} & set(flags) else rewritten  # with these flags the original is kept
    return {
        "id": row.id,
        "instruction": row.instruction,
        "original": row.response,
        "refined": usable or row.response,
        "status": "failed" if reply is None else "rewritten" if usable else "kept",
        "flags": flags,
    }


FLAGS = ("critique", "markers", "unclosed", "longer", "shorter")
_BEGINNING = 300  # characters in which a critique shows itself; further on, an answer may speak of answers
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


def extract_rewrite(reply: str, tags: tuple[str, str] = (OPEN, CLOSE)) -> str | None:
    """The text between the tags, or None unless there is exactly one opening tag with text after it.

    Only the whole closing tag ends the text; the word "End" in an answer cuts nothing. A tag may be dressed in bold, as
    a heading or as code, which goes with it; what a model thought before it replied is set aside.
    """
    opening, closing = (_dressed(tag) for tag in tags)
    parts = opening.split(split_thoughts(reply)[1])
    return (restore(closing.split(parts[1])[0]).strip() or None) if len(parts) == 2 else None


def _dressed(tag: str) -> re.Pattern[str]:
    """A tag with the marks around it: bold or code directly at it, and the sign of a heading that begins its line."""
    marks = r"(?:\*{1,3}|_{1,3}|`)?"
    return re.compile(rf"(?:^[ \t]*#{{1,6}}[ \t]*)?{marks}{re.escape(tag)}:?{marks}:?", re.MULTILINE)


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


def count_changes(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What became of the rows, how many are flagged, and mean NLTK words, lists and refusals before and after.

    Rows are rewritten, kept (no usable rewriting) or failed (no reply); the last two have the original response.
    """
    sides = {"before": [record["original"] for record in records], "after": [record["refined"] for record in records]}
    counts: dict[str, Any] = {"rows": len(records)}
    counts |= {name: sum(record["status"] == name for record in records) for name in ("rewritten", "kept", "failed")}
    before, after = (lengths.count(texts, "nltk_words") for texts in sides.values())
    counts |= {"mean_before": round(float(before.mean()), 2), "mean_after": round(float(after.mean()), 2)}
    counts["shorter"] = int((after < before).sum())
    counts |= {f"flag_{flag}": sum(flag in record.get("flags", ()) for record in records) for flag in FLAGS}
    for when, texts in sides.items():
        counts[f"lists_{when}"] = sum(len(_LIST.findall(text)) > 1 for text in texts)
    for when, texts in sides.items():
        counts[f"refusals_{when}"] = sum(bool(_REFUSAL.search(text[:_BEGINNING])) for text in texts)
    return counts


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.refine`; exits with status 1 where no response was rewritten."""
    given = stage_parser("refine", "Rewrite an arm's responses by a language model.").parse_args(arguments)
    made = run(given.profile, given.arm, seed_of(given))
    counts = ", ".join(f"{name} {made.facts[name]}" for name in ("asked", "rewritten", "kept", "failed"))
    print(f"{made.path('refined.jsonl')}: {counts}")
    if not made.facts["rewritten"]:
        print("nothing was rewritten", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
