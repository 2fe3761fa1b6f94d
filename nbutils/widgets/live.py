"""Controls over a pane that is drawn anew at every move, in JupyterLab and on Colab.

Everywhere else (an executed notebook on GitHub, a page made of one) the pane's first state stands still instead.
"""

import base64
import io
import sys
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from nbutils.core.disk import writable
from nbutils.core.machine import running_shell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LINES = '<div style="line-height: 1.4">{}</div>'
"""Around a widget's HTML, whose lines JupyterLab makes 28 pixels high."""


class Live:
    """What a cell ends with: `draw(**values)` makes the pane's HTML of the values of the named controls.

    controls: ipywidgets by name, in the order in which they are shown. `draw` has to escape what a model or a dataset
    wrote.
    """

    def __init__(self, draw: Callable[..., str], controls: Mapping[str, Any]):
        self.draw, self.controls = draw, dict(controls)

    def html(self) -> str:
        """The pane for the controls' present values."""
        return writable(self.draw(**{name: control.value for name, control in self.controls.items()}))

    def box(self) -> Any:
        """The controls over their pane, as one widget that listens to them."""
        import ipywidgets

        # HTML and not an Output widget: under papermill the latter made a run hang, once in three.
        pane = ipywidgets.HTML(LINES.format(self.html()))

        def redraw(_: object) -> None:
            pane.value = LINES.format(self.html())

        for control in self.controls.values():
            control.observe(redraw, "value")
        return ipywidgets.VBox([*self.controls.values(), pane])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        if not _is_watched():
            return {"text/html": self.html()}
        # By hand: ipywidgets 7, which Colab has, knows no mimebundle of a widget.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box().model_id}
        shown = {"text/plain": "controls over a pane", "application/vnd.jupyter.widget-view+json": view}
        # Colab shows the HTML where it is given both.
        return shown if "google.colab" in sys.modules else shown | {"text/html": self.html()}


def say(text: str) -> Live:
    """A pane that says something, without controls: where there is nothing to move."""
    return Live(lambda: f"<p>{escape(text, quote=False)}</p>", {})


def _is_watched() -> bool:
    """Whether a front end shows this while the kernel lives: it names the cell that it has run, as papermill does not.

    A page made of an executed notebook would show widgets by scripts from elsewhere, or, without a network, nothing.
    """
    shell = running_shell()
    asked = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return "google.colab" in sys.modules or "cellId" in asked.get("metadata", {})


def picture(figure: "Figure", text: str) -> str:
    """A figure as an image that needs no file beside it; `text` says what it shows to those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    coded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{coded}" style="max-width:100%">'


class Folded:
    """What is shown on demand: a line that opens on a click, and what lies behind it (anything with an HTML form)."""

    def __init__(self, line: str, shown: Any):
        self.line, self.shown = line, shown

    def _repr_html_(self) -> str:
        summary = f'<summary style="cursor: pointer">{escape(self.line)}</summary>'
        return f"<details>{summary}{self.shown._repr_html_()}</details>"

    def __repr__(self) -> str:
        return f"{self.line}\n{self.shown!r}"


def browse(sizes: Mapping[str, int], show: Callable[[str, int], Any]) -> Live:
    """A menu of `sizes` (name to number of places) and a slider over the table `show(name, place)`, from place 0.

    A name without places has nothing to show, and is left out.
    """
    import ipywidgets

    sizes = {name: size for name, size in sizes.items() if size > 0}
    if not sizes:
        return say("There is nothing to show.")
    menu = ipywidgets.Dropdown(options=list(sizes), description="show")
    slider = ipywidgets.IntSlider(1, 1, sizes[menu.value], description="place", continuous_update=False)
    menu.observe(lambda change: setattr(slider, "max", sizes[change["new"]]), "value")

    def draw(name: str, place: int) -> str:
        shown: str = show(name, min(place, sizes[name]) - 1)._repr_html_()
        return shown

    return Live(draw, {"name": menu, "place": slider})
