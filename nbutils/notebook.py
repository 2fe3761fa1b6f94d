"""What every notebook shares: its first line of versions and device, tables that escape, and the checks at its end."""

import html
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils import __version__, arms
from nbutils.settings import Profile, load_profile

if TYPE_CHECKING:
    import pandas

SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "nltk", "papermill")


def begin(profile: str) -> Profile:
    """Print one line of versions and device and one on the data; return the profile with what is at hand."""
    given = load_profile(profile)
    chosen = arms.with_data_at_hand(given)
    print(f"long-is-more {__version__} · Python {sys.version.split()[0]} · {_versions()} · {device()}")
    print(f"Profile {given.name}: {given.summary}")
    print(arms.data_line(given, chosen))
    return chosen


def _versions() -> str:
    found = {name: _version(name) for name in SHOWN}
    return " · ".join(f"{name} {version}" for name, version in found.items() if version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> str:
    """The device in words, found without importing torch."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip().splitlines()[0]
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def check(what: str, holds: bool, seen: object = "") -> None:
    """One line of a notebook's closing checks; an AssertionError stops the run when it does not hold."""
    shown = f" ({seen})" if seen != "" else ""
    if not holds:
        raise AssertionError(f"expected: {what}{shown}")
    print(f"ok: {what}{shown}")


class Table:
    """Records, or a pandas table, as a table in a notebook, every cell escaped, and as plain text elsewhere."""

    def __init__(self, rows: "Iterable[Mapping[str, Any]] | pandas.DataFrame", note: str = "") -> None:
        records: Any = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
        self._rows = [{str(name): value for name, value in row.items()} for row in records]
        self._note = note

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self._columns())
        body = "".join(f"<tr>{''.join(map(_cell, self._values(row)))}</tr>" for row in self._rows)
        note = f"<p><em>{html.escape(self._note)}</em></p>" if self._note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def __repr__(self) -> str:
        table = [self._columns(), *([_plain(value) for value in self._values(row)] for row in self._rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([*(line.rstrip() for line in lines), *([self._note] if self._note else [])])

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        return [row.get(name, "") for name in self._columns()]


def _cell(value: Any) -> str:
    align = "right" if isinstance(value, int | float) else "left"
    text = html.escape(_plain(value)).replace("\n", "<br>")
    return f'<td style="text-align:{align};vertical-align:top">{text}</td>'


def _plain(value: Any) -> str:
    if value is None or value != value:  # NaN is how pandas writes what is missing
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def shorten(text: str, characters: int = 300) -> str:
    """The beginning of a text, with an ellipsis and its full length when it was cut."""
    return text if len(text) <= characters else f"{text[:characters].rstrip()} … ({len(text):,} characters)"


def side_by_side(items: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """A table of records whose long texts are shortened."""
    cut = [{key: shorten(value) if isinstance(value, str) else value for key, value in item.items()} for item in items]
    return Table(cut, note)
