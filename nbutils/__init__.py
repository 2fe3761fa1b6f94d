"""long-is-more: select the longest examples, fine-tune, generate, judge, and ask whether it is only length.

At the root stand the nine stages, one module each, named as their notebooks: `explore`, `select`, `refine`, `finetune`,
`generate`, `judge`, `length_bias`, `capabilities`, `report`; `run` executes them, `notebook` serves the notebooks, and
`arms`, `lengths` and `prompts` hold the words that all of them use. What a stage needs lies in a room behind it
(docs/map.md); a module imports from its own room and from lower floors only.
"""

import sys
from pathlib import Path

from nbutils.core.errors import catch_interrupts

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m nbutils...`
    catch_interrupts()

__version__ = "0.1.0"

REPOSITORY = "long-is-more/long-is-more"
"""Where the project lives on GitHub; the notebooks' badges and set-up cells are checked against it."""

_PACKAGE = Path(__file__).resolve().parent


def _find_root() -> Path:
    """The repository around the package, or where a wheel puts what the package reads (pyproject.toml, data-files)."""
    installed = [place / "share" / "long-is-more" for place in _PACKAGE.parents]
    places = [_PACKAGE.parent, *installed]
    return next((place for place in places if (place / "data" / "sources.toml").is_file()), _PACKAGE.parent)


ROOT = _find_root()
"""The repository's root, or its likeness beside an installed package; it never depends on the working directory."""


def home() -> Path:
    """The folder for runs and downloads where no variable names one: the repository.

    A package that was installed without its repository writes into the working directory.
    """
    return ROOT if _PACKAGE.parent == ROOT else Path.cwd()
