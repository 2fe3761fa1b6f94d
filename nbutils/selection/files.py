"""The k longest rows of anybody's dataset: what is asked, how its files are read, and how their rows are counted."""

import argparse
import contextlib
import glob
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nbutils import lengths
from nbutils.core.errors import InputError
from nbutils.core.machine import track
from nbutils.data.arrow_records import ArrowTable, HubDataset, ParquetFiles
from nbutils.data.json_records import JsonDocument
from nbutils.data.line_records import LINE_SUFFIXES, JsonLines
from nbutils.data.packed import PACKED_SUFFIXES, form_suffix, suffix_of
from nbutils.data.record_file import Faults, RecordFile, Responses
from nbutils.data.records import KNOWN_SUFFIXES, detect_rows, open_records
from nbutils.data.rows import Form
from nbutils.data.tokens import has_surrogate
from nbutils.selection.counting import counting, load_tokenizer
from nbutils.selection.measures import Scripts, count_array
from nbutils.selection.topk import Candidates, Count, Longest, per_row

TURNS = ("sum", "mean", "first", "last")
MANIFEST_SUFFIX, SKIPPED_SUFFIX = ".manifest.json", ".skipped.jsonl"
"""What stands behind an output's name in those of the files beside it."""


class SelectionRequest(NamedTuple):
    """What `python -m nbutils.select` was asked: the options that determine its output."""

    k: int
    measure: str
    turns: str = "sum"
    field: str | None = None
    tokenizer: str | None = None
    split: str = "train"
    config: str | None = None


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
        first, parts = self.files[0], [part for file in self.files for part in file.parts]
        if len(self.files) == 1:
            return first
        more = (first.shape,) if isinstance(first, JsonDocument) else ()
        return type(first)(first.path, parts, *more)


def open_inputs(
    sources: Sequence[str], split: str | None, may_be_empty: bool = False, config: str | None = None
) -> Inputs:
    """Open a file, a folder of parts or a Hub dataset; or several files and folders of one kind, globs expanded.

    A glob stands for its paths in the order of their names, manifests left out; - is standard input. may_be_empty: a
    single file may be one without rows, as any of several may.
    """
    found: list[str] = []
    for source in sources:
        if not glob.has_magic(source) or Path(source).exists():
            found.append(source)
            continue
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (Path.glob wants a relative pattern)
        if not (meant := [path for path in matches if not path.endswith(MANIFEST_SUFFIX)]):
            raise InputError(f"{source}: no such file: nothing has a name of this pattern, check it")
        found += meant
    if len(found) == 1:
        return Inputs([Path(found[0])], [open_source(found[0], split, may_be_empty, config)])
    paths = [Path(path) for path in found]
    places = [path.resolve() for path in paths]
    if again := next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None):
        raise InputError(f"{again}: given twice, its rows would count twice: leave one out")
    files = [
        open_source(str(path), split, True)
        if str(path) == "-"
        else open_records(path, split if path.is_dir() else None, True, config)
        for path in paths
    ]
    for path, file in zip(paths, files, strict=True):
        if type(file) is not type(files[0]) or getattr(file, "shape", "") != getattr(files[0], "shape", ""):
            mend = "convert it, or leave it out"
            raise InputError(f"{path}: several inputs must be of one kind (all JSON lines, all Parquet, ...): {mend}")
    inputs = Inputs(paths, files)
    inputs.whole()  # raises where their columns differ
    return inputs


def check_output(inputs: Inputs, out: Path) -> None:
    """Raise InputError for an output in an input's place, within its folder, or of another form."""
    resolved = out.resolve()
    written = [resolved.with_name(resolved.name + suffix) for suffix in ("", MANIFEST_SUFFIX, SKIPPED_SUFFIX)]
    for source in inputs.paths:
        if source.resolve() in written:
            raise InputError(f"{out}: the output would replace the input {source}: give another name")
        if source.is_dir() and source.resolve() in resolved.parents:
            raise InputError(f"{out}: the output would become a part of the input folder: give another place")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: give the name of a file")
    suffix, kept = form_suffix(out), inputs.files[0].suffixes
    promises_other = suffix in KNOWN_SUFFIXES and suffix not in kept
    is_columns = isinstance(inputs.files[0], ArrowTable)
    if promises_other or (is_columns and out.suffix in PACKED_SUFFIXES and suffix not in LINE_SUFFIXES):
        meant = f"the output keeps the form of {inputs.paths[0]}"
        raise InputError(f"{out}: {meant}: let its name end in {' or '.join(filter(None, kept))}")


class Reading(NamedTuple):
    """What reading the inputs gave: the k longest rows, what could not be read, and the scripts of the text."""

    kept: Longest
    faults: Faults
    scripts: Scripts


def read_longest(
    inputs: Inputs,
    request: SelectionRequest,
    processes: int = 1,
    forms: Sequence[Form | None] = (),
    on_error: str = "stop",
) -> Reading:
    """The k longest rows, or all where there are fewer. Memory: one batch and k rows.

    forms: of the inputs, where they are known. on_error: `stop` at the first row that cannot be read, or `skip` them.
    """
    forms = forms or detect_forms(inputs, request, on_error)
    kept, faults, scripts = Longest(request.k), Faults(on_error), Scripts()
    tokenizer = load_tokenizer(request.tokenizer) if request.measure == "tokens" else None
    before = 0
    with counting(request.measure, request.tokenizer, tokenizer, processes) as count:
        candidates = Candidates(kept, request.measure, tokenizer, count, request.turns, processes)
        for file, form in zip(inputs.files, forms, strict=True):
            read = before
            for batch in track(file.responses(form, faults) if form else (), "rows read, in batches"):
                scripts.add(batch.texts)
                if request.measure == "tokens":
                    batch = _leave_out_surrogates(file, batch, faults)
                _add_batch(candidates, batch, before + batch.first, request, count)
                read = before + batch.first + len(batch.texts)
            before = kept.n = read
        candidates.settle()
    return Reading(kept, faults, scripts)


def _add_batch(candidates: Candidates, batch: Responses, first: int, request: SelectionRequest, count: Count) -> None:
    """Feed a batch whose first row has the number `first`: uncounted, unless counting is quick or some rows are bad."""
    texts = batch.texts
    counted = None if isinstance(texts, list) else count_array(texts, request.measure)
    if counted is None and batch.bad:
        turns = texts if isinstance(texts, list) else [[text] for text in texts.to_pylist()]
        counted = per_row(turns, request.turns, count)
    if counted is not None:
        good = np.setdiff1d(np.arange(len(texts)), batch.bad) if batch.bad else np.arange(len(texts))
        candidates.kept.add(counted[good], first + good)
    elif isinstance(texts, list):
        candidates.add_turns(texts, first)
    else:
        candidates.add_texts(texts, first)


def _leave_out_surrogates(file: RecordFile, batch: Responses, faults: Faults) -> Responses:
    """The batch without rows whose text is not valid Unicode, which no tokenizer takes."""
    if not isinstance(batch.texts, list):
        return batch
    bad = [i for i, turns in enumerate(batch.texts) if any(map(has_surrogate, turns))]
    for position in bad:
        mend = "repair it, or take the row out"
        faults.add(file, batch.first + position, f"holds a lone surrogate, which is not valid Unicode: {mend}")
    texts = [[""] if i in bad else turns for i, turns in enumerate(batch.texts)] if bad else batch.texts
    return batch._replace(texts=texts, bad=sorted({*batch.bad, *bad}))


def detect_forms(inputs: Inputs, request: SelectionRequest, on_error: str = "stop") -> list[Form | None]:
    """How the rows of every input are read; None for one without rows. Raises InputError where they differ in it."""
    forms = [detect_rows(file, request.field, on_error) for file in inputs.files]
    found: dict[str, Path] = {}
    for form, path in zip(forms, inputs.paths, strict=True):
        if form:
            found.setdefault(f"{form.kind} in '{form.column}'", path)
    refuse_other_forms(found)
    return forms


def name_form(forms: Sequence[Form | None]) -> str | None:
    """Kind and field of the responses, as manifests of parts compare them."""
    form = next(filter(None, forms), None)
    return f"{form.kind} in '{form.column}'" if form else None


def refuse_other_forms(found: Mapping[str, Path]) -> None:
    """Raise InputError where there is more than one form; each with an input that has it."""
    if len(found) > 1:
        (one, here), (other, there), *_ = found.items()
        raise InputError(f"{here} has its responses as {one}, {there} as {other}: inputs must agree to be compared")


def open_source(source: str, split: str | None, may_be_empty: bool = False, config: str | None = None) -> RecordFile:
    """A file, a folder of parts, standard input (-), or a dataset of the Hub."""
    if source == "-":
        return _open_input(may_be_empty)
    path = Path(source)
    suffixes = (*KNOWN_SUFFIXES, *PACKED_SUFFIXES)
    is_file_name = path.suffix in suffixes or source.startswith((".", "/", "~"))
    looks_like_hub = source.count("/") == 1 and not is_file_name and not path.parent.exists()
    if looks_like_hub:
        return HubDataset(source, split or "train", config)
    return open_records(path, split, may_be_empty, config)


SPOOLED = "standard-input"


@contextlib.contextmanager
def naming_input() -> Iterator[None]:
    """Call standard input by its name, and not by that of the file in which it is kept."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(rf"\S*/{SPOOLED}[.\w]*", "standard input", str(error))) from None


def _open_input(may_be_empty: bool) -> RecordFile:
    """Standard input as a file of the ending that its beginning tells, as it is read twice; it goes with its reader."""
    folder = tempfile.TemporaryDirectory(prefix="nbutils-")
    path = Path(folder.name) / SPOOLED
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    try:
        opened = open_records(path.rename(path.with_name(SPOOLED + suffix_of(path))), None, may_be_empty)
    except InputError:
        folder.cleanup()
        raise
    weakref.finalize(opened, folder.cleanup)
    return opened


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options that make a Request (see `request_of`)."""
    parser.add_argument("-k", type=int, default=1000, help="how many records to keep (default 1000)")
    parser.add_argument(
        "--measure", default="nltk_words", help=f"{', '.join(lengths.MEASURES)}, or auto (default nltk_words)"
    )
    parser.add_argument(
        "--turns", choices=TURNS, default="sum", help="length of a row with several assistant turns (default sum)"
    )
    parser.add_argument("--field", help="name of the response field, when it is an unusual one")
    parser.add_argument("--tokenizer", help="tokenizer.json or Hub name for --measure tokens (default Llama-2's)")
    parser.add_argument("--split", default="train", help="split of a Hub dataset or folder (default train)")
    parser.add_argument("--config", help="configuration of a Hub dataset or folder that has several")


def request_of(given: argparse.Namespace) -> SelectionRequest:
    """The request of a command line with the options of `add_options`."""
    asked = given.k, given.measure, given.turns, given.field, given.tokenizer, given.split, given.config
    return SelectionRequest(*asked)


def options_for(request: SelectionRequest) -> list[str]:
    """The command-line options that `request_of` reads as this request."""
    given = {"-k" if name == "k" else f"--{name}": value for name, value in request._asdict().items()}
    return [text for option, value in given.items() if value is not None for text in (option, str(value))]
