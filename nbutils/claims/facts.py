"""Claims about the data (D1 to D7), recomputed from the public files.

    python -m nbutils.claims facts     compute them again and compare with data/published/measured-facts.csv

Needs Alpaca-52k, the paper's released subsets, LIMA and the Llama-2 tokenizer; takes about a minute the first time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nbutils import arms, data, lengths
from nbutils.data.rows import Row
from nbutils.selection import draw, topk

POOL, LONGEST, REFINED = "alpaca-52k", "alpaca-1k-longest-published", "alpaca-1k-longest-refined"
SCORED, LIMA, EVOL = "alpaca-1k-score", "lima-1k", "evol-1k-score"
RELEASED = (LONGEST, REFINED, SCORED, LIMA, EVOL)
"""The five training sets that the official repository released, of 1,000 rows each."""

SOURCES = (POOL, *RELEASED, "llama2-tokenizer", "punkt")
ALPAGASUS_THRESHOLD = 4.5


class Fact(NamedTuple):
    """A measured quantity and what it is held against.

    relation: `equal` (to the digits of `bound`), `above` or `below`; `bound_is` says where the bound comes from.
    """

    claim: str
    quantity: str
    measured: float
    relation: str
    bound: float
    bound_is: str

    @property
    def holds(self) -> bool:
        """Whether the relation holds."""
        if self.relation == "equal":
            return round(self.measured, _digits(self.bound)) == self.bound
        return self.measured > self.bound if self.relation == "above" else self.measured < self.bound

    def __str__(self) -> str:
        is_same = "=" if self.measured == self.bound else "≈"
        sign = {"equal": is_same, "above": ">", "below": "<"}[self.relation] if self.holds else "fails against"
        return f"{self.quantity}: {_shown(self.measured)} {sign} {self.shown_bound}"

    @property
    def shown_bound(self) -> str:
        """The bound, and where it comes from."""
        return f"{_shown(self.bound)} ({self.bound_is})"


def _shown(number: float) -> str:
    return f"{number:,.10g}"


def _digits(number: float) -> int:
    return len(f"{number:g}".partition(".")[2])


def missing_sources() -> list[str]:
    """Sources that the facts need and that are not at hand."""
    return [name for name in SOURCES if not data.is_at_hand(name)]


def measure_facts() -> list[Fact]:
    """All facts, recomputed from the files. Raises InputError where one of them is not at hand."""
    return [
        fact for measure in (_selection, _lengths, _overlap, _scores, _budget, _refined, _masks) for fact in measure()
    ]


def _words(name: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return lengths.count_again([row.response for row in data.load_rows(name)], "nltk_words")


def _ids(name: str) -> set[int]:
    return {row.id for row in data.load_rows(name)}


def _selection() -> Iterator[Fact]:
    words = _words(POOL)
    chosen = topk.top_k(words, 1000)
    shared = len(set(chosen.tolist()) & _ids(LONGEST))
    yield Fact("D1", "ids shared with the released selection", shared, "equal", 1000, "all of them")
    yield Fact(
        "D1", "words of the shortest that is selected", int(words[chosen].min()), "equal", 192, "released selection"
    )
    yield Fact(
        "D1", "rows strictly above it", int((words > words[chosen].min()).sum()), "equal", 998, "released selection"
    )


def _lengths() -> Iterator[Fact]:
    names = {POOL: ("Alpaca-52k", 51.4), LONGEST: ("the longest 1,000", 256.8), LIMA: ("LIMA-1k", 531.3)}
    for name, (shown, paper) in names.items():
        mean = round(float(_words(name).mean()), 4)
        yield Fact("D2", f"mean NLTK words, {shown}", mean, "equal", paper, "the paper")


def _overlap() -> Iterator[Fact]:
    longest, scored = data.load_rows(LONGEST), _ids(SCORED)
    shared = sum(row.id in scored for row in longest)
    yield Fact("D3", "rows of the longest 1,000 that are in AlpaGasus-1k", shared, "below", 500, "half")
    passing = sum(_score(row) >= ALPAGASUS_THRESHOLD for row in longest)
    yield Fact("D3", "rows of the longest 1,000 rated 4.5 or more", passing, "below", 500, "half")


def _scores() -> Iterator[Fact]:
    scores = [_score(row) for row in data.load_rows(LONGEST)]
    counts = Counter(scores)
    below = sum(score < ALPAGASUS_THRESHOLD for score in scores)
    yield Fact("D4", "mean rating of the longest 1,000", round(sum(scores) / len(scores), 4), "below", 4.5, "threshold")
    yield Fact("D4", "most frequent rating", counts.most_common(1)[0][0], "equal", 3.5, "the paper: around 3.5")
    yield Fact("D4", "rows below AlpaGasus' threshold", below, "above", 500, "half")


def _score(row: Row) -> float:
    if row.score is None:
        raise ValueError(f"{row.source}: row {row.id} has no rating")
    return row.score


def _budget() -> Iterator[Fact]:
    trained = {name: _trained(data.load_rows(name)) for name in (LONGEST, SCORED, LIMA)}
    pool = data.load_rows(POOL)
    drawn = draw.draw(arms.parse_arm("alpaca-1k-random-7"), pool, lengths.trained_tokens, lengths.trained_tokens)
    mine, what = trained[LONGEST], "trained Llama-2 tokens an epoch, the longest 1,000"
    yield Fact("D5", what, mine, "above", trained[SCORED], "AlpaGasus-1k")
    yield Fact("D5", what, mine, "above", _trained([pool[i] for i in drawn]), "a random 1,000")
    yield Fact("D5", "the same, LIMA-1k", trained[LIMA], "above", mine, "the longest 1,000")


def _trained(rows: list[Row]) -> int:
    return int(lengths.trained_tokens([row.response for row in rows]).sum())


def _refined() -> Iterator[Fact]:
    before, after = (round(float(_words(name).mean()), 4) for name in (LONGEST, REFINED))
    yield Fact("D6", "mean NLTK words, refined", after, "below", before, "the longest 1,000 as they were")


# --- masks ---------------------------------------------------------------------------------------------------------


def _masks() -> Iterator[Fact]:
    encode = _encoder()
    wrong = sum(not masks_exactly(row, encode) for name in RELEASED for row in data.load_rows(name))
    yield Fact("D7", "rows of 5,000 whose mask is off", wrong, "equal", 0, "exact masks")


def _encoder() -> Callable[[str], list[int]]:
    tokenizer = data.llama2_tokenizer()
    return lambda text: list(tokenizer.encode(text).ids)


def masks_exactly(row: Row, encode: Callable[[str], list[int]]) -> bool:
    """Whether FastChat's way of masking hits the border between prompt and response in this row.

    It masks as many tokens as "... ASSISTANT: " has, less two (train.py of the official repository). The border is
    exact where these are the tokens of "... ASSISTANT:" and the response follows. encode: text to ids with the
    beginning-of-sequence token first. The system sentence is left out: it stands far before the border.
    """
    prompt = f"USER: {row.instruction} {row.input} ASSISTANT:"
    masked = 1 + len(encode(prompt + " ")) - 2
    before, whole = encode(prompt), encode(f"{prompt} {row.response}")
    return masked == len(before) and whole[:masked] == before
