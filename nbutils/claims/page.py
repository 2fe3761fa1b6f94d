"""The claims as a page (docs/claims.md), on the report's board, and as the sentences that sum them up in a minute."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from nbutils.claims import differences, published, settle


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


def describe_claims(settled: Sequence[settle.Settled]) -> dict[str, Any]:
    """The report's values about the claims: a summary, the table, the rule, and what prompts can show."""
    table = settle.tabulate(settled)
    counts = table.verdict.value_counts()
    lists = []
    for place, (row, item) in enumerate(zip(table.to_dict("records"), settled, strict=True)):
        # What rests on other claims points to them, whose rows hold the numbers.
        rests_on = ", ".join(item.claim.rests_on)
        numbers: dict[str, list[str]] = {"published": [], "independent": [], "here": []}
        if not rests_on:
            found = list(map(str, item.independent))
            numbers = {"published": item.paper, "independent": found, "here": item.here}
        lists.append({**row, "place": place, "rests_on": rests_on, **numbers})
    return {
        "claims": lists,
        "minute": summarise(table),
        "verdict_counts": {verdict: int(counts[verdict]) for verdict in settle.OUTCOMES if verdict in counts},
        "classes": dict(zip(settle.OUTCOMES, CLASSES, strict=True)),
        "rule": RULE,
        "independent": INDEPENDENT,
        "intervals": INTERVALS,
        "sources": SOURCES,
        "power": published.power_table().to_dict("records"),
        "smallest": describe_smallest(),
    }


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
