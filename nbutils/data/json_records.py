"""JSON lines and JSON arrays, gzipped or not: read in batches, and a selection copied as it stands."""

import contextlib
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nbutils.core.disk import atomic_path
from nbutils.core.errors import InputError

BATCH_ROWS = 20_000
BATCH_BYTES = 32_000_000
LINE_SUFFIXES = (".jsonl", ".ndjson")


class JsonLines:
    """JSON lines in one file or several parts; a selection copies the chosen lines byte for byte."""

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        self.path, self.parts = path, parts
        self.suffixes = tuple({form_suffix(path): None, **dict.fromkeys(LINE_SUFFIXES)})

    def batches(self) -> Iterator[tuple[int, list[Any]]]:
        """Stream the records in order, each an object: number of a batch's first record, and its records."""
        first, size = 0, 0
        records: list[Any] = []
        for place, line in self._lines():
            records.append(_parse_line(place, line, first + len(records)))
            size += len(line)
            if len(records) == BATCH_ROWS or size > BATCH_BYTES:
                yield first, records
                first, records, size = first + len(records), [], 0
        if records:
            yield first, records

    def first_record(self) -> Any:
        """The first record, or None where there is none."""
        return next((_parse_line(place, line, 0) for place, line in self._lines()), None)

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the records with these numbers, in ascending order, atomically, in this file's own form."""
        wanted = set(ids)
        with atomic_binary(out) as file:
            for row, (_, line) in enumerate(self._lines()):
                if row in wanted:
                    file.write(line.rstrip(b"\r\n") + b"\n")

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        for part in self.parts:
            with _open_binary(part) as file:
                for number, line in enumerate(_guarded(part, file), start=1):
                    text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if text.strip():
                        yield f"{part}: line {number}", text


def _guarded(path: Path, file: BinaryIO) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}): fetch or copy it again") from None


def _parse_line(place: str, line: bytes, row: int) -> Any:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 (byte {error.start} of the line): convert the file to UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error}): one object a line is expected") from None
    return _checked_object(place.partition(": ")[0], record, row)


def _checked_object(path: object, record: Any, row: int) -> Any:
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise InputError(f"{path}: row {row} is not an object but a {kind}: each row must be a JSON object")
    return record


class JsonArray:
    """A JSON file that is one list of objects; a selection copies the chosen ones, layout and escaping included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suffixes = tuple({form_suffix(path): None, ".json": None})

    def batches(self) -> Iterator[tuple[int, list[Any]]]:
        """Stream the records in order."""
        elements = (record for _, _, record in self._elements(self._text()))
        for first in itertools.count(0, BATCH_ROWS):
            records = list(itertools.islice(elements, BATCH_ROWS))
            if not records:
                return
            yield first, records

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records."""
        text, wanted = self._text(), set(ids)
        spans = [(start, end) for start, end, _ in self._elements(text)]
        between = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ","
        chosen = [text[start:end] for row, (start, end) in enumerate(spans) if row in wanted]
        with atomic_binary(out) as file:
            file.write((text[: spans[0][0]] + between.join(chosen) + text[spans[-1][1] :]).encode())

    def _text(self) -> str:
        try:
            with _open_binary(self.path) as file:
                return b"".join(_guarded(self.path, file)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 (byte {error.start}): convert the file to UTF-8") from None

    def _elements(self, text: str) -> Iterator[tuple[int, int, Any]]:
        """Start, end and value of every element of the array."""
        decode = json.JSONDecoder().raw_decode
        row, position = 0, _skip_blank(text, text.index("[") + 1)
        try:
            is_over = text.startswith("]", position)
            while not is_over:
                record, end = decode(text, position)
                yield position, end, _checked_object(self.path, record, row)
                row, position = row + 1, _skip_blank(text, end)
                is_over = text.startswith("]", position)
                if not is_over:
                    if not text.startswith(",", position):
                        raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
                    position = _skip_blank(text, position + 1)
            if _skip_blank(text, position + 1) != len(text):
                raise json.JSONDecodeError("Extra data", text, position + 1)
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: not valid JSON ({error}): the file may be cut short") from None


def _skip_blank(text: str, position: int) -> int:
    found = re.compile(r"[ \t\n\r]*").match(text, position)
    return found.end() if found else position


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked when its name ends in .gz."""
    with _open_binary(path) as file:
        return file.read()


def form_suffix(path: Path) -> str:
    """The suffix that tells a file's form, whether it is packed or not."""
    return Path(path.name.removesuffix(".gz")).suffix


def _open_binary(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def beginning(path: Path) -> bytes:
    """The first bytes of a file, unpacked. Raises InputError where it cannot be read."""
    try:
        with _open_binary(path) as file:
            return bytes(file.read(65536))
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked or read ({error}): fetch or copy it again") from None


@contextlib.contextmanager
def atomic_binary(path: Path) -> Iterator[Any]:
    """An atomic binary file, gzipped (without a time stamp, so equal content gives equal bytes) for names in .gz."""
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                yield packed
        else:
            yield raw
