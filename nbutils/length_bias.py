"""Stage 07: is it only length? The length analysis of any judgments.

    python -m nbutils.length_bias JUDGMENTS [-o TABLE.csv] [--cut CUT_JUDGMENTS]

JUDGMENTS is a JSON-lines or Parquet file with one row per order: id, preference (0 to 1 for the arm, or null),
len_arm, len_baseline, and where there are several of them test_set, arm, baseline, judge, order; `difficulty`, a number
for each prompt, is used where all rows have it. AlpacaEval's annotations.json and pairwise reviews such as Cherry LLM's
are read as they are (nbutils/judge_logs.py). CUT_JUDGMENTS are of the same prompts after
`python -m nbutils.truncation` cut every pair of answers to one length.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import arms, artifacts, judge, truncation
from nbutils.artifacts import Manifest, Plan
from nbutils.decomposition import DRAWS, Decomposition, decompose
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.findings import MATCHED, are_alike, decided_by, describe, is_doubtful, is_separable, longer_preferred
from nbutils.judgments import (
    Calls,
    Items,
    cherry_judgments,
    comparisons,
    find_faults,
    read_judgments,
    to_calls,
    to_items,
)
from nbutils.length_control import SCALES, JudgeFit, fit_judge, length_controlled_win_rate, mean_with_interval
from nbutils.settings import Profile
from nbutils.stats import Estimate

__all__ = ["cherry_judgments", "length_controlled_win_rate"]

BIN_EDGES = (-math.inf, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, math.inf)
"""Edges of the length-difference bins, in natural-log units of len_arm / len_baseline."""


# --- the analysis --------------------------------------------------------------------------------------------------


def analyse(rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> list[dict[str, Any]]:
    """The length analysis, one row per (judge, arm, baseline); rates in 0..1 for the arm, lengths as in the file.

    Net wins are wins minus losses (-1..1) and their decomposition, with a bootstrap of so many draws; taste columns are
    coefficients in logits.
    """
    return [_analyse_one(key, mine, draws) for key, mine in comparisons(rows).items()]


def _analyse_one(key: tuple[str, str, str], rows: Sequence[dict[str, Any]], draws: int) -> dict[str, Any]:
    items, calls = to_items(rows), to_calls(rows)
    head = dict(zip(("judge", "arm", "baseline"), key, strict=True))
    counts = {"calls": len(rows), "unjudged": sum(row["preference"] is None for row in rows)}
    notes = "; ".join(find_faults(rows))
    if len(items.preference) < 3:
        found = {"prompts": len(items.preference), "finding": "too few judged prompts"}
        return {**head, **counts, **found, "notes": notes}
    raw = mean_with_interval(items.preference)
    fitted, by_ratio = (_fit(items, calls, scale) for scale in SCALES)
    finding, other = (describe(raw, each.win_rate, decided_by(items)) for each in (fitted, by_ratio))
    doubts = {
        f"by the ratio of lengths, not their difference: {other}": other != finding,
        "pairs of equal length lean the other way, so the model of length may be wrong": is_doubtful(items, fitted),
    }
    notes = "; ".join(filter(None, [notes, *(text for text, holds in doubts.items() if holds)]))
    return {
        **head,
        **counts,
        "prompts": raw.n,
        "mean_len_arm": round(float(items.len_arm.mean()), 1),
        "mean_len_baseline": round(float(items.len_baseline.mean()), 1),
        **_columns("win_rate", raw),
        **_columns("length_controlled", fitted.win_rate),
        **_columns("length_controlled_log", by_ratio.win_rate),
        **_with_difficulty(items, calls),
        **_matched(items),
        "longer_preferred": _rounded(longer_preferred(items).value),
        "length_only_judge": round(float(np.mean(0.5 + 0.5 * np.sign(items.len_arm - items.len_baseline))), 4),
        **_position(items),
        **_columns("length_taste", fitted.length),
        **_columns("position_taste", fitted.position),
        **_parts(calls, fitted, draws),
        "finding": finding,
        "notes": notes,
    }


_UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0, "lengths of the two sides do not overlap")
_NOT_SEPARABLE = JudgeFit(_UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN)


def _fit(items: Items, calls: Calls, scale: str) -> JudgeFit:
    plain = calls._replace(difficulty=None)._asdict()
    return fit_judge(**plain, scale=scale) if is_separable(items) else _NOT_SEPARABLE


def _with_difficulty(items: Items, calls: Calls) -> dict[str, Any]:
    """The rate at equal length with the instructions' difficulty in the model, where the rows have one."""
    if calls.difficulty is None:
        return {}
    known = fit_judge(**calls._asdict()).win_rate if is_separable(items) else _UNKNOWN
    return _columns("length_controlled_difficulty", known)


def _matched(items: Items) -> dict[str, Any]:
    matched = mean_with_interval(items.preference[are_alike(items)])
    return {**_columns("length_matched", matched), "length_matched_prompts": matched.n}


def _position(items: Items) -> dict[str, Any]:
    """Half the preference gained by standing first (-0.5..0.5), over the prompts with both orders."""
    known = items.position[~np.isnan(items.position)]
    found = mean_with_interval(known + 0.5)
    return _columns("position_bias", _rescale(found, 1, -0.5))


def _parts(calls: Calls, fitted: JudgeFit, draws: int) -> dict[str, Any]:
    nothing = Decomposition(*[_UNKNOWN] * 4)
    parts = (
        nothing
        if math.isnan(fitted.win_rate.value)
        else decompose(**calls._replace(difficulty=None)._asdict(), draws=draws)
    )
    return {
        **_columns("net_win", parts.net),
        **_columns("net_at_equal_length", parts.at_equal_length),
        **_columns("net_due_to_length", parts.due_to_length),
        **_columns("share_remaining", parts.share),
    }


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    value, low, high = (_rounded(number) for number in (estimate.value, estimate.low, estimate.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _rescale(estimate: Estimate, factor: float, offset: float) -> Estimate:
    value, low, high = (factor * number + offset for number in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n, estimate.method)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def bin_by_length(items: Items) -> list[dict[str, Any]]:
    """Win rate of the arm by how much longer its answer is (natural log of the ratio), with intervals."""
    rows = []
    for low, high in itertools.pairwise(BIN_EDGES):
        inside = items.preference[(items.log_ratio >= low) & (items.log_ratio < high)]
        estimate = mean_with_interval(inside)
        rows.append({"from": low, "to": high, "prompts": estimate.n, **_columns("win_rate", estimate)})
    return rows


def compare_cut(rows: Sequence[dict[str, Any]], cut: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The truncated counterfactual: win rates as judged and with both answers cut to one length, and their difference.

    One row per (judge, arm, baseline) in both, over the prompts judged in both, paired. Raises InputError where the
    two share no judged prompt.
    """
    shortened = comparisons(cut)
    found = [_compare_one(key, mine, shortened[key]) for key, mine in comparisons(rows).items() if key in shortened]
    if not found:
        raise InputError("the cut judgments share no judge, arm and baseline with the others: judge the same prompts")
    return found


def _compare_one(key: tuple[str, str, str], rows: Any, cut: Any) -> dict[str, Any]:
    before, after = (_preferences(part) for part in (rows, cut))
    shared = [prompt for prompt in before if prompt in after]
    if not shared:
        raise InputError(f"{key[0]}, {key[1]}: no prompt (test_set and id) is judged in both files")
    one, other = (np.array([side[prompt] for prompt in shared]) for side in (before, after))
    drop = mean_with_interval(0.5 + (one - other) / 2)
    return {
        **dict(zip(("judge", "arm", "baseline"), key, strict=True)),
        "prompts": len(shared),
        **_columns("win_rate", mean_with_interval(one)),
        **_columns("win_rate_cut", mean_with_interval(other)),
        **_columns("lost_by_cutting", _rescale(drop, 2, -1)),
    }


def _preferences(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, Any], float]:
    prompts = dict.fromkeys((row["test_set"], row["id"]) for row in rows if row["preference"] is not None)
    return dict(zip(prompts, to_items(rows).preference.tolist(), strict=True))


# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 07 would analyse: an arm's judgments."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"judge": artifacts.upstream(judge.plan(chosen, name, seed))}
    folder = artifacts.stage_folder(chosen.name, "length_bias", name, seed)
    settings = {"matched": MATCHED, "bins": BIN_EDGES}
    return Plan("length_bias", chosen.name, name, seed, folder, settings, inputs, version=3)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Analyse an arm's judgments: `length_bias.csv`, one row per judge and baseline, `bins.csv`, and `cut.csv`, the
    truncated counterfactual of the judges that need no service.
    """
    chosen, name = arms.prepare(profile, arm)
    judged = judge.run(chosen, name, seed)
    return artifacts.complete(plan(chosen, name, seed), functools.partial(_analyse_all, chosen, judged))


def _analyse_all(profile: Profile, judged: Manifest, folder: Path) -> dict[str, Any]:
    rows = judge.load_judgments(judged)
    cut = truncation.judge_cut(profile, judged.arm, judged.seed)
    table = analyse(rows)
    bins = [
        {**dict(zip(("judge", "arm", "baseline"), key, strict=True)), **line}
        for key, mine in comparisons(rows).items()
        for line in bin_by_length(to_items(mine))
    ]
    artifacts.write_csv(folder / "length_bias.csv", table)
    artifacts.write_csv(folder / "bins.csv", bins)
    artifacts.write_csv(folder / "cut.csv", compare_cut(rows, cut) if cut else [])
    return {"outputs": ["length_bias.csv", "bins.csv", "cut.csv"], "comparisons": len(table)}


# --- the command ---------------------------------------------------------------------------------------------------


_RATES = {
    "win_rate": "win rate",
    "length_controlled": "length controlled",
    "length_controlled_log": "length controlled, by the ratio",
    "length_controlled_difficulty": "length controlled, difficulty",
    "length_matched": "length matched ({length_matched_prompts})",
    "share_remaining": "share left of the net win",
    "position_bias": "gained by standing first",
}


def print_analysis(table: Sequence[dict[str, Any]]) -> None:
    """Print a length analysis, a few lines for each comparison."""
    for row in table:
        print(f"{row['arm']} against {row['baseline']}, judged by {row['judge']}: {row['prompts']} prompts")
        if row["unjudged"]:
            print(f"  {row['unjudged']} of {row['calls']} calls gave no score and are left out")
        if row["notes"]:
            print(f"  note: {row['notes']}")
        if "win_rate" not in row:
            print(f"  {row['finding']}")
            continue
        print(f"  mean length {row['mean_len_arm']} against {row['mean_len_baseline']}")
        for name in filter(row.__contains__, _RATES):
            print(f"  {_RATES[name].format(**row):32} {_interval(row, name)}")
        if row["longer_preferred"] is not None:
            rates = f"{row['longer_preferred']:.3f}; a length-only judge {row['length_only_judge']:.3f}"
            print(f"  {'longer preferred':32} {rates}")
        print(f"  finding: {row['finding']}")


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None or row[f"{name}_low"] is None:
        return "cannot be estimated"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.length_bias`."""
    parser = ArgumentParser(prog="python -m nbutils.length_bias", description="Length analysis of judgments.")
    parser.add_argument("judgments", metavar="JUDGMENTS", type=Path, help="JSON lines or Parquet, one row per order")
    parser.add_argument("-o", "--out", type=Path, help="also write the table as CSV")
    parser.add_argument("--cut", type=Path, metavar="CUT_JUDGMENTS", help="judgments of the answers cut to one length")
    given = parser.parse_args(arguments)
    if given.out and given.out.resolve() in [path.resolve() for path in (given.judgments, given.cut) if path]:
        raise InputError(f"{given.out}: the table would replace the judgments: give the output another name")
    rows = read_judgments(given.judgments)
    table = analyse(rows)
    compared = compare_cut(rows, read_judgments(given.cut)) if given.cut else []
    if given.out:
        artifacts.write_csv(given.out, table)
    print_analysis(table)
    for row in compared:
        print(f"{row['arm']} against {row['baseline']}, judged by {row['judge']}: answers cut to one length")
        for name in ("win_rate", "win_rate_cut", "lost_by_cutting"):
            print(f"  {name.replace('_', ' '):32} {_interval(row, name)}")


if __name__ == "__main__":
    main()
