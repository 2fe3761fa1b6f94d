"""The verdict on a comparison: what all estimates say together, in words and as a card.

No single curve through all prompts can be trusted to say what is preferred at equal length: a judge that rewards only
answers over 20% longer, and tosses a coin otherwise, seems to prefer an arm that writes more. So a verdict needs
estimates that fail in different ways, and says first where they disagree.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pandas import DataFrame

from nbutils.analysis.intervals import Estimate

NONE = Estimate(math.nan, math.nan, math.nan, 0, "not estimated")

OTHER = {"arm": "baseline", "baseline": "arm"}


class Card(NamedTuple):
    """The estimates on which a verdict rests: win rates of the arm in 0..1, `NONE` where there is none.

    judged: the mean preference; decided: prompts won, ties counting half; equal, the headline: at equal length, by the
    model of the lengths' ratio; difference: by that of their difference; matched: pairs of (nearly) equal length; cut:
    both answers cut to one length and judged again.
    """

    judged: Estimate
    decided: Estimate
    equal: Estimate
    difference: Estimate
    matched: Estimate
    cut: Estimate = NONE


class Finding(NamedTuple):
    """A verdict in words; settled: whether it says who is preferred at equal length, and not by a curve alone."""

    text: str
    settled: bool = False


COLUMNS = {
    "judged": ("win_rate", "as judged, mean preference"),
    "decided": ("prompts_won", "as judged, prompts won (ties half)"),
    "equal": ("at_equal_length", "at equal length, by the ratio of lengths"),
    "difference": ("length_controlled", "at equal length, by the difference of lengths"),
    "matched": ("length_matched", "pairs of equal length"),
    "cut": ("win_rate_cut", "answers cut to one length"),
}
"""By estimate: the column of the length analysis that holds it, and its name in words."""

_SHORT = {
    "equal": "the ratio of lengths",
    "difference": "the difference of lengths",
    "matched": "pairs of equal length",
    "cut": "answers cut to one length",
}

NOTHING = "no preference that could be told from chance"


_ENDS = {"value": "", "low": "_low", "high": "_high"}


def side_of(estimate: Estimate) -> str:
    """The side that a rate's interval decides for: "arm", "baseline", or "" where it covers one half."""
    return "arm" if estimate.low > 0.5 else "baseline" if estimate.high < 0.5 else ""


def lean_of(estimate: Estimate) -> str:
    """The side to which a rate itself leans, whatever its interval; "" for one half and where there is none."""
    return "arm" if estimate.value > 0.5 else "baseline" if estimate.value < 0.5 else ""


def find(card: Card, alone: str = "") -> Finding:
    """Who is preferred, as judged and at equal length. alone: the answer that a judge of length alone prefers, or "".

    "Also at equal length" is said where the headline's interval excludes one half, every other estimate at equal length
    leans to the same side, and the pairs of equal length decide for it by their own interval. The last is what keeps
    curves that the model does not hold from being believed (docs/length.md has the calibration).
    """
    if alone:
        return Finding(f"this judge decided by length alone: it prefers the {alone} answer")
    judged, equal = side_of(card.judged), side_of(card.equal)
    if judged and lean_of(card.decided) == OTHER[judged]:
        text = f"the {judged} is preferred on average, and the {OTHER[judged]} wins more prompts"
        return Finding(f"the estimates disagree: {text}")
    if math.isnan(card.equal.value):
        text = f"the {judged} is preferred, but one side is nearly always longer: length cannot be told apart"
        return Finding(text if judged else NOTHING)
    return _find_at_equal_length(card, judged, equal) if equal else _find_unseparated(card, judged)


def _find_at_equal_length(card: Card, judged: str, equal: str) -> Finding:
    """The verdict where the headline decides for a side."""
    contrary = [name for name in ("difference", "matched", "cut") if lean_of(getattr(card, name)) == OTHER[equal]]
    if contrary:
        text = f"at equal length the ratio of lengths is for the {equal}, {_join(contrary)} for the {OTHER[equal]}"
        return Finding(f"the estimates disagree: {text}")
    settled = side_of(card.matched) == equal
    alone = "" if settled else ", by the curve alone: pairs of equal length do not confirm it"
    if judged == equal:
        text = "also at equal length" if settled else f"at equal length too{alone}"
        return Finding(f"the {judged} is preferred, {text}", settled)
    if judged:
        return Finding(f"the {judged} is preferred, and at equal length the other side would be{alone}", settled)
    return Finding(f"no preference as judged, but at equal length the {equal} is preferred{alone}", settled)


def _find_unseparated(card: Card, judged: str) -> Finding:
    """The verdict where the headline decides for nobody."""
    deciding: dict[str, list[str]] = {side: [] for side in OTHER}
    for name in _SHORT:
        if side := side_of(getattr(card, name)):
            deciding[side].append(name)
    against = deciding[OTHER[judged]] if judged else []
    if against or all(deciding.values()):
        said = ", ".join(f"{_join(names)} for the {side}" for side, names in deciding.items() if names)
        head = f"as judged the {judged} is preferred, " if judged else ""
        return Finding(f"the estimates disagree: {head}{said}")
    if not judged:
        return Finding(NOTHING)
    if lean_of(card.matched) == lean_of(card.cut) == OTHER[judged]:
        text = f"as judged the {judged} is preferred, {_join(['matched', 'cut'])} lean to the {OTHER[judged]}"
        return Finding(f"the estimates disagree: {text}")
    return Finding(f"the {judged} is preferred, but not separably at equal length")


def _join(names: list[str]) -> str:
    return " and ".join(_SHORT[name] for name in names)


def tabulate_card(row: Mapping[str, Any]) -> DataFrame:
    """A row of the length analysis as a card: one row per estimate that exists, with its interval and what it says.

    Columns: estimate (words), rate, low, high (0..1), says ("the arm", "the baseline", "cannot tell").
    """
    found = []
    for column, words in COLUMNS.values():
        rate = NONE._replace(**{name: row.get(f"{column}{end}", math.nan) for name, end in _ENDS.items()})
        if not math.isnan(rate.value):
            side = side_of(rate)
            says = f"the {side}" if side else "cannot tell"
            found.append({"estimate": words, "rate": rate.value, "low": rate.low, "high": rate.high, "says": says})
    return DataFrame(found, columns=["estimate", "rate", "low", "high", "says"])


TOLD = ("judged", "equal", "matched")
"""The estimates of a card that are told in few lines: as judged, the headline, and what settles it."""


def tell_card(row: Mapping[str, Any]) -> list[str]:
    """A row of the length analysis in four lines of text: the verdict, and three estimates on which it rests."""
    card = {line["estimate"]: line for line in tabulate_card(row).to_dict("records")}
    sides = f"{row['arm']} (the arm) against {row['baseline']} (the baseline)"
    verdict = f"{sides}, judged by {row['judge']}, {row['prompts']} prompts: {row['finding']}"
    lines = []
    for words in (COLUMNS[name][1] for name in TOLD):
        found = card.get(words)
        said = "{rate:.2f} [{low:.2f}, {high:.2f}], {says}".format_map(found) if found else "cannot be estimated"
        lines.append(f"{words}: {said}")
    return [verdict, *lines]


_TABLED = {
    "win_rate": "as judged",
    "at_equal_length": "at equal length",
    "length_matched": "equal pairs",
    "win_rate_cut": "cut to one length",
}
"""Columns of the length analysis that `tabulate_verdicts` shows, by their names there."""


def tabulate_verdicts(table: DataFrame) -> DataFrame:
    """A length analysis as verdicts, a row for each comparison: who, the verdict, and the rates that it rests on.

    Rates are text, percent with 95% intervals, "" for what cannot be estimated; a rate that no row has is no column,
    nor is `against` where all have one baseline.
    """
    found = []
    for row in table.to_dict("records"):
        rates = {words: _write_rate(row, column) for column, words in _TABLED.items()}
        found.append({"judge": row["judge"], "against": row["baseline"], "verdict": row["finding"]} | rates)
    named = DataFrame(found, columns=["judge", "against", "verdict", *_TABLED.values()])
    left_out = {name for name in _TABLED.values() if not named[name].any()}
    left_out |= {"against"} if len(named) > 1 and named["against"].nunique() == 1 else set()
    return named.drop(columns=list(left_out))


def _write_rate(row: Mapping[Any, Any], column: str) -> str:
    value, low, high = (100 * row.get(f"{column}{end}", math.nan) for end in _ENDS.values())
    return "" if math.isnan(value) else f"{value:.0f} [{low:.0f}, {high:.0f}]"
