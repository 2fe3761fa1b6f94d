"""MT-Bench: one grade from 1 to 10 for each of two turns, against a reference answer for reasoning, maths and code.

    python -m nbutils.judging.mt_bench ANSWERS --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]

ANSWERS is a model_answer file in FastChat's form (question_id, choices[0].turns), or rows with `id` and `turns`; a log
of grades (gpt-4_single.jsonl) is summed up, and nobody is asked. The
prompts are our own (data/prompts/mt-bench.toml); FastChat's are `--prompt` with its judge_prompts.jsonl.

In a profile, `benchmarks = ["mt-bench"]` under [judging] makes it a part of stage 06:
`judge.run_benchmark(profile, arm, seed, "mt-bench")`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pandas import DataFrame

from nbutils import data
from nbutils.analysis import intervals, verdicts
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import Benchmark, JudgeModel
from nbutils.data.records import read_records
from nbutils.judging import command, logs
from nbutils.judging.judges import SINGLE_CONTROLS, make_backend, make_request
from nbutils.judging.prompts import JudgePrompt, load_prompts
from nbutils.judging.replies import end_command, grade, told_by
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
        turns, choices = record.get("turns"), record.get("choices")
        if turns is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
            turns = choices[0].get("turns")
        if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(turn, str) for turn in turns):
            raise InputError(f"{place}: row {number}: an answer needs 'turns' (or choices[0].turns), two texts")
        name = "mt_bench_" + str(record.get("id", record.get("question_id", ""))).removeprefix("mt_bench_")
        if name not in questions:
            raise InputError(f"{place}: row {number}: '{name}' is none of MT-Bench's questions")
        if name in found:
            raise InputError(f"{place}: row {number}: question '{name}' is answered twice: keep one answer")
        asked = questions[name]
        texts = (asked.instruction, asked.turns[0])
        model = str(record.get("arm") or record.get("model_id") or arm)
        found[name] = Conversation(name, asked.category, texts, tuple(turns), references.get(name, ()), model)
    if not found:
        raise InputError(f"{place}: no answers")
    return [found[name] for name in questions if name in found]


def choose_prompt(prompts: Sequence[JudgePrompt], turn: int, has_reference: bool) -> JudgePrompt:
    """The prompt for a turn: its template asks for a second question, or for a reference, or does not."""
    for prompt in prompts:
        is_second = "question_2" in prompt.places
        takes_reference = bool(prompt.places & {"reference_1", "ref_answer_1"})
        if (is_second, takes_reference) == (turn == TURNS[1], has_reference):
            return prompt
    what = f"turn {turn}, with{'' if has_reference else 'out'} a reference answer"
    raise InputError(f"the prompt file has no prompt of type 'single' for {what}")


def request_grade(talk: Conversation, turn: int, judge: JudgeModel, prompts: Sequence[JudgePrompt]) -> Request:
    """The call that grades one turn."""
    texts = {"question": talk.questions[0], "answer": talk.answers[0]}
    for place, number in enumerate(TURNS):
        texts |= {f"question_{number}": talk.questions[place], f"answer_{number}": talk.answers[place]}
        reference = talk.references[place] if len(talk.references) > place else ""
        texts |= {f"reference_{number}": reference, f"ref_answer_{number}": reference}
    messages = choose_prompt(prompts, turn, bool(talk.references)).messages(texts)
    return make_request(judge, messages, {"answer": talk.answers[turn - 1], "scale": SCALE})


def judge_conversations(
    talks: Sequence[Conversation], judge: JudgeModel, ledger: Ledger, prompts: Sequence[JudgePrompt] | None = None
) -> list[dict[str, Any]]:
    """Grade both turns of every conversation: one row for each, in their order."""
    prompts = prompts or load_prompts(TEST_SET)
    asked = [(talk, turn) for talk in talks for turn in TURNS]
    requests = [request_grade(talk, turn, judge, prompts) for talk, turn in asked]
    forms = {prompt.output_format for prompt in prompts}

    def reads(_: Request, reply: Reply) -> bool:
        return any(grade(reply.text, None, form, *SCALE)["status"] == "judged" for form in forms)

    backend, rows = make_backend(judge, SINGLE_CONTROLS), []
    replies = client.ask_all(requests, backend, ledger, f"MT-Bench by {judge.name}", reads)
    for (talk, turn), reply in zip(asked, replies, strict=True):
        form = choose_prompt(prompts, turn, bool(talk.references)).output_format
        head = {"id": talk.id, "test_set": TEST_SET, "category": talk.category, "turn": turn, "arm": talk.arm}
        graded = grade(reply.text, reply.error, form, *SCALE)
        rows.append({**head, "judge": judge.name, **graded, "form": form, "len": len(talk.answers[turn - 1])})
        rows[-1] |= told_by(reply, str(graded["status"]))
    return rows


def summarise(rows: Sequence[dict[str, Any]]) -> DataFrame:
    """One row for all, for each turn and for each category: calls, mean score, 95% interval clustered by question."""
    graded = _to_frame(rows)
    parts = {"all": graded} | {f"turn {turn}": graded[graded["turn"] == turn] for turn in TURNS}
    parts |= dict(list(graded.groupby("category", sort=False)))
    return tables.make("mt_bench", [{"part": name, **_summary(part)} for name, part in parts.items()])


def _to_frame(rows: Sequence[dict[str, Any]]) -> DataFrame:
    names = ("id", "category", "turn", "arm", "judge", "status", "score")
    return DataFrame({name: [row.get(name) for row in rows] for name in names}).astype({"score": float})


def _summary(graded: DataFrame) -> dict[str, Any]:
    scored, (least, most) = graded.dropna(subset="score"), SCALE
    shares = (scored["score"].to_numpy() - least) / (most - least)
    mean = intervals.rescale(intervals.mean_with_interval(shares, scored["id"]), most - least, least)
    calls = verdicts.count_calls(graded)
    interval = {"score": round(mean.value, 4), "low": round(mean.low, 4), "high": round(mean.high, 4)}
    headline = manifests.is_enough(calls["judged"], calls["asked"])
    return {"questions": graded["id"].nunique(), **calls, **interval, "headline": headline}


def describe(row: Mapping[str, Any]) -> str:
    """One line of a result, with its score only where 99% of the turns were graded."""
    counts = f"{row['questions']} of 80 questions; asked {row['asked']}, judged {row['judged']}"
    if not row["headline"]:
        return f"MT-Bench: {counts}: no score below 99% judged"
    return f"MT-Bench: {row['score']:.2f} [{row['low']:.2f}, {row['high']:.2f}]; {counts}"


def score_turns(rows: Sequence[dict[str, Any]]) -> DataFrame:
    """One row for each arm, judge and turn ("both" too): mean score, 95% interval by question; NaN below 99% judged."""
    table = []
    for (arm, judge), mine in _to_frame(rows).groupby(["arm", "judge"], sort=False):
        for turn in (*TURNS, "both"):
            found = _summary(mine if turn == "both" else mine[mine["turn"] == turn])
            head = {"arm": arm, "judge": judge, "turn": turn, "asked": found["asked"], "judged": found["judged"]}
            table.append(head | {key: found[key] if found["headline"] else None for key in ("score", "low", "high")})
    return tables.make("scores", table)


def _sum_up(grades: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write and print the scores of a log of grades that FastChat made: nothing is asked."""
    table = score_turns(grades)
    tables.write(folder / "scores.csv", table)
    for row in table[table["turn"] == "both"].to_dict("records"):
        score = (
            f"{row['score']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["score"] == row["score"] else "no score"
        )
        print(f"{row['arm']}, graded by {row['judge']}: {score}; asked {row['asked']}, judged {row['judged']}")


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.mt_bench`."""
    about = "Grade answers to MT-Bench's questions."
    parser = ArgumentParser(prog="python -m nbutils.judging.mt_bench", description=about)
    parser.add_argument("answers", metavar="ANSWERS", type=Path, help="a model_answer file")
    command.add_judge_options(parser, tuple(SINGLE_CONTROLS))
    given = parser.parse_args(arguments)
    records = read_records(given.answers)
    if grades := [row for record in records if (row := logs.to_grades(record))]:
        return _sum_up(grades, given.out)
    judging = command.judge_of(given, tuple(SINGLE_CONTROLS))
    prompts = load_prompts(TEST_SET, command.prompt_of(given))
    talks = to_conversations(records, given.answers.stem, str(given.answers))[: given.max_prompts]
    items = {talk.id: disk.sha256_json(talk) for talk in talks}
    prints = disk.sha256_json([prompt.fingerprint for prompt in prompts])
    held = {"what": f"the grades of {talks[0].arm}", "prompt": prints, "items": items}
    requests = [request_grade(talk, turn, judging, prompts) for talk in talks for turn in TURNS]
    with command.judging_into(given, judging, JUDGMENTS, held, requests) as ledger:
        if not ledger:
            return
        rows = judge_conversations(talks, judging, ledger, prompts)
    summary = summarise(rows)
    disk.write_jsonl(given.out / JUDGMENTS, rows)
    tables.write(given.out / "mt_bench.csv", summary)
    print(describe(summary.iloc[0]))
    end_command(rows)


if __name__ == "__main__":
    main()
