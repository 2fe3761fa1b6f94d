"""What every notebook shares: tables that escape what they show, and checks that stop a run."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from nbutils import notebook
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.core.tables import Table, shorten, side_by_side
from nbutils.notebook import check
from nbutils.selection import preflight

NASTY = '<script>alert("x")</script>&amp;'


def test_a_table_escapes_names_cells_and_note():
    shown = Table([{f"<b>{NASTY}": NASTY}], note=f"<i>{NASTY}")._repr_html_()
    tags = set(re.findall(r"</?([a-z]+)", shown))
    assert tags == {"div", "style", "table", "thead", "tbody", "tr", "th", "td", "p", "em"}
    assert len(re.findall("&lt;script&gt;alert\\(&(?:quot|#34);x&(?:quot|#34);\\)&lt;/script&gt;&amp;amp;", shown)) == 3


def test_a_table_in_html():
    shown = Table([{"a": 1, "b": "x\ny", "c": True}])._repr_html_()
    cells = re.findall(r'<td [^>]*class="([^"]*)" >(.*?)</td>', shown, flags=re.S)
    assert [(kinds.split()[3:], text) for kinds, text in cells] == [(["number"], "1"), ([], "x\ny"), ([], "yes")]
    for rule in ("overflow-x: auto", "text-align: right", "white-space: pre-wrap", "word-break: keep-all"):
        assert rule in shown


def test_a_table_as_text():
    table = Table([{"name": "long", "n": 1000, "rate": 0.12345}, {"name": "x", "more": True}], note="All of it.")
    assert repr(table).splitlines() == [
        "name  n      rate    more",
        "long  1,000  0.1235",
        "x                    yes",
        "All of it.",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (math.nan, ""),
        (np.float64("nan"), ""),
        (pd.NaT, ""),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (52002, "52,002"),
        (0.5, "0.5"),
        (np.float64(1234.5678), "1,235"),
        ("", ""),
        ("1 < 2", "1 < 2"),
    ],
)
def test_how_values_are_shown(value, shown):
    assert repr(Table([{"v": value, "end": "|"}])).splitlines()[1].split("|")[0].strip() == shown


def test_a_pandas_table_with_numbers_for_names():
    frame = pd.DataFrame({0: [1, 2], "<x>": [None, "<y>"]})
    shown = Table(frame)
    assert re.findall(r"<th [^>]*>(.*?)</th>", shown._repr_html_()) == ["0", "&lt;x&gt;"]
    assert "<y>" not in shown._repr_html_()
    assert repr(shown).splitlines()[0].split() == ["0", "<x>"]


def test_an_empty_table():
    assert "<td" not in Table([])._repr_html_() and "<th " not in Table([])._repr_html_()
    assert repr(Table([], note="Nothing yet.")).strip() == "Nothing yet."


def test_a_check_prints_or_raises(capsys):
    check("all rows are there", True)
    check("the sum", np.bool_(True), seen=3)
    assert capsys.readouterr().out == "ok: all rows are there\nok: the sum (3)\n"
    with pytest.raises(AssertionError, match=r"^expected: no row is lost \(12\)$"):
        check("no row is lost", False, 12)
    with pytest.raises(AssertionError, match=r"^expected: the sum$"):
        check("the sum", np.bool_(False))
    assert capsys.readouterr().out == ""


def test_shortening():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd  efgh", 6) == "abcd … (10 characters)"
    assert shorten("x" * 2000) == "x" * 300 + " … (2,000 characters)"


def test_side_by_side_shortens_texts_only():
    shown = repr(side_by_side([{"id": 12345, "text": "y" * 400}]))
    assert "12,345" in shown and "y" * 301 not in shown and "(400 characters)" in shown


def test_a_notebooks_beginning(capsys, no_data):
    profile = notebook.begin("tiny")
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.match(r"long-is-more \S+ · Python 3\.\d+\.\d+ · .*papermill \d", first)
    assert second.startswith("Profile tiny: ")
    assert "sample" in third and profile.dataset == "sample"


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
