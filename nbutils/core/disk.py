"""Files: atomic writes, JSON lines that survive a kill, hashes, and where runs are written."""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from filelock import FileLock, Timeout

from nbutils import home
from nbutils.core.errors import InputError


def runs_folder() -> Path:
    """Where runs are written: `LIM_RUNS`, else `runs/` in the repository."""
    return Path(os.environ.get("LIM_RUNS") or home() / "runs")


def take_lock(path: Path, notice: str, log: TextIO | None = None, patience: float = 0.0) -> AbstractContextManager[Any]:
    """A lock for a `with`; `notice` goes to `log` (default: stdout) where another holds it for `patience` seconds."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=patience)
    except Timeout:
        print(notice, file=log, flush=True)
        return lock.acquire()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` which replaces it if the block succeeds and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no network, file, database or browser takes, replaced by "?"."""
    return text.encode("utf-8", "replace").decode()


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


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file of the project's own making. Raises InputError, with the line, for one that is torn."""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            records += [json.loads(line)] if line.strip() else []
        except ValueError:
            raise InputError(f"{path}: line {number} is no JSON: remove the file and run what writes it") from None
    return records


def json_line(record: dict[str, Any]) -> str:
    """One record as a line of a JSON-lines file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def drop_torn_line(path: Path) -> list[dict[str, Any]]:
    """Records of a file that is appended to; what a kill, or a full disk, cut short is removed from the file.

    From the first line on that is no whole record: behind it nothing is trusted either.
    """
    content, records, whole = path.read_bytes(), [], 0
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break
        records.append(record)
        whole += len(line)
    if whole < len(content):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content[:whole])
    return records


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in one canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


HASHES = ".hashes.jsonl"  # under runs/: a line for each file that was hashed; it may be removed at any time
SETTLED_NS = 2 * 10**9
"""A file that was changed twice within one tick of its file system's clock looks the same both times: what is younger
than this is not remembered (as git's index has it)."""

LARGE = 10**8
"""Bytes from which on a file is rather waited for than hashed twice."""


class Stamp(NamedTuple):
    """What a file's content is recognised by without being read: size in bytes, last change in nanoseconds, inode."""

    path: str
    size: int
    modified: int
    inode: int

    def is_settled(self) -> bool:
        """Whether the file was left alone for so long that a later change cannot have the same stamp."""
        return self.modified < time.time_ns() - SETTLED_NS


def stamp_file(path: Path) -> Stamp:
    """The stamp of a file as it is now. Raises OSError where there is none."""
    found = path.stat()
    return Stamp(str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, which are read once while the file keeps its stamp.

    Where there is a folder of runs, the hash is remembered there for other processes.
    """
    stamp = stamp_file(path)
    remembered = _read_hashes(runs_folder() / HASHES)
    if stamp not in remembered:
        if stamp.size >= LARGE:
            # Waited for once, a model's weights are not read again by every stage that asks for them.
            time.sleep(max(0.0, min(SETTLED_NS, stamp.modified + SETTLED_NS - time.time_ns() + 1) / 1e9))
        is_settled, digest = stamp.is_settled(), hash_bytes(path)
        if not is_settled or stamp_file(path) != stamp:
            return digest
        remembered[stamp] = digest
        # One write: lines of several processes stay whole. It begins a line, behind whatever a kill has torn.
        with contextlib.suppress(OSError), open(runs_folder() / HASHES, "ab", buffering=0) as file:
            file.write(f"\n{json.dumps([*stamp, digest])}".encode())
    return remembered[stamp]


def hash_bytes(path: Path) -> str:
    """Hex sha256 of a file's bytes, read now."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _read_hashes(path: Path) -> dict[Stamp, str]:
    """What earlier processes remembered; a line that is torn, or says anything else, is passed over."""
    remembered = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                match json.loads(line):
                    case [str(name), int(size), int(modified), int(inode), str(digest)] if len(digest) == 64:
                        remembered[Stamp(name, size, modified, inode)] = digest
    return remembered


def remembered_array(kind: str, made_by: Any, compute: Callable[[], Any]) -> Any:
    """An array kept under runs/ by a hash of all that determines it; computed, and stored, the first time only.

    One that cannot be read is computed again.
    """
    import numpy as np

    path = runs_folder() / f".{kind}" / f"{sha256_json(made_by)}.npy"
    with contextlib.suppress(FileNotFoundError, ValueError, EOFError):
        return np.load(path, allow_pickle=False)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, computed := compute(), allow_pickle=False)
    return computed
