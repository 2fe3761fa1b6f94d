"""The grid and the selection over parts on a real Slurm of two loopback nodes: one dies, the controller is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs requirements-batch.txt")

import slurm_cluster
from engine_runs import OFFLINE, SMALL_GRID, command_of, results_of, run_command
from row_parts import selected, write_lines

needs_slurm = pytest.mark.skipif(
    bool(slurm_cluster.missing_programs()) or os.geteuid() != 0,
    reason="needs root and Debian's slurmctld, slurmd, slurm-client and munge",
)

# No accounting here, and no forty seconds until the first look at a job.
ON_SLURM = ["--on", "slurm", "--", "--slurm-status-command", "squeue", "--slurm-no-account"]
ON_SLURM += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm_cluster.running(folder) as started:
        started.environment |= {**OFFLINE, "LIM_RUNS": str(tmp_path / "runs")}
        yield started


def _wait_for(what, seconds=300.0):
    """The first true thing that `what` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {what.__name__}")


def _running_on(cluster, node):
    return [job[0] for job in cluster.jobs() if job[1:3] == ["RUNNING", node]]


def _lose_node_at_work(cluster, controller):
    """Lose n2 while it runs a job, bring it back when Slurm has noticed, and give the job's number."""

    def busy():
        assert controller.poll() is None, "the controller ended before a job ran on n2"
        return _running_on(cluster, "n2")

    job = _wait_for(busy)[0]
    cluster.lose_node("n2")

    def given_up():
        return cluster.nodes()["n2"].startswith("down")

    _wait_for(given_up)
    cluster.start_node("n2")
    return job


def _restarts(cluster, job):
    return next(int(line[-1]) for line in cluster.jobs() if line[0] == job)


@needs_slurm
@pytest.mark.system
def test_a_selection_over_parts_survives_a_lost_node(cluster, tmp_path):
    write_lines(tmp_path / "parts", [[3, 1, 4], [1, 5], [], [9, 2, 6, 5]])
    asked = ["parts/*.jsonl", "-k", "4", "--measure", "words", "-o"]
    arguments = ["execution.cluster", "select", *asked, "out.jsonl", *ON_SLURM]
    with subprocess.Popen(
        command_of(*arguments), cwd=tmp_path, env=cluster.environment, stdout=subprocess.PIPE, text=True
    ) as controller:
        lost = _lose_node_at_work(cluster, controller)
        controller.communicate(timeout=300)
    assert controller.returncode == 0
    assert _restarts(cluster, lost) == 1
    once = run_command(["select", *asked, "once.jsonl"], tmp_path)
    assert "once.jsonl: 4 of 9 rows, words >= 5" in once.stdout
    assert selected(tmp_path / "out.jsonl") == selected(tmp_path / "once.jsonl")


@needs_slurm
@pytest.mark.long
def test_the_grid_survives_a_lost_node_and_a_killed_controller(cluster, tmp_path):
    (tmp_path / "grid.toml").write_text(SMALL_GRID)
    arguments = ["execution.cluster", "grid.toml", *ON_SLURM]
    markers = tmp_path / "runs" / "small-grid" / "batch"

    def some_done():
        return len(list(markers.glob("*.done"))) >= 8

    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen(
            command_of(*arguments), cwd=tmp_path, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT
        )
        lost = _lose_node_at_work(cluster, first)
        _wait_for(some_done, 900)
        _wait_for(lambda: _running_on(cluster, "n1") + _running_on(cluster, "n2"))
        first.send_signal(signal.SIGKILL)
        first.wait()
    left = [job[0] for job in cluster.jobs() if job[1] in ("RUNNING", "PENDING")]
    assert left, "the killed controller's jobs live on"
    assert _restarts(cluster, lost) == 1

    second = run_command(arguments, tmp_path, cluster.environment)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"(process {first.pid} on " in second.stdout
    assert "did not end: what it finished is kept" in second.stdout
    assert "Its Slurm jobs are cancelled and submitted anew" in second.stdout
    assert len(list(markers.glob("*.done"))) == 20

    third = run_command(arguments, tmp_path, cluster.environment)
    assert third.returncode == 0
    assert "20 jobs, 20 of them fresh already" in third.stdout

    alone = run_command(["run", "grid.toml"], tmp_path, {"LIM_RUNS": str(tmp_path / "alone")})
    assert alone.returncode == 0, alone.stderr
    assert results_of(tmp_path / "runs") == results_of(tmp_path / "alone")
    assert Path(second.stdout.rpartition("The report: ")[2].strip()).is_file()
