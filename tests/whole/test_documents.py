"""What README and docs name is there: files of the project, commands, and links."""

import re

import nbformat
import pytest

from nbutils import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORMER = "## Old and new names"
"""Behind this heading docs/decisions.md names what is gone."""


def text_of(path):
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    return path.read_text(encoding="utf-8").partition(FORMER)[0]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_files_and_commands_that_are_named_exist(path):
    text = text_of(path)
    files = re.findall(
        r"(?<![\w/.])(?:nbutils|tests|profiles|data|benchmarks|docs)/[\w/.-]+\.(?:py|toml|md|csv|smk|yaml)\b", text
    )
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = [
        name.replace(".", "/") for name in re.findall(r"(?:python -m|from|import) (nbutils(?:\.[a-z_]+)*)", text)
    ]
    assert [name for name in modules if not (ROOT / name).is_dir() and not (ROOT / f"{name}.py").is_file()] == []
    commands = [name.replace(".", "/") for name in re.findall(r"python -m (nbutils\.[a-z_.]+)", text)]
    assert [name for name in commands if not is_command(name.strip("/"))] == []


def is_command(name):
    file = next((path for path in (ROOT / name / "__main__.py", ROOT / f"{name}.py") if path.is_file()), None)
    return file is not None and 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text_of(path))
    assert [link for link in links if not (path.parent / link).exists()] == []
