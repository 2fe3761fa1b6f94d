"""The paper's published numbers (data/published/*.csv), each comparison of them with the interval that it lacks.

All published results are single runs without error bars; the intervals here are ours, from what is known of each
measurement: 1,030 prompts for the pairwise figures, 805 for AlpacaEval, 80 questions for MT-Bench.
"""

import csv
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from nbutils import ROOT
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

Row = dict[str, str]


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
        if self.low is None or self.high is None:
            return f"{self.label}: {self._shown(self.value)} {self.unit}, no interval"
        interval = f"[{self._shown(self.low)}, {self._shown(self.high)}]"
        return f"{self.label}: {self._shown(self.value)} {interval} {self.unit}"

    def _shown(self, number: float) -> str:
        digits = 2 if "MT-Bench" in self.unit or "AlpacaEval" in self.unit else 1
        return f"{number:.{digits}f}" if self.zero else f"{number:+.{digits}f}"


# --- intervals -----------------------------------------------------------------------------------------------------


def net_win_margin(win: float, lose: float, prompts: int) -> float:
    """Half the 95% interval of a net win (win - lose, shares in 0..1) over so many prompts, in 0..1."""
    return Z * math.sqrt((win + lose - (win - lose) ** 2) / prompts)


def alpaca_eval_error(rate: float) -> float:
    """Standard error of an AlpacaEval 2.0 win rate, both in percent."""
    share = rate / 100
    return 100 * ALPACA_EVAL_SPREAD * math.sqrt(share * (1 - share) / ALPACA_EVAL_PROMPTS)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (0..1) of n."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return centre - margin, centre + margin


def power_table(net: float = 0.18, tie: float = 0.25) -> list[dict[str, float]]:
    """What a number of prompts can show of a net win (default: the paper's smallest, against LIMA), by normal theory.

    margin: half the 95% interval, in points; power: how often the interval would exclude zero, in percent.
    """
    win, lose = (1 - tie + net) / 2, (1 - tie - net) / 2
    rows = []
    for prompts in (80, 200, 300, 500, ALPACA_EVAL_PROMPTS, PROMPTS):
        margin = net_win_margin(win, lose, prompts)
        power = 0.5 * math.erfc((Z - Z * net / margin) / math.sqrt(2))
        rows.append({"prompts": prompts, "margin": round(100 * margin, 1), "power": round(100 * power, 1)})
    return rows


# --- reading -------------------------------------------------------------------------------------------------------


def read_table(name: str) -> list[Row]:
    """One table of data/published, every value as text. Raises InputError where there is none."""
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such table: restore it from the repository")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _find(table: str, **wanted: str) -> Row:
    found = [row for row in read_table(table) if all(row[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise InputError(f"data/published/{table}.csv: {len(found)} rows for {wanted}: there should be one")
    return found[0]


def published_numbers(claim: str) -> list[Number]:
    """The published differences on which a claim stands, in the order of data/published/comparisons.csv."""
    rows = (row for row in read_table("comparisons") if row["claim"] == claim and row["table"])
    return [_READERS[row["table"]](row) for row in rows]


def _read_win_rate(row: Row) -> Number:
    wanted = {key: row[key] for key in ("base", "arm", "against", "judge")}
    shares = [float(_find("win-rates", **wanted)[name]) / 100 for name in ("win", "lose")]
    net, margin = 100 * (shares[0] - shares[1]), 100 * net_win_margin(shares[0], shares[1], PROMPTS)
    label = f"{row['judge']}, {row['base']}"
    return Number(label, net, net - margin, net + margin, "points net win", row["expected"], judge=row["judge"])


def _read_alpaca_eval(row: Row) -> Number:
    sides = [_find("alpacaeval", base=row["base"], arm=row[name]) for name in ("arm", "against")]
    rates = [float(side["win_rate"]) for side in sides]
    errors = [float(side["standard_error"] or alpaca_eval_error(rate)) for side, rate in zip(sides, rates, strict=True)]
    return _difference(row, rates, errors, "points AlpacaEval 2.0")


def _read_mt_bench(row: Row) -> Number:
    scores = [float(_find("mt-bench", base=row["base"], arm=row[name])["score"]) for name in ("arm", "against")]
    return _difference(row, scores, [MT_BENCH_ERROR] * 2, "points MT-Bench")


def _difference(row: Row, values: list[float], errors: list[float], unit: str) -> Number:
    # As if independent: the two sides share their questions, and nobody published by how much that narrows it.
    value, margin = values[0] - values[1], Z * math.hypot(*errors)
    return Number(_versus(row), value, value - margin, value + margin, unit, row["expected"])


def _read_open_llm(row: Row) -> Number:
    averages = [float(_find("open-llm", base=row["base"], arm=row[name])["average"]) for name in ("arm", "against")]
    return Number(_versus(row), averages[0] - averages[1], None, None, "points, mean of four tasks", row["expected"])


def _read_human(row: Row) -> Number:
    given = read_table("human")[0]
    low, high = share_interval(float(given["wins_percent"]) / 100, int(given["judgements"]))
    value = float(given["wins_percent"])
    return Number("people", value, 100 * low, 100 * high, "% of judgements", row["expected"], 50.0)


def _versus(row: Row) -> str:
    return f"{row['base']}, {row['arm']} against {row['against']}"


_READERS = {
    "win-rates": _read_win_rate,
    "alpacaeval": _read_alpaca_eval,
    "mt-bench": _read_mt_bench,
    "open-llm": _read_open_llm,
    "human": _read_human,
}


# --- the tables that figures are drawn from ------------------------------------------------------------------------


def tabulate_pairwise() -> Iterator[dict[str, Any]]:
    """The published win, tie and lose shares in percent, with the net win and its interval in points."""
    for row in read_table("win-rates"):
        shares = float(row["win"]) / 100, float(row["lose"]) / 100
        net, margin = 100 * (shares[0] - shares[1]), 100 * net_win_margin(*shares, PROMPTS)
        counted = {"net": round(net, 1), "low": round(net - margin, 1), "high": round(net + margin, 1)}
        yield {**{key: value for key, value in row.items() if key != "via"}, **counted}


def tabulate_alpaca_eval() -> Iterator[dict[str, Any]]:
    """The published AlpacaEval 2.0 win rates in percent, with intervals; `source` is the paper or the leaderboard."""
    for row in read_table("alpacaeval"):
        rate = float(row["win_rate"])
        margin = Z * float(row["standard_error"] or alpaca_eval_error(rate))
        counted = {"win_rate": rate, "low": round(rate - margin, 2), "high": round(rate + margin, 2)}
        yield {"source": row["where"], "base": row["base"], "arm": row["arm"], **counted}


def tabulate_mt_bench() -> Iterator[dict[str, Any]]:
    """The published MT-Bench scores with intervals."""
    for row in read_table("mt-bench"):
        score, margin = float(row["score"]), Z * MT_BENCH_ERROR
        counted = {"score": score, "low": round(score - margin, 2), "high": round(score + margin, 2)}
        yield {"base": row["base"], "arm": row["arm"], **counted}


def tabulate_open_llm() -> Iterator[dict[str, Any]]:
    """The published four-task averages in percent."""
    for row in read_table("open-llm"):
        yield {"base": row["base"], "arm": row["arm"], "average": float(row["average"])}
