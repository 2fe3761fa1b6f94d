"""Stage 02: select the rows of an arm, and longest-k of anybody's dataset.

    python -m nbutils.select ROWS -k 1000 --measure nltk_words -o OUT

ROWS is a JSON, JSON-lines or Parquet file (gzipped or not), a folder of parts, or the name of a Hub dataset, in
Alpaca, ShareGPT or messages form. OUT has the input's own form and order with every field kept; OUT.manifest.json says
how it was made.
"""

import functools
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import arms, artifacts, data, lengths, rows
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import RecordFile, number_records, open_records
from nbutils.select_files import (
    Request,
    add_options,
    hash_source,
    ids_sha256,
    length_of_turns,
    longest_of_file,
    plain_number,
    request_of,
    select_file,
)
from nbutils.settings import Profile
from nbutils.topk import Longest, Numbers, longest, per_row, top_k

__all__ = ["Longest", "Request", "length_of_turns", "longest", "longest_of_file", "main", "run", "select_file", "top_k"]

# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 02 would write for an arm."""
    chosen, resolved = arms.prepare(profile, arm)
    parsed = arms.parse_arm(resolved)
    name = arms.pool_source(parsed, chosen)
    inputs = {name: fingerprint_pool(name)}
    settings = {**chosen.selection.model_dump(), "measures_exact": lengths.has_punkt()}
    settings["trained_tokens_measure"] = _trained_measure()
    if parsed.rule == "rated":
        inputs["ratings"] = artifacts.sha256_file(arms.ratings_of(parsed, chosen))
    if parsed.rewritten:
        from nbutils import refine

        inputs["refine"] = artifacts.upstream(refine.plan(chosen, parsed.selection.removesuffix("-rewritten"), seed))
    folder = artifacts.stage_folder(chosen.name, "select", parsed.selection, seed)
    return Plan("select", chosen.name, parsed.selection, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Select an arm's rows: `rows.jsonl`, and in the manifest threshold, ties and the hashes of ids and source."""
    chosen, name = arms.prepare(profile, arm)
    planned = plan(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_select, chosen, planned))


def load_arm(manifest: Manifest) -> list[rows.Row]:
    """The rows that a finished selection holds."""
    return [rows.row_from_json(record) for record in artifacts.read_jsonl(manifest.path("rows.jsonl"))]


def _select(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    arm = arms.parse_arm(planned.arm)
    name = arms.pool_source(arm, profile)
    pool = load_pool(name)
    measured = functools.partial(lengths.count_again, measure=profile.selection.measure)
    ratings = arms.ratings_of(arm, profile) if arm.rule == "rated" else None
    ids = arms.draw(arm, pool, measured, trained_tokens, profile.selection.turns, ratings)
    chosen = [pool[i] for i in ids]
    if arm.rewritten:
        from nbutils import refine

        chosen = refine.rewritten_rows(profile, arm.selection.removesuffix("-rewritten"), planned.seed, chosen)
    artifacts.write_jsonl(folder / "rows.jsonl", (row._asdict() for row in chosen))
    return {"outputs": ["rows.jsonl"], **_facts(arm, chosen, profile, pool)}


def fingerprint_pool(name: str) -> str:
    """Hash of a source's rows, or of one's own file or folder of parts."""
    if name in data.sources():
        return data.fingerprint(name)
    found = hash_source(Path(name))
    if found is None:
        raise InputError(f"{name}: no such file, and no source of that name (`python -m nbutils.data` lists them)")
    return found


def load_pool(name: str) -> list[rows.Row]:
    """Rows of a source by name, or of one's own file by path."""
    if name in data.sources():
        return data.load_rows(name)
    return read_own_rows(open_records(Path(name)))


def read_own_rows(file: RecordFile) -> list[rows.Row]:
    """All rows of one's own file; raises InputError naming the row that cannot be read."""
    return [_own_row(file.path, number, record) for number, record in number_records(file)]


def _own_row(path: Path, number: int, record: Any) -> rows.Row:
    try:
        return rows.to_row(record, number, path.name)
    except InputError as error:
        raise InputError(f"{path}: row {number}: {error}") from None


def trained_tokens(texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that responses add to the loss, the end-of-sequence token counted (Llama-2's, else NLTK words)."""
    return lengths.count_again(texts, _trained_measure()) + 1


def _trained_measure() -> str:
    return "tokens" if data.is_at_hand("llama2-tokenizer") else "nltk_words"


def _facts(arm: arms.Arm, chosen: list[rows.Row], profile: Profile, pool: list[rows.Row]) -> dict[str, Any]:
    measure, turns = profile.selection.measure, profile.selection.turns
    counts = _row_lengths(chosen, measure, turns)
    ids = [row.id for row in chosen]
    facts: dict[str, Any] = {
        "rows": len(chosen),
        "pool_rows": len(pool),
        "measure": measure,
        "library": lengths.library_version(measure),
        "exact": measure != "nltk_words" or lengths.has_punkt(),
        "mean_length": round(float(counts.mean()), 4),
        "threshold": plain_number(counts.min()),
        "trained_tokens": int(trained_tokens([text for row in chosen for text in row.responses]).sum()),
        "ids_sha256": ids_sha256(ids),
    }
    if arm.rule == "longest":
        everything = _row_lengths(pool, measure, turns)
        facts["ties_at_threshold"] = int((everything == counts.min()).sum())
        facts["ties_taken"] = int((counts == counts.min()).sum())
    return facts | _published_overlap(arm, ids)


def _row_lengths(pool: list[rows.Row], measure: str, turns: str) -> Numbers:
    return per_row([row.responses for row in pool], turns, functools.partial(lengths.count_again, measure=measure))


def _published_overlap(arm: arms.Arm, ids: list[int]) -> dict[str, Any]:
    published = {"alpaca-1k-longest": "alpaca-1k-longest-published", "evol-1k-longest": "evol-1k-longest-published"}
    name = published.get(arm.selection)
    if name is None or not data.is_at_hand(name):
        return {}
    return {"ids_in_published_selection": len({row.id for row in data.load_rows(name)} & set(ids))}


# --- the command ---------------------------------------------------------------------------------------------------


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m nbutils.select", description="Keep the k records with the longest responses, in their own form."
    )
    parser.add_argument("rows", metavar="ROWS", help="JSON, JSONL, Parquet, .gz, a folder of parts, or a Hub dataset")
    parser.add_argument("-o", "--out", required=True, type=Path, help="output, in the input's own form")
    add_options(parser)
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.select`."""
    given = _parser().parse_args(arguments)
    request = request_of(given)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        made = select_file(given.rows, request, given.out)
    for note in dict.fromkeys(str(each.message) for each in noted if each.category is UserWarning):
        print(f"note: {note}", file=sys.stderr)
    exact = "" if made["exact"] else " (approximate: no punkt parameters)"
    print(
        f"{given.out}: {made['k']:,} of {made['rows']:,} rows, {made['measure']} >= {made['threshold']}{exact}; "
        f"{made['ties_taken']} of {made['ties_at_threshold']} ties at the threshold taken, lower row numbers first"
    )


if __name__ == "__main__":
    main()
