"""Stage 02: select the rows of an arm, and longest-k of anybody's dataset.

    python -m nbutils.select ROWS... -k 1000 --measure nltk_words -o OUT

ROWS is a JSON, JSON-lines, CSV, Parquet or Arrow file (packed or not), a folder, - for standard input, or the name of
a Hub dataset, its rows in any of the forms of instruction data (docs/own-data.md); several files, folders and globs
count as one dataset in their order. OUT has the input's own form and order with every field kept; OUT.manifest.json
says how it was made.

A dataset in parts: `--part` on each of them, anywhere, and once more on all that came out of it. OUT and its manifest
are, to the byte, those of one selection from all parts.
"""

import argparse
import functools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import arms, data, lengths, prompts
from nbutils.core import disk, manifests
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.data import rows
from nbutils.selection import draw, preflight
from nbutils.selection.files import add_options, check_output, naming_input, open_inputs, request_of
from nbutils.selection.parts import (
    hash_inputs,
    ids_sha256,
    manifest_path,
    name_sources,
    plain_number,
    select_files,
    skipped_path,
)
from nbutils.selection.topk import Numbers, per_row, top_k
from nbutils.training import models

__all__ = ["top_k"]


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 02 would write for an arm; rewritten rows share the selection that they were made from.

    A token-matched arm depends on how the longest rows are trained, too: by which tokens, and after which cuts.
    """
    chosen, resolved = arms.prepare(profile, arm)
    parsed = arms.parse_arm(resolved)
    name = arms.pool_source(parsed, chosen)
    inputs = {name: data.fingerprint_pool(name)}
    settings = {**chosen.selection.model_dump(), "measures_exact": lengths.has_punkt()}
    settings["trained_tokens_measure"] = lengths.trained_measure()
    if parsed.rule == "rated":
        inputs["ratings"] = disk.sha256_file(arms.ratings_of(parsed, chosen))
    if parsed.is_matched:
        settings["trained_as"] = chosen.training.model_dump(include={"max_rows", "max_length", "prompt_style"})
        inputs["base"] = models.base_fingerprint(chosen, seed)
    folder = manifests.stage_folder(chosen.name, "select", parsed.drawn, seed)
    return Plan("select", chosen.name, parsed.drawn, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Select an arm's rows: `rows.jsonl`, and in the manifest threshold, ties and the hashes of ids and source.

    Raises InputError for a token-matched arm where the base model's tokenizer, which counts its rows, cannot be had.
    """
    chosen, name = arms.prepare(profile, arm)
    if arms.parse_arm(name).is_matched:
        models.base_location(chosen, seed)  # the plan names the tiny base by its bytes, so it has to be there
    planned = plan(chosen, name, seed)
    return manifests.complete(planned, functools.partial(_select, chosen, planned))


def load_arm(manifest: Manifest) -> list[rows.Row]:
    """The rows that a finished selection holds."""
    return [rows.row_from_json(record) for record in disk.read_jsonl(manifest.path("rows.jsonl"))]


def _select(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    arm = arms.parse_arm(planned.arm)
    measure, turns = profile.selection.measure, profile.selection.turns
    pool = data.load_pool(arms.pool_source(arm, profile))
    measured = functools.partial(lengths.count_again, measure=measure)
    ratings = arms.ratings_of(arm, profile) if arm.rule == "rated" else None
    trained = _count_trained(profile, planned, pool) if arm.is_matched else None
    max_rows = profile.training.max_rows
    positions = draw.draw(arm, pool, measured, trained, turns, ratings, max_rows).tolist()
    chosen = [pool[position] for position in positions]
    disk.write_jsonl(folder / "rows.jsonl", (row._asdict() for row in chosen))
    counts, ids = row_lengths(chosen, measure, turns), [row.id for row in chosen]
    facts: dict[str, Any] = {
        "outputs": ["rows.jsonl"],
        "rows": len(chosen),
        "pool_rows": len(pool),
        "measure": measure,
        "library": lengths.library_version(measure),
        "exact": measure != "nltk_words" or lengths.has_punkt(),
        "mean_length": round(float(counts.mean()), 4),
        "threshold": plain_number(counts.min()),
        "trained_tokens": int(lengths.trained_tokens([text for row in chosen for text in row.responses]).sum()),
        "ids_sha256": ids_sha256(ids),
    }
    if arm.rule == "longest":
        facts["ties_at_threshold"] = int((row_lengths(pool, measure, turns) == counts.min()).sum())
        facts["ties_taken"] = int((counts == counts.min()).sum())
    if trained:
        longest = draw.draw(arm._replace(rule="longest"), pool, measured, turns=turns)[:max_rows].tolist()
        facts |= {"budget_tokens": sum(map(trained, longest)), "matched_tokens": sum(map(trained, positions))}
    published = f"{arm.selection}-published"
    if published in data.sources() and data.is_at_hand(published):
        facts["ids_in_published_selection"] = len({row.id for row in data.load_rows(published)} & set(ids))
    return facts


def _count_trained(profile: Profile, planned: Plan, pool: Sequence[rows.Row]) -> draw.CountRow:
    """What counts the tokens that stage 04 trains of a row of the pool: none where its prompt fills `max_length`."""
    settings = profile.training
    try:
        tokenizer = models.load_tokenizer(profile, planned.seed)
    except InputError as error:
        mend = "reach the Hub once without LIM_OFFLINE, or set model.base to a folder"
        needed = f"its rows are counted by the base model's tokenizer, which cannot be had: {mend}"
        raise InputError(f"arm '{planned.arm}': {needed} ({error})") from None

    @functools.cache
    def count(position: int) -> int:
        return prompts.encode(pool[position], tokenizer, settings.prompt_style, settings.max_length).trained

    return count


def row_lengths(pool: Sequence[rows.Row], measure: str, turns: str) -> Numbers:
    """Length of every row's response, several turns by the rule `turns`."""
    return per_row([row.responses for row in pool], turns, functools.partial(lengths.count_again, measure=measure))


def _parser(writes: bool = True) -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m nbutils.select", description="Keep the k records with the longest responses, in their own form."
    )
    parser.add_argument(
        "rows",
        metavar="ROWS",
        nargs="+",
        help="JSON, JSONL, CSV, Parquet, Arrow, packed or not, a folder, - for standard input, or a Hub dataset; "
        "several files, folders or quoted globs",
    )
    parser.add_argument("-o", "--out", required=writes, type=Path, help="output, in the input's own form")
    parser.add_argument("--check", action="store_true", help="print an example as it would be trained; write nothing")
    add_options(parser)
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="count in N processes (default 1)")
    parser.add_argument(
        "--on-error", default="stop", metavar="stop|skip", help="rows that cannot be read: stop (default), or skip them"
    )
    parser.add_argument("--part", action="store_true", help="one part of several: keep all rows where it has fewer")
    parser.add_argument("--ratings", type=Path, help="choose by these grades (ratings.jsonl), and not by length")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, metavar="GRADE", help="of --ratings: the rows graded this or better")
    which.add_argument("--top-k", type=int, metavar="K", help="of --ratings: the K best, ties to the lower row number")
    which.add_argument("--tiers", type=int, metavar="K", help="of --ratings: whole grades, then a sample of the next")
    parser.add_argument("--seed", type=int, default=0, help="of the sample that --tiers draws (default 0)")
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.select`."""
    words = sys.argv[1:] if arguments is None else arguments
    given = _parser(writes="--check" not in words).parse_args(arguments)
    with naming_input():
        if given.check:
            for file in open_inputs(given.rows, given.split, config=given.config).files:
                print("\n".join(preflight.show_example(file, field=given.field)))
        elif given.ratings:
            _select_rated(given)
        else:
            _select_longest(given)


def _select_longest(given: argparse.Namespace) -> None:
    """Write the longest rows, and say how they were chosen."""
    if chosen_by := next((name for name in ("threshold", "top_k", "tiers") if getattr(given, name) is not None), None):
        raise InputError(f"--{chosen_by.replace('_', '-')} chooses by grades: give their file by --ratings")
    request = request_of(given)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        made = select_files(given.rows, request, given.out, given.processes, given.part, given.on_error)
    for note in dict.fromkeys(str(each.message) for each in noted if each.category is UserWarning):
        print(f"note: {note}", file=sys.stderr)
    if given.part:
        return print(f"{given.out}: {len(made['ids']):,} of {made['rows']:,} rows of a part")
    exact = "" if made["exact"] else " (approximate: no punkt parameters)"
    if made["rows_skipped"]:
        where = skipped_path(given.out)
        rows_ = "row" if made["rows_skipped"] == 1 else "rows"
        print(f"note: {made['rows_skipped']:,} {rows_} could not be read: listed in {where}", file=sys.stderr)
    print(
        f"{given.out}: {made['k']:,} of {made['rows']:,} rows, {made['measure']} >= {made['threshold']}{exact}; "
        f"{made['ties_taken']} of {made['ties_at_threshold']} ties at the threshold taken, lower row numbers first"
    )


def _select_rated(given: argparse.Namespace) -> None:
    """Write the rows that a file of ratings puts first, and the manifest of how they were chosen."""
    if given.part:
        raise InputError("--part goes by length: grades are of a whole dataset, leave it out")
    inputs = open_inputs(given.rows, given.split, config=given.config)
    check_output(inputs, given.out)
    if given.out.resolve() == given.ratings.resolve():
        raise InputError(f"{given.out}: the output would replace the ratings: give another name")
    file = inputs.whole()
    grades = draw.read_grades(given.ratings, data.read_own_rows(file))
    asked: dict[str, Any] = {"rule": "top-k", "k": given.k if given.top_k is None else given.top_k}
    if given.threshold is not None:
        asked = {"rule": "threshold", "threshold": given.threshold}
        chosen = draw.draw_threshold(grades, given.threshold)
    elif given.tiers is not None:
        asked = {"rule": "tiers", "k": given.tiers, "seed": given.seed}
        chosen = draw.draw_tiers(grades, given.tiers, given.seed)
    else:
        chosen = draw.draw_top_k(grades, asked["k"])
    ids, lowest = chosen.tolist(), grades[chosen].min()
    file.write_selected(ids, given.out)
    made = {
        **name_sources(*hash_inputs(inputs)),
        "rows": len(grades),
        "split": given.split,
        "ratings": given.ratings.name,
        "ratings_sha256": disk.sha256_file(given.ratings),
        **asked,
        "lowest_grade": plain_number(lowest),
        "ids_sha256": ids_sha256(ids),
        "ids": ids,
    }
    disk.write_json(manifest_path(given.out), made)
    print(f"{given.out}: {len(ids):,} rows, the lowest grade {lowest:g}")


if __name__ == "__main__":
    main()
