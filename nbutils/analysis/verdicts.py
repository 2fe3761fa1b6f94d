"""Verdicts of prompts from the scores of both orders, under both rules, and their counts."""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nbutils.analysis.intervals import Estimate
from nbutils.core import manifests
from nbutils.core.manifests import MINIMUM_JUDGED

ScorePair = tuple[float, float] | None


# --- from two orders to a verdict ----------------------------------------------------------------------------------


def verdict(first_order: ScorePair, swapped_order: ScorePair, rule: str = "exact") -> str:
    """`win`, `tie`, `lose` or `unscored` for the target, from its scores in both orders.

    Each order is a (target, baseline) pair. The signs of the two orders are added up (paper, utils/result_graph.py:
    win and tie make a win, win and lose a tie). `exact` compares the scores, `paper` their integer parts, so that 8.5
    against 8 is equal there. Any missing order makes the prompt unscored under both rules; so does a NaN, as which
    tables store what is missing. Raises ValueError for an unknown rule.
    """
    if rule not in ("exact", "paper"):
        raise ValueError(f"unknown rule '{rule}': choose exact or paper")
    if first_order is None or swapped_order is None or any(map(math.isnan, (*first_order, *swapped_order))):
        return "unscored"
    total = _sign(first_order, rule) + _sign(swapped_order, rule)
    return "win" if total > 0 else "lose" if total < 0 else "tie"


def _sign(scores: tuple[float, float], rule: str) -> int:
    target, baseline = map(int, scores) if rule == "paper" else scores
    return (target > baseline) - (target < baseline)


VERDICTS = ("win", "tie", "lose")


def count_verdicts(verdicts: Sequence[str]) -> dict[str, int]:
    """How many are win, tie, lose and unscored; the four add up to all."""
    return {name: sum(verdict == name for verdict in verdicts) for name in (*VERDICTS, "unscored")}


def net_win(verdicts: Sequence[str], draws: int = 10_000, seed: int = 0) -> Estimate:
    """Share of wins minus share of losses among scored prompts, with a bootstrap interval over prompts.

    A multinomial draw of the three counts has the same distribution as resampling the prompts themselves.
    """
    counts = np.array([sum(verdict == name for verdict in verdicts) for name in VERDICTS])
    n = int(counts.sum())
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "no scored prompt")
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 2]) / n, [0.025, 0.975])
    value = float(counts[0] - counts[2]) / n
    return Estimate(value, float(low), float(high), n, f"bootstrap over {n} prompts, {draws} draws")


def describe_verdicts(verdicts: Sequence[str]) -> dict[str, Any]:
    """One row of a result table: counts, net win with interval, and whether enough was judged for a headline."""
    counts, estimate = count_verdicts(verdicts), net_win(verdicts)
    judged = estimate.n / max(1, len(verdicts))
    return {
        "prompts": len(verdicts),
        **counts,
        "net_win": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "headline": judged >= MINIMUM_JUDGED,
    }


Rows = Sequence[dict[str, Any]]
Prompt = tuple[str, str]

ORDERS = ("arm_first", "baseline_first")
RULES = ("exact", "paper")
STATUSES = ("judged", "unparsed", "failed")


def count_calls(judgments: Rows) -> dict[str, int]:
    """How many calls were asked, judged, unparsed and failed: the first is the sum of the others."""
    counts = {status: sum(row["status"] == status for row in judgments) for status in STATUSES}
    return {"asked": len(judgments), **counts}


def facts_of(judgments: Rows) -> dict[str, Any]:
    """A manifest's facts: the counts of calls, and `lacking`, whether calls are to be asked again.

    They are where more than 1% of the prompts of some judge, arm and baseline have a failed call: judges that never
    fail must not hide one that does.
    """
    return {**count_calls(judgments), "lacking": _lacks_calls(judgments)}


def _lacks_calls(judgments: Rows) -> bool:
    prompts: dict[Any, dict[Prompt, bool]] = {}
    for row in judgments:
        group = prompts.setdefault((row["judge"], row["arm"], row.get("baseline")), {})
        key = (row["test_set"], row["id"])
        group[key] = group.get(key, False) or row["status"] == "failed"
    return any(manifests.is_too_much(sum(group.values()), len(group)) for group in prompts.values())


def verdicts_of(judgments: Iterable[dict[str, Any]], rule: str) -> dict[Prompt, str]:
    """Verdict per (test set, prompt id) from the two orders of each prompt."""
    pairs: dict[Prompt, dict[str, Any]] = {}
    for row in judgments:
        pairs.setdefault((row["test_set"], row["id"]), {})[row["order"]] = _scores(row)
    return {key: verdict(orders.get(ORDERS[0]), orders.get(ORDERS[1]), rule) for key, orders in pairs.items()}


def _scores(row: dict[str, Any]) -> tuple[float, float] | None:
    """The scores of both sides; for a reply that gives a preference only, 1 for the side that it prefers."""
    if row["score_arm"] is not None and row["score_baseline"] is not None:
        return row["score_arm"], row["score_baseline"]
    weight = row.get("preference")
    return None if weight is None else (float(weight > 0.5), float(weight < 0.5))


def verdicts_by_length(judgments: Iterable[dict[str, Any]]) -> dict[Prompt, str]:
    """What a judge would say of each prompt that looks at nothing but which answer is longer."""
    measured = (row for row in judgments if row.get("len_arm") is not None and row.get("len_baseline") is not None)
    sizes = {(row["test_set"], row["id"]): (row["len_arm"], row["len_baseline"]) for row in measured}
    return {key: "win" if mine > other else "lose" if mine < other else "tie" for key, (mine, other) in sizes.items()}


def summarise(judgments: Rows) -> list[dict[str, Any]]:
    """One row per judge, baseline, rule and test set (and "all" of them pooled).

    Columns: calls (asked = judged + unparsed + failed); verdicts of prompts, and the net win, the share of wins minus
    that of losses, with its 95% interval over prompts; `headline`, whether 99% of the prompts were scored;
    `order_inconsistent`; `win_rate`, the mean preference, with its standard error; `longer_...`, the verdicts of the
    judge that looks at length alone, and `agrees_with_longer`, how often the judge's decisions are that one's; for
    "all" also `mean_of_sets`, the mean of the test sets' net wins, each set counting alike.
    """
    table = []
    for judge, arm, baseline in dict.fromkeys((row["judge"], row["arm"], row["baseline"]) for row in judgments):
        mine = [row for row in judgments if (row["judge"], row["arm"], row["baseline"]) == (judge, arm, baseline)]
        head = {"judge": judge, "arm": arm, "baseline": baseline}
        for test_set in ("all", *dict.fromkeys(row["test_set"] for row in mine)):
            chosen = [row for row in mine if test_set in ("all", row["test_set"])]
            table += [{**head, "test_set": test_set, "rule": rule, **_summary(chosen, rule)} for rule in RULES]
        _add_mean_of_sets(table)
    return table


def _summary(judgments: Rows, rule: str) -> dict[str, Any]:
    verdicts = verdicts_of(judgments, rule)
    rate, error = win_rate(judgments)
    return {
        **count_calls(judgments),
        **describe_verdicts(list(verdicts.values())),
        "order_inconsistent": inconsistency(judgments),
        "win_rate": rate,
        "win_rate_error": error,
        **_compare_with_length(verdicts, verdicts_by_length(judgments)),
    }


def _compare_with_length(verdicts: dict[Prompt, str], by_length: dict[Prompt, str]) -> dict[str, Any]:
    counts = {f"longer_{name}": sum(each == name for each in by_length.values()) for name in VERDICTS}
    decided = [key for key, name in verdicts.items() if name in ("win", "lose") and by_length.get(key, "tie") != "tie"]
    agreeing = sum(verdicts[key] == by_length[key] for key in decided)
    net = (counts["longer_win"] - counts["longer_lose"]) / max(1, len(by_length))
    share = round(agreeing / len(decided), 4) if decided else None
    return {**counts, "longer_net_win": round(net, 4), "agrees_with_longer": share}


def _add_mean_of_sets(table: list[dict[str, Any]]) -> None:
    """Fill in `mean_of_sets` for the comparison at the end of the table."""
    head = {key: table[-1][key] for key in ("judge", "arm", "baseline")}
    mine = [row for row in table if all(row[key] == value for key, value in head.items())]
    for row in mine:
        nets = [other["net_win"] for other in mine if other["test_set"] != "all" and other["rule"] == row["rule"]]
        row["mean_of_sets"] = round(sum(nets) / len(nets), 4) if row["test_set"] == "all" else None


def inconsistency(judgments: Iterable[dict[str, Any]]) -> float:
    """Share of prompts, judged in both orders, whose two orders prefer different sides."""
    complete = [found for found in _preferences(judgments).values() if len(found) == len(ORDERS)]
    return round(sum(min(found) < 0.5 < max(found) for found in complete) / max(1, len(complete)), 4)


def win_rate(judgments: Iterable[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Mean preference for the arm over prompts (each by the mean of its orders), and its standard error."""
    means = [sum(found) / len(found) for found in _preferences(judgments).values()]
    if not means:
        return None, None
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else None
    return round(sum(means) / len(means), 6), None if error is None else round(error, 6)


def _preferences(judgments: Iterable[dict[str, Any]]) -> dict[Prompt, list[float]]:
    found: dict[Prompt, list[float]] = {}
    for row in judgments:
        if row["preference"] is not None:
            found.setdefault((row["test_set"], row["id"]), []).append(row["preference"])
    return found


def describe(row: dict[str, Any]) -> str:
    """One line of a result, with its headline only where 99% of the prompts were scored."""
    counts = f"win {row['win']}, tie {row['tie']}, lose {row['lose']}, unscored {row['unscored']}"
    net = f"net win {row['net_win']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if not row["headline"]:
        scored = 1 - row["unscored"] / max(1, row["prompts"])
        net = f"no headline: {scored:.1%} of the prompts were scored in both orders, 99% are needed"
    return f"rule {row['rule']}: {counts}; {net}"


def describe_length(row: dict[str, Any]) -> str:
    """One line on the judge that looks at length alone, beside the result of a real one."""
    counts = f"win {row['longer_win']}, tie {row['longer_tie']}, lose {row['longer_lose']}"
    agreement = row["agrees_with_longer"]
    agrees = "" if agreement is None else f"; the judge decides as it does in {agreement:.0%} of the cases"
    return f"length alone: {counts}; net win {row['longer_net_win']:+.3f}{agrees}"


def describe_lost(rows: Rows) -> str:
    """A line on the calls without a verdict: how many, by judge and status, and how the first such reply begins."""
    lost = [row for row in rows if row["status"] != "judged"]
    counts = collections.Counter((row["judge"], row["status"]) for row in lost)
    said = ", ".join(f"{judge}: {count} {status}" for (judge, status), count in sorted(counts.items()))
    first = next((row["review"] for row in lost if row["review"]), None)
    return f"no headline: {said} of {len(rows)} calls" + (f"; the first reply begins {first[:80]!r}" if first else "")
