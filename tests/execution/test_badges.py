"""`make badges`: one setting, and all that leads to the repository follows it, whatever the set-up cell looks like."""

import shutil

import colab_form
import nbformat
import pytest

from nbutils import REPOSITORY, ROOT
from nbutils.core.errors import InputError
from nbutils.execution import badges

OTHER = "some-one/a.fork_2"
NAMED = ("README.md", "CITATION.cff", "docs", "notebooks", "nbutils/__init__.py")


@pytest.fixture
def copy(tmp_path):
    """What of the project names its repository, elsewhere."""
    for name in NAMED:
        there = tmp_path / name
        there.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / name, there) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, there)
    return tmp_path


def files_of(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_badge_and_every_clone_leads_to_the_new_repository_and_back(copy):
    before = files_of(copy)
    changed = {path.relative_to(copy).as_posix() for path in badges.write(copy, OTHER)}
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert changed >= notebooks | {"README.md", "CITATION.cff", "nbutils/__init__.py"}
    texts = {name: text.decode() for name, text in files_of(copy).items() if name.suffix != ".png"}
    assert [str(name) for name, text in texts.items() if REPOSITORY in text] == []
    assert f'REPOSITORY = "{OTHER}"' in (copy / "nbutils" / "__init__.py").read_text(encoding="utf-8")
    for name in notebooks:
        cells = nbformat.read(copy / name, as_version=4).cells
        assert f"colab.research.google.com/github/{OTHER}/blob/main/{name})" in cells[0].source
        assert cells[1].source == colab_form.setup_cell(OTHER)
    assert badges.write(copy, OTHER, OTHER) == []
    badges.write(copy, REPOSITORY, OTHER)
    assert files_of(copy) == before


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("https://github.com/a/b", "https://github.com/c/d"),
        ("(https://github.com/a/b/blob/main/x.md)", "(https://github.com/c/d/blob/main/x.md)"),
        ("git clone https://github.com/a/b.git", "git clone https://github.com/c/d.git"),
        ("github/a/b/blob and https://colab.research.google.com/github/a/b/blob/main/n.ipynb",
         "github/a/b/blob and https://colab.research.google.com/github/c/d/blob/main/n.ipynb"),
        ("https://github.com/a/bc", "https://github.com/a/bc"),
        ("https://github.com/a/b.c", "https://github.com/a/b.c"),
        ("https://github.com/aa/b", "https://github.com/aa/b"),
        ("https://github.com/a/b-c", "https://github.com/a/b-c"),
        ("lives at https://github.com/a/b.", "lives at https://github.com/c/d."),
    ],
)  # fmt: skip
def test_only_addresses_of_the_repository_itself_move(text, moved):
    assert badges.move(text, "a/b", "c/d") == moved


@pytest.mark.parametrize(
    ("cell", "moved"),
    [
        ('url, at = "https://github.com/a/b", Path("b")', 'url, at = "https://github.com/c/d", Path("d")'),
        ("!git clone https://github.com/a/b.git 'b'", "!git clone https://github.com/c/d.git 'd'"),
        ('"https://github.com/a/b"; x("b/x", "b-y", "ab", b)', '"https://github.com/c/d"; x("d/x", "b-y", "ab", b)'),
        ('print("b", "b/x.py", "https://github.com/a/bc")', 'print("b", "b/x.py", "https://github.com/a/bc")'),
    ],
)  # fmt: skip
def test_the_folder_of_a_clone_follows_in_any_set_up_cell_and_other_cells_stay(cell, moved):
    stored = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell('print("b")')])
    cells = nbformat.reads(badges.move_notebook(nbformat.writes(stored), "a/b", "c/d"), as_version=4).cells
    assert [each.source for each in cells] == [moved, 'print("b")']


@pytest.mark.parametrize(
    "wrong", ["", "name", "a/b/c", "https://github.com/a/b", "a/b.git", "-a/b", "a/..", "a b/c", "a/b\n", 'a/b"']
)
def test_what_is_no_repository_is_refused_before_anything_is_written(copy, wrong):
    before = files_of(copy)
    with pytest.raises(InputError, match="REPO=owner/name"):
        badges.write(copy, wrong)
    assert files_of(copy) == before


def test_the_command_ends_with_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        badges.main(["https://github.com/a/b"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: 'https://github.com/a/b' is no repository on GitHub: make badges")
    badges.main([REPOSITORY])
    assert capsys.readouterr().out == f"all leads to {REPOSITORY} already\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notebooks/09_report.ipynb", b'{"cells": ['),
        ("notebooks/09_report.ipynb", b"[]"),
        ("notebooks/09_report.ipynb", b"{}"),
        ("docs/judging.md", b"\xff\xfe"),
    ],
)
def test_a_torn_file_is_named_before_any_is_written(copy, name, content):
    (copy / name).write_bytes(content)
    before = files_of(copy)
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(.*\): restore it from the repository$"):
        badges.write(copy, OTHER)
    assert files_of(copy) == before
