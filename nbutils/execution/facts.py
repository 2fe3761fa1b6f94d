"""A run as facts by prompt id, without a word of its texts, and its length analysis from these facts alone.

    python -m nbutils.execution.facts PROFILE [--seed N] [-o FOLDER]    the arms that are finished
    python -m nbutils.execution.facts --analyse FOLDER                  length_bias.csv, cut.csv, answer_measures.csv

FOLDER (figures/tables/<profile>) gets one folder an arm: `loss.csv` of stage 04, `answer_facts.csv` and
`likelihoods.csv` of stage 05, `reference_scores.csv`, what the reference judge gives each answer that has a reference,
and `cut_scores.csv`, the same with the target's answer and the arm's cut to one length. `made.json` says how the arms
were made, and the sha256 of every table: one that is torn, swapped or edited is refused. Whoever may not hand on a test
set's texts can hand on these.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from nbutils.core.settings import Profile, load_profile, natural
from nbutils.figures import registry
from nbutils.generation.answers import load_answers
from nbutils.judging import judges
from nbutils.judging.judges import score_by_reference
from nbutils.judging.pairs import MEASURE, Pair, cut_pair, match_answers
from nbutils.judging.replies import score_review

Stages = tuple[Manifest, Manifest, Manifest]

ABOUT = "made.json"
AGAIN = "write the facts again, or restore the files from the repository"

BOUNDS = {
    "tokens": (0, np.inf),
    "words": (0, np.inf),
    "repetition": (0, 1),
    "log_likelihood": (-np.inf, 0),
    "chars": (0, np.inf),
    "chars_target": (0, np.inf),
    "score": (1, 10),
    "score_target": (1, 10),
}
"""Between which bounds a column's numbers lie, all of them finite."""


def export(name: str, seed: int, folder: Path) -> list[str]:
    """Write the facts of a profile's finished arms; returns their names.

    Raises InputError where the target is not finished, or the folder holds the facts of another profile or seed.
    """
    profile = arms.with_data_at_hand(load_profile(name))
    _refuse_other(folder, profile.name, seed)
    found = {arm: stages for arm in profile.arms if (stages := _finished(profile, arm, seed))}
    target = profile.judging.target
    if target not in found:
        seeds = ", ".join(map(str, profile.seeds))
        mend = f"run `python -m nbutils.run {name}` first" if seed in profile.seeds else f"it trains with {seeds}"
        raise InputError(f"{name}: the target {target} is not finished with seed {seed}: {mend}")
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
    about = {"profile": profile.name, "seed": seed, "target": target, "device": machine.describe_device()}
    made = {arm: _describe(*stages) | {"sha256": hash_tables(folder / arm)} for arm, stages in found.items()}
    disk.write_json(folder / ABOUT, about | {"arms": made})
    return list(found)


def _refuse_other(folder: Path, profile: str, seed: int) -> None:
    about: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # what cannot be read is written anew
        about = _read_about(folder)
    there = {"profile": about.get("profile", profile), "seed": about.get("seed", seed)}
    if there != {"profile": profile, "seed": seed}:
        held = f"the facts of profile '{there['profile']}' with seed {there['seed']}"
        raise InputError(f"{folder}: it holds {held}: name another folder (-o)")


def hash_tables(folder: Path) -> dict[str, str]:
    """sha256 of the tables in an arm's folder, by name."""
    return {path.name: disk.hash_bytes(path) for path in sorted(folder.glob("*.csv"))}


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
    """The length analysis and the measures of a folder of facts, written beside them.

    Raises InputError, before anything is written, for a folder that holds none, and for tables that are missing, torn,
    edited, of other prompts than each other, or hold what cannot be.
    """
    about = _read_about(folder)
    _check_bytes(folder, about)
    target, others = about["target"], [arm for arm in about["arms"] if arm != about["target"]]
    if not others:
        raise InputError(f"{folder}: no arm besides the target {target}: nothing to compare it with")
    rows, cut = (
        [row for arm in others for row in judge_facts(folder, target, arm, is_cut)] for is_cut in (False, True)
    )
    for arm in others:
        _pair(folder, target, arm, "answer_facts")
    folders = {arm: folder / arm for arm in (target, *others)}
    for arm in folders:
        _read_facts(folder, arm, "likelihoods", ("references", "id"))
    measures = tables.make("answer_measures", length_bias.compare_measures(folders))
    # Of prompts without a reference answer there are measures alone.
    table = comparison.analyse(rows, cut=cut) if rows else tables.make("length_bias")
    shortened = comparison.compare_cut(rows, cut) if cut else tables.make("cut")
    for name, made in (("length_bias", table), ("cut", shortened), ("answer_measures", measures)):
        tables.write(folder / f"{name}.csv", made)
    return table, measures


def _read_about(folder: Path) -> dict[str, Any]:
    """What `made.json` says: at least `target`, and by the name of each arm what is known of it, under `arms`."""
    path, mend = folder / ABOUT, "write the facts by `python -m nbutils.execution.facts`"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path}: no facts of a run: {mend}") from None
    made = about.get("arms") if isinstance(about, dict) else None
    if not isinstance(made, dict) or not all(isinstance(each, dict) for each in made.values()):
        raise InputError(f"{path}: no table 'arms', which says of each arm how it was made: {mend}")
    if about.get("target") not in made:
        raise InputError(f"{path}: key 'target': '{about.get('target')}' is none of its arms: {mend}")
    for name in made:
        try:
            arms.parse_arm(name)
        except InputError as error:
            raise InputError(f"{path}: key 'arms': {error}") from None
    return about


def _check_bytes(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse tables with other bytes than those that `made.json` was written with, where it says so."""
    for arm, made in about["arms"].items():
        known = made.get("sha256", {})
        if known and known != (there := hash_tables(folder / arm)):
            name = sorted(set(known.items()) ^ set(there.items()))[0][0]
            wrong = "sha256 differs" if name in known and name in there else "missing" if name in known else "unknown"
            raise InputError(f"{folder / arm / name}: not a table that {ABOUT} was written with ({wrong}): {AGAIN}")


def _read_facts(folder: Path, arm: str, name: str, keys: Sequence[str] = ("test_set", "id")) -> DataFrame:
    """One of an arm's tables, in which every text (named by `keys`) stands once, with numbers that can be.

    Raises InputError, with file and line, where it is not so.
    """
    path = folder / arm / f"{name}.csv"
    table = tables.read(path)
    if lacking := [column for column in tables.SCHEMAS[name] if column not in table]:
        raise InputError(f"{path}: column '{lacking[0]}' is missing: {AGAIN}")
    for column in BOUNDS.keys() & set(table):
        low, high = BOUNDS[column]
        wrong = ~(table[column].between(low, high) & np.isfinite(table[column]))
        _refuse(path, table[wrong], keys, f"'{column}' is no number from {low:g} to {high:g}")
    _refuse(path, table[table.duplicated(list(keys))], keys, "the text stands there twice")
    if len(table) and not path.read_bytes().endswith(b"\n"):
        _refuse(path, table.tail(1), keys, "the line is not whole")
    return table


def _refuse(path: Path, rows: DataFrame, keys: Sequence[str], why: str) -> None:
    """Raise InputError, naming the first of the rows, if there are any."""
    if len(rows):
        text = "/".join(map(str, rows.iloc[0][list(keys)]))
        raise InputError(f"{path}: line {rows.index[0] + 2} ({text}): {why}: {AGAIN}")


def _pair(folder: Path, target: str, arm: str, name: str = "reference_scores") -> DataFrame:
    """A table of an arm beside the target's, prompt by prompt. Raises InputError where they are of other prompts."""
    theirs, mine = (_read_facts(folder, side, name) for side in (arm, target))
    both = theirs.merge(mine, on=["test_set", "id"], suffixes=("", "_target"))
    if len(both) < max(len(theirs), len(mine)):
        counts = f"{len(theirs)} prompts, {len(mine)} with {target}, {len(both)} the same"
        raise InputError(f"{folder / arm / name}.csv: {counts}: {AGAIN}")
    return both


def _pair_cut(folder: Path, target: str, arm: str) -> DataFrame:
    """Lengths and scores of the answers cut to one length, none of them longer than the whole answer."""
    cut, path = _read_facts(folder, arm, "cut_scores"), folder / arm / "cut_scores.csv"
    whole = _pair(folder, target, arm)
    both = cut.merge(whole, on=["test_set", "id"], how="left", suffixes=("", "_whole"))
    for side in ("chars", "chars_target"):
        fits = both[side] <= both[f"{side}_whole"]  # without a whole answer: not so either
        _refuse(path, both[~fits], ("test_set", "id"), f"'{side}' is more than the whole answer has")
    if len(cut) < len(whole):
        raise InputError(f"{path}: {len(cut)} of {len(whole)} prompts: {AGAIN}")
    return cut


def judge_facts(folder: Path, target: str, arm: str, is_cut: bool = False) -> Iterator[dict[str, Any]]:
    """Judgment rows of the target's answers against an arm's, in both orders, from lengths and scores alone.

    By the reference judge and the three controls, which need to know no text to judge it; the coin is tossed anew.
    is_cut: of the answers cut to one length, pair by pair. Raises InputError where tables do not belong together.
    """
    both = (_pair_cut if is_cut else _pair)(folder, target, arm)
    coin = np.random.default_rng(list(arm.encode())).integers(0, 2, (len(both), len(ORDERS)))
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
    parser.add_argument("--seed", type=natural, default=42, help="the run's seed (42)")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="default: figures/tables/<profile>")
    parser.add_argument("--analyse", type=Path, metavar="FOLDER", help="analyse facts that were written before")
    given = parser.parse_args(arguments)
    if (given.profile is None) == (given.analyse is None):
        parser.error("give a PROFILE, or --analyse FOLDER")
    if given.analyse and given.out:
        parser.error("-o goes with a PROFILE: what --analyse finds is written beside the facts")
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
