"""What a run measured, as tables: the fresh results of its stages, and people's votes."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import (
    alpaca_eval_judge,
    arms,
    artifacts,
    capabilities,
    generate,
    human,
    judge,
    length_bias,
    mt_bench,
    paper_numbers,
    select,
)
from nbutils.artifacts import Manifest, Plan
from nbutils.judge import Pair
from nbutils.paper_numbers import Row
from nbutils.settings import Profile

Rows = list[Row]

STAGES: dict[str, Any] = {
    "select": select,
    "judge": judge,
    "length_bias": length_bias,
    "mt_bench": mt_bench,
    "alpaca_eval": alpaca_eval_judge,
    "capabilities": capabilities,
}
"""Stages whose results are looked for."""


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


# --- a run's results -----------------------------------------------------------------------------------------------


def find(profile: Profile, seed: int = 42) -> dict[str, Manifest]:
    """The fresh results of a profile that claims are read from, by label ("judge alpaca-1k-longest")."""
    stages = [stage for stage in STAGES if _is_asked_for(profile, stage)]
    wanted = [(stage, arm) for stage in stages for arm in profile.arms]
    wanted += [(stage, capabilities.BASE) for stage in stages if stage == "capabilities"]
    found = {f"{stage} {arm}": _fresh(profile, stage, arm, seed) for stage, arm in wanted}
    return {label: made for label, made in found.items() if made}


def _is_asked_for(profile: Profile, stage: str) -> bool:
    optional = {"capabilities": profile.capabilities is not None}
    optional |= {name.replace("-", "_"): name in profile.judging.benchmarks for name in ("mt-bench", "alpaca-eval")}
    return optional.get(stage, True)


def _fresh(profile: Profile, stage: str, arm: str, seed: int) -> Manifest | None:
    # Arms that train on the same rows share one selection.
    stored = arms.parse_arm(arm).selection if stage == "select" else arm
    # To plan is to hash all that is upstream: not for what was never run.
    if artifacts.read_manifest(artifacts.stage_folder(profile.name, stage, stored, seed)) is None:
        return None
    made: Plan = STAGES[stage].plan(profile, arm, seed)
    return artifacts.fresh_manifest(made)


def read(profile: Profile, manifests: Mapping[str, Manifest], votes: Sequence[dict[str, Any]] = ()) -> Results:
    """The tables of a run. manifests: as `find` gives them, others are passed over; votes: as `find_votes` does."""
    made = {stage: [one for one in manifests.values() if one.stage == stage] for stage in STAGES}
    return Results(
        profile,
        judge=_concatenate(made["judge"], "summary.csv"),
        lengths=[row for one in made["judge"] for row in compare_lengths(judge.load_judgments(one))],
        length_bias=_concatenate(made["length_bias"], "length_bias.csv"),
        mt_bench=_concatenate(made["mt_bench"], "scores.csv"),
        alpaca_eval=_concatenate(made["alpaca_eval"], "rates.csv"),
        capabilities=[row for one in made["capabilities"] for row in _average(one)],
        votes=list(votes),
        words={one.arm: one.facts["mean_length"] for one in made["select"] if one.facts["measure"] == "nltk_words"},
    )


def read_table(path: Path) -> Rows:
    """A small CSV table as a list of rows."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _concatenate(manifests: Sequence[Manifest], name: str) -> Rows:
    return [row for made in manifests for row in read_table(made.path(name))]


def _average(made: Manifest) -> Iterator[dict[str, Any]]:
    mean = capabilities.mean_of_four(read_table(made.path("capabilities.csv")))
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
    margin = paper_numbers.Z * float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    names = {"arm": arm, "baseline": baseline, "prompts": n}
    return {**names, "value": value, "low": value - margin, "high": value + margin}


# --- people --------------------------------------------------------------------------------------------------------


def find_votes(profile: Profile, seed: int = 42) -> list[dict[str, Any]]:
    """People's votes on the answers as they are now, as judgment rows.

    They are looked for in runs/<profile>/human/<arm>/seed-<n>, the folder of a ballot that `nbutils.human` exported
    and read; a ballot on other answers, or on an arm that the profile does not have, is passed over.
    """
    folders = (artifacts.stage_folder(profile.name, "human", arm, seed) for arm in profile.arms)
    voted = (folder for folder in folders if (folder / "votes.jsonl").is_file())
    return [row for folder in voted if _is_current(profile, folder, seed) for row in _read_votes(folder)]


def _read_votes(folder: Path) -> list[dict[str, Any]]:
    return artifacts.read_jsonl(folder / "votes.jsonl")


def _is_current(profile: Profile, folder: Path, seed: int) -> bool:
    """Whether a ballot shows the answers that the profile's arms give now."""
    key = human.read_key(folder)
    shown = {item[side] for item in key["items"].values() for side in ("arm", "baseline")}
    if not shown <= set(profile.arms):
        return False
    made = {arm: artifacts.fresh_manifest(generate.plan(profile, arm, seed)) for arm in shown}
    answers = {(arm, a["test_set"], a["id"]): a for arm, one in made.items() if one for a in generate.load_answers(one)}
    try:
        ballots = [_ballot(number, key["items"][str(number)], answers) for number in sorted(map(int, key["items"]))]
    except KeyError:  # an answer that was voted on is gone
        return False
    return human.make_key(ballots)["ballot"] == key["ballot"]


def _ballot(number: int, item: Mapping[str, str], answers: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Any:
    mine, theirs = (answers[item[side], item["test_set"], item["id"]] for side in ("arm", "baseline"))
    texts = (mine["prompt"], item["arm"], item["baseline"], mine["response"], theirs["response"])
    return human.Ballot(number, Pair(item["id"], item["test_set"], *texts), item["order"] == judge.ORDERS[0])
