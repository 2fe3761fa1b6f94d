"""What a run measured, as tables: the fresh results of its stages, and people's votes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbutils.analysis import leaderboards
from nbutils.claims import published
from nbutils.claims.published import Row
from nbutils.core import tables
from nbutils.core.manifests import Manifest
from nbutils.core.settings import Profile
from nbutils.judging import records

Rows = list[Row]

STAGES = ("select", "finetune", "judge", "length_bias", "mt_bench", "alpaca_eval", "capabilities")
"""Stages whose results are read."""


@dataclass(frozen=True)
class Results:
    """A run's fresh tables, the rows of all its arms together.

    judge, length_bias, mt_bench, alpaca_eval: as their stages write them. lengths: `arm`, `baseline` and the mean
    difference of their answers' lengths in characters with its interval. capabilities: `arm`, and the mean of the
    paper's four tasks as a share. votes: judgment rows of people. words: mean NLTK words of a training response, by
    selection (`Arm.selection`).
    """

    profile: Profile
    judge: Rows = field(default_factory=list)
    lengths: list[dict[str, Any]] = field(default_factory=list)
    length_bias: Rows = field(default_factory=list)
    mt_bench: Rows = field(default_factory=list)
    alpaca_eval: Rows = field(default_factory=list)
    capabilities: list[dict[str, Any]] = field(default_factory=list)
    votes: list[dict[str, Any]] = field(default_factory=list)
    words: dict[str, float] = field(default_factory=dict)

    def judges(self, kinds: Sequence[str]) -> set[str]:
        """Names of the profile's judges of these kinds."""
        return {each.name for each in self.profile.judging.judges if each.kind in kinds}


def read(profile: Profile, manifests: Mapping[str, Manifest], votes: Sequence[dict[str, Any]] = ()) -> Results:
    """The tables of a run. manifests: as `find` gives them, others are passed over; votes: as `find_votes` does."""
    made = {stage: [one for one in manifests.values() if one.stage == stage] for stage in STAGES}
    return Results(
        profile,
        judge=_concatenate(made["judge"], "summary.csv"),
        lengths=[row for one in made["judge"] for row in compare_lengths(records.load_judgments(one))],
        length_bias=_concatenate(made["length_bias"], "length_bias.csv"),
        mt_bench=_concatenate(made["mt_bench"], "scores.csv"),
        alpaca_eval=_concatenate(made["alpaca_eval"], "rates.csv"),
        capabilities=[row for one in made["capabilities"] for row in _average(one)],
        votes=list(votes),
        words=_mean_words([*made["select"], *made["finetune"]]),
    )


def _mean_words(made: Sequence[Manifest]) -> dict[str, float]:
    """Mean NLTK words of a response: of rewritten rows their training knows it, of all others their selection."""
    counted = (one for one in made if one.facts.get("measure") == "nltk_words")
    return {one.arm.partition("+")[0]: one.facts["mean_length"] for one in counted}


def _concatenate(manifests: Sequence[Manifest], name: str) -> Rows:
    return [row for made in manifests for row in tables.read_table(made.path(name))]


def _average(made: Manifest) -> Iterator[dict[str, Any]]:
    mean = leaderboards.mean_of_four(tables.read_table(made.path("capabilities.csv")))
    if mean:
        yield {"arm": made.arm, **mean}


def compare_lengths(judgments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean difference of both sides' answers in characters (arm minus baseline), with a 95% interval over prompts."""
    sides: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in judgments:
        mine = sides.setdefault((row["arm"], row["baseline"]), {})
        mine[row["test_set"], row["id"]] = row["len_arm"] - row["len_baseline"]
    return [_mean_difference(*key, np.array(list(found.values()), dtype=float)) for key, found in sides.items()]


def _mean_difference(arm: str, baseline: str, differences: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, Any]:
    n, value = len(differences), float(differences.mean())
    margin = published.Z * float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    names = {"arm": arm, "baseline": baseline, "prompts": n}
    return {**names, "value": value, "low": value - margin, "high": value + margin}
