"""The grid of jobs: what it holds, what waits for what, and what Snakemake makes of it (by dry runs)."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from engine_runs import SMALL_GRID, run_command
from row_parts import selected, write_parquet

from nbutils import ROOT, run
from nbutils.core import disk, manifests, settings
from nbutils.core.errors import InputError
from nbutils.execution import cluster
from nbutils.run import Step
from nbutils.selection.files import SelectionRequest

needs_snakemake = pytest.mark.skipif(not cluster.is_installed(), reason="needs requirements-batch.txt")


@pytest.fixture
def grid_file(tmp_path, runs, no_data):
    """The small grid as a file, with `runs` as the place for results."""
    (tmp_path / "grid.toml").write_text(SMALL_GRID)
    return str(tmp_path / "grid.toml")


def _named(steps):
    return [(step.notebook, step.arm, step.seed) for step in steps]


# --- the grid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", settings.profile_names())
def test_every_step_waits_for_earlier_ones_of_its_seed_alone(name, no_data):
    grid = cluster.load_grid(name, optional=True)
    assert _named(grid.steps) == _named(run.steps(name, grid.profile, True))
    for step in grid.steps:
        needed = grid.needs(step)
        assert {other.seed for other in needed} <= {step.seed}
        assert step not in needed
        assert (step.notebook[:2] <= "02") or needed, f"{step} waits for nothing"


def test_what_waits_for_what(grid_file):
    grid = cluster.load_grid(grid_file)

    def needs(notebook, arm, seed=1):
        return _named(grid.needs(Step(notebook, grid_file, arm, seed)))

    longest, random = "sample-24-longest", "sample-24-random-7"
    assert needs("01_explore", "") == needs("02_select", longest) == []
    assert needs("04_finetune", longest, 2) == [("02_select", longest, 2)]
    assert needs("05_generate", random) == [("04_finetune", random, 1)]
    assert needs("06_judge", longest) == [("05_generate", longest, 1), ("05_generate", random, 1)]
    assert needs("07_length_bias", longest) == [("06_judge", longest, 1)]
    assert len(needs("09_report", longest)) == 9


def test_variants_wait_for_their_model_and_rewritten_rows_for_their_rewriting(no_data):
    tiny = settings.load_profile("tiny")
    arms = ("alpaca-1k-longest", "alpaca-1k-longest-rewritten+neftune", "alpaca-1k-random-7+epochs3+min150")
    judging = tiny.judging.model_copy(update={"target": arms[0], "baselines": arms[2:]})
    profile = tiny.model_copy(update={"arms": arms, "judging": judging})
    grid = cluster.Grid(profile, profile, tuple(run.steps("tiny", profile, True)))

    def needs(notebook, arm):
        return _named(grid.needs(Step(notebook, "tiny", arm, 42)))

    assert needs("03_refine", "alpaca-1k-longest") == [("02_select", "alpaca-1k-longest", 42)]
    rewritten = "alpaca-1k-longest-rewritten+neftune"
    assert needs("04_finetune", rewritten) == [
        ("02_select", "alpaca-1k-longest", 42),
        ("03_refine", "alpaca-1k-longest", 42),
    ]
    variant = "alpaca-1k-random-7+epochs3+min150"
    assert needs("05_generate", variant) == [("04_finetune", "alpaca-1k-random-7+epochs3", 42)]
    assert needs("06_judge", arms[0]) == [("05_generate", arms[0], 42), ("05_generate", variant, 42)]


def test_a_gpu_is_asked_for_where_a_model_runs(no_data):
    grid = cluster.load_grid("llama2-7b", optional=True)
    on_gpu = {step.notebook for step in grid.steps if grid.resources(step.notebook) == {"gpu": 1}}
    assert on_gpu == {"04_finetune", "05_generate"} | ({"08_capabilities"} if grid.profile.capabilities else set())
    assert not any(cluster.load_grid("tiny").resources(notebook) for notebook in run.STAGES)


# --- markers -------------------------------------------------------------------------------------------------------


def test_markers_follow_the_manifests(grid_file, runs, monkeypatch):
    grid = cluster.load_grid(grid_file)
    folder = runs / "small-grid" / "batch"
    folder.mkdir(parents=True)
    first, second, *_ = grid.steps
    monkeypatch.setattr(run, "is_done", lambda step: step == first)
    Path(cluster.marker(second)).touch()
    cluster._mark_what_is_done(grid)
    assert [path.name for path in folder.iterdir()] == ["01_explore-seed-1.done"]


def test_a_step_that_outlived_its_controller_is_named(grid_file, capsys, monkeypatch):
    grid = cluster.load_grid(grid_file)
    monkeypatch.setattr(run, "is_done", lambda step: False)
    step = grid.steps[0]
    step.output.parent.mkdir(parents=True)
    with cluster.FileLock(step.output.with_name(f".{step.output.name}.lock")):
        cluster._mark_what_is_done(grid)
    assert capsys.readouterr().out.splitlines() == [
        "  01_explore-seed-1: still being executed from before; its job will wait for that",
        f"{len(grid.steps)} jobs, 0 of them fresh already",
    ]


# --- what is done --------------------------------------------------------------------------------------------------


def _with_benchmarks(grid_file, names, more=""):
    grid = Path(grid_file)
    grid.write_text(SMALL_GRID.replace("[judging]\n", f"[judging]\nbenchmarks = {names}\n{more}"))
    return Step("06_judge", grid_file, "sample-24-longest", 1)


class _Stage:
    """A stage of which only the plan is known."""

    def __init__(self, stage):
        self.stage = stage

    def plan(self, profile, arm, seed):
        folder = manifests.stage_folder("small-grid", self.stage, arm, seed)
        return manifests.Plan(self.stage, "small-grid", arm, seed, folder, {}, {})


def _plan_benchmark(profile, arm, seed, benchmark):
    return _Stage(benchmark.replace("-", "_")).plan(profile, arm, seed)


@pytest.fixture
def judged(grid_file, monkeypatch):
    """The step of 06 in the small grid with both benchmarks, its notebook and all its results being there."""
    monkeypatch.setitem(run.STAGES, "06_judge", _Stage("judge"))
    monkeypatch.setattr(run.judge, "plan_benchmark", _plan_benchmark)
    step = _with_benchmarks(grid_file, ["mt-bench", "alpaca-eval"])
    disk.write_text(step.output, "{}")
    for plan in step.plans():
        _finish(plan)
    return step


def _finish(plan, **facts):
    (plan.folder / manifests.MANIFEST).unlink(missing_ok=True)
    manifests.complete(plan, lambda folder: {"asked": 800, "failed": 2, "lacking": False, **facts})


@pytest.mark.parametrize("number", range(5), ids=["judge", "mt 1", "mt 2", "alpaca 1", "alpaca 2"])
def test_06_is_done_when_nothing_of_it_is_lost_or_lacks_calls(judged, number):
    plan = list(judged.plans())[number]
    assert run.is_done(judged)
    _finish(plan, lacking=True)
    assert not run.is_done(judged), "its failed calls are to be asked again"
    _finish(plan)
    assert run.is_done(judged)
    (plan.folder / manifests.MANIFEST).unlink()
    assert not run.is_done(judged), "lost"


def test_other_steps_are_done_with_their_stage_and_notebook_alone(judged, monkeypatch):
    monkeypatch.setitem(run.STAGES, "07_length_bias", _Stage("length_bias"))
    step = judged._replace(notebook="07_length_bias")
    assert [plan.stage for plan in step.plans()] == ["length_bias"]
    _finish(step.plan())
    assert not run.is_done(step), "no notebook"
    disk.write_text(step.output, "{}")
    assert run.is_done(step)


def test_06_depends_on_the_benchmarks_and_their_prompts(tmp_path, runs, mirror):
    def plans(names, more=""):
        return list(_with_benchmarks(str(tmp_path / "grid.toml"), names, more).plans())

    longest, random = "sample-24-longest", "sample-24-random-7"
    found = plans(["mt-bench", "alpaca-eval"])
    expected = [(name, arm, 1) for name in ("mt_bench", "alpaca_eval") for arm in (longest, random)]
    assert [(plan.stage, plan.arm, plan.seed) for plan in found] == [("judge", longest, 1), *expected]
    assert [plan.stage for plan in plans([])] == ["judge"]
    prompt = 'benchmark_prompts = { mt-bench = { source = "mt-bench-judge-prompts" } }\n'
    changed = plans(["mt-bench", "alpaca-eval"], prompt)
    differ = [one.stage for one, other in zip(found, changed, strict=True) if one.key != other.key]
    assert differ == ["mt_bench", "mt_bench"]


def test_a_run_needs_no_torch_to_see_what_is_done():
    program = "import sys; import nbutils.run; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- one controller a folder ---------------------------------------------------------------------------------------

HOLDS = """
import sys, time
from pathlib import Path
from nbutils.execution import cluster
with cluster.controller(Path(sys.argv[1]), "test"):
    print("here", flush=True)
    time.sleep(60)
"""


def _other_controller(folder):
    started = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "here\n"
    return started


def test_a_second_controller_is_refused_and_a_killed_one_is_succeeded(tmp_path, monkeypatch, capsys):
    with _other_controller(tmp_path) as other:
        whose = f"process {other.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"{whose} works here already"), cluster.controller(tmp_path, "test"):
            pass
        other.kill()
    _fake_slurm(tmp_path, monkeypatch)
    with cluster.controller(tmp_path, "test") as job_name:
        pass
    assert re.fullmatch("test-[0-9a-f]{8}", job_name)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"An earlier controller ({whose}) did not end: what it finished is kept, the rest continues."
    assert printed[1] == "Its Slurm jobs are cancelled and submitted anew: 7, 9"
    assert (tmp_path / "cancelled").read_text() == "7 9\n"
    with cluster.controller(tmp_path, "test"):
        pass
    assert capsys.readouterr().out == "", "an end that was one leaves nothing to clear up"


def _kill_controller(folder):
    """What a killed controller leaves; gives the text of its record."""
    disk.write_json(folder / cluster.RECORD, {"process": 1, "host": "there"})
    return (folder / cluster.RECORD).read_text()


def _dry_parts(folder):
    (folder / "rows").mkdir()
    (folder / "rows" / "a.jsonl").write_text('{"output": "a"}\n')
    options = cluster.Options(dry_run=True)
    cluster.select_parts([str(folder / "rows")], SelectionRequest(1, "words"), folder / "out.jsonl", options)


def _dry_batch(folder):
    (folder / "grid.toml").write_text(SMALL_GRID)
    cluster.run_grid(str(folder / "grid.toml"), cluster.Options(dry_run=True))


@pytest.mark.parametrize(
    ("start", "where", "name"),
    [(_dry_parts, "out.jsonl.parts", "lim-parts"), (_dry_batch, "runs/small-grid/batch", "lim-small-grid")],
    ids=["parts", "batch"],
)
def test_a_dry_run_leaves_the_jobs_of_a_killed_controller_alone(
    tmp_path, monkeypatch, runs, no_data, start, where, name
):
    started, folder = [], tmp_path / where
    record = _kill_controller(folder)
    _fake_slurm(folder, monkeypatch, name)
    monkeypatch.setattr(cluster, "start", lambda *given: started.append(given))
    start(tmp_path)
    assert [given[4][: len(name)] for given in started] == [name]
    assert not (folder / "cancelled").exists()
    assert (folder / cluster.RECORD).read_text() == record
    with cluster.controller(folder, name):
        assert (folder / "cancelled").read_text() == "7 9\n", "the run itself does cancel them"


def test_a_dry_run_waits_for_its_turn_too(tmp_path):
    with (
        cluster.controller(tmp_path, "test", dry_run=True),
        pytest.raises(InputError, match="works here already"),
        cluster.controller(tmp_path, "test", dry_run=True),
    ):
        pass


def test_jobs_that_cannot_be_cancelled(tmp_path, monkeypatch):
    record = _kill_controller(tmp_path)
    _fake_slurm(tmp_path, monkeypatch, scancel="echo one >&2; echo two >&2; exit 1")
    refusal = r"^scancel failed \(one; two\): cancel 7, 9 and run the same command again$"
    with pytest.raises(InputError, match=refusal), cluster.controller(tmp_path, "test"):
        pytest.fail("no successor may start")
    assert (tmp_path / cluster.RECORD).read_text() == record
    (tmp_path / "scancel").unlink()
    (tmp_path / "cat").symlink_to(shutil.which("cat"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"^scancel failed .*No such file"), cluster.controller(tmp_path, "test"):
        pytest.fail("no successor may start")
    assert (tmp_path / cluster.RECORD).read_text() == record


def test_jobs_that_end_while_they_are_cancelled(tmp_path, monkeypatch):
    _kill_controller(tmp_path)
    _fake_slurm(tmp_path, monkeypatch, scancel=f"echo '#!/bin/sh' > {tmp_path}/squeue; echo Invalid job id >&2; exit 1")
    with cluster.controller(tmp_path, "test"):
        assert "there" not in (tmp_path / cluster.RECORD).read_text()
    assert not (tmp_path / cluster.RECORD).exists()


def _fake_slurm(folder, monkeypatch, prefix="test", scancel=None):
    """Commands that list two jobs of this folder's controller between others, and note what is cancelled."""
    digest = cluster.hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    lines = [f"7 {prefix}-{digest}_a1b2", "8 test-00000000_a1b2", f"9 {prefix}-{digest}_c3", "10 somebody else's job"]
    for name, text in (
        ("squeue", f'cat <<"E"\n{chr(10).join(lines)}\nE'),
        ("scancel", scancel or f"echo $* > {folder}/cancelled"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# --- what Snakemake makes of it ------------------------------------------------------------------------------------


def _dry_run(file, folder, *more):
    runs = {"LIM_RUNS": "relative runs"}
    return run_command(["execution.cluster", file, "--dry-run", *more], folder, runs)


@pytest.mark.thorough
@needs_snakemake
@pytest.mark.slow
def test_a_dry_run_lists_every_job_with_its_command(tmp_path):
    (tmp_path / "own folder").mkdir()
    (tmp_path / "own folder" / "grid.toml").write_text(SMALL_GRID)
    done = _dry_run("own folder/grid.toml", tmp_path, "--", "--printshellcmds")
    assert done.returncode == 0, done.stderr
    assert "20 jobs, 0 of them fresh already" in done.stdout
    printed = done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, flags=re.M))
    expected = {"explore": 2, "select": 4, "finetune": 4, "generate": 4, "judge": 2, "length_bias": 2, "report": 2}
    assert counts == {name: str(count) for name, count in {**expected, "all": 1, "total": 21}.items()}
    assert f"Shell command: cd {tmp_path} && " in printed
    command = f"-m nbutils.run '{tmp_path}/own folder/grid.toml' --only 04_finetune"
    assert f"{command} -p arm sample-24-random-7 -p seed 2\n" in printed
    assert f"output: {tmp_path}/relative runs/small-grid/batch/04_finetune-sample-24-random-7-seed-2.done" in printed
    assert not list(tmp_path.rglob("*.done"))


@pytest.mark.thorough
@needs_snakemake
@pytest.mark.slow
def test_the_slurm_profile_asks_for_gpu_memory_and_time(tmp_path):
    on_gpu = re.sub(r"\[tiny_base\].*?\n\[", "[", SMALL_GRID.replace('base = "tiny"', 'base = "a/model"'), flags=re.S)
    (tmp_path / "grid.toml").write_text(on_gpu)
    done = _dry_run("grid.toml", tmp_path, "--on", "slurm")
    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"^rule (\w+):.*?resources: (.*?)$", done.stdout + done.stderr, flags=re.M | re.S)
    asked = {rule: dict(item.split("=") for item in line.split(", ")) for rule, line in jobs}
    assert {rule for rule in asked if asked[rule].get("gpu") == "1"} == {"finetune", "generate"}
    assert (asked["finetune"]["mem_mb"], asked["finetune"]["runtime"]) == ("32000", "1440")
    assert (asked["select"]["mem_mb"], asked["select"]["runtime"]) == ("8000", "60")


@pytest.mark.thorough
@needs_snakemake
@pytest.mark.slow
def test_parts_are_selected_from_by_jobs_and_again(tmp_path):
    rows = tmp_path / "the parts"
    write_parquet(rows, [[3, 1, 4], [1, 5], [9, 2, 6]])
    asked = ["the parts/*", "-k", "3", "--measure", "words", "-o"]

    def check(jobs):
        done = run_command(["execution.cluster", "select", *asked, "out put.parquet"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert run_command(["select", *asked, "once.parquet"], tmp_path).returncode == 0
        assert selected(tmp_path / "out put.parquet") == selected(tmp_path / "once.parquet")
        assert done.stderr.count("\nrule longest:") + done.stderr.count("\nlocalrule longest:") == jobs

    check(3)
    write_parquet(tmp_path / "other", [[], [50]])
    os.utime(tmp_path / "other" / "part-01.parquet", (1, 1))
    (tmp_path / "other" / "part-01.parquet").replace(rows / "part-01.parquet")
    check(1)
    (rows / "part-02.parquet").unlink()
    check(0)


@needs_snakemake
@pytest.mark.slow
def test_a_failed_job_ends_with_the_mend(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text('{"output": 3}\n')
    done = run_command(
        ["execution.cluster", "select", "parts", "-k", "1", "--measure", "words", "-o", "out.jsonl"], tmp_path
    )
    assert done.returncode == 2
    assert "a.jsonl: row 0: the response field 'output' is int, not text" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not all jobs are done: the first error stands above")
    assert not (tmp_path / "out.jsonl.parts" / "controller.json").exists(), "a failed run has ended"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "no profile 'nowhere'"),
        (["tiny", "--on", "moon"], "--on moon: choose one of kubernetes, slurm, or give a folder"),
        (["tiny", "--colour"], "unrecognized arguments: --colour"),
        (["select", "nowhere", "-o", "out.jsonl"], "nowhere: no such file"),
        (["select", str(ROOT / "data/sample/rows.jsonl"), "-k", "0", "-o", "out.jsonl"], "k = 0: at least one row"),
        (["select", str(ROOT / "data/sample/rows.jsonl"), "-o", "out.parquet"], "let its name end in"),
        (["select", str(ROOT / "data/sample/rows.jsonl"), "--measure", "inches", "-o", "out.jsonl"], "unknown measure"),
        (["select", str(ROOT / "data/sample/rows.jsonl")], "the following arguments are required: -o/--out"),
    ],
)
def test_bad_commands(arguments, expected, runs, no_data, capsys):
    with pytest.raises(SystemExit) as ended:
        cluster.main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_without_snakemake_the_mend_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install -r requirements-batch\.txt"):
        cluster.start(ROOT / "Snakefile", tmp_path, {}, cluster.Options(), "test")
