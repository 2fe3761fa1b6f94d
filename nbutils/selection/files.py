"""The k longest rows of anybody's dataset: what is asked, how its files are read, and how their rows are counted."""

import argparse
import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import lengths
from nbutils.core.errors import InputError
from nbutils.core.machine import track
from nbutils.data import rows
from nbutils.data.json_records import LINE_SUFFIXES, JsonLines, form_suffix
from nbutils.data.records import KNOWN_SUFFIXES, HubDataset, ParquetFiles, RecordFile, open_records
from nbutils.selection.counting import counting, load_tokenizer
from nbutils.selection.topk import Candidates, Longest, Numbers

TURNS = ("sum", "mean", "first", "last")
MANIFEST_SUFFIX = ".manifest.json"


class SelectionRequest(NamedTuple):
    """What `python -m nbutils.select` was asked: the options that determine its output."""

    k: int
    measure: str
    turns: str = "sum"
    field: str | None = None
    tokenizer: str | None = None
    split: str = "train"


class Inputs(NamedTuple):
    """Files that count as one dataset, in this order: their paths as given, and each of them opened."""

    paths: list[Path]
    files: list[RecordFile]

    def __str__(self) -> str:
        more = len(self.paths) - 1
        return f"{self.paths[0]} and {more} more" if more else str(self.paths[0])

    @property
    def parts(self) -> list[Path]:
        """The files that hold the rows, those of folders among them; none where rows are no lines and no Parquet."""
        return [part for file in self.files if isinstance(file, JsonLines | ParquetFiles) for part in file.parts]

    @property
    def is_parquet(self) -> bool:
        """Whether they are Parquet."""
        return isinstance(self.files[0], ParquetFiles)

    def whole(self) -> RecordFile:
        """All of them as one file."""
        first = self.files[0]
        if len(self.files) > 1 and isinstance(first, JsonLines | ParquetFiles):
            return type(first)(first.path, self.parts)
        return first


def open_inputs(sources: Sequence[str], split: str, may_be_empty: bool = False) -> Inputs:
    """Open a file, a folder of parts or a Hub dataset; or several files and folders of one kind, globs expanded.

    A glob stands for its paths in the order of their names, manifests left out. may_be_empty: a single file may be one
    without rows, as any of several may.
    """
    found: list[str] = []
    for source in sources:
        if not glob.has_magic(source) or Path(source).exists():
            found.append(source)
            continue
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (Path.glob wants a relative pattern)
        if not (meant := [path for path in matches if not path.endswith(MANIFEST_SUFFIX)]):
            raise InputError(f"{source}: no such file")
        found += meant
    if len(found) == 1:
        return Inputs([Path(found[0])], [open_source(found[0], split, may_be_empty)])
    paths = [Path(path) for path in found]
    if again := next((path for path in paths if found.count(str(path)) > 1), None):
        raise InputError(f"{again}: given twice: its rows would count twice")
    files = [open_records(path, split, may_be_empty=True) for path in paths]
    for path, file in zip(paths, files, strict=True):
        if not isinstance(file, JsonLines | ParquetFiles) or type(file) is not type(files[0]):
            mend = "convert it, or leave it out"
            raise InputError(f"{path}: several inputs must all be JSON lines, or all Parquet: {mend}")
    return Inputs(paths, files)


def check_output(inputs: Inputs, out: Path) -> None:
    """Raise InputError for an output in an input's place, within its folder, or of another form."""
    resolved = out.resolve()
    for source in inputs.paths:
        if resolved == source.resolve():
            raise InputError(f"{out}: the output would replace the input: give another name")
        if source.is_dir() and source.resolve() in resolved.parents:
            raise InputError(f"{out}: the output would become a part of the input folder: give another place")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: give the name of a file")
    suffix, kept = form_suffix(out), inputs.files[0].suffixes
    promises_other = suffix in KNOWN_SUFFIXES and suffix not in kept
    if promises_other or (".parquet" in kept and out.suffix == ".gz" and suffix not in LINE_SUFFIXES):
        meant = f"the output keeps the form of {inputs.paths[0]}"
        raise InputError(f"{out}: {meant}: let its name end in {' or '.join(kept)}")


def read_longest(inputs: Inputs, request: SelectionRequest, processes: int = 1) -> Longest:
    """The k longest rows, or all where there are fewer. Memory: one batch and k rows (a JSON array is held whole)."""
    kept = Longest(request.k)
    tokenizer = load_tokenizer(request.tokenizer) if request.measure == "tokens" else None
    before = 0
    with counting(request.measure, request.tokenizer, tokenizer, processes) as count:
        candidates = Candidates(kept, request.measure, tokenizer, count, request.turns, processes)
        for file in inputs.files:
            for within, batch in track(_read_responses(file, request), "rows read, in batches"):
                first = before + within
                try:
                    if isinstance(batch, np.ndarray):
                        kept.add(batch, np.arange(first, first + len(batch)))
                    elif len(batch) and isinstance(batch[0], str):
                        candidates.add_texts(batch, first)
                    else:
                        candidates.add_turns(batch, first)
                except InputError as error:
                    raise InputError(f"in the batch from row {first}: {error}") from None
            before = kept.n
        candidates.settle()
    return kept


def form_of(inputs: Inputs, request: SelectionRequest) -> str | None:
    """The form of JSON-lines rows, by the first row of every input; None where a field or a column is read.

    Raises InputError where the inputs differ in it.
    """
    found: dict[str, Path] = {}
    for file in inputs.files:
        if isinstance(file, JsonLines) and not request.field and (record := file.first_record()):
            try:
                found.setdefault(rows.detect_form(record), file.path)
            except InputError as error:
                raise InputError(f"{file.path}: row 0: {error}") from None
    refuse_other_forms(found)
    return next(iter(found), None)


def refuse_other_forms(found: Mapping[str, Path]) -> None:
    """Raise InputError where there is more than one form; each with an input that has it."""
    if len(found) > 1:
        (one, here), (other, there), *_ = found.items()
        raise InputError(f"{here} has form {one}, {there} {other}: inputs must agree to be compared")


def open_source(source: str, split: str, may_be_empty: bool = False) -> RecordFile:
    """A file, a folder of parts, or a dataset of the Hub."""
    path = Path(source)
    suffixes = (".json", ".jsonl", ".ndjson", ".parquet", ".gz")
    is_file_name = path.suffix in suffixes or source.startswith((".", "/", "~"))
    looks_like_hub = source.count("/") == 1 and not is_file_name and not path.parent.exists()
    return HubDataset(source, split) if looks_like_hub else open_records(path, split, may_be_empty)


def _read_responses(file: RecordFile, request: SelectionRequest) -> Iterator[tuple[int, Any]]:
    """Batches of responses: texts (one turn each), lists of turns, or lengths that Arrow has counted."""
    if isinstance(file, ParquetFiles):
        if request.field and request.field not in file.columns:
            raise InputError(f"{file.path}: no column '{request.field}': it has {', '.join(file.columns)}")
        if request.field or not {"conversations", "messages"} & set(file.columns):
            column = request.field or rows.response_field(dict.fromkeys(file.columns))
            return _column_batches(file, column, request.measure)
    return _record_batches(file, request)


def _column_batches(file: ParquetFiles, column: str, measure: str) -> Iterator[tuple[int, list[str] | Numbers]]:
    import pyarrow.compute as pc

    if column not in file.columns:
        rows.detect_form(dict.fromkeys(file.columns))
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


def options_for(request: SelectionRequest) -> list[str]:
    """The command-line options that `request_of` reads as this request."""
    given = {"-k" if name == "k" else f"--{name}": value for name, value in request._asdict().items()}
    return [text for option, value in given.items() if value is not None for text in (option, str(value))]
