"""Ctrl-C, sent to real processes: one line, status 130, no process left, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

SAID = "interrupted; what was finished is kept, run the same command to continue"


class Command:
    """A command of the project in a session of its own, as a terminal starts it; its outputs go to files."""

    def __init__(self, folder, *arguments, python=(), **environment):
        self.out, self.err = folder / "out.log", folder / "err.log"
        own = {"LIM_RUNS": str(folder / "runs"), "LIM_OFFLINE": "1", "LIM_DATA_MIRROR": ""}
        own |= {"LIM_DATA_CACHE": str(folder / "cache")}
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *python, "-m", *arguments],
                env=os.environ | own | environment,
                cwd=folder,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_for(self, seen, seconds=120):
        deadline = time.monotonic() + seconds
        while not seen():
            assert self.process.poll() is None, f"it ended before it was interrupted: {self.said()}"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def interrupt(self):
        """Press Ctrl-C; return the exit status and the descendants that are left."""
        descendants = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGINT)
        status = self.process.wait(60)
        _, left = psutil.wait_procs(descendants, timeout=15)
        return status, left

    def said(self):
        return self.err.read_text(encoding="utf-8", errors="replace")


def assert_clean(command, folder, progress=" elapsed, "):
    status, left = command.interrupt()
    lines = [line for line in command.said().splitlines() if progress not in line]
    assert lines == [SAID]
    assert status == 130
    assert left == []
    assert unfinished(folder) == []


def unfinished(folder):
    """Files that a run leaves only when it is cut off: parts, and temporary ones of atomic writes."""
    signs = (".part", ".tmp", ".failed")
    return [path for path in folder.rglob("*") if path.is_file() and any(sign in path.name for sign in signs)]


def test_before_a_commands_first_line(tmp_path):
    command = Command(tmp_path, "nbutils.figures", "--folder", str(tmp_path), python=("-X", "importtime"))
    command.wait_for(lambda: "numpy" in command.said())
    assert_clean(command, tmp_path, progress="import time:")


@pytest.mark.slow
def test_while_a_notebook_is_executed(tmp_path):
    command = Command(tmp_path, "nbutils.run", "tiny")
    command.wait_for((tmp_path / "runs" / "tiny" / "explore").is_dir)  # the kernel is at work
    kernels = psutil.Process(command.process.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(kernel.cmdline()) for kernel in kernels)
    assert_clean(command, tmp_path)
    assert not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels)
