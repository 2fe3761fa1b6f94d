"""`python -m nbutils.select` on every kind of file and every kind of bad input."""

# ruff: noqa: E501 (the table of bad input has one case a line)

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbutils import data, select
from nbutils import lengths as lengths_
from nbutils.core import disk
from nbutils.data import arrow_records, json_records, line_records, load
from nbutils.data import rows as data_rows
from nbutils.data.arrow_records import HubDataset
from nbutils.selection import files, parts
from nbutils.selection.files import SelectionRequest

# Lengths in words: 3 1 0 5 3 5 3 2. The three longest: 3 and 5, then row 0, the first of three ties.
WORDS = [3, 1, 0, 5, 3, 5, 3, 2]
RESPONSES = [" ".join(["é" if i % 2 else "word"] * count) for i, count in enumerate(WORDS)]
ROWS = [
    {"instruction": f"task {i}", "input": "", "output": text, "extra": {"n": [i, 0.10, None], "tag": "<é/>"}}
    for i, text in enumerate(RESPONSES)
]
LONGEST_3 = [0, 3, 5]


def _run(capsys, *arguments):
    """Call the command; give its status, what it printed and the lines of stderr."""
    try:
        select.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


def _chosen(capsys, source, out, *options, k=3):
    status, printed, errors = _run(capsys, source, "-k", k, "--measure", "words", "-o", out, *options)
    assert (status, errors) == (0, [])
    assert printed.startswith(f"{out}: {k} of ")
    return json.loads(Path(f"{out}.manifest.json").read_text())


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("escaped", [True, False])
def test_json_array_keeps_layout_and_escaping(tmp_path, capsys, indent, escaped):
    source, out = tmp_path / "rows.json", tmp_path / "out.json"
    source.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=escaped))
    _chosen(capsys, source, out)
    assert out.read_text() == json.dumps([ROWS[i] for i in LONGEST_3], indent=indent, ensure_ascii=escaped)


def test_json_array_copies_each_row_as_it_was_written(tmp_path, capsys):
    source, out = tmp_path / "rows.json", tmp_path / "out.json"
    source.write_bytes(
        b'\xef\xbb\xbf[ {"output":"a b","x":1.10, "x":1e2},\n  {"output" : "\\u0061"},{"output":"\\ud83d c"} ]\n'
    )
    _chosen(capsys, source, out, k=2)
    assert out.read_bytes() == b'[ {"output":"a b","x":1.10, "x":1e2},\n  {"output":"\\ud83d c"} ]\n'


def test_json_lines_are_copied_byte_for_byte(tmp_path, capsys):
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0, separators=(",", " :  ")) for i, row in enumerate(ROWS)]
    source.write_text("\ufeff" + "\r\n".join(lines[:4]) + "\n\n  \n" + "\n".join(lines[4:]))
    _chosen(capsys, source, out)
    assert out.read_bytes() == "".join(lines[i] + "\n" for i in LONGEST_3).encode()


@pytest.mark.parametrize("name", ["rows.json.gz", "rows.jsonl.gz"])
def test_gzipped(tmp_path, capsys, name):
    source, out = tmp_path / name, tmp_path / f"out.{name}"
    text = _lines(ROWS) if "jsonl" in name else json.dumps(ROWS, indent=2)
    source.write_bytes(gzip.compress(text.encode()))
    _chosen(capsys, source, out)
    chosen = [ROWS[i] for i in LONGEST_3]
    expected = _lines(chosen) if "jsonl" in name else json.dumps(chosen, indent=2)
    packed = out.read_bytes()
    assert gzip.decompress(packed).decode() == expected
    assert packed[4:8] == bytes(4), "no time stamp: equal content gives equal bytes"


def _table(rows, metadata=None):
    schema = pa.schema(
        [
            ("instruction", pa.string()),
            ("output", pa.large_string()),
            ("extra", pa.struct([("n", pa.list_(pa.float32())), ("tag", pa.dictionary(pa.int32(), pa.string()))])),
        ],
        metadata=metadata,
    )
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


@pytest.mark.parametrize("measure", ["words", "chars", "bytes"])
def test_parquet_keeps_schema_nested_columns_and_metadata(tmp_path, capsys, measure):
    source, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    pq.write_table(_table(ROWS, metadata={"about": "a test"}), source)
    table = pq.read_table(source)
    assert table.schema.metadata == {b"about": b"a test"}
    status, _, errors = _run(capsys, source, "-k", 3, "--measure", measure, "-o", out)
    assert (status, errors) == (0, [])
    lengths = lengths_.count(RESPONSES, measure)
    written = pq.read_table(out)
    assert written.schema.equals(table.schema, check_metadata=True)
    assert written.equals(table.take(select.top_k(lengths, 3)))


def test_parquet_text_in_a_dictionary(tmp_path, capsys):
    source, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    table = pa.table({"output": pa.array(RESPONSES).dictionary_encode(), "n": range(8)})
    pq.write_table(table, source)
    _chosen(capsys, source, out)
    written = pq.read_table(out)
    assert written.schema.equals(table.schema)
    assert written["n"].to_pylist() == LONGEST_3


def test_a_folder_of_parquet_parts(tmp_path, capsys):
    source, out = tmp_path / "rows", tmp_path / "out.parquet"
    (source / "language=en").mkdir(parents=True)
    pq.write_table(_table(ROWS[:3]), source / "language=en" / "part-0.parquet")
    pq.write_table(_table(ROWS[3:4]), source / "language=en" / "part-1.parquet")
    pq.write_table(_table(ROWS[4:]), source / "part-0.parquet")
    (source / "_SUCCESS").touch()
    (source / ".part-2.parquet.crc").write_text("hidden")
    assert _chosen(capsys, source, out)["ids"] == LONGEST_3
    assert pq.read_table(out).equals(_table([ROWS[i] for i in LONGEST_3]))


def test_a_folder_of_json_lines_parts(tmp_path, capsys):
    source, out = tmp_path / "rows", tmp_path / "out.jsonl"
    source.mkdir()
    (source / "a.jsonl").write_text(_lines(ROWS[:4]).rstrip("\n"))
    (source / "b.jsonl.gz").write_bytes(gzip.compress(_lines(ROWS[4:]).encode()))
    (source / "b.jsonl.manifest.json").write_text("{}")
    made = _chosen(capsys, source, out)
    assert (made["ids"], made["rows"]) == (LONGEST_3, 8)
    assert out.read_text() == _lines(ROWS[i] for i in LONGEST_3)


def test_a_folder_with_splits_gives_the_one_asked_for(tmp_path, capsys):
    source = tmp_path / "rows"
    source.mkdir()
    pq.write_table(_table(ROWS[:3]), source / "train-00000-of-00002.parquet")
    pq.write_table(_table(ROWS[3:4]), source / "train-00001-of-00002.parquet")
    pq.write_table(_table(ROWS[4:]), source / "test-00000-of-00001.parquet")
    assert _chosen(capsys, source, tmp_path / "a.parquet")["rows"] == 4
    assert _chosen(capsys, source, tmp_path / "b.parquet", "--split", "test")["rows"] == 4
    assert pq.read_table(tmp_path / "b.parquet")["output"].to_pylist() == [RESPONSES[i] for i in (4, 5, 6)]


def test_json_lines_in_a_file_called_json(tmp_path, capsys):
    (tmp_path / "rows.json").write_text(_lines(ROWS))
    _chosen(capsys, tmp_path / "rows.json", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == _lines(ROWS[i] for i in LONGEST_3)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        (("text", "output"), lambda text: {"instruction": "x", "output": text}),
        (("text", "response"), lambda text: {"prompt": "x", "response": text, "id": 7}),
        (("text", "completion"), lambda text: {"completion": text}),
        (
            ("turns", "conversations"),
            lambda text: {"conversations": [{"from": "human", "value": "x " * 9}, {"from": "gpt", "value": text}]},
        ),
        (
            ("turns", "messages"),
            lambda text: {"messages": [{"role": "user", "content": "x " * 9}, {"role": "assistant", "content": text}]},
        ),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_forms_of_rows(tmp_path, capsys, form, row, kind):
    rows = [row(text) for text in RESPONSES]
    assert {data_rows.detect_form(each)[:2] for each in rows} == {form}
    source, out = tmp_path / f"rows.{kind}", tmp_path / f"out.{kind}"
    if kind == "jsonl":
        source.write_text(_lines(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    assert _chosen(capsys, source, out)["ids"] == LONGEST_3
    written = disk.read_jsonl(out) if kind == "jsonl" else pq.read_table(out).to_pylist()
    assert written == [rows[i] for i in LONGEST_3]


@pytest.mark.parametrize(
    ("rule", "ids", "threshold"), [("sum", [0, 3], 5), ("mean", [1, 3], 3), ("first", [1, 3], 3), ("last", [2, 3], 4)]
)
def test_rules_for_several_turns(tmp_path, capsys, rule, ids, threshold):
    turns = [(1, 1, 3), (3,), (0, 4), (4, 9), (1, 0)]  # sums 5 3 4 13 1, means 5/3 3 2 6.5 .5
    rows = [
        {"messages": [turn for n in counts for turn in _exchange(n)] + [{"role": "user", "content": "w " * 50}]}
        for counts in turns
    ]
    (tmp_path / "rows.jsonl").write_text(_lines(rows))
    made = _chosen(capsys, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", "--turns", rule, k=2)
    assert (made["ids"], made["threshold"], made["turns"]) == (ids, threshold, rule)


def _exchange(words):
    return {"role": "user", "content": "w " * 20}, {"role": "assistant", "content": "w " * words}


def test_a_mean_that_is_no_whole_number(tmp_path, capsys):
    rows = [{"messages": [*_exchange(1), *_exchange(2)]}, {"messages": [*_exchange(1)]}]
    (tmp_path / "rows.jsonl").write_text(_lines(rows))
    made = _chosen(capsys, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", "--turns", "mean", k=1)
    assert made["threshold"] == 1.5


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_another_field(tmp_path, capsys, kind):
    rows = [{"output": "w " * 20, 'my "text"': text} for text in RESPONSES]
    source, out = tmp_path / f"rows.{kind}", tmp_path / f"out.{kind}"
    source.write_text(_lines(rows)) if kind == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), source)
    assert _chosen(capsys, source, out, "--field", 'my "text"')["ids"] == LONGEST_3


def test_a_tokenizer_file(tmp_path, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "rows.jsonl").write_text(_lines([{"output": "ababab"}, {"output": "bbbb"}, {"output": "a b"}]))
    for given in (tmp_path, tmp_path / "tokenizer.json"):
        out = tmp_path / "out.jsonl"
        options = ["--measure", "tokens", "--tokenizer", given]
        made = _chosen(capsys, tmp_path / "rows.jsonl", out, *options, k=2)
        assert (made["ids"], made["threshold"], made["measure"]) == ([0, 1], 3, "tokens")


def test_what_the_manifest_says(tmp_path, capsys):
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(_lines(ROWS))
    status, printed, _ = _run(capsys, source, "-k", 3, "--measure", "words", "-o", out)
    assert status == 0
    assert printed == f"{out}: 3 of 8 rows, words >= 3; 1 of 3 ties at the threshold taken, lower row numbers first\n"
    assert json.loads(Path(f"{out}.manifest.json").read_text()) == {
        "source": "rows.jsonl",
        "source_sha256": disk.sha256_file(source),
        "rows": 8,
        "k": 3,
        "measure": "words",
        "turns": "sum",
        "field": None,
        "tokenizer": None,
        "split": "train",
        "config": None,
        "response_field": "output",
        "rows_skipped": 0,
        "library": "python",
        "exact": True,
        "threshold": 3,
        "ties_at_threshold": 3,
        "ties_taken": 1,
        "ids_sha256": parts.ids_sha256(LONGEST_3),
        "ids": LONGEST_3,
    }


def test_ids_sha256_is_of_the_ids_joined_by_commas():
    # printf 0,3,5 | sha256sum
    expected = "1762bad225fc9c1bd6cd8e9f719b0fdfd0ebcad416a25c8071bbe3814138c18b"
    assert parts.ids_sha256([5, 0, 3]) == expected
    assert parts.ids_sha256(np.array([5, 0, 3])) == expected


def test_without_punkt_the_default_measure_is_marked_approximate(tmp_path, capsys, no_data):
    (tmp_path / "rows.jsonl").write_text(_lines(ROWS))
    status, printed, errors = _run(capsys, tmp_path / "rows.jsonl", "-k", 3, "-o", tmp_path / "out.jsonl")
    assert status == 0
    assert "nltk_words >= 3 (approximate: no punkt parameters)" in printed
    assert len(errors) == 1 and errors[0].startswith("note: nltk_words is approximate")
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["exact"] is False


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json"])
def test_ties_across_batches_go_to_the_first_rows(tmp_path, capsys, monkeypatch, suffix):
    for module in (json_records, line_records, arrow_records):
        monkeypatch.setattr(module, "BATCH_ROWS", 3)
    source, out = tmp_path / f"rows.{suffix}", tmp_path / f"out.{suffix}"
    rows = [{"output": "w " * n} for n in (1, 2, 2, 2, 2, 2, 3, 2, 2)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    else:
        source.write_text(_lines(rows) if suffix == "jsonl" else json.dumps(rows))
    made = _chosen(capsys, source, out, k=4)
    assert (made["ids"], made["ties_at_threshold"], made["ties_taken"]) == ([1, 2, 3, 6], 7, 3)


# --- by grades -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rated(tmp_path, monkeypatch):
    """Eight rows and their grades, as files in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(_lines(ROWS))
    grades = [4, 5, 3.5, 5, 4, 1, 4, 2]
    Path("ratings.jsonl").write_text(_lines({"id": i, "score": grade} for i, grade in enumerate(grades)))


@pytest.mark.parametrize(
    ("options", "asked", "ids", "lowest"),
    [
        (["--threshold", 3.5], {"rule": "threshold", "threshold": 3.5}, [0, 1, 2, 3, 4, 6], 3.5),
        (["--top-k", 3], {"rule": "top-k", "k": 3}, [0, 1, 3], 4),
        (["-k", 2], {"rule": "top-k", "k": 2}, [1, 3], 5),
        (["--tiers", 5, "--seed", 1], {"rule": "tiers", "k": 5, "seed": 1}, [0, 1, 3, 4, 6], 4),
    ],
)
def test_what_the_manifest_of_a_choice_by_grades_says(rated, capsys, options, asked, ids, lowest):
    status, printed, errors = _run(capsys, "rows.jsonl", "--ratings", "ratings.jsonl", *options, "-o", "out.jsonl")
    assert (status, errors) == (0, [])
    assert printed == f"out.jsonl: {len(ids)} rows, the lowest grade {lowest:g}\n"
    assert Path("out.jsonl").read_text() == _lines(ROWS[i] for i in ids)
    assert json.loads(Path("out.jsonl.manifest.json").read_text()) == {
        "source": "rows.jsonl",
        "source_sha256": disk.sha256_file(Path("rows.jsonl")),
        "rows": 8,
        "split": "train",
        "ratings": "ratings.jsonl",
        "ratings_sha256": disk.sha256_file(Path("ratings.jsonl")),
        **asked,
        "lowest_grade": lowest,
        "ids_sha256": parts.ids_sha256(ids),
        "ids": ids,
    }


def test_a_choice_by_grades_of_several_files(rated, capsys):
    Path("a.jsonl").write_text(_lines(ROWS[:4]))
    Path("b.jsonl").write_text(_lines(ROWS[4:]))
    status, _, errors = _run(capsys, "[ab].jsonl", "--ratings", "ratings.jsonl", "--top-k", 3, "-o", "out.jsonl")
    assert (status, errors) == (0, [])
    assert Path("out.jsonl").read_text() == _lines(ROWS[i] for i in (0, 1, 3))
    assert json.loads(Path("out.jsonl.manifest.json").read_text())["source"] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ratings", "ratings.jsonl", "-o", "rows.jsonl"], "rows.jsonl: the output would replace the input"),
        (["--ratings", "ratings.jsonl", "-o", "ratings.jsonl"], "ratings.jsonl: the output would replace the ratings"),
        (["--ratings", "ratings.jsonl", "-o", "out.parquet"], "let its name end in .jsonl or .ndjson"),
        (["--ratings", "ratings.jsonl", "--part", "-o", "out.jsonl"], "--part goes by length"),
        (["--ratings", "none.jsonl", "-o", "out.jsonl"], "none.jsonl: no such file"),
        (["--threshold", 4, "-o", "out.jsonl"], "--threshold chooses by grades: give their file by --ratings"),
        (["--top-k", 4, "-o", "out.jsonl"], "--top-k chooses by grades: give their file by --ratings"),
        (["--tiers", 0, "-o", "out.jsonl"], "--tiers chooses by grades: give their file by --ratings"),
    ],
)
def test_bad_choices_by_grades(rated, tmp_path, capsys, arguments, expected):
    _refused(capsys, tmp_path, ["rows.jsonl", "-k", 1, *arguments], expected)


# --- a dataset of the Hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A folder in the layout of a Hub dataset."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS[:5]), folder / "train-00000-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[5:]), folder / "train-00001-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), folder / "test-00000-of-00001.parquet")
    return folder.parent


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl.gz"])
def test_a_hub_dataset(hub_folder, tmp_path, capfd, name):
    dataset, out = HubDataset(str(hub_folder)), tmp_path / name
    assert capfd.readouterr() == ("", "")  # no bars in a log
    kept = files.read_longest(files.Inputs([hub_folder], [dataset]), SelectionRequest(3, "words")).kept
    assert (kept.ids.tolist(), kept.n) == (LONGEST_3, 8)
    dataset.write_selected(kept.ids, out)
    if name.endswith(".parquet"):
        written = pq.read_table(out).to_pylist()
    else:
        raw = out.read_bytes()
        written = [json.loads(line) for line in (gzip.decompress(raw) if name.endswith(".gz") else raw).splitlines()]
    assert written == [ROWS[i] for i in LONGEST_3]


def test_a_dataset_with_a_dot_in_its_name_is_asked_of_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(files, "HubDataset", lambda name, split, config: asked.append((name, split, config)))
    files.open_source("teknium/OpenHermes-2.5", "train")
    assert asked == [("teknium/OpenHermes-2.5", "train", None)]


# --- bad input -----------------------------------------------------------------------------------------------------


def _parquet_bytes(tmp_path, rows):
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "whole.parquet")
    return (tmp_path / "whole.parquet").read_bytes()


BAD = {
    "no response field": ("rows.jsonl", '{"prompt": "x", "text": "y"}\n', [], "row 0: no response field: expected one of output"),
    "no response field, array": ("rows.json", '[{"text": "y"}]', [], "row 0: no response field"),
    "a later row lacks it": ("rows.jsonl", '{"output": "x"}\n{"text": "y"}\n', [], "row 1: the response field 'output' is missing"),
    "a row that is a list": ("rows.jsonl", '{"output": "x"}\n\n[1]\n', [], "row 1 is not an object but a list"),
    "a row that is text": ("rows.json", '[{"output": "x"}, {"output": "y"}, "z"]', [], "row 2 is not an object but a str"),
    "null response": ("rows.jsonl", '{"output": "x"}\n{"output": null}\n', [], "row 1: the response field 'output' is NoneType, not text"),
    "a number as response": ("rows.json", '[{"output": 3}]', [], "row 0: the response field 'output' is int, not text"),
    "no assistant turn": ("rows.jsonl", '{"messages": [{"role": "user", "content": "x"}]}', [], "row 0: no assistant turn"),
    "a turn that is no object": ("rows.jsonl", '{"conversations": ["x"]}', [], "row 0: no assistant turn in 'conversations'"),
    "another form half-way": ("rows.jsonl", '{"output": "x"}\n{"messages": []}', [], "row 1: the response field 'output' is missing"),
    "k larger than the rows": ("rows.jsonl", _lines(ROWS), ["-k", "9"], "k = 9 is more than the 8 rows there are"),
    "k = 0": ("rows.jsonl", _lines(ROWS), ["-k", "0"], "k = 0: at least one row must be asked for"),
    "k negative": ("rows.jsonl", _lines(ROWS), ["-k", "-5"], "k = -5: at least one row"),
    "k no number": ("rows.jsonl", _lines(ROWS), ["-k", "many"], "argument -k: invalid int value: 'many'"),
    "empty file": ("rows.jsonl", "", [], "the file is empty"),
    "blank file": ("rows.json", " \n\n ", [], "the file is empty"),
    "empty list": ("rows.json", "[]", [], "no rows"),
    "empty gz": ("rows.jsonl.gz", gzip.compress(b""), [], "the file is empty"),
    "not UTF-8 lines": ("rows.jsonl", b'{"output": "x"}\n{"output": "caf\xe9"}\n', [], "line 2: not UTF-8 (byte 15 of the line)"),
    "not UTF-8 array": ("rows.json", b'[{"output": "caf\xe9"}]', [], "not UTF-8 (byte 16)"),
    "UTF-16": ("rows.json", '[{"output": "x"}]'.encode("utf-16"), [], "not UTF-8"),
    "truncated gz": ("rows.jsonl.gz", gzip.compress(b'{"output": "' + os.urandom(300_000).hex().encode())[:200_000], [], "cannot be unpacked to its end"),
    "truncated small gz": ("rows.jsonl.gz", gzip.compress(_lines(ROWS).encode())[:-20], [], "cannot be unpacked"),
    "broken gz": ("rows.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 50, [], "cannot be unpacked"),
    "not gz": ("rows.jsonl.gz", _lines(ROWS), [], "cannot be unpacked"),
    "truncated array": ("rows.json", json.dumps(ROWS)[:-30], [], "not valid JSON"),
    "array cut after a row": ("rows.json", '[{"output": "x"}', [], "not valid JSON"),
    "array with more behind it": ("rows.json", '[{"output": "x"}] x', [], "not valid JSON (Extra data"),
    "truncated lines": ("rows.jsonl", _lines(ROWS)[:-30], [], "line 8: not valid JSON"),
    "nested too deep": ("rows.json", "[" * 100_000, [], "not valid JSON"),
    "not JSON": ("rows.txt", "instruction,output\na,b\n", [], "line 1: not valid JSON"),
    "CSV of other widths": ("rows.csv", "instruction,output\na,b\na,b,c\n", [], "row 1, line 3: 3 fields, and the header has 2"),
    "CSV with an open quote": ("rows.csv", 'instruction,output\na,b\na,"b\n', [], "line 3: not valid CSV"),
    "CSV without a response": ("rows.csv", "instruction,text\na,b\n", [], "row 0: no response field"),
    "unknown measure": ("rows.jsonl", _lines(ROWS), ["--measure", "letters"], "unknown measure 'letters': choose one of nltk_words"),
    "unknown rule for turns": ("rows.jsonl", _lines(ROWS), ["--turns", "median"], "argument --turns: invalid choice: 'median'"),
    "unknown field": ("rows.jsonl", _lines(ROWS), ["--field", "answer"], "row 0: the response field 'answer' is missing"),
    "unknown tokenizer": ("rows.jsonl", _lines(ROWS), ["--measure", "tokens", "--tokenizer", "./none"], "./none: no tokenizer there"),
    "unknown option": ("rows.jsonl", _lines(ROWS), ["--mesure", "words"], "unrecognized arguments: --mesure words"),
    "lone surrogate": ("rows.jsonl", '{"output": "\\ud800"}', ["--measure", "tokens", "-k", "1"], "lone surrogate"),
}  # fmt: skip


@pytest.fixture
def tokens_at_hand(monkeypatch):
    """A tokenizer stands where Llama-2's would be, so that no test asks for it."""
    from tokenizers import Tokenizer, models, normalizers

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    for module in (load, data):
        monkeypatch.setattr(module, "llama2_tokenizer", lambda: made)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, case, tokens_at_hand):
    name, content, options, expected = BAD[case]
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = ["--measure", "words", "-k", "1", *options]
    _refused(capsys, tmp_path, [source, "-o", tmp_path / f"out.{name}", *options], expected)


def _refused(capsys, folder, arguments, expected):
    before = _tree(folder)
    status, printed, errors = _run(capsys, *arguments)
    assert (status, printed, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith("error: ")
    assert expected in errors[0]
    assert _tree(folder) == before


def _tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_parquet(tmp_path, capsys):
    whole = _parquet_bytes(tmp_path, ROWS * 300)
    out = ["-k", 1, "--measure", "words", "-o", tmp_path / "out.parquet"]
    cut = tmp_path / "cut.parquet"
    for content in (whole[:-100], whole[: len(whole) // 2], b"PAR1", b""):
        cut.write_bytes(content)
        _refused(capsys, tmp_path, [cut, *out], "cut.parquet: not readable as Parquet")
    cut.write_bytes(whole[:4] + b"\xff" * 500 + whole[504:])
    _refused(capsys, tmp_path, [cut, *out], "cut.parquet: not readable as Parquet")
    packed = tmp_path / "rows.parquet.gz"
    packed.write_bytes(gzip.compress(whole))
    _refused(capsys, tmp_path, [packed, *out], "unpack it first")


def test_a_folder_with_one_truncated_parquet_part(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    whole = _parquet_bytes(tmp_path, ROWS)
    (folder / "a.parquet").write_bytes(whole)
    (folder / "b.parquet").write_bytes(whole[:-10])
    _refused(capsys, tmp_path, [folder, "-k", 1, "-o", tmp_path / "out.parquet"], "not readable as Parquet")


def test_parquet_parts_of_different_columns(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.table({"output": ["a"]}), folder / "a.parquet")
    pq.write_table(pa.table({"output": ["a"], "more": [1]}), folder / "b.parquet")
    _refused(capsys, tmp_path, [folder, "-k", 1, "-o", tmp_path / "out.parquet"], "b.parquet: its columns differ")


@pytest.mark.parametrize("measure", ["words", "chars"])
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"output": ["a", None]}, "row 1: the response field 'output' is empty (null)"),
        ({"text": ["a", "b"]}, "no response field: expected one of output"),
        ({"output": [1, 2]}, "the response field 'output' is not text but int64"),
        ({"output": [["a"], ["b"]]}, "row 0: the response field 'output' is not text but list"),
        ({"output": pa.array([], pa.string())}, "no rows"),
        ({"messages": [[{"role": "user", "content": "x"}]]}, "row 0: no assistant turn in 'messages'"),
    ],
)
def test_parquet_with_a_bad_response(tmp_path, capsys, table, expected, measure):
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    out = ["-k", 1, "--measure", measure, "-o", tmp_path / "out.parquet"]
    _refused(capsys, tmp_path, [tmp_path / "rows.parquet", *out], expected)


def test_a_null_far_down_is_named_by_its_row(tmp_path, capsys):
    pq.write_table(pa.table({"output": ["a"] * 45_678 + [None]}), tmp_path / "rows.parquet")
    out = ["-k", 1, "--measure", "words", "-o", tmp_path / "out.parquet"]
    _refused(capsys, tmp_path, [tmp_path / "rows.parquet", *out], "row 45678:")


def test_bad_places(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "rows.jsonl"
    source.write_text(_lines(ROWS))
    (tmp_path / "empty").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text(_lines(ROWS))
    k = ["-k", 1, "--measure", "words", "-o"]
    for arguments, expected in [
        (["none.jsonl", *k, "out.jsonl"], "none.jsonl: no such file"),
        (["empty", *k, "out.jsonl"], "empty: the folder holds no file of rows"),
        ([source, *k, source], "the output would replace the input"),
        ([source, *k, tmp_path / "empty" / ".." / "rows.jsonl"], "the output would replace the input"),
        (["parts", *k, "parts/out.jsonl"], "the output would become a part of the input folder"),
        ([source, *k, tmp_path / "empty"], "is a folder: give the name of a file"),
        ([source, *k, "out.json"], "let its name end in .jsonl or .ndjson"),
        ([source, *k, "out.parquet"], "let its name end in .jsonl or .ndjson"),
        ([source, *k, source / "out.jsonl"], "cannot be written"),
        ([source, "-k", 1], "the following arguments are required: -o/--out"),
        (["empty/nothing", *k, "out.jsonl"], "empty/nothing: no such file"),
    ]:
        _refused(capsys, tmp_path, arguments, expected)


# --- as a process --------------------------------------------------------------------------------------------------


def _process(*arguments, **more):
    command = [sys.executable, "-m", "nbutils.select", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_the_command_as_a_process(tmp_path):
    (tmp_path / "rows.jsonl").write_text(_lines(ROWS))
    done = _process("rows.jsonl", "-k", 3, "--measure", "words", "-o", "out.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.jsonl").read_text() == _lines(ROWS[i] for i in LONGEST_3)


def test_bad_input_as_a_process(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"output": "x"}\n[1]\n')
    done = _process("rows.jsonl", "-k", 1, "-o", "out.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: rows.jsonl: row 1 is not an object but a list: each row must be a JSON object\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_dataset_that_the_hub_does_not_give_as_a_process(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = _process("nobody/nothing", "-k", 1, "-o", "out.jsonl", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nobody/nothing: neither a file nor a dataset that the Hub gives")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_help_as_a_process():
    done = _process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--measure" in done.stdout


# --- a million rows ------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from nbutils.select import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)
"""


def _write_synthetic(folder, rows):
    """Rows of 1 to 60 words, most of them different, as partitioned Parquet and as JSON lines."""
    import duckdb

    words = (
        "array_to_string(list_transform(range(1 + (i * 7919) % 60), lambda x: 'w' || (i * 31 + x * x) % 50021), ' ')"
    )
    parts = folder / "parts"
    parts.mkdir(parents=True)
    with duckdb.connect() as connection:
        for part in range(10):
            some = f"range({part * rows // 10}, {(part + 1) * rows // 10}) AS t(i)"
            query = f"SELECT i AS number, 'task ' || i AS instruction, {words} AS output FROM {some}"  # noqa: S608
            connection.execute(f"COPY ({query}) TO '{parts}/part-{part}.parquet' (ROW_GROUP_SIZE 10240)")
        everything = f"SELECT * FROM read_parquet('{parts}/*.parquet') ORDER BY number"  # noqa: S608
        connection.execute(f"COPY ({everything}) TO '{folder}/rows.jsonl' (FORMAT json)")


def _peak_megabytes(source, out, measure):
    arguments = [str(source), "-k", "1000", "--measure", measure, "-o", str(out)]
    # By way of a shell: a process started directly would inherit the peak of this one.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    for rows in (100_000, 1_000_000):
        _write_synthetic(folder / str(rows), rows)
    return folder


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "measure"), [("parts", "chars"), ("parts", "words"), ("rows.jsonl", "words"), ("parts", "tokens")]
)
def test_a_million_rows_take_no_more_memory(synthetic, tmp_path, kind, measure, request):
    if measure == "tokens":
        request.getfixturevalue("llama2")
    peaks, ids = {}, {}
    for rows in (100_000, 1_000_000):
        source = synthetic / str(rows) / kind
        out = tmp_path / f"out-{rows}{source.suffix or '.parquet'}"
        peaks[rows] = _peak_megabytes(source, out, measure)
        made = json.loads(Path(f"{out}.manifest.json").read_text())
        assert made["rows"] == rows
        ids[rows] = made["ids"]
    if measure == "words":  # every 60th row has the 60 words, ties go to the lower ids
        assert ids[1_000_000] == [i for i in range(1_000_000) if (i * 7919) % 60 == 59][:1000]
    added = {"parts": 210, "rows.jsonl": 260}[kind]  # megabytes of text that the further rows hold
    assert peaks[1_000_000] - peaks[100_000] < added / 2, peaks
