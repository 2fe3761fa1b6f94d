"""Every claim of the paper beside its numbers, their uncertainty, what was measured here, and a verdict.

Claims are in data/published/claims.csv, the comparisons on which they stand in comparisons.csv beside it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nbutils.claims import published as paper
from nbutils.claims.evidence import Measured
from nbutils.claims.facts import Fact
from nbutils.claims.published import Number
from nbutils.core import tables

OUTCOMES = (
    "reproduced",
    "within the interval, not separable",
    "not reproduced",
    "supported independently",
    "independent, not decided",
    "contradicted independently",
    "not run",
)
REPRODUCED, WITHIN, FAILED, SUPPORTED, UNCLEAR, DENIED, NOT_RUN = OUTCOMES
AGREEMENT = "P4"
"""The claim about two judges: one alone settles nothing of it."""


class Claim(NamedTuple):
    """A claim: `rests_on` names the claims that decide it, `test` says what would test it."""

    id: str
    topic: str
    claim: str
    where: str
    rests_on: tuple[str, ...]
    test: str
    note: str


class Settled(NamedTuple):
    """A claim with the published numbers it stands on, the facts and measurements made here, and the verdict on them.

    own: the verdict by what was measured here; independent: what other people's judgments say of it; unheard: whether
    they say nothing of some part; missing: parts of the claim that were not measured, where others were; silent: parts
    for which neither numbers nor facts are published.
    """

    claim: Claim
    published: list[Number]
    facts: list[Fact]
    measured: list[Number]
    own: str
    independent: Sequence[Number] = ()
    unheard: bool = False
    missing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict by what was measured here; where nothing decides it, that by independent judgments."""
        if self.own != NOT_RUN or not self.independent:
            return self.own
        readings = {number.reading for number in self.independent}
        if "contradicted" in readings:
            return DENIED
        return UNCLEAR if self.unheard or "not separable" in readings else SUPPORTED

    @property
    def paper(self) -> list[str]:
        """What was published, in words."""
        exact = [fact for fact in self.facts if fact.relation == "equal"]
        return [*map(str, self.published), *(f"{fact.quantity}: {fact.shown_bound}" for fact in exact)]

    @property
    def here(self) -> list[str]:
        """What was found here, in words."""
        return [*map(str, [*self.facts, *self.measured]), *(f"not run: {part}" for part in self.missing)]

    @property
    def reading(self) -> str:
        """What the published numbers themselves can show, in a few words."""
        if not self.published:
            return "exact counts" if self.facts else "no numbers"
        counts, total = Counter(number.reading for number in self.published), len(self.published)
        kinds = [name for name in ("separable", "contradicted", "not separable") if counts[name]]
        shown = [f"{counts[name]} of {total} {name}" for name in kinds] or ["no interval"]
        return ", ".join([*shown, *([f"none for {', '.join(self.silent)}"] if self.silent else [])])


def load_claims() -> list[Claim]:
    """The claims of data/published/claims.csv, in its order."""
    rows = paper.read("claims")[list(Claim._fields)].itertuples(index=False)
    return [Claim(*row)._replace(rests_on=tuple(row.rests_on.split())) for row in rows]


def load_facts() -> list[Fact]:
    """The facts about data that were measured and stored (data/published/measured-facts.csv)."""
    return [Fact(*row) for row in paper.read("measured-facts")[list(Fact._fields)].itertuples(index=False)]


def judge_measurement(number: Number, published: Sequence[Number]) -> str:
    """The verdict on one measurement.

    reproduced: its reading is `separable` (it lies on the claimed side and its interval excludes no effect; of a claim
    of equivalence, it excludes an effect of the margin); within: the interval can tell neither and covers a value of
    the paper too (where the paper has none: lies on the claimed side; of a claim of equivalence: always); else not
    reproduced.
    """
    if number.reading == "separable":
        return REPRODUCED
    if number.reading != "not separable" or number.low is None or number.high is None:
        return FAILED
    if number.expected in ("same", "not less", "twice"):
        return WITHIN
    same_kind = [other.value for other in published if other.unit == number.unit]
    side = (number.value > number.zero) == (number.expected == "more")
    covered = any(number.low <= value <= number.high for value in same_kind) if same_kind else side
    return WITHIN if covered else FAILED


def weakest(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its parts: a failed part decides, then one not run, then one unclear."""
    order = (FAILED, NOT_RUN, WITHIN, REPRODUCED)
    return min(verdicts, key=order.index) if verdicts else NOT_RUN


def settle(found: Measured | None = None) -> list[Settled]:
    """Every claim with its verdict; `found` as `measure_run` or `evidence.measure` gives it (default: nothing)."""
    found, facts, claims = found or Measured({}, {}), load_facts(), load_claims()
    done: dict[str, Settled] = {}
    # A claim that rests on others comes after them.
    for claim in sorted(claims, key=lambda claim: bool(claim.rests_on)):
        if claim.rests_on:
            done[claim.id] = _settle_by_parts(claim, [done[part] for part in claim.rests_on])
            continue
        known = [fact for fact in facts if fact.claim == claim.id]
        mine, published = found.numbers.get(claim.id, []), paper.published_numbers(claim.id)
        missing = tuple(found.missing.get(claim.id, ()))
        verdicts = [REPRODUCED if fact.holds else FAILED for fact in known]
        verdicts += [judge_measurement(number, published) for number in mine] + [NOT_RUN for _ in missing]
        if claim.id == AGREEMENT and len({number.judge for number in mine}) < 2:
            verdicts.append(NOT_RUN)
        independent = paper.independent_numbers(claim.id)
        done[claim.id] = Settled(claim, published, known, mine, weakest(verdicts), independent, missing=missing)
    return [done[claim.id] for claim in claims]


def _settle_by_parts(claim: Claim, parts: list[Settled]) -> Settled:
    return Settled(
        claim,
        published=[number for part in parts for number in part.published],
        facts=[fact for part in parts for fact in part.facts],
        measured=[number for part in parts for number in part.measured],
        own=weakest([part.own for part in parts]),
        independent=[number for part in parts for number in part.independent],
        unheard=not all(part.independent for part in parts),
        missing=tuple(missing for part in parts for missing in part.missing),
        silent=tuple(part.claim.id for part in parts if not part.published and not part.facts),
    )


def tabulate(settled: Sequence[Settled]) -> pd.DataFrame:
    """One row per claim: its words, the paper's numbers with intervals, what they show, what was found, the verdict."""
    found = {
        "published": ["; ".join(item.paper) for item in settled],
        "published_shows": [item.reading for item in settled],
        "independent": ["; ".join(map(str, item.independent)) for item in settled],
        "here": ["; ".join(item.here) for item in settled],
        "verdict": [item.verdict for item in settled],
    }
    columns = ["id", "topic", "claim", "where", *found, "test", "note"]
    return pd.DataFrame([item.claim for item in settled]).assign(**found)[columns]


def write_tables(folder: Path) -> list[Path]:
    """Write the claims and the paper's numbers, with intervals, as the tables that figures are drawn from."""
    # Mean NLTK words of a training response, the paper's beside ours.
    ours = {fact.bound: fact.measured for fact in load_facts() if fact.claim == "D2"}
    words = paper.read("training-lengths").rename(columns={"paper_mean_words": "paper"})[["arm", "paper"]]
    lengths = words.assign(here=[ours[mean] for mean in words.paper])
    made = {"claims": tabulate(settle()), **paper.tabulate(), "paper-lengths": lengths}
    for name, table in made.items():
        tables.write(folder / f"{name}.csv", table)
    return [folder / f"{name}.csv" for name in made]
