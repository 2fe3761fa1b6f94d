"""Atomic writes, and stages that are done once and only redone when something has changed."""

import dataclasses
import hashlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from nbutils import ROOT
from nbutils.core import disk, manifests
from nbutils.core.manifests import Plan

# --- atomic writes -------------------------------------------------------------------------------------------------


def test_writes_replace_and_leave_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    disk.write_text(path, "old\n")
    disk.write_text(path, "né\n")
    assert path.read_bytes() == b"n\xc3\xa9\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    disk.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), disk.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_json_is_the_same_for_equal_values(tmp_path):
    disk.write_json(tmp_path / "a", {"b": 1, "a": "é"})
    disk.write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()


def test_json_lines_round_trip(tmp_path):
    records = [{"text": "two\nlines é\u2028"}, {"n": 1.5, "none": None}]
    disk.write_jsonl(tmp_path / "rows.jsonl", records)
    assert disk.read_jsonl(tmp_path / "rows.jsonl") == records
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 2


def test_hashes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    assert disk.sha256_file(tmp_path / "file") == expected
    assert disk.sha256_json({"b": [1], "a": "é"}) == hashlib.sha256('{"a":"é","b":[1]}'.encode()).hexdigest()


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from nbutils.core.disk import write_text
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_text(Path(sys.argv[1]), str(number % 10) * 300_000)
"""


@pytest.mark.thorough
def test_a_killed_write_leaves_the_old_content_or_the_new(tmp_path):
    path, randomness = tmp_path / "file.txt", random.Random(0)
    path.write_text("x" * 300_000)
    seen = set()
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(randomness.uniform(0.002, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        content = path.read_text()
        assert len(content) == 300_000 and len(set(content)) == 1, "torn"
        seen.add(content[0])
    assert len(seen) > 1, "the writer never got to write, so nothing was tested"


WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from nbutils.core import disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    disk.write_text(Path(sys.argv[1]), "new" * 100_000)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    disk.write_text(path, "old")
    command = [sys.executable, "-B", "-c", WRITE_ON_A_FULL_DISK, str(path)]  # -B: no compiled modules, cut off
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "OSError 27\n", "the limit on a file's size was reached"
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


SELECT_ON_A_FULL_DISK = """
import resource, sys
from nbutils import select
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
select.main(sys.argv[1:])
"""


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_a_selection_on_a_full_disk_is_one_line(tmp_path, name):
    randomness = random.Random(0)
    rows = [{"output": "".join(randomness.choices("abcdefgh ", k=1000))} for _ in range(1000)]
    text = json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows))
    source = tmp_path / name.removesuffix(".gz")
    source.write_text(text)
    out = tmp_path / f"out.{name}"
    options = [str(source), "-k", "900", "--measure", "chars", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-B", "-c", SELECT_ON_A_FULL_DISK, *options], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {out}: cannot be written (File too large): choose another place, or make room\n"
    assert [each.name for each in tmp_path.iterdir()] == [source.name]


# --- stages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path):
    return Plan("stage", "tiny", "arm", 42, tmp_path / "stage", {"a": 1}, {"source": "0" * 64})


class _Work:
    """Writes two files and counts how often it was asked to."""

    def __init__(self):
        self.times = 0

    def __call__(self, folder):
        self.times += 1
        disk.write_text(folder / "rows.txt", f"rows {self.times}")
        disk.write_text(folder / "deep" / "more.txt", "more")
        return {"found": self.times}


def test_done_once(plan):
    work = _Work()
    first = manifests.complete(plan, work)
    assert manifests.complete(plan, work) == first
    assert work.times == 1
    assert (first.facts, first.settings, first.inputs) == ({"found": 1}, {"a": 1}, {"source": "0" * 64})
    assert first.outputs == {
        "deep/more.txt": hashlib.sha256(b"more").hexdigest(),
        "rows.txt": hashlib.sha256(b"rows 1").hexdigest(),
    }
    assert first.path("rows.txt").read_text() == "rows 1"
    assert manifests.read_manifest(plan.folder) == first
    assert first.versions["python"] == sys.version.split()[0]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"a": 2}},
        {"settings": {"a": 1, "b": None}},
        {"inputs": {"source": "1" * 64}},
        {"seed": 43},
        {"arm": "other"},
        {"version": 2},
    ],
)
def test_redone_when_what_determines_it_changes(plan, change):
    work = _Work()
    manifests.complete(plan, work)
    changed = dataclasses.replace(plan, **change)
    assert manifests.fresh_manifest(changed) is None
    again = manifests.complete(changed, work)
    assert (work.times, again.facts) == (2, {"found": 2})
    assert again.key == changed.key != plan.key


def test_the_profiles_name_alone_changes_nothing(plan):
    assert dataclasses.replace(plan, profile="other").key == plan.key


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "rows.txt").write_text("rows X"),
        lambda folder: (folder / "rows.txt").unlink(),
        lambda folder: (folder / "deep" / "more.txt").write_text("mor"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text('{"stage": "stage"}'),
    ],
)
def test_redone_when_its_files_have_changed(plan, damage):
    work = _Work()
    manifests.complete(plan, work)
    damage(plan.folder)
    assert manifests.fresh_manifest(plan) is None
    assert manifests.complete(plan, work).facts == {"found": 2}
    assert (plan.folder / "rows.txt").read_text() == "rows 2"


def test_only_the_outputs_that_are_named_count(plan):
    def work(folder):
        disk.write_text(folder / "rows.txt", "rows")
        disk.write_text(folder / "log.txt", "log")
        return {"outputs": ["rows.txt"], "n": 1}

    made = manifests.complete(plan, work)
    assert (list(made.outputs), made.facts) == (["rows.txt"], {"n": 1})
    (plan.folder / "log.txt").unlink()
    assert manifests.fresh_manifest(plan) == made


def test_what_a_killed_write_left_is_no_output(plan):
    plan.folder.mkdir(parents=True)
    (plan.folder / ".rows.txt.abc.part").write_text("half")
    assert list(manifests.complete(plan, _Work()).outputs) == ["deep/more.txt", "rows.txt"]


def test_work_that_fails_leaves_no_manifest(plan):
    work = _Work()
    manifests.complete(plan, work)

    def fails(folder):
        disk.write_text(folder / "rows.txt", "half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        manifests.complete(dataclasses.replace(plan, version=2), fails)
    assert manifests.read_manifest(plan.folder) is None
    assert manifests.complete(plan, work).facts == {"found": 2}, "the old result is gone, so the old plan is redone"


def test_the_fingerprint_is_of_the_outputs_alone(plan):
    made = manifests.complete(plan, _Work())
    assert dataclasses.replace(made, created="other", seconds=9.0).fingerprint == made.fingerprint
    assert dataclasses.replace(made, outputs={"rows.txt": "0"}).fingerprint != made.fingerprint
    assert manifests.upstream(plan) == made.fingerprint
    assert manifests.upstream(dataclasses.replace(plan, version=2)) == "missing"


TOGETHER = """
import sys, time
from pathlib import Path
from nbutils.core import disk
from nbutils.core import manifests
folder = Path(sys.argv[1])
def work(folder):
    with open(folder.parent / "log", "a") as log:
        log.write("x")
    time.sleep(0.5)
    disk.write_text(folder / "rows.txt", "rows")
    return {"n": 1}
plan = manifests.Plan("stage", "tiny", "arm", 42, folder / "stage", {}, {})
print("created", manifests.complete(plan, work).created)
"""


def test_two_processes_do_the_work_once(tmp_path):
    command = [sys.executable, "-c", TOGETHER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = {process.communicate(timeout=60)[0].splitlines()[-1] for process in processes}
    assert len(lines) == 1 and lines.pop().startswith("created 2"), "both return the same manifest"
    assert (tmp_path / "log").read_text() == "x"


@pytest.mark.thorough
def test_waiting_for_another_process_is_said(tmp_path):
    (tmp_path / "stage").mkdir()
    with FileLock(tmp_path / "stage" / ".lock"):
        process = subprocess.Popen([sys.executable, "-c", TOGETHER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == f"waiting for another process that is at work in {tmp_path / 'stage'}\n"
    assert process.communicate(timeout=60)[0].startswith("created 2")


def test_where_runs_go(runs, monkeypatch):
    assert manifests.stage_folder("tiny", "select", "arm", 7) == runs / "tiny" / "select" / "arm" / "seed-7"
    monkeypatch.delenv("LIM_RUNS")
    assert disk.runs_folder() == ROOT / "runs"
