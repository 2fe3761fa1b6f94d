"""The claims as a page (docs/claims.md), on the report's board, and as the sentences that sum them up in a minute."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from nbutils.claims import differences, published, settle
from nbutils.claims.facts import Fact
from nbutils.claims.published import Number


def _same(unit: str) -> str:
    return f"{published.MARGINS[unit]:g} {unit}"


RULE = (
    "Reproduced: measured here on the claimed side, with a 95% interval that excludes no effect (a fact about data: it "
    "equals the published value to its printed digits, or lies on the claimed side of the bound given). A claim that "
    "there is no effect, or no loss, is one of equivalence: reproduced where the interval excludes a difference, or a "
    "loss, of half the smallest difference that the paper calls one "
    f"({_same('points net win')}, {_same('points AlpacaEval 2.0')}, {_same('points MT-Bench')}; "
    f"{published.MARGINS['points, mean of four tasks']:g} point of the four tasks). Within the interval, not "
    "separable: the interval can tell neither, and covers the paper's value too (where none is published: lies on the "
    "claimed side). Not reproduced: neither. Not run: nothing that could decide it was run here; the tiny model, a "
    f"part of MT-Bench or AlpacaEval, fewer than {differences.PROMPTS} prompts, and every profile whose note says that "
    "it is not the paper's setting count as not run. Where a claim has several parts or judges, the weakest decides, "
    "and a part that was not run leaves the claim not run. Judges and base models differ from the paper's, so "
    "direction is compared, not size."
)

INDEPENDENT = (
    "Independent: of a claim that nothing here decides, other people's judgments of models that they trained on the "
    "paper's sets may speak (docs/evidence.md has them, with their limits). They count by direction and interval: "
    "supported, contradicted, or not decided (the interval can tell neither, or they say nothing of a part); never as "
    "a reproduction by this code, and never beside a measurement made here."
)

INTERVALS = (
    "The paper gives single runs without error bars; the intervals are ours. Pairwise: normal, over 1,030 prompts. "
    "AlpacaEval 2.0: the leaderboard's standard error where it has one, else 0.88 of a coin's over 805 prompts (0.84 "
    "to 0.92 in the 27 models below 20% whose preferences are public). MT-Bench: a standard error of 0.30 a score "
    "(0.25 to 0.36, clustered by question, in the judgments of the TACOS repository). The paper's differences are "
    "taken as if independent; ours are paired by question, but for the four tasks. None of them holds the variation "
    "between training seeds."
)

SOURCES = (
    "The paper's full text was not at hand. The numbers come from the official repository and its summary slide, from "
    "the abstract, and where marked in data/published from transcriptions by others: compare with the paper before "
    "citing."
)

NOT_RUN = "Not run here, for want of a model of the paper's size, its judges, or people"


class Line(NamedTuple):
    """A line of the summary: what it says, and the claims (id and words) of which it says so.

    names: the claims' ids by topic; is_brief: whether these are enough.
    """

    head: str
    claims: list[tuple[str, str]]
    names: str
    is_brief: bool


def headline(table: pd.DataFrame) -> str:
    """How many claims ended how, and about what. table: as `settle.tabulate` gives it."""
    order = (settle.REPRODUCED, settle.FAILED, settle.NOT_RUN, settle.WITHIN)
    words = {name: name for name in (*order, settle.SUPPORTED, settle.UNCLEAR, settle.DENIED)}
    words[settle.WITHIN] = "measured, too little to separate"
    parts = []
    for verdict, what in words.items():
        topics = Counter(table[table.verdict == verdict].topic)
        if topics:
            shown = ", ".join(f"{topic} {count}" for topic, count in topics.items())
            parts.append(f"{topics.total()} {what} ({shown})")
        elif verdict == settle.FAILED:
            parts.append(f"none {what}")
    return f"Of {len(table)} claims {', '.join(parts)}."


def summarise(table: pd.DataFrame) -> list[Line]:
    """What a reader with one minute wants to know: which claims ended how, and what the published numbers can show.

    table: as `settle.tabulate` gives it.
    """
    own, shows = table.topic != "abstract", table.published_shows.map(_separable)
    lines = {
        "Reproduced here": table.verdict == settle.REPRODUCED,
        "Not reproduced here": table.verdict == settle.FAILED,
        "Measured here, too little to separate": table.verdict == settle.WITHIN,
        "Supported by independent judgments": table.verdict == settle.SUPPORTED,
        "Independent judgments do not decide": table.verdict == settle.UNCLEAR,
        "Contradicted by independent judgments": table.verdict == settle.DENIED,
        NOT_RUN: table.verdict == settle.NOT_RUN,
        "Published differences that exceed their own error": own & (shows == "all"),
        "Published differences within their own error": own & (shows == "none"),
        "Contradicted by another published number": own & table.published_shows.str.contains("contradicted"),
    }
    found = []
    for head, rows in ((head, table[chosen]) for head, chosen in lines.items() if chosen.any()):
        names = "; ".join(f"{topic}: {', '.join(part.id)}" for topic, part in rows.groupby("topic", sort=False))
        found.append(Line(head, list(zip(rows.id, rows.claim, strict=True)), names, head == NOT_RUN))
    return found


def describe_smallest() -> str:
    """What `published.power_table` is about: the paper's smallest effect, in words."""
    row = published.smallest_net_win()
    rival = f"{row.judge}, {row.against}, {row.base}"
    return (
        f"A net win of {row.net:.1f} points with {row.tie:.0f}% ties: the paper's smallest published effect ({rival})."
    )


def _separable(published_shows: str) -> str:
    """How many published comparisons are separable on the claimed side: `all`, `some`, `none`, or `unknown`."""
    shows = published_shows.split(", ")
    whole = [part for part in shows if part.endswith(" separable") and "not separable" not in part]
    if not any("separable" in part or "contradicted" in part for part in shows):
        return "unknown"
    return "none" if not whole else "all" if len(shows) == 1 else "some"


CLASSES = ("reproduced", "within", "failed", "supported", "within", "failed", "not-run")
"""The look of each of `settle.OUTCOMES`."""

BOARD = ("D1", "D5", "P1", "P2", "P3", "L4", "R1", "M2", "O1", "H1")
"""Claims of the report's first screen: what the longest are, whom they beat, whether by length alone, at what cost."""

_WEAKEST_FIRST = ("contradicted", "not separable", "no interval", "separable")


class Cell(NamedTuple):
    """One number of a claim: value, interval and unit as text, and what else there is to know of it in a few words."""

    value: str
    interval: str
    unit: str
    remark: str = ""


def show_number(numbers: Sequence[Number]) -> Cell | None:
    """The one of a claim's numbers that says least for it, since the weakest part decides; None where there is none."""
    if not numbers:
        return None
    weakest = min(numbers, key=_strength)
    value, *bounds = weakest.digits
    unit = weakest.unit.removeprefix("% ")
    remarks = {"contradicted": "on the other side", "not separable": "cannot tell", "no interval": "no interval"}
    remark = [remarks[weakest.reading]] if weakest.reading in remarks else []
    remark += [f"weakest of {len(numbers)}"] if len(numbers) > 1 else []
    value += "%" * (unit != weakest.unit)
    return Cell(value, f"[{', '.join(bounds)}]" if bounds else "", unit, ", ".join(remark))


def _strength(number: Number) -> tuple[int, float]:
    """A rank by what a number shows, and among alike ones by how far its interval is from no effect."""
    low, high = (number.value if bound is None else bound for bound in (number.low, number.high))
    distance = number.zero - high if number.expected == "less" else low - number.zero
    return _WEAKEST_FIRST.index(number.reading), distance


def show_fact(facts: Sequence[Fact]) -> Cell | None:
    """The first of a claim's facts that does not hold, else the first; None where there is none."""
    if not facts:
        return None
    fact = next((fact for fact in facts if not fact.holds), facts[0])
    value = f"{fact.measured:,.10g}"
    compared = "" if fact.relation == "equal" and fact.holds else str(fact).removeprefix(f"{fact.quantity}: {value} ")
    about = "; ".join(filter(None, [compared, fact.quantity]))
    return Cell(value, "", about, f"and {len(facts) - 1} more" if len(facts) > 1 else "")


def _describe_claim(item: settle.Settled) -> dict[str, Any]:
    """A claim's three numbers, `published`, `independent` and `here`, and behind each all that there is, in words."""
    exact = [fact for fact in item.facts if fact.relation == "equal"]
    published = show_number(item.published)
    if exact and not published:
        published = Cell(f"{exact[0].bound:,.10g}", "", f"({exact[0].bound_is})")
    here = show_number(item.measured) or show_fact(item.facts)
    # What rests on other claims points to them, whose rows hold the numbers.
    cells = [None, None, None] if item.claim.rests_on else [published, show_number(item.independent), here]
    found = [item.paper, list(map(str, item.independent)), item.here]
    names = ("published", "independent", "here")
    behind = [] if item.claim.rests_on else [(name, texts) for name, texts in zip(names, found, strict=True) if texts]
    about = {"shows": item.reading, "verdict": item.verdict, "behind": behind}
    return {**item.claim._asdict(), **dict(zip(names, cells, strict=True)), **about}


def answer_in_words(settled: Sequence[settle.Settled]) -> list[str]:
    """What reproduced, in a sentence for each kind of evidence.

    Claims are quoted where they stand on numbers of their own; those of the abstract rest on others.
    """
    totals = Counter(item.claim.topic for item in settled)

    def count(verdict: str) -> str:
        counts = Counter(item.claim.topic for item in settled if item.verdict == verdict)
        return ", ".join(f"{topic} ({number} of {totals[topic]})" for topic, number in counts.items()) or "nothing"

    def quote(verdict: str) -> str:
        claims = [item.claim for item in settled if item.verdict == verdict and not item.claim.rests_on]
        return "; ".join(f"“{claim.claim}”" for claim in claims) or "nothing"

    lines = [
        f"Reproduced by this project: {count(settle.REPRODUCED)}. Not reproduced: {count(settle.FAILED)}.",
        f"Supported by others' models: {quote(settle.SUPPORTED)}. Contradicted: {quote(settle.DENIED)}.",
    ]
    open_ones = {
        "Measured, too little to tell": count(settle.WITHIN),
        "Not decided by others' models": quote(settle.UNCLEAR),
        NOT_RUN: count(settle.NOT_RUN),
    }
    return lines + [f"{head}: {said}." for head, said in open_ones.items() if said != "nothing"]


def describe_claims(settled: Sequence[settle.Settled]) -> dict[str, Any]:
    """The report's values about the claims: board and tally, the claims by topic, the rule, what prompts can show."""
    claims = [_describe_claim(item) for item in settled]
    counts, by_id = Counter(item.verdict for item in settled), {claim["id"]: claim for claim in claims}
    topics = {topic: [claim for claim in claims if claim["topic"] == topic] for topic in _unique_topics(claims)}
    return {
        "claims": claims,
        "in_words": answer_in_words(settled),
        "board_rows": [by_id[name] for name in BOARD],
        "topics": {topic: (rows, Counter(row["verdict"] for row in rows)) for topic, rows in topics.items()},
        "verdict_counts": {verdict: counts[verdict] for verdict in settle.OUTCOMES if verdict in counts},
        "classes": dict(zip(settle.OUTCOMES, CLASSES, strict=True)),
        "rule": RULE,
        "independent": INDEPENDENT,
        "intervals": INTERVALS,
        "sources": SOURCES,
        "power": published.power_table().to_dict("records"),
        "smallest": describe_smallest(),
    }


def tabulate_board(settled: Sequence[settle.Settled]) -> pd.DataFrame:
    """The report's board as a frame: the claims that carry the paper, three numbers each, and what became of them."""
    shown = ("published", "independent", "here")
    rows = [
        {"claim": claim["claim"], "verdict": claim["verdict"]} | {name: _plain(claim[name]) for name in shown}
        for claim in describe_claims(settled)["board_rows"]
    ]
    return pd.DataFrame(rows)


def _plain(cell: Cell | None) -> str:
    return " ".join(filter(None, cell[:3])) if cell else ""


def _unique_topics(claims: Sequence[dict[str, Any]]) -> list[str]:
    """The topics as they come, the abstract last: its sentences rest on the others."""
    return sorted(dict.fromkeys(claim["topic"] for claim in claims), key=lambda topic: topic == "abstract")


def render(table: pd.DataFrame) -> str:
    """The page. table: as `settle.tabulate` gives it."""
    parts = ["# Claims", _wrap("What became of every claim. Written by `python -m nbutils.claims --write`.")]
    parts += ["## In one minute", _wrap(f"**{headline(table)}**")]
    minute = []
    for line in summarise(table):
        if line.is_brief:
            minute.append(_wrap(f"- {line.head}: {line.names}.", "  "))
        else:
            claims = (_wrap(f"  - {name}: {words}", "    ") for name, words in line.claims)
            minute.append("\n".join([f"- {line.head}:", *claims]))
    parts += ["\n".join(minute), "## The rule", *map(_wrap, (RULE, INDEPENDENT, INTERVALS, SOURCES))]
    parts += [_render_topic(str(topic), rows) for topic, rows in table.groupby("topic", sort=False)]
    what = describe_smallest()
    power = ["| prompts | 95% interval | excludes zero in |", "|---|---|---|"]
    rows = published.power_table().itertuples()
    power += [f"| {row.prompts:,} | ±{row.margin} | {row.power:.0f}% of runs |" for row in rows]
    parts += ["## What a number of prompts can show", _wrap(what), "\n".join(power)]
    return "\n\n".join(parts) + "\n"


def _render_topic(topic: str, table: pd.DataFrame) -> str:
    lines = [f"## {topic[0].upper()}{topic[1:]}", ""]
    lines += ["| | claim | where | published | that shows | independent | found here | verdict |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in table.itertuples():
        # An abstract's sentence rests on other claims, whose rows hold the numbers.
        three = (row.published, row.independent, row.here)
        numbers, independent, here = ("", "", "") if topic == "abstract" else (text or "–" for text in three)
        texts: Any = (row.id, row.claim, row.where, numbers, row.published_shows, independent, here, row.verdict)
        cells = (text.replace("|", "\\|").replace("; ", "<br>") for text in texts)
        lines.append(f"| {' | '.join(cells)} |")
    notes = [_wrap(f"- {row.id}: {row.note}", "  ") for row in table.itertuples() if row.note]
    return "\n".join([*lines, "", *notes]).rstrip()


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
