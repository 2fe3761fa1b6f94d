"""Freshness is checked once: bytes are read for a hash once, in one place, and never trusted when they may differ."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from nbutils import arms, explore, finetune, generate, judge, length_bias, report, select
from nbutils.core import disk, manifests, settings
from nbutils.core.manifests import Plan
from nbutils.training import models


def settle(folder):
    """Let a folder's files look as if they had been written a while ago."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != disk.HASHES:
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10 * disk.SETTLED_NS))


@pytest.fixture
def read(monkeypatch):
    """How often the bytes of every file were read for a hash."""
    counted, hash_bytes = Counter(), disk.hash_bytes
    monkeypatch.setattr(disk, "hash_bytes", lambda path: counted.update([str(path)]) or hash_bytes(path))
    return counted


@pytest.fixture
def file(runs):
    runs.mkdir()
    (runs / "weights.bin").write_bytes(b"abc")
    settle(runs)
    return runs / "weights.bin"


# --- one file ------------------------------------------------------------------------------------------------------


def test_a_file_is_read_once(file, read):
    assert disk.sha256_file(file) == disk.sha256_file(file) == disk.hash_bytes(file)
    assert read[str(file)] == 2, "once for its hash, and once by this test"


HASH = """
import sys
from pathlib import Path
from nbutils.core import disk
read, hash_bytes = [], disk.hash_bytes
disk.hash_bytes = lambda path: read.append(path) or hash_bytes(path)
print(disk.sha256_file(Path(sys.argv[1])), len(read))
"""


def hash_in_another_process(file):
    done = subprocess.run([sys.executable, "-c", HASH, str(file)], capture_output=True, text=True, check=True)
    digest, reads = done.stdout.split()
    return digest, int(reads)


def test_another_process_does_not_read_it_again(file):
    assert [hash_in_another_process(file) for _ in range(2)] == [(disk.hash_bytes(file), 1), (disk.hash_bytes(file), 0)]


def test_many_processes_remember_together(file):
    others = [file.with_name(f"{number}.bin") for number in range(6)]
    for number, other in enumerate(others):
        other.write_bytes(b"%d" % number)
    settle(file.parent)
    begun = [subprocess.Popen([sys.executable, "-c", HASH, str(other)], stdout=subprocess.PIPE) for other in others]
    assert all(process.communicate(timeout=60)[0].endswith(b" 1\n") for process in begun)
    assert [hash_in_another_process(other) for other in others] == [(disk.hash_bytes(other), 0) for other in others]


def replace(file):
    other = file.with_name("other")
    other.write_bytes(b"xyz")
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"xyz"),
        lambda file: file.write_bytes(b"abcd"),
        lambda file: (file.write_bytes(b"xyz"), os.utime(file, ns=(0, file.stat().st_mtime_ns - disk.SETTLED_NS * 5))),
        replace,
    ],
    ids=["other bytes", "another size", "an older time", "another file of the same size and time"],
)
def test_a_change_is_noticed(file, change):
    before = disk.sha256_file(file)
    change(file)
    assert disk.sha256_file(file) == disk.hash_bytes(file) != before


def test_a_file_that_was_just_written_is_read_again(file, read):
    file.write_bytes(b"new")
    assert disk.sha256_file(file) == disk.sha256_file(file)
    assert read[str(file)] == 2, "a second change within a tick of the clock would look the same"
    assert not (file.parent / disk.HASHES).exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file, monkeypatch):
    hash_bytes = disk.hash_bytes
    monkeypatch.setattr(disk, "hash_bytes", lambda path: (hash_bytes(path), path.write_bytes(b"xyz"))[0])
    disk.sha256_file(file)
    monkeypatch.setattr(disk, "hash_bytes", hash_bytes)
    assert disk.sha256_file(file) == hash_bytes(file)


@pytest.mark.parametrize(
    "content",
    [
        "\x00\xff",
        "[]\n{}\n1\n",
        '["{path}", 3, {modified}, {inode}, "torn',
        '["{path}", 3, {modified}, {inode}, 7]\n',
        '["{path}", "3", {modified}, {inode}, "{digest}"]',
        "[" * 100_000,
    ],
    ids=["binary", "other JSON", "torn", "no hash", "other types", "deep"],
)
def test_what_else_stands_in_the_memory_is_passed_over(file, content):
    found = disk.stamp_file(file)
    for name, value in {"path": file, "modified": found.modified, "inode": found.inode, "digest": "0" * 64}.items():
        content = content.replace(f"{{{name}}}", str(value))
    (file.parent / disk.HASHES).write_text(content, encoding="latin-1")
    assert [hash_in_another_process(file) for _ in range(2)] == [(disk.hash_bytes(file), 1), (disk.hash_bytes(file), 0)]


def test_without_a_folder_of_runs_nothing_is_written(tmp_path, runs):
    (tmp_path / "file").write_bytes(b"abc")
    settle(tmp_path)
    disk.sha256_file(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_memory_that_cannot_be_written_does_no_harm(file):
    (file.parent / disk.HASHES).mkdir()
    assert disk.sha256_file(file) == disk.hash_bytes(file)


@pytest.mark.parametrize("missing", ["none", ""])
def test_what_is_no_file_is_refused_as_ever(file, missing):
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        disk.sha256_file(file.parent / missing)


# --- one manifest --------------------------------------------------------------------------------------------------


def write_rows(folder):
    disk.write_text(folder / "rows.txt", "rows")
    return {}


@pytest.fixture
def plan(runs):
    planned = Plan("stage", "tiny", "arm", 42, runs / "stage", {"a": 1}, {"source": "0" * 64})
    manifests.complete(planned, write_rows)
    settle(runs)
    return planned


@pytest.fixture
def verified(monkeypatch):
    """How often every manifest was verified."""
    counted, verify = Counter(), manifests._verify
    monkeypatch.setattr(manifests, "_verify", lambda plan: counted.update([plan.folder]) or verify(plan))
    return counted


def test_a_manifest_is_verified_once(plan, verified, read):
    assert manifests.fresh_manifest(plan) is manifests.fresh_manifest(plan) is not None
    assert (list(verified.values()), list(read.values())) == ([1], [1])


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.write_text("ROWS"),
        lambda rows: rows.unlink(),
        replace,
        lambda rows: (rows.unlink(), rows.mkdir()),
        lambda rows: rows.with_name("manifest.json").unlink(),
        lambda rows: rows.with_name("manifest.json").write_text("{}"),
    ],
    ids=["bytes", "deleted", "replaced", "a folder", "no manifest", "another manifest"],
)
def test_a_manifest_that_was_verified_goes_stale(plan, change):
    assert manifests.fresh_manifest(plan)
    change(plan.folder / "rows.txt")
    assert manifests.fresh_manifest(plan) is None


def test_the_same_bytes_at_another_time_are_fresh(plan, read):
    before = manifests.fresh_manifest(plan)
    os.utime(plan.folder / "rows.txt", ns=(0, time.time_ns()))
    assert manifests.fresh_manifest(plan) == before
    assert list(read.values()) == [2]


# --- a whole run ---------------------------------------------------------------------------------------------------


def invent_run():
    """Results of every stage of `tiny`, whatever they say, as fresh as they can be."""
    profile, target = arms.prepare("tiny")
    planners = [lambda: explore.plan("tiny"), lambda: models.plan_tiny(profile, 42)]
    plans = (select.plan, finetune.plan, generate.plan, generate.plan_measures)
    for plan in plans:
        planners += [lambda plan=plan, arm=arm: plan("tiny", arm, 42) for arm in profile.arms]
    planners += [lambda stage=stage: stage.plan("tiny", target, 42) for stage in (judge, length_bias)]
    for planner in planners:
        manifests.complete(planner(), write_rows)


PLAN = """
from nbutils import report
from nbutils.core import disk
disk.hash_bytes = lambda path: exit(f"{path} is read again")
print(report.plan("tiny").key)
"""


def test_one_report_reads_every_file_and_manifest_once(runs, no_data, read, verified, monkeypatch):
    runs.mkdir()
    invent_run()
    settle(runs)
    for counted in (read, verified, manifests._VERIFIED):
        counted.clear()
    resolved, draw = [], arms._draw_from_sample.__wrapped__
    monkeypatch.setattr(arms, "_draw_from_sample", settings.functools.cache(lambda *a: resolved.append(a) or draw(*a)))
    settings._validate.cache_clear()

    planned = report.plan("tiny")
    assert "missing" not in planned.inputs.values()
    assert set(read.values()) == {1} and len([path for path in read if path.startswith(str(runs))]) > 8
    fresh = [folder for folder in verified if (folder / "rows.txt").is_file()]
    assert {verified[folder] for folder in fresh} == {1} and len(fresh) > 8
    assert (settings._validate.cache_info().misses, len(resolved)) == (1, 1), "the profile is resolved once"

    again = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, check=False)
    assert (again.stdout.strip(), again.stderr) == (planned.key, ""), "another process reads no file again"
    assert all(isinstance(json.loads(line or "[]"), list) for line in (runs / disk.HASHES).read_text().splitlines())


def test_a_large_file_that_was_just_written_is_hashed_once(tmp_path, runs, monkeypatch):
    """Waited for until its stamp tells it from a later change, and then remembered, for other processes too."""
    runs.mkdir()
    monkeypatch.setattr(disk, "LARGE", 1000)
    monkeypatch.setattr(disk, "SETTLED_NS", 3 * 10**8)
    read, path = [], tmp_path / "model.safetensors"
    hashed = disk.hash_bytes
    monkeypatch.setattr(disk, "hash_bytes", lambda name: read.append(name) or hashed(name))
    path.write_bytes(b"x" * 2000)
    digests = set()
    for _ in range(3):
        disk._read_hashes.cache_clear()
        digests.add(disk.sha256_file(path))
    assert (len(read), len(digests)) == (1, 1)
    path.write_bytes(b"y" * 2000)
    assert disk.sha256_file(path) not in digests
