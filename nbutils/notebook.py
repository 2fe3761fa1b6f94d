"""What every notebook shares: first lines, a look at the parameters, closing checks, and what cells show."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from nbutils import __version__, arms, data
from nbutils.core import judge_settings, machine
from nbutils.core.errors import InputError
from nbutils.core.machine import running_shell
from nbutils.core.manifests import Manifest
from nbutils.core.settings import LARGEST_SEED, Profile, load_profile
from nbutils.figures import registry
from nbutils.selection import preflight
from nbutils.widgets.live import Folded, browse

__all__ = ["Folded", "begin", "browse", "check", "show_figure", "show_page", "tell"]

_FORMAT_WARNING = warnings.formatwarning

COLUMNS = 80
"""Signs of a line that a cell's output has room for in a window of 1,100 pixels, beside the list of files."""

SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "nltk", "papermill")


def begin(profile: str) -> Profile:
    """Print one line of versions and device and one on the data; return the profile with what is at hand.

    In a notebook, from here on: a parameter that papermill would only warn of, or not look at, is refused. Raises
    InputError for a file that is not there.
    """
    shell = running_shell()
    if shell:
        refuse_injected(shell.user_ns.get("In", []))
    given = load_profile(profile)
    preflight.refuse_missing(given)
    if shell:
        warnings.formatwarning = _format_warning
        refuse_foreign_arm(given, shell.user_ns.get("arm"))
        shell.set_custom_exc((NameError,), _explain_missing)
    chosen = arms.with_data_at_hand(given)
    found = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN if importlib.util.find_spec(name)]
    versions = " · ".join([f"long-is-more {__version__}", f"Python {sys.version.split()[0]}", *found])
    said = [f"{versions} · {machine.describe_device()}", f"Profile {given.name}: {given.summary}"]
    for line in [*said, arms.data_line(given, chosen)]:
        print(_fit(line) if shell else line)
    return chosen


def _fit(line: str) -> str:
    """A line broken between words, as JupyterLab breaks it anywhere; a command in it, which one copies, stays whole."""
    kept = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), line)
    return textwrap.fill(kept, COLUMNS, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """The project's own warnings are for readers of a notebook, who need neither a path nor a line of source."""
    is_ours = Path(__file__).parent in Path(filename).parents
    return f"note: {message}\n" if is_ours else _FORMAT_WARNING(message, category, filename, lineno, line)


def refuse_injected(cells: Sequence[str]) -> None:
    """Raise InputError for a parameter that is not declared, is of another kind, or looks like a key.

    cells: the sources that were run so far. papermill puts what it was given into a cell of its own behind the
    declared parameters, begins it with "# Parameters", and merely warns of names that it does not know.
    """
    injected = [cell for cell in cells if cell.startswith("# Parameters\n")]
    given = _assigned(injected[-1]) if injected else {}
    declared = next((_assigned(cell) for cell in cells if "profile" in _assigned(cell) and cell not in injected), {})
    if any(judge_settings.is_like_a_key(name, value) for name, value in given.items()):
        raise InputError(
            "a parameter looks like a key, and papermill has written it into the output notebook: delete that file, "
            "revoke the key, and set the new one as an environment variable"
        )
    if declared and (unknown := sorted(set(given) - set(declared))):
        raise InputError(f"unknown parameter '{unknown[0]}': this notebook takes {', '.join(declared)}")
    for name, value in given.items():
        if name in declared:
            refuse_kind(name, _evaluate(declared[name]), _evaluate(value))


KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a decimal number",
    bool: "a boolean",
    list: "a list",
    dict: "a table",
    type(None): "nothing",
}


def refuse_kind(name: str, declared: Any, value: Any) -> None:
    """Raise InputError for a parameter's value of another kind than its declaration's.

    Where None is declared any kind goes, and where a decimal number is, a whole one as well. A boolean is no number.
    """
    wanted, found = type(declared), type(value)
    if name == "seed" and found is int and not 0 <= value <= LARGEST_SEED:
        raise InputError(f"parameter 'seed' takes a whole number from 0 on, below 2**32, not {value}")
    if declared is None or found is wanted or (wanted is float and found is int):
        return
    shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:39]}…"
    kinds = [KINDS.get(kind, kind.__name__) for kind in (wanted, found)]
    raise InputError(f"parameter '{name}' takes {kinds[0]}, not {shown} ({kinds[1]})")


def _evaluate(written: str) -> Any:
    """A parameter's value as papermill writes it: a literal, or `float('nan')` and its like."""
    number = re.fullmatch(r"float\('([^']*)'\)", written)
    return float(number[1]) if number else ast.literal_eval(written)


def _assigned(cell: str) -> dict[str, str]:
    """The names that a cell of plain assignments sets, with their values as written; nothing for any other cell."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # a cell with magics
        return {}
    if not all(isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) for each in statements):
        return {}
    return {each.targets[0].id: ast.unparse(each.value) for each in statements}  # type: ignore[attr-defined]


def refuse_foreign_arm(profile: Profile, arm: str | None) -> None:
    """Raise InputError for an arm of a public dataset in a profile with an own one: the forgotten parameter."""
    is_own = profile.dataset not in data.sources()
    if arm and is_own and arm not in profile.arms and arms.parse_arm(arm).pool != "own":
        raise InputError(f"profile '{profile.name}' has no arm '{arm}': set `arm` to one of {', '.join(profile.arms)}")


def _explain_missing(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
    error.add_note("Cells run out of order? Run the ones above first: menu Run, Run All Above Selected Cell.")
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def check(what: str, holds: bool, seen: object = "") -> None:
    """One line of a notebook's closing checks; an AssertionError stops the run when it does not hold."""
    shown = f" ({seen})" if seen != "" else ""
    if not holds:
        raise AssertionError(f"expected: {what}{shown}")
    print(f"ok: {what}{shown}")


PAPERS_POOL = "alpaca-52k"


def show_figure(name: str, made: Manifest) -> None:
    """Show a figure drawn from a stage's tables, which is kept beside them as well.

    Where the paper's data are not at hand, the figure of the real data, drawn from the committed tables, is shown too:
    embedded, so that an executed notebook needs no file beside it.
    """
    from IPython.display import display

    is_real = PAPERS_POOL in made.facts["datasets"]
    if all((made.folder / f"{table}.csv").is_file() for table in registry.FIGURES[name].tables):
        note = "" if is_real else f"Drawn from what is at hand, without {PAPERS_POOL}."
        display(registry.draw(name, made.folder, note, out=made.folder))
        if is_real:
            return
    display(registry.draw(name, note="Drawn from the real data, as the project keeps their numbers."))


def show_page(path: Path, height: int = 700) -> Any:
    """A self-contained HTML page, such as the report, within the notebook, on Colab as well.

    The page is in the output itself, since a path leads nowhere from a browser on another machine. Its scripts run, and
    reach nothing of the notebook around it.
    """
    from IPython.display import HTML

    # Without a base of its own a link to a place of the page would lead to the notebook's address.
    text = path.read_text(encoding="utf-8").replace("<head>", '<head><base href="about:srcdoc">', 1)
    page, title = escape(text), escape(path.stem)
    look = f"width: 100%; height: {height}px; border: 1px solid #C4C4C4"
    frame = f'<iframe title="{title}" sandbox="allow-scripts" style="{look}" srcdoc="{page}"></iframe>'
    return HTML(f"<div>{frame}</div>")


def tell(text: str) -> None:
    """Show a passage of Markdown, whose numbers are those of the tables at hand."""
    if running_shell() is None:
        print(text)
        return
    from IPython.display import Markdown, display

    display(Markdown(text))
