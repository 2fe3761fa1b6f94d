"""Files and rows in the forms that people have, through `python -m nbutils.select`, against an oracle.

Each specimen is written from known rows. OUT must hold exactly the longest, in the order of their numbers, with every
field as it was, in the form that was read; the manifest must have their numbers. `support/specimens.py` builds them.
"""

# ruff: noqa: E501 (the tables have one specimen a line)

import csv
import datetime
import decimal
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import specimens
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import (
    COUNTS,
    DECOY,
    TEXTS,
    Specimen,
    arrow,
    delimited,
    flat,
    json_array,
    json_lines,
    json_objects,
    json_wrapped,
    layout,
    longest,
    read_rows,
    saved_splits,
    saved_to_disk,
    table_of,
)

from nbutils import data
from nbutils.core.errors import InputError

K = 3


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for the inputs; the outputs go beside it."""
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "in"


def _name(value):
    return getattr(value, "__name__", str(value))


def _select(made: Specimen, place: Path, lengths, measure="words", k=K, options=()):
    """Select from a specimen, compare with the oracle; give the manifest and the lines on stderr."""
    out = place.parent / "out" / Path(made.out).name
    arguments = [*made.sources, "-k", k, "--measure", measure, "-o", out, *made.options, *options]
    done = specimens.run(*arguments)
    assert done.status == 0, done.errors
    assert all(line.startswith("note: ") for line in done.errors), done.errors
    ids = longest(lengths, k)
    manifest = json.loads(out.with_name(f"{out.name}.manifest.json").read_text())
    assert (manifest["ids"], manifest["rows"]) == (ids, len(lengths))
    assert made.read(out) == made.expected(ids)
    left = {path.name for path in out.parent.iterdir()}
    assert left - {f"{out.name}.skipped.jsonl"} == {out.name, f"{out.name}.manifest.json"}
    return manifest, done.errors


# --- files ---------------------------------------------------------------------------------------------------------

BOM = "\ufeff"
FILES = {
    "array, compact": json_array,
    "array, indented": partial(json_array, indent=2),
    "array, indented, CRLF": partial(json_array, indent=4, ending="\r\n"),
    "array, BOM": partial(json_array, indent=1, start=BOM),
    "array, blank lines before": partial(json_array, start="\n\n  "),
    "array called jsonl": partial(json_array, name="rows.jsonl"),
    "lines": json_lines,
    "lines, ndjson": partial(json_lines, name="rows.ndjson"),
    "lines called json": partial(json_lines, name="rows.json"),
    "lines, blank lines between": partial(json_lines, blank="\n  \n"),
    "lines, CRLF": partial(json_lines, ending="\r\n"),
    "lines, CRLF, blank lines": partial(json_lines, ending="\r\n", blank="\r\n"),
    "lines, last one not ended": partial(json_lines, last=False),
    "lines, BOM": partial(json_lines, start=BOM),
    "lines, BOM and CRLF called json": partial(json_lines, name="rows.json", start=BOM, ending="\r\n"),
    "lines, blank ones first": partial(json_lines, start="\n\n"),
    "objects, indented": json_objects,
    "objects, indented, blank lines": partial(json_objects, indent=4, between="\n\n"),
    "objects, indented, called jsonl": partial(json_objects, name="rows.jsonl"),
    "under data": json_wrapped,
    "under data, indented": partial(json_wrapped, indent=2),
    "under rows": partial(json_wrapped, key="rows"),
    "under train": partial(json_wrapped, key="train"),
    "under instances": partial(json_wrapped, key="instances", before={"type": "text2text"}),
    "under any key": partial(json_wrapped, key="my examples"),
    "under data, version before": partial(json_wrapped, before={"version": "1.10", "n": 1.10}),
    "under data, more behind": partial(json_wrapped, after={"license": None, "by": "me", "at": 1e3}),
    "under data, gz": partial(json_wrapped, name="rows.json.gz"),
    "csv": delimited,
    "csv, all quoted": partial(delimited, quoting=csv.QUOTE_ALL),
    "csv, CRLF": partial(delimited, ending="\r\n"),
    "csv, BOM": partial(delimited, start=BOM),
    "csv, BOM and CRLF": partial(delimited, start=BOM, ending="\r\n"),
    "csv, last line not ended": partial(delimited, last=False),
    "csv, semicolons": partial(delimited, comma=";"),
    "tsv": partial(delimited, name="rows.tsv", comma="\t"),
    "tsv, CRLF": partial(delimited, name="rows.tsv", comma="\t", ending="\r\n"),
    "a name with spaces": partial(json_lines, name="my rows (1) é.jsonl"),
    "a name with brackets": partial(json_lines, name="rows[1].jsonl"),
    **{
        f"{build.__name__}, {packing}": partial(build, name=f"rows.{suffix}.{packing}")
        for build, suffix in ((json_lines, "jsonl"), (json_array, "json"), (delimited, "csv"))
        for packing in ("gz", "zst", "xz", "bz2", "zip")
    },
}  # fmt: skip


@pytest.mark.parametrize("measure", COUNTS)
@pytest.mark.parametrize("build", FILES.values(), ids=FILES)
def test_files(place, build, measure):
    _select(build(place), place, [COUNTS[measure](text) for text in TEXTS], measure)


def test_line_feeds_of_windows_within_a_field_stay(place):
    texts = ["a\r\nb c d", "e", "f\r\ng"]
    made = delimited(place, [{"n": str(i), "output": text} for i, text in enumerate(texts)])
    made = made._replace(read=read_rows, expected=lambda ids: [{"n": str(i), "output": texts[i]} for i in ids])
    _select(made, place, [4, 1, 2], k=2)


def test_gzip_in_several_members(place):
    """What `cat a.gz b.gz` gives is one file."""
    made = json_lines(place, name="rows.jsonl.gz")
    lines = specimens.unpack(place / "rows.jsonl.gz").splitlines(keepends=True)
    (place / "rows.jsonl.gz").write_bytes(b"".join(specimens.pack("x.gz", line) for line in lines))
    _select(made, place, [COUNTS["words"](text) for text in TEXTS])


def test_rows_that_separators_of_other_kinds_do_not_cut(place):
    texts = ["a\u2028b\u2029c\x85d", "e\x0bf\x0cg", "h\x1ci\x1dj\x1ek l", "m\u3000n\u00a0o p q"]
    rows = [{"output": text} for text in texts]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")

    def expected(ids):
        return "".join(lines[i] + "\n" for i in ids)

    made = Specimen([str(place / "rows.jsonl")], "rows.jsonl", lambda path: path.read_bytes().decode(), expected)
    _select(made, place, [len(text.split()) for text in texts], k=2)


LARGE = {
    "lines": json_lines,
    "array": partial(json_array, indent=2),
    "objects": json_objects,
    "wrapped": json_wrapped,
    "csv": delimited,
    "zst": partial(json_lines, name="rows.jsonl.zst"),
}


@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_a_row_of_megabytes(place, build):
    """Longer than what readers take at once, and than what `csv` allows a field by itself."""
    texts = ["a b", "c\nd e " * 500_000, "f g h", "i " * 70_000]
    _select(build(place, [{"n": str(i), "output": text} for i, text in enumerate(texts)]), place, _words(texts), k=2)


@pytest.mark.parametrize(
    "build", [*LARGE.values(), "parquet", "file", "stream"], ids=[*LARGE, "parquet", "file", "stream"]
)
def test_more_rows_than_a_batch(place, build):
    """Ties on both sides of a batch's end, and line feeds within fields wherever a block ends."""
    rows = [{"n": str(i), "output": "w\nw " * (i * 7919 % 11)} for i in range(25_000)]
    if isinstance(build, str):
        name = "rows.parquet" if build == "parquet" else "rows.arrow"
        made = arrow(place, table_of(rows), name, build, batch=1_000)
    else:
        made = build(place, rows)
    _select(made, place, [i * 7919 % 11 * 2 for i in range(25_000)], k=2_400)


def test_fields_whose_types_differ_from_row_to_row(place):
    """What stands beside the responses need not be a table."""
    odd = [1, "1", None, [1, "a", None], {"a": []}, {"a": {}}, True, 10**30, 1e300, [[1], {"b": 2}]]
    _select(
        json_lines(place, [{"x": odd[i], f"k{i}": 1, "output": text} for i, text in enumerate(TEXTS)]), place, _words()
    )


@pytest.mark.parametrize("text", ["2024-01-01", "2024-01-01 00:00:00", "12:30:00", "1", "1.50", "true", "null", "NaN"])
@pytest.mark.parametrize("build", [json_lines, json_array, delimited], ids=_name)
def test_texts_that_all_look_like_something_else(place, build, text):
    _select(build(place, [{"n": str(i), "output": text} for i in range(4)]), place, _words([text] * 4), k=2)


BEGINNINGS = {
    "void": [],
    "rows": [{"output": DECOY}, {"output": DECOY}],
    "objects": [{"name": "look_up"}],
    "texts": [DECOY, DECOY],
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.parametrize(
    "build",
    [json_lines, partial(json_lines, name="rows.json"), json_objects],
    ids=["lines", "lines called json", "objects"],
)
def test_rows_that_begin_with_a_list(place, build, begin, count):
    """A row's own list is no list of rows, how few rows there may be."""
    rows = [{"sources": BEGINNINGS[begin], "instruction": "x", "output": text} for text in TEXTS[-count:]]
    _select(build(place, rows), place, _words(TEXTS[-count:]), k=1)


@pytest.mark.parametrize("name", [f"rows.jsonl.{packing}" for packing in ("gz", "xz", "bz2", "zst", "zip")])
def test_equal_rows_give_equal_bytes_at_any_time(place, name, monkeypatch):
    made, written = json_lines(place, name=name), []
    for moment in (1.6e9, 1.7e9):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        out = place.parent / "out" / name
        assert specimens.run(*made.sources, "-k", K, "--measure", "words", "-o", out).status == 0
        written.append((out.read_bytes(), Path(f"{out}.manifest.json").read_bytes()))
    assert written[0] == written[1]


# --- Arrow ---------------------------------------------------------------------------------------------------------


def _typed() -> pa.Table:
    """A column of each kind that Arrow can hold beside the responses."""
    n = range(len(TEXTS))
    zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    moments = [datetime.datetime(2024, 1, 1 + i, 12, 30, 15, 123456, zone) for i in n]
    columns = {
        "output": pa.array(TEXTS, pa.string()),
        "large": pa.array(TEXTS, pa.large_string()),
        "coded": pa.array([f"kind {i % 3}" for i in n]).dictionary_encode(),
        "nothing": pa.nulls(len(TEXTS)),
        "gaps": pa.array([None if i % 2 else i for i in n], pa.int8()),
        "money": pa.array([decimal.Decimal(f"{i}.10") for i in n], pa.decimal128(12, 2)),
        "when": pa.array(moments, pa.timestamp("us", "Asia/Kolkata")),
        "day": pa.array([datetime.date(2024, 1, 1 + i) for i in n], pa.date32()),
        "list": pa.array([[i] * i for i in n], pa.list_(pa.float32())),
        "fixed": pa.array([[i, i] for i in n], pa.list_(pa.int16(), 2)),
        "map": pa.array([[("a", i), ("b", None)] for i in n], pa.map_(pa.string(), pa.int32())),
        "bytes": pa.array([bytes([i, 255]) for i in n], pa.binary()),
        "nested": pa.array([{"a": [{"b": i, "c": None}], "d": f"{i}"} for i in n]),
        "unsigned": pa.array([2**64 - 1 - i for i in n], pa.uint64()),
        "truth": pa.array([i % 2 == 0 for i in n]),
    }
    return pa.table(columns, metadata={"huggingface": "{}"})


def _as(kind, more=None) -> pa.Table:
    texts = pa.array(TEXTS)
    typed = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
    return pa.table({"instruction": ["x"] * len(TEXTS), "output": typed, "n": list(range(len(TEXTS))), **(more or {})})


def _odd() -> pa.Table:
    """Columns of kinds that Parquet does not hold, or not by themselves."""
    n = len(TEXTS)
    uuids = pa.array([bytes([i]) * 16 for i in range(n)], pa.binary(16))
    kinds = pa.array([i % 2 for i in range(n)], pa.int8())
    places = pa.array([i // 2 for i in range(n)], pa.int32())
    columns = {
        "output": TEXTS,
        "views in lists": pa.array([[text] for text in TEXTS], pa.list_view(pa.string_view())),
        "views in structs": pa.StructArray.from_arrays([pa.array(TEXTS, pa.string_view())], names=["a"]),
        "codes in lists": pa.array([[text] for text in TEXTS], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), uuids),
        "union": pa.UnionArray.from_dense(kinds, places, [pa.array(range(n)), pa.array(TEXTS)]),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([4, n], pa.int32()), pa.array(["a", "b"])),
        "span": pa.array([(i, 2, 3) for i in range(n)], pa.month_day_nano_interval()),
        "half": pa.array([i / 2 for i in range(n)], pa.float16()),
        "long": pa.array([decimal.Decimal(i) for i in range(n)], pa.decimal256(50, 3)),
    }
    return pa.table(columns)


VIEWS = {"view": pa.array([bytes([i]) for i in range(len(TEXTS))], pa.binary_view())}
TABLES = {
    "parquet": arrow,
    "parquet, every type": partial(arrow, _typed=True),
    "parquet, large_string": partial(arrow, response=pa.large_string()),
    "parquet, string_view": partial(arrow, response=pa.string_view()),
    "parquet, views beside": partial(arrow, response=pa.string(), more=VIEWS),
    "parquet, dictionary": partial(arrow, response="dictionary"),
    "parquet, zstd": partial(arrow, compression="zstd"),
    "arrow file": partial(arrow, name="rows.arrow", kind="file"),
    "arrow file, every type": partial(arrow, name="rows.arrow", kind="file", _typed=True),
    "arrow file, string_view": partial(arrow, name="rows.arrow", kind="file", response=pa.string_view()),
    "arrow file, dictionary": partial(arrow, name="rows.arrow", kind="file", response="dictionary"),
    "arrow file, odd types": partial(arrow, name="rows.arrow", kind="file", table=_odd()),
    "arrow stream, odd types": partial(arrow, name="rows.arrow", kind="stream", table=_odd()),
    "arrow stream": partial(arrow, name="rows.arrow", kind="stream"),
    "arrow stream, every type": partial(arrow, name="rows.arrow", kind="stream", _typed=True),
    "arrow stream, large_string": partial(arrow, name="rows.arrow", kind="stream", response=pa.large_string()),
    "feather": partial(arrow, name="rows.feather", kind="file"),
    "feather, lz4": partial(arrow, name="rows.feather", kind="file", compression="lz4"),
    "feather, zstd": partial(arrow, name="rows.feather", kind="file", compression="zstd"),
}  # fmt: skip


@pytest.mark.parametrize("measure", COUNTS)
@pytest.mark.parametrize("build", TABLES.values(), ids=TABLES)
def test_tables(place, build, measure):
    how = dict(build.keywords) if isinstance(build, partial) else {}
    table = _typed() if how.pop("_typed", False) else how.pop("table", None)
    if response := how.pop("response", None):
        table = _as(response, how.pop("more", None))
    _select(arrow(place, table, **how), place, [COUNTS[measure](text) for text in TEXTS], measure)


def test_parquet_without_its_ending(place):
    made = arrow(place)
    Path(made.sources[0]).rename(place / "rows")
    _select(made._replace(sources=[str(place / "rows")]), place, [COUNTS["words"](text) for text in TEXTS])


# --- folders, several files, standard input ------------------------------------------------------------------------

_SHARDS = [f"data/train-{i:05}-of-00010.parquet" for i in range(10)]


def _folder(wanted, others=(), **more):
    return partial(layout, wanted=wanted, others=others, **more)


FOLDERS = {
    "Hub shards beside other splits": _folder(["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]),
    "ten Hub shards": _folder(_SHARDS),
    "a split that is asked for": _folder(["data/test-00000-of-00001.parquet"], ["data/train-00000-of-00001.parquet"], options=["--split", "test"]),
    "train_sft": _folder(["data/train_sft-00000-of-00001.parquet"], ["data/test_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], options=["--split", "train_sft"]),
    "test_sft": _folder(["data/test_sft-00000-of-00001.parquet"], ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], options=["--split", "test_sft"]),
    "train.jsonl and test.jsonl": _folder(["train.jsonl"], ["test.jsonl"]),
    "x_train.jsonl and x_test.jsonl": _folder(["x_train.jsonl"], ["x_test.jsonl"]),
    "x-train.parquet and x-eval.parquet": _folder(["x-train.parquet"], ["x-eval.parquet"]),
    "x_test.jsonl, asked for": _folder(["x_test.jsonl"], ["x_train.jsonl"], options=["--split", "test"]),
    "dev.jsonl as validation": _folder(["dev.jsonl"], ["train.jsonl", "test.jsonl"], options=["--split", "validation"]),
    "train/ and test/": _folder(["train/a.jsonl", "train/b.jsonl"], ["test/a.jsonl", "test/b.jsonl"]),
    "data/train/ and data/test/": _folder(["data/train/a.parquet"], ["data/test/a.parquet"]),
    "a card's data_files": _folder(["mine/a.jsonl", "mine/b.jsonl"], ["yours/a.jsonl"], more={"README.md": specimens.card(("train", "mine/*.jsonl"), ("test", "yours/*.jsonl"))}),
    "a card's list of files": _folder(["b.jsonl", "c.jsonl"], ["a.jsonl"], more={"README.md": specimens.card(("train", ["b.jsonl", "c.jsonl"]), ("test", "a.jsonl"))}),
    "a card's validation": _folder(["held/out.jsonl"], ["rest/all.jsonl"], more={"README.md": specimens.card(("train", "rest/*"), ("validation", "held/*"))}, options=["--split", "validation"]),
    "a card without configs": _folder(["train.jsonl"], ["test.jsonl"], more={"README.md": "---\nlicense: mit\n---\n\n# A dataset\n", ".gitattributes": "*.jsonl text\n", "LICENSE": "MIT\n"}),
    "csv": _folder(["train.csv"], ["test.csv"]),
    "json arrays": _folder(["train.json"], ["test.json"]),
    "jsonl.gz parts": _folder(["part-0.jsonl.gz", "part-1.jsonl.gz", "part-2.jsonl.gz"]),
    "jsonl.zst parts": _folder(["train-0.jsonl.zst", "train-1.jsonl.zst"], ["test-0.jsonl.zst"]),
    "ten parts in the order of their names": _folder([f"part-{i:02}.jsonl" for i in range(1, 11)]),
    "ten parts in the Hub's order": _folder([f"part-{i}.jsonl" for i in (1, 10, *range(2, 10))]),
    "ten parquet parts in the Hub's order": _folder([f"part-{i}.parquet" for i in (1, 10, *range(2, 10))]),
    "one file of any name": _folder(["mine.jsonl"]),
    "hidden and marker files beside": _folder(["a.jsonl"], [".cache/b.jsonl", "_temporary/c.jsonl"], more={"_SUCCESS": "", ".x.crc": "x"}),
    "pictures beside": _folder(["a.jsonl"], more={"images/train/a.png": "x", "images/test/b.png": "y"}),
    "an archive beside": _folder(["a.jsonl"], more={"images.zip": "x", "notes.txt": "y"}),
    "saved to disk": saved_to_disk,
    "splits saved to disk": saved_splits,
    "test of splits saved to disk": partial(saved_splits, split="test"),
}  # fmt: skip


def _words(texts=TEXTS):
    return [len(text.split()) for text in texts]


@pytest.mark.parametrize("build", FOLDERS.values(), ids=FOLDERS)
def test_folders(place, build):
    _select(build(place), place, _words())


VOID = {"json": "[]", "jsonl": "", "csv": "instruction,output\n", "jsonl.gz": ""}


@pytest.mark.parametrize("name", ["a", "c", "m"])
@pytest.mark.parametrize("suffix", VOID)
def test_a_part_without_rows_among_others(place, suffix, name):
    """The first, the last, or one between."""
    rows = [{"instruction": "x", "output": text} for text in TEXTS]
    made = layout(place, [f"b.{suffix}", f"d.{suffix}"], rows=rows)
    (place / "dataset" / f"{name}.{suffix}").write_bytes(specimens.pack(f"x.{suffix}", VOID[suffix].encode()))
    _select(made, place, _words())


@pytest.mark.parametrize("second", ["b.csv", "b.tsv"])
def test_parts_that_are_separated_in_two_ways(place, monkeypatch, second):
    """One way in OUT, or no OUT at all."""
    comma = "\t" if second == "b.tsv" else ";"
    rows = flat()
    delimited(place, rows[:3], "a.csv")
    delimited(place, rows[3:], second, comma)
    monkeypatch.chdir(place)
    out = place.parent / "out" / "rows.csv"
    done = specimens.run("a.csv", second, "-k", K, "--measure", "words", "-o", out)
    if done.status == 0:
        assert read_rows(out) == [rows[i] for i in longest(_words(), K)]
    else:
        assert second in done.errors[0] and not out.exists()


def test_a_snapshot_of_the_hub_is_links(place):
    made = layout(place, ["data/train-00000-of-00001.parquet"], ["data/test-00000-of-00001.parquet"])
    (place / "blobs").mkdir()
    for number, path in enumerate(sorted((place / "dataset" / "data").iterdir())):
        path.rename(place / "blobs" / f"{number:064}")
        path.symlink_to(f"../../blobs/{number:064}")
    _select(made, place, _words())


def test_what_is_left_unread_in_a_folder_is_named(place):
    made = layout(place, ["a.parquet", "b.parquet"])
    json_lines(place / "dataset", [{"output": DECOY}], "left.jsonl")
    _, notes = _select(made, place, _words())
    assert any("left.jsonl" in note for note in notes), notes


def test_a_file_whose_name_says_test_is_read_when_it_is_given(place):
    _select(json_lines(place, name="test.jsonl"), place, _words())


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["b.jsonl", "a.jsonl"], ["b.jsonl", "a.jsonl"]),
        (["a 1.jsonl", "a 2.jsonl"], ["a ?.jsonl"]),
        (["a.parquet", "b.parquet"], ["[ab].parquet"]),
        (["a/x.jsonl", "b/x.jsonl"], ["*/x.jsonl"]),
        (["a/b/x.jsonl", "c/x.jsonl"], ["**/*.jsonl"]),
        (["a.csv", "b.csv"], ["*.csv"]),
        (["a.jsonl.gz", "b.jsonl.gz"], ["*.jsonl.gz"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_several_files_and_globs(place, monkeypatch, names, given):
    made = layout(place, names)
    monkeypatch.chdir(place / "dataset")
    _select(made._replace(sources=given), place, _words())


STREAMS = {
    "lines": json_lines,
    "lines, BOM, CRLF": partial(json_lines, start=BOM, ending="\r\n"),
    "array": partial(json_array, name="rows.json", indent=2),
    "parquet": arrow,
}


@pytest.mark.parametrize("build", STREAMS.values(), ids=STREAMS)
def test_standard_input(place, build, standard_input):
    made = build(place)
    standard_input(Path(made.sources[0]).read_bytes())
    _select(made._replace(sources=["-"]), place, _words())


# --- forms of rows -------------------------------------------------------------------------------------------------


def _turns(*turns, role="from", text="value", key="conversations"):
    return {key: [{role: who, text: said} for who, said in turns]}


_messages = partial(_turns, role="role", text="content", key="messages")
_CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "x"}'}}
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}

FORMS = {
    "alpaca": lambda t: {"instruction": DECOY, "input": "", "output": t},
    "alpaca, text of the released kind": lambda t: {"instruction": "x", "input": "y", "output": t, "text": DECOY},
    "prompt, completion": lambda t: {"prompt": DECOY, "completion": t},
    "prompt, response": lambda t: {"prompt": DECOY, "response": t},
    "question, answer": lambda t: {"question": DECOY, "answer": t},
    "question, answer, context": lambda t: {"context": DECOY, "question": "x", "answer": t, "id": "7"},
    "Dolly": lambda t: {"instruction": "x", "context": DECOY, "response": t, "category": "open_qa"},
    "OpenOrca": lambda t: {"id": "niv.1", "system_prompt": DECOY, "question": "x", "response": t},
    "a system column": lambda t: {"system": DECOY, "instruction": "x", "output": t},
    "LLaMA-Factory": lambda t: {"instruction": "x", "input": "", "output": t, "system": DECOY, "history": [["a", "b"], ["c", "d"]]},
    "LLaMA-Factory, void history": lambda t: {"instruction": "x", "input": "", "output": t, "system": "", "history": []},
    "human, gpt": lambda t: _turns(("human", DECOY), ("gpt", t)),
    "system, human, gpt": lambda t: {"id": "a_0", **_turns(("system", DECOY), ("human", "x"), ("gpt", t))},
    "user, assistant": lambda t: _turns(("user", DECOY), ("assistant", t)),
    "human, chatgpt": lambda t: _turns(("human", DECOY), ("chatgpt", t)),
    "human, bing": lambda t: _turns(("human", DECOY), ("bing", t)),
    "human, bard": lambda t: _turns(("human", DECOY), ("bard", t)),
    "human, model": lambda t: _turns(("human", DECOY), ("model", t)),
    "human, bot": lambda t: _turns(("human", DECOY), ("bot", t)),
    "USER, ASSISTANT": lambda t: _turns(("USER", DECOY), ("ASSISTANT", t)),
    "Human, Assistant": lambda t: _turns(("Human", DECOY), ("Assistant", t)),
    "tools": lambda t: {**_turns(("human", "x"), ("function_call", '{"name": "f"}'), ("observation", DECOY), ("gpt", t)), "tools": "[]"},
    "tool": lambda t: _turns(("human", "x"), ("gpt", "let me see"), ("tool", DECOY), ("gpt", t)),
    "conversations of role and content": lambda t: _turns(("user", DECOY), ("assistant", t), role="role", text="content"),
    "messages of from and value": lambda t: _turns(("human", DECOY), ("gpt", t), key="messages"),
    "messages": lambda t: _messages(("user", DECOY), ("assistant", t)),
    "messages, system": lambda t: {"prompt_id": "a1", "prompt": DECOY, **_messages(("system", DECOY), ("user", "x"), ("assistant", t))},
    "messages, developer": lambda t: _messages(("developer", DECOY), ("user", "x"), ("assistant", t)),
    "messages, user last": lambda t: _messages(("user", "x"), ("assistant", t), ("user", DECOY)),
    "messages, tool calls": lambda t: {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [_CALL]}, {"role": "tool", "tool_call_id": "c1", "content": DECOY}, {"role": "assistant", "content": t}], "tools": [_TOOL]},
    "messages, parts": lambda t: {"messages": [{"role": "user", "content": [{"type": "text", "text": DECOY}]}, {"role": "assistant", "content": [{"type": "text", "text": t}]}]},
    "messages, text and parts": lambda t: {"messages": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": [{"type": "text", "text": t}]}]},
    "messages, names and weights": lambda t: {"messages": [{"role": "user", "content": DECOY, "name": "Ann"}, {"role": "assistant", "content": t, "weight": 1, "refusal": None}]},
    "TRL prompt and completion": lambda t: {"prompt": [{"role": "system", "content": DECOY}, {"role": "user", "content": "x"}], "completion": [{"role": "assistant", "content": t}]},
    "TRL chosen, rejected": lambda t: {"prompt": [{"role": "user", "content": DECOY}], "chosen": [{"role": "assistant", "content": t}], "rejected": [{"role": "assistant", "content": DECOY}]},
    "TRL chosen, rejected, prompt within": lambda t: {"chosen": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": t}], "rejected": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": DECOY}]},
    "UltraFeedback": lambda t: {"prompt": DECOY, "prompt_id": "a", "chosen": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": t}], "rejected": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": DECOY}], "score_chosen": 8.5},
    "chosen, rejected of text": lambda t: {"prompt": DECOY, "chosen": t, "rejected": DECOY},
    "Capybara": lambda t: {"source": "x", "conversation": [{"input": DECOY, "output": t}]},
    "WildChat": lambda t: {"conversation_hash": "ab", "conversation": [{"role": "user", "content": DECOY, "toxic": False}, {"role": "assistant", "content": t, "toxic": False}], "turn": 1},
    "LMSYS": lambda t: {"conversation_id": "ab", "model": "vicuna", "conversation": [{"role": "user", "content": DECOY}, {"role": "assistant", "content": t}], "redacted": True},
    "LIMA": lambda t: {"conversations": [DECOY, t], "source": "stackexchange"},
    "UltraChat": lambda t: {"id": "0", "data": [DECOY, t]},
}  # fmt: skip
"""A row of the form whose only response that differs from row to row is t."""

NOT_IN_ARROW = ("LLaMA-Factory, void history", "messages, text and parts")  # one type for all rows, or none


@pytest.mark.parametrize("measure", COUNTS)
@pytest.mark.parametrize("name", FORMS)
def test_forms_of_rows(place, name, measure):
    rows = [{**FORMS[name](text), "extra": {"n": i}} for i, text in enumerate(TEXTS)]
    _select(json_lines(place, rows), place, [COUNTS[measure](text) for text in TEXTS], measure)


@pytest.mark.parametrize("measure", COUNTS)
@pytest.mark.parametrize("name", [name for name in FORMS if name not in NOT_IN_ARROW])
def test_forms_of_rows_in_parquet(place, name, measure):
    rows = [{**FORMS[name](text), "extra": {"n": i}} for i, text in enumerate(TEXTS)]
    _select(arrow(place, table_of(rows)), place, [COUNTS[measure](text) for text in TEXTS], measure)


_NEVER_SEEN = ("alpaca, text of the released kind", "messages, user last")


@pytest.mark.parametrize("name", [name for name in FORMS if name not in _NEVER_SEEN])
def test_all_that_the_model_is_to_see_is_kept_or_refused(place, name):
    """Read for training, a row has its context, system prompt, history and tools; else its form is refused."""
    text = "the answer"
    record = FORMS[name](text)
    json_lines(place, [record])
    try:
        (row,) = data.load_pool(str(place / "rows.jsonl"))
    except InputError as error:
        assert "row 0" in str(error)
        return
    questions = [question for question, _ in row.history]
    seen = "\n".join([row.system, *questions, row.instruction, row.input, *row.responses])
    assert row.response.strip() == text
    assert (DECOY.strip() in seen) == (DECOY in json.dumps({**record, "rejected": ""}))
    for said in ("let me see", "look_up"):
        assert said in seen or said not in json.dumps(record), "dropped without a word"
    if name == "LLaMA-Factory":
        assert row.history == (("a", "b"), ("c", "d"))


FLAT = {
    "output": "alpaca",
    "completion": "prompt, completion",
    "response": "Dolly",
    "answer": "question, answer",
    "chosen": "chosen, rejected of text",
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("build", [json_array, delimited], ids=_name)
def test_the_manifest_names_the_response_field(place, name, build):
    rows = [{**FORMS[FLAT[name]](text)} for text in TEXTS]
    manifest, notes = _select(build(place, rows), place, _words())
    assert manifest["response_field"] == name
    assert not [note for note in notes if "--field" in note], "there was nothing to choose from"


@pytest.mark.parametrize("key", ["messages", "conversations", "conversation"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_turns_as_json_text(place, key, kind):
    rows = [
        {"id": str(i), key: json.dumps(_messages(("user", DECOY), ("assistant", text))["messages"])}
        for i, text in enumerate(TEXTS)
    ]
    made = arrow(place, table_of(rows)) if kind == "parquet" else delimited(place, rows)
    _select(made, place, _words())


def test_parts_of_a_message_count_together(place):
    parts = [["a b ", "c"], ["a b c d"], ["a ", "b ", "c ", "d ", "e"], ["a"]]
    rows = [
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "text", "text": part} for part in some]}]}
        for some in parts
    ]  # fmt: skip
    _select(json_lines(place, rows), place, [3, 4, 5, 1], k=2)


def test_parts_and_text_mixed_from_row_to_row(place):
    contents = ["a b c", [{"type": "text", "text": "a b c d"}], "a", [{"type": "text", "text": ""}]]
    before = _messages(("user", "x"), ("assistant", "a"), ("user", "x"))["messages"]
    rows = [{"messages": [*before, {"role": "assistant", "content": content}]} for content in contents]
    _select(json_lines(place, rows), place, [4, 5, 2, 1], k=2)


def test_speakers_that_differ_from_row_to_row(place):
    """The row of the longest answer must not lose because its speaker has another name."""
    speakers = ["gpt", "bard", "assistant", "chatgpt", "bing", "model"]
    rows = [_turns(("human", "x"), (who, "w " * (i + 1))) for i, who in enumerate(speakers)]
    _select(json_lines(place, rows), place, range(1, 7), k=2)


def test_dataset_info_names_the_columns(place):
    rows = [{"q": "x", "ctx": DECOY, "a": text, "sys": "s", "before": [["a", "b"]]} for text in TEXTS]
    columns = {"prompt": "q", "query": "ctx", "response": "a", "system": "sys", "history": "before"}
    (place / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", "columns": columns}}))
    _select(json_array(place, rows, indent=2), place, _words())


def test_dataset_info_names_roles_and_texts(place):
    rows = [{"dialog": [{"who": "me", "said": DECOY}, {"who": "it", "said": text}]} for text in TEXTS]
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "it"}
    info = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags}
    (place / "dataset_info.json").write_text(json.dumps({"mine": info}))
    _select(json_array(place, rows), place, _words())


# --- several turns -------------------------------------------------------------------------------------------------

_COUNTS = [(1, 1, 3), (3,), (0, 4), (4, 9), (1, 0), (2, 2)]
_RULES = {
    "sum": sum,
    "last": lambda counts: counts[-1],
    "first": lambda counts: counts[0],
    "mean": lambda counts: sum(counts) / len(counts),
}


def _exchanges(counts, roles):
    return [turn for n in counts for turn in zip(roles, (DECOY, " ".join("w" * n)), strict=True)]


TURNS = {
    "ShareGPT": lambda counts: _turns(*_exchanges(counts, ("human", "gpt"))),
    "messages": lambda counts: _messages(*_exchanges(counts, ("user", "assistant"))),
    "messages, system": lambda counts: _messages(("system", DECOY), *_exchanges(counts, ("user", "assistant"))),
    "LIMA": lambda counts: {"conversations": [text for _, text in _exchanges(counts, "qa")]},
    "UltraChat": lambda counts: {"id": "1", "data": [text for _, text in _exchanges(counts, "qa")]},
    "Capybara": lambda counts: {"conversation": [{"input": DECOY, "output": " ".join("w" * n)} for n in counts]},
    "WildChat": lambda counts: _turns(*_exchanges(counts, ("user", "assistant")), role="role", text="content", key="conversation"),
}  # fmt: skip


@pytest.mark.parametrize("rule", _RULES)
@pytest.mark.parametrize("name", TURNS)
def test_rules_for_several_turns(place, name, rule):
    rows = [TURNS[name](counts) for counts in _COUNTS]
    lengths = [_RULES[rule](counts) for counts in _COUNTS]
    manifest, _ = _select(json_lines(place, rows), place, lengths, options=["--turns", rule])
    assert manifest["threshold"] == sorted(lengths)[-K]


@pytest.mark.parametrize("rule", _RULES)
def test_rules_for_several_turns_in_parquet(place, rule):
    rows = [TURNS["messages"](counts) for counts in _COUNTS]
    lengths = [_RULES[rule](counts) for counts in _COUNTS]
    _select(arrow(place, table_of(rows)), place, lengths, options=["--turns", rule])


# --- which field, which measure, which rows ------------------------------------------------------------------------


@pytest.mark.parametrize("build", [json_lines, json_array, json_wrapped, delimited, "parquet"], ids=_name)
def test_a_field_of_any_name(place, build):
    rows = [{"output": DECOY, 'my "text", é': text} for text in TEXTS]
    made = arrow(place, table_of(rows)) if build == "parquet" else build(place, rows)
    manifest, _ = _select(made, place, _words(), options=["--field", 'my "text", é'])
    assert manifest["response_field"] == 'my "text", é'


@pytest.mark.parametrize("build", [json_lines, "parquet", "file"], ids=_name)
def test_a_field_with_a_dot_in_its_name(place, build):
    """A column `a.b` is not the field `b` of a column `a`."""
    rows = [{"a": {"b": DECOY}, "a.b": text} for text in TEXTS]
    if isinstance(build, str):
        made = arrow(place, table_of(rows), "rows.parquet" if build == "parquet" else "rows.arrow", build)
    else:
        made = build(place, rows)
    _select(made, place, _words(), options=["--field", "a.b"])


@pytest.mark.parametrize("pair", [("answer", "solution"), ("output", "response"), ("solution", "answer")])
@pytest.mark.parametrize("build", [json_lines, delimited, "parquet"], ids=_name)
def test_of_two_fields_the_one_taken_is_named(place, pair, build):
    rows = [{"question": "x", pair[0]: text, pair[1]: text[::-1] + " w" * i} for i, text in enumerate(TEXTS)]
    made = arrow(place, table_of(rows)) if build == "parquet" else build(place, rows)
    out = place.parent / "first" / made.out
    out.parent.mkdir()
    first = specimens.run(*made.sources, "-k", K, "--measure", "words", "-o", out)
    assert first.status == 0, first.errors
    manifest = json.loads(Path(f"{out}.manifest.json").read_text())
    taken = manifest["response_field"]
    (other,) = set(pair) - {taken}
    assert manifest["ids"] == longest(_words([row[taken] for row in rows]), K)
    (note,) = (line for line in first.errors if "--field" in line)
    assert taken in note and other in note
    manifest, _ = _select(made, place, _words([row[other] for row in rows]), options=["--field", other])
    assert manifest["response_field"] == other


ENGLISH = [
    "This is a plain answer.",
    "It isn't long, is it?",
    "Yes.",
    "A fourth answer, the longest of them all, ends.",
]
CHINESE = ["今天天气很好", "我们去公园散步吧,然后回家", "是", "机器学习是人工智能的一个分支,它使计算机能够学习"]
JAPANESE = [
    "今日はいい天気です",
    "はい",
    "機械学習は人工知能の一分野であり、とても役に立つものです",
    "いいえ、そうではありません",
]
THAI = ["วันนี้อากาศดี", "ใช่", "การเรียนรู้ของเครื่องเป็นสาขาหนึ่งของปัญญาประดิษฐ์", "ไม่ใช่"]


def test_auto_is_the_papers_measure_on_english(place, no_data):
    rows = [{"instruction": "x", "output": text} for text in ENGLISH]
    manifest, _ = _select(json_lines(place, rows), place, [6, 8, 2, 12], "auto", k=2)
    assert manifest["measure"] == "nltk_words"


@pytest.mark.parametrize("texts", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
@pytest.mark.parametrize("english", [0, 1])
def test_auto_counts_characters_where_words_are_not_spaced(place, no_data, texts, english):
    texts = texts * 2 + ENGLISH[:english]
    rows = [{"instruction": "x", "output": text} for text in texts]
    manifest, _ = _select(json_lines(place, rows), place, [len(text) for text in texts], "auto", k=2)
    assert manifest["measure"] == "chars"


@pytest.mark.parametrize("texts", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
@pytest.mark.parametrize("measure", ["words", "nltk_words"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_words_of_text_without_spaces_are_called_in_question(place, no_data, texts, measure, kind):
    rows = [{"instruction": "x", "output": text} for text in texts * 3]
    made = json_lines(place, rows) if kind == "jsonl" else arrow(place, table_of(rows))
    done = specimens.run(*made.sources, "-k", 2, "--measure", measure, "-o", place.parent / "out" / made.out)
    assert done.status == 0, done.errors
    assert [line for line in done.errors if "chars" in line or "tokens" in line], done.errors


def test_lengths_that_mostly_tie_are_called_in_question(place):
    made = json_lines(place, [{"output": f"w{i}"} for i in range(20)])
    _, notes = _select(made, place, [1] * 20)
    assert [note for note in notes if "chars" in note or "tokens" in note], notes


@pytest.mark.parametrize("build", [json_lines, json_array, delimited, "parquet", "messages"], ids=_name)
def test_plain_english_is_selected_without_a_word(place, build):
    """What is said about every dataset is read about none."""
    rows = [{"instruction": f"task {i}", "input": "", "output": "w " * i + "end."} for i in range(30)]
    if build == "messages":
        rows, build = [_messages(("user", "x"), ("assistant", row["output"])) for row in rows], json_lines
    made = arrow(place, table_of(rows)) if build == "parquet" else build(place, rows)
    _, notes = _select(made, place, range(1, 31), k=10)
    assert notes == []


BAD = {
    "null": {"output": None},
    "number": {"output": 7},
    "missing": {"instruction": "x"},
    "list": ["output"],
    "cut": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "number"), [(bad, number) for bad in BAD for number in (0, 1, 4) if (bad, number) != ("list", 0)]
)  # a file that begins with a list is one
def test_a_bad_row_is_skipped_when_that_is_asked(place, bad, number):
    lines = [json.dumps({"instruction": "x", "output": text}) for text in TEXTS]
    lines[number] = '{"output": "cut' if bad == "cut" else json.dumps(BAD[bad])
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n")
    out = place.parent / "out" / "rows.jsonl"
    done = specimens.run(place / "rows.jsonl", "-k", K, "--measure", "words", "-o", out, "--on-error", "skip")
    assert done.status == 0, done.errors
    lengths = _words()
    lengths[number] = -1
    ids = longest(lengths, K)
    assert json.loads(Path(f"{out}.manifest.json").read_text())["ids"] == ids
    assert out.read_text() == "".join(lines[i] + "\n" for i in ids)
    (skipped,) = map(json.loads, Path(f"{out}.skipped.jsonl").read_text().splitlines())
    assert (Path(skipped["file"]).name, skipped["row"]) == ("rows.jsonl", number)
    assert skipped["reason"]


def test_bad_rows_of_parquet_are_skipped(place):
    texts = [text if i % 4 else None for i, text in enumerate(TEXTS)]
    made = arrow(place, pa.table({"output": texts, "n": list(range(len(texts)))}))
    out = place.parent / "out" / made.out
    done = specimens.run(*made.sources, "-k", K, "--measure", "words", "-o", out, "--on-error", "skip")
    assert done.status == 0, done.errors
    ids = longest([-1 if text is None else len(text.split()) for text in texts], K)
    assert json.loads(Path(f"{out}.manifest.json").read_text())["ids"] == ids
    assert made.read(out) == made.expected(ids)
    skipped = [json.loads(line) for line in Path(f"{out}.skipped.jsonl").read_text().splitlines()]
    assert [row["row"] for row in skipped] == [0, 4, 8]


def test_rows_skipped_in_several_files_are_numbered_within_each(place):
    layout(place, ["a.jsonl", "b.jsonl"])
    bad = place / "dataset" / "b.jsonl"
    lines = bad.read_text().splitlines(keepends=True)
    bad.write_text("".join([*lines[:2], '{"output": 3}\n', *lines[2:]]))
    out = place.parent / "out" / "rows.jsonl"
    done = specimens.run(place / "dataset", "-k", K, "--measure", "words", "-o", out, "--on-error", "skip")
    assert done.status == 0, done.errors
    lengths = [*_words(TEXTS[:7]), -1, *_words(TEXTS[7:])]
    assert json.loads(Path(f"{out}.manifest.json").read_text())["ids"] == longest(lengths, K)
    (skipped,) = map(json.loads, Path(f"{out}.skipped.jsonl").read_text().splitlines())
    assert (Path(skipped["file"]).name, skipped["row"]) == ("b.jsonl", 2)


SKIPPED = {
    "csv, too few fields": ("rows.csv", "n,output\n1,a b\n2\n3,c\n"),
    "csv, too many fields": ("rows.csv", "n,output\n1,a b\n2,a,b\n3,c\n"),
    "an unknown speaker": ("rows.jsonl", "".join(json.dumps(_turns(("human", "x"), (who, said))) + "\n" for who, said in (("gpt", "a b"), ("Alice", "a b c"), ("gpt", "c")))),
    "in an array": ("rows.json", '[{"output": "a b"}, {"output": null}, {"output": "c"}]'),
    "under a key": ("rows.json", '{"rows": [{"output": "a b"}, 7, {"output": "c"}]}'),
    "gz": ("rows.jsonl.gz", '{"output": "a b"}\n{"output\n{"output": "c"}\n'),
}  # fmt: skip


@pytest.mark.parametrize("name", SKIPPED)
def test_bad_rows_of_any_kind_are_skipped(place, name):
    file, text = SKIPPED[name]
    (place / file).write_bytes(specimens.pack(file, text.encode()))
    out = place.parent / "out" / file
    done = specimens.run(place / file, "-k", 2, "--measure", "words", "-o", out, "--on-error", "skip")
    assert done.status == 0, done.errors
    assert json.loads(Path(f"{out}.manifest.json").read_text())["ids"] == [0, 2]
    (skipped,) = map(json.loads, Path(f"{out}.skipped.jsonl").read_text().splitlines())
    assert (Path(skipped["file"]).name, skipped["row"]) == (file, 1)


def test_rows_that_were_skipped_once_are_forgotten_when_none_is(place):
    out = place.parent / "out" / "rows.jsonl"
    skipped = Path(f"{out}.skipped.jsonl")
    for lines in ('{"output": 7}\n{"output": "a"}\n', '{"output": "a"}\n'):
        (place / "rows.jsonl").write_text(lines)
        done = specimens.run(place / "rows.jsonl", "-k", 1, "--measure", "words", "-o", out, "--on-error", "skip")
        assert done.status == 0, done.errors
        found = skipped.read_text().splitlines() if skipped.exists() else []
        assert len(found) == lines.count("7")


@pytest.mark.parametrize("build", [delimited, json_wrapped, json_objects, arrow, "stream", "messages"], ids=_name)
def test_rows_chosen_by_grades(place, build):
    rows = [{"instruction": f"task {i}", "output": text} for i, text in enumerate(TEXTS)]
    grades = [4, 5, 3.5, 5, 4, 1, 4, 2, 5, 3]
    ratings = place / "ratings.jsonl"
    ratings.write_text("".join(json.dumps({"id": i, "score": grade}) + "\n" for i, grade in enumerate(grades)))
    if build in (arrow, "stream"):
        made = arrow(place, table_of(rows), *([] if build is arrow else ["rows.arrow", "stream"]))
    elif build == "messages":
        made = json_lines(
            place, [_messages(("user", row["instruction"]), ("assistant", row["output"])) for row in rows]
        )
    else:
        made = build(place, rows)
    out = place.parent / "out" / made.out
    done = specimens.run(*made.sources, "--ratings", ratings, "--top-k", 4, "-o", out)
    assert done.status == 0, done.errors
    assert json.loads(Path(f"{out}.manifest.json").read_text())["ids"] == longest(grades, 4)
    assert made.read(out) == made.expected(longest(grades, 4))


def test_nothing_is_skipped_where_nothing_is_wrong(place):
    _select(json_lines(place), place, _words(), options=["--on-error", "skip"])
    skipped = place.parent / "out" / "rows.jsonl.skipped.jsonl"
    assert not skipped.exists() or skipped.read_text() == ""


def test_ties_go_to_the_lower_row(place):
    made = json_lines(place, [{"output": "w " * n} for n in (1, 2, 2, 2, 2, 3, 2)])
    manifest, _ = _select(made, place, [1, 2, 2, 2, 2, 3, 2])
    assert (manifest["ids"], manifest["ties_at_threshold"], manifest["ties_taken"]) == ([1, 2, 5], 5, 2)


# --- any rows in any file ------------------------------------------------------------------------------------------

_letters = st.characters(exclude_categories=["Cs"])
_texts = st.text(st.one_of(st.sampled_from(' ab",;\n\t\\\u2028\x85\x1c\u3000'), _letters), max_size=12)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
_names = _texts.filter(lambda name: name not in ("output", "instruction"))


def _rows(values):
    fixed = {"instruction": _texts, "output": _texts}
    return st.lists(
        st.tuples(st.fixed_dictionaries(fixed), values).map(lambda pair: {**pair[1], **pair[0]}), min_size=1
    )


ANY_JSON = {
    "lines": json_lines,
    "lines, CRLF": partial(json_lines, ending="\r\n"),
    "lines, gz": partial(json_lines, name="rows.jsonl.gz"),
    "array": json_array,
    "array, indented": partial(json_array, indent=2),
    "objects": json_objects,
    "wrapped": partial(json_wrapped, before={"version": 1}),
}


@pytest.mark.parametrize("build", ANY_JSON.values(), ids=ANY_JSON)
def test_any_rows_in_json(build):
    @settings(max_examples=25, deadline=None, database=None)
    @given(_rows(st.dictionaries(_names, _values, max_size=3)), st.integers(1, 4), st.sampled_from(list(COUNTS)))
    def check(rows, k, measure):
        _check_any(build, rows, min(k, len(rows)), measure)

    check()


LINES = [
    '{"output": "a b"}',
    '{"output": "a\\u0020b\\tc"}',
    '{"out\\u0070ut": "p q r"}',
    '{"output": "a", "output": "b c d e"}',
    '{"output": "", "x": NaN}',
    '{"output": "q", "x": 1e999}',
    '{"output": "2024-01-01 00:00:00"}',
    '{"output": "\\ud800 b"}',
    '{"output": "\u2028 \x85 x \u3000"}',
    '{"output": "\\u0000 a"}',
    '{"x": {"output": "decoy decoy decoy"}, "output": "a"}',
    '{"output": "h", "history": [["a", "b b b b b b"]]}',
    '{"output": "a b c", "instruction": "say \\"history\\": x"}',
    ' {"output": "lead ing"}\t ',
    "",
    " \t ",
]
WRONG = [
    '{"output": null}',
    '{"output": 3}',
    '{"output": ["a"]}',
    '{"x": 1}',
    '{"output": "a"',
    "[1]",
    "no",
    '{"output": "a"},',
]


def _spoken(line):
    """The texts of a line's responses, read by Python alone; None where it is no such row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("output"), str):
        return None
    return [answer for _, answer in row.get("history", ())] + [row["output"]]


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(WRONG), st.integers(0, 8)), max_size=1),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(list(COUNTS)),
)
def test_any_lines(lines, wrong, ending, measure):
    """Lines that two parsers may take for different things are selected as Python reads them, or refused as wrong."""
    for line, at in wrong:
        lines.insert(at, line)
    kept = [line for line in lines if line.strip()]
    texts = [_spoken(line) for line in kept]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.jsonl", Path(folder) / "out.jsonl"
        source.write_bytes(ending.join(lines).encode())
        done = specimens.run(source, "-k", 1, "--measure", measure, "-o", out)
        assert (done.status == 0) == (None not in texts and texts != []), done.errors
        if done.status == 0:
            (chosen,) = longest([sum(map(COUNTS[measure], some)) for some in texts], 1)
            assert specimens.plain_text(out) == kept[chosen] + "\n"


@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_any_rows_in_csv(comma):
    text = st.text(st.one_of(st.sampled_from(' ab",;\n\t0.'), _letters), max_size=8).map(
        lambda t: t.replace("\r", "").replace("\0", "")
    )
    rows = st.lists(st.fixed_dictionaries({"instruction": text, "output": text, "a b": text}), min_size=1, max_size=12)

    @settings(max_examples=25, deadline=None, database=None)
    @given(rows, st.integers(1, 4), st.sampled_from(list(COUNTS)))
    def check(rows, k, measure):
        name = "rows.tsv" if comma == "\t" else "rows.csv"
        _check_any(partial(delimited, name=name, comma=comma), rows, min(k, len(rows)), measure)

    check()


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_any_rows_in_arrow(kind):
    text = st.text(_letters, max_size=8)
    some = {
        "output": text,
        "n": st.integers(0, 9) | st.none(),
        "list": st.lists(text, max_size=2),
        "raw": st.binary(max_size=3),
    }
    types = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
    name = f"rows.{'parquet' if kind == 'parquet' else 'arrow'}"

    @settings(max_examples=25, deadline=None, database=None)
    @given(
        st.lists(st.fixed_dictionaries(some), min_size=1, max_size=12),
        types,
        st.integers(1, 4),
        st.sampled_from(list(COUNTS)),
    )
    def check(rows, response, k, measure):
        fields = [("output", pa.string()), ("n", pa.int64()), ("list", pa.list_(pa.string())), ("raw", pa.binary())]
        table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
        output = table["output"].combine_chunks()
        output = output.dictionary_encode() if response == "dictionary" else output.cast(response)
        table = table.set_column(0, "output", output)
        _check_any(lambda folder, _: arrow(folder, table, name, kind), rows, min(k, len(rows)), measure)

    check()


def _check_any(build, rows, k, measure):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "in"
        place.mkdir()
        (Path(folder) / "out").mkdir()
        _select(build(place, rows), place, [COUNTS[measure](row["output"]) for row in rows], measure, k)
