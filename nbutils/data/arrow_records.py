"""Tables of Arrow: Parquet, Arrow and Feather files, folders of `save_to_disk`, and datasets of the Hub.

Reading streams record batches; a selection keeps the schema, with every type that a column can have, and its metadata.
"""

# ruff: noqa: ARG002 (all kinds of files share one signature)

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils.core import settings
from nbutils.core.disk import atomic_path
from nbutils.core.errors import InputError
from nbutils.data.packed import atomic_binary
from nbutils.data.record_file import BATCH_BYTES, BATCH_ROWS, Faults, RecordFile, Responses
from nbutils.data.rows import PROMPTED, Form
from nbutils.data.turns import TURN_FIELDS


class ArrowTable(RecordFile):
    """Records in columns; the kinds of files below say how their batches are read and written."""

    schema: Any

    def _check_schemas(self, schemas: Sequence[Any]) -> None:
        self.schema = schemas[0]
        self.fields = tuple(self.schema.names)
        if twice := next((name for name in self.fields if self.fields.count(name) > 1), None):
            raise InputError(f"{self.path}: two columns are called '{twice}': give each its own name")
        for part, schema in zip(self.parts, schemas, strict=True):
            if not schema.equals(self.schema):
                raise InputError(f"{part}: its columns differ from those of {self.parts[0].name}: give one at a time")

    def _part_batches(self, part: Path, columns: list[str] | None, most: int | None = None) -> Iterator[Any]:
        """The record batches of one part, of some columns or of all, of at most so many rows."""
        raise NotImplementedError

    def _arrow_batches(self, columns: list[str] | None = None) -> Iterator[tuple[int, Any]]:
        first = 0
        for part in self.parts:
            self.starts_at(first, part)
            with _readable(part):
                for batch in self._part_batches(part, columns):
                    yield first, batch
                    first += batch.num_rows

    def batches(self, faults: Faults | None = None, fields: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """Stream the records in order."""
        columns = None if fields is None else [name for name in self.fields or () if name in fields]
        for first, batch in self._arrow_batches(columns):
            with _readable(self.place(first)[0]):
                records = batch.to_pylist()
            yield first, records

    def first_record(self) -> Any:
        """The first record; its fields are the columns'."""
        import pyarrow as pa

        told = [
            field.name
            for field in self.schema
            if pa.types.is_nested(field.type) or field.name in (*TURN_FIELDS, *PROMPTED)  # others need not be looked at
        ]
        few: Iterator[Any] = (batch for part in self.parts if told for batch in self._read_few(part, told))
        first = next((batch for batch in few if batch.num_rows), None)
        found: dict[str, Any] = {field.name: [] if pa.types.is_list(field.type) else None for field in self.schema}
        if first is None:
            return found
        for name in told:
            with contextlib.suppress(Exception):  # a value that Python has no type for is none that a model is shown
                value = first.column(name).slice(0, 1).to_pylist()[0]
                found[name] = found[name] if value is None else value
        return found

    def _read_few(self, part: Path, columns: list[str]) -> Iterator[Any]:
        with _readable(part):
            yield from self._part_batches(part, columns, most=1)

    def responses(self, form: Form, faults: Faults) -> Iterator[Responses]:
        """Stream the responses of all rows: a text column, dictionary-encoded or not, as Arrow string arrays."""
        name, given = form.column, self.fields or ()
        if name not in given:
            raise InputError(f"{self.path}: row 0: no column '{name}': it has {', '.join(given)}")
        if not form.is_one_text or set(form.fields()) & set(given) != {name}:
            yield from super().responses(form, faults)
            return
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = self.schema.field(name).type
        plain = kind.value_type if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else kind
        if str(plain) not in ("string", "large_string", "string_view"):
            mend = "give another one by --field"
            raise InputError(f"{self.path}: row 0: the response field '{name}' is not text but {kind}: {mend}")
        for first, batch in self._arrow_batches([name]):
            texts = batch.column(0)
            with _readable(self.place(first)[0]):
                texts.validate(full=True)
                if pa.types.is_run_end_encoded(kind):
                    texts = pc.run_end_decode(texts)
                texts = texts if pa.types.is_string(texts.type) else texts.cast(pa.large_string())
            bad = np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False)).tolist() if texts.null_count else []
            for position in bad:
                mend = "fill it, or take the row out"
                faults.add(self, first + position, f"the response field '{name}' is empty (null): {mend}")
            yield Responses(first, texts.fill_null("") if bad else texts, bad)

    def _chosen(self, ids: Sequence[int]) -> Iterator[Any]:
        """The chosen rows as tables, one of every batch that has any."""
        wanted = np.sort(np.asarray(ids))
        for first, batch in self._arrow_batches():
            here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
            if len(here):
                yield _take(batch, here)


def _take(batch: Any, rows: np.ndarray) -> Any:
    import pyarrow as pa

    def take(column: Any) -> Any:
        try:
            return column.take(pa.array(rows))
        except pa.ArrowNotImplementedError:  # views and runs
            return pa.concat_arrays([column.slice(int(row), 1) for row in rows])

    return pa.Table.from_arrays([take(column) for column in batch.columns], schema=batch.schema)


@contextlib.contextmanager
def _readable(part: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, OverflowError) as error:
        kind = "Parquet" if part.suffix not in IpcFiles.suffixes else "Arrow"
        raise InputError(f"{part}: not readable as {kind} ({_first_line(error)}): fetch or copy it again") from None


class ParquetFiles(ArrowTable):
    """Parquet, one file or a partitioned dataset larger than memory."""

    suffixes = (".parquet",)

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        import pyarrow.parquet as pq

        super().__init__(path, parts)
        schemas = []
        for part in self.parts:
            with _readable(part):
                schemas.append(pq.read_schema(part))
        self._check_schemas(schemas)

    def _part_batches(self, part: Path, columns: list[str] | None, most: int | None = None) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(part) as file:
            # Fewer rows where they are long, so that a batch stays small.
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            rows = max(1, min(most or BATCH_ROWS, BATCH_BYTES * file.metadata.num_rows // max(size, 1)))
            # Parquet takes a dot in a name for a field within a column.
            whole = columns is not None and any("." in name for name in columns)
            for batch in file.iter_batches(rows, columns=None if whole else columns, use_threads=False):
                yield batch.select(columns) if whole else batch

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records."""
        import pyarrow.parquet as pq

        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, self.schema) as writer:
            for table in self._chosen(ids):
                writer.write_table(table)


class IpcFiles(ArrowTable):
    """Arrow's own format, as a file (Feather is one) or as a stream (what `datasets` writes)."""

    suffixes = (".arrow", ".feather")

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        super().__init__(path, parts)
        schemas = []
        for part in self.parts:
            with _readable(part), self._open(part) as opened:
                schemas.append(opened.schema)
        self._check_schemas(schemas)

    @contextlib.contextmanager
    def _open(self, part: Path) -> Iterator[Any]:
        import pyarrow as pa

        with pa.memory_map(str(part)) as mapped:
            if is_stream(part):
                yield pa.ipc.open_stream(mapped)
            else:
                yield pa.ipc.open_file(mapped)

    def _part_batches(self, part: Path, columns: list[str] | None, most: int | None = None) -> Iterator[Any]:
        with self._open(part) as opened:
            if is_stream(part):
                batches: Iterator[Any] = iter(opened)
            else:
                batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
            for batch in batches:
                kept = batch if columns is None else batch.select(columns)
                size = most or BATCH_ROWS
                for start in range(0, kept.num_rows, size):
                    yield kept.slice(start, size)

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records, as a stream where they were read from one."""
        import pyarrow as pa

        chosen = list(self._chosen(ids))
        table = pa.concat_tables(chosen) if chosen else self.schema.empty_table()
        compression = "lz4" if out.suffix == ".feather" else None
        options = pa.ipc.IpcWriteOptions(compression=compression, unify_dictionaries=True)
        make = pa.ipc.new_stream if is_stream(self.parts[0]) else pa.ipc.new_file
        with atomic_path(out) as temporary, make(temporary, self.schema, options=options) as writer:
            writer.write_table(table)


def is_stream(part: Path) -> bool:
    """Whether an Arrow file is a stream; the others begin with their name."""
    with open(part, "rb") as file:
        return not file.read(6).startswith(b"ARROW1")


def saved_parts(folder: Path) -> list[Path]:
    """The files of a folder that `datasets.Dataset.save_to_disk` wrote, in order."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'state.json'}: not what save_to_disk writes: save the dataset again") from None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(f"{folder}: saved with an index of its rows: load it, flatten_indices, and save it again")
    return [folder / name for name in names]


class HubDataset(ArrowTable):
    """A dataset of the Hugging Face Hub (or a local folder in the same layout), read by the datasets library."""

    suffixes = (".parquet", ".jsonl")

    def __init__(self, name: str, split: str = "train", config: str | None = None) -> None:
        import datasets

        if settings.is_offline() and not Path(name).exists():
            raise InputError(f"{name}: no such file, and LIM_OFFLINE forbids asking the Hub: give a file")
        super().__init__(Path(name), [Path(name)])
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()  # a log would be full of them
        try:
            self._data: Any = datasets.load_dataset(name, config, split=split)
        except Exception as error:
            why = _first_line(error)
            mend = "see its name, --split and --config"
            raise InputError(f"{name}: neither a file nor a dataset that the Hub gives ({why}): {mend}") from None
        self._check_schemas([self._data.features.arrow_schema])

    def _part_batches(self, part: Path, columns: list[str] | None, most: int | None = None) -> Iterator[Any]:
        data = self._data if columns is None else self._data.select_columns(columns)
        for table in data.with_format("arrow").iter(most or BATCH_ROWS):
            yield from table.combine_chunks().to_batches()

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
