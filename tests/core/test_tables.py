"""Small tables: read and written by one schema each, and shown escaped, aligned and whole."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from nbutils import ROOT
from nbutils.core import disk, tables
from nbutils.core.errors import InputError
from nbutils.core.tables import Table, one_line, shorten, side_by_side

STORED = [*(ROOT / "figures" / "tables").glob("*.csv"), *(ROOT / "data" / "published").glob("*.csv")]

# --- reading and writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STORED, ids=[path.stem for path in STORED])
def test_every_stored_table_has_the_columns_and_kinds_of_its_schema(path):
    table = tables.read(path)
    schema = tables.SCHEMAS[path.stem]
    assert len(table) > 0
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {name: schema[name] for name in table}


@pytest.mark.parametrize("path", STORED, ids=[path.stem for path in STORED])
def test_what_was_read_is_written_alike(path, tmp_path):
    table = tables.read(path)
    tables.write(tmp_path / path.name, table)
    assert tables.read(tmp_path / path.name).equals(table)


def test_a_table_comes_back_with_its_kinds(tmp_path):
    rows = [
        {"judge": "a, b", "arm": "", "asked": 2, "net_win": 0.1 + 0.2, "headline": True},
        {"judge": "NA", "arm": "x", "asked": 3, "net_win": None, "headline": False},
    ]
    tables.write(tmp_path / "summary.csv", rows)
    table = tables.read(tmp_path / "summary.csv")
    assert list(table) == ["judge", "arm", "asked", "net_win", "headline"]
    assert list(table.judge) == ["a, b", "NA"]  # a name, and not what is missing
    assert list(table.arm) == ["", "x"]
    assert table.asked.sum() == 5
    assert table.net_win[0] == 0.1 + 0.2 and math.isnan(table.net_win[1])
    assert list(table[table.headline].judge) == ["a, b"]
    made = tables.make("summary", rows)
    pd.testing.assert_frame_equal(made, table)


def test_counts_that_may_be_missing(tmp_path):
    tables.write(tmp_path / "alpacaeval.csv", [{"arm": "a", "length_chars": 7}, {"arm": "b"}])
    table = tables.read(tmp_path / "alpacaeval.csv")
    assert table.length_chars.isna().tolist() == [False, True]
    assert (tmp_path / "alpacaeval.csv").read_text() == "arm,length_chars\na,7\nb,\n"


def test_columns_stand_in_the_order_in_which_the_rows_bring_them(tmp_path):
    tables.write(tmp_path / "loss.csv", [{"step": 1, "loss": 2.5}, {"step": 2, "epoch": 0.5, "loss": 1e-05}])
    assert (tmp_path / "loss.csv").read_text() == "step,loss,epoch\n1,2.5,\n2,1e-05,0.5\n"


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_a_table_without_rows(tmp_path, text):
    (tmp_path / "cut.csv").write_text(text)
    table = tables.read(tmp_path / "cut.csv")
    assert table.empty
    assert list(table) == list(tables.SCHEMAS["cut"])
    pd.testing.assert_frame_equal(table, tables.make("cut"))


def test_no_rows_are_written_as_an_empty_table(tmp_path):
    tables.write(tmp_path / "bins.csv", [])
    assert tables.read(tmp_path / "bins.csv").empty


def test_a_number_that_was_written_as_nan_is_missing(tmp_path):
    (tmp_path / "loss.csv").write_text("step,loss\n1,nan\n")
    assert tables.read(tmp_path / "loss.csv").loss.isna().all()


def test_json_lines_and_parquet_are_frames_too(tmp_path):
    rows = [{"id": "1", "score": 8.5}, {"id": "2", "score": None}]
    disk.write_jsonl(tmp_path / "judgments.jsonl", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "judgments.parquet")
    for name in ("judgments.jsonl", "judgments.parquet"):
        assert tables.read(tmp_path / name).score.sum() == 8.5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.csv", None, "no such table: run what writes it first"),
        ("nonsense.csv", "a\n1\n", "a table of an unknown name"),
        ("loss.csv", "step,los\n1,2\n", "unknown column 'los': this table has step, epoch, loss"),
        ("loss.csv", "step,loss\none,2\n", "invalid literal for int"),
        ("loss.csv", "step,loss\n1,low\n", "low"),
        ("summary.csv", "judge,headline\na,perhaps\n", "bool"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as raised:
        tables.read(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert words in str(raised.value)


def test_an_unknown_column_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"loss\.csv: unknown column 'lose'"):
        tables.write(tmp_path / "loss.csv", [{"step": 1, "lose": 2}])
    assert not (tmp_path / "loss.csv").exists()


# --- showing -------------------------------------------------------------------------------------------------------

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


def test_shortening():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd  efgh", 6) == "abcd … (10 characters)"
    assert shorten("x" * 2000) == "x" * 300 + " … (2,000 characters)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        (" one\ttwo\r\n\n three\u2028four ", "one two three four"),
        ("a\x1b[31mred\x07\0b", "a\ufffd[31mred\ufffd\ufffdb"),
        ("\u202egnp\u200b\ufeff\u2066x", "\ufffdgnp\ufffd\ufffd\ufffdx"),
        ("\ud800 half", "\ufffd half"),
        ("\x9b2J \ue000", "\ufffd2J \ufffd"),
        ("naïve 漢字 e\u0301 🎉", "naïve 漢字 e\u0301 🎉"),
    ],
)
def test_one_line_is_harmless_in_a_terminal(text, shown):
    assert one_line(text) == shown


def test_one_line_is_short():
    assert one_line("word  " * 50, 9) == "word word … (249 characters)"


def test_side_by_side_shortens_texts_only():
    shown = repr(side_by_side([{"id": 12345, "text": "y" * 400}]))
    assert "12,345" in shown and "y" * 301 not in shown and "(400 characters)" in shown


def test_a_column_of_fractions_has_equally_many_decimals():
    table = Table(
        {"rate": rate, "mean": mean, "what": what}
        for rate, mean, what in zip((0.5, 0.12345, None), (1234.5, 0.5, 3), (0.25, "text", 7), strict=True)
    )
    assert [line.split() for line in repr(table).splitlines()] == [
        ["rate", "mean", "what"],
        ["0.5000", "1,234", "0.25"],
        ["0.1235", "0.5", "text"],
        ["3", "7"],
    ]


def test_a_small_number_is_not_shown_as_zero():
    shown = repr(Table([{"rate": 0.0002}, {"rate": 2e-05}, {"rate": 0.0}])).split()
    assert shown == ["rate", "0.0002", "2e-05", "0"]


def test_the_heads_of_numbers_stand_above_them():
    shown = Table([{"name": "a", "n": 1, "flag": True, "rate": 0.5}])._repr_html_()
    assert re.findall(r"#T_\S+ th\.(col\d) \{\s*text-align: right", shown) == ["col1", "col3"]


def test_two_columns_of_one_name_and_an_index_that_repeats():
    frame = pd.DataFrame([[1, "a"], [2, "b"]], columns=["x", "x"], index=[0, 0])
    assert re.findall(r"<td [^>]*>(.*?)</td>", Table(frame)._repr_html_()) == ["1", "a", "2", "b"]


def test_side_by_side_takes_a_frame():
    frame = pd.DataFrame({"id": [12345], "text": ["y" * 400]})
    assert repr(side_by_side(frame)) == repr(side_by_side(frame.to_dict("records")))


def test_a_name_stays_whole_and_a_text_is_wrapped():
    shown = Table([{"arm": "alpaca-random-token-matched-7", "text": "word " * 20}])._repr_html_()
    kinds = re.findall(r'<td [^>]*class="data row0 col\d ?([^"]*)"', shown)
    assert kinds == ["", "long"]
    assert re.search(r"#T_\S+ td \{[^}]*white-space: pre;", shown)
