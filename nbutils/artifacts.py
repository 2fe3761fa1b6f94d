"""Atomic writes, and the manifest that says what made a stage's files and whether they are still fresh.

A stage's `run(profile, arm, seed)` makes a `Plan` (what would be computed from what) and hands it with the work to
`complete`, which returns at once when the manifest in the plan's folder still matches the plan.
"""

import contextlib
import csv
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nbutils import ROOT

MANIFEST = "manifest.json"
VERSIONED = ("numpy", "nltk", "tokenizers", "torch", "transformers", "peft", "trl", "bitsandbytes", "sacrebleu")


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


# --- plans and manifests -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a stage would compute: where, with which settings, from which inputs (name to hash).

    `version` is raised by hand when a stage's output changes its meaning, so that old results count as stale.
    """

    stage: str
    profile: str
    arm: str
    seed: int
    folder: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    version: int = 1

    @property
    def key(self) -> str:
        """Hash of all that determines the result."""
        return sha256_json([self.stage, self.arm, self.seed, self.settings, self.inputs, self.version])


@dataclass(frozen=True)
class Manifest:
    """What made a stage's files: the plan, the outputs' hashes, the facts found, versions and git revision."""

    stage: str
    profile: str
    arm: str
    seed: int
    key: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    facts: dict[str, Any]
    versions: dict[str, str]
    git: str
    seconds: float
    created: str
    folder: Path = field(compare=False)

    @property
    def fingerprint(self) -> str:
        """Hash of what a later stage depends on: the outputs' bytes."""
        return sha256_json(self.outputs)

    def path(self, name: str) -> Path:
        """Full path of one output."""
        return self.folder / name


def runs_folder() -> Path:
    """Where runs are written: `LIM_RUNS`, else `runs/` in the repository."""
    return Path(os.environ.get("LIM_RUNS") or ROOT / "runs")


def stage_folder(profile: str, stage: str, arm: str, seed: int) -> Path:
    """`runs/<profile>/<stage>/<arm>/seed-<n>`."""
    return runs_folder() / profile / stage / arm / f"seed-{seed}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none that can be read."""
    try:
        stored = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(folder=folder, **stored)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def fresh_manifest(plan: Plan) -> Manifest | None:
    """The stored manifest if it answers exactly this plan and every output is on disk unchanged."""
    manifest = read_manifest(plan.folder)
    if manifest is None or manifest.key != plan.key:
        return None
    intact = all(_has_hash(plan.folder / name, expected) for name, expected in manifest.outputs.items())
    return manifest if intact else None


def upstream(plan: Plan) -> str:
    """Fingerprint of an earlier stage's fresh output, for a later stage's inputs; "missing" where there is none."""
    manifest = fresh_manifest(plan)
    return manifest.fingerprint if manifest else "missing"


def _has_hash(path: Path, expected: str) -> bool:
    return path.is_file() and sha256_file(path) == expected


def complete(plan: Plan, work: Callable[[Path], dict[str, Any]]) -> Manifest:
    """Return the fresh manifest, or do the work and write one.

    `work(folder)` writes its files into the folder and returns the facts worth recording; facts["outputs"] lists the
    files that count (default: all). The manifest is written last, so a stage that was killed is simply not finished.
    Two processes asking for the same stage wait for each other.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _locked(plan.folder):
        manifest = fresh_manifest(plan)
        if manifest is None:
            (plan.folder / MANIFEST).unlink(missing_ok=True)
            started = datetime.datetime.now(datetime.UTC)
            facts = work(plan.folder)
            manifest = _conclude(plan, facts, started)
    return manifest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that is at work in {folder}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _conclude(plan: Plan, facts: dict[str, Any], started: datetime.datetime) -> Manifest:
    names = facts.pop("outputs", None) or _visible_files(plan.folder)
    now = datetime.datetime.now(datetime.UTC)
    manifest = Manifest(
        stage=plan.stage,
        profile=plan.profile,
        arm=plan.arm,
        seed=plan.seed,
        key=plan.key,
        settings=json.loads(json.dumps(plan.settings, default=str)),
        inputs=plan.inputs,
        outputs={name: sha256_file(plan.folder / name) for name in sorted(names)},
        facts=facts,
        versions=installed_versions(),
        git=git_revision(),
        seconds=round((now - started).total_seconds(), 2),
        created=now.isoformat(timespec="seconds"),
        folder=plan.folder,
    )
    stored = asdict(manifest)
    del stored["folder"]
    write_json(plan.folder / MANIFEST, stored)
    return manifest


def _visible_files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path.as_posix() for path in paths if path.name != MANIFEST and not path.name.startswith(".")]


# --- what ran ------------------------------------------------------------------------------------------------------


@functools.cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result, without importing them."""
    versions = {"python": sys.version.split()[0]}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_revision() -> str:
    """Commit of the checkout, with "+" when it has uncommitted changes; "unknown" outside git."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
