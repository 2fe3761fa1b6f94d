"""The paper's published numbers (data/published/*.csv), each comparison of them with the interval that it lacks.

All published results are single runs without error bars; the intervals here are ours, from what is known of each
measurement: 1,030 prompts for the pairwise figures, 805 for AlpacaEval, 80 questions for MT-Bench.
"""

import math
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


class Number(NamedTuple):
    """A published difference: value, and 95% interval (None where nothing is known of its error), all in `unit`.

    expected: what the claim says of it, `more`, `less`, `not less` or `same` (than zero; than `zero`, for a share);
    judge: who judged, where that is known.
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

        For the claim `same` there is no side: it is `contradicted` if the interval excludes zero, else `not separable`.
        `not less` is contradicted by less alone, and `separable` where there is more.
        """
        if self.low is None or self.high is None:
            return "no interval"
        side = "more" if self.low > self.zero else "less" if self.high < self.zero else "same"
        if side == "same":
            return "not separable"
        return "separable" if side == self.expected.replace("not less", "more") else "contradicted"

    def __str__(self) -> str:
        digits, sign = (2 if "MT-Bench" in self.unit or "AlpacaEval" in self.unit else 1), "" if self.zero else "+"
        value, *bounds = (f"{x:{sign}.{digits}f}" for x in (self.value, self.low, self.high) if x is not None)
        if len(bounds) < 2:
            return f"{self.label}: {value} {self.unit}, no interval"
        return f"{self.label}: {value} [{', '.join(bounds)}] {self.unit}"


def net_win_margin(win: Any, lose: Any, prompts: int) -> Any:
    """Half the 95% interval of a net win (win - lose, shares in 0..1) over so many prompts, in 0..1."""
    return Z * np.sqrt((win + lose - (win - lose) ** 2) / prompts)


def power_table(net: float = 0.18, tie: float = 0.25) -> pd.DataFrame:
    """What a number of prompts can show of a net win (default: the paper's smallest, against LIMA), by normal theory.

    margin: half the 95% interval, in points; power: how often the interval would exclude zero, in percent.
    """
    win, lose = (1 - tie + net) / 2, (1 - tie - net) / 2
    rows = []
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
    rows = read("comparisons").itertuples()
    return [_read_number(row) for row in rows if row.claim == claim and row.table]


def _read_number(row: Any) -> Number:
    """The difference of two sides' scores, as if these were independent: they share their questions, and nobody
    published by how much that narrows it. Win rates and people's choices are differences already."""
    if row.table == "win-rates":
        found = _find("win-rates", base=row.base, arm=row.arm, against=row.against, judge=row.judge)
        label = f"{row.judge}, {row.base}"
        return Number(label, found.net, found.low, found.high, "points net win", row.expected, judge=row.judge)
    if row.table == "human":
        found = read("human").iloc[0]
        least, most = (100 * bound for bound in wilson_interval(found.wins_percent / 100, found.judgements))
        return Number("people", found.wins_percent, least, most, "% of judgements", row.expected, 50.0)
    mine, other = (_find(row.table, base=row.base, arm=arm) for arm in (row.arm, row.against))
    column, unit = _SCORES[row.table]
    value, margin = float(mine[column] - other[column]), Z * math.hypot(mine.error, other.error)
    low, high = (None, None) if math.isnan(margin) else (value - margin, value + margin)
    return Number(f"{row.base}, {row.arm} against {row.against}", value, low, high, unit, row.expected)


def _find(table: str, **wanted: str) -> Any:
    frame = read_win_rates() if table == "win-rates" else read_scores(table)
    found = frame[(frame[list(wanted)] == list(wanted.values())).all(axis=1)]
    if len(found) != 1:
        raise InputError(f"data/published/{table}.csv: {len(found)} rows for {wanted}: there should be one")
    return found.iloc[0]


def tabulate() -> dict[str, pd.DataFrame]:
    """The tables of figures/tables that hold the paper's numbers, rounded as they are drawn."""
    rates, grades = (read_scores(name).round({"low": 2, "high": 2}) for name in ("alpacaeval", "mt-bench"))
    return {
        "paper-pairwise": read_win_rates().round({"net": 1, "low": 1, "high": 1}),
        "paper-alpacaeval": rates.drop(columns="error"),
        "paper-mt-bench": grades.drop(columns=["source", "error"]),
        "paper-open-llm": read_scores("open-llm")[["base", "arm", "average"]],
    }
