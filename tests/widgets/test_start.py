"""The first screen: where the cut lies, typical examples and answers, what it took."""

from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nbutils.data.rows import Row
from nbutils.figures.style import LONGEST
from nbutils.widgets import start

FACTS = {"measure": "nltk_words", "threshold": 12, "ties_taken": 2, "rows": 30, "pool_rows": 160}


def histograms():
    edges = [0, 1, 4, 8, 16, 32]
    bins = {"low": edges[:-1], "high": edges[1:], "rows": [5, 10, 60, 70, 20]}
    return pd.concat([pd.DataFrame({"dataset": name, **bins}) for name in ("own", "other")])


def test_the_histogram_is_coloured_from_the_cut_on():
    page = start.draw_cut(histograms(), FACTS, "own")
    grey, longest = page.axes[0].patches
    assert list(grey.get_data().edges) == [0.5, 3.5, 7.5, 15.5, 31.5]
    assert grey.get_data().values == pytest.approx([10 / 449.1, 60 / 175.9, 70 / 167.6, 20 / 163.7], rel=1e-3)  # of 160
    assert list(longest.get_data().edges) == [11.5, 15.5, 31.5]
    assert list(longest.get_data().values) == list(grey.get_data().values[2:])
    assert to_hex(longest.get_facecolor()).upper() == LONGEST
    assert page.texts[0].get_text() == "The 30 longest of 160 responses have 12 words or more"


@pytest.mark.parametrize("facts", [{"measure": "tokens"}, {"ties_taken": None}])
def test_no_cut_is_drawn_where_none_is_in_words(facts):
    given = {name: value for name, value in (FACTS | facts).items() if value is not None}
    page = start.draw_cut(histograms(), given, "own")
    assert len(page.axes[0].patches) == 1
    assert page.texts[0].get_text() == "160 responses by length"


def row(number, words, given=""):
    return Row(number, "own", f"instruction {number}", given, " ".join(["word"] * words))


def test_the_example_in_the_middle_is_shown():
    rows = {"long": [row(1, 90), row(2, 300), row(3, 120)], "short": [row(4, 3, "an <input>"), row(5, 1), row(6, 9)]}
    shown = start.show_examples(rows)
    assert list(shown.frame.arm) == ["long", "short"]
    assert list(shown.frame.words) == [120, 3]
    assert list(shown.frame.instruction) == ["instruction 3", "instruction 4\nan <input>"]
    assert "an &lt;input&gt;" in shown._repr_html_()


def test_the_answers_in_the_middle_are_shown():
    mine, theirs = ("a b c d", "a b c d e f", "a"), ("a", "a b c", "a b c")  # ratios 4, 2, 1/3
    answers = {
        arm: [{"prompt": f"prompt {place}", "response": text} for place, text in enumerate(texts)]
        for arm, texts in (("longest", mine), ("random", theirs))
    }
    shown = start.show_answers(answers, "a note")
    assert list(shown.frame.columns) == ["prompt", "longest (6 words)", "random (3 words)"]
    assert list(shown.frame.loc[0]) == ["prompt 1", "a b c d e f", "a b c"]
    assert shown.note == "a note"


def test_empty_answers_have_a_middle_too():
    answers = {arm: [{"prompt": "p", "response": ""}] for arm in ("a", "b")}
    assert list(start.show_answers(answers).frame.columns) == ["prompt", "a (0 words)", "b (0 words)"]


def test_what_it_took_is_one_line():
    made = [
        SimpleNamespace(stage="select", seconds=6.0, facts={}),
        SimpleNamespace(stage="finetune", seconds=60.0, facts={"peak_memory_gb": 2.1}),
        SimpleNamespace(stage="finetune", seconds=54.0, facts={"peak_memory_gb": 2.34}),
    ]
    said = start.sum_up(made)
    assert said.startswith("It took 2.0 minutes in all, 1.9 of them for finetune; 2.3 GB of memory.")
