"""Figures come from the committed tables alone, and come out the same every time."""

import shutil
import subprocess
import sys

import matplotlib
import pytest

matplotlib.use("agg")

from nbutils.core import tables
from nbutils.core.errors import InputError
from nbutils.figures import registry, style

TABLES = registry.FOLDER / "tables"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with the committed tables, and every figure drawn from them."""
    folder = tmp_path_factory.mktemp("figures")
    shutil.copytree(TABLES, folder / "tables")
    registry.draw_all(folder)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_figure_is_committed_with_its_tables():
    for name, entry in registry.FIGURES.items():
        assert (registry.FOLDER / f"{name}.png").is_file()
        assert (registry.FOLDER / f"{name}.svg").is_file()
        assert all((TABLES / f"{table}.csv").is_file() for table in entry.tables)


@pytest.mark.parametrize("name", registry.FIGURES)
def test_png_and_svg_are_written(copy, name):
    assert (copy / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (copy / f"{name}.svg").read_text().startswith("<?xml")


@pytest.mark.thorough
def test_drawing_again_gives_the_same_bytes(copy):
    before = contents(copy)
    registry.draw_all(copy)
    assert contents(copy) == before


def test_tables_are_left_as_they_are(copy):
    assert contents(copy / "tables") == contents(TABLES)


@pytest.mark.parametrize("name", registry.FIGURES)
def test_every_text_lies_on_the_page(name):
    figure = registry.draw(name, TABLES, note="a note")
    page = figure.bbox.padded(1)
    figure.draw_without_rendering()
    for text in figure.findobj(matplotlib.text.Text):
        box = text.get_window_extent()
        if text.get_visible() and text.get_text().strip() and text.axes in (None, *figure.axes):
            assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
            assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()


def test_note_is_on_the_page_only_when_given():
    shown = [
        [text.get_text() for text in registry.draw("token-budget", TABLES, note=note).texts]
        for note in ("", "tiny model")
    ]
    assert "tiny model" not in shown[0]
    assert shown[1] == [*shown[0], "tiny model"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("response-lengths", "5.0 times"),
        ("length-by-measure", "all 1,000 rows"),
        ("what-long-examples-are", "64% of the longest"),
        ("gpt35-scores", "723 of the 1,000"),
        ("selection-overlaps", "28 of 1,000"),
        ("token-budget", "3.9 times"),
    ],
)
def test_titles_state_the_finding(name, words):
    title = registry.draw(name, TABLES).texts[0].get_text()
    assert words in title.replace("\n", " ")


@pytest.mark.thorough
def test_sample_can_be_drawn_without_ratings(no_data, runs, tmp_path):
    from nbutils import explore

    made = explore.run("tiny")
    registry.adopt_tables(made.folder, tmp_path)
    of_stage = [name for name, entry in registry.FIGURES.items() if entry.draw.__module__.endswith("datasets")]
    assert registry.draw_all(tmp_path) == [name for name in of_stage if name != "gpt35-scores"]
    title = registry.draw("response-lengths", made.folder).texts[0].get_text()
    assert title.startswith("The 60 longest have")


def test_unknown_figure_and_missing_table_are_refused(tmp_path):
    with pytest.raises(InputError, match="no figure 'nonsense': choose one of"):
        registry.draw("nonsense", TABLES)
    with pytest.raises(InputError, match=r"scores\.csv: no such table"):
        registry.draw("gpt35-scores", tmp_path)


def test_tables_of_an_unfinished_run_are_not_taken_over(tmp_path):
    tables.write(tmp_path / "lengths.csv", [{"dataset": "x"}])
    with pytest.raises(InputError, match="not the folder of a finished stage"):
        registry.adopt_tables(tmp_path, tmp_path / "figures")


@pytest.mark.thorough
def test_command_needs_neither_data_nor_network(copy, tmp_path):
    folder = tmp_path / "figures"
    shutil.copytree(copy / "tables", folder / "tables")
    command = [sys.executable, "-m", "nbutils.figures", "--folder", str(folder)]
    environment = {"LIM_OFFLINE": "1", "LIM_DATA_CACHE": str(tmp_path), "HOME": str(tmp_path), "MPLBACKEND": "agg"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "token-budget" in done.stdout
    assert contents(folder) == contents(copy)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.0013, "0.1%"), (0.0099, "1.0%"), (0.01, "1%"), (0.285, "29%"), (1, "100%")]
)
def test_percent(share, text):
    assert style.percent(share) == text


def test_an_arm_keeps_its_colour():
    assert style.colour_of("alpaca-1k-longest") == style.colour_of("alpaca-1k-longest-published") == style.VERMILION
    named = {style.colour_of(name) for name in ("alpaca-1k-longest", "alpaca-1k-score", "lima-1k", "alpaca-52k")}
    assert len(named) == 4
