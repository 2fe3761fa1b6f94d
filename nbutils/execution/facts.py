"""A run as facts by prompt id, without a word of its texts, and its length analysis from these facts alone.

    python -m nbutils.execution.facts PROFILE [--seed N] [-o FOLDER]    the arms that are finished
    python -m nbutils.execution.facts --analyse FOLDER                  length_bias.csv, cut.csv, answer_measures.csv

FOLDER (figures/tables/<profile>) gets one folder an arm: `loss.csv` of stage 04, `answer_facts.csv` and
`likelihoods.csv` of stage 05, `reference_scores.csv`, what the reference judge gives each answer that has a reference,
and `cut_scores.csv`, the same with the target's answer and the arm's cut to one length. `made.json` says how the arms
were made. Whoever may not hand on a test set's texts can hand on these.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame

from nbutils import arms, finetune, generate, judge, length_bias
from nbutils.analysis import answer_facts, comparison
from nbutils.analysis.verdicts import ORDERS
from nbutils.core import disk, machine, manifests, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.manifests import Manifest
from nbutils.core.settings import Profile, load_profile
from nbutils.figures import registry
from nbutils.generation.answers import load_answers
from nbutils.judging import judges
from nbutils.judging.judges import score_by_reference
from nbutils.judging.pairs import MEASURE, Pair, cut_pair, match_answers
from nbutils.judging.replies import score_review

Stages = tuple[Manifest, Manifest, Manifest]


def export(name: str, seed: int, folder: Path) -> list[str]:
    """Write the facts of a profile's finished arms; returns their names. Raises InputError where none is finished."""
    profile = arms.with_data_at_hand(load_profile(name))
    found = {arm: stages for arm in profile.arms if (stages := _finished(profile, arm, seed))}
    target = profile.judging.target
    if target not in found:
        raise InputError(f"{name}: the target {target} is not finished: run `python -m nbutils.run {name}` first")
    references, mine = judge.find_references(profile), load_answers(found[target][1])
    for arm, (tuned, answered, measured) in found.items():
        pairs = [pair for pair in match_answers(load_answers(answered), mine, references) if pair.reference]
        (folder / arm).mkdir(parents=True, exist_ok=True)
        for source, table in ((tuned, "loss"), *((measured, name) for name in length_bias.FACTS)):
            with disk.atomic_path(folder / arm / f"{table}.csv") as path:
                shutil.copyfile(source.path(f"{table}.csv"), path)
        tables.write(folder / arm / "reference_scores.csv", [_score(pair) for pair in pairs])
        if arm != target:
            tables.write(folder / arm / "cut_scores.csv", [_score_cut(cut_pair(pair)) for pair in pairs])
    about = {"profile": name, "seed": seed, "target": target, "device": machine.describe_device()}
    made = {arm: _describe(*stages) for arm, stages in found.items()}
    disk.write_json(folder / "made.json", about | {"arms": made})
    return list(found)


def _finished(profile: Profile, arm: str, seed: int) -> Stages | None:
    """The manifests of an arm's training, answers and measures, where all are fresh."""
    plans = (stage.plan(profile, arm, seed) for stage in (finetune, generate))
    found = [manifests.fresh_manifest(planned) for planned in (*plans, generate.plan_measures(profile, arm, seed))]
    return tuple(found) if all(found) else None  # type: ignore[return-value]


def _score(pair: Pair) -> dict[str, Any]:
    about = {"test_set": pair.test_set, "id": pair.id, "chars": len(pair.answer)}
    return about | {"score": score_by_reference(pair.answer, pair.reference)}


def _score_cut(pair: Pair) -> dict[str, Any]:
    theirs = score_by_reference(pair.baseline_answer, pair.reference)
    return _score(pair) | {"chars_target": len(pair.baseline_answer), "score_target": theirs}


def _describe(tuned: Manifest, answered: Manifest, measured: Manifest) -> dict[str, Any]:
    """How an arm was made: counts, seconds and versions."""
    names = ("method", "rows", "truncated_rows", "tokens_per_epoch", "trained_tokens_per_epoch", "optimizer_steps")
    numbers = ("train_seconds", "peak_memory_gb", "first_loss", "last_loss")
    written = ("answers", "mean_tokens", "eos_rate", "tokens_per_second")
    seconds = {"answer_seconds": answered.seconds, "measure_seconds": measured.seconds}
    found = {name: made.facts[name] for made, part in ((tuned, names + numbers), (answered, written)) for name in part}
    return found | seconds | {"git": tuned.git, "versions": tuned.versions}


# --- the analysis ----------------------------------------------------------------------------------------------------


def analyse(folder: Path) -> tuple[DataFrame, DataFrame]:
    """The length analysis and the measures of a folder of facts, written beside them."""
    about = _read_about(folder)
    target, others = about["target"], [arm for arm in about["arms"] if arm != about["target"]]
    if not others:
        raise InputError(f"{folder}: no arm besides the target {target}: nothing to compare it with")
    rows, cut = (
        [row for arm in others for row in judge_facts(folder, target, arm, is_cut)] for is_cut in (False, True)
    )
    table = comparison.analyse(rows, cut=cut)
    folders = {arm: folder / arm for arm in (target, *others)}
    measures = tables.make("answer_measures", length_bias.compare_measures(folders))
    tables.write(folder / "length_bias.csv", table)
    tables.write(folder / "cut.csv", comparison.compare_cut(rows, cut))
    tables.write(folder / "answer_measures.csv", measures)
    return table, measures


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "made.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: no facts of a run: write them by `python -m nbutils.execution.facts`") from None
    return about


def judge_facts(folder: Path, target: str, arm: str, is_cut: bool = False) -> Iterator[dict[str, Any]]:
    """Judgment rows of the target's answers against an arm's, in both orders, from lengths and scores alone.

    By the reference judge and the three controls, which need to know no text to judge it; the coin is tossed anew.
    is_cut: of the answers cut to one length, pair by pair.
    """
    if is_cut:
        both = tables.read(folder / arm / "cut_scores.csv")
    else:
        theirs, mine = (tables.read(folder / side / "reference_scores.csv") for side in (arm, target))
        both = theirs.merge(mine, on=["test_set", "id"], suffixes=("", "_target"))
    coin = np.random.default_rng(0).integers(0, 2, (len(both), len(ORDERS)))
    for record, tosses in zip(both.to_dict("records"), coin, strict=True):
        sides = [(record[f"score{side}"], record[f"chars{side}"]) for side in ("_target", "")]
        about: dict[str, Any] = {"id": record["id"], "test_set": record["test_set"], "arm": target, "baseline": arm}
        about |= {"len_arm": sides[0][1], "len_baseline": sides[1][1], "measure": MEASURE}
        for order, heads in zip(ORDERS, tosses, strict=True):
            is_first = order == ORDERS[0]
            (first, size), (second, other) = sides if is_first else sides[::-1]
            said = {"reference": f"{first} {second}", "longer": judges.prefer_longer(size, other)}
            # Heads are the target's.
            said |= {"first": judges.FIRST, "coin": judges.FIRST if heads == is_first else judges.SECOND}
            for name, review in said.items():
                yield about | {"judge": name, "order": order, **score_review(review, order)}


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.facts`."""
    parser = ArgumentParser(prog="python -m nbutils.execution.facts", description="A run as facts without its texts.")
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="a profile whose arms are finished, or some")
    parser.add_argument("--seed", type=int, default=42, help="the run's seed (42)")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="default: figures/tables/<profile>")
    parser.add_argument("--analyse", type=Path, metavar="FOLDER", help="analyse facts that were written before")
    given = parser.parse_args(arguments)
    if (given.profile is None) == (given.analyse is None):
        parser.error("give a PROFILE, or --analyse FOLDER")
    if given.profile:
        name = load_profile(given.profile).name
        folder = given.out or registry.FOLDER / "tables" / name
        print(f"written: {folder}: facts of {', '.join(export(given.profile, given.seed, folder))}")
        return
    table, measures = analyse(given.analyse)
    for row in table.to_dict("records"):
        print(f"against {row['baseline']}, by {row['judge']}, {row['prompts']} prompts: {row['finding']}")
    for line in answer_facts.tell(measures):
        print(line)


if __name__ == "__main__":
    main()
