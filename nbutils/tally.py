"""Counts of judgments: verdicts under both rules, what was not judged, and the judge that looks at length alone."""

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import artifacts, stats
from nbutils.artifacts import Manifest, Plan
from nbutils.verdicts import verdict

Rows = Sequence[dict[str, Any]]
Prompt = tuple[str, str]

ORDERS = ("arm_first", "baseline_first")
RULES = ("exact", "paper")
STATUSES = ("judged", "unparsed", "failed")
DRAWS = 2000


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
    return any(_is_too_much(sum(group.values()), len(group)) for group in prompts.values())


def _is_too_much(failed: int, asked: int) -> bool:
    return failed > (1 - stats.MINIMUM_JUDGED) * asked


def is_lacking(made: Manifest) -> bool:
    """Whether a result lacks so many calls that they are asked again; without the fact, 1% of all calls decides."""
    facts = made.facts
    default = _is_too_much(facts.get("failed", 0), facts.get("asked", 0))
    return bool(facts.get("lacking", default))


def complete(planned: Plan, work: Callable[[Path], dict[str, Any]]) -> Manifest:
    """As `artifacts.complete`, but failed calls are asked again where there are too many (`is_lacking`).

    Only those: what was answered is in the ledger. Fewer stay as they are, counted.
    """
    made = artifacts.fresh_manifest(planned)
    if made and is_lacking(made):
        made.path(artifacts.MANIFEST).unlink(missing_ok=True)
    return artifacts.complete(planned, work)


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
        **stats.describe_verdicts(list(verdicts.values())),
        "order_inconsistent": inconsistency(judgments),
        "win_rate": rate,
        "win_rate_error": error,
        **_compare_with_length(verdicts, verdicts_by_length(judgments)),
    }


def _compare_with_length(verdicts: dict[Prompt, str], by_length: dict[Prompt, str]) -> dict[str, Any]:
    counts = {f"longer_{name}": sum(each == name for each in by_length.values()) for name in stats.VERDICTS}
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


def bootstrap_mean(groups: Sequence[Sequence[float]], seed: int = 0) -> stats.Estimate:
    """Mean of all values with a 95% interval that resamples groups (clusters), such as the turns of one question."""
    kept = [group for group in groups if len(group)]
    if not kept:
        return stats.Estimate(math.nan, math.nan, math.nan, 0, "nothing to average")
    sums, sizes = np.array([sum(group) for group in kept]), np.array([len(group) for group in kept])
    drawn = np.random.default_rng(seed).integers(len(kept), size=(DRAWS, len(kept)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    method = f"bootstrap over {len(kept)} questions, {DRAWS} draws"
    return stats.Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), int(sizes.sum()), method)


def describe_lost(rows: Rows) -> str:
    """A line on the calls without a verdict: how many, by judge and status, and how the first such reply begins."""
    lost = [row for row in rows if row["status"] != "judged"]
    counts = collections.Counter((row["judge"], row["status"]) for row in lost)
    said = ", ".join(f"{judge}: {count} {status}" for (judge, status), count in sorted(counts.items()))
    first = next((row["review"] for row in lost if row["review"]), None)
    return f"no headline: {said} of {len(rows)} calls" + (f"; the first reply begins {first[:80]!r}" if first else "")
