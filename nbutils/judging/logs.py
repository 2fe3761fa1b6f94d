"""Logs of other tools, each record told by its own keys and never by a file's name: what it stands for as our rows.

FastChat (lm-sys/FastChat, fastchat/llm_judge/common.py: `play_a_match_pair`, `play_a_match_single`), AlpacaEval
(`annotations.json` of both versions), arena-hard (`gen_judgment.py` of both versions: the first game shows the baseline
first), Cherry LLM's pairwise reviews, and tables of any tool with two sides and a winner in a row: Chatbot Arena's
battles, MT-Bench's human votes, preference pairs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbutils.analysis.verdicts import ORDERS
from nbutils.core.errors import InputError
from nbutils.judging.answers import is_missing, length_of, name_prompt
from nbutils.judging.pairs import MEASURE
from nbutils.judging.replies import read_single, score_review

_ANNOTATION = ("output_1", "output_2", "preference")
_REVIEWS = ("Answer1", "Answer2", "review", "review_reverse")
_FASTCHAT = ("question_id", "model_1", "model_2", "g1_winner", "g2_winner")
_FASTCHAT_SINGLE = ("question_id", "model", "judgment", "score")
TEXT = "prompt's name"
"""Key of a row of a log that has no ids: what its prompt would be called by its text."""
PEOPLE = ("annotators", "authors", "experts", "arena users")
"""The many people of a public log, each kind as one judge: who of them votes again on a prompt is its next run."""


def expand(
    record: Mapping[str, Any], number: int, sides: set[tuple[str, str]] | None = None
) -> Iterator[dict[str, Any]]:
    """The judgment rows that a record of a log stands for; a record of no known log stands for itself.

    number: the record's place in its file, which is its id where it has none. sides: the pairs of models, arm first,
    that the file has shown; a log that draws the sides anew each time is turned to how a pair came first. Raises
    InputError naming a faulty key.
    """
    sides = set() if sides is None else sides
    if isinstance(record.get("data"), list):  # a whole log as one object
        for place, inner in enumerate(record["data"]):
            if not isinstance(inner, dict):
                raise InputError(f"row {place} of 'data' is {type(inner).__name__}, not an object")
            yield from expand(inner, place, sides)
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
    elif "len_arm" not in record and (battles := list(_battles(record, number))):
        for row in battles:
            is_turned = (row["baseline"], row["arm"]) in sides
            sides.add((row["baseline"], row["arm"]) if is_turned else (row["arm"], row["baseline"]))
            yield turn(row) if is_turned else row
    else:
        yield dict(record)


def turn(row: Mapping[str, Any]) -> dict[str, Any]:
    """A judgment row with its arm as the baseline, and the baseline as the arm."""
    swapped = {"arm": "baseline", "len_arm": "len_baseline", "score_arm": "score_baseline"}
    swapped |= {other: one for one, other in swapped.items()}
    turned = {key: row[swapped.get(key, key)] if swapped.get(key, key) in row else row[key] for key in row}
    order = ORDERS[1 - ORDERS.index(row["order"])] if row.get("order") in ORDERS else row.get("order")
    weight = row["preference"]
    return turned | {"order": order, "preference": 1 - weight if isinstance(weight, int | float) else weight}


def _named(record: Mapping[str, Any], number: int, keys: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """The id of a record, and where it has none the number, with what its prompt's text would be called."""
    if (found := next((record[key] for key in keys if not is_missing(record.get(key))), None)) is not None:
        return {"id": str(found)}
    shown = "\n\n".join(str(record[key]) for key in texts if not is_missing(record.get(key)))
    return {"id": str(number)} | ({TEXT: name_prompt(shown)} if shown else {})


def _annotation(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """AlpacaEval draws the order at random; preferences lie between 1 and 2, a draw of version 1 is 0 or 1.5.

    AlpacaFarm's human annotations name no models, and people by numbers.
    """
    weight = _to_float(record["preference"], number, "AlpacaEval's 'preference'")
    weight = 1.5 if weight == 0 else weight
    if weight is not None and not 1 <= weight <= 2:
        raise InputError(f"row {number}: AlpacaEval's 'preference' is {weight:g}, not between 1 and 2")
    judge = record.get("annotator") or ("annotators" if record.get("annotator_index") is not None else "judge")
    head = _named(record, number, ("idx",), ("instruction", "input")) | {"test_set": "alpaca-eval", "judge": judge}
    sides = {"arm": record.get("generator_2") or "output 2", "baseline": record.get("generator_1") or "output 1"}
    sizes = {"len_arm": _size(record, "output_2", number), "len_baseline": _size(record, "output_1", number)}
    preference = None if weight is None else weight - 1
    return {**head, **sides, **sizes, "order": "random", "preference": preference, "measure": MEASURE}


def _to_float(value: Any, number: int, what: str) -> float | None:
    """A number, also one that a table wrote as text; None for what is missing."""
    if is_missing(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"row {number}: {what} is {str(value)[:40]!r}, not a number") from None


def reviews_of(
    record: Mapping[str, Any], number: int, arm: str = "answer 1", baseline: str = "answer 2"
) -> list[dict[str, Any]]:
    """Both orders of a pair from its two reviews: the first answer is the arm's."""
    texts = ("prompt", "instruction", "Instruction", "text", "conversations")  # each test set has its own
    head = _named(record, number, ("index",), texts) | {"test_set": record.get("test_set", "")}
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
        read = _read_game(review, winner, order, number, "m1_score" in record)
        shown = _shown_sizes(record.get(f"{game}_user_prompt"), order)
        rows.append({**head, **sides, **shown, "order": order, "review": review, **read})
    return rows[:1] if "m1_score" in record else rows  # two grades of single answers have no order


def _judge_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """FastChat's judge, a pair of its model and the prompt that it was asked by, or a name alone."""
    judge = record.get("judge", "judge")
    return (str(judge[0]), str(judge[-1])) if isinstance(judge, list) and judge else (str(judge), "")


_WON = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": None}


def _read_game(review: Any, winner: Any, order: str, number: int, is_graded: bool = False) -> dict[str, Any]:
    if isinstance(review, str) and not review.startswith("$ERROR$") and not is_graded:
        found = {form: score_review(review, order, form) for form in ("[[A]]", "[[rating_a,rating_b]]")}
        form = next((name for name, read in found.items() if read["status"] == "judged"), "[[A]]")
        return found[form] | {"form": form}
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
    # Of a conversation the answer to its last question, which is what is judged.
    texts = [
        each and each[1].rpartition(f"### Assistant {letter}:\n")[2] for each, letter in zip(found, "AB", strict=True)
    ]
    first, second = (None if text is None else len(text.rstrip("\n")) for text in texts)
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


_STEMS = ("conversation", "response", "output", "answer", "completion", "generation", "text", "reply")
_ENDS = (("_a", "_b"), ("_1", "_2"), ("1", "2"), ("a", "b"), ("1_body", "2_body"))
_NAMES = ("model", "generator", "system", "assistant")
_SIZES = ("len", "length", "chars", "tokens")
_WINNERS = (
    "winner",
    "preference",
    "preferred",
    "verdict",
    "vote",
    "choice",
    "better",
    "label",
    "judgment",
    "judgement",
)
_SIDE = re.compile(
    r"(?:(?:model|response|output|answer|assistant|completion|conversation|side|option)[\s_-]*)?([ab12])"
)
_DRAWS = ("draw", "same", "equal", "both", "neither", "both_bad", "bothbad", "both bad", "c", "=")


def _battles(record: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """A row for each vote on two sides: Chatbot Arena's battles, MT-Bench's human votes, anybody's table of winners."""
    named = {re.sub(r"[\s.-]+", "_", str(key).strip().lower()): value for key, value in record.items()}
    texts, models, sizes = (_two_of(named, stems) for stems in (_STEMS, _NAMES, _SIZES))
    votes = _votes_of(named, bool(texts), number) if texts or models else {}
    if is_pair := not votes and {"chosen", "rejected"} <= named.keys():
        texts, models, votes = _chosen_first(named)
    if not votes:
        return
    names = [str(name) for name in models or ("answer 1", "answer 2")]
    head = _named(
        named, number, ("question_id", "id", "uid", "idx", "index"), ("instruction", "prompt", "question", "input")
    )
    is_turn = models and str(named.get("turn")).isdigit() and str(named.get("question_id")).isdigit()
    if is_turn:  # MT-Bench, as FastChat's log of pairs is read
        head = {"id": f"{named['question_id']}-{named['turn']}", "cluster": str(named["question_id"])}
    lengths: list[Any] = [length_of(text, int(named["turn"]) if is_turn else None) for text in texts or (None, None)]
    if sizes and not texts:
        lengths = [_to_float(size, number, "a length") for size in sizes]
    said = next((named[key] for key in ("judge", "annotator", "rater") if not is_missing(named.get(key))), "judge")
    judge, _ = _judge_of({"judge": said})
    head |= {"test_set": "mt-bench" if is_turn else str(named.get("test_set") or named.get("subset") or "")}
    head |= {"arm": names[0], "baseline": names[1], "order": "random" if is_turn or is_pair else ORDERS[0]}
    head |= {"len_arm": lengths[0], "len_baseline": lengths[1], "measure": MEASURE if texts else "as given"}
    for who, vote in votes.items():
        weight = _weigh(vote, names, number)
        read = {"preference": weight, "status": "unparsed" if weight is None else "judged"}
        yield {**head, **read, "judge": who or ("preference" if is_pair else _pooled(judge))}


def _votes_of(named: Mapping[str, Any], has_texts: bool, number: int) -> dict[str, Any]:
    """Who won, by who says so: "" for the record's judge. Empty where nobody says."""
    if {"winner_model_a", "winner_model_b"} <= named.keys():
        scores: Any = [named["winner_model_a"], named["winner_model_b"]]
    else:
        scores = named.get("score")  # JudgeLM
    if found := [key for key in _WINNERS if key in named]:
        return {"": named[found[0]]}
    if isinstance(scores, list) and len(scores) == 2:
        first, second = (_to_float(score, number, "a score") or 0.0 for score in scores)
        return {"": "tie" if first == second else "a" if first > second else "b"}
    people = [key for key in named if has_texts and re.fullmatch(r"annotator_?\d+", key)]
    return {key: "tie" if str(named[key]) == "0" else named[key] for key in people}  # PandaLM


def _two_of(named: Mapping[str, Any], stems: Sequence[str]) -> tuple[Any, Any] | None:
    keys = ((stem + one, stem + other) for stem in stems for one, other in _ENDS)
    return next(((named[one], named[other]) for one, other in keys if one in named and other in named), None)


def _chosen_first(named: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """A pair of preferences (RewardBench, HH-RLHF, UltraFeedback): texts, models, and the vote for the chosen one.

    Without models neither side is the arm's: which comes first is drawn by the texts, or every arm would always win.
    """
    texts = (named["chosen"], named["rejected"])
    models = (named.get("chosen_model"), named.get("rejected_model"))
    has_models = not any(map(is_missing, models)) and models[0] != models[1]
    if has_models or int(name_prompt(repr(texts)), 16) % 2:
        return texts, models if has_models else None, {"": "a"}
    return texts[::-1], None, {"": "b"}


def _weigh(vote: Any, names: Sequence[str], number: int) -> float | None:
    """A vote as the first side's preference, 0 to 1; None where nobody decided."""
    if is_missing(vote) or vote is ...:
        return None
    said = str(vote).strip().strip("[]").casefold()
    said = said.removesuffix(".0") if isinstance(vote, float) else said
    if str(vote) in names and names[0] != names[1]:
        return 1.0 - names.index(str(vote))
    if found := _SIDE.fullmatch(said):
        return 1.0 if found[1] in "a1" else 0.0
    if said in ("left", "first", "right", "second"):
        return 1.0 if said in ("left", "first") else 0.0
    if said.startswith("tie") or said in _DRAWS:
        return 0.5
    if re.fullmatch(r"0?\.\d+", said):
        return float(said)
    if said in ("error", "invalid", "none", "nan", "null", "unparseable"):
        return None
    if len(said) > 60:  # what a judge wrote, with its verdict in brackets
        return score_review(str(vote), ORDERS[0], "[[A]]")["preference"]
    mend = "write model_a, model_b or tie"
    raise InputError(f"row {number}: the winner is {str(vote)[:40]!r}, which names neither side: {mend}")


def _pooled(judge: str) -> str:
    """The many people of a public log as one judge: each of them has seen a few pairs."""
    if re.fullmatch(r"arena_user_\w+|[0-9a-f]{32}", judge):
        return "arena users"
    kind = re.fullmatch(r"(annotator|author|expert)_\d+", judge)
    return f"{kind[1]}s" if kind else judge


def to_grades(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of MT-Bench's grades from FastChat's log of single answers; None for a record of another kind."""
    if not all(key in record for key in _FASTCHAT_SINGLE):
        return None
    (name, asked), review = _judge_of(record), record["judgment"]
    score = read_single(review, "[[rating]]") if isinstance(review, str) else None
    status = "failed" if review == "$ERROR$" else "unparsed" if score is None else "judged"
    head = {"id": f"mt_bench_{record['question_id']}", "test_set": "mt-bench", "turn": record.get("turn", 1)}
    sides = {"arm": record["model"], "judge": name, "asked": asked}
    return {**head, **sides, "score": score, "status": status, "review": review}
