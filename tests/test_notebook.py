"""What every notebook shares: its first lines, and checks that stop a run."""

import html.parser
import re
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from nbutils import ROOT, notebook
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.figures import registry
from nbutils.notebook import check
from nbutils.selection import preflight


def test_a_check_prints_or_raises(capsys):
    check("all rows are there", True)
    check("the sum", np.bool_(True), seen=3)
    assert capsys.readouterr().out == "ok: all rows are there\nok: the sum (3)\n"
    with pytest.raises(AssertionError, match=r"^expected: no row is lost \(12\)$"):
        check("no row is lost", False, 12)
    with pytest.raises(AssertionError, match=r"^expected: the sum$"):
        check("the sum", np.bool_(False))
    assert capsys.readouterr().out == ""


def test_a_notebooks_beginning(capsys, no_data):
    profile = notebook.begin("tiny")
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.match(r"long-is-more \S+ · Python 3\.\d+\.\d+ · .*papermill \d", first)
    assert second.startswith("Profile tiny: ")
    assert "sample" in third and profile.dataset == "sample"


def test_a_long_line_is_broken_between_words_and_never_within_a_command():
    line = f"Data: {'word ' * 14}`python -m nbutils.data fetch alpaca-52k` brings it, {'word ' * 12}".strip()
    first, *rest = notebook._fit(line).splitlines()
    assert first == f"Data: {'word ' * 14}".strip()
    assert rest[0].startswith("`python -m nbutils.data fetch alpaca-52k` brings it, word")
    assert " ".join([first, *rest]) == line and max(map(len, rest)) <= notebook.COLUMNS


def test_our_own_warnings_are_notes_and_others_stay_as_they_are():
    assert notebook._format_warning("mind this", UserWarning, notebook.__file__, 7) == "note: mind this\n"
    other = notebook._format_warning("mind this", UserWarning, "/a/library.py", 7, "x = 1")
    assert other == "/a/library.py:7: UserWarning: mind this\n  x = 1\n"


def test_a_misspelt_arm_is_named_with_its_profile_and_key():
    profile = load_profile("tiny").model_copy(update={"arms": ("alpaca-1k-longst",)})
    with pytest.raises(InputError, match=r"^profile 'tiny': key 'arms': unknown arm 'alpaca-1k-longst'"):
        preflight.refuse_missing(profile)


def test_an_unknown_profile():
    with pytest.raises(InputError, match="no profile 'none'"):
        notebook.begin("none")


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_shows_a_picture_that_lies_beside_it(path):
    for cell in nbformat.read(path, as_version=4).cells:
        shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)|<img[^>]*src=.([^\"' >]*)", cell.source)
        assert [link for pair in shown for link in pair if link and not link.startswith("https://")] == []


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Tables of a finished stage 01, and the footers of the figures that are shown."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda figure: shown.append(figure.texts[-1].get_text()))
    for name in ("budget", "scores"):
        shutil.copy(registry.FOLDER / "tables" / f"{name}.csv", tmp_path)
    return tmp_path, shown


def made_in(folder, *datasets):
    return SimpleNamespace(folder=folder, facts={"datasets": list(datasets)})


def test_with_the_papers_data_the_figure_is_drawn_from_the_run_alone(stage):
    folder, shown = stage
    notebook.show_figure("token-budget", made_in(folder, "alpaca-52k", "sample"))
    assert len(shown) == 1 and "rawn from" not in shown[0]
    assert (folder / "token-budget.png").is_file()


def test_without_them_the_committed_numbers_are_drawn_beside_it(stage):
    folder, shown = stage
    notebook.show_figure("token-budget", made_in(folder, "sample"))
    assert [text.split(",")[0] for text in shown] == ["Drawn from what is at hand", "Drawn from the real data"]


def test_where_the_run_has_no_such_table_the_committed_numbers_stand_alone(stage):
    folder, shown = stage
    (folder / "scores.csv").unlink()
    notebook.show_figure("gpt35-scores", made_in(folder, "alpaca-52k"))
    assert [text.split(",")[0] for text in shown] == ["Drawn from the real data"]
    assert not (folder / "gpt35-scores.png").exists()


# --- pages ---------------------------------------------------------------------------------------------------------


def test_a_page_is_within_the_notebook_and_escaped(tmp_path):
    page = '<!doctype html><head><title>a</title></head><p title="a">1 &lt; 2 &amp; "so"</p><script>alert(1)</script>'
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    shown = notebook.show_page(tmp_path / "report.html", height=300).data
    parser, found = html.parser.HTMLParser(), []
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(shown)
    (_, (tag, frame)) = found  # div and iframe: nothing of the page is read as this one's
    based = page.replace("<head>", '<head><base href="about:srcdoc">')  # for links within the page
    assert (tag, frame["srcdoc"]) == ("iframe", based)
    assert frame["sandbox"] == "allow-scripts"  # and so reaches nothing of the notebook's origin
    assert "height: 300px" in frame["style"]
