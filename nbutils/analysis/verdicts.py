"""Verdicts of prompts from the scores of both orders, under both rules, and their counts."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from pandas import DataFrame

from nbutils.analysis.intervals import Estimate, net_win_interval
from nbutils.core import manifests, tables

ScorePair = tuple[float, float]
"""Two scores of one reply: of the answers shown first and second, or of the target and the baseline."""

Rows: TypeAlias = Sequence[Mapping[str, Any]] | DataFrame
"""Judgments: rows as a file holds them, or the frame that `to_frame` makes of them."""

Prompt = tuple[str, str]

ORDERS = ("arm_first", "baseline_first")
RULES = ("exact", "paper")
VERDICTS = ("win", "tie", "lose")

COMPARISON = ["judge", "arm", "baseline"]
SIDES = COMPARISON[1:]
PROMPT = ["test_set", "id"]
CLUSTER = "cluster"
"""Rows of one question, such as the two turns of MT-Bench, which intervals keep together; a prompt where none is said.
"""


def verdict(first_order: ScorePair | None, swapped_order: ScorePair | None, rule: str = "exact") -> str:
    """`win`, `tie`, `lose` or `unscored` for the target, from its scores in both orders.

    Each order is a (target, baseline) pair. The signs of the two orders are added up (paper, utils/result_graph.py:
    win and tie make a win, win and lose a tie). `exact` compares the scores, `paper` their integer parts, so that 8.5
    against 8 is equal there. Any missing order makes the prompt unscored under both rules; so does a NaN, as which
    tables store what is missing. Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}': choose exact or paper")
    if first_order is None or swapped_order is None or any(map(math.isnan, (*first_order, *swapped_order))):
        return "unscored"
    orders = [tuple(map(int, pair)) if rule == "paper" else pair for pair in (first_order, swapped_order)]
    return _decide(sum((target > baseline) - (target < baseline) for target, baseline in orders))


def _decide(total: float) -> str:
    return VERDICTS[1 - (total > 0) + (total < 0)]


def count_verdicts(verdicts: Sequence[str]) -> dict[str, int]:
    """How many are win, tie, lose and unscored; the four add up to all."""
    return {name: verdicts.count(name) for name in (*VERDICTS, "unscored")}


def net_win(verdicts: Sequence[str], clusters: Sequence[Any] | None = None) -> Estimate:
    """Share of wins minus share of losses among scored prompts, with its 95% interval (see `net_win_interval`).

    clusters: the question of each prompt, where several prompts may share one.
    """
    scored = np.array([name in VERDICTS for name in verdicts], bool)
    signs = np.array([(name == "win") - (name == "lose") for name in verdicts], float)
    return net_win_interval(signs[scored], None if clusters is None else np.asarray(clusters)[scored])


def describe_verdicts(verdicts: Sequence[str], clusters: Sequence[Any] | None = None) -> dict[str, Any]:
    """One row of a result table: counts, net win with interval, and whether enough was judged for a headline."""
    estimate = net_win(verdicts, clusters=clusters)
    return {
        "prompts": len(verdicts),
        **count_verdicts(verdicts),
        "net_win": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "headline": estimate.n / max(1, len(verdicts)) >= manifests.MINIMUM_JUDGED,
    }


def to_frame(rows: Rows) -> DataFrame:
    """Judgment rows as a frame of what is counted and analysed, numbers as floats; a frame stays as it is."""
    if isinstance(rows, DataFrame):
        is_whole = CLUSTER in rows or not set(PROMPT) <= set(rows.columns)
        return rows if is_whole else rows.assign(**{CLUSTER: rows.groupby(PROMPT, dropna=False).ngroup()})
    texts = (*COMPARISON, *PROMPT, "order", "status", "measure")
    numbers = ("preference", "score_arm", "score_baseline", "len_arm", "len_baseline", "difficulty")
    frame = DataFrame({name: [row.get(name) for row in rows] for name in texts}, dtype=object)
    frame[CLUSTER] = number_clusters(rows)
    return frame.assign(**{name: np.array([row.get(name) for row in rows], np.float64) for name in numbers})


def number_clusters(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A number for each row's question: its `cluster` within its test set, else its prompt."""
    numbers: dict[tuple[Any, ...], int] = {}
    said = [row.get(CLUSTER) for row in rows]
    named = [value is not None and value == value and value != "" for value in said]  # NaN is unlike itself
    keys = [
        (row.get("test_set"), "cluster", str(value)) if has else (row.get("test_set"), "prompt", row.get("id"))
        for row, value, has in zip(rows, said, named, strict=True)
    ]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def count_calls(judgments: Rows) -> dict[str, int]:
    """How many calls were asked, judged, unparsed and failed: the first is the sum of the others."""
    found = collections.Counter(to_frame(judgments)["status"])
    return {"asked": len(judgments), **{status: found[status] for status in ("judged", "unparsed", "failed")}}


def facts_of(judgments: Rows) -> dict[str, Any]:
    """A manifest's facts: the counts of calls, and `lacking`, whether calls are to be asked again.

    They are where over 1% of the prompts of some judge, arm and baseline have a failed call: no judge hides another.
    """
    frame = to_frame(judgments)
    frame = frame.assign(failed=frame["status"] == "failed")
    prompts = frame.groupby([*COMPARISON, *PROMPT], dropna=False, as_index=False)["failed"].any()
    groups = prompts.groupby(COMPARISON, dropna=False)["failed"]
    lacking = any(manifests.is_too_much(int(failed.sum()), len(failed)) for _, failed in groups)
    return {**count_calls(frame), "lacking": lacking}


def verdicts_of(judgments: Rows, rule: str) -> dict[Prompt, str]:
    """Verdict per (test set, prompt id) from the two orders of each prompt.

    Of a reply that gives a preference only, the side that it prefers counts as 1 and the other as 0.
    """
    frame = to_frame(judgments)
    has_scores, weight = frame["score_arm"].notna() & frame["score_baseline"].notna(), frame["preference"]
    preferred = (side.astype(float).where(weight.notna()) for side in (weight > 0.5, weight < 0.5))
    scores = (frame[f"score_{side}"].where(has_scores, mark) for side, mark in zip(SIDES, preferred, strict=True))
    pairs: dict[Prompt, dict[str, ScorePair]] = {}
    for test_set, name, order, *both in zip(*(frame[key] for key in (*PROMPT, "order")), *scores, strict=True):
        pairs.setdefault((test_set, name), {})[order] = (both[0], both[1])
    return {key: verdict(orders.get(ORDERS[0]), orders.get(ORDERS[1]), rule) for key, orders in pairs.items()}


def decisions_of(judgments: Rows) -> dict[tuple[str, ...], str]:
    """Win, tie or lose of each prompt (by arm, baseline, test set and id), by the signs of all its orders.

    For judges, such as people, that may have seen one order only; without prompts of which an order was not judged.
    """
    frame = to_frame(judgments)
    keys = [frame[name].map(str) for name in (*SIDES, *PROMPT)]
    found = np.sign(frame["preference"] - 0.5).groupby(keys, sort=False).agg(["sum", "count", "size"])
    return {key: _decide(total) for key, total in found["sum"][found["count"] == found["size"]].items()}


def summarise(judgments: Rows) -> DataFrame:
    """One row per judge, baseline, rule and test set (and "all" of them pooled).

    Columns: calls (asked = judged + unparsed + failed); verdicts of prompts, and the net win, the share of wins minus
    that of losses, with its 95% interval over prompts; `headline`, whether 99% of the prompts were scored;
    `order_inconsistent`; `win_rate`, the mean preference, with its standard error; `longer_...`, the verdicts of the
    judge that looks at length alone, and `agrees_with_longer`, how often the judge's decisions are that one's; for
    "all" also `mean_of_sets`, the mean of the test sets' net wins, each set counting alike.
    """
    table: list[dict[str, Any]] = []
    for key, mine in to_frame(judgments).groupby(COMPARISON, sort=False):
        head = dict(zip(COMPARISON, key, strict=True))
        parts = [("all", mine), *mine.groupby("test_set", sort=False)]
        rows = [
            {**head, "test_set": name, "rule": rule, **_summarise(part, rule)} for name, part in parts for rule in RULES
        ]
        for row in rows[: len(RULES)]:
            nets = [other["net_win"] for other in rows[len(RULES) :] if other["rule"] == row["rule"]]
            row["mean_of_sets"] = round(sum(nets) / len(nets), 4)
        table += rows
    return tables.make("summary", table)


def _summarise(judgments: DataFrame, rule: str) -> dict[str, Any]:
    verdicts, (rate, error) = verdicts_of(judgments, rule), win_rate(judgments)
    # The verdicts of a judge that looks at nothing but which answer is longer, and how often this one agrees.
    sizes = judgments.dropna(subset=["len_arm", "len_baseline"]).drop_duplicates(PROMPT, keep="last")
    longer = [_decide(difference) for difference in sizes["len_arm"] - sizes["len_baseline"]]
    by_length = dict(zip(zip(sizes["test_set"], sizes["id"], strict=True), longer, strict=True))
    counts = count_verdicts(longer)
    of_prompt = dict(zip(zip(judgments["test_set"], judgments["id"], strict=True), judgments[CLUSTER], strict=True))
    decided = [key for key, name in verdicts.items() if name in ("win", "lose") and by_length.get(key, "tie") != "tie"]
    agreeing = sum(verdicts[key] == by_length[key] for key in decided)
    return {
        **count_calls(judgments),
        **describe_verdicts(list(verdicts.values()), [of_prompt[key] for key in verdicts]),
        **{"order_inconsistent": inconsistency(judgments), "win_rate": rate, "win_rate_error": error},
        **{f"longer_{name}": counts[name] for name in VERDICTS},
        "longer_net_win": round((counts["win"] - counts["lose"]) / max(1, len(by_length)), 4),
        "agrees_with_longer": round(agreeing / len(decided), 4) if decided else None,
    }


def inconsistency(judgments: Rows) -> float:
    """Share of prompts, judged in both orders, whose two orders prefer different sides."""
    judged = to_frame(judgments).dropna(subset="preference")
    found = judged.groupby(PROMPT, sort=False)["preference"].agg(["min", "max", "size"])
    complete = found[found["size"] == len(ORDERS)]
    contrary = (complete["min"] < 0.5) & (complete["max"] > 0.5)
    return round(int(contrary.sum()) / max(1, len(complete)), 4)


def win_rate(judgments: Rows) -> tuple[float | None, float | None]:
    """Mean preference for the arm over prompts (each by the mean of its orders), and its standard error by question."""
    judged = to_frame(judgments).dropna(subset="preference")
    prompts = judged.groupby(PROMPT, sort=False).agg({"preference": "mean", CLUSTER: "first"})
    means = prompts["preference"].to_numpy()
    if not len(means):
        return None, None
    apart = (prompts["preference"] - means.mean()).groupby(prompts[CLUSTER]).sum().to_numpy()
    clusters = len(apart)
    spread = float(np.sqrt((apart**2).sum() * clusters / (clusters - 1))) if clusters > 1 else math.nan
    error = round(spread / len(means), 6) if clusters > 1 else None
    return round(float(means.mean()), 6), error


def describe(row: Mapping[str, Any]) -> str:
    """One line of a result, with its headline only where 99% of the prompts were scored."""
    counts = f"win {row['win']}, tie {row['tie']}, lose {row['lose']}, unscored {row['unscored']}"
    net = f"net win {row['net_win']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if not row["headline"]:
        scored = 1 - row["unscored"] / max(1, row["prompts"])
        net = f"no headline: {scored:.1%} of the prompts were scored in both orders, 99% are needed"
    return f"rule {row['rule']}: {counts}; {net}"


def describe_length(row: Mapping[str, Any]) -> str:
    """One line on the judge that looks at length alone, beside the result of a real one."""
    counts = f"win {row['longer_win']}, tie {row['longer_tie']}, lose {row['longer_lose']}"
    agreement = row["agrees_with_longer"]
    agrees = "" if math.isnan(agreement) else f"; in {agreement:.0%} of the cases the judge decides as length does"
    return f"length alone: {counts}; net win {row['longer_net_win']:+.3f}{agrees}"


def describe_lost(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line on the calls without a verdict: how many, by judge and status, and how the first such reply begins."""
    lost = [row for row in rows if row["status"] != "judged"]
    counts = collections.Counter((row["judge"], row["status"]) for row in lost)
    said = ", ".join(f"{judge}: {count} {status}" for (judge, status), count in sorted(counts.items()))
    first = next((row["review"] for row in lost if row["review"]), None)
    return f"no headline: {said} of {len(rows)} calls" + (f"; the first reply begins {first[:80]!r}" if first else "")
