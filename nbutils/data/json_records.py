"""JSON in one document: a list of objects, a list inside an object, or indented objects one after another.

The text is decoded element by element from a moving window, so that memory holds one element and not the file; a
selection copies the chosen elements as they stand, with the document's own layout around them.
"""

# ruff: noqa: ARG002 (all kinds of files share one signature)

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbutils.core.errors import InputError
from nbutils.data.line_records import LINE_SUFFIXES, read_field
from nbutils.data.packed import atomic_binary, beginning, form_suffix, read_text
from nbutils.data.record_file import BATCH_ROWS, Faults, RecordFile, Responses
from nbutils.data.rows import Form
from nbutils.data.turns import NOT_ROWS

WINDOW = 1_000_000
_DECODER = json.JSONDecoder()
_WRAPPERS = ("data", "rows", "train", "examples", "instances", "items", "records", "samples", "dataset")
_STRING = r'"(?:[^"\\]|\\.)*"'
_SCALAR = rf"(?:{_STRING}|-?[\d.eE+-]+|true|false|null)"
_BEFORE_LIST = re.compile(rf"\s*\{{((?:\s*{_STRING}\s*:\s*{_SCALAR}\s*,)*)\s*({_STRING})\s*:\s*\[(?=\s*[{{\]])")
_BEHIND_LIST = re.compile(rf"\s*(?:,\s*{_STRING}\s*:\s*{_SCALAR}\s*)*\}}\s*")
_NEXT_KEY = re.compile(rf"\s*,\s*({_STRING})\s*:")
_BLANK = re.compile(r"[ \t\n\r]*")


class JsonDocument(RecordFile):
    """A JSON document of objects: `array` ([...]), `wrapped` ({"data": [...]}) or `objects` (one after another)."""

    def __init__(self, path: Path, parts: Sequence[Path], shape: str = "array") -> None:
        super().__init__(path, parts)
        self.shape, self._tail = shape, ""
        lines = LINE_SUFFIXES if shape == "objects" else ()
        self.suffixes = tuple(dict.fromkeys([form_suffix(parts[0]), ".json", *lines]))

    def batches(self, faults: Faults | None = None, fields: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """Stream the records in order."""
        faults = faults or Faults()
        elements = self._elements()
        for first in itertools.count(0, BATCH_ROWS):
            records: list[Any] = []
            for _, _, record in itertools.islice(elements, BATCH_ROWS):
                records.append(self._checked(record, first + len(records), faults))
            if not records:
                return
            yield first, records

    def _checked(self, record: Any, number: int, faults: Faults) -> Any:
        if isinstance(record, dict):
            return record
        faults.add(self, number, f"is not an object but a {type(record).__name__}: each row must be a JSON object")
        return None

    def responses(self, form: Form, faults: Faults) -> Iterator[Responses]:
        """Stream the responses of all rows: text by Arrow's parser, what it does not take by Python's."""
        if not form.is_one_text or self.shape == "objects":
            yield from super().responses(form, faults)
            return
        first = 0
        for part in self.parts:
            self.starts_at(first, part)
            for block in _Window(part, self.shape).blocks(form.column):
                read = Responses(first, block, [])
                if isinstance(block, list):
                    records = [self._checked(record, first + i, faults) for i, record in enumerate(block)]
                    read = self._responses_of(first, records, form, faults)
                yield read
                first += len(block)

    def first_record(self) -> Any:
        """The first record that can be read, or None where there is none."""
        return next((record for _, _, record in self._elements() if isinstance(record, dict)), None)

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the chosen records."""
        wanted, least = set(ids), min(ids, default=0)
        between = next((before for before, _, _ in itertools.islice(self._elements(), 1, 2)), ", ")
        with atomic_binary(out) as file:
            for number, (before, text, _) in enumerate(self._elements()):
                if number == 0:
                    file.write(before.encode())
                if number in wanted:
                    file.write(("" if number == least else between).encode())
                    file.write(text.encode())
            file.write(self._tail.encode())

    def _elements(self) -> Iterator[tuple[str, str, Any]]:
        """What stands before each element (the document's head before the first one), its own text, and its value."""
        number = 0
        for part in self.parts:
            self.starts_at(number, part)
            window = _Window(part, self.shape)
            for element in window.elements():
                yield element
                number += 1
            self._tail = window.tail


class _Window:
    """A moving window over a document's text; `tail` is what stands behind the last element once all were read."""

    def __init__(self, part: Path, shape: str) -> None:
        self.part, self.shape, self.tail = part, shape, ""
        self._pieces = read_text(part, WINDOW)
        self._text, self._at, self._passed, self._is_over = "", 0, 0, False

    def elements(self) -> Iterator[tuple[str, str, Any]]:
        """Text before each element, its own text, and its value. Raises InputError for what is no such document."""
        before, row = self._read_head(), 0
        while not self._is_at_end():
            before += self._take_comma(row) if row and self.shape != "objects" else ""
            value, end = self._decode(row)
            text, self._at = self._text[self._at : end], end
            yield before, text, value
            before, row = self._skip_blank(), row + 1
        self.tail = (before if row else "") + self._read_tail(row)

    def blocks(self, field: str) -> Iterator[Any]:
        """A text field of all elements: Arrow arrays where Arrow's parser takes a block, else lists of the elements."""
        before, row, cut, refused = self._read_head(), 0, "", 0
        held: list[Any] = []
        while not self._is_at_end():
            before += self._take_comma(row) if row else ""
            cut = "}" + before + "{" if row == 1 else cut
            texts = None
            if cut and self._passed + self._at >= refused:
                texts, refused = self._read_block(cut, field)
            if texts is None:
                value, self._at = self._decode(row)
                held.append(value)
            if held and (texts is not None or len(held) == BATCH_ROWS):
                yield held
                held = []
            if texts is not None:
                yield texts
            before, row = self._skip_blank(), row + (1 if texts is None else len(texts))
        if held:
            yield held
        self._read_tail(row)

    def _read_block(self, cut: str, field: str) -> tuple[Any, int]:
        """A text field of the elements from here to the last `cut` in the window; or None, and up to where it is so.

        `cut` is what stands between the first two elements, with their braces. Where it stands within an element, no
        JSON is left on its two sides, so that what is parsed whole was cut at the elements' borders alone.
        """
        if len(self._text) - self._at < WINDOW:
            self._read_more(4 * WINDOW)
        last = self._text.rfind(cut, self._at)
        if last < 0:
            return None, self._passed + len(self._text)
        block = self._text[self._at : last + 1]
        packed = block.replace(cut, "}\n{").encode()
        texts = read_field(packed, field, window=len(packed) + 1, several_lines=True)
        if texts is None or len(texts) != block.count(cut) + 1:
            return None, self._passed + last
        self._at = last + 1
        return texts, 0

    def _take_comma(self, row: int) -> str:
        if self._peek() != ",":
            raise self._fault(row, "Expecting ',' or ']'", self._at)
        self._at += 1
        return "," + self._skip_blank()

    def _read_head(self) -> str:
        """What stands before the first element."""
        self._read_more()
        opening = _BEFORE_LIST if self.shape == "wrapped" else re.compile(r"\s*\[" if self.shape == "array" else "")
        found = opening.match(self._text)
        if found is None:
            raise self._fault(0, "a list of objects is expected", 0)
        self._at = found.end()
        return found.group() + self._skip_blank()

    def _is_at_end(self) -> bool:
        return self._peek() == ("" if self.shape == "objects" else "]")

    def _decode(self, row: int) -> tuple[Any, int]:
        """The value at this place and where it ends; the window grows until it holds all of it."""
        while True:
            try:
                return _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_over:
                    raise self._fault(row, error.msg, error.pos) from None
                self._read_more(len(self._text) - self._at)
            except (RecursionError, ValueError) as error:  # nested too deeply, a number of too many digits
                raise self._fault(row, str(error), self._at) from None

    def _read_tail(self, row: int) -> str:
        """What stands behind the last element."""
        if self.shape == "objects":
            return ""
        self._at += 1
        if self.shape == "array":
            blank = self._skip_blank()
            if self._peek():
                raise self._fault(row, "Extra data", self._at)
            return "]" + blank
        self._read_more()
        rest = self._text[self._at :]
        if self._is_over and _BEHIND_LIST.fullmatch(rest):
            return "]" + rest
        if found := _NEXT_KEY.match(rest):
            mend = "keep one list of rows in a file"
            raise InputError(f"{self.part}: behind its first list comes {found[1]}, which holds more: {mend}")
        raise self._fault(row, "Expecting '}' behind the list", self._at)

    def _peek(self) -> str:
        if self._at == len(self._text):
            self._read_more()
        return self._text[self._at : self._at + 1]

    def _skip_blank(self) -> str:
        start, blank = self._at, ""
        while (found := _BLANK.match(self._text, self._at)) and found.end() == len(self._text) and not self._is_over:
            blank, self._at = blank + self._text[start:], len(self._text)
            self._read_more()
            start = 0
        self._at = found.end() if found else self._at
        return blank + self._text[start : self._at]

    def _read_more(self, least: int = 1) -> None:
        """Take in at least so many characters more, where there are as many, and let go of what was passed."""
        pieces, wanted = [self._text[self._at :]], least
        self._passed, self._at = self._passed + self._at, 0
        while wanted > 0 and not self._is_over:
            piece = next(self._pieces, None)
            self._is_over = piece is None
            pieces.append(piece or "")
            wanted -= len(piece or "")
        self._text = "".join(pieces)

    def _fault(self, row: int, why: str, position: int) -> InputError:
        where = f"{why} at character {self._passed + position}"
        return InputError(f"{self.part}: row {row}: not valid JSON ({where}): the file may be cut short: mend it there")


def shape_of(path: Path) -> str:
    """`array`, `wrapped`, `objects`, or `lines` where a file that begins with { or [ holds JSON lines.

    A list in an object counts as the file's rows where the object is all there is, and the list its only field but for
    numbers and texts, and no conversation. Of an object larger than the window only the beginning can say so.
    """
    start = beginning(path, WINDOW)
    text, is_whole = start.decode("utf-8-sig", "replace").lstrip(), len(start) < WINDOW
    if text.startswith("["):
        return "array"
    try:
        first, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        if (found := _BEFORE_LIST.match(text)) and (not is_whole or "\n" in text.strip()):
            return "wrapped" if _may_be_rows(json.loads(found[2]), bool(found[1].strip())) else "objects"
        second = text.partition("\n")[2].lstrip()
        return "objects" if second and not second.startswith("{") else "lines"
    rest = text[end:]
    if not rest.strip() and is_whole:
        lists = [name for name, value in first.items() if isinstance(value, list)]
        others = [value for value in first.values() if isinstance(value, dict)]
        if len(lists) == 1 and not others and _BEFORE_LIST.match(text) and _may_be_rows(lists[0], len(first) > 1):
            return "wrapped"
    goes_on_behind = rest.lstrip(" \t\r").startswith("{")
    return "objects" if goes_on_behind or "\n" in text[:end] else "lines"


def _may_be_rows(key: str, has_more: bool) -> bool:
    return key in _WRAPPERS if has_more else key not in NOT_ROWS
