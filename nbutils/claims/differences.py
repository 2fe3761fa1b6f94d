"""Differences between two arms under one judge, paired by question, with their intervals.

Two arms answer the same questions, and hard ones are hard for both: paired, MT-Bench's differences have 0.69 of the
standard error of independent ones, AlpacaEval's 0.78.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbutils.analysis.intervals import mean_with_interval, paired_interval, rescale
from nbutils.analysis.items import comparisons
from nbutils.analysis.verdicts import VERDICTS, verdicts_of
from nbutils.claims import published
from nbutils.claims.published import Z

PAIR = ["arm", "baseline"]
QUESTION = ["test_set", "id"]
NUMBER = ["label", "judge", *PAIR, "value", "low", "high"]
ITEM = ["stage", "judge", *PAIR, *QUESTION]

PROMPTS = 80
"""Fewer prompts than the smallest of the paper's test sets has count as not run: three of three reproduce nothing."""

REACH = {"judge": 100.0, "mt_bench": 9.0, "alpaca_eval": 100.0}
"""By stage: the largest value of an item (`judge`), and the largest difference of two."""


def list_items(judgments: Mapping[str, Sequence[dict[str, Any]]], rule: str) -> pd.DataFrame:
    """What was judged, question by question: the columns ITEM and `value`. judgments: rows by stage.

    The value is 100, 0 or -100 for a win, tie or lose by the rule (stage `judge`), the mean grade of both turns
    (`mt_bench`), 100 times the mean preference of both orders (`alpaca_eval`). Without what was not judged.
    """
    found: list[tuple[Any, ...]] = []
    signs = dict(zip(VERDICTS, (100.0, 0.0, -100.0), strict=True))
    for stage, rows in judgments.items():
        if stage == "judge":
            for key, part in comparisons(rows).items():
                named = verdicts_of(part, rule).items()
                found += [(stage, *key, *prompt, signs[name]) for prompt, name in named if name in signs]
            continue
        name, factor = ("score", 1) if stage == "mt_bench" else ("preference", 100)
        values: dict[tuple[Any, ...], list[float]] = {}
        for row in rows:
            if row[name] is not None:
                asked = (stage, row["judge"], row["arm"], row.get("baseline", ""), row["test_set"], row["id"])
                values.setdefault(asked, []).append(factor * row[name])
        found += [(*asked, sum(each) / len(each)) for asked, each in values.items()]
    return pd.DataFrame(found, columns=[*ITEM, "value"])


def compare_lengths(judgments: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Mean difference of both sides' answers in characters (arm minus baseline), with a 95% interval over prompts."""
    rows = pd.DataFrame(judgments, columns=[*PAIR, *QUESTION, "len_arm", "len_baseline"])
    prompts = rows.drop_duplicates([*PAIR, *QUESTION], keep="last")
    differences = prompts.assign(by=prompts.len_arm - prompts.len_baseline).groupby(PAIR, sort=False).by
    found = differences.agg(["mean", "std", "size"]).reset_index()
    found = found[found["size"] >= PROMPTS]
    margin = Z * found["std"] / np.sqrt(found["size"])
    label, mean = "answers of " + found.arm + " minus " + found.baseline, found["mean"]
    return found[PAIR].assign(label=label, judge="", value=mean, low=mean - margin, high=mean + margin)


def _side_by_side(items: pd.DataFrame, stage: str, known: pd.DataFrame) -> Iterator[tuple[dict[str, str], Any, Any]]:
    """Any two known arms' values of the same questions by the same judge: what they are called, and both, aligned."""
    for (judge, baseline), part in items[items.stage == stage].groupby(["judge", "baseline"], sort=False):
        wanted = known[(known.judge == judge) & (known.baseline == baseline)].arm
        values = part.pivot_table(index=QUESTION, columns="arm", values="value")
        for arm, other in itertools.permutations([name for name in wanted if name in values], 2):
            both = values[[arm, other]].dropna()
            label = f"{judge}, {arm} against {other}"
            yield {"label": label, "judge": judge, "arm": arm, "baseline": other}, both[arm], both[other]


def compare_scores(items: pd.DataFrame, stage: str, known: pd.DataFrame) -> pd.DataFrame:
    """Differences of two arms' scores by the same judge, paired by question. known: arms with a whole benchmark."""
    rows = [head | _difference(mine - other, REACH[stage]) for head, mine, other in _side_by_side(items, stage, known)]
    return pd.DataFrame(rows, columns=NUMBER)


def _difference(apart: "pd.Series[float]", reach: float) -> dict[str, float]:
    """Mean of paired differences with Student's interval; where all are one and the same, Wilson's between +-reach."""
    mean = paired_interval(apart.to_numpy())
    if math.isnan(mean.low):
        mean = rescale(mean_with_interval(0.5 + apart.to_numpy() / (2 * reach)), 2 * reach, -reach)
    return {"value": mean.value, "low": mean.low, "high": mean.high}


def compare_rates(items: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Ratios of two arms' win rates on AlpacaEval, paired by instruction: the delta method on their logarithms."""
    rows = []
    for head, mine, other in _side_by_side(items, "alpaca_eval", known):
        if mine.mean() > 0 and other.mean() > 0:
            apart = mine / mine.mean() - other / other.mean()
            ratio, factor = mine.mean() / other.mean(), math.exp(Z * apart.std() / math.sqrt(len(apart)))
            rows.append(head | {"value": ratio, "low": ratio / factor, "high": ratio * factor})
    return pd.DataFrame(rows, columns=NUMBER)


def compare_net_wins(items: pd.DataFrame, nets: pd.DataFrame, wanted: Any) -> pd.DataFrame:
    """By how much one net win is larger than another by the same judge, in points, paired by prompt."""
    rows = []
    for one in nets[nets.arm.map(functools.partial(published.is_named, wanted.arm))].itertuples():
        for two in nets[nets.judge == one.judge].itertuples():
            sides = ((wanted.against, one.baseline), (wanted.than_arm, two.arm), (wanted.than_against, two.baseline))
            if all(itertools.starmap(published.is_named, sides)):
                judged = items[(items.stage == "judge") & (items.judge == one.judge)].set_index(QUESTION)
                mine, other = (
                    judged[(judged.arm == x.arm) & (judged.baseline == x.baseline)].value for x in (one, two)
                )
                head = {"label": f"{one.judge}, {published.describe_contrast(wanted)}", "judge": one.judge}
                apart = (mine - other).dropna()
                rows.append(head | {"arm": one.arm, "baseline": one.baseline} | _difference(apart, 2 * REACH["judge"]))
    return pd.DataFrame(rows, columns=NUMBER)


def subtract_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Differences of two arms' scores, as if independent: of these tasks the single items are not kept."""
    rows = scores.merge(scores, on=["judge", "baseline"], suffixes=("", "_other"))
    value = rows.value - rows.value_other
    low = value - np.hypot(rows.value - rows.low, rows.high_other - rows.value_other)
    high = value + np.hypot(rows.high - rows.value, rows.value_other - rows.low_other)
    label = rows.arm + " against " + rows.arm_other
    return rows.assign(label=label, baseline=rows.arm_other, value=value, low=low, high=high)
