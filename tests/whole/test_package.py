"""The wheel: installed into an environment without the repository it has all that the commands read."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from nbutils import ROOT

pytestmark = pytest.mark.thorough

LEFT_BEHIND = shutil.ignore_patterns(".*", "runs", "cache", "build", "__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository; nothing is downloaded for it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_BEHIND)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel, and beside it what this one has installed from elsewhere."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # The folder alone goes on the path: links to a repository that lie in it (.pth) are not followed.
    with open(f"{packages.strip()}/others.pth", "w") as others:
        others.write(sysconfig.get_path("purelib") + "\n")
    return python


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def called(python, folder, *arguments):
    """What a call prints, in another directory and without this project on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIM_", "PYTHON"))}
    environment |= {"LIM_OFFLINE": "1"}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_all_that_the_repository_has_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    modules = {path for path in (ROOT / "nbutils").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {str(path.relative_to(ROOT)) for path in modules} <= names
    shared = f"long_is_more-{wheel.name.split('-')[1]}.data/data/share/long-is-more"
    read = [
        "data/*.toml",
        "data/prompts/*",
        "data/published/*",
        "data/sample/**/*",
        "profiles/**/*",
        "notebooks/*.ipynb",
    ]
    read += ["figures/tables/*", "figures/tables/smollm2-1k/*.csv", "Snakefile", "*.smk"]
    expected = {path.relative_to(ROOT) for pattern in read for path in ROOT.glob(pattern) if path.is_file()}
    expected = {path for path in expected if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}
    assert {f"{shared}/{path}" for path in expected} <= names


def test_the_package_is_the_installed_one(python, tmp_path):
    program = "import nbutils; print(nbutils.__file__, nbutils.ROOT, nbutils.home(), sep=chr(10))"
    file, root, home = called(python, tmp_path, "-c", program).splitlines()
    environment = str(python.parents[1])
    assert file.startswith(environment) and root == f"{environment}/share/long-is-more"
    assert home == str(tmp_path)


def test_select_and_judge_run_from_another_directory(python, tmp_path):
    rows = [{"instruction": f"Q{n}?", "output": "word " * n} for n in range(1, 30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    called(python, tmp_path, "-m", "nbutils.select", "rows.json", "-k", "3", "--measure", "words", "-o", "longest.json")
    assert json.loads((tmp_path / "longest.json").read_text()) == rows[-3:]
    for name, size in (("mine", 9), ("theirs", 4)):
        answers = [{"id": str(n), "prompt": f"Q{n}?", "response": "word " * (size + n % 3)} for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    called(python, tmp_path, "-m", "nbutils.judge", "mine.jsonl", "theirs.jsonl", "--judge", "longer", "-o", "judged")
    judged = [json.loads(line) for line in (tmp_path / "judged" / "judgments.jsonl").read_text().splitlines()]
    assert [row["preference"] for row in judged] == [1.0] * 12


def test_profiles_sources_and_notebooks_are_found(python, tmp_path):
    assert "alpaca-52k" in called(python, tmp_path, "-m", "nbutils.data")
    called(python, tmp_path, "-m", "nbutils.run", "tiny", "--check")
    assert not [path for path in tmp_path.iterdir() if path.name != "runs"]
