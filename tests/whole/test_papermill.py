"""Executing notebooks by papermill: parameters, failures, kills, other directories, and what a log shows."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils import ROOT, length_bias, notebook, run
from nbutils.core import disk, judge_settings, manifests
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile

KEY = "sk-" + "a1B2c3D4" * 4
SELECT = ROOT / "notebooks" / "02_select.ipynb"
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
BEGIN = "from nbutils import notebook\n\ngiven = notebook.begin(profile)"
PARAMETERS = 'profile = "tiny"\narm = "alpaca-1k-longest"\nseed = 42'


def make_notebook(path, *cells, parameters=PARAMETERS):
    """A small notebook with a cell of parameters."""
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    made.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(made, path)
    return path


def offline(folder):
    own = {"LIM_RUNS": str(folder / "runs"), "LIM_OFFLINE": "1", "LIM_DATA_MIRROR": ""}
    return os.environ | own | {"LIM_DATA_CACHE": str(folder / "cache")}


def command(*arguments, folder):
    started = [sys.executable, "-m", "nbutils.run", *arguments]
    return subprocess.run(started, env=offline(folder), cwd=folder, capture_output=True, text=True, check=False)


def everything_in(folder):
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*") if path.is_file())


# --- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"api_key": KEY},
        {"api_key": "short"},
        {"arm": KEY},
        {"profile": f"x {KEY}"},
        {KEY: "x"},
        {"HF_TOKEN": "hf_x"},
        {"password": "x"},
    ],
    ids=["both", "name", "value", "inside", "key for a name", "token", "password"],
)
def test_what_looks_like_a_key_is_refused_and_written_nowhere(tmp_path, parameters):
    with pytest.raises(InputError, match="looks like a key") as refused:
        run.execute_notebook(SELECT, tmp_path / "out" / "executed.ipynb", parameters)
    assert KEY not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arm", "alpaca-1k-random-7"),
        ("seed", 7),
        ("profile", "my/sk-run.toml"),
        ("profile", "skills-comparison-of-judges.toml"),
    ],
)
def test_what_does_not_is_let_through(name, value):
    run.refuse_parameters(SELECT, {name: value})


@given(st.from_regex(r"(sk|hf|gsk)[-_][A-Za-z0-9]{16,40}", fullmatch=True), st.text(" .,:/", max_size=5))
def test_a_key_is_seen_inside_a_value(key, around):
    assert judge_settings.is_like_a_key("arm", around + key + around)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"arms": "x"}, r"^02_select\.ipynb: unknown parameter 'arms': it takes profile, arm, seed$"),
        ({"seed": "7"}, r"^02_select\.ipynb: parameter 'seed' takes a whole number, not '7' \(a text\)$"),
        ({"seed": True}, r"^02_select\.ipynb: parameter 'seed' takes a whole number, not True \(a boolean\)$"),
        ({"arm": 7}, r"^02_select\.ipynb: parameter 'arm' takes a text, not 7 \(a whole number\)$"),
        ({"profile": ["a"]}, r"^02_select\.ipynb: parameter 'profile' takes a text, not \['a'\] \(a list\)$"),
    ],
    ids=["misspelt", "text for a number", "boolean for a number", "number for a text", "list for a text"],
)
def test_a_parameter_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, parameters, complaint):
    with pytest.raises(InputError, match=complaint):
        run.execute_notebook(SELECT, tmp_path / "out" / "executed.ipynb", parameters)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "02_select", "-p", "arms", "x"], "error: 02_select.ipynb: unknown parameter 'arms'"),
        (["--only", "02_select", "-p", "api_key", KEY], "error: 02_select.ipynb: a parameter looks like a key"),
        (["--only", "02_select", "-p", "seed", "1.5"], "error: 02_select.ipynb: parameter 'seed' takes a whole number"),
        (["--only", "02_select", "-p", "seed", "9" * 5000], "error: 02_select.ipynb: parameter 'seed' takes a whole"),
        (
            ["--only", "02_select", "-p", "arm", "None"],
            "error: 02_select.ipynb: parameter 'arm' takes a text, not None",
        ),
        (["--only", "02_selct"], "error: no notebook '02_selct': choose one of 00_start_here, 01_explore"),
        (["--only", "02_select", "-p", "profile", "x"], "error: the profile is 'tiny' already"),
        (["-p", "arm", "x"], "error: -p goes with --only"),
        (["--stand-in", "tiny", "--check"], "error: --stand-in goes with a whole run"),
    ],
    ids=["misspelt", "key", "half a seed", "a long seed", "no arm", "notebook", "profile", "whole run", "stand-in"],
)
def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "runs"))
    with pytest.raises(SystemExit) as left:
        run.main(["tiny", *arguments])
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.err.startswith(complaint) and said.err.count("\n") == 1
    assert KEY not in said.err + said.out
    assert not (tmp_path / "runs").exists()


INJECTED = '# Parameters\nprofile = "tiny"\n'


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        (
            ["", PARAMETERS, INJECTED + 'arms = "x"\n'],
            "^unknown parameter 'arms': this notebook takes profile, arm, seed$",
        ),
        (["", PARAMETERS, INJECTED + f'api_key = "{KEY}"\n'], "looks like a key, and papermill has written it"),
        (["", PARAMETERS, INJECTED + f'arm = "{KEY}"\n'], "delete that file"),
    ],
    ids=["misspelt", "key", "value"],
)
def test_papermill_alone_is_stopped_at_the_first_cell(cells, complaint):
    with pytest.raises(InputError, match=complaint) as refused:
        notebook.refuse_injected(cells)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("parameter", "value", "complaint"),
    [
        ("seed", "abc", "takes a whole number, not 'abc' (a text)"),
        ("seed", "7", "takes a whole number, not '7' (a text)"),  # -r gives numbers as texts
        ("seed", 1.5, "takes a whole number, not 1.5 (a decimal number)"),
        ("seed", float("nan"), "takes a whole number, not nan (a decimal number)"),
        ("seed", True, "takes a whole number, not True (a boolean)"),
        ("profile", 3, "takes a text, not 3 (a whole number)"),
        ("profile", None, "takes a text, not None (nothing)"),
        ("profile", ["tiny"] * 9, "takes a text, not ['tiny', 'tiny', 'tiny', 'tiny', 'tiny'… (a list)"),
        ("profile", {"name": "tiny"}, "takes a text, not {'name': 'tiny'} (a table)"),
    ],
    ids=lambda given: None if isinstance(given, str) else type(given).__name__,
)
def test_papermill_alone_with_another_kind_is_stopped_in_every_notebook(name, parameter, value, complaint):
    from papermill.translators import translate_parameters

    declared = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells[2].source
    injected = translate_parameters("python3", "python", {parameter: value}, "Parameters")
    with pytest.raises(InputError, match=re.escape(f"parameter '{parameter}' {complaint}") + "$"):
        notebook.refuse_injected(["", declared, injected])


@pytest.mark.parametrize(
    ("declared", "value"), [(None, "x"), (None, 3), (0.5, 1), (0.5, 2.5), (True, False), ([], ["x"]), ("x", "")]
)
def test_what_is_of_the_declared_kind_is_taken(declared, value):
    notebook.refuse_kind("given", declared, value)


@pytest.mark.parametrize(
    ("declared", "value"), [(0.5, True), (True, 1), (False, None), (1, 1.0), ([], "x"), (0.5, "1")]
)
def test_what_is_not_is_refused(declared, value):
    with pytest.raises(InputError, match=r"^parameter 'given' takes a .*, not "):
        notebook.refuse_kind("given", declared, value)


@pytest.mark.parametrize(
    "cells",
    [
        [],
        ["", PARAMETERS],
        ["", PARAMETERS, INJECTED + "seed = 7\n"],
        ["", INJECTED + 'arms = "x"\n'],
        ["%matplotlib inline\n!ls", PARAMETERS, INJECTED],
    ],
    ids=["nothing", "by hand", "known", "declaration not run", "magics"],
)
def test_ordinary_cells_are_no_reason_to_stop(cells):
    notebook.refuse_injected(cells)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [
        (["-p", "arms", "x"], "InputError: unknown parameter 'arms': this notebook takes profile, arm, seed"),
        (["-r", "seed", "7"], "InputError: parameter 'seed' takes a whole number, not '7' (a text)"),
        (["-p", "profile", "3"], "InputError: parameter 'profile' takes a text, not 3 (a whole number)"),
    ],
    ids=["misspelt", "text", "number"],
)
def test_a_wrong_parameter_stops_papermill_itself(tmp_path, parameter, complaint):
    source = make_notebook(tmp_path / "small.ipynb", BEGIN, "reached = True")
    out = tmp_path / "out.ipynb"
    started = [sys.executable, "-m", "papermill", "--no-progress-bar", str(source), str(out), *parameter]
    done = subprocess.run(started, env=offline(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr
    (shown,) = errors_of(out)
    assert shown.traceback == [complaint]
    assert not nbformat.read(out, as_version=4).cells[-1].get("execution_count")


# --- order ---------------------------------------------------------------------------------------------------------


def run_cells(tmp_path, *cells):
    """The error of each cell, "" for none, in one kernel."""
    from nbclient import NotebookClient

    path = make_notebook(tmp_path / "small.ipynb", *cells)
    made = nbformat.read(path, as_version=4)
    NotebookClient(made, allow_errors=True, kernel_name="python3").execute(env=offline(tmp_path))
    outputs = [[output for output in cell.outputs if output.output_type == "error"] for cell in made.cells]
    return [f"{found[0].ename}: {found[0].evalue}\n{''.join(found[0].traceback)}" if found else "" for found in outputs]


@pytest.mark.slow
def test_cells_out_of_order_say_what_to_do(tmp_path):
    _, begun, early, fine = run_cells(tmp_path, BEGIN, "print(made)", "print(arm)")
    assert begun == fine == ""
    assert early.startswith("NameError: name 'made' is not defined")
    assert "Run the ones above first: menu Run, Run All Above Selected Cell." in early


@pytest.mark.parametrize("arm", ["alpaca-1k-longest", "lima-1k"])
def test_the_arm_of_another_dataset_is_refused_in_a_profile_with_an_own_one(arm):
    profile = load_profile("tiny").model_copy(update={"dataset": "my_rows.jsonl", "arms": ("own-1k-longest",)})
    with pytest.raises(InputError, match=rf"no arm '{arm}': set `arm` to one of own-1k-longest$"):
        notebook.refuse_foreign_arm(profile, arm)
    notebook.refuse_foreign_arm(profile, "own-1k-shortest")
    notebook.refuse_foreign_arm(load_profile("tiny"), "lima-1k")
    notebook.refuse_foreign_arm(profile, None)


# --- failures ------------------------------------------------------------------------------------------------------

HALF = """
import functools
from nbutils.core import disk
from nbutils.core import manifests

def work(folder):
    disk.write_text(folder / "first.txt", "whole")
    with disk.atomic_path(folder / "second.txt") as part:
        part.write_text("half of it")
        {end}
    return {{}}

planned = manifests.Plan("stage", "tiny", arm, seed, manifests.stage_folder("tiny", "stage", arm, seed), {{}}, {{}})
made = manifests.complete(planned, work)
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "complaint"),
    [
        ("raise ValueError('the disk is full')", "small: ValueError: the disk is full; the whole traceback is in"),
        ("import os; os.kill(os.getpid(), 9)", r"small: its Python process was killed \(mostly: out of memory\)"),
    ],
    ids=["error", "killed"],
)
def test_a_failure_keeps_the_traceback_and_leaves_nothing_half_written(tmp_path, runs, end, complaint):
    source = make_notebook(tmp_path / "small.ipynb", "print('before')", HALF.format(end=end))
    output = tmp_path / "out" / "small.ipynb"
    with pytest.raises(InputError, match=complaint):
        run.execute_notebook(source, output, {"seed": 7})
    kept = nbformat.read(output.with_suffix(".failed.ipynb"), as_version=4)
    assert "before" in str(kept)
    assert ("the disk is full" in str(kept)) == ("disk" in complaint)
    assert not output.exists()
    stage = runs / "tiny" / "stage" / "alpaca-1k-longest" / "seed-7"
    assert {path.name for path in stage.iterdir() if not path.name.startswith(".")} == {"first.txt"}

    make_notebook(source, HALF.format(end="pass"))
    run.execute_notebook(source, output, {"seed": 7})
    assert manifests.read_manifest(stage).outputs.keys() == {"first.txt", "second.txt"}
    assert [path.name for path in output.parent.glob("*") if not path.name.startswith(".")] == ["small.ipynb"]


# --- other directories ---------------------------------------------------------------------------------------------


def errors_of(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]


@pytest.mark.long  # ten notebooks, two times
def test_every_notebook_alone_from_another_directory_twice(tmp_path):
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    created = {}
    for turn in ("first", "second"):
        for name in NAMES:
            done = command("tiny", "--only", name, folder=folder)
            assert done.returncode == 0, f"{turn} {name}: {done.stderr}"
        found = {path: json.loads(path.read_text())["created"] for path in folder.rglob("manifest.json")}
        assert {path: found[path] for path in created} == created
        created = found
    kept = list((folder / "runs" / "tiny" / "notebooks").glob("[!.]*.ipynb"))
    assert {path.name[:2] for path in kept} == {name[:2] for name in NAMES}
    assert [errors_of(path) for path in kept] == [[]] * len(NAMES)


# --- kills ---------------------------------------------------------------------------------------------------------


STAGES = """
from nbutils.core import disk, manifests

for number in range(20):
    name = f"{arm}-{number}"
    folder = manifests.stage_folder("tiny", "stage", name, seed)
    planned = manifests.Plan("stage", "tiny", name, seed, folder, {}, {})
    manifests.complete(planned, lambda folder: disk.write_jsonl(folder / "rows.jsonl", [{"id": 1}] * 999) or {})
"""


def start(source, folder):
    """Execute a notebook in a process of its own."""
    program = "import sys, pathlib\nfrom nbutils import run\n"
    program += "run.execute_notebook(pathlib.Path(sys.argv[1]), pathlib.Path('runs/executed.ipynb'), {'seed': 7})"
    return subprocess.Popen([sys.executable, "-c", program, str(source)], env=offline(folder), cwd=folder)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.long)])
def test_kills_leave_no_broken_file(tmp_path, kills):
    """kill -9 of the run at moments that a seeded generator chooses; then it runs to its end."""
    source = make_notebook(tmp_path / "small.ipynb", BEGIN, STAGES) if kills < 40 else SELECT
    chance, runs = random.Random(kills), tmp_path / "runs"
    begun = time.monotonic()
    assert start(source, tmp_path).wait() == 0
    whole = time.monotonic() - begun
    for _ in range(kills):
        if chance.random() < 0.5:
            shutil.rmtree(runs)
            runs.mkdir()
        kill_after(chance.uniform(0.3, 1) * whole, start(source, tmp_path), runs)
    assert start(source, tmp_path).wait() == 0
    assert errors_of(runs / "executed.ipynb") == []
    stage = "tiny/stage/alpaca-1k-longest-19" if kills < 40 else "tiny/select/sample-60-longest"
    assert "rows.jsonl" in manifests.read_manifest(runs / stage / "seed-7").outputs


def kill_after(seconds, process, runs):
    time.sleep(seconds)
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    process.kill()
    process.wait()
    assert broken_files(runs) == []
    # The kernel notices that its parent is gone; what it writes until then is whole as well.
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert broken_files(runs) == []


def broken_files(folder):
    """Files under final names that cannot be read, are executed in part, or are not what their manifest says."""
    found = []
    for path in folder.rglob("[!.]*"):
        if path.suffix in (".ipynb", ".json", ".jsonl") and path.is_file():
            found += [path] * (not is_whole(path))
    return found


def is_whole(path):
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            nbformat.validate(nbformat.reads(text, as_version=4))
            if not all(cell["execution_count"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"):
                return False
        records = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    except (ValueError, nbformat.ValidationError):
        return False
    outputs = records[0].get("outputs", {}) if path.name == "manifest.json" else {}
    return all(disk.sha256_file(path.parent / name) == digest for name, digest in outputs.items())


def test_a_broken_file_would_be_found(tmp_path):
    (tmp_path / "a.ipynb").write_text('{"cells": [')
    (tmp_path / ".b.part.ipynb").write_text('{"cells": [')
    make_notebook(tmp_path / "c.ipynb")
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{"id"')
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "out.txt").write_text("other bytes")
    disk.write_json(tmp_path / "x" / "manifest.json", {"outputs": {"out.txt": "0" * 64}})
    assert sorted(path.name for path in broken_files(tmp_path)) == ["a.ipynb", "c.ipynb", "manifest.json", "rows.jsonl"]


# --- what a log shows ----------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["arm: 1 of 9, 00:10 elapsed, 00:80 left\n", "a warning\n", "\n"])), st.integers(1, 9))
def test_the_log_gets_whole_lines_of_progress(lines, size):
    stream, text = io.StringIO(), "".join(lines)
    log = run.ProgressLog(stream)
    for i in range(0, len(text), size):
        log.write(text[i : i + size])
    assert stream.getvalue() == "".join(f"      {line}" for line in lines if "elapsed" in line)


@pytest.mark.slow
def test_a_kernels_progress_reaches_the_log(tmp_path, capsys):
    slowly = "from nbutils.core import machine\nimport time\nmachine.SECONDS_BETWEEN_LINES = 0.1\n"
    slowly += "for _ in machine.track(range(6), 'answers of x', total=6):\n    time.sleep(0.3)"
    source = make_notebook(tmp_path / "small.ipynb", slowly, "import sys\nprint('library noise', file=sys.stderr)")
    run.execute_notebook(source, tmp_path / "out.ipynb", {})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("      answers of x: ") and "of 6, 00:0" in line for line in lines), lines


def test_a_run_numbers_its_steps(monkeypatch, capsys, no_data, runs):
    monkeypatch.setattr(run, "execute", lambda step: None)
    run.run_profile("tiny")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("Data: alpaca-52k is not at hand")
    assert lines[0].split() == ["1/11", "01_explore", "running", "..."]
    assert lines[-1].split()[:4] == ["11/11", "09_report", "sample-60-longest", "done"]


def test_a_run_ends_with_what_it_has_found_and_its_report(monkeypatch, capsys, no_data):
    asked = []
    monkeypatch.setattr(run, "run_profile", lambda *given: asked.append(given) or "runs/report.html")
    monkeypatch.setattr(
        length_bias, "tell", lambda profile, seed: [f"{profile.name} with seed {seed} …", "its verdict"]
    )
    run.main(["demo", "--stand-in", "tiny"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("Profile 'tiny' stands in for 'demo'")
    assert rest == ["", "tiny with seed 42 …", "its verdict", "", "The report: runs/report.html"]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    run.main(["tiny"])
    stream.flush()
    assert b"tiny with seed 42 ?\nits verdict\n" in stream.buffer.getvalue(), "a terminal may lack a sign"
    assert asked == [("tiny", False, False)] * 2
