"""The k longest rows of anybody's dataset: what is asked, how it is read, and the manifest of how it was made."""

import argparse
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import data, lengths
from nbutils.core import disk, settings
from nbutils.core.errors import InputError, check_k
from nbutils.core.progress import track
from nbutils.data import rows
from nbutils.data.records import HubDataset, ParquetFiles, RecordFile, open_records, refuse_other_form
from nbutils.selection.topk import Longest, Numbers, add_texts, per_row

TURNS = ("sum", "mean", "first", "last")
FILE_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".gz")


class SelectionRequest(NamedTuple):
    """What `python -m nbutils.select` was asked: the options that determine its output."""

    k: int
    measure: str
    turns: str = "sum"
    field: str | None = None
    tokenizer: str | None = None
    split: str = "train"


def select_file(source: str, request: SelectionRequest, out: Path) -> dict[str, Any]:
    """Write the k longest records of a file to `out` and the manifest beside it; return the manifest.

    Raises InputError, and writes nothing, for whatever is wrong with the file or the request.
    """
    lengths.check_measure(request.measure)
    file = open_source(source, request.split)
    check_output(file, Path(source), out)
    kept = longest_of_file(file, request)
    path = Path(source)
    manifest = describe(path.name if path.exists() else source, data.hash_source(path), request, kept)
    try:
        file.write_selected([int(i) for i in kept.ids], out)
        disk.write_json(out.with_name(out.name + ".manifest.json"), manifest)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    return manifest


def check_output(file: RecordFile, source: Path, out: Path) -> None:
    """Raise InputError for an output in the input's place, within its folder, or of another form."""
    resolved = out.resolve()
    if resolved == source.resolve():
        raise InputError(f"{out}: the output would replace the input: give another name")
    if source.is_dir() and source.resolve() in resolved.parents:
        raise InputError(f"{out}: the output would become a part of the input folder: give another place")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: give the name of a file")
    refuse_other_form(out, file.suffixes, source)


def longest_of_file(file: RecordFile, request: SelectionRequest) -> Longest:
    """Stream a file's responses through a top-k. Memory: one batch and k rows (a JSON array is held whole)."""
    check_k(request.k, sys.maxsize, str(file.path))
    kept = read_longest(file, request)
    if kept.n == 0:
        raise InputError(f"{file.path}: no rows")
    check_k(request.k, kept.n, str(file.path))
    return kept


def read_longest(file: RecordFile, request: SelectionRequest) -> Longest:
    """The k longest rows of a file, or all where it has fewer."""
    kept = Longest(request.k)
    tokenizer = _load_tokenizer(request.tokenizer) if request.measure == "tokens" else None
    for first, turns in track(_read_responses(file, request), "rows read, in batches"):
        _add_batch(kept, first, turns, request, tokenizer)
    return kept


def open_source(source: str, split: str) -> RecordFile:
    """A file, a folder of parts, or a dataset of the Hub."""
    path = Path(source)
    is_file_name = path.suffix in FILE_SUFFIXES or source.startswith((".", "/", "~"))
    looks_like_hub = source.count("/") == 1 and not is_file_name and not path.parent.exists()
    return HubDataset(source, split) if looks_like_hub else open_records(path, split)


def _load_tokenizer(given: str | None) -> Any:
    from tokenizers import Tokenizer

    if given is None:
        return data.llama2_tokenizer()
    path = Path(given) / "tokenizer.json" if Path(given).is_dir() else Path(given)
    if not path.is_file() and (path.suffix == ".json" or settings.is_offline()):
        raise InputError(f"{given}: no such file: give a tokenizer.json, or a Hub name when there is a network")
    try:
        return Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(given)
    except Exception as error:
        raise InputError(f"{given}: no tokenizer there ({error}): give a tokenizer.json or a Hub name") from None


def _read_responses(
    file: RecordFile, request: SelectionRequest
) -> Iterator[tuple[int, list[str] | list[list[str]] | Numbers]]:
    """Batches of responses: texts (one turn each), lists of turns, or lengths that Arrow has counted."""
    if isinstance(file, ParquetFiles) and (column := _text_column(file, request)):
        return _column_batches(file, column, request.measure)
    return _record_batches(file, request)


def _text_column(file: ParquetFiles, request: SelectionRequest) -> str | None:
    if request.field and request.field not in file.columns:
        raise InputError(f"{file.path}: no column '{request.field}': it has {', '.join(file.columns)}")
    if not request.field and {"conversations", "messages"} & set(file.columns):
        return None
    return request.field or rows.response_field(dict.fromkeys(file.columns))


def _column_batches(file: ParquetFiles, column: str, measure: str) -> Iterator[tuple[int, list[str] | Numbers]]:
    import pyarrow.compute as pc

    if column not in file.columns:
        rows.detect_form(dict.fromkeys(file.columns))
    if not file.is_text(column):
        raise InputError(f"{file.path}: the response field '{column}' is not text but {file.type_of(column)}")
    counted = {"chars": "utf8_length", "bytes": "binary_length"}.get(measure)
    first = 0
    for values in file.column(column):
        if values.null_count:
            row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{file.path}: row {row}: the response field '{column}' is empty (null)")
        yield first, pc.call_function(counted, [values]).to_numpy() if counted else values.to_pylist()
        first += len(values)


def _record_batches(file: RecordFile, request: SelectionRequest) -> Iterator[tuple[int, list[str] | list[list[str]]]]:
    form = "alpaca" if request.field else None
    for first, records in file.batches():
        turns = []
        for number, record in enumerate(records, start=first):
            try:
                form = form or rows.detect_form(record)
                turns.append(rows.responses_of(record, form, request.field))
            except InputError as error:
                raise InputError(f"{file.path}: row {number}: {error}") from None
        is_single = max(map(len, turns), default=0) == 1
        yield first, [texts[0] for texts in turns] if is_single else turns


def _add_batch(kept: Longest, first: int, batch: Any, request: SelectionRequest, tokenizer: Any) -> None:
    if isinstance(batch, np.ndarray):
        return kept.add(batch, np.arange(first, first + len(batch)))
    try:
        if isinstance(batch[0], str):
            return add_texts(kept, batch, first, request.measure, tokenizer)
        lengths_of_rows = length_of_turns(batch, request.measure, request.turns, tokenizer)
    except InputError as error:
        raise InputError(f"in the batch from row {first}: {error}") from None
    kept.add(lengths_of_rows, np.arange(first, first + len(batch)))


def length_of_turns(turns: list[list[str]], measure: str, rule: str, tokenizer: Any = None) -> Numbers:
    """One length per row of several assistant turns: their sum (what is trained on), mean, the first or the last."""
    return per_row(turns, rule, functools.partial(lengths.count, measure=measure, tokenizer=tokenizer))


def describe(name: str, sha256: str | None, request: SelectionRequest, kept: Longest) -> dict[str, Any]:
    """The manifest of a selection from the source of this name and hash."""
    ties, taken = kept.ties
    return {
        "source": name,
        "source_sha256": sha256,
        "rows": kept.n,
        **request._asdict(),
        "library": lengths.library_version(request.measure),
        "exact": request.measure != "nltk_words" or lengths.has_punkt(),
        "threshold": plain_number(kept.threshold),
        "ties_at_threshold": ties,
        "ties_taken": taken,
        "ids_sha256": ids_sha256(kept.ids),
        "ids": [int(i) for i in kept.ids],
    }


def plain_number(value: float) -> int | float:
    """A whole number as an int."""
    return int(value) if float(value).is_integer() else value


def ids_sha256(ids: Iterable[int]) -> str:
    """sha256 of the ids in ascending order, joined by commas."""
    return hashlib.sha256(",".join(str(int(i)) for i in sorted(ids)).encode()).hexdigest()


# --- the command line ----------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options that make a Request (see `request_of`)."""
    parser.add_argument("-k", type=int, default=1000, help="how many records to keep (default 1000)")
    parser.add_argument("--measure", default="nltk_words", help=f"{', '.join(lengths.MEASURES)} (default nltk_words)")
    parser.add_argument(
        "--turns", choices=TURNS, default="sum", help="length of a row with several assistant turns (default sum)"
    )
    parser.add_argument("--field", help="name of the response field, when it is an unusual one")
    parser.add_argument("--tokenizer", help="tokenizer.json or Hub name for --measure tokens (default Llama-2's)")
    parser.add_argument("--split", default="train", help="split of a Hub dataset or folder (default train)")


def request_of(given: argparse.Namespace) -> SelectionRequest:
    """The request of a command line with the options of `add_options`."""
    return SelectionRequest(given.k, given.measure, given.turns, given.field, given.tokenizer, given.split)
