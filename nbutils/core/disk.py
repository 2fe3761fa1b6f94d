"""Files: atomic writes, JSON lines that survive a kill, hashes, and where runs are written."""

import contextlib
import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nbutils import home


def runs_folder() -> Path:
    """Where runs are written: `LIM_RUNS`, else `runs/` in the repository."""
    return Path(os.environ.get("LIM_RUNS") or home() / "runs")


# --- bytes to disk -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` which replaces it if the block succeeds and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, keys sorted so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines atomically."""
    write_text(path, "".join(map(json_line, records)))


def write_csv(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a small table atomically: the columns in the order in which the records bring them, empty where absent."""
    text = io.StringIO()
    columns = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_text(path, text.getvalue())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file of the project's own making."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def json_line(record: dict[str, Any]) -> str:
    """One record as a line of a JSON-lines file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def drop_torn_line(path: Path) -> list[dict[str, Any]]:
    """Records of a file that is appended to; a last line that a kill cut short is removed from the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with atomic_path(path) as temporary:
            temporary.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in one canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def remembered_array(kind: str, made_by: Any, compute: Callable[[], Any]) -> Any:
    """An array kept under runs/ by a hash of all that determines it; computed, and stored, the first time only."""
    import numpy as np

    path = runs_folder() / f".{kind}" / f"{sha256_json(made_by)}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, compute(), allow_pickle=False)
    return np.load(path, allow_pickle=False)
