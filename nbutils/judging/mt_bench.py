"""MT-Bench: one grade from 1 to 10 for each of two turns, against a reference answer for reasoning, maths and code.

    python -m nbutils.judging.mt_bench ANSWERS --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]

ANSWERS is a model_answer file in FastChat's form (question_id, choices[0].turns), or rows with `id` and `turns`. The
prompts are our own (data/prompts/mt-bench.toml); FastChat's are `--prompt` with its judge_prompts.jsonl.

In a profile, `benchmarks = ["mt-bench"]` under [judging] makes it a part of stage 06: `run(profile, arm, seed)`.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import data
from nbutils.analysis import intervals, verdicts
from nbutils.core import disk, manifests
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import Benchmark, JudgeModel, PromptFile
from nbutils.data.records import read_records
from nbutils.judging import command, judges, replies
from nbutils.judging import prompts as judge_prompts
from nbutils.judging.command import LEDGER
from nbutils.judging.prompts import JudgePrompt
from nbutils.llm import client
from nbutils.llm.client import Ledger, Reply, Request

TEST_SET: Benchmark = "mt-bench"
JUDGMENTS = "mt_bench.jsonl"
TURNS = (1, 2)
SCALE = (1, 10)


class Conversation(NamedTuple):
    """One question of two turns with a model's answers; `references` is empty where there are none."""

    id: str
    category: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    references: tuple[str, ...]
    arm: str


# --- reading -------------------------------------------------------------------------------------------------------


def load_references() -> dict[str, tuple[str, ...]]:
    """The published reference answers by question id: the 30 questions of reasoning, maths and code."""
    table = data.load_table("mt-bench-references").to_dict("records")
    return {f"mt_bench_{record['question_id']}": tuple(record["choices"][0]["turns"]) for record in table}


def to_conversations(records: Iterable[dict[str, Any]], arm: str, place: str) -> list[Conversation]:
    """Match answers with MT-Bench's questions, in the questions' order.

    Raises InputError, naming `place`, row and key, for answers of another form, unknown questions or repeated ones.
    """
    questions = {prompt.id: prompt for prompt in data.load_prompts(TEST_SET)}
    references, found = load_references(), dict[str, Conversation]()
    for number, record in enumerate(records):
        name, turns = _id_of(record), _turns_of(record, f"{place}: row {number}")
        if name not in questions:
            raise InputError(f"{place}: row {number}: '{name}' is none of MT-Bench's questions")
        if name in found:
            raise InputError(f"{place}: row {number}: question '{name}' is answered twice: keep one answer")
        asked = questions[name]
        texts = (asked.instruction, asked.turns[0])
        model = str(record.get("arm") or record.get("model_id") or arm)
        found[name] = Conversation(name, asked.category, texts, turns, references.get(name, ()), model)
    if not found:
        raise InputError(f"{place}: no answers")
    return [found[name] for name in questions if name in found]


def _id_of(record: dict[str, Any]) -> str:
    given = str(record.get("id", record.get("question_id", "")))
    return given if given.startswith("mt_bench_") else f"mt_bench_{given}"


def _turns_of(record: dict[str, Any], place: str) -> tuple[str, str]:
    turns, choices = record.get("turns"), record.get("choices")
    if turns is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        turns = choices[0].get("turns")
    if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(turn, str) for turn in turns):
        raise InputError(f"{place}: an answer needs 'turns' (or choices[0].turns), two texts")
    return turns[0], turns[1]


def read_conversations(path: Path) -> list[Conversation]:
    """An answer file of anybody's making, matched with the questions."""
    return to_conversations(read_records(path), path.stem, str(path))


# --- asking --------------------------------------------------------------------------------------------------------


def load_prompts(given: PromptFile | None = None) -> list[JudgePrompt]:
    """The prompts for one answer: the project's own, or those of the file that is named."""
    return judge_prompts.load_all(given, "mt-bench", "single")


def choose_prompt(prompts: Sequence[JudgePrompt], turn: int, has_reference: bool) -> JudgePrompt:
    """The prompt for a turn: its template asks for a second question, or for a reference, or does not."""
    for prompt in prompts:
        is_second = "question_2" in prompt.places
        takes_reference = bool(prompt.places & {"reference_1", "ref_answer_1"})
        if (is_second, takes_reference) == (turn == TURNS[1], has_reference):
            return prompt
    what = f"turn {turn}, with{'' if has_reference else 'out'} a reference answer"
    raise InputError(f"the prompt file has no prompt of type 'single' for {what}")


def build_request(talk: Conversation, turn: int, judge: JudgeModel, prompts: Sequence[JudgePrompt]) -> Request:
    """The call that grades one turn."""
    prompt = choose_prompt(prompts, turn, bool(talk.references))
    graded = talk.answers[turn - 1]
    facts = {} if judge.kind in ("openai", "transformers") else {"answer": graded, "scale": SCALE}
    messages = prompt.messages(_texts(talk))
    service, model = judges.service_of(judge), judge.model or judge.name
    return Request(service, model, messages, judge.max_tokens, judge.temperature, facts)


def _texts(talk: Conversation) -> dict[str, str]:
    texts = {"question": talk.questions[0], "answer": talk.answers[0]}
    for turn in TURNS:
        texts |= {f"question_{turn}": talk.questions[turn - 1], f"answer_{turn}": talk.answers[turn - 1]}
        reference = talk.references[turn - 1] if len(talk.references) >= turn else ""
        texts |= {f"reference_{turn}": reference, f"ref_answer_{turn}": reference}
    return texts


def judge_conversations(
    talks: Sequence[Conversation], judge: JudgeModel, ledger: Ledger, prompts: Sequence[JudgePrompt] | None = None
) -> list[dict[str, Any]]:
    """Grade both turns of every conversation: one row for each, in their order."""
    prompts = prompts or load_prompts()
    asked = [(talk, turn) for talk in talks for turn in TURNS]
    requests = [build_request(talk, turn, judge, prompts) for talk, turn in asked]
    backend = judges.make_backend(judge, judges.SINGLE_CONTROLS)
    replies = client.ask_all(requests, backend, ledger, f"MT-Bench by {judge.name}")
    return [_row(*place, judge, prompts, reply) for place, reply in zip(asked, replies, strict=True)]


def _row(
    talk: Conversation, turn: int, judge: JudgeModel, prompts: Sequence[JudgePrompt], reply: Reply
) -> dict[str, Any]:
    form = choose_prompt(prompts, turn, bool(talk.references)).output_format
    graded = replies.grade(reply.text, reply.error, form, *SCALE)
    head = {"id": talk.id, "test_set": TEST_SET, "category": talk.category, "turn": turn, "arm": talk.arm}
    return {**head, "judge": judge.name, **graded, "form": form, "len": len(talk.answers[turn - 1])}


# --- counting ------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for all, for each turn and for each category: calls, mean score, 95% interval clustered by question."""
    parts = {"all": rows} | {f"turn {turn}": [row for row in rows if row["turn"] == turn] for turn in TURNS}
    for category in dict.fromkeys(row["category"] for row in rows):
        parts[category] = [row for row in rows if row["category"] == category]
    return [{"part": name, **_summary(part)} for name, part in parts.items()]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    questions = dict.fromkeys(row["id"] for row in rows)
    scores = [[row["score"] for row in rows if row["id"] == name and row["score"] is not None] for name in questions]
    mean = intervals.bootstrap_mean(scores)
    calls = verdicts.count_calls(rows)
    headline = manifests.is_enough(calls["judged"], calls["asked"])
    interval = {"score": round(mean.value, 4), "low": round(mean.low, 4), "high": round(mean.high, 4)}
    return {"questions": len(questions), **calls, **interval, "headline": headline}


def describe(row: dict[str, Any]) -> str:
    """One line of a result, with its score only where 99% of the turns were graded."""
    counts = f"{row['questions']} of 80 questions; asked {row['asked']}, judged {row['judged']}"
    if not row["headline"]:
        return f"MT-Bench: {counts}: no score below 99% judged"
    return f"MT-Bench: {row['score']:.2f} [{row['low']:.2f}, {row['high']:.2f}]; {counts}"


def score_turns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each arm, judge and turn ("both" of them too): mean score, 95% interval clustered by question.

    Score and interval are None below 99% judged.
    """
    table = []
    for arm, judge in dict.fromkeys((row["arm"], row["judge"]) for row in rows):
        mine = [row for row in rows if (row["arm"], row["judge"]) == (arm, judge)]
        for turn in (*TURNS, "both"):
            found = _summary([row for row in mine if turn in ("both", row["turn"])])
            head = {"arm": arm, "judge": judge, "turn": turn, "asked": found["asked"], "judged": found["judged"]}
            table.append(head | {key: found[key] if found["headline"] else None for key in ("score", "low", "high")})
    return table


# --- the command ---------------------------------------------------------------------------------------------------


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.mt_bench`."""
    parser = ArgumentParser(
        prog="python -m nbutils.judging.mt_bench", description="Grade answers to MT-Bench's questions."
    )
    parser.add_argument("answers", metavar="ANSWERS", type=Path, help="a model_answer file")
    command.add_judge_options(parser, tuple(judges.SINGLE_CONTROLS))
    given = parser.parse_args(arguments)
    judging = command.judge_of(given, tuple(judges.SINGLE_CONTROLS))
    prompts, talks = load_prompts(command.prompt_of(given)), read_conversations(given.answers)
    held = _held(talks, judging, prompts)
    command.refuse_other(given.out, JUDGMENTS, held)
    requests = [build_request(talk, turn, judging, prompts) for talk in talks for turn in TURNS]
    if command.settle_cost(requests, judging, given):
        print(describe(_judge_into(given.out, talks, judging, prompts, held)))


def _held(talks: Sequence[Conversation], judging: JudgeModel, prompts: Sequence[JudgePrompt]) -> dict[str, Any]:
    items = {talk.id: disk.sha256_json(talk) for talk in talks}
    prints = disk.sha256_json([prompt.fingerprint for prompt in prompts])
    return command.describe_held(f"the grades of {talks[0].arm}", judging, prints, items)


def _judge_into(
    out: Path, talks: Sequence[Conversation], judging: JudgeModel, prompts: Sequence[JudgePrompt], held: dict[str, Any]
) -> dict[str, Any]:
    """Grade into a folder: `mt_bench.jsonl` and `mt_bench.csv`; the row for all."""
    with contextlib.closing(Ledger(out / LEDGER)) as ledger:
        rows = judge_conversations(talks, judging, ledger, prompts)
    disk.write_json(out / command.HELD, held)
    disk.write_jsonl(out / JUDGMENTS, rows)
    summary = summarise(rows)
    disk.write_csv(out / "mt_bench.csv", summary)
    return summary[0]


if __name__ == "__main__":
    main()
