"""Figures come from the committed tables alone, and come out the same every time."""

import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

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
def test_the_committed_picture_is_the_one_that_the_tables_give(copy, name):
    committed, made = (read_picture(folder / f"{name}.png") for folder in (registry.FOLDER, copy))
    assert committed.shape == made.shape
    # Other versions of the libraries below may smooth an edge otherwise; a mark or a word that moved is far more.
    assert (abs(committed - made) > 64).mean() < 2e-4


def test_a_picture_of_other_numbers_is_told_apart(copy, tmp_path):
    shutil.copytree(TABLES, tmp_path / "tables")
    changed = tables.read(TABLES / "scores.csv").replace({"rows": {537: 540}})
    tables.write(tmp_path / "tables" / "scores.csv", changed)
    registry.draw("gpt35-scores", tmp_path / "tables", out=tmp_path)
    committed, made = (read_picture(folder / "gpt35-scores.png") for folder in (registry.FOLDER, tmp_path))
    assert (abs(committed - made) > 64).mean() > 2e-4


def read_picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_nothing_about_a_run_is_written_into_the_papers_figures():
    for name in [name for name in registry.FIGURES if name.startswith("paper-")]:
        shown = [
            [text.get_text() for text in registry.draw(name, TABLES, note=note).texts] for note in ("", "tiny model")
        ]
        assert shown[0] == shown[1]


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
        ("length-calibration", "in 92 to 98% of runs; taking orders for independent, in 90%"),
        ("alpaca-eval-fits", "missed by 5.9 points"),
        ("alpaca-eval-variants", "at equal length 1.0 to 1.7 times"),
        ("cherry-by-length", "1.6 to 2.7 times as long: GPT-4 in 77% and GPT-3.5 in 65%"),
        ("cherry-at-equal-length", "59% become 55, still a preference; GPT-3.5's 53% become 49, no preference"),
        ("independent-evidence", "58% over Alpaca-52k become 52%, and refinement's 59% over the longest 58%"),
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


def test_titles_follow_the_numbers(tmp_path):
    shutil.copytree(TABLES, tmp_path, dirs_exist_ok=True)
    sets = tables.read(TABLES / "cherry-sets.csv")
    equal = [f"at_equal_length{end}" for end in ("", "_low", "_high")]
    sets.loc[sets.test_set == "all", equal] = 0.61, 0.58, 0.64
    tables.write(tmp_path / "cherry-sets.csv", sets)
    title = registry.draw("cherry-at-equal-length", tmp_path).texts[0].get_text().replace("\n", " ")
    assert title.endswith("GPT-3.5's 53% become 61, still a preference")
    averages = tables.read(TABLES / "paper-open-llm.csv").replace({"average": {55.9: 52.9}})
    tables.write(tmp_path / "paper-open-llm.csv", averages)
    title = registry.draw("paper-figure-5-open-llm", tmp_path).texts[0].get_text()
    assert title == "Published: LIMA-1k loses 0.2 points on four Open LLM tasks"


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
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # leads nowhere
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "token-budget" in done.stdout
    assert contents(folder) == contents(copy)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.0013, "0.1%"), (0.0099, "1.0%"), (0.01, "1%"), (0.285, "29%"), (1, "100%")]
)
def test_percent(share, text):
    assert style.percent(share) == text
