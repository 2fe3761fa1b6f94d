"""Rate a dataset's rows one by one, in the manner of AlpaGasus.

    python -m nbutils.judging.rate ROWS --judge MODEL --base-url URL -o DIR

ROWS is a file of training rows in any form that `nbutils.select` reads. DIR gets `ratings.jsonl` (one object a
row) and the ledger of calls; re-running continues. `python -m nbutils.select ROWS --ratings DIR/ratings.jsonl` chooses
rows by them, as does an arm such as `alpaca-1k-rated-7` in a profile with `ratings = "DIR/ratings.jsonl"`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.analysis import verdicts
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import JudgeModel
from nbutils.data.records import open_records
from nbutils.data.rows import Row, fingerprint_row
from nbutils.judging import command
from nbutils.judging.judges import SINGLE_CONTROLS, make_backend, make_request
from nbutils.judging.prompts import JudgePrompt, load_prompt
from nbutils.judging.replies import end_command, grade, told_by
from nbutils.llm import client
from nbutils.llm.client import Ledger, Reply, Request

RATINGS = "ratings.jsonl"
SCALE = (0, 5)


def request_rating(row: Row, judge: JudgeModel, prompt: JudgePrompt) -> Request:
    """The call that rates one row: its last question and response."""
    asked = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
    messages = prompt.messages({"question": asked, "answer": row.response})
    return make_request(judge, messages, {"answer": row.response, "scale": SCALE})


def rate_rows(
    rows: Sequence[Row], judge: JudgeModel, ledger: Ledger, prompt: JudgePrompt | None = None
) -> list[dict[str, Any]]:
    """Rate every row: one record for each, in their order, with `score` None where there is no clear grade."""
    prompt = prompt or load_prompt("rate")
    requests = [request_rating(row, judge, prompt) for row in rows]
    form, backend = prompt.output_format, make_backend(judge, SINGLE_CONTROLS)

    def reads(_: Request, reply: Reply) -> bool:
        return grade(reply.text, None, form, *SCALE)["status"] == "judged"

    rated = []
    replies = client.ask_all(requests, backend, ledger, f"rating by {judge.name}", reads)
    for row, reply in zip(rows, replies, strict=True):
        grades = grade(reply.text, reply.error, form, *SCALE)
        head = {"id": row.id, "source": row.source, "text": fingerprint_row(row), "judge": judge.name}
        rated.append({**head, **grades, **told_by(reply, str(grades["status"]))})
    return rated


def describe(ratings: Sequence[dict[str, Any]]) -> str:
    """Counts that add up, and how many rows have which grade."""
    counts = ", ".join(f"{name} {count}" for name, count in verdicts.count_calls(ratings).items())
    tiers = Counter(rating["score"] for rating in ratings if rating["score"] is not None)
    shown = ", ".join(f"{score:g} x{tiers[score]}" for score in sorted(tiers, reverse=True)[:12])
    return f"{counts}; grades: {shown or 'none'}"


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.rate`."""
    parser = ArgumentParser(prog="python -m nbutils.judging.rate", description="Rate a dataset's rows.")
    parser.add_argument("rows", metavar="ROWS", type=Path, help="a file of training rows (docs/data-forms.md)")
    command.add_judge_options(parser, tuple(SINGLE_CONTROLS))
    given = parser.parse_args(arguments)
    judging = command.judge_of(given, tuple(SINGLE_CONTROLS))
    prompt = load_prompt("rate", command.prompt_of(given))
    rows = data.read_own_rows(open_records(given.rows))[: given.max_prompts]
    if not rows:
        raise InputError(f"{given.rows}: no rows")
    items = {str(row.id): disk.sha256_json(row) for row in rows}
    held = {"what": f"the ratings of {given.rows.name}", "prompt": prompt.fingerprint, "items": items}
    requests = [request_rating(row, judging, prompt) for row in rows]
    with command.judging_into(given, judging, RATINGS, held, requests) as ledger:
        if not ledger:
            return
        ratings = rate_rows(rows, judging, ledger, prompt)
    disk.write_jsonl(given.out / RATINGS, ratings)
    print(f"{given.out}: {describe(ratings)}")
    end_command(ratings)


if __name__ == "__main__":
    main()
