"""Files of records: JSON, JSON lines, Parquet (one file or a folder of them), each of them gzipped or not.

Reading streams in batches (a JSON array is the exception, its text has to be held whole); writing back a selection
keeps the file's own form, order and every field.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils.core import settings
from nbutils.core.disk import atomic_path
from nbutils.core.errors import InputError
from nbutils.data.json_records import (
    BATCH_BYTES,
    BATCH_ROWS,
    LINE_SUFFIXES,
    JsonArray,
    JsonLines,
    atomic_binary,
    beginning,
    form_suffix,
)

KNOWN_SUFFIXES = (".json", *LINE_SUFFIXES, ".parquet", ".csv", ".tsv", ".arrow", ".feather", ".xlsx")


class ParquetFiles:
    """Parquet, one file or a partitioned dataset larger than memory; parts count in the order of their names."""

    suffixes = (".parquet",)

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        import pyarrow.parquet as pq

        self.path, self.parts = path, parts
        self._schema: Any = None
        for part in parts:
            with _readable(part):
                schema = pq.read_schema(part)
            self._schema = self._schema or schema
            if not schema.equals(self._schema):
                raise InputError(f"{part}: its columns differ from those of {parts[0].name}: give one at a time")
        self.columns: list[str] = self._schema.names

    def batches(self) -> Iterator[tuple[int, list[Any]]]:
        """Stream the records in order."""
        first = 0
        for batch in self._arrow_batches():
            yield first, batch.to_pylist()
            first += batch.num_rows

    def column(self, name: str) -> Iterator[Any]:
        """Stream a text column, dictionary-encoded or not, as Arrow arrays in the order of the rows.

        Raises InputError where the responses that it should hold are no text.
        """
        import pyarrow as pa

        kind = self._schema.field(name).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if str(plain) not in ("string", "large_string", "string_view"):
            raise InputError(f"{self.path}: the response field '{name}' is not text but {kind}")
        for batch in self._arrow_batches([name]):
            texts = batch.column(0)
            with _readable(self.path):
                texts.validate(full=True)
            yield texts if pa.types.is_string(texts.type) else texts.cast(pa.large_string())

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted, first = np.sort(np.asarray(ids)), 0
        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, self._schema) as writer:
            for batch in self._arrow_batches():
                here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
                if len(here):
                    writer.write_table(pa.Table.from_batches([batch]).take(here))
                first += batch.num_rows

    def _arrow_batches(self, columns: list[str] | None = None) -> Iterator[Any]:
        import pyarrow.parquet as pq

        for part in self.parts:
            with _readable(part), pq.ParquetFile(part) as file:
                # Fewer rows where they are long, so that a batch stays small.
                groups = map(file.metadata.row_group, range(file.num_row_groups))
                size = sum(group.total_byte_size for group in groups)
                rows = max(1, min(BATCH_ROWS, BATCH_BYTES * file.metadata.num_rows // max(size, 1)))
                yield from file.iter_batches(rows, columns=columns, use_threads=False)


@contextlib.contextmanager
def _readable(part: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = _first_line(error)
        raise InputError(f"{part}: not readable as Parquet ({why}): fetch or copy it again") from None


class HubDataset:
    """A dataset of the Hugging Face Hub (or a local folder in the same layout), read by the datasets library."""

    suffixes = (".parquet", ".jsonl")

    def __init__(self, name: str, split: str = "train") -> None:
        import datasets

        if settings.is_offline() and not Path(name).exists():
            raise InputError(f"{name}: no such file, and LIM_OFFLINE forbids asking the Hub")
        self.path = Path(name)
        try:
            self._data: Any = datasets.load_dataset(name, split=split)
        except Exception as error:
            why = _first_line(error)
            raise InputError(f"{name}: neither a file nor a dataset that the Hub gives ({why})") from None

    def batches(self) -> Iterator[tuple[int, list[Any]]]:
        """Stream the records in order."""
        for first in range(0, len(self._data), BATCH_ROWS):
            rows = range(first, min(first + BATCH_ROWS, len(self._data)))
            yield first, self._data.select(rows).to_list()

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records."""
        chosen = self._data.select(sorted(ids))
        if out.suffix == ".parquet":
            with atomic_path(out) as temporary:
                chosen.to_parquet(temporary)
            return
        with atomic_binary(out) as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n" for row in chosen)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


RecordFile = JsonLines | JsonArray | ParquetFiles | HubDataset
"""What every kind of file offers: `path`, `suffixes`, `batches` and `write_selected`, as of JSON lines."""


def open_records(path: Path, split: str = "train", may_be_empty: bool = False) -> RecordFile:
    """Open a file (or a folder of Parquet or JSON-lines parts) by what it holds.

    Where the names of a folder's parts tell its splits (train-00000-of-00002.parquet), only those of `split` count.
    may_be_empty: an empty file called .jsonl or .ndjson counts as JSON lines, as it does in a folder.
    Raises InputError when there is nothing to read or the kind is unknown.
    """
    if path.is_dir():
        return _open_folder(path, split)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix in (".csv", ".tsv", ".xlsx"):
        raise InputError(f"{path}: {path.suffix} is not read: convert it to JSON lines or Parquet")
    start = beginning(path)
    if start.startswith(b"PAR1") and path.suffix == ".gz":
        raise InputError(f"{path}: Parquet packed once more by gzip: unpack it first")
    if start.startswith(b"PAR1") or path.suffix == ".parquet":
        return ParquetFiles(path, [path])
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and not (may_be_empty and form_suffix(path) in LINE_SUFFIXES):
        raise InputError(f"{path}: the file is empty")
    return JsonArray(path) if text.startswith(b"[") else JsonLines(path, [path])


def _open_folder(path: Path, split: str) -> RecordFile:
    kinds: dict[Callable[[Path, list[Path]], RecordFile], tuple[str, ...]] = {
        ParquetFiles: (".parquet",),
        JsonLines: (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    }
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    visible = sorted(file for file in files if not any(name.startswith((".", "_")) for name in file.parts))
    for kind, suffixes in kinds.items():
        if parts := [part for part in visible if part.name.endswith(suffixes)]:
            of_split = [part for part in parts if split in (*part.parts[:-1], re.split(r"[-.]", part.name)[0])]
            return kind(path, [path / part for part in of_split or parts])
    raise InputError(f"{path}: the folder holds neither .parquet nor .jsonl files")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file, in order."""
    return [record for _, record in number_records(open_records(path))]


def number_records(file: RecordFile) -> Iterator[tuple[int, Any]]:
    """Every record of a file with its number, counted from 0; one batch of them in memory at a time."""
    for first, records in file.batches():
        yield from enumerate(records, start=first)
