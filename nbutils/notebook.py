"""What every notebook shares: first lines, the refusal of cells out of order, tables that escape, closing checks."""

import ast
import html
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import __version__, arms, data
from nbutils.errors import InputError
from nbutils.progress import running_shell
from nbutils.settings import LIKE_A_KEY, Profile, load_profile

if TYPE_CHECKING:
    import pandas

PARAMETERS = ("profile", "arm", "seed")

_FORMAT_WARNING = warnings.formatwarning

SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "nltk", "papermill")


def begin(profile: str) -> Profile:
    """Print one line of versions and device and one on the data; return the profile with what is at hand.

    In a notebook, from here on: a parameter that papermill would only warn of is refused, and so is a cell that would
    mix results of two settings of the parameters (see `OrderGuard`). Raises InputError for a file that is not there.
    """
    given = load_profile(profile)
    refuse_missing(given)
    _watch_notebook(given)
    chosen = arms.with_data_at_hand(given)
    print(f"long-is-more {__version__} · Python {sys.version.split()[0]} · {_versions()} · {device()}")
    print(f"Profile {given.name}: {given.summary}")
    print(arms.data_line(given, chosen))
    return chosen


def _versions() -> str:
    found = {name: _version(name) for name in SHOWN}
    return " · ".join(f"{name} {version}" for name, version in found.items() if version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> str:
    """The device in words, found without importing torch."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip().splitlines()[0]
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def refuse_missing(profile: Profile) -> None:
    """Raise InputError for a dataset, arm or test set of a profile that is neither known nor a file."""
    if profile.dataset not in data.sources() and not Path(profile.dataset).is_file():
        raise InputError(
            f"profile '{profile.name}': dataset '{profile.dataset}' is neither a source nor a file{_here()}"
        )
    for arm in _parse_arms(profile):
        if arm.rule == "rated":
            arms.ratings_of(arm, profile)
    for name in profile.generation.test_sets:
        if name != "sample" and name not in data.sources_of("prompts") and not Path(name).is_file():
            choices = ", ".join(["sample", *data.sources_of("prompts")])
            wanted = f"a .jsonl file{_here()}, or one of {choices}"
            raise InputError(f"profile '{profile.name}': unknown test set '{name}': {wanted}")


def _parse_arms(profile: Profile) -> list[arms.Arm]:
    try:
        return [arms.parse_arm(name) for name in profile.arms]
    except InputError as error:
        raise InputError(f"profile '{profile.name}': key 'arms': {error}") from None


def _here() -> str:
    return f" (looked for beside the profile, then in the working directory, {Path.cwd()})"


# --- parameters and the order of cells -----------------------------------------------------------------------------


def is_like_a_key(name: str, value: object) -> bool:
    """Whether a parameter looks like a secret: its name speaks of one, or name or value look like a service's key."""
    speaks = re.search(r"api_?key|token|secret|passw|credential", name, re.IGNORECASE)
    return bool(speaks or LIKE_A_KEY.search(name) or LIKE_A_KEY.search(str(value)))


def _watch_notebook(profile: Profile) -> None:
    """Inside a kernel: look at the parameters once, and from now on at every cell that is run."""
    shell = running_shell()
    if shell is None:
        return
    warnings.formatwarning = _format_warning
    refuse_injected(shell.user_ns.get("In", []))
    values = {name: shell.user_ns[name] for name in PARAMETERS if name in shell.user_ns}
    refuse_foreign_arm(profile, values.get("arm"))
    others = [each for each in shell.ast_transformers if not isinstance(each, OrderGuard)]
    shell.ast_transformers[:] = [*others, OrderGuard(shell.user_ns, values)]
    shell.set_custom_exc((NameError,), _explain_missing)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """The project's own warnings are for readers of a notebook, who need neither a path nor a line of source."""
    is_ours = Path(filename).parent == Path(__file__).parent
    return f"note: {message}\n" if is_ours else _FORMAT_WARNING(message, category, filename, lineno, line)


def refuse_injected(cells: Sequence[str]) -> None:
    """Raise InputError for a parameter that the notebook does not declare, or one that looks like a key.

    cells: the sources that were run so far. papermill puts what it was given into a cell of its own behind the
    declared parameters, begins it with "# Parameters", and merely warns of names that it does not know.
    """
    declared = next((_assigned(cell) for cell in cells if "profile" in _assigned(cell) and not _is_injected(cell)), {})
    given = next((_assigned(cell) for cell in reversed(cells) if _is_injected(cell)), {})
    if any(is_like_a_key(name, value) for name, value in given.items()):
        raise InputError(
            "a parameter looks like a key, and papermill has written it into the output notebook: delete that file, "
            "revoke the key, and set the new one as an environment variable"
        )
    if declared and (unknown := sorted(set(given) - set(declared))):
        raise InputError(f"unknown parameter '{unknown[0]}': this notebook takes {', '.join(declared)}")


def _is_injected(cell: str) -> bool:
    return cell.startswith("# Parameters\n")


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
    has_own_dataset = profile.dataset not in data.sources()
    if arm and has_own_dataset and arm not in profile.arms and arms.parse_arm(arm).pool != "own":
        raise InputError(f"profile '{profile.name}' has no arm '{arm}': set `arm` to one of {', '.join(profile.arms)}")


class OrderGuard:
    """Refuses a cell that is run after a parameter was changed, until `notebook.begin` has been run again.

    Without it such a cell would show results of the old parameters as if they were those of the new ones. An AST
    transformer is IPython's own way to refuse a cell (`InputRejected`); the tree itself is left as it is.
    """

    def __init__(self, namespace: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        self._namespace, self._parameters = namespace, dict(parameters)

    def visit(self, cell: ast.AST) -> ast.AST:
        """Return a cell's tree unchanged, or raise InputRejected with one line that says what to run again."""
        from IPython.core.error import InputRejected

        changed = [name for name, value in self._parameters.items() if self._namespace.get(name) != value]
        if changed and not self._may_run(cell):
            name = changed[0]
            was, now = self._parameters[name], self._namespace.get(name)
            said = (
                f"`{name}` was changed from {was!r} to {now!r}, and the results above are still those of {was!r}: "
                "run the cell with `notebook.begin(profile)` and the cells below it again"
            )
            refusal = InputRejected(said)
            # IPython shows this in place of its own traceback, which would be that of this method.
            refusal._render_traceback_ = lambda: [f"Not run: {said}"]  # type: ignore[attr-defined]
            raise refusal
        return cell

    def _may_run(self, cell: ast.AST) -> bool:
        nodes = list(ast.walk(cell))
        begins = any(isinstance(node, ast.Attribute) and node.attr == "begin" for node in nodes)
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        return begins or bool(stored & set(self._parameters))


def _explain_missing(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
    error.add_note("Cells run out of order? Run the ones above first: menu Run, Run All Above Selected Cell.")
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


# --- checks --------------------------------------------------------------------------------------------------------


def check(what: str, holds: bool, seen: object = "") -> None:
    """One line of a notebook's closing checks; an AssertionError stops the run when it does not hold."""
    shown = f" ({seen})" if seen != "" else ""
    if not holds:
        raise AssertionError(f"expected: {what}{shown}")
    print(f"ok: {what}{shown}")


# --- tables --------------------------------------------------------------------------------------------------------


class Table:
    """Records, or a pandas table, as a table in a notebook, every cell escaped, and as plain text elsewhere."""

    def __init__(self, rows: "Iterable[Mapping[str, Any]] | pandas.DataFrame", note: str = "") -> None:
        records: Any = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
        self._rows = [{str(name): value for name, value in row.items()} for row in records]
        self._note = note

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self._columns())
        body = "".join(f"<tr>{''.join(map(_cell, self._values(row)))}</tr>" for row in self._rows)
        note = f"<p><em>{html.escape(self._note)}</em></p>" if self._note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def __repr__(self) -> str:
        table = [self._columns(), *([_plain(value) for value in self._values(row)] for row in self._rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([*(line.rstrip() for line in lines), *([self._note] if self._note else [])])

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        return [row.get(name, "") for name in self._columns()]


def _cell(value: Any) -> str:
    align = "right" if isinstance(value, int | float) else "left"
    text = html.escape(_plain(value)).replace("\n", "<br>")
    return f'<td style="text-align:{align};vertical-align:top">{text}</td>'


def _plain(value: Any) -> str:
    if value is None or value != value:  # NaN is how pandas writes what is missing
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def shorten(text: str, characters: int = 300) -> str:
    """The beginning of a text, with an ellipsis and its full length when it was cut."""
    return text if len(text) <= characters else f"{text[:characters].rstrip()} … ({len(text):,} characters)"


def side_by_side(items: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """A table of records whose long texts are shortened."""
    cut = [{key: shorten(value) if isinstance(value, str) else value for key, value in item.items()} for item in items]
    return Table(cut, note)


def browse(sizes: Mapping[str, int], show: Callable[[str, int], Table]) -> Any:
    """A menu of `sizes` (name to number of places) and a slider that show the table `show(name, place)`, from place 0.

    Where there are no widgets: the table of the first name and place.
    """
    if running_shell() is None:
        return show(next(iter(sizes)), 0)
    import ipywidgets

    menu = ipywidgets.Dropdown(options=list(sizes), description="show")
    slider = ipywidgets.IntSlider(1, 1, sizes[menu.value], description="place", continuous_update=False)
    # HTML and not an Output widget: under papermill the latter made a run hang, once in three.
    table = ipywidgets.HTML()

    def draw(_: object = None) -> None:
        slider.max = sizes[menu.value]
        table.value = show(menu.value, slider.value - 1)._repr_html_()

    menu.observe(draw, "value")
    slider.observe(draw, "value")
    draw()
    return ipywidgets.VBox([menu, slider, table])
