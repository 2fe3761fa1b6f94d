"""Every notebook, executed by papermill on the profile `tiny` with the sample; and their common form."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import colab_form
import nbformat
import pytest
from browsing import open_page

from nbutils import REPOSITORY, ROOT, arms, data, run
from nbutils.core import disk, errors, manifests, settings, tables
from nbutils.execution import facts
from nbutils.selection import preflight

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
ARMS = ("sample-60-longest", "sample-60-random-7")
AT_ONCE, INTERRUPTED = "at once", pytest.param("interrupted", marks=pytest.mark.thorough)


# --- form ----------------------------------------------------------------------------------------------------------


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_every_stage():
    assert ["00_start_here", *run.STAGES] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_starts_and_ends_like_the_others(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert colab_form.badge(REPOSITORY, path.name) in cells[0].source
    assert cells[1].source == colab_form.setup_cell(REPOSITORY)
    assert cells[2].metadata.get("tags") == ["parameters"]
    assert any("notebook.begin(profile)" in cell.source for cell in cells[3:5])
    assert cells[-1].cell_type == "markdown"
    assert ".ipynb)" in cells[-1].source
    assert "notebook.check(" in cells[-2].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_is_short_and_stored_without_outputs(path):
    cells = code_cells(path)
    assert len(cells) <= 25
    assert max(len(cell.source.splitlines()) for cell in cells) <= 12
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert sum(line.startswith("def ") for cell in cells for line in cell.source.splitlines()) <= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_parameters_are_literals(path):
    import ast

    for statement in ast.parse(code_cells(path)[1].source).body:
        ast.literal_eval(statement.value)


def test_a_misspelt_parameter_is_refused():
    with pytest.raises(errors.InputError, match=r"02_select\.ipynb: unknown parameter 'arms'"):
        run.refuse_parameters(ROOT / "notebooks" / "02_select.ipynb", {"profile": "tiny", "arms": "x"})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["-p", "seed", "-5"], "02_select.ipynb: parameter 'seed' takes a whole number from 0 on, below 2**32, not -5"),
        (["-p", "seed", "4294967296"], "parameter 'seed' takes a whole number from 0 on"),
        (["-p", "seed", "1.0"], "parameter 'seed' takes a whole number, not 1.0"),
        (["-p", "seed", "True"], "parameter 'seed' takes a whole number, not True"),
        (["-p", "arm", "7"], "parameter 'arm' takes a text, not 7"),
        (["-p", "arm", "../../x"], "unknown arm '../../x'"),
        (["-p", "arm", "lima-1k", "-p", "arm", "lima-1k"], "-p gives a parameter twice"),
        (["--only", "../notebooks/02_select"], "no notebook '../notebooks/02_select'"),
    ],
)
def test_parameters_that_cannot_be_leave_nothing_behind(given, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    monkeypatch.setattr(run, "execute", None)
    with pytest.raises(SystemExit) as ended:
        run.main(["tiny", "--only", "02_select", *given])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and complaint in said
    assert not list(tmp_path.rglob("*.ipynb"))


@pytest.mark.parametrize("key", ["baselines", "judges"])
def test_a_profile_that_compares_nothing_is_refused_before_anything_runs(key, tmp_path, monkeypatch, capsys):
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    (tmp_path / "alone.toml").write_text(re.sub(rf"(?s){key} = \[.*?\n?\]", f"{key} = []", text), encoding="utf-8")
    monkeypatch.setattr(run, "execute", None)
    for more in ([], ["--check"]):
        with pytest.raises(SystemExit) as ended:
            run.main([str(tmp_path / "alone.toml"), *more])
        assert ended.value.code == 2 and f"key 'judging.{key}' is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("dataset", "nosuch.jsonl", "dataset 'nosuch.jsonl' is neither a source nor a file"),
        ("arms", ("alpaca-1k-longst",), "unknown arm 'alpaca-1k-longst'"),
        ("generation", settings.Generation(test_sets=("nope",)), "unknown test set 'nope'"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(key, value, complaint):
    profile = settings.load_profile("tiny").model_copy(update={key: value})
    with pytest.raises(errors.InputError, match=complaint):
        preflight.check_inputs(profile)


def test_fetching_offline_is_refused_at_once(no_data):
    with pytest.raises(errors.InputError, match="LIM_OFFLINE forbids asking the network"):
        data.fetch("alpaca-52k")


def test_steps_run_the_stages_in_order():
    profile = settings.load_profile("tiny")
    order = [step.notebook for step in run.steps("tiny", profile, optional=True)]
    assert order == sorted(order[:4]) + ["04_finetune", "05_generate"] * 2 + order[8:]
    assert order[8:] == ["06_judge", "07_length_bias", "08_capabilities", "08_capabilities", "09_report"]


def test_a_profile_with_a_paid_refiner_does_not_rewrite_idly():
    profile = settings.load_profile("llama2-7b")
    assert "03_refine" not in [step.notebook for step in run.steps("llama2-7b", profile)]


# --- execution -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[AT_ONCE, INTERRUPTED])
def finished(request, tmp_path_factory):
    """A whole run on the sample; once it goes to its end at once, once it is interrupted by kill -9 and continued."""
    folder = tmp_path_factory.mktemp("a run with spaces")
    environment = offline(folder)
    command = [sys.executable, "-m", "nbutils.run", "tiny", "--all"]
    if request.param != AT_ONCE:
        started = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)
        wait_for(folder / "tiny" / "select" / ARMS[1] / "seed-42" / "manifest.json", started)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def taken_over(finished, tmp_path, monkeypatch):
    """A copy of the finished run in a folder of its own, which this process works in without a network."""
    for key, value in offline(tmp_path).items():
        monkeypatch.setenv(key, value)
    shutil.copytree(finished[0] / "tiny", tmp_path / "tiny")
    return tmp_path


def test_every_table_of_a_run_reads_by_its_schema(finished):
    folder, _ = finished
    paths = sorted((folder / "tiny").rglob("*.csv"))
    assert {path.stem for path in paths} >= {"lengths", "histograms", "overlaps", "loss", "summary", "bins", "cut"}
    for path in paths:
        table, schema = tables.read(path), tables.SCHEMAS[path.stem]
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {name: schema[name] for name in table}


def offline(runs):
    return {
        **os.environ,
        "LIM_RUNS": str(runs),
        "LIM_OFFLINE": "1",
        "LIM_DATA_MIRROR": "",
        "LIM_DATA_CACHE": str(runs / "cache"),
    }


def wait_for(path, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_goes_to_the_report(finished):
    folder, printed = finished
    report = folder / "tiny" / "report" / ARMS[0] / "seed-42" / "report.html"
    assert f"The report: {report}" in printed
    assert "01_explore" in printed.split("fresh, skipped")[0]
    assert "the sample of 260 rows, licence Apache-2.0 stands in" in printed
    assert "tiny model: shows the machinery" in report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_runs_facts_say_what_the_run_says_without_its_texts(taken_over):
    folder = taken_over / "facts"
    assert facts.export("tiny", 42, folder) == list(ARMS)
    facts.analyse(folder)
    for name in ("length_bias", "cut"):
        found = tables.read(folder / f"{name}.csv").query("judge != 'coin'")  # which is tossed anew
        stage = taken_over / "tiny" / "length_bias" / ARMS[0] / "seed-42"
        assert found.equals(tables.read(stage / f"{name}.csv").query("judge != 'coin'"))
    texts = [prompt.text for prompt in data.load_prompts("sample")]
    written = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "sample_0" in written and not any(text in written for text in texts)


@pytest.mark.slow
def test_executed_notebooks_are_kept_and_whole(finished):
    folder, _ = finished
    kept = sorted((folder / "tiny" / "notebooks").glob("*.ipynb"))
    names = {path.name.split("-")[0] for path in kept}
    assert names == set(run.STAGES)
    assert not any(".part" in path.name or ".failed" in path.name for path in kept)
    for path in kept:
        assert not [output for cell in code_cells(path) for output in cell.outputs if output.output_type == "error"]


@pytest.mark.slow
def test_a_second_run_is_quick_and_runs_nothing(finished):
    folder, _ = finished
    started = time.monotonic()
    command = [sys.executable, "-m", "nbutils.run", "tiny", "--all"]
    done = subprocess.run(command, env=offline(folder), cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.count("fresh, skipped") == 13
    assert "running ..." not in done.stdout
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_the_loop_in_one_notebook_finds_everything_fresh(finished, tmp_path):
    import papermill

    folder, _ = finished
    executed = tmp_path / "00.ipynb"
    environment = {key: os.environ.get(key) for key in offline(folder)}
    os.environ.update(offline(folder))
    try:
        papermill.execute_notebook(ROOT / "notebooks" / "00_start_here.ipynb", executed, progress_bar=False)
    finally:
        for key, value in environment.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    text = "".join(output.get("text", "") for cell in code_cells(executed) for output in cell.outputs)
    assert "ok: both arms answered every prompt (40)" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("finished", "stage"),
    [
        (AT_ONCE, "select"),
        (AT_ONCE, "generate"),
        pytest.param("interrupted", "select", marks=pytest.mark.thorough),
        pytest.param("interrupted", "finetune", marks=pytest.mark.thorough),
        pytest.param("interrupted", "generate", marks=pytest.mark.thorough),
    ],
    indirect=["finished"],
)
def test_notebook_and_command_line_write_the_same_artefact(finished, taken_over, stage):
    # Earlier stages are taken over; the stage itself is computed anew by its function.
    shutil.rmtree(taken_over / "tiny" / stage)
    module = run.STAGES[{"select": "02_select", "finetune": "04_finetune", "generate": "05_generate"}[stage]]
    made = module.run("tiny", "alpaca-1k-longest", 42)
    by_notebook = manifests.read_manifest(finished[0] / made.folder.relative_to(taken_over))
    assert made.key == by_notebook.key
    assert made.outputs == by_notebook.outputs


@pytest.mark.slow
def test_a_stale_result_is_not_reported(taken_over):
    from nbutils import report

    answers = taken_over / "tiny" / "generate" / ARMS[1] / "seed-42" / "answers.jsonl"
    answers.write_text(answers.read_text(encoding="utf-8").replace('"id"', '"id" ', 1), encoding="utf-8")
    with pytest.raises(errors.InputError, match=rf"'generate {ARMS[1]}' is missing or stale"):
        report.run("tiny")


@pytest.mark.slow
def test_what_a_model_writes_is_escaped_in_the_report(taken_over):
    from nbutils import report

    answered = run.STAGES["05_generate"].run("tiny", ARMS[1], 42)
    answers = disk.read_jsonl(answered.path("answers.jsonl"))
    answers[0]["response"] = "</div><script>alert(1)</script><img src=x onerror=alert(2)>"
    disk.write_jsonl(answered.path("answers.jsonl"), answers)
    stored = json.loads(answered.path("manifest.json").read_text(encoding="utf-8"))
    stored["outputs"]["answers.jsonl"] = disk.sha256_file(answered.path("answers.jsonl"))
    disk.write_json(answered.path("manifest.json"), stored)
    run.STAGES["07_length_bias"].run("tiny")
    text = report.run("tiny").path("report.html").read_text(encoding="utf-8")
    assert r"\u003cscript\u003ealert(1)\u003c/script\u003e" in text
    assert text.count("<script") == 2  # the data block and the page's own
    assert "onerror=alert(2)>" not in text


@pytest.mark.slow
def test_a_failed_notebook_keeps_its_traceback(tmp_path, monkeypatch):
    for key, value in offline(tmp_path).items():
        monkeypatch.setenv(key, value)
    step = run.Step("02_select", "tiny", "sample-9999-longest", 42)
    with pytest.raises(errors.InputError, match="more than the 260 rows"):
        run.execute(step)
    failed = json.loads(step.output.with_suffix(".failed.ipynb").read_text(encoding="utf-8"))
    assert any(output["output_type"] == "error" for cell in failed["cells"] for output in cell.get("outputs", []))
    assert not step.output.exists()


@pytest.mark.slow
def test_a_published_subset_passes_02s_checks_by_its_own_row_numbers(mirror, tmp_path, monkeypatch):
    """Its ids are rows of Alpaca-52k, of which it has a thousand."""
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    run.main(["tiny", "--only", "02_select", "-p", "arm", "alpaca-1k-score"])
    (kept,) = tmp_path.rglob("02_select-alpaca-1k-score-*.ipynb")
    assert "ok: no row is kept twice" in kept.read_text(encoding="utf-8")


# --- the report in a browser ---------------------------------------------------------------------------------------


@pytest.mark.long  # a whole run for one page; tests/test_report.py opens pages of made-up runs in a browser
@pytest.mark.parametrize("finished", [AT_ONCE], indirect=True)
def test_the_report_opens_in_a_browser_and_asks_nobody(finished):
    folder, _ = finished
    report = folder / "tiny" / "report" / ARMS[0] / "seed-42" / "report.html"
    with open_page(report) as (page, asked, complaints):
        page.locator(".row").nth(1).click()
        assert page.locator("#detail .two").is_visible()
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) >= 11
        assert min(widths) > 600
        if picture := os.environ.get("LIM_SCREENSHOT"):
            page.screenshot(path=picture, full_page=True)
    assert asked == complaints == []


def test_arms_of_the_sample_stand_in_for_those_of_alpaca(no_data):
    given = settings.load_profile("tiny")
    chosen = arms.with_data_at_hand(given)
    assert chosen.arms == ARMS
    assert chosen.judging.target == ARMS[0]
    assert arms.resolve_arm("alpaca-1k-random-7", given, chosen) == ARMS[1]
    assert Path(chosen.dataset).name == "sample"
