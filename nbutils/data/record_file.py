"""What every kind of file of records offers, and what becomes of a row that cannot be read."""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils.core.errors import InputError
from nbutils.data.rows import Form, responses_of

BATCH_ROWS = 20_000
BATCH_BYTES = 32_000_000
MODES = ("stop", "skip")


class Faults:
    """Rows that cannot be read: the first one ends the reading (`stop`), or all are noted and left out (`skip`)."""

    def __init__(self, mode: str = "stop") -> None:
        if mode not in MODES:
            raise InputError(f"--on-error {mode}: choose one of {', '.join(MODES)}")
        self.mode = mode
        self.noted: list[dict[str, Any]] = []

    def add(self, file: "RecordFile", number: int, reason: str, line: int | None = None) -> None:
        """Note that row `number` of a file cannot be read; raises InputError saying so where the first one ends it.

        line: where it stands, counted from 1, in a file of lines.
        """
        part, row = file.place(number)
        if self.mode == "stop":
            where = f"row {row}, line {line}" if line else f"row {row}"
            raise InputError(f"{part}: {where}{' ' if reason.startswith('is ') else ': '}{reason}")
        place = {"file": str(part), "row": row} | ({"line": line} if line else {})
        self.noted.append({**place, "reason": reason})


class Responses(NamedTuple):
    """The responses of a batch of rows: an Arrow string array where each has one, else a list of texts a row.

    `bad`: positions of the rows that cannot be read and count nothing.
    """

    first: int
    texts: Any
    bad: list[int]


class RecordFile:
    """Records in one file, or in several parts that count as one; numbered from 0 through all parts.

    `suffixes`: the endings that an output of the same form may have. `fields`: its columns, where all records have the
    same by the file's own kind.
    """

    suffixes: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        self.path, self.parts = path, list(parts)
        self._starts: dict[int, Path] = {}

    def batches(self, faults: Faults | None = None, fields: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """Stream the records in order: number of a batch's first one, and a list of dicts, None for a bad one.

        fields: those that the caller looks at, where others need not be read. Raises InputError for what cannot be
        read at all.
        """
        raise NotImplementedError

    def responses(self, form: Form, faults: Faults) -> Iterator[Responses]:
        """Stream the responses of all rows."""
        for first, records in self.batches(faults, form.fields()):
            yield self._responses_of(first, records, form, faults)

    def _responses_of(self, first: int, records: Sequence[Any], form: Form, faults: Faults) -> Responses:
        texts, bad = [], []
        for position, record in enumerate(records):
            found = [""]
            if record is None:
                bad.append(position)
            else:
                try:
                    found = responses_of(record, form)
                except InputError as error:
                    faults.add(self, first + position, str(error))
                    bad.append(position)
            texts.append(found)
        return Responses(first, texts, bad)

    def write_selected(self, ids: Sequence[int], out: Path) -> None:
        """Write the records with these numbers, in ascending order, atomically, in this file's own form."""
        raise NotImplementedError

    def first_record(self) -> Any:
        """The first record that can be read, or None where there is none."""
        raise NotImplementedError

    def starts_at(self, number: int, part: Path) -> None:
        """Remember that a part's first row has this number."""
        self._starts[number] = part

    def place(self, number: int) -> tuple[Path, int]:
        """The part that a row lies in, and the row's number there."""
        starts = sorted(self._starts) or [0]
        start = starts[bisect.bisect_right(starts, number) - 1]
        return self._starts.get(start, self.path), number - start
