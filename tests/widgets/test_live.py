"""Controls over a pane: what is drawn at a move, and what stands in the widget's place where there is none."""

import ipywidgets
import matplotlib.figure

from nbutils.widgets import live


def test_every_move_draws_the_pane_anew():
    slider, menu = ipywidgets.IntSlider(2, 1, 9), ipywidgets.Dropdown(options=["words", "tokens"])
    made = live.Live(lambda k, measure: f"{k} by {measure}", {"k": slider, "measure": menu})
    *controls, pane = made.box().children
    assert controls == [slider, menu] and pane.value == live.LINES.format("2 by words")
    slider.value, menu.value = 7, "tokens"
    assert pane.value == live.LINES.format("7 by tokens")


def test_without_a_kernel_the_first_state_is_shown():
    made = live.Live(lambda k: f"<b>{k}</b>", {"k": ipywidgets.IntSlider(3)})
    assert made._repr_mimebundle_() == {"text/html": "<b>3</b>"}


class Shell:
    """A kernel's shell that was asked to run a cell, with what the front end says of it."""

    def __init__(self, **metadata):
        self.metadata = metadata

    def get_parent(self):
        return {"metadata": self.metadata}


def test_in_a_front_end_both_are_shown_and_on_colab_the_widget_alone(monkeypatch):
    made = live.Live(lambda k: f"<b>{k}</b>", {"k": ipywidgets.IntSlider(3)})
    monkeypatch.setattr(live, "running_shell", lambda: Shell(cellId="a"))
    bundle = made._repr_mimebundle_()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert bundle["text/html"] == "<b>3</b>" and view["version_major"] == 2
    shown = ipywidgets.Widget.widgets[view["model_id"]]
    assert [type(each).__name__ for each in shown.children] == ["IntSlider", "HTML"]
    monkeypatch.setitem(live.sys.modules, "google.colab", object())
    assert "text/html" not in made._repr_mimebundle_()


def test_in_a_notebook_that_is_executed_unseen_the_first_state_stands_alone(monkeypatch):
    monkeypatch.setattr(live, "running_shell", Shell)
    assert live.Live(lambda k: f"<b>{k}</b>", {"k": ipywidgets.IntSlider(3)})._repr_mimebundle_() == {
        "text/html": "<b>3</b>"
    }


def test_a_picture_needs_no_file_and_escapes_its_text():
    page = live.picture(matplotlib.figure.Figure(), 'a "cut" <at> 192')
    assert 'alt="a &quot;cut&quot; &lt;at&gt; 192"' in page and "data:image/png;base64,iVBOR" in page


class Shown:
    """What stands for a table."""

    def __init__(self, name, place):
        self.text = f"{name} at {place}"

    def _repr_html_(self):
        return f"<p>{self.text}</p>"

    def __repr__(self):
        return self.text


def test_a_browser_goes_through_places_and_never_beyond_the_last():
    made = live.browse({"long": 60, "short": 3}, Shown)
    menu, slider, pane = made.box().children
    assert pane.value == live.LINES.format("<p>long at 0</p>")
    slider.value = 40
    assert pane.value == live.LINES.format("<p>long at 39</p>")
    menu.value = "short"
    assert slider.max == 3 and pane.value == live.LINES.format("<p>short at 2</p>")


def test_what_is_folded_lies_behind_one_line():
    folded = live.Folded("hashes <of> rows", Shown("a", 1))
    assert folded._repr_html_().endswith("hashes &lt;of&gt; rows</summary><p>a at 1</p></details>")
    assert repr(folded) == "hashes <of> rows\na at 1"
