"""Stage 03 (optional): introspective rewriting of a selection's responses by a language model.

The model first says what is wrong with a response and then writes a better one (paper, section on refinement;
refinement/refine_responses.py). The wording is ours. Without an endpoint a scripted stand-in answers, which shows the
machinery and improves nothing.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import arms, artifacts, judges, lengths, llm, select
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import InputError
from nbutils.llm import Ledger, LocalBackend, Request
from nbutils.rows import Row
from nbutils.settings import Profile, Refining

OPEN, CLOSE = "[Better Answer]", "[End]"

_SYSTEM = "You are an experienced editor who improves answers without changing what they are about."
_TASK = (
    "First say briefly what keeps the answer from being excellent: is it helpful, to the point, right, detailed "
    f"enough, well ordered? Then write the improved answer between the line {OPEN} and the line {CLOSE}. Keep what is "
    "right in it and add nothing that the request does not need."
)

STAND_IN = "scripted stand-in"


def describe(profile: str | Profile) -> str:
    """One line that says who rewrites how many rows."""
    settings = _settings(arms.load(profile))
    rows = f"{settings.rows:,}" if settings.rows else "all"
    if settings.refiner is None:
        return f"No endpoint is set, so a {STAND_IN} rewrites {rows} rows: it improves nothing."
    return f"{settings.refiner.model} rewrites {rows} rows."


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 03 would rewrite."""
    chosen, name = _prepare(profile, arm)
    settings = _settings(chosen)
    inputs = {"select": artifacts.upstream(select.plan(chosen, name, seed))}
    made_of = {**settings.model_dump(), "prompt": artifacts.sha256_json([_SYSTEM, _TASK])}
    folder = artifacts.stage_folder(chosen.name, "refine", name, seed)
    return Plan("refine", chosen.name, name, seed, folder, made_of, inputs)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Rewrite an arm's responses: `refined.jsonl`, one object a row with both versions and what became of it."""
    chosen, name = _prepare(profile, arm)
    selected = select.run(chosen, name, seed)
    return artifacts.complete(plan(chosen, name, seed), functools.partial(_refine, chosen, selected))


def rewritten_rows(profile: Profile, arm: str, seed: int, rows: Sequence[Row]) -> list[Row]:
    """The rows of a selection with the responses that stage 03 wrote for them."""
    refined = {record["id"]: record["refined"] for record in load_refined(run(profile, arm, seed))}
    return [row._replace(response=refined.get(row.id, row.response)) for row in rows]


def load_refined(manifest: Manifest) -> list[dict[str, Any]]:
    """The records that a finished rewriting holds."""
    return artifacts.read_jsonl(manifest.path("refined.jsonl"))


def _prepare(profile: str | Profile, arm: str | None) -> tuple[Profile, str]:
    given = arms.load(profile)
    return arms.prepare(given, arm or _settings(given).arm)


def _settings(profile: Profile) -> Refining:
    if profile.refining is None:
        raise InputError(f"profile '{profile.name}' has no table [refining]: add one to rewrite responses")
    return profile.refining


def _refine(profile: Profile, selected: Manifest, folder: Path) -> dict[str, Any]:
    settings = _settings(profile)
    rows = select.load_arm(selected)[: settings.rows]
    backend = judges.make_backend(settings.refiner) if settings.refiner else LocalBackend(rewrite_by_script)
    ledger = Ledger(artifacts.runs_folder() / profile.name / "ledger.sqlite")
    replies = llm.ask_all([build_request(row, settings) for row in rows], backend, ledger, "rewriting")
    ledger.close()
    records = [_record(row, reply.text) for row, reply in zip(rows, replies, strict=True)]
    artifacts.write_jsonl(folder / "refined.jsonl", records)
    return {"outputs": ["refined.jsonl"], "refiner": _name(settings), **count_changes(records)}


def _name(settings: Refining) -> str:
    return settings.refiner.model if settings.refiner else STAND_IN


def build_request(row: Row, settings: Refining) -> Request:
    """The call that rewrites one response."""
    given = f"\n\nInput:\n{row.input}" if row.input else ""
    body = f"Request:\n{row.instruction}{given}\n\nAnswer:\n{row.response}\n\n{_TASK}"
    facts = {} if settings.refiner else {"response": row.response}
    service, temperature = "default", 0.0
    if settings.refiner:
        service, temperature = judges.service_of(settings.refiner), settings.refiner.temperature
    messages = (("system", _SYSTEM), ("user", body))
    return Request(service, _name(settings), messages, settings.max_tokens, temperature, facts)


def rewrite_by_script(request: Request) -> str:
    """The stand-in: it sets every sentence of the response on a line of its own, and nothing more."""
    sentences = re.split(r"(?<=[.!?])\s+", request.facts["response"].strip())
    return f"It could be easier to scan.\n{OPEN}\n" + "\n".join(sentences) + f"\n{CLOSE}"


def extract_rewrite(reply: str) -> str | None:
    """The text between the tags, or None unless there is exactly one opening tag with text after it.

    Only the bracketed closing tag ends the text; the word "End" in an answer cuts nothing.
    """
    _, *found = reply.split(OPEN)
    if len(found) != 1:
        return None
    return found[0].partition(CLOSE)[0].strip() or None


def _record(row: Row, reply: str | None) -> dict[str, Any]:
    rewritten = extract_rewrite(reply) if reply is not None else None
    status = "failed" if reply is None else "rewritten" if rewritten else "kept"
    return {
        "id": row.id,
        "instruction": row.instruction,
        "original": row.response,
        "refined": rewritten or row.response,
        "status": status,
    }


def count_changes(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many rows were rewritten, kept or failed, and the mean NLTK words before and after."""
    counts = {name: sum(record["status"] == name for record in records) for name in ("rewritten", "kept", "failed")}
    before = lengths.count([record["original"] for record in records], "nltk_words")
    after = lengths.count([record["refined"] for record in records], "nltk_words")
    shorter = int((after < before).sum())
    means = {"mean_before": round(float(before.mean()), 2), "mean_after": round(float(after.mean()), 2)}
    return {"rows": len(records), **counts, **means, "shorter": shorter}
