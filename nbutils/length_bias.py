"""Stage 07: is it only length? The length analysis of any judgments.

    python -m nbutils.length_bias JUDGMENTS [-o TABLE.csv]

JUDGMENTS is a JSON-lines or Parquet file with one row per order: id, preference (0 to 1 for the arm, or null),
len_arm, len_baseline, and where there are several of them test_set, arm, baseline, judge, order.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import arms, artifacts, data, judge
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import InputError, exits_cleanly
from nbutils.files import open_records
from nbutils.settings import Profile, load_profile
from nbutils.stats import Estimate

Numbers = np.ndarray[Any, np.dtype[np.float64]]

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


# --- estimators ----------------------------------------------------------------------------------------------------


def length_controlled_win_rate(
    preference: Sequence[float] | Numbers,
    len_model: Sequence[float] | Numbers,
    len_baseline: Sequence[float] | Numbers,
    difficulty: Sequence[float] | Numbers | None = None,
    clusters: Sequence[Any] | None = None,
) -> Estimate:
    """Win rate in 0..1 that would remain if both answers had the same length, with its 95% interval.

    In the manner of length-controlled AlpacaEval (Dubois et al., 2404.04475): a logistic model of the preference on
    tanh of the standardised length difference and, where given, the instruction's difficulty, read off at length
    difference 0 and averaged over the items. Fractional preferences are allowed. Two pseudo-items of half weight with
    preference 1/2 keep the fit finite when length separates the verdicts. Robust (or, with `clusters`, cluster-robust)
    standard errors, delta method on the logit scale. All arguments have shape (n,); NaN preferences are left out.
    Raises InputError for unequal lengths, preferences outside 0..1 or fewer than 3 items.
    """
    y, delta, more, groups = _checked_items(preference, len_model, len_baseline, difficulty, clusters)
    if np.all(y == y[0]) and y[0] in (0.0, 1.0):
        return Estimate(float(y[0]), float(y[0]), float(y[0]), len(y), "all items agree")
    design = np.column_stack([np.ones(len(y)), _standardise(delta), *([more] if more is not None else [])])
    fitted = _fit_logistic(y, design, groups)
    at_zero = design.copy()
    at_zero[:, 1] = 0.0
    value, low, high = _predict_mean(fitted, at_zero)
    return Estimate(value, low, high, len(y), "logistic in tanh(length difference), read off at 0")


def _checked_items(
    preference: Any, len_model: Any, len_baseline: Any, difficulty: Any, clusters: Any
) -> tuple[Numbers, Numbers, Numbers | None, Any]:
    y = np.asarray(preference, dtype=float)
    columns = {"len_model": len_model, "len_baseline": len_baseline, "difficulty": difficulty, "clusters": clusters}
    for name, column in columns.items():
        if column is not None and len(column) != len(y):
            raise InputError(f"{name} has {len(column)} items, preference has {len(y)}: they must match")
    use = ~np.isnan(y)
    if use.sum() < 3:
        raise InputError(f"{int(use.sum())} judged items: a length-controlled rate needs at least 3")
    if np.any((y[use] < 0) | (y[use] > 1)):
        raise InputError("preferences must lie between 0 and 1")
    delta = np.asarray(len_model, dtype=float) - np.asarray(len_baseline, dtype=float)
    more = None if difficulty is None else np.asarray(difficulty, dtype=float)[use]
    groups = None if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1][use]
    return y[use], delta[use], more, groups


def _standardise(delta: Numbers) -> Numbers:
    # Divided by its spread and not centred: 0 has to stay "equally long".
    spread = delta.std()
    return np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)


def _fit_logistic(y: Numbers, design: Numbers, groups: Any) -> Any:
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    pseudo = np.zeros((2, design.shape[1]))
    pseudo[:, 0], pseudo[:, 1] = 1.0, (1.0, -1.0)
    weights = np.append(np.ones(len(y)), [0.5, 0.5])
    # A column without spread (all lengths equal) would make the design singular.
    used = [0, *(i for i in range(1, design.shape[1]) if np.ptp(design[:, i]) > 0)]
    stacked = np.vstack([design, pseudo])[:, used]
    model = GLM(np.append(y, [0.5, 0.5]), stacked, family=Binomial(), freq_weights=weights)
    if groups is None:
        robust = model.fit(cov_type="HC0")
    else:
        all_groups = np.append(groups, [groups.max() + 1, groups.max() + 2])
        robust = model.fit(cov_type="cluster", cov_kwds={"groups": all_groups})
    return robust.params, robust.cov_params(), used


def _predict_mean(fitted: Any, design: Numbers) -> tuple[float, float, float]:
    coefficients, covariance, used = fitted
    probability = 1 / (1 + np.exp(-design[:, used] @ coefficients))
    value = float(probability.mean())
    gradient = (probability * (1 - probability)) @ design[:, used] / len(probability)
    error = float(np.sqrt(gradient @ covariance @ gradient))
    logit, scale = math.log(value / (1 - value)), error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(logit + z * scale))) for z in (-1.96, 1.96))
    return value, low, high


def mean_with_interval(values: Numbers) -> Estimate:
    """Mean of preferences with a normal 95% interval over prompts, cut to 0..1."""
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no item")
    value = float(values.mean())
    margin = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1.0
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin), len(values), "mean over prompts")


# --- a judgments file ----------------------------------------------------------------------------------------------


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Read judgment rows of anybody's making; raises InputError naming the row and the missing or faulty key."""
    rows: list[dict[str, Any]] = []
    for first, records in open_records(path).batches():
        rows += [_checked_judgment(path, number, record) for number, record in enumerate(records, first)]
    if not rows:
        raise InputError(f"{path}: no judgments")
    return rows


def _checked_judgment(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    row = {"test_set": "", "arm": "arm", "baseline": "baseline", "judge": "judge", "order": "arm_first", **record}
    for key in ("id", "preference", "len_arm", "len_baseline"):
        if key not in row:
            raise InputError(f"{path}: row {number}: no '{key}': id, preference, len_arm and len_baseline are needed")
    for key in ("preference", "len_arm", "len_baseline"):
        if not _is_number(row[key]) and not (key == "preference" and row[key] is None):
            raise InputError(f"{path}: row {number}: '{key}' is {row[key]!r}, not a number")
    if _is_number(row["preference"]) and not 0 <= row["preference"] <= 1:
        raise InputError(f"{path}: row {number}: preference {row['preference']} is outside 0..1")
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def comparisons(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Judgment rows by (judge, arm, baseline)."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["judge"], row["arm"], row["baseline"]), []).append(row)
    return groups


def to_items(rows: Iterable[dict[str, Any]]) -> Items:
    """One item per prompt: the mean preference over its judged orders, and what the order alone did to it."""
    prompts: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["preference"] is not None:
            item = prompts.setdefault((row["test_set"], row["id"]), {"lengths": (row["len_arm"], row["len_baseline"])})
            item[row["order"]] = row["preference"]
    found = [_item(item) for item in prompts.values()]
    return Items(*np.array(found, dtype=float).reshape(len(found), 4).T)


def _item(item: dict[str, Any]) -> tuple[float, float, float, float]:
    given = [item[order] for order in judge.ORDERS if order in item]
    both = len(given) == len(judge.ORDERS)
    position = (item["arm_first"] - item["baseline_first"]) / 2 if both else math.nan
    return sum(given) / len(given), *item["lengths"], position


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
    given = load_profile(profile) if isinstance(profile, str) else profile
    chosen = arms.with_data_at_hand(given)
    name = arms.resolve_arm(arm or given.judging.target, given, chosen)
    inputs = {"judge": artifacts.upstream(judge.plan(chosen, name, seed))}
    folder = artifacts.stage_folder(chosen.name, "length_bias", name, seed)
    return Plan("length_bias", chosen.name, name, seed, folder, {"matched": MATCHED, "bins": BIN_EDGES}, inputs)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Analyse an arm's judgments: `length_bias.csv`, one row per judge and baseline, and `bins.csv`."""
    given = load_profile(profile) if isinstance(profile, str) else profile
    judged = judge.run(given, arm, seed)
    return artifacts.complete(plan(given, arm, seed), functools.partial(_analyse_all, judged))


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
        if "win_rate" not in row:
            print(f"  {row['finding']}")
            continue
        print(f"  mean length {row['mean_len_arm']} against {row['mean_len_baseline']}")
        for name in ("win_rate", "length_controlled", "length_matched"):
            print(f"  {name.replace('_', ' '):18} {_interval(row, name)}")
        print(f"  longer preferred   {row['longer_preferred']:.3f}; a length-only judge {row['length_only_judge']:.3f}")
        print(f"  finding: {row['finding']}")


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "cannot be estimated"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.length_bias`."""
    parser = argparse.ArgumentParser(prog="python -m nbutils.length_bias", description="Length analysis of judgments.")
    parser.add_argument("judgments", metavar="JUDGMENTS", type=Path, help="JSON lines or Parquet, one row per order")
    parser.add_argument("-o", "--out", type=Path, help="also write the table as CSV")
    given = parser.parse_args(arguments)
    table = analyse(read_judgments(given.judgments))
    if given.out:
        artifacts.write_csv(given.out, table)
    print_analysis(table)


if __name__ == "__main__":
    main()
