"""JSON lines and CSV, packed or not: read in batches, and a selection copied byte for byte."""

# ruff: noqa: ARG002 (all kinds of files share one signature)

import csv
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils.core.errors import InputError
from nbutils.data.packed import atomic_binary, form_suffix, read_blocks, read_lines
from nbutils.data.record_file import BATCH_BYTES, BATCH_ROWS, Faults, RecordFile, Responses
from nbutils.data.rows import Form

LINE_SUFFIXES = (".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")
_HISTORY = re.compile(rb'"history"\s*:')


class JsonLines(RecordFile):
    """JSON lines in one file or several parts; lines of nothing but white space are no rows."""

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        super().__init__(path, parts)
        self.suffixes = tuple({form_suffix(parts[0]): None, **dict.fromkeys(LINE_SUFFIXES)})

    def batches(self, faults: Faults | None = None, fields: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """Stream the records in order."""
        faults, first, size = faults or Faults(), 0, 0
        records: list[Any] = []
        for line, text in self._lines():
            records.append(self._parse(text, first + len(records), line, faults))
            size += len(text)
            if len(records) == BATCH_ROWS or size > BATCH_BYTES:
                yield first, records
                first, records, size = first + len(records), [], 0
        if records:
            yield first, records

    def responses(self, form: Form, faults: Faults) -> Iterator[Responses]:
        """Stream the responses of all rows: text by Arrow's parser, blocks that it does not take by Python's."""
        if not form.is_one_text:
            yield from super().responses(form, faults)
            return
        first = 0
        for part in self.parts:
            self.starts_at(first, part)
            line = 0
            for block in read_blocks(part, BATCH_BYTES // 2):
                texts = _parse_block(block, form.column)
                read = Responses(first, texts, [])
                if texts is None:
                    read = self._parse_slowly(block, form, first, line, faults)
                yield read
                first, line = first + len(read.texts), line + block.count(b"\n")

    def _parse_slowly(self, block: bytes, form: Form, first: int, line: int, faults: Faults) -> Responses:
        records: list[Any] = []
        for number, text in enumerate(block.split(b"\n"), start=line + 1):
            if text.strip():
                records.append(self._parse(text, first + len(records), number, faults))
        return self._responses_of(first, records, form, faults)

    def _parse(self, text: bytes, row: int, line: int, faults: Faults) -> Any:
        try:
            record = json.loads(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            fault = f"not UTF-8 (byte {error.start} of the line): convert the file to UTF-8"
        except (ValueError, RecursionError) as error:
            fault = f"not valid JSON ({error}): write one object a line"
        else:
            if isinstance(record, dict):
                return record
            faults.add(self, row, f"is not an object but a {type(record).__name__}: each row must be a JSON object")
            return None
        faults.add(self, row, fault, line)
        return None

    def first_record(self) -> Any:
        """The first record that can be read, or None where there is none."""
        records = (self._parse(text, 0, line, Faults("skip")) for line, text in self._lines())
        return next((record for record in records if record is not None), None)

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen lines."""
        wanted = set(ids)
        with atomic_binary(out) as file:
            for row, (_, line) in enumerate(self._lines()):
                if row in wanted:
                    file.write(line.rstrip(b"\r\n") + b"\n")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        rows = 0
        for part in self.parts:
            self.starts_at(rows, part)
            for number, line in enumerate(read_lines(part), start=1):
                if line.strip():
                    yield number, line
                    rows += 1


def _parse_block(block: bytes, name: str) -> Any:
    """A text field of a block of JSON lines as an Arrow array, or None where only Python's parser can say what it is.

    Arrow's parser is the stricter one (NaN, lone surrogates, a key given twice are for Python's).
    """
    codes = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    begins = np.concatenate([[0], ends[ends < len(block) - 1] + 1])
    rows, longest = len(begins), int(np.diff([*begins, len(block)]).max())
    if np.isin(codes[begins], list(b" \t\r\n")).any():  # perhaps lines of white space, which are no rows
        rows = sum(1 for line in block.split(b"\n") if line and not line.isspace())
    texts = read_field(block, name, window=max(1 << 20, longest + 1))
    return texts if texts is not None and len(texts) == rows else None


def read_field(block: bytes, name: str, window: int, several_lines: bool = False) -> Any:
    """A text field of JSON objects that follow one another, as an Arrow array; None where a row's responses are others.

    window: bytes that no object exceeds.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json

    if b'"history"' in block and _HISTORY.search(block):
        return None  # answers of earlier turns are responses, too
    schema = pa.schema([pa.field(name, pa.string(), nullable=False)])
    options = arrow_json.ParseOptions(
        explicit_schema=schema, newlines_in_values=several_lines, unexpected_field_behavior="ignore"
    )
    try:
        bounds = pa.py_buffer(len(block).to_bytes(8, "little").rjust(16, b"\0"))
        pa.Array.from_buffers(pa.large_string(), 1, [None, bounds, pa.py_buffer(block)]).validate(full=True)
        reading = arrow_json.ReadOptions(block_size=window)
        table = arrow_json.read_json(pa.BufferReader(block), reading, options)
    except pa.ArrowException:
        return None
    if name not in table.column_names or table.column(name).null_count:
        return None
    return table.column(name).combine_chunks()


class CsvLines(RecordFile):
    """CSV with a header (.tsv: by tabs; by semicolons where the header has no comma); every field is text."""

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        super().__init__(path, parts)
        csv.field_size_limit(sys.maxsize)
        self._headers = [self._read_header(part) for part in parts]
        self.fields = tuple(self._headers[0][1])
        self.suffixes = (form_suffix(parts[0]),)
        for part, header in zip(parts, self._headers, strict=True):
            if header != self._headers[0]:
                wrong = f"its columns or their separator differ from those of {parts[0].name}"
                raise InputError(f"{part}: {wrong}: give one at a time")

    def _read_header(self, part: Path) -> tuple[str, list[str]]:
        start = next((line for line in read_lines(part) if line.strip()), b"")
        head = start.decode("utf-8", "replace")
        delimiter = "\t" if form_suffix(part) == ".tsv" else ";" if ";" in head and "," not in head else ","
        _, names, _ = next(_read_csv(part, delimiter), (0, [], b""))
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{part}: two columns are called '{twice}': give each its own name")
        return delimiter, names

    def batches(self, faults: Faults | None = None, fields: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """Stream the records in order."""
        faults, names = faults or Faults(), self.fields or ()
        rows = self._rows()
        for first in itertools.count(0, BATCH_ROWS):
            records: list[Any] = []
            for line, values, _ in itertools.islice(rows, BATCH_ROWS):
                if len(values) == len(names):
                    records.append(dict(zip(names, values, strict=True)))
                else:
                    mend = "put a field that holds separators or line ends in double quotes"
                    wrong = f"{len(values)} fields, and the header has {len(names)}: {mend}"
                    faults.add(self, first + len(records), wrong, line)
                    records.append(None)
            if not records:
                return
            yield first, records

    def first_record(self) -> Any:
        """The first record that can be read, or None where there is none."""
        names = self.fields or ()
        return next(
            (dict(zip(names, each, strict=True)) for _, each, _ in self._rows() if len(each) == len(names)), None
        )

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the header and the chosen records."""
        wanted = set(ids)
        delimiter, _ = self._headers[0]
        with atomic_binary(out) as file:
            _, _, header = next(_read_csv(self.parts[0], delimiter))
            end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
            file.write(header)
            for row, (_, _, raw) in enumerate(self._rows()):
                if row in wanted:
                    file.write(raw if raw.endswith(b"\n") else raw + end)

    def _rows(self) -> Iterator[tuple[int, list[str], bytes]]:
        rows = 0
        for part, (delimiter, _) in zip(self.parts, self._headers, strict=True):
            self.starts_at(rows, part)
            for line, values, raw in itertools.islice(_read_csv(part, delimiter), 1, None):
                yield line, values, raw
                rows += 1


def _read_csv(part: Path, delimiter: str) -> Iterator[tuple[int, list[str], bytes]]:
    """Every record that is no empty line: its line (from 1), its fields, its bytes. Raises InputError by the line."""
    held: list[bytes] = []

    def decoded() -> Iterator[str]:
        for number, line in enumerate(read_lines(part), start=1):
            held.append(line)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"line {number}: not UTF-8 (byte {error.start} of the line)"
                raise InputError(f"{part}: {where}: convert the file to UTF-8") from None

    reader, before = csv.reader(decoded(), delimiter=delimiter, strict=True), 0
    try:
        for values in reader:
            raw = b"".join(held)
            held.clear()
            if values:
                yield before + 1, values, raw
            before = reader.line_num
    except csv.Error as error:
        mend = "close every quotation mark, and double those within a field"
        raise InputError(f"{part}: line {before + 1}: not valid CSV ({error}): {mend}") from None
