"""Claims about the data (D1 to D7), recomputed from the public files.

    python -m nbutils.claims facts     compute them again and compare with data/published/measured-facts.csv

Needs Alpaca-52k, the paper's released subsets, LIMA and the Llama-2 tokenizer; takes about a minute the first time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nbutils import arms, data, lengths
from nbutils.data.rows import Row
from nbutils.selection import draw, topk

POOL, LONGEST, REFINED = "alpaca-52k", "alpaca-1k-longest-published", "alpaca-1k-longest-refined"
SCORED, LIMA, EVOL = "alpaca-1k-score", "lima-1k", "evol-1k-score"
RELEASED = (LONGEST, REFINED, SCORED, LIMA, EVOL)
"""The five training sets that the official repository released, of 1,000 rows each."""

POOL_ROWS = 52_002
ALPAGASUS_ROWS = 9_229
"""Rows of Alpaca-52k, and those of them that GPT-3.5 rated 4.5 or more (Chen et al., AlpaGasus, arXiv 2307.08701)."""

SOURCES = (POOL, *RELEASED, "llama2-tokenizer", "punkt")


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
            digits = len(f"{self.bound:g}".partition(".")[2])
            return round(self.measured, digits) == self.bound
        return self.measured > self.bound if self.relation == "above" else self.measured < self.bound

    def __str__(self) -> str:
        is_same = "=" if self.measured == self.bound else "≈"
        sign = {"equal": is_same, "above": ">", "below": "<"}[self.relation] if self.holds else "fails against"
        return f"{self.quantity}: {self.measured:,.10g} {sign} {self.shown_bound}"

    @property
    def shown_bound(self) -> str:
        """The bound, and where it comes from."""
        return f"{self.bound:,.10g} ({self.bound_is})"


def missing_sources() -> list[str]:
    """Sources that the facts need and that are not at hand."""
    return [name for name in SOURCES if not data.is_at_hand(name)]


def measure_facts() -> list[Fact]:
    """All facts, recomputed from the files. Raises InputError where one of them is not at hand."""
    facts = [fact for measure in (_lengths, _scores, _budget, _masks) for fact in measure()]
    return sorted(facts, key=lambda fact: fact.claim)


def _lengths() -> Iterator[Fact]:
    rows = {name: data.load_rows(name) for name in (POOL, LONGEST, LIMA, REFINED)}
    words = {name: lengths.count_again([row.response for row in found], "nltk_words") for name, found in rows.items()}
    chosen = topk.top_k(words[POOL], 1000)
    shared, least = len(set(chosen.tolist()) & {row.id for row in rows[LONGEST]}), int(words[POOL][chosen].min())
    above = int((words[POOL] > least).sum())
    yield Fact("D1", "ids shared with the released selection", shared, "equal", 1000, "all of them")
    yield Fact("D1", "words of the shortest that is selected", least, "equal", 192, "released selection")
    yield Fact("D1", "rows strictly above it", above, "equal", 998, "released selection")
    means = {name: round(float(found.mean()), 4) for name, found in words.items()}
    paper = {POOL: ("Alpaca-52k", 51.4), LONGEST: ("the longest 1,000", 256.8), LIMA: ("LIMA-1k", 531.3)}
    for name, (shown, mean) in paper.items():
        yield Fact("D2", f"mean NLTK words, {shown}", means[name], "equal", mean, "the paper")
    before = "the longest 1,000 as they were"
    yield Fact("D6", "mean NLTK words, refined", means[REFINED], "below", means[LONGEST], before)


def _scores() -> Iterator[Fact]:
    longest, rated = data.load_rows(LONGEST), {row.id for row in data.load_rows(SCORED)}
    scores = [row.score for row in longest if row.score is not None]
    if len(scores) < len(longest):
        raise ValueError(f"{LONGEST}: {len(longest) - len(scores)} rows have no rating")
    passing = sum(score >= 4.5 for score in scores)
    shared, mean = sum(row.id in rated for row in longest), round(sum(scores) / len(scores), 4)
    usual, below = Counter(scores).most_common(1)[0][0], len(scores) - passing
    among, rate = "rows of the longest 1,000 that are in AlpaGasus-1k", "rows of the longest 1,000 rated 4.5 or more"
    chance = {among: len(rated) * len(longest) / POOL_ROWS, rate: ALPAGASUS_ROWS * len(longest) / POOL_ROWS}
    for what, count in {among: shared, rate: passing}.items():
        yield Fact("D3", what, count, "below", 500, "half")
        yield Fact("D3", what, count, "above", round(chance[what], 1), "chance")
    yield Fact("D4", "mean rating of the longest 1,000", mean, "below", 4.5, "threshold")
    yield Fact("D4", "most frequent rating", usual, "equal", 3.5, "the paper: around 3.5")
    yield Fact("D4", "rows below AlpaGasus' threshold", below, "above", 500, "half")


def _budget() -> Iterator[Fact]:
    def count(rows: list[Row]) -> int:
        return int(lengths.trained_tokens([row.response for row in rows]).sum())

    pool = data.load_rows(POOL)
    drawn = draw.draw(arms.parse_arm("alpaca-1k-random-7"), pool, lengths.trained_tokens)
    longest, scored, lima = (count(data.load_rows(name)) for name in (LONGEST, SCORED, LIMA))
    what = "trained Llama-2 tokens an epoch, the longest 1,000"
    yield Fact("D5", what, longest, "above", scored, "AlpaGasus-1k")
    yield Fact("D5", what, longest, "above", count([pool[i] for i in drawn]), "a random 1,000")
    yield Fact("D5", "the same, LIMA-1k", lima, "above", longest, "the longest 1,000")


def _masks() -> Iterator[Fact]:
    tokenizer = data.llama2_tokenizer()

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    wrong = sum(not masks_exactly(row, encode) for name in RELEASED for row in data.load_rows(name))
    yield Fact("D7", "rows of 5,000 whose mask is off", wrong, "equal", 0, "exact masks")


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
