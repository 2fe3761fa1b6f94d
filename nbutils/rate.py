"""Rate a dataset's rows one by one, in the manner of AlpaGasus, and keep the best.

    python -m nbutils.rate ROWS --judge MODEL --base-url URL -o DIR [--threshold 4.5 | --top-k K | --tiers K --seed N]

ROWS is a JSON, JSON-lines or Parquet file in Alpaca, ShareGPT or messages form. DIR gets `ratings.jsonl` (one object a
row), the ledger of calls, and `selected` in the form of ROWS. Re-running continues, and other thresholds cost nothing.

`--tiers K` is the published mixture of AlpaGasus-1k: every row of the highest grade, then of the next ones, and a
uniform sample of the grade that fits only in part (of Alpaca: 11 rows of 5.0, then 989 drawn from those of 4.5). In a
profile `ratings = "DIR/ratings.jsonl"` makes the same choice an arm: `alpaca-1k-rated-7` (nbutils/arms.py).
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import artifacts, grades, judge_options, judge_prompts, judges, llm, select, tally, verdicts
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import RecordFile, open_records
from nbutils.grades import Grades, Ids, draw_threshold, draw_tiers, draw_top_k
from nbutils.judge_options import LEDGER
from nbutils.judge_prompts import Prompt
from nbutils.llm import Ledger, Reply, Request
from nbutils.rows import Row
from nbutils.settings import JudgeModel, PromptFile

RATINGS = "ratings.jsonl"
SCALE = (0, 5)


# --- rating --------------------------------------------------------------------------------------------------------


def load_prompt(given: PromptFile | None = None) -> Prompt:
    """The prompt that is named, or the project's own (data/prompts/rate.toml)."""
    return judge_prompts.load(given, "rate", "rating")


def build_request(row: Row, judge: JudgeModel, prompt: Prompt) -> Request:
    """The call that rates one row: its last question and response."""
    asked = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
    facts = {} if judge.kind in ("openai", "transformers") else {"answer": row.response, "scale": SCALE}
    messages = prompt.messages({"question": asked, "answer": row.response})
    service, model = judges.service_of(judge), judge.model or judge.name
    return Request(service, model, messages, judge.max_tokens, judge.temperature, facts)


def rate_rows(
    rows: Sequence[Row], judge: JudgeModel, ledger: Ledger, prompt: Prompt | None = None
) -> list[dict[str, Any]]:
    """Rate every row: one record for each, in their order, with `score` None where there is no clear grade."""
    prompt = prompt or load_prompt()
    requests = [build_request(row, judge, prompt) for row in rows]
    backend = judges.make_backend(judge, judges.SINGLE_CONTROLS)
    replies = llm.ask_all(requests, backend, ledger, f"rating by {judge.name}")
    return [_rating(row, judge, prompt, reply) for row, reply in zip(rows, replies, strict=True)]


def _rating(row: Row, judge: JudgeModel, prompt: Prompt, reply: Reply) -> dict[str, Any]:
    head = {"id": row.id, "source": row.source, "text": grades.fingerprint(row), "judge": judge.name}
    return {**head, **verdicts.grade(reply.text, reply.error, prompt.output_format, *SCALE)}


def describe(ratings: Sequence[dict[str, Any]]) -> str:
    """Counts that add up, and how many rows have which grade."""
    counts = ", ".join(f"{name} {count}" for name, count in tally.count_calls(ratings).items())
    tiers = Counter(rating["score"] for rating in ratings if rating["score"] is not None)
    shown = ", ".join(f"{score:g} x{tiers[score]}" for score in sorted(tiers, reverse=True)[:12])
    return f"{counts}; grades: {shown or 'none'}"


# --- the command ---------------------------------------------------------------------------------------------------


def read_rows(file: RecordFile) -> list[Row]:
    """All rows of a file; raises InputError naming the row that cannot be read."""
    rows = select.read_own_rows(file)
    if not rows:
        raise InputError(f"{file.path}: no rows")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m nbutils.rate", description="Rate a dataset's rows and keep the best.")
    parser.add_argument("rows", metavar="ROWS", type=Path, help="a JSON, JSON-lines or Parquet file")
    judge_options.add_judge_options(parser, tuple(judges.SINGLE_CONTROLS))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, metavar="GRADE", help="keep the rows graded this or better")
    which.add_argument("--top-k", type=int, metavar="K", help="keep the K best, ties to the lower row number")
    which.add_argument("--tiers", type=int, metavar="K", help="keep K: whole grades, then a sample of the next one")
    parser.add_argument("--seed", type=int, default=0, help="of the sample that --tiers draws (default 0)")
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.rate`."""
    given = _parser().parse_args(arguments)
    judging = judge_options.judge_of(given, tuple(judges.SINGLE_CONTROLS))
    prompt, file = load_prompt(judge_options.prompt_of(given)), open_records(given.rows)
    rows = read_rows(file)
    items = {str(row.id): artifacts.sha256_json(row) for row in rows}
    held = judge_options.describe_held(f"the ratings of {given.rows.name}", judging, prompt.fingerprint, items)
    judge_options.refuse_other(given.out, RATINGS, held)
    if not judge_options.settle_cost([build_request(row, judging, prompt) for row in rows], judging, given):
        return
    ratings = _rate_into(given.out, rows, judging, prompt, held)
    print(f"{given.out}: {describe(ratings)}")
    _select(file, ratings, given)


def _rate_into(
    out: Path, rows: Sequence[Row], judging: JudgeModel, prompt: Prompt, held: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rate into a folder: `ratings.jsonl`."""
    with contextlib.closing(Ledger(out / LEDGER)) as ledger:
        ratings = rate_rows(rows, judging, ledger, prompt)
    artifacts.write_json(out / judge_options.HELD, held)
    artifacts.write_jsonl(out / RATINGS, ratings)
    return ratings


def _select(file: RecordFile, ratings: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    """Write the chosen rows, unless nothing is to be chosen or too few rows have a grade."""
    if given.threshold is None and given.top_k is None and given.tiers is None:
        return
    found = grades.grades_of(ratings)
    grades.refuse_too_few(found, str(given.out / RATINGS))
    chosen = _choose(found, given)
    out = given.out / f"selected{file.suffixes[0]}"
    file.write_selected([int(i) for i in chosen], out)
    lowest = f", the lowest grade {found[chosen].min():g}"
    print(f"{out}: {len(chosen)} rows{lowest}")


def _choose(found: Grades, given: argparse.Namespace) -> Ids:
    if given.threshold is not None:
        return draw_threshold(found, given.threshold)
    return draw_top_k(found, given.top_k) if given.tiers is None else draw_tiers(found, given.tiers, given.seed)


if __name__ == "__main__":
    main()
