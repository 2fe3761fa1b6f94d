"""Judgments as items: one per prompt (or per order), grouped by comparison."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame

from nbutils.analysis.intervals import Estimate, Numbers, mean_with_interval
from nbutils.analysis.verdicts import CLUSTER, COMPARISON, ORDERS, PROMPT, Rows, to_frame

LARGEST = 1e15
"""No length and no difficulty is larger; beyond it sums of squares would lose their meaning."""


class Items(NamedTuple):
    """Judged prompts of one comparison: mean preference over the orders, and both lengths; each of shape (n,).

    Lengths are NaN where a log has none. position: half the preference that the arm gains by standing first, NaN where
    a prompt has not both orders. decision: 1, 0 or -1, the prompt's win, tie or lose by the signs of its orders.
    clusters: a number for each prompt's question, where a caller knows it.
    """

    preference: Numbers
    len_arm: Numbers
    len_baseline: Numbers
    position: Numbers
    decision: Numbers
    clusters: Any = None

    @property
    def longer(self) -> Numbers:
        """1 where the arm's answer is longer, -1 where it is shorter, 0 where they are equal or not known."""
        return np.nan_to_num(np.sign(self.len_arm - self.len_baseline))

    def mean(self, values: Numbers, use: Any = None) -> Estimate:
        """The mean of a number for each prompt, by default of all, with its interval by question."""
        chosen = np.ones(len(values), bool) if use is None else use
        return mean_with_interval(values[chosen], None if self.clusters is None else self.clusters[chosen])

    @property
    def log_ratio(self) -> Numbers:
        """log(len_arm / len_baseline), an empty answer counting as one character."""
        return np.log(np.maximum(self.len_arm, 1)) - np.log(np.maximum(self.len_baseline, 1))


class Calls(NamedTuple):
    """Judged orders of one comparison, as arguments of `length_controlled_win_rate`, each of shape (n,).

    clusters: a number for each prompt's question; first: 1 or -1, whether the arm stood first; None where a row lacks
    one.
    """

    preference: Numbers
    len_model: Numbers
    len_baseline: Numbers
    difficulty: Numbers | None
    clusters: Any
    first: Numbers | None


def comparisons(rows: Rows) -> dict[tuple[str, str, str], DataFrame]:
    """Judgments by (judge, arm, baseline)."""
    groups: Any = to_frame(rows).groupby(COMPARISON, sort=False, dropna=False)
    return {key: part for key, part in groups}  # noqa: C416 (a group-by has `keys`, so that dict() misreads it)


def find_faults(rows: Rows) -> list[str]:
    """What makes the rows of one comparison doubtful, in words: repeated rows, mixed measures, lengths that differ."""
    frame = to_frame(rows)
    measures = sorted({str(name) for name in frame["measure"] if name is not None})
    repeated = int(frame.duplicated([*PROMPT, "order"]).sum())
    lengths = frame.drop_duplicates([*PROMPT, "len_arm", "len_baseline"])
    differing = len(lengths[lengths.duplicated(PROMPT)].drop_duplicates(PROMPT))
    faults = {
        f"{repeated} rows repeat a prompt and order: each order counts by its mean": repeated > 0,
        f"lengths in mixed measures ({', '.join(measures)}) cannot be compared": len(measures) > 1,
        f"{differing} prompts have rows with different lengths: the first row's count": differing > 0,
    }
    return [text for text, holds in faults.items() if holds]


def list_orders(rows: Rows) -> DataFrame:
    """One row per judged prompt and order, by prompt: its number, the mean preference, the prompt's lengths.

    An order that was judged several times (or a file that does not name its orders) counts by its mean.
    """
    frame = to_frame(rows)
    judged = frame[frame["preference"].notna()]
    number = judged.groupby(PROMPT, sort=False, dropna=False).ngroup().rename("prompt")
    orders = judged.groupby([number, "order"], sort=False, dropna=False)["preference"].mean().reset_index()
    each = judged.groupby(number).agg(
        {"len_arm": "first", "len_baseline": "first", "difficulty": "last", CLUSTER: "first"}
    )
    return orders.sort_values("prompt", kind="stable").join(each, on="prompt")


def to_items(rows: Rows, listed: DataFrame | None = None) -> Items:
    """One item per prompt: the mean preference over its judged orders, and what the order alone did to it.

    listed: what `list_orders` makes of the rows, where a caller has it.
    """
    orders = list_orders(rows) if listed is None else listed
    firsts = dict.fromkeys(("len_arm", "len_baseline", CLUSTER), "first")
    prompts = orders.groupby("prompt").agg({"preference": "mean", **firsts})
    first, second = (orders[orders["order"] == name].set_index("prompt")["preference"] for name in ORDERS)
    position = ((first - second) / 2).reindex(prompts.index)
    decision = np.sign(np.sign(orders["preference"] - 0.5).groupby(orders["prompt"]).sum()).to_numpy(float)
    preference, mine, theirs = (prompts[name].to_numpy(float) for name in ("preference", "len_arm", "len_baseline"))
    return Items(preference, mine, theirs, position.to_numpy(float), decision, prompts[CLUSTER].to_numpy(int))


def preferences(rows: Rows) -> "pd.Series[float]":
    """The mean preference of each judged prompt, by (test_set, id)."""
    frame = to_frame(rows)
    prompts = frame.loc[frame["preference"].notna(), PROMPT].drop_duplicates()
    return pd.Series(to_items(frame).preference, pd.MultiIndex.from_frame(prompts))


def to_calls(rows: Rows, listed: DataFrame | None = None) -> Calls:
    """One item per prompt and order, for a model that knows the position; listed: as of `to_items`."""
    orders = list_orders(rows) if listed is None else listed
    place = orders["order"].map({ORDERS[0]: 1.0, ORDERS[1]: -1.0})
    preference, mine, theirs = (orders[name].to_numpy(float) for name in ("preference", "len_arm", "len_baseline"))
    difficulty = None if orders["difficulty"].isna().any() else orders["difficulty"].to_numpy(float)
    position = None if place.isna().any() else place.to_numpy(float)
    return Calls(preference, mine, theirs, difficulty, orders[CLUSTER].to_numpy(int), position)
