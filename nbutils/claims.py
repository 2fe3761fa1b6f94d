"""Every claim of the paper beside its numbers, their uncertainty, what was measured here, and a verdict.

    python -m nbutils.claims                 print the verdicts
    python -m nbutils.claims --write         and write docs/claims.md and the tables of figures/ that hold them
    python -m nbutils.claims facts           recompute the claims about data from the public files and compare
    python -m nbutils.claims facts --write   and store what was measured

Claims are in data/published/claims.csv, the comparisons on which they stand in comparisons.csv beside it.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import ROOT, artifacts, claims_page, data_facts, paper_numbers
from nbutils.data_facts import Fact
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.paper_numbers import FOLDER, Number, Row
from nbutils.settings import Profile

REPRODUCED, WITHIN, FAILED, NOT_RUN = VERDICTS = (
    "reproduced",
    "within the interval, not separable",
    "not reproduced",
    "not run",
)
LLM_JUDGES = ("openai", "transformers")
"""Kinds of judges whose verdicts speak for or against a claim; the reference judge and the controls do not."""

AGREEMENT = "P4"
"""The claim about the order of other claims' numbers; what else rests on claims takes the weakest of their verdicts."""

PAIRWISE = ("win-rates", "")
"""Comparisons that a pairwise judging can settle: those of the paper's win rates, and those without numbers."""

Table = Sequence[Mapping[str, str]]


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
    """A claim with the published numbers it stands on, the facts and measurements made here, and the verdict.

    silent: parts of the claim for which neither numbers nor facts are published.
    """

    claim: Claim
    published: list[Number]
    facts: list[Fact]
    measured: list[Number]
    verdict: str
    silent: tuple[str, ...] = ()

    @property
    def paper(self) -> list[str]:
        """What was published, in words."""
        exact = [fact for fact in self.facts if fact.relation == "equal"]
        return [*map(str, self.published), *(f"{fact.quantity}: {fact.shown_bound}" for fact in exact)]

    @property
    def here(self) -> list[str]:
        """What was found here, in words."""
        return list(map(str, [*self.facts, *self.measured]))

    @property
    def reading(self) -> str:
        """What the published numbers themselves can show, in a few words."""
        if self.facts and not self.published:
            return claims_page.EXACT
        counts = Counter(number.reading for number in self.published)
        total = len(self.published)
        parts = [f"{counts[name]} of {total} {name}" for name in ("separable", "contradicted", "not separable")]
        shown = [part for part in parts if not part.startswith("0 ")] or (["no interval"] if self.published else [])
        shown += [f"none for {', '.join(self.silent)}"] if self.silent and shown else []
        return ", ".join(shown) or "no numbers"


# --- reading -------------------------------------------------------------------------------------------------------


def load_claims() -> list[Claim]:
    """The claims of data/published/claims.csv, in its order."""
    rows = paper_numbers.read_table("claims")
    return [Claim(**{**row, "rests_on": tuple(row["rests_on"].split())}) for row in rows]  # type: ignore[arg-type]


def load_facts() -> list[Fact]:
    """The facts about data that were measured and stored (data/published/measured-facts.csv)."""
    rows = paper_numbers.read_table("measured-facts")
    return [Fact(**{**row, "measured": float(row["measured"]), "bound": float(row["bound"])}) for row in rows]  # type: ignore[arg-type]


# --- what a run says -----------------------------------------------------------------------------------------------


def measure_run(profile: Profile, results: Table, biases: Table) -> dict[str, list[Number]]:
    """What a run's tables say of each claim, by claim id; nothing where the profile's note says that it is no evidence.

    results: rows of stage 06's summary.csv; biases: rows of stage 07's length_bias.csv. Only comparisons count that an
    LLM judged, with at least 99% of the replies read, by the profile's rule, and on the claim's base model.
    """
    usable = [row for row in results if is_evidence(profile, row)]
    found: dict[str, list[Number]] = {}
    pairwise = (row for row in paper_numbers.read_table("comparisons") if row["table"] in PAIRWISE)
    for wanted in pairwise:
        hits = (row for row in usable if _is_for(wanted, row, base_of(profile)))
        for number in (_net_win(row, wanted["expected"]) for row in hits):
            if number not in found.setdefault(wanted["claim"], []):
                found[wanted["claim"]].append(number)
    heard = {row["judge"] for row in usable}
    found["L4"] = [_at_equal_length(row) for row in biases if row["judge"] in heard and row.get("length_controlled")]
    return {claim: numbers for claim, numbers in found.items() if numbers}


def is_evidence(profile: Profile, row: Mapping[str, str]) -> bool:
    """Whether a row of a run's summary.csv may speak for or against the paper."""
    judges = {judge.name for judge in profile.judging.judges if judge.kind in LLM_JUDGES}
    is_whole = row["test_set"] == "all" and row["rule"] == profile.judging.rule and row["headline"] == "True"
    return not profile.note and profile.model.base != "tiny" and row["judge"] in judges and is_whole


def _is_for(wanted: Row, row: Mapping[str, str], base: str) -> bool:
    # A random arm ends in its sampling seed: alpaca-1k-random-7.
    against = re.fullmatch(re.escape(wanted["against"]) + r"(-\d+)?", row["baseline"])
    fits = not wanted["base"] or (wanted["base"] == "Llama-2-7B") == (base == "Llama-2-7B")
    return bool(against) and row["arm"] == wanted["arm"] and fits


def base_of(profile: Profile) -> str:
    """The paper's name of a profile's base model, else the model's own."""
    known = {"llama-2-7b": "Llama-2-7B", "llama-2-13b": "Llama-2-13B", "mistral-7b": "Mistral-7B"}
    return next((name for part, name in known.items() if part in profile.model.base.lower()), profile.model.base)


def _net_win(row: Mapping[str, str], expected: str) -> Number:
    value, low, high = (100 * float(row[name]) for name in ("net_win", "low", "high"))
    label = f"{row['judge']}, {row['arm']} against {row['baseline']}, {row['prompts']} prompts"
    return Number(label, value, low, high, "points net win", expected)


def _at_equal_length(row: Mapping[str, str]) -> Number:
    names = ("length_controlled", "length_controlled_low", "length_controlled_high")
    value, low, high = (100 * float(row[name]) for name in names)
    return Number(f"{row['judge']}, against {row['baseline']}", value, low, high, "% at equal length", "more", 50.0)


# --- verdicts ------------------------------------------------------------------------------------------------------


def judge_measurement(number: Number, published: Sequence[Number]) -> str:
    """The verdict on one measurement.

    reproduced: it lies on the claimed side and its interval excludes no effect; within: the interval covers no effect
    and a value of the paper too (where the paper has none: lies on the claimed side); else not reproduced.
    """
    if number.reading == "separable":
        return REPRODUCED
    if number.reading != "not separable" or number.low is None or number.high is None:
        return FAILED
    same_kind = [other.value for other in published if other.unit == number.unit]
    side = (number.value > number.zero) == (number.expected == "more")
    covered = any(number.low <= value <= number.high for value in same_kind) if same_kind else side
    return WITHIN if covered else FAILED


def weakest(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its parts: a failed part decides, then one not run, then one unclear."""
    order = (FAILED, NOT_RUN, WITHIN, REPRODUCED)
    return min(verdicts, key=order.index) if verdicts else NOT_RUN


def judges_agree(measured: Mapping[str, Sequence[Number]]) -> str:
    """The claim AGREEMENT: every judge sees Alpaca-52k beaten by most, then AlpaGasus-1k, then LIMA-1k."""
    nets: dict[str, dict[str, float]] = {}
    for claim in ("P1", "P2", "P3"):
        for number in measured.get(claim, ()):
            nets.setdefault(number.label.partition(",")[0], {})[claim] = number.value
    complete = [found for found in nets.values() if len(found) == 3]
    if len(complete) < 2:
        return NOT_RUN
    agree = all(found["P1"] > found["P2"] > found["P3"] > 0 for found in complete)
    return REPRODUCED if agree else FAILED


def settle(measured: Mapping[str, list[Number]] | None = None) -> list[Settled]:
    """Every claim with its verdict; `measured` as `measure_run` gives it (default: nothing was run)."""
    measured, facts = measured or {}, load_facts()
    done: dict[str, Settled] = {}
    # A claim that rests on others comes after them.
    for claim in sorted(load_claims(), key=lambda claim: bool(claim.rests_on)):
        done[claim.id] = _settle(claim, measured, [fact for fact in facts if fact.claim == claim.id], done)
    return [done[claim.id] for claim in load_claims()]


def _settle(
    claim: Claim, measured: Mapping[str, list[Number]], facts: list[Fact], done: Mapping[str, Settled]
) -> Settled:
    if claim.rests_on:
        return _settle_by_parts(claim, measured, [done[part] for part in claim.rests_on])
    mine, published = measured.get(claim.id, []), paper_numbers.published_numbers(claim.id)
    verdicts = [REPRODUCED if fact.holds else FAILED for fact in facts]
    verdicts += [judge_measurement(number, published) for number in mine]
    return Settled(claim, published, facts, mine, weakest(verdicts))


def _settle_by_parts(claim: Claim, measured: Mapping[str, list[Number]], parts: list[Settled]) -> Settled:
    published, facts, mine = (
        list(itertools.chain.from_iterable(found))
        for found in zip(*((part.published, part.facts, part.measured) for part in parts), strict=True)
    )
    verdicts = [judges_agree(measured)] if claim.id == AGREEMENT else [part.verdict for part in parts]
    silent = tuple(part.claim.id for part in parts if not part.published and not part.facts)
    return Settled(claim, published, facts, mine, weakest(verdicts), silent)


# --- tables --------------------------------------------------------------------------------------------------------


def tabulate(settled: Sequence[Settled]) -> Iterator[dict[str, Any]]:
    """One row per claim: its words, the paper's numbers with intervals, what they show, what was found, the verdict."""
    for item in settled:
        claim = item.claim
        yield {
            "id": claim.id,
            "topic": claim.topic,
            "claim": claim.claim,
            "where": claim.where,
            "published": "; ".join(item.paper),
            "published_shows": item.reading,
            "here": "; ".join(item.here),
            "verdict": item.verdict,
            "test": claim.test,
            "note": claim.note,
        }


def write_tables(folder: Path) -> list[Path]:
    """Write the claims and the paper's numbers, with intervals, as the tables that figures are drawn from."""
    tables: dict[str, Iterator[dict[str, Any]]] = {
        "claims": tabulate(settle()),
        "paper-pairwise": paper_numbers.tabulate_pairwise(),
        "paper-alpacaeval": paper_numbers.tabulate_alpaca_eval(),
        "paper-mt-bench": paper_numbers.tabulate_mt_bench(),
        "paper-open-llm": paper_numbers.tabulate_open_llm(),
        "paper-lengths": _tabulate_lengths(),
    }
    for name, rows in tables.items():
        artifacts.write_csv(folder / f"{name}.csv", list(rows))
    return [folder / f"{name}.csv" for name in tables]


def _tabulate_lengths() -> Iterator[dict[str, Any]]:
    """Mean NLTK words of a training response, the paper's beside ours."""
    measured = {fact.bound: fact.measured for fact in load_facts() if fact.claim == "D2"}
    for row in paper_numbers.read_table("training-lengths"):
        paper = float(row["paper_mean_words"])
        yield {"arm": row["arm"], "paper": paper, "here": measured[paper]}


def write_facts(facts: Sequence[Fact]) -> None:
    """Store measured facts in data/published."""
    artifacts.write_csv(FOLDER / "measured-facts.csv", [fact._asdict() for fact in facts])


# --- the command ---------------------------------------------------------------------------------------------------


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.claims`."""
    parser = ArgumentParser(prog="python -m nbutils.claims", description="The paper's claims and what became of them.")
    parser.add_argument("what", nargs="?", choices=["verdicts", "facts"], default="verdicts")
    parser.add_argument("--write", action="store_true", help="write what is shown to the project's files")
    given = parser.parse_args(arguments)
    _show_facts(given.write) if given.what == "facts" else _show_verdicts(given.write)


def _show_facts(write: bool) -> None:
    if missing := data_facts.missing_sources():
        raise InputError(f"not at hand: {', '.join(missing)}: python -m nbutils.data fetch {missing[0]}")
    facts = data_facts.measure_facts()
    stored = [] if write else load_facts()
    for fact in facts:
        agrees = "" if write or fact in stored else "  (differs from what is stored)"
        print(f"{fact.claim}  {'holds' if fact.holds else 'FAILS'}  {fact}{agrees}")
    if write:
        write_facts(facts)


def _show_verdicts(write: bool) -> None:
    settled = settle()
    for item in settled:
        print(f"{item.claim.id:4} {item.verdict:12} {item.claim.claim} (published: {item.reading})")
    if write:
        artifacts.write_text(ROOT / "docs" / "claims.md", claims_page.render(list(tabulate(settled))))
        write_tables(ROOT / "figures" / "tables")


if __name__ == "__main__":
    main()
