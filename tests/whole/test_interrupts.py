"""Ctrl-C, sent to real processes: one line, status 130, no process left, and nothing half-written."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest

from nbutils import ROOT

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


@pytest.mark.thorough
@pytest.mark.slow
def test_while_a_notebook_is_executed(tmp_path):
    command = Command(tmp_path, "nbutils.run", "tiny")
    command.wait_for((tmp_path / "runs" / "tiny" / "explore").is_dir)  # the kernel is at work
    kernels = psutil.Process(command.process.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(kernel.cmdline()) for kernel in kernels)
    assert_clean(command, tmp_path)
    assert not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels)


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0.94, 0.98])
def test_while_the_kernel_dies_by_itself(tmp_path, seconds):
    """nbclient looks once a second whether the kernel lives: about then it finds it dead while it is ending it."""
    ignore, press = "signal.signal(signal.SIGINT, signal.SIG_IGN)", "os.kill(os.getppid(), signal.SIGINT)"
    lines = ["import os, signal, time", ignore, press, f"time.sleep({seconds})", "os._exit(1)"]
    cells = [nbformat.v4.new_code_cell("\n".join(lines))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "dies.ipynb")
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from nbutils import run\n"
        "from nbutils.core import errors\n"
        "errors.exits_cleanly(run.execute_notebook)(Path('dies.ipynb'), Path('out.ipynb'), {})\n",
        encoding="utf-8",
    )
    command = Command(tmp_path, "mine", PYTHONPATH=str(ROOT))
    assert command.process.wait(60) == 130
    assert command.said().splitlines() == [SAID]
    assert unfinished(tmp_path) == []


@pytest.fixture
def silence():
    """The address of a server that takes every connection and never says a word, and what it took."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


@pytest.mark.thorough
def test_while_a_judge_is_waited_for(tmp_path, silence):
    url, taken = silence
    for name in ("a", "b"):
        rows = [{"id": str(i), "prompt": f"Say {i}.", "response": f"{name} {i}"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    judging = ["--judge", "m", "--base-url", f"{url}/v1", "-o", "out"]
    command = Command(tmp_path, "nbutils.judge", "a.jsonl", "b.jsonl", *judging, OPENAI_API_KEY="x", LIM_OFFLINE="")
    command.wait_for(lambda: taken)
    assert_clean(command, tmp_path)


@pytest.mark.thorough
def test_while_a_refiner_is_waited_for(tmp_path, silence):
    url, taken = silence
    refiner = f'{{ name = "r", kind = "openai", model = "m", base_url = "{url}/v1" }}'
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    assert "[refining]\n" in text
    text = text.replace("[refining]\n", f"[refining]\nrefiner = {refiner}\n")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    command = Command(tmp_path, "nbutils.refine", "mine.toml")
    command.wait_for(lambda: taken)
    status, left = command.interrupt()
    assert (status, left) == (130, [])
    assert command.said().splitlines()[-1] == SAID and "Traceback" not in command.said()
    assert unfinished(tmp_path) == []


@pytest.mark.thorough
def test_while_data_are_fetched(tmp_path, silence):
    url, taken = silence
    # The part of an earlier download is kept: the next call resumes it.
    environment = {"LIM_OFFLINE": "", "HTTPS_PROXY": url, "https_proxy": url, "HF_HUB_DISABLE_XET": "1"}
    command = Command(tmp_path, "nbutils.data", "fetch", "lima-1k", **environment)
    command.wait_for(lambda: taken)
    assert_clean(command, tmp_path)
    assert "fetching https://" in command.out.read_text(encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.parametrize("processes", ["1", "2"])
def test_while_a_file_is_selected_from(tmp_path, processes):
    rows = ({"instruction": f"say {i}", "output": "words, and more. " * (i % 300)} for i in range(60_000))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ["-k", "1000", "-o", "out.jsonl", "--processes", processes]
    command = Command(tmp_path, "nbutils.select", "rows.jsonl", *options)
    command.wait_for(
        lambda: psutil.Process(command.process.pid).memory_info().rss > 0 and "rows read" in command.said()
    )
    assert_clean(command, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err.log", "out.log", "rows.jsonl"]


@pytest.mark.thorough
def test_while_figures_are_drawn(tmp_path):
    shutil.copytree(ROOT / "figures" / "tables", tmp_path / "tables")
    command = Command(tmp_path, "nbutils.figures", "--folder", str(tmp_path))
    command.wait_for(lambda: any(tmp_path.glob("*.png")))
    assert_clean(command, tmp_path)
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes()[-8:] == b"IEND\xaeB`\x82"


@pytest.mark.thorough
@pytest.mark.slow
def test_while_a_model_is_trained(tmp_path):
    command = Command(tmp_path, "nbutils.finetune", "tiny", "sample-60-longest")
    command.wait_for(lambda: " elapsed, " in command.said())
    status, left = command.interrupt()
    assert (status, left) == (130, [])
    assert command.said().count(SAID) == 1
    assert "Traceback" not in command.said()
    assert not any((tmp_path / "runs").rglob("manifest.json.*"))


@pytest.mark.thorough
@pytest.mark.slow
def test_while_a_grid_of_jobs_runs(tmp_path):
    pytest.importorskip("snakemake")
    command = Command(tmp_path, "nbutils.execution.cluster", "tiny")
    command.wait_for((tmp_path / "runs" / "tiny" / "explore").is_dir)
    status, left = command.interrupt()
    assert (status, left) == (130, [])
    assert command.said().splitlines()[-1] == SAID
    assert "Traceback" not in command.said()
    assert not (tmp_path / "runs" / "tiny" / "batch" / "controller.json").exists()
    assert unfinished(tmp_path / "runs" / "tiny" / "notebooks") == []
