"""Pairwise judging: pairs of answers, the requests that grade them in both orders, and the judgment rows."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nbutils import data, lengths
from nbutils.analysis.leaderboards import BASELINE
from nbutils.analysis.verdicts import ORDERS
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.judging.judges import CONTROLS, make_backend, make_request
from nbutils.judging.prompts import JudgePrompt, load_prompt
from nbutils.judging.replies import read_pair, score_review, told_by
from nbutils.llm import client
from nbutils.llm.client import Backend, Ledger, Reply, Request

MEASURE = "chars"
"""Length of an answer in judgment files, as AlpacaEval counts it."""

TRIALS = 2  # calls for a single token, before all others are made
NEEDS_ROOM = "says nothing in one token"  # what the ledger notes of a model whose letter comes later

_GRADES = {
    "type": "object",
    "properties": {"grade_1": {"type": "number"}, "grade_2": {"type": "number"}, "explanation": {"type": "string"}},
    "required": ["grade_1", "grade_2", "explanation"],
    "additionalProperties": False,
}


class Pair(NamedTuple):
    """Two answers to one prompt: the target's and the baseline's, with a reference answer where there is one.

    cluster: the question that several prompts belong to, such as the turns of one conversation; "" where it is alone.
    """

    id: str
    test_set: str
    prompt: str
    arm: str
    baseline: str
    answer: str
    baseline_answer: str
    reference: str = ""
    cluster: str = ""


def load_references(test_sets: Iterable[str], also: str | None = None) -> dict[tuple[str, str], str]:
    """Reference answers of test sets by (test set, prompt id), "" where a prompt has none.

    also: `alpaca-eval`, to take GPT-4's output to the same text (white space apart) where the test set gives none.
    """
    found = [prompt for name in test_sets for prompt in data.load_prompts(name)]
    known = _gpt4_outputs() if also == "alpaca-eval" else {}
    return {
        (prompt.test_set, prompt.id): prompt.reference or known.get(" ".join(prompt.text.split()), "")
        for prompt in found
    }


def _gpt4_outputs() -> dict[str, str]:
    return {" ".join(prompt.text.split()): output for prompt, output in data.load_outputs(BASELINE).values()}


def match_answers(
    mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], references: dict[tuple[str, str], str]
) -> list[Pair]:
    """Pair the answers to the same prompt. Raises InputError where none is shared, or one id is of two prompts."""
    other = {(answer["test_set"], answer["id"]): answer for answer in theirs}
    pairs = []
    for answer in mine:
        place = (answer["test_set"], answer["id"])
        if place not in other:
            continue
        if answer["prompt"].strip() != other[place]["prompt"].strip():
            what = "a prompt is an instruction and, after an empty line, its input"
            raise InputError(f"prompt '{answer['id']}' is not the same text on both sides ({what})")
        texts = (answer["prompt"], answer["arm"], other[place]["arm"], answer["response"], other[place]["response"])
        cluster = str(answer.get("cluster") or "")
        pairs.append(Pair(answer["id"], answer["test_set"], *texts, references.get(place, ""), cluster))
    if not pairs:
        raise InputError("the two answer files share no prompt (test_set and id): they answer different test sets")
    return pairs


def usable_prompt(judge: JudgeModel, prompt: JudgePrompt | None) -> JudgePrompt:
    """The prompt that a judge gets: those that need no service know the form of the project's own only."""
    return prompt if prompt and judge.kind not in CONTROLS else load_prompt("pair")


def build_request(pair: Pair, order: str, judge: JudgeModel, prompt: JudgePrompt | None = None) -> Request:
    """The call that grades a pair in one order. The fence's marker depends on all the texts inside the fence."""
    prompt = prompt or load_prompt("pair")
    answers = (pair.answer, pair.baseline_answer)
    first, second = answers if order == ORDERS[0] else answers[::-1]
    shown = {"answer_1": first, "answer_2": second}
    # The marker is a hash of the texts in this order: another order would ask, and pay, for everything anew.
    texts = {"question": pair.prompt, **shown, "reference_1": pair.reference}
    texts |= {"answer_a": first, "answer_b": second, "ref_answer_1": pair.reference}
    facts = {**shown, "reference": pair.reference, "id": f"{pair.test_set}/{pair.id}"}
    options: dict[str, Any] = {}
    is_structured = judge.structured is True or (judge.structured == "auto" and not judge.batch)
    if judge.kind == "openai" and prompt.output_format == "m/M" and judge.logprobs:
        options = {"logprobs": True, "top_logprobs": 5}  # as AlpacaEval 2 asks
    elif judge.kind == "openai" and is_structured and prompt.reply_format_structured:
        schema = {"name": "grades", "strict": True, "schema": _GRADES}
        options = {"response_format": {"type": "json_schema", "json_schema": schema}}
    messages = prompt.messages(texts, "response_format" in options)
    return make_request(judge, messages, facts, options, 1 if prompt.output_format == "m/M" else None)


def ways_to_ask(pair: Pair, order: str, judge: JudgeModel, prompt: JudgePrompt | None = None) -> list[Request]:
    """The calls that grade a pair in one order, best first: as JSON where that may be tried, and in plain words.

    For one letter: a single token, then a longer reply; without log-probabilities the longer reply at once.
    """
    best = build_request(pair, order, judge, prompt)
    if prompt and prompt.output_format == "m/M" and not judge.batch:
        longer = dataclasses.replace(best, max_tokens=judge.max_tokens, options={})
        return [best, longer] if judge.logprobs else [longer, best]
    if judge.structured != "auto" or "response_format" not in best.options:
        return [best]
    return [best, build_request(pair, order, judge.model_copy(update={"structured": False}), prompt)]


def judge_pairs(
    pairs: Sequence[Pair],
    judge: JudgeModel,
    ledger: Ledger,
    prompt: JudgePrompt | None = None,
    backend: Backend | None = None,
) -> list[dict[str, Any]]:
    """Judge every pair in both orders: one judgment row per order (design, section 6), in the order of the pairs.

    A `backend` that several calls share keeps one ceiling of costs for all of them.
    """
    chosen = usable_prompt(judge, prompt)
    asked = [(pair, order) for pair in pairs for order in ORDERS]
    ways = [ways_to_ask(pair, order, judge, chosen) for pair, order in asked]
    ask = _ask_for_letters if chosen.output_format == "m/M" else client.ask_in_some_way
    label = f"judge {judge.name}"
    replies = ask(ways, backend or make_backend(judge), ledger, label, _reader(chosen.output_format))
    mine = lengths.count([pair.answer for pair, _ in asked], MEASURE).tolist()
    theirs = lengths.count([pair.baseline_answer for pair, _ in asked], MEASURE).tolist()
    rows, form = [], chosen.output_format
    for (pair, order), reply, len_arm, len_baseline in zip(asked, replies, mine, theirs, strict=True):
        names = {"id": pair.id, "test_set": pair.test_set, "arm": pair.arm, "baseline": pair.baseline}
        row = {**names, "judge": judge.name, "order": order, **score_review(reply.text, order, form)}
        row["review"] = reply.text if reply.text is not None else reply.error
        row |= {"len_arm": len_arm, "len_baseline": len_baseline, "measure": MEASURE}
        row |= told_by(reply, row["status"]) | ({"cluster": pair.cluster} if pair.cluster else {})
        rows.append(row if form == "scores" else row | {"form": form})
    return rows


def _reader(form: str) -> client.Reads:
    return lambda _, reply: bool(reply.text) and read_pair(str(reply.text), form) is not None


def _ask_for_letters(
    ways: Sequence[Sequence[Request]], backend: Backend, ledger: Ledger, label: str, reads: client.Reads
) -> list[Reply]:
    """Ask for one token each, and in the longer way where that says nothing, as with models that think before they
    reply. Where none of the first TRIALS tokens says anything, all that is left is asked in the longer way.
    """
    longer = [max(each, key=lambda way: way.max_tokens) for each in ways]

    def ask(these: Sequence[Sequence[Request]]) -> list[Reply]:
        return client.ask_in_some_way(these, backend, ledger, label)

    if not ledger.has_note(longer[0], NEEDS_ROOM):
        first = ask(ways[:TRIALS])
        if not any(reads(way[0], reply) for way, reply in zip(ways, first, strict=False)):
            ledger.note(longer[0], NEEDS_ROOM)
    if ledger.has_note(longer[0], NEEDS_ROOM):
        known = ledger.find_answers(way for each in ways for way in each)
        ways = [
            [next((way for way in each if way.key in known and reads(way, known[way.key])), last)]
            for each, last in zip(ways, longer, strict=True)
        ]
        return client.ask_all([way for (way,) in ways], backend, ledger, label, reads)
    replies = ask(ways)
    unread = [number for number, reply in enumerate(replies) if not reads(longer[number], reply)]
    again = client.ask_all([longer[number] for number in unread], backend, ledger, label, reads) if unread else []
    for number, reply in zip(unread, again, strict=True):
        replies[number] = reply
    return replies


def cut_to(text: str, characters: int) -> str:
    """The text's longest beginning of whole sentences within so many characters, else of whole words, else of all."""
    if len(text) <= characters:
        return text
    head = text[: characters + 1]  # one more, to see whether a word ends there
    for end in (r"[.!?][\"')\]]*(?=\s)", r"\S(?=\s)"):
        places = [found.end() for found in re.finditer(end, head)]
        if places and places[-1] >= characters / 2:
            return text[: places[-1]]
    return text[:characters]


def cut_pair(pair: Pair) -> Pair:
    """The pair with its longer answer cut to the length of the shorter one."""
    shorter = min(len(pair.answer), len(pair.baseline_answer))
    return pair._replace(answer=cut_to(pair.answer, shorter), baseline_answer=cut_to(pair.baseline_answer, shorter))
