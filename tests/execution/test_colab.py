"""Colab: one set-up cell, badges from one setting, an installation that changes nothing, and half an hour on a T4."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import colab_form
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils import REPOSITORY, ROOT
from nbutils.core import machine, settings
from nbutils.execution import colab
from nbutils.training import gguf

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNTIMES = ("2026.07", "2026.08")
ABSENT = ["trl", "bitsandbytes", "papermill", "sacrebleu", "gguf"]
"""What Colab lacks; the rest of requirements-colab.txt it has."""

# What the set-up cell sees on Colab: no nbutils anywhere.
HIDE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
sys.path[:] = [place for place in sys.path if place != {root!r}]
"""


def versions(runtime):
    """A runtime's versions by package (googlecolab/backend-info)."""
    with open(ROOT / "tests" / "support" / "colab_versions.csv", encoding="utf-8", newline="") as file:
        return {row["package"]: row[runtime] for row in csv.DictReader(file) if row[runtime]}


def wanted():
    return colab.read_requirements(ROOT / "requirements-colab.txt")


# --- badges and the set-up cell --------------------------------------------------------------------------------------


def test_the_set_up_cell_is_short_and_names_the_repository_once():
    cell = colab_form.setup_cell("someone/fork")
    assert len(cell.splitlines()) <= 12
    assert max(map(len, cell.splitlines())) <= 120
    assert cell.count("https://github.com/someone/fork") == 1
    assert cell.count('"fork"') == 2 and '"fork/nbutils/execution/colab.py"' in cell
    assert cell.startswith("# @title Set-up: ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_badge_and_cell_are_those_of_the_repository(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.count("colab.research.google.com/github") == 1
    assert colab_form.badge(REPOSITORY, path.name) in cells[0].source
    assert cells[1].source == colab_form.setup_cell(REPOSITORY)
    assert cells[1].metadata == colab_form.FOLDED


def test_the_readme_leads_to_the_same_place():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert colab_form.rebadge(readme, REPOSITORY) == readme
    assert colab_form.badge(REPOSITORY, "00_start_here.ipynb") in readme


def test_a_fork_changes_one_line(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "README.md", tmp_path)
    changed = colab_form.write_form(tmp_path, "someone/fork")
    assert len(changed) == len(NOTEBOOKS) + 1
    assert colab_form.write_form(tmp_path, "someone/fork") == []
    texts = [path.read_text(encoding="utf-8") for path in changed]
    assert not any(f"github/{REPOSITORY}" in text or f"github.com/{REPOSITORY}" in text for text in texts)
    assert sum(text.count("github/someone/fork/blob/main/notebooks/") for text in texts) == len(NOTEBOOKS) + 1
    colab_form.write_form(tmp_path, REPOSITORY)
    for path in NOTEBOOKS:
        assert nbformat.read(tmp_path / "notebooks" / path.name, 4) == nbformat.read(path, 4)


def test_a_notebook_without_a_badge_gets_one(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "README.md").write_text("# x\n", encoding="utf-8")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 10 · New"), nbformat.v4.new_code_cell("")])
    nbformat.write(made, tmp_path / "notebooks" / "10_new.ipynb")
    colab_form.write_form(tmp_path, "a/b")
    cells = nbformat.read(tmp_path / "notebooks" / "10_new.ipynb", 4).cells
    assert cells[0].source == f"# 10 · New\n\n{colab_form.badge('a/b', '10_new.ipynb')}"
    assert cells[1].source == colab_form.setup_cell("a/b")
    assert cells[1].metadata == colab_form.FOLDED


# --- the cell, run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The URL of a bare repository that holds the working tree as it is."""
    folder = tmp_path_factory.mktemp("git")
    listed = git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    git(folder / "tree", "init", "-q")
    git(folder / "tree", "add", "-A")
    git(folder / "tree", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "copy")
    git(folder, "clone", "-q", "--bare", "tree", "bare.git")
    return f"file://{folder / 'bare.git'}"


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def run_cell(folder, url, then=""):
    """Run the set-up cell in a fresh process that does not find nbutils."""
    code = HIDE.format(root=str(ROOT)) + colab_form.setup_cell(REPOSITORY) + f"\n{then}"
    environment = {**os.environ, "LIM_REPOSITORY": url, "PYTHONPATH": ""}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.thorough
def test_the_cell_clones_once_and_puts_the_project_on_the_path(repository, tmp_path):
    where = "import os, subprocess, nbutils; print(nbutils.ROOT)\n" + (
        "subprocess.run([sys.executable, '-c', 'import nbutils; print(nbutils.ROOT)'], cwd='/')"
    )
    first = run_cell(tmp_path, repository, where)
    assert first.returncode == 0, first.stderr
    clone = tmp_path / "long-is-more"
    lines = first.stdout.splitlines()
    assert lines[0] == f"long-is-more is in {clone}"
    assert lines[1] == "nothing was missing"
    assert lines[2].startswith(f"as they were: torch {version('torch')}, transformers {version('transformers')}, ")
    assert lines[3:] == [str(clone)] * 2
    (clone / "mine.txt").write_text("kept", encoding="utf-8")
    again = run_cell(tmp_path, "file:///nowhere", f"exec({colab_form.setup_cell(REPOSITORY)!r})\n{where}")
    assert again.stdout == first.stdout, again.stderr
    assert (clone / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_a_repository_that_cannot_be_cloned_is_one_line(tmp_path):
    failed = run_cell(tmp_path, f"file://{tmp_path}/nowhere.git")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    start = f"file://{tmp_path}/nowhere.git could not be cloned (is there a network?): fatal: "
    assert failed.stderr.startswith(start), failed.stderr
    assert not (tmp_path / "long-is-more").exists()


def test_where_nbutils_is_at_hand_the_cell_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIM_REPOSITORY", "file:///nowhere")
    path = list(sys.path)
    exec(colab_form.setup_cell(REPOSITORY), {})  # noqa: S102
    assert sys.path == path
    assert list(tmp_path.iterdir()) == []


# --- what is installed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_colabs_versions_satisfy_all_that_colab_has(runtime):
    assert colab.unsatisfied(wanted(), versions(runtime)) == ABSENT


def test_all_that_the_project_needs_is_looked_at():
    needed = {name for name in colab.read_requirements(ROOT / "requirements.txt") if name != "jupyterlab"}
    # The kernel that runs the set-up cell is there by necessity, in whatever version.
    assert needed - {"ipykernel"} == set(wanted())


@pytest.mark.parametrize("name", [*wanted()])
def test_the_projects_own_versions_lie_in_the_ranges(name):
    assert wanted()[name].specifier.contains(version(name))


@given(
    st.dictionaries(st.sampled_from([*colab.KEPT, "nltk", "trl", "x"]), st.sampled_from(["1", "2.0+cu128"])), st.data()
)
def test_constraints_hold_all_but_what_has_to_change(present, data):
    missing = data.draw(st.lists(st.sampled_from(["nltk", "trl", "torch"])))
    lines = colab.constraints(missing, present)
    assert lines == sorted(
        f"{name}=={number}" for name, number in present.items() if name not in missing or name in colab.KEPT
    )


@pytest.fixture
def colab_machine(monkeypatch, tmp_path):
    """A machine with Colab's versions on which pip only writes down what it is asked."""
    present, asked = versions("2026.08"), []

    def pip(*arguments):
        limits = [Path(value).read_text(encoding="utf-8").splitlines() for value in arguments if "constraints" in value]
        asked.append((arguments, limits))
        if arguments[0] == "uninstall":
            del present["torchao"]
        else:
            present.update({"trl": "0.29.1", "bitsandbytes": "0.50.2", "papermill": "2.7.0", "sacrebleu": "2.6.0"})
            present["gguf"] = "0.19.0"

    monkeypatch.setattr(colab, "installed", lambda: dict(present))
    monkeypatch.setattr(colab, "_pip", pip)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "/other")
    return SimpleNamespace(present=present, asked=asked)


def test_on_colab_only_what_is_missing_is_installed(colab_machine, capsys):
    before = dict(colab_machine.present)
    colab.set_up()
    (install, (limits,)), (uninstall, _) = colab_machine.asked
    assert install[0] == "install"
    pinned = ("bitsandbytes==0.50.2", "papermill==2.7.0", "sacrebleu==2.6.0", "gguf==0.19.0")
    assert install[3:] == ("trl<1.17,>=0.29.1", *pinned)
    assert limits == sorted(f"{name}=={number}" for name, number in before.items())
    assert uninstall == ("uninstall", "--yes", "torchao")
    assert sys.path[0] == str(ROOT)
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}/other"
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "installing trl, bitsandbytes, papermill, sacrebleu, gguf (about a minute) ...",
        "installed: bitsandbytes 0.50.2, gguf 0.19.0, papermill 2.7.0, sacrebleu 2.6.0, trl 0.29.1",
        "removed: torchao 0.10.0",
    ]


def test_a_second_call_asks_nothing_of_pip(colab_machine, capsys):
    colab.set_up()
    colab_machine.asked.clear()
    capsys.readouterr()
    colab.set_up()
    assert colab_machine.asked == []
    assert capsys.readouterr().out.splitlines()[1] == "nothing was missing"


def test_a_newer_torchao_stays(colab_machine):
    colab_machine.present["torchao"] = "0.16.0"
    colab.set_up()
    assert [arguments[0] for arguments, _ in colab_machine.asked] == ["install"]


def test_a_newer_nltk_is_replaced_and_told(colab_machine, capsys):
    colab_machine.present["nltk"] = "3.10.1"
    colab.set_up()
    (install, (limits,)), _ = colab_machine.asked
    assert "nltk<=3.9.2,>=3.9.1" in install
    assert not any(line.startswith("nltk==") for line in limits)
    lines = colab.describe_changes({"nltk": "3.10.1", "torch": "2"}, {"nltk": "3.9.2", "torch": "2"})
    assert list(lines) == ["replaced: nltk 3.10.1 by 3.9.2", "as they were: torch 2"]


def test_something_more_is_added_under_the_same_constraints(colab_machine, capsys):
    colab.set_up()
    colab_machine.asked.clear()
    colab.add("lm_eval==0.4.13")
    ((arguments, (limits,)),) = colab_machine.asked
    assert arguments[3:] == ("lm_eval==0.4.13",)
    assert limits == sorted(f"{name}=={number}" for name, number in colab_machine.present.items())


def test_an_old_runtime_is_refused_with_the_mend(colab_machine):
    colab_machine.present["transformers"] = "4.57.6"
    with pytest.raises(
        SystemExit, match=r"has transformers 4\.57\.6, the project needs transformers<6,>=5\.13\.1: choose"
    ):
        colab.set_up()
    assert colab_machine.asked == []


def test_a_pip_that_fails_is_one_line():
    with pytest.raises(SystemExit) as failed:
        colab._pip("install", "--no-index", "--find-links", "/nowhere", "no-such-project-of-ours")
    said = str(failed.value.code)
    assert said.startswith("pip install failed (is there a network?): ERROR: Could not find a version ")
    assert said.endswith("No matching distribution found for no-such-project-of-ours")
    assert "\n" not in said


def test_what_is_installed_is_found_by_normalised_names():
    found = colab.installed()
    assert found["huggingface-hub"] == version("huggingface_hub")
    assert found["nbformat"] == nbformat.__version__


# --- the form of Colab -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "gpu", "on_colab", "chosen"),
    [
        ("auto", "Tesla T4, 15360 MiB", True, "colab-t4"),
        ("auto", "CPU, 2 cores", True, "demo or tiny"),
        ("auto", "NVIDIA H100, 81559 MiB", False, "demo or tiny"),
        ("llama2-7b", "CPU, 2 cores", True, "llama2-7b"),
        ("tiny", "Tesla T4, 15360 MiB", True, "tiny"),
    ],
)
def test_the_profile_that_is_chosen(given, gpu, on_colab, chosen, monkeypatch):
    monkeypatch.setattr(machine, "describe_device", lambda: gpu)
    monkeypatch.setattr(gguf, "choose_profile", lambda *names: " or ".join(names))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(__path__=[]))  # as protobuf brings it
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(__spec__=SimpleNamespace()))
    assert colab.choose_profile(given) == chosen


def test_the_widgets_are_those_of_ipywidgets_7():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "nbutils").rglob("*.py")]
    used = {name for text in texts for name in re.findall(r"\bipywidgets\.(\w+)", text)}
    boxes, sliders = {"HBox", "VBox", "Layout"}, {"FloatLogSlider", "FloatSlider", "IntSlider"}
    choices = {"Button", "Dropdown", "SelectionRangeSlider", "SelectionSlider", "ToggleButtons"}
    assert used == boxes | sliders | choices | {"HTML"}
    assert not any("anywidget" in text or "import ipympl" in text for text in texts)


def test_colab_opens_the_start_with_a_t4():
    stored = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["metadata"]
    assert (stored["accelerator"], stored["colab"]["gpuType"]) == ("GPU", "T4")


# --- the profile ------------------------------------------------------------------------------------------------------


def t4():
    return settings.load_profile("colab-t4")


def test_the_judge_is_local_pinned_and_beside_the_controls():
    first, *controls = t4().judging.judges
    assert (first.kind, len(first.revision or "")) == ("transformers", 40)
    assert [judge.kind for judge in controls] == ["longer", "first", "coin"]
    assert t4().judging.baselines == ("alpaca-1k-random-7",)
    assert t4().training.epochs == 3


# --- on Colab's versions ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, tmp_path_factory):
    """The interpreter of an environment with a runtime's versions (torch as it is here), and its distributions."""
    folder = tmp_path_factory.mktemp(f"colab-{request.param}")
    there = versions(request.param) | {"torch": version("torch").partition("+")[0]}
    pins = [f"{name}=={number}" for name, number in there.items() if name != "python"]
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", f"pip=={there['pip']}"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *pins], check=True)
    return python, folder


def distributions(python):
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    return {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}


@pytest.mark.long
def test_every_notebook_runs_on_colabs_versions(runtime, repository, monkeypatch):
    import papermill

    python, folder = runtime
    before = distributions(python)
    spec = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}), encoding="utf-8")
    (folder / "content").mkdir()
    for name, value in {
        "JUPYTER_PATH": folder / "jupyter",
        "LIM_REPOSITORY": repository,
        "LIM_RUNS": folder / "runs",
        "LIM_DATA_MIRROR": "",
        "LIM_DATA_CACHE": folder / "cache",
        "LIM_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    printed = {}
    for path in NOTEBOOKS:
        if path.stem == "08_capabilities":
            add = ["-c", "from nbutils.execution import colab; colab.add('lm_eval==0.4.13')"]
            subprocess.run([python, *add], cwd=folder / "content" / "long-is-more", check=True)
        out = folder / "content" / f"out-{path.name}"
        done = papermill.execute_notebook(path, out, kernel_name="colab", cwd=folder / "content", progress_bar=False)
        cells = [cell for cell in done.cells if cell.cell_type == "code"]
        printed[path.stem] = "".join(o.get("text", "") for o in cells[0].outputs)
    assert "installed: bitsandbytes 0.50.2" in printed["00_start_here"]
    assert "removed: torchao 0.10.0" in printed["00_start_here"]
    assert all("nothing was missing" in text for name, text in printed.items() if name != "00_start_here")
    after = distributions(python)
    assert after["trl"] == "0.29.1"
    assert {name: number for name, number in before.items() if name != "torchao"}.items() <= after.items()
