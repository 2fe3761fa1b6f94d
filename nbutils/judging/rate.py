"""Rate a dataset's rows one by one, in the manner of AlpaGasus.

    python -m nbutils.judging.rate ROWS --judge MODEL --base-url URL -o DIR

ROWS is a JSON, JSON-lines or Parquet file in Alpaca, ShareGPT or messages form. DIR gets `ratings.jsonl` (one object a
row) and the ledger of calls; re-running continues. `python -m nbutils.select ROWS --ratings DIR/ratings.jsonl` chooses
rows by them, as does an arm such as `alpaca-1k-rated-7` in a profile with `ratings = "DIR/ratings.jsonl"`.
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import JudgeModel, PromptFile
from nbutils.data.records import RecordFile, open_records
from nbutils.data.rows import Row, fingerprint_row
from nbutils.judging import command, judges, replies
from nbutils.judging import prompts as judge_prompts
from nbutils.judging.command import LEDGER
from nbutils.judging.prompts import JudgePrompt
from nbutils.llm import client
from nbutils.llm.client import Ledger, Reply, Request

RATINGS = "ratings.jsonl"
SCALE = (0, 5)


# --- rating --------------------------------------------------------------------------------------------------------


def load_prompt(given: PromptFile | None = None) -> JudgePrompt:
    """The prompt that is named, or the project's own (data/prompts/rate.toml)."""
    return judge_prompts.load(given, "rate", "rating")


def build_request(row: Row, judge: JudgeModel, prompt: JudgePrompt) -> Request:
    """The call that rates one row: its last question and response."""
    asked = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
    facts = {} if judge.kind in ("openai", "transformers") else {"answer": row.response, "scale": SCALE}
    messages = prompt.messages({"question": asked, "answer": row.response})
    service, model = judges.service_of(judge), judge.model or judge.name
    return Request(service, model, messages, judge.max_tokens, judge.temperature, facts)


def rate_rows(
    rows: Sequence[Row], judge: JudgeModel, ledger: Ledger, prompt: JudgePrompt | None = None
) -> list[dict[str, Any]]:
    """Rate every row: one record for each, in their order, with `score` None where there is no clear grade."""
    prompt = prompt or load_prompt()
    requests = [build_request(row, judge, prompt) for row in rows]
    backend = judges.make_backend(judge, judges.SINGLE_CONTROLS)
    replies = client.ask_all(requests, backend, ledger, f"rating by {judge.name}")
    return [_rating(row, judge, prompt, reply) for row, reply in zip(rows, replies, strict=True)]


def _rating(row: Row, judge: JudgeModel, prompt: JudgePrompt, reply: Reply) -> dict[str, Any]:
    head = {"id": row.id, "source": row.source, "text": fingerprint_row(row), "judge": judge.name}
    return {**head, **replies.grade(reply.text, reply.error, prompt.output_format, *SCALE)}


def describe(ratings: Sequence[dict[str, Any]]) -> str:
    """Counts that add up, and how many rows have which grade."""
    counts = ", ".join(f"{name} {count}" for name, count in verdicts.count_calls(ratings).items())
    tiers = Counter(rating["score"] for rating in ratings if rating["score"] is not None)
    shown = ", ".join(f"{score:g} x{tiers[score]}" for score in sorted(tiers, reverse=True)[:12])
    return f"{counts}; grades: {shown or 'none'}"


# --- the command ---------------------------------------------------------------------------------------------------


def read_rows(file: RecordFile) -> list[Row]:
    """All rows of a file; raises InputError naming the row that cannot be read."""
    rows = data.read_own_rows(file)
    if not rows:
        raise InputError(f"{file.path}: no rows")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m nbutils.judging.rate", description="Rate a dataset's rows.")
    parser.add_argument("rows", metavar="ROWS", type=Path, help="a JSON, JSON-lines or Parquet file")
    command.add_judge_options(parser, tuple(judges.SINGLE_CONTROLS))
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.rate`."""
    given = _parser().parse_args(arguments)
    judging = command.judge_of(given, tuple(judges.SINGLE_CONTROLS))
    prompt, file = load_prompt(command.prompt_of(given)), open_records(given.rows)
    rows = read_rows(file)
    items = {str(row.id): disk.sha256_json(row) for row in rows}
    held = command.describe_held(f"the ratings of {given.rows.name}", judging, prompt.fingerprint, items)
    command.refuse_other(given.out, RATINGS, held)
    if not command.settle_cost([build_request(row, judging, prompt) for row in rows], judging, given):
        return
    ratings = _rate_into(given.out, rows, judging, prompt, held)
    print(f"{given.out}: {describe(ratings)}")


def _rate_into(
    out: Path, rows: Sequence[Row], judging: JudgeModel, prompt: JudgePrompt, held: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rate into a folder: `ratings.jsonl`."""
    with contextlib.closing(Ledger(out / LEDGER)) as ledger:
        ratings = rate_rows(rows, judging, ledger, prompt)
    disk.write_json(out / command.HELD, held)
    disk.write_jsonl(out / RATINGS, ratings)
    return ratings


if __name__ == "__main__":
    main()
