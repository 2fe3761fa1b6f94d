"""How two arms differ in what needs no judge, text by text: their answers, and how likely they find references."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbutils.analysis.intervals import paired_interval

if TYPE_CHECKING:
    from pandas import DataFrame

MEASURES = {
    "log_likelihood": "mean log-likelihood of held-out references, nats a token",
    "tokens": "length of an answer in tokens",
    "words": "length of an answer in words",
    "stopped": "share of answers that ended by themselves",
    "repetition": "share of an answer that repeats what it has said",
}


MEASURED = ("log_likelihood",), ("tokens", "words", "stopped", "repetition")
"""Which of them are of references, and which of answers."""

Facts = tuple[str, "Sequence[DataFrame]"]
"""An arm's name, and its tables as stage 05 writes them: likelihoods of references, and facts about answers."""


def compare(mine: Facts, theirs: Facts) -> list[dict[str, Any]]:
    """Two arms' facts, text by text: for each measure and set both means and the difference (arm minus baseline).

    Texts that only one side has are left out. With several sets there are lines of all texts as well, under "all".
    """
    (arm, of_arm), (baseline, of_baseline) = mine, theirs
    found = []
    for here, there, key, names in zip(of_arm, of_baseline, ("references", "test_set"), MEASURED, strict=True):
        both = here.merge(there, on=[key, "id"], suffixes=("", "_baseline"))
        sets = list(dict.fromkeys(both[key]))
        for part in [*sets, *(["all"] if len(sets) > 1 else [])]:
            rows = both if part == "all" else both[both[key] == part]
            found += [_compare_one(name, part, arm, baseline, rows) for name in names]
    return found


def _compare_one(name: str, part: str, arm: str, baseline: str, rows: "DataFrame") -> dict[str, Any]:
    mine, theirs = rows[name].astype(float), rows[f"{name}_baseline"].astype(float)
    difference = paired_interval((mine - theirs).to_numpy())
    numbers = {"arm_mean": mine.mean(), "baseline_mean": theirs.mean(), "difference": difference.value}
    bounds = {"difference_low": difference.low, "difference_high": difference.high}
    about = {"measure": name, "texts_of": part, "arm": arm, "baseline": baseline, "texts": difference.n}
    return about | {key: round(float(value), 6) for key, value in {**numbers, **bounds}.items()}


def tell(table: "DataFrame") -> list[str]:
    """A sentence for each line of a table that `compare` made, with its interval where there is one."""
    lines = []
    for row in table.to_dict("records"):
        interval = f" [{row['difference_low']:+.3g}, {row['difference_high']:+.3g}]"
        known = "" if math.isnan(row["difference_low"]) else interval
        means = f"{row['arm_mean']:.4g} against {row['baseline_mean']:.4g}, {row['difference']:+.3g}{known}"
        where = f"{row['texts']} texts of {row['texts_of']}" if row["texts_of"] != "all" else f"{row['texts']} texts"
        lines.append(f"{MEASURES[row['measure']]}, {where}: {row['arm']} {means} ({row['baseline']})")
    return lines
