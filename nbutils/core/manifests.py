"""The manifest that says what made a stage's files, and whether they are still fresh.

A stage's `run(profile, arm, seed)` makes a `Plan` (what would be computed from what) and hands it with the work to
`complete`, which returns at once when the manifest in the plan's folder still matches the plan.
"""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbutils import ROOT
from nbutils.core import disk
from nbutils.core.machine import free_memory

MANIFEST = "manifest.json"


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
        return disk.sha256_json([self.stage, self.arm, self.seed, self.settings, self.inputs, self.version])


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
        return disk.sha256_json(self.outputs)

    def path(self, name: str) -> Path:
        """Full path of one output."""
        return self.folder / name


def stage_folder(profile: str, stage: str, arm: str, seed: int) -> Path:
    """`runs/<profile>/<stage>/<arm>/seed-<n>`."""
    return disk.runs_folder() / profile / stage / arm / f"seed-{seed}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none that can be read."""
    try:
        found = Manifest(folder=folder, **json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        return found if isinstance(found.outputs, dict) and isinstance(found.facts, dict) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def fresh_manifest(plan: Plan) -> Manifest | None:
    """The stored manifest if it answers exactly this plan and every output is on disk unchanged."""
    manifest, stamps = _VERIFIED.get(plan.folder, (None, None))
    is_known = manifest and manifest.key == plan.key and _stamp_files(manifest) == stamps
    return manifest if is_known else _verify(plan)


_VERIFIED: dict[Path, tuple[Manifest, list[disk.Stamp]]] = {}
"""By folder, with the stamps of its files: a process verifies a manifest once, however many later stages ask for it."""


def _verify(plan: Plan) -> Manifest | None:
    """Read a plan's manifest and compare the hashes of its outputs."""
    manifest = read_manifest(plan.folder)
    if manifest is None or manifest.key != plan.key:
        return None
    stamps = _stamp_files(manifest)
    is_settled = all(stamp.is_settled() for stamp in stamps)
    if not stamps or any(disk.sha256_file(manifest.path(name)) != known for name, known in manifest.outputs.items()):
        return None
    if is_settled:
        _VERIFIED[plan.folder] = manifest, stamps
    return manifest


def _stamp_files(manifest: Manifest) -> list[disk.Stamp]:
    """The stamps of a manifest and of its outputs; none where one of them is missing."""
    paths = [manifest.path(name) for name in (MANIFEST, *manifest.outputs)]
    return [disk.stamp_file(path) for path in paths] if all(path.is_file() for path in paths) else []


def upstream(plan: Plan) -> str:
    """Fingerprint of an earlier stage's fresh output, for a later stage's inputs; "missing" where there is none."""
    manifest = fresh_manifest(plan)
    return manifest.fingerprint if manifest else "missing"


LOADS_MODELS = ("finetune", "merge", "generate", "capabilities")
"""Stages behind which Python's collector is sent round, which takes half a second in a large process. A local judge's
model goes with its backend."""


def complete(plan: Plan, work: Callable[[Path], dict[str, Any]]) -> Manifest:
    """Return the fresh manifest, or do the work and write one.

    `work(folder)` writes its files into the folder and returns the facts worth recording; facts["outputs"] lists the
    files that count (default: all). The manifest is written last, so a stage that was killed is simply not finished.
    Two processes asking for the same stage wait for each other. Models that the work has left behind are let go: the
    next stage of the same process needs their memory.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    notice = f"waiting for another process that is at work in {plan.folder}"
    with disk.take_lock(plan.folder / ".lock", notice, patience=1):
        if manifest := fresh_manifest(plan):
            return manifest
        (plan.folder / MANIFEST).unlink(missing_ok=True)
        started = datetime.datetime.now(datetime.UTC)
        made = _conclude(plan, work(plan.folder), started)
    if plan.stage in LOADS_MODELS:
        free_memory()
    return made


def _conclude(plan: Plan, facts: dict[str, Any], started: datetime.datetime) -> Manifest:
    present = (path for path in plan.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    visible = [path.relative_to(plan.folder).as_posix() for path in present if path.name != MANIFEST]
    names = facts.pop("outputs", None) or visible
    now = datetime.datetime.now(datetime.UTC)
    manifest = Manifest(
        stage=plan.stage,
        profile=plan.profile,
        arm=plan.arm,
        seed=plan.seed,
        folder=plan.folder,
        key=plan.key,
        settings=json.loads(json.dumps(plan.settings, default=str)),
        inputs=plan.inputs,
        outputs={name: disk.sha256_file(plan.folder / name) for name in sorted(names)},
        facts=facts,
        versions=installed_versions(),
        git=git_revision(),
        seconds=round((now - started).total_seconds(), 2),
        created=now.isoformat(timespec="seconds"),
    )
    disk.write_json(plan.folder / MANIFEST, {key: value for key, value in asdict(manifest).items() if key != "folder"})
    return manifest


@functools.cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result, without importing them."""
    versions = {"python": sys.version.split()[0]}
    for name in ("numpy", "nltk", "tokenizers", "torch", "transformers", "peft", "trl", "bitsandbytes", "sacrebleu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_revision() -> str:
    """Commit of the checkout, with "+" when it has uncommitted changes; "unknown" outside git."""
    questions = ("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no")
    try:
        revision, changes = (
            subprocess.run(["git", "-C", str(ROOT), *asked], capture_output=True, text=True, check=True).stdout.strip()
            for asked in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + "+" * bool(changes)


MINIMUM_JUDGED = 0.99  # below this share of judged prompts no headline is given


def is_enough(judged: int, asked: int) -> bool:
    """Whether so many of what was asked were judged that a headline may rest on them."""
    return judged >= MINIMUM_JUDGED * asked


def is_too_much(failed: int, asked: int) -> bool:
    """Whether more calls failed than a headline may lack."""
    return failed > (1 - MINIMUM_JUDGED) * asked


def is_lacking(made: Manifest) -> bool:
    """Whether a result lacks so many calls that they are asked again; without the fact, 1% of all calls decides."""
    failed, asked = made.facts.get("failed", 0), made.facts.get("asked", 0)
    return bool(made.facts.get("lacking", is_too_much(failed, asked)))


def complete_calls(planned: Plan, work: Callable[[Path], dict[str, Any]]) -> Manifest:
    """As `complete`, but failed calls are asked again where there are too many (`is_lacking`).

    Only those: what was answered is in the ledger. Fewer stay as they are, counted.
    """
    if (made := fresh_manifest(planned)) and is_lacking(made):
        made.path(MANIFEST).unlink(missing_ok=True)
    return complete(planned, work)
