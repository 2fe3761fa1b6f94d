"""Controls over a pane that is drawn anew at every move, in JupyterLab and on Colab.

Everywhere else (an executed notebook on GitHub, a page made of one) the pane's first state stands still instead.
"""

import base64
import io
import sys
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from nbutils.core.machine import running_shell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Live:
    """What a cell ends with: `draw(**values)` makes the pane's HTML of the values of the named controls.

    controls: ipywidgets by name, in the order in which they are shown. `draw` has to escape what a model or a dataset
    wrote.
    """

    def __init__(self, draw: Callable[..., str], controls: Mapping[str, Any]):
        self.draw, self.controls = draw, dict(controls)

    def html(self) -> str:
        """The pane for the controls' present values."""
        return self.draw(**{name: control.value for name, control in self.controls.items()})

    def box(self) -> Any:
        """The controls over their pane, as one widget that listens to them."""
        import ipywidgets

        # HTML and not an Output widget: under papermill the latter made a run hang, once in three.
        pane = ipywidgets.HTML(self.html())

        def redraw(_: object) -> None:
            pane.value = self.html()

        for control in self.controls.values():
            control.observe(redraw, "value")
        return ipywidgets.VBox([*self.controls.values(), pane])

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        if running_shell() is None:
            return {"text/html": self.html()}
        shown: dict[str, Any] = self.box()._repr_mimebundle_(**options)
        # Colab shows the HTML where it is given both.
        return shown if "google.colab" in sys.modules else shown | {"text/html": self.html()}


def picture(figure: "Figure", text: str) -> str:
    """A figure as an image that needs no file beside it; `text` says what it shows to those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    coded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{coded}" style="max-width:100%">'
