"""The house: imports go down and never in a circle, and neither a room nor a module outgrows its reader."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbutils import ROOT

PACKAGE = ROOT / "nbutils"
MOST_FILES, MOST_LINES = 12, 350


@pytest.fixture
def house(tmp_path):
    """A copy of the package and of its contract, to plant imports in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "nbutils", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint_imports(folder):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def plant(folder, module, imported):
    """Let a module of the copy import another one, at the top of the file."""
    path = folder / "nbutils" / f"{module.replace('.', '/')}.py"
    path.write_text(f"import nbutils.{imported}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")


def test_the_package_keeps_its_contracts(house):
    done = lint_imports(house)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 2 kept, 0 broken." in done.stdout


PLANTED = {
    "a room above": ("core.disk", "data.rows"),
    "a stage above": ("arms", "select"),
    "a later stage": ("generate", "judge"),
    "a neighbour": ("judging.records", "selection.files"),
    "a neighbour below": ("data.rows", "llm.prices"),
    "a neighbour at the root": ("lengths", "arms"),
}


def test_each_import_up_or_next_door_is_told(house):
    for module, imported in PLANTED.values():
        plant(house, module, imported)
    done = lint_imports(house)
    assert done.returncode == 1
    for what, places in PLANTED.items():
        room, imported = (place.partition(".")[0] for place in places)
        assert f"nbutils.{room} is not allowed to import nbutils.{imported}" in done.stdout, what


def test_a_circle_within_a_room_breaks_them(house):
    plant(house, "core.errors", "core.settings")
    done = lint_imports(house)
    assert done.returncode == 1
    assert "No circles BROKEN" in done.stdout and "KEPT" in done.stdout
    assert ".errors -> .settings" in done.stdout


def test_a_room_that_the_contract_does_not_name_breaks_them(house):
    (house / "nbutils" / "cellar").mkdir()
    (house / "nbutils" / "cellar" / "__init__.py").write_text('"""A room of which no floor is known."""\n')
    done = lint_imports(house)
    assert done.returncode == 1
    assert "cellar" in done.stdout


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    "room", sorted(path.parent for path in PACKAGE.glob("*/__init__.py")), ids=lambda room: room.name
)
def test_a_room_has_few_files_and_says_what_it_is_for(room):
    files = [path for path in room.glob("*.py") if not path.name.startswith("__")]
    assert len(files) <= MOST_FILES
    assert (room / "__init__.py").read_text(encoding="utf-8").startswith('"""')
