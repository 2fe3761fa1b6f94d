"""Logs of other tools, each record told by its own keys and never by a file's name: what it stands for as our rows.

FastChat (lm-sys/FastChat, fastchat/llm_judge/common.py: `play_a_match_pair`, `play_a_match_single`), AlpacaEval
(`annotations.json` of both versions, `model_outputs.json`), arena-hard (`gen_judgment.py` of both versions: the first
game shows the baseline first) and Cherry LLM's pairwise reviews.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nbutils.analysis.verdicts import ORDERS
from nbutils.core.errors import InputError
from nbutils.judging.pairs import MEASURE
from nbutils.judging.replies import read_single, score_review

_ANNOTATION = ("generator_1", "generator_2", "output_1", "output_2", "preference")
_REVIEWS = ("Answer1", "Answer2", "review", "review_reverse")
_FASTCHAT = ("question_id", "model_1", "model_2", "g1_winner", "g2_winner")
_FASTCHAT_SINGLE = ("question_id", "model", "judgment", "score", "turn")


def expand(record: Mapping[str, Any], number: int) -> Iterator[Mapping[str, Any]]:
    """The judgment rows that a record of a log stands for; a record of no known log stands for itself.

    number: the record's place in its file, which is its id where it has none. Raises InputError naming a faulty key.
    """
    if isinstance(record.get("data"), list):  # a whole log as one object
        for place, inner in enumerate(record["data"]):
            if not isinstance(inner, dict):
                raise InputError(f"row {place} of 'data' is {type(inner).__name__}, not an object")
            yield from expand(inner, place)
    elif all(key in record for key in _ANNOTATION):
        yield _annotation(record, number)
    elif all(key in record for key in _REVIEWS):
        yield from reviews_of(record, number)
    elif all(key in record for key in _FASTCHAT):
        yield from _fastchat_pair(record, number)
    elif isinstance(record.get("games"), list) and "model" in record:
        yield from _arena_games(record, number)
    elif all(key in record for key in _FASTCHAT_SINGLE):
        mend = "python -m nbutils.judging.mt_bench sums it up, and a comparison needs the log of pairs"
        raise InputError(f"row {number}: FastChat's grades of single answers compare nothing: {mend}")
    else:
        yield record


def _annotation(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """AlpacaEval draws the order at random and does not say which; its preferences lie between 1 and 2.

    Version 1 writes a draw as 0 or 1.5.
    """
    weight = record["preference"]
    if isinstance(weight, int | float) and weight == 0:
        weight = 1.5
    if isinstance(weight, int | float) and (weight < 1 or weight > 2):  # NaN is neither: nothing was judged
        raise InputError(f"row {number}: AlpacaEval's 'preference' is {weight}, not between 1 and 2")
    return {
        "id": str(record.get("idx", number)),
        "test_set": "alpaca-eval",
        "arm": record["generator_2"],
        "baseline": record["generator_1"],
        "judge": record.get("annotator") or "judge",
        "order": "random",
        "preference": weight - 1 if isinstance(weight, int | float) else weight,
        "len_arm": _size(record, "output_2", number),
        "len_baseline": _size(record, "output_1", number),
        "measure": MEASURE,
    }


def reviews_of(
    record: Mapping[str, Any], number: int, arm: str = "answer 1", baseline: str = "answer 2"
) -> list[dict[str, Any]]:
    """Both orders of a pair from its two reviews: the first answer is the arm's."""
    head = {"id": str(record.get("index", number)), "test_set": record.get("test_set", "")}
    sides = {"judge": record.get("judge", "judge"), "arm": arm, "baseline": baseline, "measure": MEASURE}
    sizes = {"len_arm": _size(record, "Answer1", number), "len_baseline": _size(record, "Answer2", number)}
    orders = zip(ORDERS, (record["review"], record["review_reverse"]), strict=True)
    return [{**head, **sides, **sizes, "order": order, **score_review(text, order)} for order, text in orders]


def _size(record: Mapping[str, Any], key: str, number: int) -> int:
    if not isinstance(record[key], str):
        raise InputError(f"row {number}: '{key}' is {type(record[key]).__name__}, not text")
    return len(record[key])


def _fastchat_pair(record: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Both games of a turn: in the first `model_1` is shown as A, in the second as B. The review is read anew.

    The log holds no answers, so that lengths are unknown where its prompts are left out.
    """
    turn, (name, asked) = record.get("turn", 1), _judge_of(record)
    question = str(record["question_id"])
    head = {
        "id": f"{question}-{turn}",
        "test_set": "mt-bench",
        "cluster": question,
        "turn": turn,
        "judge": name,
        "asked": asked,
    }
    sides = {"arm": record["model_1"], "baseline": record["model_2"], "measure": MEASURE}
    rows = []
    for game, order in zip(("g1", "g2"), ORDERS, strict=True):
        review, winner = record.get(f"{game}_judgment"), record[f"{game}_winner"]
        read = _read_game(review, winner, order, number)
        shown = _shown_sizes(record.get(f"{game}_user_prompt"), order)
        rows.append({**head, **sides, **shown, "order": order, "review": review, "form": "[[A]]", **read})
    return rows


def _judge_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """FastChat's judge, a pair of its model and the prompt that it was asked by, or a name alone."""
    judge = record.get("judge", "judge")
    return (str(judge[0]), str(judge[-1])) if isinstance(judge, list) and judge else (str(judge), "")


_WON = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": None}


def _read_game(review: Any, winner: Any, order: str, number: int) -> dict[str, Any]:
    if isinstance(review, str) and not review.startswith("$ERROR$"):
        return score_review(review, order, "[[A]]")
    if winner not in _WON:
        raise InputError(f"row {number}: FastChat's winner is {str(winner)[:40]!r}, none of {', '.join(_WON)}")
    status = "failed" if _WON[winner] is None else "judged"
    return {"score_arm": None, "score_baseline": None, "preference": _WON[winner], "status": status}


_ANSWER = (
    r"\[?<?\|?The Start of (?:the )?(?:Conversation with )?Assistant {0}(?:'s (?:Answer|Conversation))?[^\n]*\n(.*)\n"
    + (r"[^\n]*The End of (?:the )?(?:Conversation with )?Assistant {0}")
)


def _shown_sizes(prompt: Any, order: str) -> dict[str, int | None]:
    """Lengths of the two answers that a stored prompt shows between its fences, None where it shows none."""
    found = [re.search(_ANSWER.format(letter), prompt if isinstance(prompt, str) else "", re.DOTALL) for letter in "AB"]
    first, second = (len(each[1]) if each else None for each in found)
    mine, theirs = (first, second) if order == ORDERS[0] else (second, first)
    return {"len_arm": mine, "len_baseline": theirs}


_SCORES = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B=A": 0.5, "A<B": 0.0, "A<<B": 0.0}
_SCORES |= {"B>>A": 0.0, "B>A": 0.0, "B<A": 1.0, "B<<A": 1.0}


def _arena_games(record: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Both games of a prompt: the baseline stands first in the first, the model in the second.

    A strong win counts as a win: arena-hard's weight of 3 for it would be more prompts than there are.
    """
    name = str(record.get("question_id", record.get("uid", number)))
    head = {"id": name, "test_set": "arena-hard", "judge": record.get("judge", "judge"), "measure": MEASURE}
    sides = {"arm": record["model"], "baseline": record.get("baseline") or "baseline"}
    rows = []
    for game, order in zip(record["games"], ORDERS[::-1], strict=False):
        game = game if isinstance(game, dict) else {}
        score, review = game.get("score"), game.get("judgment")
        if score is not None and score not in _SCORES:
            raise InputError(f"row {number}: arena-hard's score is {str(score)[:40]!r}, none of {', '.join(_SCORES)}")
        text = review.get("answer") if isinstance(review, dict) else review
        weight = None if score is None else _SCORES[score]
        is_first = order == ORDERS[0]
        read = {"preference": weight if weight is None or is_first else 1 - weight}
        status = "judged" if weight is not None else "unparsed" if text else "failed"
        shown = _shown_sizes(_prompt_of(game), order)
        rows.append({**head, **sides, **shown, **read, "order": order, "review": text, "status": status})
    return rows


def _prompt_of(game: Mapping[str, Any]) -> Any:
    """The prompt that a game shows: a text in arena-hard's first version, a list of messages in its second."""
    given = game.get("user_prompt", game.get("prompt"))
    return given[-1].get("content") if isinstance(given, list) and given and isinstance(given[-1], dict) else given


def to_grades(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of MT-Bench's grades from FastChat's log of single answers; None for a record of another kind."""
    if not all(key in record for key in _FASTCHAT_SINGLE):
        return None
    (name, asked), review = _judge_of(record), record["judgment"]
    score = read_single(review, "[[rating]]") if isinstance(review, str) else None
    status = "failed" if review == "$ERROR$" else "unparsed" if score is None else "judged"
    head = {"id": f"mt_bench_{record['question_id']}", "test_set": "mt-bench", "turn": record["turn"]}
    return {
        **head,
        "arm": record["model"],
        "judge": name,
        "asked": asked,
        "score": score,
        "status": status,
        "review": review,
    }


def to_answer(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of an answer file under our names: AlpacaEval's outputs, FastChat's and arena-hard's answers.

    Of several turns the first is taken: the second question is not the file's to say. Records of other kinds stay.
    """
    named = dict(record)
    if "output" in record and "instruction" in record and "response" not in record:
        given = record.get("input")
        prompt = record["instruction"] + (f"\n\n{given}" if isinstance(given, str) and given else "")
        named |= {"prompt": prompt, "response": record["output"]}
    turns = _first_choice(record)
    if turns is not None:
        named |= {"response": turns}
    if "id" not in named:
        for key in ("question_id", "uid", "idx", "index"):
            if key in record and record[key] is not None:
                named["id"] = record[key]
                break
    for key in ("model_id", "generator", "model"):
        if "arm" not in named and isinstance(record.get(key), str):
            named["arm"] = record[key]
    return named


def _first_choice(record: Mapping[str, Any]) -> str | None:
    """The first turn's answer of a record in the form of FastChat or arena-hard, where it is one."""
    choices, messages = record.get("choices"), record.get("messages")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        turns = choices[0].get("turns")
        first = turns[0] if isinstance(turns, list) and turns else None
        first = first.get("content") if isinstance(first, dict) else first
        return first if isinstance(first, str) else None
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict) and "response" not in record:
        content = messages[-1].get("content")
        content = content.get("answer") if isinstance(content, dict) else content
        return content if isinstance(content, str) else None
    return None


def is_missing(value: Any) -> bool:
    """Whether a table's cell holds nothing: None, an empty text, or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
