"""Badge and set-up cell of every notebook: what they hold, and how they are written anew.

python tests/support/colab_form.py     after REPOSITORY in nbutils/__init__.py has changed
"""

import re
from pathlib import Path

import nbformat

from nbutils import REPOSITORY, ROOT
from nbutils.core.disk import write_text

SETUP = """# @title Set-up: fetches the project on a fresh machine such as Colab; elsewhere it does nothing
import importlib.util
import os
import runpy
import subprocess

if importlib.util.find_spec("nbutils") is None:
    url = os.environ.get("LIM_REPOSITORY", "https://github.com/{repository}")
    git = subprocess.run(["git", "clone", "-q", "--depth", "1", url, "{name}"], capture_output=True, text=True)
    if git.returncode and not os.path.isdir("{name}"):
        raise SystemExit(f"{{url}} could not be cloned (is there a network?): {{git.stderr.strip()}}")
    runpy.run_path("{name}/nbutils/execution/colab.py")["set_up"]()"""

FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
"""Metadata by which Colab shows the cell's title alone, JupyterLab and VS Code a bar, and `make site` a folded line."""

BADGE = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{notebook})"
)
_ANY_BADGE = re.compile(
    r"\[!\[Open In Colab\]\([^)]*\)\]\(https://colab\.research\.google\.com/github/[^)]*/(?P<notebook>[\w.-]+\.ipynb)\)"
)


def setup_cell(repository: str) -> str:
    """The set-up cell's source for a repository, `OWNER/NAME` on GitHub."""
    return SETUP.format(repository=repository, name=repository.partition("/")[2])


def badge(repository: str, notebook: str) -> str:
    """The badge, in Markdown, that opens a notebook of the repository in Colab."""
    return BADGE.format(repository=repository, notebook=notebook)


def rebadge(text: str, repository: str) -> str:
    """A text with all its badges pointing into the repository."""
    return _ANY_BADGE.sub(lambda found: badge(repository, found["notebook"]), text)


def write_form(root: Path, repository: str) -> list[Path]:
    """Write badges and set-up cells of all notebooks and of the README under `root`; returns the files that changed."""
    changed = []
    for path in [root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))]:
        old = path.read_text(encoding="utf-8")
        new = rebadge(old, repository) if path.suffix == ".md" else _with_form(old, path.name, repository)
        if new != old:
            write_text(path, new)
            changed.append(path)
    return changed


def _with_form(text: str, name: str, repository: str) -> str:
    notebook = nbformat.reads(text, as_version=4)
    first, cell = notebook.cells[:2]
    first.source = rebadge(first.source, repository)
    if badge(repository, name) not in first.source:
        first.source += f"\n\n{badge(repository, name)}"
    cell.source, cell.metadata = setup_cell(repository), nbformat.from_dict(FOLDED)
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    changed = write_form(ROOT, REPOSITORY)
    print("\n".join(f"written: {path.relative_to(ROOT)}" for path in changed) or f"all badges point to {REPOSITORY}")
