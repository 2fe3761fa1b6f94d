"""The paper's published numbers (data/published/*.csv), each comparison of them with the interval that it lacks.

All published results are single runs without error bars; the intervals here are ours, from what is known of each
measurement: 1,030 prompts for the pairwise figures, 805 for AlpacaEval, 80 questions for MT-Bench.
"""

import functools
import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbutils import ROOT
from nbutils.analysis.intervals import wilson_interval
from nbutils.core import tables
from nbutils.core.errors import InputError

FOLDER = ROOT / "data" / "published"

PROMPTS = 1030
"""Prompts of the five test sets together: 300 LIMA, 80 Vicuna, 180 Koala, 218 WizardLM, 252 Self-Instruct. Whether the
paper's shares are pooled over them or a mean over the sets cannot be told from its figure; we take them as pooled."""

ALPACA_EVAL_PROMPTS = 805
ALPACA_EVAL_SPREAD = 0.88
"""Standard error of a weighted AlpacaEval 2.0 win rate over that of a plain coin with the same rate: 0.84 to 0.92 in
the 27 models with a rate below 20% whose preferences are public."""

MT_BENCH_ERROR = 0.30
"""Standard error of one MT-Bench score, clustered by question, in points: 0.25 to 0.36 in the GPT-4 judgments that the
TACOS repository published."""

Z = 1.959964
"""Normal quantile of a 95% interval."""

NET_WIN = "points net win"
INDEPENDENT = ROOT / "figures" / "tables" / "independent.csv"

MARGINS = {
    NET_WIN: 5.0,
    "points AlpacaEval 2.0": 0.9,
    "points MT-Bench": 0.1,
    "points, mean of four tasks": 1.0,
}
"""What counts as no difference, by unit: half of the smallest difference that the paper calls one (10.3 points net win
over LIMA-1k, 1.88 by NEFTune, 0.20 by refinement); of the four tasks, one point, the longest's gain over the base."""


class Number(NamedTuple):
    """A published difference: value, and 95% interval (None where nothing is known of its error), all in `unit`.

    expected: what the claim says of it: `more`, `less`, `not less` or `same` (than zero; than `zero`, for a share or a
    ratio), or `twice`, of a ratio; judge: who judged, where that is known.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    unit: str
    expected: str
    zero: float = 0.0
    judge: str = ""

    @property
    def reading(self) -> str:
        """`separable` on the claimed side, `contradicted`, `not separable`, or `no interval`.

        `same` and `not less` are tests of equivalence: `same` is separable where the interval lies within the unit's
        margin (MARGINS) on both sides, and contradicted where it lies outside; `not less` is separable where the
        interval excludes a loss of the margin, and contradicted where it excludes that there is none. `twice` is
        separable where the interval excludes no change and holds 2 or more, and contradicted where it ends below 2.
        """
        if self.low is None or self.high is None:
            return "no interval"
        low, high, margin = self.low - self.zero, self.high - self.zero, MARGINS.get(self.unit, 0.0)
        shown, denied = {
            "more": (low > 0, high < 0),
            "less": (high < 0, low > 0),
            "same": (-margin < low and high < margin, low > margin or high < -margin),
            "not less": (low > -margin, high < 0),
            "twice": (low > 0 and self.high >= 2, self.high < 2),
        }[self.expected]
        return "separable" if shown else "contradicted" if denied else "not separable"

    @property
    def digits(self) -> list[str]:
        """The value, and the ends of its interval where it has one, rounded and signed as they are printed."""
        places, sign = (2 if "MT-Bench" in self.unit or "AlpacaEval" in self.unit else 1), "" if self.zero else "+"
        bounds = [] if self.low is None or self.high is None else [self.low, self.high]
        return [f"{number:{sign}.{places}f}" for number in (self.value, *bounds)]

    def __str__(self) -> str:
        value, *bounds = self.digits
        if not bounds:
            return f"{self.label}: {value} {self.unit}, no interval"
        return f"{self.label}: {value} [{', '.join(bounds)}] {self.unit}"


def net_win_margin(win: Any, lose: Any, prompts: int) -> Any:
    """Half the 95% interval of a net win (win - lose, shares in 0..1) over so many prompts, in 0..1."""
    return Z * np.sqrt((win + lose - (win - lose) ** 2) / prompts)


def smallest_net_win() -> Any:
    """The paper's smallest effect: the row of `read_win_rates` with the least net win."""
    table = read_win_rates()
    return table.loc[table.net.idxmin()]


def power_table() -> pd.DataFrame:
    """What a number of prompts can show of the paper's smallest net win, by normal theory.

    margin: half the 95% interval, in points; power: how often the interval would exclude zero, in percent.
    """
    found, rows = smallest_net_win(), []
    win, lose, net = found.win / 100, found.lose / 100, found.net / 100
    for prompts in (80, 200, 300, 500, ALPACA_EVAL_PROMPTS, PROMPTS):
        margin = net_win_margin(win, lose, prompts)
        power = 0.5 * math.erfc((Z - Z * net / margin) / math.sqrt(2))
        rows.append({"prompts": prompts, "margin": round(100 * margin, 1), "power": round(100 * power, 1)})
    return pd.DataFrame(rows)


def read(name: str) -> pd.DataFrame:
    """One table of data/published. Raises InputError where there is none."""
    return tables.read(FOLDER / f"{name}.csv")


def read_win_rates() -> pd.DataFrame:
    """The published win, tie and lose shares in percent, with the net win and its interval in points."""
    table = read("win-rates").drop(columns="via")
    win, lose = table.win / 100, table.lose / 100
    net, margin = 100 * (win - lose), 100 * net_win_margin(win, lose, PROMPTS)
    return table.assign(net=net, low=net - margin, high=net + margin)


_SCORES = {
    "alpacaeval": ("win_rate", "points AlpacaEval 2.0"),
    "mt-bench": ("score", "points MT-Bench"),
    "open-llm": ("average", "points, mean of four tasks"),
}
"""By table of scores: the column with the score, and the unit of a difference."""

RATIO = "times the AlpacaEval 2.0 win rate"


def read_scores(name: str) -> pd.DataFrame:
    """A published table of scores, with standard errors and intervals (missing where nobody knows an error).

    name: `alpacaeval` (win rates in percent), `mt-bench` or `open-llm` (means of four tasks in percent); `source` is
    the paper's table or figure, or the leaderboard.
    """
    table, column = read(name).rename(columns={"where": "source"}), _SCORES[name][0]
    score, error = table[column], pd.Series(MT_BENCH_ERROR if name == "mt-bench" else math.nan, table.index)
    if name == "alpacaeval":
        spread = 100 * ALPACA_EVAL_SPREAD * np.sqrt(score / 100 * (1 - score / 100) / ALPACA_EVAL_PROMPTS)
        error = table.standard_error.fillna(spread)
    shown = table[["source", "base", "arm", column]]
    return shown.assign(error=error, low=score - Z * error, high=score + Z * error)


def published_numbers(claim: str) -> list[Number]:
    """The published differences on which a claim stands, in the order of data/published/comparisons.csv."""
    return list(_read_published().get(claim, ()))


@functools.cache
def _read_published() -> dict[str, list[Number]]:
    frames = {"win-rates": read_win_rates(), "human": read("human")} | {name: read_scores(name) for name in _SCORES}
    rows, found = read("comparisons"), defaultdict[str, list[Number]](list)
    for row in rows[rows.table != ""].itertuples():
        found[str(row.claim)].append(_read_number(row, frames[str(row.table)]))
    return found


def independent_numbers(claim: str) -> list[Number]:
    """What other people's judgments of models that they trained on the paper's sets say of a claim (docs/evidence.md).

    data/published/independent-claims.csv names the comparisons; the numbers are the headline of the table INDEPENDENT,
    as net wins like the paper's: its rates count a tie as half a win.
    """
    return list(_read_independent().get(claim, ()))


@functools.cache
def _read_independent() -> dict[str, list[Number]]:
    table, found = tables.read(INDEPENDENT), defaultdict[str, list[Number]](list)
    table = table[table.what == "headline"]
    for row in read("independent-claims").itertuples():
        (one,) = table[(table.arm == row.arm) & (table.other == row.other)].to_dict("records")
        value, low, high = (200 * one[f"{row.estimate}{end}"] - 100 for end in ("", "_low", "_high"))
        length = ", at equal length" if row.estimate == "equal" else ""
        label = f"GPT-4 on MT-Bench, as the TACOS authors trained them, {row.arm} over {row.other}{length}"
        found[str(row.claim)].append(Number(label, value, low, high, NET_WIN, str(row.expected)))
    return found


def _read_number(row: Any, table: pd.DataFrame) -> Number:
    """The difference of two sides' scores, as if these were independent: they share their questions, and nobody
    published by how much that narrows it. Win rates and people's choices are differences already."""
    if row.table == "win-rates":
        return _read_net_win(row, table)
    if row.table == "human":
        found = table.iloc[0]
        least, most = (100 * bound for bound in wilson_interval(found.wins_percent / 100, found.judgements))
        return Number("people", found.wins_percent, least, most, "% of judgements", row.expected, 50.0)
    mine, other = (_find(table, row.table, base=row.base, arm=arm) for arm in (row.arm, row.against))
    column, unit = _SCORES[row.table]
    label = f"{row.base}, {row.arm} against {row.against}"
    if row.expected == "twice":
        ratio = mine[column] / other[column]
        factor = math.exp(Z * math.hypot(mine.error / mine[column], other.error / other[column]))
        return Number(label, ratio, ratio / factor, ratio * factor, RATIO, row.expected, 1.0)
    value, margin = float(mine[column] - other[column]), Z * math.hypot(mine.error, other.error)
    low, high = (None, None) if math.isnan(margin) else (value - margin, value + margin)
    return Number(label, value, low, high, unit, row.expected)


def _read_net_win(row: Any, table: pd.DataFrame) -> Number:
    """A published net win, or by how much it is larger than another one (`than_arm` over `than_against`)."""
    found = _find(table, row.table, base=row.base, arm=row.arm, against=row.against, judge=row.judge)
    label, value, low, high = f"{row.judge}, {row.base}", found.net, found.low, found.high
    if row.than_arm:
        other = _find(table, row.table, base=row.base, arm=row.than_arm, against=row.than_against, judge=row.judge)
        label, value = f"{label}, {describe_contrast(row)}", value - other.net
        margin = math.hypot(found.high - found.net, other.high - other.net)
        low, high = value - margin, value + margin
    return Number(label, value, low, high, NET_WIN, row.expected, judge=row.judge)


def describe_contrast(row: Any) -> str:
    """Two comparisons of which the first is to be the larger, in words."""
    if row.arm == row.than_arm:
        return f"{row.arm} over {row.against} more than over {row.than_against}"
    return f"{row.arm} over {row.against} more than {row.than_arm} over {row.than_against}"


def _find(table: pd.DataFrame, name: str, **wanted: str) -> Any:
    found = table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]
    if len(found) != 1:
        raise InputError(f"data/published/{name}.csv: {len(found)} rows for {wanted}: there should be one")
    return found.iloc[0]


def is_named(wanted: str, arm: str) -> bool:
    """Whether an arm is the one that a comparison names (`*` stands for a number, such as a sampling seed)."""
    # The paper trains whole datasets for three epochs, which a profile says in their arms' names.
    name = re.sub(r"^(alpaca-52k|evol-70k)\+epochs3(?=\+|$)", r"\1", arm)
    return re.fullmatch(re.escape(wanted).replace(r"\*", r"\d+"), name) is not None


def tabulate() -> dict[str, pd.DataFrame]:
    """The tables of figures/tables that hold the paper's numbers, rounded as they are drawn."""
    rates, grades = (read_scores(name).round({"low": 2, "high": 2}) for name in ("alpacaeval", "mt-bench"))
    return {
        "paper-pairwise": read_win_rates().round({"net": 1, "low": 1, "high": 1}),
        "paper-alpacaeval": rates.drop(columns="error"),
        "paper-mt-bench": grades.drop(columns=["source", "error"]),
        "paper-open-llm": read_scores("open-llm")[["base", "arm", "average"]],
    }
