"""Stage 07: is it only length? The length analysis of any judgments.

    python -m nbutils.length_bias JUDGMENTS [-o TABLE.csv]

JUDGMENTS is a JSON-lines or Parquet file with one row per order: id, preference (0 to 1 for the arm, or null),
len_arm, len_baseline, and where there are several of them test_set, arm, baseline, judge, order.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import arms, artifacts, data, judge
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import open_records
from nbutils.length_control import Numbers, length_controlled_win_rate, mean_with_interval
from nbutils.settings import Profile
from nbutils.stats import Estimate

__all__ = ["length_controlled_win_rate", "mean_with_interval"]

MATCHED = 0.10
"""Answers whose lengths differ by less than this share of the longer one count as equally long."""

OVERLAP = 0.05
"""Where the arm is the longer (or the shorter) side in all but this share of prompts, length and arm are one and the
same thing in the data, and a rate at equal length would be extrapolated."""

BIN_EDGES = (-math.inf, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, math.inf)
"""Edges of the length-difference bins, in natural-log units of len_arm / len_baseline."""


class Items(NamedTuple):
    """Judged prompts of one comparison: mean preference over the orders, and both lengths; each of shape (n,)."""

    preference: Numbers
    len_arm: Numbers
    len_baseline: Numbers
    position: Numbers

    @property
    def log_ratio(self) -> Numbers:
        """log(len_arm / len_baseline), an empty answer counting as one character."""
        return np.log(np.maximum(self.len_arm, 1)) - np.log(np.maximum(self.len_baseline, 1))


# --- a judgments file ----------------------------------------------------------------------------------------------


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Read judgment rows of anybody's making; raises InputError naming the row and the missing or faulty key."""
    rows: list[dict[str, Any]] = []
    for first, records in open_records(path).batches():
        rows += [_checked_judgment(path, number, record) for number, record in enumerate(records, first)]
    if not rows:
        raise InputError(f"{path}: no judgments")
    return rows


_OPTIONAL = {"test_set": "", "arm": "arm", "baseline": "baseline", "judge": "judge", "order": "arm_first"}


def _checked_judgment(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    row = _OPTIONAL | {key: value for key, value in record.items() if key not in _OPTIONAL or value is not None}
    for key in ("id", "preference", "len_arm", "len_baseline"):
        if key not in row:
            raise InputError(f"{path}: row {number}: no '{key}': id, preference, len_arm and len_baseline are needed")
    for key in ("id", *_OPTIONAL):
        if not isinstance(row[key], str | int | float):
            raise InputError(f"{path}: row {number}: '{key}' is {row[key]!r}, neither text nor a number")
    is_judged = row.get("status") not in ("unparsed", "failed")
    row["preference"] = _checked_preference(row["preference"], f"{path}: row {number}: ") if is_judged else None
    for key in ("len_arm", "len_baseline"):
        if not _is_number(row[key]) or row[key] < 0:
            raise InputError(f"{path}: row {number}: '{key}' is {row[key]!r}, not a length")
    return row


def _checked_preference(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None  # tables write what is missing as NaN
    if not _is_number(value):
        raise InputError(f"{place}'preference' is {value!r}, not a number")
    if not 0 <= value <= 1:
        raise InputError(f"{place}preference {value} is outside 0..1")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def comparisons(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Judgment rows by (judge, arm, baseline)."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["judge"], row["arm"], row["baseline"]), []).append(row)
    return groups


def to_items(rows: Iterable[dict[str, Any]]) -> Items:
    """One item per prompt: the mean preference over its judged orders, and what the order alone did to it.

    An order that was judged several times (or a file that does not name its orders) counts by its mean.
    """
    sizes: dict[tuple[Any, Any], tuple[float, float]] = {}
    judged: dict[tuple[Any, Any], dict[Any, list[float]]] = {}
    for row in rows:
        if row["preference"] is not None:
            key = row["test_set"], row["id"]
            sizes.setdefault(key, (row["len_arm"], row["len_baseline"]))
            judged.setdefault(key, {}).setdefault(row["order"], []).append(row["preference"])
    found = [_item(orders, *sizes[key]) for key, orders in judged.items()]
    return Items(*np.array(found, dtype=float).reshape(len(found), 4).T)


def _item(orders: dict[Any, list[float]], len_arm: float, len_baseline: float) -> tuple[float, float, float, float]:
    means = {order: sum(given) / len(given) for order, given in orders.items()}
    both = set(judge.ORDERS) <= set(means)
    position = (means["arm_first"] - means["baseline_first"]) / 2 if both else math.nan
    return sum(means.values()) / len(means), len_arm, len_baseline, position


def analyse(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The length analysis, one row per (judge, arm, baseline); rates in 0..1 for the arm, lengths as in the file."""
    return [_analyse_one(key, mine) for key, mine in comparisons(rows).items()]


def _analyse_one(key: tuple[str, str, str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    items = to_items(rows)
    head = dict(zip(("judge", "arm", "baseline"), key, strict=True))
    counts = {"calls": len(rows), "unjudged": sum(row["preference"] is None for row in rows)}
    if len(items.preference) < 3:
        return {**head, **counts, "prompts": len(items.preference), "finding": "too few judged prompts"}
    raw = mean_with_interval(items.preference)
    separable = is_separable(items)
    controlled = (
        length_controlled_win_rate(items.preference, items.len_arm, items.len_baseline) if separable else _NOT_SEPARABLE
    )
    matched = mean_with_interval(items.preference[np.abs(np.expm1(-np.abs(items.log_ratio))) < MATCHED])
    return {
        **head,
        **counts,
        "prompts": raw.n,
        "mean_len_arm": round(float(items.len_arm.mean()), 1),
        "mean_len_baseline": round(float(items.len_baseline.mean()), 1),
        **_columns("win_rate", raw),
        **_columns("length_controlled", controlled),
        **_columns("length_matched", matched),
        "length_matched_prompts": matched.n,
        "longer_preferred": round(_longer_preferred(items), 4),
        "length_only_judge": round(float(np.mean(0.5 + 0.5 * np.sign(items.len_arm - items.len_baseline))), 4),
        "position_bias": _rounded(_mean_or_nan(items.position)),
        "finding": describe(raw, controlled),
    }


_NOT_SEPARABLE = Estimate(math.nan, math.nan, math.nan, 0, "lengths of the two sides do not overlap")


def is_separable(items: Items) -> bool:
    """Whether each side has the longer answer often enough for a rate at equal length to be more than a guess."""
    difference = np.sign(items.len_arm - items.len_baseline)
    return bool(min((difference >= 0).mean(), (difference <= 0).mean()) >= OVERLAP)


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    value, low, high = (_rounded(number) for number in (estimate.value, estimate.low, estimate.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _mean_or_nan(values: Numbers) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _longer_preferred(items: Items) -> float:
    """Mean preference for the longer answer among prompts whose answers differ in length; 0.5 is indifference."""
    sign = np.sign(items.len_arm - items.len_baseline)
    differs = sign != 0
    if not differs.any():
        return 0.5
    return float(np.mean(np.where(sign > 0, items.preference, 1 - items.preference)[differs]))


def describe(raw: Estimate, controlled: Estimate) -> str:
    """In words: does the preference outlive the control for length?"""
    if raw.low <= 0.5 <= raw.high:
        return "no preference that could be told from chance"
    side = "arm" if raw.value > 0.5 else "baseline"
    if math.isnan(controlled.value):
        return f"the {side} is preferred, but one side is nearly always longer: length cannot be told apart"
    if controlled.low <= 0.5 <= controlled.high:
        return f"the {side} is preferred, but not separably at equal length"
    if (controlled.value > 0.5) != (raw.value > 0.5):
        return f"the {side} is preferred, and at equal length the other side would be"
    return f"the {side} is preferred, also at equal length"


def bin_by_length(items: Items) -> list[dict[str, Any]]:
    """Win rate of the arm by how much longer its answer is (natural log of the ratio), with intervals."""
    rows = []
    for low, high in itertools.pairwise(BIN_EDGES):
        inside = items.preference[(items.log_ratio >= low) & (items.log_ratio < high)]
        estimate = mean_with_interval(inside)
        rows.append({"from": low, "to": high, "prompts": estimate.n, **_columns("win_rate", estimate)})
    return rows


# --- published judgments -------------------------------------------------------------------------------------------


def cherry_judgments() -> list[dict[str, Any]]:
    """The published Cherry LLM reviews as judgment rows: cherry-5% against alpaca-7b, two judges, five test sets."""
    table = data.load_table("cherry-reviews")
    return [row for record in table.to_dict("records") for row in _cherry_orders(record)]


def _cherry_orders(record: dict[str, Any]) -> list[dict[str, Any]]:
    head = {"id": str(record["index"]), "test_set": record["test_set"], "judge": record["judge"]}
    sides = {"arm": "cherry-5%", "baseline": "alpaca-7b"}
    sizes = {"len_arm": len(record["Answer1"]), "len_baseline": len(record["Answer2"])}
    reviews = (record["review"], record["review_reverse"])
    orders = zip(judge.ORDERS, reviews, strict=True)
    return [{**head, **sides, **sizes, "order": order, **judge.score_review(text, order)} for order, text in orders]


# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 07 would analyse: an arm's judgments."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"judge": artifacts.upstream(judge.plan(chosen, name, seed))}
    folder = artifacts.stage_folder(chosen.name, "length_bias", name, seed)
    return Plan("length_bias", chosen.name, name, seed, folder, {"matched": MATCHED, "bins": BIN_EDGES}, inputs)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Analyse an arm's judgments: `length_bias.csv`, one row per judge and baseline, and `bins.csv`."""
    chosen, name = arms.prepare(profile, arm)
    judged = judge.run(chosen, name, seed)
    return artifacts.complete(plan(chosen, name, seed), functools.partial(_analyse_all, judged))


def _analyse_all(judged: Manifest, folder: Path) -> dict[str, Any]:
    rows = judge.load_judgments(judged)
    table = analyse(rows)
    bins = [
        {**dict(zip(("judge", "arm", "baseline"), key, strict=True)), **line}
        for key, mine in comparisons(rows).items()
        for line in bin_by_length(to_items(mine))
    ]
    artifacts.write_csv(folder / "length_bias.csv", table)
    artifacts.write_csv(folder / "bins.csv", bins)
    return {"outputs": ["length_bias.csv", "bins.csv"], "comparisons": len(table)}


# --- the command ---------------------------------------------------------------------------------------------------


def print_analysis(table: Sequence[dict[str, Any]]) -> None:
    """Print a length analysis, a few lines for each comparison."""
    for row in table:
        print(f"{row['arm']} against {row['baseline']}, judged by {row['judge']}: {row['prompts']} prompts")
        if row["unjudged"]:
            print(f"  {row['unjudged']} of {row['calls']} calls gave no score and are left out")
        if "win_rate" not in row:
            print(f"  {row['finding']}")
            continue
        print(f"  mean length {row['mean_len_arm']} against {row['mean_len_baseline']}")
        for name in ("win_rate", "length_controlled", "length_matched"):
            count = (
                f" ({row['length_matched_prompts']} prompts)"
                if name == "length_matched" and row[name] is not None
                else ""
            )
            print(f"  {name.replace('_', ' '):18} {_interval(row, name)}{count}")
        print(f"  longer preferred   {row['longer_preferred']:.3f}; a length-only judge {row['length_only_judge']:.3f}")
        print(f"  finding: {row['finding']}")


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "cannot be estimated"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.length_bias`."""
    parser = ArgumentParser(prog="python -m nbutils.length_bias", description="Length analysis of judgments.")
    parser.add_argument("judgments", metavar="JUDGMENTS", type=Path, help="JSON lines or Parquet, one row per order")
    parser.add_argument("-o", "--out", type=Path, help="also write the table as CSV")
    given = parser.parse_args(arguments)
    table = analyse(read_judgments(given.judgments))
    if given.out:
        artifacts.write_csv(given.out, table)
    print_analysis(table)


if __name__ == "__main__":
    main()
