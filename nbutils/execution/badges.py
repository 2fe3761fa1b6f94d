"""Where the project lives on GitHub, written into everything that names it.

    make badges REPO=owner/name        or: python -m nbutils.execution.badges owner/name

The address is a setting: `REPOSITORY` in nbutils/__init__.py. From it come the badges of README, docs and notebooks,
the address that the notebooks' set-up cells clone, with the folder it lands in, and the address in CITATION.cff.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from nbutils import REPOSITORY, ROOT
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly

_ON_GITHUB = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")


def check_repository(repository: str) -> str:
    """The repository, if it is an OWNER/NAME as GitHub allows them. Raises InputError where it is not."""
    if not _ON_GITHUB.fullmatch(repository) or repository.endswith(".git"):
        raise InputError(f"'{repository}' is no repository on GitHub: make badges REPO=owner/name, without an address")
    return repository


def move(text: str, old: str, new: str) -> str:
    """A text in which every badge and every address of the repository `old` leads to `new`; others stay."""
    ends = r"(?![\w-]|\.\w)"
    text = re.sub(rf"(colab\.research\.google\.com/github/){re.escape(old)}{ends}", rf"\g<1>{new}", text)
    return re.sub(rf"(https://github\.com/){re.escape(old)}(?=\.git\b|{ends})", rf"\g<1>{new}", text)


def move_notebook(text: str, old: str, new: str) -> str:
    """A stored notebook whose badge, and whose set-up cell with the folder that it clones into, lead to `new`."""
    notebook, names = nbformat.reads(text, as_version=4), [name.partition("/")[2] for name in (old, new)]
    folder = re.compile(rf"""(?<=["']){re.escape(names[0])}(?=["'/])""")  # alone, or where a path begins
    for cell in notebook.cells:
        moved = move(cell.source, old, new)
        if cell.cell_type == "code" and moved != cell.source:
            moved = folder.sub(names[1], moved)
        cell.source = moved
    return nbformat.writes(notebook) + "\n"


def write(root: Path, new: str, old: str = REPOSITORY) -> list[Path]:
    """Write the repository `new` (OWNER/NAME) for `old` into all files under `root` that name it; those that changed.

    Every file is read before the first is written. Raises InputError for a name that is none, or a file that is torn.
    """
    check_repository(new)
    made = [(path, *_move_file(path, old, new)) for path in _places(root)]
    changed = [(path, then) for path, now, then in made if then != now]
    for path, text in changed:
        disk.write_text(path, text)
    return [path for path, _ in changed]


def _places(root: Path) -> Iterator[Path]:
    """The files that name the repository; the setting comes last, so that a stopped run can be run again."""
    named = [root / "README.md", root / "CITATION.cff", *sorted((root / "docs").glob("*.md"))]
    named += sorted((root / "notebooks").glob("*.ipynb"))
    yield from (path for path in [*named, root / "nbutils" / "__init__.py"] if path.is_file())


def _move_file(path: Path, old: str, new: str) -> tuple[str, str]:
    """A file's text as it is and as it will be. Raises InputError, naming it, for one that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, _moved(path, text, old, new)
    except OSError:
        raise
    except Exception as error:  # no UTF-8, no JSON, no notebook: each library has its own
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: cannot be read ({why}): restore it from the repository") from None


def _moved(path: Path, text: str, old: str, new: str) -> str:
    if path.suffix == ".ipynb":
        return move_notebook(text, old, new)
    if path.suffix == ".py":
        return text.replace(f'REPOSITORY = "{old}"', f'REPOSITORY = "{new}"')
    return move(text, old, new)


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.badges`."""
    parser = ArgumentParser(prog="python -m nbutils.execution.badges", description="Write where the project lives.")
    parser.add_argument("repository", help="owner/name on GitHub")
    changed = write(ROOT, parser.parse_args(arguments).repository)
    print("\n".join(f"written: {path.relative_to(ROOT)}" for path in changed) or f"all leads to {REPOSITORY} already")


if __name__ == "__main__":
    main()
