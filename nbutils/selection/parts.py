"""The k longest rows written, with the manifest of how they were made; of a dataset in parts, part by part and joined.

The k longest of what was kept of the parts are the k longest of all. A selection from such parts goes by their
manifests, and its own rows and manifest are, to the byte, those of one selection from everything.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import data, lengths
from nbutils.core import disk
from nbutils.core.errors import InputError, check_k
from nbutils.data.arrow_records import ParquetFiles
from nbutils.data.line_records import JsonLines
from nbutils.data.record_file import Faults
from nbutils.data.rows import Form
from nbutils.selection.files import (
    MANIFEST_SUFFIX,
    SKIPPED_SUFFIX,
    Inputs,
    SelectionRequest,
    check_output,
    detect_forms,
    name_form,
    open_inputs,
    read_longest,
    refuse_other_forms,
)
from nbutils.selection.measures import AUTO, choose_measure, say_misfit
from nbutils.selection.topk import Ids, Longest

Manifest = dict[str, Any]


class _Found(NamedTuple):
    """The k longest, where they stand in the inputs, and names, hashes and form of what the rows come from."""

    kept: Longest
    positions: Ids
    names: list[str]
    hashes: list[str | None]
    form: str | None
    response_field: str | None
    faults: Faults


def select_files(
    sources: Sequence[str],
    request: SelectionRequest,
    out: Path,
    processes: int = 1,
    is_part: bool = False,
    on_error: str = "stop",
) -> Manifest:
    """Write the k longest records of files that count as one dataset, and the manifest beside; return the manifest.

    is_part: it is one of several parts: all rows are kept where there are fewer than k, and the manifest holds what
    `select_files` on the parts' outputs goes by. on_error: `skip` leaves out rows that cannot be read and lists them in
    OUT.skipped.jsonl. Raises InputError, and writes nothing, for whatever is wrong.
    """
    inputs = open_checked(sources, request, out, is_part)
    if processes < 1:
        raise InputError(f"--processes {processes}: at least one must count")
    if is_part and on_error != "stop":
        raise InputError("--part with --on-error skip: the parts' rows would not add up: leave one out")
    if manifests := _manifests_of(inputs):
        found = _join(inputs, manifests, request, processes)
    else:
        forms = detect_forms(inputs, request, on_error)
        request = resolve_measure(inputs, request, forms, is_part)
        found = _read(inputs, request, forms, processes, on_error)
    skipped = len(found.faults.noted)
    if not is_part:
        if found.kept.n == 0:
            raise InputError(f"{inputs}: no rows: give a file that has some")
        check_k(request.k, found.kept.n - skipped, str(inputs))
    made = describe(found.names, found.hashes, request, found.kept)
    made |= {"response_field": found.response_field, "rows_skipped": skipped}
    try:
        if manifests and inputs.is_parquet:
            _write_groups(inputs.parts, found.positions, out)
        else:
            inputs.whole().write_selected([int(i) for i in found.positions], out)
        if is_part:
            made["part"] = {
                "form": found.form,
                "lengths": [plain_number(length) for length in found.kept.lengths],
                "out_sha256": disk.sha256_file(out),
                "tokenizer_sha256": _hash_tokenizer(request),
            }
        if on_error == "skip":
            disk.write_jsonl(skipped_path(out), found.faults.noted)
        disk.write_json(manifest_path(out), made)
    except OSError as error:
        mend = "choose another place, or make room"
        raise InputError(f"{out}: cannot be written ({error.strerror or error}): {mend}") from None
    return made


def _read(
    inputs: Inputs, request: SelectionRequest, forms: Sequence[Form | None], processes: int, on_error: str
) -> _Found:
    """Read the inputs' rows; what is to be known of how they were read is said as warnings."""
    form = next(filter(None, forms), None)
    reading = read_longest(inputs, request, processes, forms, on_error)
    kept = reading.kept
    for note in (form and form.note, say_misfit(request.measure, reading.scripts, kept.ties[0], kept.n)):
        if note:
            warnings.warn(f"{inputs}: {note}", stacklevel=2)
    return _Found(kept, kept.ids, *hash_inputs(inputs), name_form(forms), form and form.column, reading.faults)


def resolve_measure(
    inputs: Inputs, request: SelectionRequest, forms: Sequence[Form | None], is_part: bool = False
) -> SelectionRequest:
    """The request with the measure that `auto` stands for, by a look at all of the rows' text."""
    if request.measure != AUTO:
        return request
    if is_part:
        raise InputError("--measure auto looks at all rows, and a part has not all of them: name the measure")
    batches = (
        batch.texts
        for file, form in zip(inputs.files, forms, strict=True)
        for batch in (file.responses(form, Faults("skip")) if form else ())
    )
    return request._replace(measure=choose_measure(batches))


def open_checked(sources: Sequence[str], request: SelectionRequest, out: Path, in_parts: bool) -> Inputs:
    """Open the files of a request. Raises InputError for a request or an output that cannot be."""
    if request.measure != AUTO:
        lengths.check_measure(request.measure)
    inputs = open_inputs(sources, request.split, in_parts, request.config)
    if in_parts and not inputs.parts:
        raise InputError(f"{inputs}: a part must be JSON lines or Parquet: convert it")
    check_output(inputs, out)
    check_k(request.k, sys.maxsize, str(inputs))
    return inputs


def manifest_path(out: Path) -> Path:
    """Where the manifest of an output lies."""
    return out.with_name(out.name + MANIFEST_SUFFIX)


def skipped_path(out: Path) -> Path:
    """Where the rows that could not be read are listed."""
    return out.with_name(out.name + SKIPPED_SUFFIX)


def describe(names: Sequence[str], hashes: Sequence[str | None], request: SelectionRequest, kept: Longest) -> Manifest:
    """The manifest of a selection from the sources of these names and hashes."""
    ties, taken = kept.ties
    return {
        **name_sources(names, hashes),
        "rows": kept.n,
        **request._asdict(),
        **_counted_by(request),
        "threshold": plain_number(kept.lengths.min()) if len(kept.ids) else None,
        "ties_at_threshold": ties,
        "ties_taken": taken,
        "ids_sha256": ids_sha256(kept.ids),
        "ids": [int(i) for i in kept.ids],
    }


def name_sources(names: Sequence[str], hashes: Sequence[str | None]) -> dict[str, Any]:
    """Source and hash as manifests say them: lists, in order, where there are several."""
    is_one = len(names) == 1
    return {"source": names[0] if is_one else list(names), "source_sha256": hashes[0] if is_one else list(hashes)}


def hash_inputs(inputs: Inputs) -> tuple[list[str], list[str | None]]:
    """Names and hashes of files and folders; a dataset of the Hub has its full name and no hash."""
    names = [path.name if path.exists() else str(path) for path in inputs.paths]
    hashes = [data.hash_source(path) or data.hash_source(file.path) for path, file in zip(*inputs, strict=True)]
    return names, hashes


def _counted_by(request: SelectionRequest) -> dict[str, Any]:
    """What gives lengths here; for NLTK words punkt's tables are fetched first where they can be, as counting does."""
    if request.measure == "nltk_words":
        lengths.prepare_nltk()
    is_exact = request.measure != "nltk_words" or lengths.has_punkt()
    return {"library": lengths.library_version(request.measure), "exact": is_exact}


def _hash_tokenizer(request: SelectionRequest) -> str | None:
    """Hash of the file that a tokenizer is read from; None for one that its name determines."""
    if request.measure != "tokens" or request.tokenizer is None:
        return None
    path = Path(request.tokenizer)
    return data.hash_source(path / "tokenizer.json" if path.is_dir() else path)


def plain_number(value: float) -> int | float:
    """A whole number as an int."""
    return int(value) if float(value).is_integer() else float(value)


def ids_sha256(ids: Iterable[int]) -> str:
    """sha256 of the ids in ascending order, joined by commas."""
    return hashlib.sha256(",".join(str(int(i)) for i in sorted(ids)).encode()).hexdigest()


def _manifests_of(inputs: Inputs) -> list[Manifest]:
    """The manifests beside inputs that are selections: of parts (`--part`), or of several files; else none."""
    found = {part: _read_manifest(part) for part in inputs.parts}
    if not any(each and ("part" in each or len(inputs.files) > 1) for each in found.values()):
        return []
    if missing := next((part for part, each in found.items() if not each), None):
        mend = "select from it first, or move the others' manifests away to compare these rows alone"
        raise InputError(f"{missing}: no manifest of a selection beside it, as other inputs have: {mend}")
    return [each for each in found.values() if each]


def _read_manifest(out: Path) -> Manifest | None:
    try:
        found = json.loads(manifest_path(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    expected = {"source", "source_sha256", "rows", "ids", "ties_taken", *SelectionRequest._fields}
    return found if isinstance(found, dict) and expected <= set(found) else None


def _join(inputs: Inputs, manifests: Sequence[Manifest], request: SelectionRequest, processes: int) -> _Found:
    kept = Longest(request.k)
    forms: dict[str, Path] = {}
    all_ids: list[Ids] = []
    names: list[str] = []
    hashes: list[str | None] = []
    for path, made in zip(inputs.parts, manifests, strict=True):
        opened = Inputs([path], [ParquetFiles(path, [path]) if inputs.is_parquet else JsonLines(path, [path])])
        counts, form = _read_part(opened, made, request, processes)
        if form:
            forms.setdefault(form, path)
        all_ids.append(np.array(made["ids"], dtype=np.int64) + kept.n)
        left_out = made["ties_at_threshold"] - made["ties_taken"]
        kept.merge(Longest.restore(request.k, made["rows"], counts, all_ids[-1], left_out))
        is_one = isinstance(made["source"], str)
        names += [made["source"]] if is_one else made["source"]
        hashes += [made["source_sha256"]] if is_one else made["source_sha256"]
    refuse_other_forms(forms)
    positions = np.flatnonzero(np.isin(np.concatenate(all_ids), kept.ids))
    field = next((made["response_field"] for made in manifests if made.get("response_field")), None)
    return _Found(kept, positions, names, hashes, next(iter(forms), None), field, Faults())


def _difference(made: Manifest, request: SelectionRequest) -> str | None:
    """What of a request, besides k, a manifest says otherwise; None where lengths were counted as is asked here."""
    asked = {**request._asdict(), **_counted_by(request), "k": made["k"]}
    if "part" in made:
        made, asked = {**made, **made["part"]}, {**asked, "tokenizer_sha256": _hash_tokenizer(request)}
    return next((name.removesuffix("_sha256") for name, value in asked.items() if made.get(name) != value), None)


def _read_part(part: Inputs, made: Manifest, request: SelectionRequest, processes: int) -> tuple[Any, str | None]:
    """Lengths and form of a part's rows; counted again where it was not selected as a part.

    Raises InputError for a part that was selected by another request, or whose rows are others by now.
    """
    sources = made["source"] if isinstance(made["source"], list) else [made["source"]]
    again = f"run select on {', '.join(sources)} again"
    if other := _difference(made, request):
        raise InputError(f"{part}: its manifest has another {other} than is asked for: {again}, or move it away")
    if "part" in made and disk.sha256_file(part.paths[0]) != made["part"]["out_sha256"]:
        raise InputError(f"{part}: not the rows that its manifest was written with: {again}")
    if made["k"] < request.k and len(made["ids"]) < made["rows"]:
        few = f"only the {made['k']:,} longest of its {made['rows']:,} rows"
        raise InputError(f"{part}: {few}: {again}, with -k {request.k}")
    if "part" in made:
        return np.array(made["part"]["lengths"], dtype=float), made["part"]["form"]
    forms = detect_forms(part, request)
    kept = read_longest(part, request._replace(k=max(1, len(made["ids"]))), processes, forms).kept
    if (kept.n, kept.threshold, kept.ties[1]) != (len(made["ids"]), made["threshold"], made["ties_taken"]):
        raise InputError(f"{part}: not the rows that its manifest was written with: {again}")
    return kept.lengths, name_form(forms)


def _write_groups(paths: Sequence[Path], positions: Ids, out: Path) -> None:
    """Row group by row group, as one process cuts them: one for each of its batches that has a chosen row."""
    import pyarrow.parquet as pq

    first = 0
    with disk.atomic_path(out) as temporary, pq.ParquetWriter(temporary, pq.read_schema(paths[0])) as writer:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    end = first + file.metadata.row_group(group).num_rows
                    here = positions[(positions >= first) & (positions < end)] - first
                    if len(here):
                        writer.write_table(file.read_row_group(group).take(here))
                    first = end


def is_fresh(source: Path, out: Path, request: SelectionRequest) -> bool:
    """Whether an output is what selecting from this part, as it is now, would give."""
    made = _read_manifest(out)
    if made is None or "part" not in made or made["k"] != request.k or _difference(made, request) or not out.is_file():
        return False
    wanted = {"source": source.name, "source_sha256": data.hash_source(source)}
    return made["part"]["out_sha256"] == disk.sha256_file(out) and wanted.items() <= made.items()
