"""What the tables of stage 01 say, in sentences: prose whose numbers are those of the data at hand.

Each function takes a table as `explore` writes it and returns a passage of Markdown, shorter where the paper's data is
not at hand, and empty for an empty table.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbutils.figures.datasets import label_selection
from nbutils.figures.style import is_longest, name_of, percent

if TYPE_CHECKING:
    from pandas import DataFrame

LIMA, SCORE = "lima-1k", "alpaca-1k-score"


def _unless_empty(tell: "Callable[[DataFrame], str]") -> "Callable[[DataFrame], str]":
    @functools.wraps(tell)
    def told(table: "DataFrame") -> str:
        return "" if table.empty else tell(table)

    return told


@_unless_empty
def of_lengths(lengths: "DataFrame") -> str:
    """How much longer the longest are than the rest, and than LIMA."""
    names = list(lengths["dataset"])
    pool, longest = (lengths.to_dict("records")[place] for place in (0, names.index(_first_longest(names))))
    text = (
        f"Half of all {pool['rows']:,} responses have {pool['median']:,.0f} NLTK words or fewer, and the mean is "
        f"{pool['mean']:,.1f}. The {longest['rows']:,} longest begin at **{longest['min']:,}** and have a mean of "
        f"{longest['mean']:,.1f}, {longest['mean'] / pool['mean']:.1f} times as many."
    )
    if LIMA in names:
        lima = lengths["mean"].iloc[names.index(LIMA)]
        text += (
            f" LIMA, whose examples people wrote or chose by hand, is longer still: {lima:,.1f} words, "
            f"{lima / longest['mean']:.1f} times the mean of the longest. If length alone made the difference, LIMA "
            "would have to win; in the paper's comparisons it loses."
        )
    return text


@_unless_empty
def of_measures(measures: "DataFrame") -> str:
    """How much of the selection changes with the measure."""
    shown = measures[measures.pool == measures.pool.iloc[0]]
    k, rivals = int(shown.k.iloc[0]), shown[(shown.text == "response") & (shown.measure != "nltk_words")]
    changed = sorted(1 - rivals.shared / k)
    instruction = shown[shown.text == "instruction"].iloc[0]
    return (
        f"Put another measure in place of NLTK words and between **{percent(changed[0])}** and "
        f"**{percent(changed[-1])}** of the selection changes. Of the {k:,} longest *instructions* "
        f"{instruction.shared} are in it, and chance alone gives {instruction.by_chance:.0f}."
    )


@_unless_empty
def of_content(content: "DataFrame") -> str:
    """What the longest ask for, and the traits that they have more or less often than all."""
    verbs, traits = (content[content.kind == kind] for kind in ("first verb", "trait"))
    leading = verbs.nlargest(4, "in_selection", keep="first")
    *some, last = (f"“{verb}”" for verb in leading.value)
    share = {
        row.value: f"{percent(row.share_selection)} against {percent(row.share_pool)}" for row in traits.itertuples()
    }
    longest, whole = (percent(leading[column].sum()) for column in ("share_selection", "share_pool"))
    return (
        f"They ask for writing: {', '.join(some)} and {last} open **{longest}** of them, and {whole} of all. "
        f"Of the longest against all, {share['has an input']} work on a given input, {share['holds a list']} hold a "
        f"list, {share['repeats itself']} repeat themselves, and {share['unfinished end']} have an unfinished end."
    )


@_unless_empty
def of_scores(scores: "DataFrame") -> str:
    """How many of the longest GPT-3.5's rating would have kept."""
    longest = scores[scores.dataset == "alpaca-1k-longest-published"]
    rows, kept = longest.rows.sum(), longest[longest.score >= 4.5].rows.sum()
    return (
        f"The rater would have kept {kept:,} of the {rows:,} longest and thrown away **{percent(1 - kept / rows)}** of "
        "the examples that, by the paper's account, make the better training set. So either the rating is a poor "
        "guide, or what it rates is not what training needs."
    )


@_unless_empty
def of_overlaps(overlaps: "DataFrame") -> str:
    """How many rows the longest share with the selection that they are set against."""
    shown = overlaps[(overlaps.pool == overlaps.pool.iloc[0]) & (overlaps.left == overlaps.left.iloc[0])]
    row = shown[shown.right == _rival(list(shown.right))].iloc[0]
    return (
        f"The longest and {_name(row.right)} have **{row.shared}** examples of {row.of:,} in common; two random "
        f"choices would have {row.by_chance:.0f}."
    )


@_unless_empty
def of_budget(budget: "DataFrame") -> str:
    """How many tokens training sets of one size train."""
    trained, unit = budget.set_index("arm").trained, budget.unit.iloc[0]
    longest = trained.iloc[0]
    others = [name for name in (SCORE, _random(list(trained.index)), LIMA) if name in trained.index]
    told = [f"{longest / trained[name]:.1f} times those of {_name(name)}" for name in others]
    return f"The longest have **{longest:,}** {unit} in the loss of an epoch: {', '.join(told)}."


def _first_longest(names: list[str]) -> str:
    return next(name for name in names if is_longest(name))


def _random(names: list[str]) -> str:
    return next(name for name in names if "-random-" in name and "matched" not in name)


def _rival(names: list[str]) -> str:
    return SCORE if SCORE in names else _random(names)


def _name(arm: str) -> str:
    return "a random choice" if "-random-" in arm else label_selection(arm) if arm == SCORE else name_of(arm)
