"""The k longest of a dataset in many parts: every part on its own, anywhere, then an exact merge.

    python -m nbutils.execution.partition run FOLDER -k 1000 -o OUT [--on slurm]    both, as jobs (partition.smk)
    python -m nbutils.execution.partition map FOLDER PART -k 1000 -o BESTS   the k longest of one part
    python -m nbutils.execution.partition merge FOLDER BESTS -k 1000 -o OUT         OUT, once BESTS holds every part's

OUT and OUT.manifest.json are, to the byte, what `python -m nbutils.select FOLDER` writes. A map reads its part alone,
with rows numbered from 0; the merge adds the number of rows in the parts before, and reads only the k of each part.
"""

import itertools
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import ROOT, data, lengths
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, check_k, exits_cleanly
from nbutils.data import rows
from nbutils.data.json_records import JsonLines
from nbutils.data.records import ParquetFiles, open_records
from nbutils.execution import cluster
from nbutils.selection import files
from nbutils.selection.files import SelectionRequest
from nbutils.selection.topk import Ids, Longest

Record = dict[str, Any]


# --- the parts -----------------------------------------------------------------------------------------------------


def open_folder(folder: Path, split: str = "train") -> JsonLines | ParquetFiles:
    """A folder's parts as one file of records. Raises InputError for anything that is not such a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder of parts (a single file is for `python -m nbutils.select`)")
    file = open_records(folder, split)
    if not isinstance(file, JsonLines | ParquetFiles):
        raise InputError(f"{folder}: its parts are neither Parquet nor JSON lines")
    return file


def part_names(folder: str | Path, split: str = "train") -> list[str]:
    """The parts of a folder, relative to it, in the order in which their rows count."""
    return _names_of(open_folder(Path(folder), split))


def _names_of(file: JsonLines | ParquetFiles) -> list[str]:
    return [part.relative_to(file.path).as_posix() for part in file.parts]


def _rows_path(bests: Path, number: int, file: JsonLines | ParquetFiles) -> Path:
    return bests / f"{number}{'.parquet' if isinstance(file, ParquetFiles) else '.jsonl'}"


def _stamp(part: Path) -> dict[str, int]:
    found = part.stat()
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}


# --- map -----------------------------------------------------------------------------------------------------------


def select_part(folder: Path, name: str, request: SelectionRequest, bests: Path) -> Record:
    """Write the k longest rows of one part and, last, the record of them: `<number>.json` in the folder `bests`.

    A record's `ids` are row numbers within the part, `lengths` theirs. Raises InputError for an unknown part, a faulty
    row or request.
    """
    lengths.check_measure(request.measure)
    check_k(request.k, sys.maxsize, name)
    file = open_folder(folder, request.split)
    names = _names_of(file)
    if name not in names:
        raise InputError(f"{folder}: no part '{name}': it has {', '.join(names[:3])}, ...")
    alone = type(file)(folder / name, [folder / name])
    kept = files.read_longest(alone, request)
    path = _rows_path(bests, names.index(name), file)
    alone.write_selected([int(i) for i in kept.ids], path)
    record = {"part": name, **_stamp(folder / name), **how_measured(request), **_facts(alone, request, kept)}
    record |= {"part_sha256": disk.sha256_file(folder / name), "best_sha256": disk.sha256_file(path)}
    disk.write_json(path.with_suffix(".json"), record)
    return record


def _facts(part: JsonLines | ParquetFiles, request: SelectionRequest, kept: Longest) -> Record:
    ties, taken = kept.ties
    return {
        "rows": kept.n,
        "form": _form(part, request),
        "ids": [int(i) for i in kept.ids],
        "lengths": [files.plain_number(length) for length in kept.lengths],
        "ties_left_out": ties - taken,
    }


def how_measured(request: SelectionRequest) -> Record:
    """What determines a part's lengths besides its rows: the request, and what counts here, down to its files.

    For `nltk_words` punkt's tables are fetched first where they can be, as counting itself would.
    """
    is_by_nltk = request.measure == "nltk_words"
    if is_by_nltk:
        lengths.nltk_tokenizers()
    return {
        "request": request._asdict(),
        "library": lengths.library_version(request.measure),
        "exact": not is_by_nltk or lengths.has_punkt(),
        "tokenizer_sha256": _hash_tokenizer(request.tokenizer) if request.measure == "tokens" else None,
    }


def _hash_tokenizer(given: str | None) -> str | None:
    """Hash of the file that a tokenizer is read from; None for one that its name determines."""
    if given is None:
        return None
    path = Path(given)
    return data.hash_source(path / "tokenizer.json" if path.is_dir() else path)


def _form(part: JsonLines | ParquetFiles, request: SelectionRequest) -> str | None:
    """The form in which a part was read: one process would read all parts in that of the very first row."""
    if request.field or isinstance(part, ParquetFiles):
        return None
    return next((rows.detect_form(batch.records[0]) for batch in part.batches()), None)


# --- merge ---------------------------------------------------------------------------------------------------------


def is_fresh(record: Record | None, part: Path, name: str, measured: Record) -> bool:
    """Whether a record is of this part as it is now (by its size and time of change), `measured` as asked here."""
    wanted = {"part": name, **measured, **_stamp(part)}
    return record is not None and all(record.get(key) == value for key, value in wanted.items())


def read_record(path: Path) -> Record | None:
    """A part's record, or None where there is none that can be read."""
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return None


def merge(folder: Path, bests: Path, request: SelectionRequest, out: Path) -> Record:
    """Join what the maps wrote: the k longest rows of all parts, in `out`, and the manifest beside it.

    Raises InputError, and writes nothing, where a part's record is missing or stale or the parts disagree.
    """
    file = open_folder(folder, request.split)
    names = _names_of(file)
    files.check_output(file, folder, out)
    measured = how_measured(request)
    records = [_fresh_record(folder, bests, number, name, measured) for number, name in enumerate(names)]
    _refuse_other_forms(records)
    global_ids = [_ids(record) + first for record, first in _with_offset(records, [each["rows"] for each in records])]
    kept = _join(records, global_ids, request.k)
    check_k(request.k, kept.n, str(folder))
    paths = [_rows_path(bests, number, file) for number in range(len(names))]
    _check_rows(paths, records)
    chosen = [np.flatnonzero(np.isin(ids, kept.ids)) for ids in global_ids]
    if isinstance(file, ParquetFiles):
        _write_parquet(paths, chosen, out)
    else:
        _write_lines(paths, chosen, [len(record["ids"]) for record in records], out)
    hashes = {record["part"]: record["part_sha256"] for record in records}
    manifest = files.describe(folder.name, _hash_folder(folder, hashes), request, kept)
    disk.write_json(out.with_name(out.name + ".manifest.json"), manifest)
    return manifest


def _fresh_record(folder: Path, bests: Path, number: int, name: str, measured: Record) -> Record:
    record = read_record(bests / f"{number}.json")
    if record is None or not is_fresh(record, folder / name, name, measured):
        raise InputError(f"{bests / f'{number}.json'}: not the k longest of {name} as it is: run its map (again)")
    return record


def _refuse_other_forms(records: Sequence[Record]) -> None:
    found = {record["form"]: record["part"] for record in records if record["rows"]}
    if len(found) > 1:
        (one, here), (other, there), *_ = found.items()
        raise InputError(f"{here} has form {one}, {there} {other}: parts must agree to be compared")


def _with_offset(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Every item with the sum of the sizes of those before it."""
    return zip(items, [0, *itertools.accumulate(sizes)][: len(sizes)], strict=True)


def _join(records: Sequence[Record], global_ids: Sequence[Ids], k: int) -> Longest:
    kept = Longest(k)
    for record, ids in zip(records, global_ids, strict=True):
        lengths_of_rows = np.array(record["lengths"], dtype=float)
        kept.merge(Longest.restore(k, record["rows"], lengths_of_rows, ids, record["ties_left_out"]))
    return kept


def _ids(record: Record) -> Ids:
    return np.array(record["ids"], dtype=np.int64)


def _check_rows(paths: Iterable[Path], records: Iterable[Record]) -> None:
    for path, record in zip(paths, records, strict=True):
        if not path.is_file() or disk.sha256_file(path) != record["best_sha256"]:
            raise InputError(f"{path}: not the rows that its map wrote: run the map of {record['part']} again")


def _write_lines(paths: Sequence[Path], chosen: Sequence[Ids], sizes: Sequence[int], out: Path) -> None:
    kept_before = _with_offset(chosen, sizes)
    JsonLines(out, paths).write_selected([int(i) for some, first in kept_before for i in some + first], out)


def _write_parquet(paths: Sequence[Path], chosen: Sequence[Ids], out: Path) -> None:
    """Row group by row group, as one process cuts them: one for each of its batches that has a chosen row."""
    import pyarrow.parquet as pq

    with disk.atomic_path(out) as temporary, pq.ParquetWriter(temporary, pq.read_schema(paths[0])) as writer:
        for path, some in zip(paths, chosen, strict=True):
            with pq.ParquetFile(path) as file:
                groups = range(file.num_row_groups)
                sizes = [file.metadata.row_group(group).num_rows for group in groups]
                for group, first in _with_offset(groups, sizes):
                    here = some[(some >= first) & (some < first + sizes[group])] - first
                    if len(here):
                        writer.write_table(file.read_row_group(group).take(here))


def _hash_folder(folder: Path, known: dict[str, str]) -> str:
    """The hash that `select` gives a folder: of the names and hashes of all its files; the parts' are known already."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return disk.sha256_json({name: known.get(name) or disk.sha256_file(files[name]) for name in files})


# --- all of it, as jobs --------------------------------------------------------------------------------------------


def run(folder: Path, request: SelectionRequest, out: Path, options: cluster.Options) -> Record | None:
    """Map and merge as jobs of Snakemake; maps that are fresh, in the folder `<out>.parts`, are not run again.

    Returns the manifest (None for a dry run). Raises InputError for bad input and when a job fails.
    """
    cluster.make_folders_absolute()
    lengths.check_measure(request.measure)
    check_k(request.k, sys.maxsize, str(folder))
    file = open_folder(folder, request.split)
    files.check_output(file, folder, out)
    bests = out.resolve().with_name(f"{out.name}.parts")
    config = {"rows": str(folder.resolve()), "bests": str(bests), "out": str(out.resolve()), "split": request.split}
    with cluster.controller(bests, "lim-parts", options.dry_run) as job_name:
        _forget_stale(folder, bests, _names_of(file), how_measured(request))
        config["options"] = shlex.join(_request_arguments(request))
        cluster.start(ROOT / "partition.smk", bests, config, options, job_name, ("--forcerun", "merge"))
    manifest = out.with_name(out.name + ".manifest.json")
    return None if options.dry_run else read_record(manifest)


def _forget_stale(folder: Path, bests: Path, names: Sequence[str], measured: Record) -> None:
    for number, name in enumerate(names):
        record = bests / f"{number}.json"
        if not is_fresh(read_record(record), folder / name, name, measured):
            record.unlink(missing_ok=True)


def _request_arguments(request: SelectionRequest) -> list[str]:
    given = {name: value for name, value in request._asdict().items() if value is not None}
    return [text for name, value in given.items() for text in ("-k" if name == "k" else f"--{name}", str(value))]


# --- the command ---------------------------------------------------------------------------------------------------


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m nbutils.execution.partition", description="The k longest of a folder of parts."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {"run": "map and merge, as jobs", "map": "the k longest of one part", "merge": "join what the maps wrote"}
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", metavar="FOLDER", type=Path, help="a folder of Parquet or JSON-lines parts")
        if name != "run":
            wanted = "PART" if name == "map" else "BESTS"
            command.add_argument("what", metavar=wanted, help="a part's name in FOLDER, or the folder with all bests")
        files.add_options(command)
        command.add_argument("-o", "--out", required=True, type=Path, help="the output (of map: the folder BESTS)")
        if name == "run":
            cluster.add_options(command)
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.partition`."""
    own, extra = cluster.split_arguments(arguments)
    given = _parser().parse_args(own)
    request = files.request_of(given)
    if given.command == "map":
        record = select_part(given.folder, given.what, request, given.out)
        print(f"{given.what}: {len(record['ids']):,} of {record['rows']:,} rows kept")
        return
    if given.command == "merge":
        made: Record | None = merge(given.folder, Path(given.what), request, given.out)
    else:
        made = run(given.folder, request, given.out, cluster.options_of(given, extra))
    if made:
        print(f"{given.out}: {made['k']:,} of {made['rows']:,} rows, {made['measure']} >= {made['threshold']}")


if __name__ == "__main__":
    main()
