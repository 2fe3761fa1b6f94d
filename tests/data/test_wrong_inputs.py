"""What is wrong with an input is said in one line: which file, which row, what it is, and what to do about it.

Each case is a file, or a few, that `python -m nbutils.select` must refuse: exit status 2, one line on stderr that begins
with `error: `, and nothing written anywhere.
"""

# ruff: noqa: E501 (the tables have one case a line)

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import signal
import sqlite3
import struct
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import specimens
from specimens import TEXTS, pack, spell, table_of, write_part, write_table, zipped

from nbutils import data
from nbutils.core.errors import InputError

ROWS = [{"instruction": f"task {i}", "output": text} for i, text in enumerate(TEXTS)]
LINES = "".join(line + "\n" for line in spell(ROWS))
MEND = re.compile(
    r"\b(add|ask|call|cast|check|choose|close|convert|copy|correct|delete|drop|encode|enter|export|fetch|fill|give|install|keep|leave|let|make"
    r"|mend|merge|move|must|pass|pull|put|remove|rename|repair|replace|run|save|take|try|unpack|use|write|split (the|it))\b|--[a-z]",
    re.IGNORECASE,
)
"""A word that tells what to do, or an option that does it."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory of a case; temporary files and runs would lie beside it."""
    for name in ("work", "tmp", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LIM_OFFLINE", "1")
    return tmp_path / "work"


def _tree(folder):
    """Everything below a folder: the bytes of files, where links lead, and the names of the rest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        link = path.readlink() if path.is_symlink() else None
        found[path] = link or (path.read_bytes() if path.is_file() else path.is_dir())
    return found


def _refused(place, arguments, *wanted, file=None, watched=None):
    """Run a command that must be refused; wanted: regular expressions for what its one line says."""
    watched = watched or place.parent
    before = _tree(watched)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = specimens.run(*arguments)
    assert (done.status, done.output) == (2, ""), done
    (line,) = done.errors
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert not [each for each in warned if issubclass(each.category, ResourceWarning)]
    if file:
        assert file in line, line
    said = line.replace(file, "FILE") if file else line  # the file's own name says nothing about it
    for expression in wanted:
        assert re.search(expression, said, re.IGNORECASE), f"{expression!r} is not in: {line}"
    assert MEND.search(said), f"no mend in: {line}"
    assert _tree(watched) == before
    return line


def _row(number, blank_lines=0):
    """What names a row of a file, counted from 0, or its line, counted from 1."""
    return rf"\b(row {number}|line {number + 1 + blank_lines})\b"


class Case(NamedTuple):
    """A file's name and content, regular expressions for what is said of it, and further options."""

    name: str
    content: bytes | str
    wanted: tuple[str, ...] = ()
    options: tuple[object, ...] = ()


def _case(name, content, *wanted, options=()):
    return Case(name, content, wanted, tuple(options))


def _options(case):
    return [case.name, "-o", f"out{''.join(Path(case.name).suffixes)}", "--measure", "words", "-k", "1", *case.options]


# --- other kinds of files ------------------------------------------------------------------------------------------


def _in_buffer(write):
    """What `write` puts into a file, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        write(path)
        return path.read_bytes()


def _sqlite(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rows (output TEXT)")
    connection.commit()
    connection.close()


PARQUET = _in_buffer(lambda path: write_table(table_of(ROWS), path, "parquet"))
ARROW = _in_buffer(lambda path: write_table(table_of(ROWS), path, "file"))
STREAM = _in_buffer(lambda path: write_table(table_of(ROWS), path, "stream"))
SQLITE = _in_buffer(_sqlite)
NPY = _in_buffer(lambda path: np.save(path.open("wb"), np.array(TEXTS)))
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(200)
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
XLSX = zipped(
    {"[Content_Types].xml": b"<Types/>", "xl/workbook.xml": b"<workbook/>", "xl/worksheets/sheet1.xml": b"<x/>"}
)
TORCH = zipped({"archive/data.pkl": pickle.dumps(ROWS), "archive/version": b"3\n", "archive/data/0": bytes(64)})
SAFETENSORS = struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      ' + bytes(8)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 123456\n"
HTML = "<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
YAML = "- instruction: task\n  output: |\n    a b c\n- instruction: more\n  output: d\n"
TOML = '[[rows]]\ninstruction = "task"\noutput = "a b c"\n'
MARKDOWN = "# Answers\n\n| instruction | output |\n|---|---|\n| a | b |\n"
TAR = (
    b"rows.jsonl"
    + bytes(90)
    + b"0000644\x00"
    + bytes(149)
    + b"ustar\x0000"
    + bytes(247)
    + LINES.encode().ljust(2048, b"\0")
)

KINDS = {
    "gzip called jsonl": _case("rows.jsonl", gzip.compress(LINES.encode()), r"gz"),
    "zstandard called jsonl": _case("rows.jsonl", pack("x.zst", LINES.encode()), r"zst"),
    "xz called jsonl": _case("rows.jsonl", lzma.compress(LINES.encode()), r"xz"),
    "bzip2 called jsonl": _case("rows.jsonl", bz2.compress(LINES.encode()), r"bz"),
    "zip called jsonl": _case("rows.jsonl", zipped({"rows.jsonl": LINES.encode()}), r"zip"),
    "zip called json": _case("rows.json", zipped({"rows.json": json.dumps(ROWS).encode()}), r"zip"),
    "gzip called csv": _case("rows.csv", gzip.compress(b"output\na\n"), r"gz"),
    "gzip called parquet": _case("rows.parquet", gzip.compress(PARQUET), r"gz|parquet"),
    "zstandard called gz": _case("rows.jsonl.gz", pack("x.zst", LINES.encode()), r"gz|zst"),
    "text called gz": _case("rows.jsonl.gz", LINES, r"gz|packed|compressed"),
    "text called zst": _case("rows.jsonl.zst", LINES, r"zst|packed|compressed"),
    "text called xz": _case("rows.jsonl.xz", LINES, r"xz|packed|compressed"),
    "text called bz2": _case("rows.jsonl.bz2", LINES, r"bz|packed|compressed"),
    "text called zip": _case("rows.jsonl.zip", LINES, r"zip|packed|compressed"),
    "Parquet called jsonl": _case("rows.jsonl", PARQUET, r"parquet"),
    "Parquet called json": _case("rows.json", PARQUET, r"parquet"),
    "Parquet called csv": _case("rows.csv", PARQUET, r"parquet"),
    "Arrow called parquet": _case("rows.parquet", ARROW, r"arrow"),
    "Arrow called jsonl": _case("rows.jsonl", ARROW, r"arrow"),
    "JSON lines called parquet": _case("rows.parquet", LINES, r"parquet"),
    "JSON lines called arrow": _case("rows.arrow", LINES, r"arrow"),
    "SQLite": _case("rows.db", SQLITE, r"sqlite"),
    "SQLite called jsonl": _case("rows.jsonl", SQLITE, r"sqlite"),
    "PDF": _case("rows.pdf", PDF, r"pdf"),
    "PNG": _case("rows.png", PNG, r"png|image|picture"),
    "Excel": _case("rows.xlsx", XLSX, r"xlsx|excel|workbook"),
    "a pickle": _case("rows.pkl", pickle.dumps(ROWS), r"pickle"),
    "a pickle called jsonl": _case("rows.jsonl", pickle.dumps(ROWS), r"pickle|binary"),
    "NumPy": _case("rows.npy", NPY, r"numpy|npy"),
    "torch": _case("rows.pt", TORCH, r"torch|pickle|zip"),
    "torch called bin": _case("pytorch_model.bin", TORCH, r"torch|pickle|zip"),
    "safetensors": _case("model.safetensors", SAFETENSORS, r"safetensors|binary|UTF-8|JSON"),
    "tar": _case("rows.tar", TAR, r"tar\b|binary"),
    "tar.gz": _case("rows.tar.gz", gzip.compress(TAR), r"tar\b|binary"),
    "random bytes": _case("rows.jsonl", bytes(range(128, 256)) * 10, r"binary|UTF-8|JSON"),
    "UTF-16": _case("rows.jsonl", LINES.encode("utf-16"), r"UTF-16|UTF-8"),
    "UTF-16, no mark": _case("rows.jsonl", LINES.encode("utf-16-le"), r"UTF-16|UTF-8"),
    "UTF-16, other order, no mark": _case("rows.json", json.dumps(ROWS).encode("utf-16-be"), r"UTF-16|UTF-8"),
    "UTF-16 CSV": _case("rows.csv", "output\na b\n".encode("utf-16"), r"UTF-16|UTF-8"),
    "UTF-32": _case("rows.jsonl", LINES.encode("utf-32"), r"UTF-32|UTF-8"),
    "UTF-32, no mark": _case("rows.jsonl", LINES.encode("utf-32-le"), r"UTF-32|UTF-16|UTF-8"),
    "Latin-1": _case("rows.jsonl", '{"output": "a"}\n{"output": "café"}\n'.encode("latin-1"), r"UTF-8", _row(1)),
    "Latin-1 array": _case("rows.json", '[{"output": "café"}]'.encode("latin-1"), r"UTF-8"),
    "Latin-1 CSV": _case("rows.csv", "instruction,output\nx,a\ny,café\n".encode("latin-1"), r"UTF-8"),
    "YAML": _case("rows.yaml", YAML, r"ya?ml|JSON"),
    "YAML called json": _case("rows.json", YAML, r"JSON"),
    "TOML": _case("rows.toml", TOML, r"toml|JSON"),
    "TOML called jsonl": _case("rows.jsonl", TOML, r"JSON"),
    "plain text": _case("rows.txt", "a b c\nd e f\n", r"JSON"),
    "Markdown": _case("README.md", MARKDOWN, r"JSON|markdown|\.md"),
    "HTML called jsonl": _case("rows.jsonl", HTML, r"HTML|JSON"),
    "HTML called csv": _case("rows.csv", HTML, r"HTML|response|field|column"),
    "XML": _case("rows.xml", '<?xml version="1.0"?>\n<rows><row>a</row></rows>\n', r"XML|JSON"),
    "a pointer of Git LFS": _case("rows.jsonl", LFS, r"LFS|JSON"),
    "a pointer of Git LFS called parquet": _case("rows.parquet", LFS, r"LFS|parquet"),
    "CSV called jsonl": _case("rows.jsonl", "instruction,output\na,b\n", r"JSON"),
    "Python's spelling": _case("rows.jsonl", "{'output': 'a b'}\n", r"JSON", _row(0)),
    "empty": _case("rows.jsonl", "", r"empty|no rows"),
    "empty Parquet": _case("rows.parquet", "", r"parquet|empty"),
    "empty CSV": _case("rows.csv", "", r"empty|no rows"),
    "empty Arrow": _case("rows.arrow", "", r"arrow|empty"),
    "blank lines only": _case("rows.jsonl", "\n \r\n\t\n", r"empty|no rows"),
    "a byte order mark only": _case("rows.jsonl", "\ufeff", r"empty|no rows"),
    "zeros": _case("rows.jsonl", bytes(5000), r"binary|UTF|JSON|empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_other_kinds_of_files(place, case):
    (place / case.name).write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    _refused(place, _options(case), *case.wanted, file=case.name)


# --- files that are cut short or put together ----------------------------------------------------------------------


def _encrypted():
    """A zip whose member says that it is encrypted."""
    packed = bytearray(zipped({"rows.jsonl": LINES.encode()}))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


ARRAY = json.dumps(ROWS)
LONG = "".join(json.dumps({"output": os.urandom(500).hex()}) + "\n" for _ in range(200)).encode()
CUTS = {
    "array within a row": _case("rows.json", ARRAY[: len(ARRAY) // 2], r"JSON|cut"),
    "array behind a row": _case("rows.json", ARRAY[: ARRAY.index("}") + 1], r"JSON|cut"),
    "array behind a comma": _case("rows.json", ARRAY[: ARRAY.index("}") + 2], r"JSON|cut"),
    "array, only its bracket": _case("rows.json", "[", r"JSON|cut"),
    "array without rows": _case("rows.json", "[]", r"no rows|empty"),
    "array with a comma too many": _case("rows.json", '[{"output": "a"}, ]', r"JSON"),
    "array with more behind": _case("rows.json", '[{"output": "a"}] [{"output": "b"}]', r"JSON|behind|after"),
    "array with a comment": _case("rows.json", '[{"output": "a"} // x\n]', r"JSON"),
    "array, then lines": _case("rows.json", '[{"output": "a"}]\n{"output": "b"}\n', r"JSON|behind|after"),
    "lines, then an array": _case("rows.jsonl", '{"output": "a"}\n[{"output": "b"}]\n', r"list|array", _row(1)),
    "lines within a row": _case("rows.jsonl", LINES[:-12], r"JSON|cut", _row(9)),
    "wrapped within a row": _case("rows.json", json.dumps({"data": ROWS})[:-40], r"JSON|cut"),
    "wrapped behind its list": _case("rows.json", json.dumps({"data": ROWS})[:-1], r"JSON|cut"),
    "objects within a row": _case("rows.json", json.dumps(ROWS[0], indent=2) + "\n" + json.dumps(ROWS[1], indent=2)[:-5], r"JSON|cut"),
    "gz": _case("rows.jsonl.gz", gzip.compress(LONG)[:60_000], r"gz|end|cut|unpacked|compressed"),
    "small gz": _case("rows.jsonl.gz", gzip.compress(LINES.encode())[:-9], r"gz|end|cut|unpacked|compressed"),
    "zst": _case("rows.jsonl.zst", pack("x.zst", LONG)[:60_000], r"zst|end|cut|unpacked|compressed"),
    "xz": _case("rows.jsonl.xz", lzma.compress(LONG)[:60_000], r"xz|end|cut|unpacked|compressed"),
    "bz2": _case("rows.jsonl.bz2", bz2.compress(LONG)[:60_000], r"bz|end|cut|unpacked|compressed"),
    "zip": _case("rows.jsonl.zip", zipped({"rows.jsonl": LONG})[:60_000], r"zip|end|cut|unpacked|compressed"),
    "Parquet": _case("rows.parquet", PARQUET[:-20], r"parquet|cut"),
    "Parquet, half of it": _case("rows.parquet", PARQUET[: len(PARQUET) // 2], r"parquet|cut"),
    "Parquet, its first bytes": _case("rows.parquet", b"PAR1", r"parquet|cut"),
    "Arrow file": _case("rows.arrow", ARROW[:-20], r"arrow|cut"),
    "Arrow stream": _case("rows.arrow", STREAM[: len(STREAM) * 2 // 3], r"arrow|cut"),
    "two members in a zip": _case("rows.jsonl.zip", zipped({"a.jsonl": LINES.encode(), "b.jsonl": LINES.encode()}), r"a\.jsonl", r"b\.jsonl"),
    "no member in a zip": _case("rows.jsonl.zip", zipped({}), r"zip|empty|no |0 files"),
    "an encrypted zip": _case("rows.jsonl.zip", _encrypted(), r"encrypt|password"),
    "CSV, a quote without its end": _case("rows.csv", 'instruction,output\na,b\nc,"d\ne,f\n', r"quot", r"\b(row 1|line [34])\b"),
    "CSV, too few fields": _case("rows.csv", "instruction,output\na,b\nc\nd,e\n", r"field|column|value", r"\b(row 1|line 3)\b"),
    "CSV, too many fields": _case("rows.csv", "instruction,output\na,b\nc,d\ne,f,g\n", r"field|column|value", r"\b(row 2|line 4)\b"),
    "CSV, a header only": _case("rows.csv", "instruction,output\n", r"no rows|empty"),
    "CSV, a name twice": _case("rows.csv", "output,output\na,b\n", r"output", r"twice|duplicate|two|2"),
    "CSV without a header": _case("rows.csv", "Name a prime.,7 is a prime.\nName another.,11\n", r"header|field|column"),
    "TSV, too few fields": _case("rows.tsv", "instruction\toutput\na\tb\nc\n", r"field|column|value", r"\b(row 1|line 3)\b"),
}  # fmt: skip


@pytest.mark.parametrize("case", CUTS.values(), ids=CUTS)
def test_files_that_are_not_whole(place, case):
    (place / case.name).write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    _refused(place, _options(case), *case.wanted, file=case.name)


# --- rows ----------------------------------------------------------------------------------------------------------


def _good(number):
    return {"output": f"a b {number}"}


def _talk(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _after(rows, *bad):
    return [*rows, *bad]


GOOD = [_good(i) for i in range(7)]
TALKS = [_talk(("user", "x"), ("assistant", f"a {i}")) for i in range(7)]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
SHARE = [{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}] * 3
DEEP = '{"output": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"

RECORDS = {
    "a row that is a list": (_after(GOOD[:2], ["output", "a"]), 2, r"list|array"),
    "a row that is text": (_after(GOOD[:2], "output"), 2, r"text|str"),
    "a row that is a number": (_after(GOOD[:2], 7), 2, r"number|int"),
    "a row that is null": (_after(GOOD[:2], None), 2, r"null|None"),
    "rows of text": (["a", "b"], 0, r"text|str|JSON object|field"),
    "text, then a number": (_after(GOOD, {"output": 7}), 7, r"output", r"number|int"),
    "text, then a list": (_after(GOOD, {"output": ["a"]}), 7, r"output", r"list"),
    "text, then an object": (_after(GOOD, {"output": {"a": "b"}}), 7, r"output", r"object|dict"),
    "text, then truth": (_after(GOOD, {"output": True}), 7, r"output", r"bool|true"),
    "lists alone": ([{"output": ["a", "b"]}, {"output": ["c"]}], 0, r"output", r"list"),
    "objects alone": ([{"output": {"a": "b"}}, {"output": {"a": "c"}}], 0, r"output", r"object|dict"),
    "numbers alone": ([{"output": 1}, {"output": 2.5}], 0, r"output", r"number|int"),
    "truth alone": ([{"output": True}, {"output": False}], 0, r"output", r"bool|true"),
    "nulls alone": ([{"output": None}, {"output": None}], 0, r"output", r"null|None|empty|missing"),
    "a list, then text": (_after(TALKS, {"messages": "a b"}), 7, r"messages"),
    "a list, then nothing": (_after(TALKS, {"messages": None}), 7, r"messages", r"null|None|missing|empty|list"),
    "another form half-way": (_after(GOOD, TALKS[0]), 7, r"output"),
    "the response missing": (_after(GOOD[:3], {"instruction": "x"}), 3, r"output", r"missing|no "),
    "the response null": (_after(GOOD[:3], {"output": None}), 3, r"output", r"null|None|empty|missing"),
    "the first response null": ([{"output": None}, *GOOD], 0, r"output", r"null|None|empty|missing"),
    "no response at all": ([{"prompt": "a", "text": "b"}], 0, r"text", r"--field"),
    "no fields": ([{}], 0, r"response|field"),
    "messages that are an object": (_after(TALKS[:2], {"messages": {"role": "user"}}), 2, r"messages", r"list"),
    "messages that are a number": (_after(TALKS[:2], {"messages": 3}), 2, r"messages", r"list"),
    "a turn that is text": (_after(TALKS[:2], {"messages": ["a"]}), 2, r"turn|messages"),
    "a turn without role": (_after(TALKS[:2], {"messages": [{"content": "a"}]}), 2, r"role|speaker"),
    "a turn without text": (_after(TALKS[:2], {"messages": [{"role": "assistant"}]}), 2, r"content|text"),
    "a turn whose text is a number": (_after(TALKS[:2], _talk(("user", "x"), ("assistant", 7))), 2, r"content|text"),
    "a turn whose role is a number": (_after(TALKS[:2], _talk((1, "x"), ("assistant", "y"))), 2, r"role|speaker"),
    "a speaker unknown": (_after(TALKS[:2], _talk(("user", "x"), ("Alice", "a b c"), ("assistant", "d"))), 2, r"Alice"),
    "a speaker unknown, from": (_after(SHARE, {"conversations": [{"from": "human", "value": "x"}, {"from": "Alice", "value": "a"}]}), 3, r"Alice"),
    "no assistant turn": (_after(TALKS[:2], _talk(("user", "x"), ("system", "y"))), 2, r"assistant"),
    "no turns": (_after(TALKS[:2], {"messages": []}), 2, r"assistant|turn|empty"),
    "an image part": (_after(TALKS[:2], _talk(("user", [IMAGE, {"type": "text", "text": "x"}]), ("assistant", "y"))), 2, r"image"),
    "an image part of the assistant": (_after(TALKS[:2], _talk(("user", "x"), ("assistant", [IMAGE]))), 2, r"image"),
    "a part without text": (_after(TALKS[:2], _talk(("user", "x"), ("assistant", [{"type": "text"}]))), 2, r"part|text"),
    "chosen of text that holds the prompt": ([{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}], 0, r"prompt"),
    "chosen that is null": ([{"prompt": "x", "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": None, "rejected": "b"}], 1, r"chosen"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    ("kind", "measure"),
    [("lines", "words"), ("lines", "chars"), ("array", "words"), ("wrapped", "chars"), ("gz", "nltk_words")],
)
def test_rows(place, no_data, name, kind, measure):
    rows, number, *wanted = RECORDS[name]
    file = {"lines": "rows.jsonl", "gz": "rows.jsonl.gz"}.get(kind, "rows.json")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    text = {"array": json.dumps(rows, indent=1), "wrapped": json.dumps({"rows": rows})}.get(kind, lines)
    (place / file).write_bytes(pack(file, text.encode()))
    named = _row(number) if kind in ("lines", "gz") else rf"\brow {number}\b"
    if kind == "wrapped" and not isinstance(rows[0], dict):
        named = "rows"  # a list of texts under a key is no list of rows
    _refused(
        place, [file, "-o", f"out.{file.partition('.')[2]}", "--measure", measure, "-k", 1], named, *wanted, file=file
    )


IN_PARQUET = {
    "null": (pa.table({"output": ["a", "b", None]}), 2, r"output", r"null|None|empty|missing"),
    "numbers": (pa.table({"output": [1, 2, 3]}), None, r"output", r"int|number"),
    "lists": (pa.table({"output": [["a"], ["b"]]}), None, r"output", r"list"),
    "bytes": (pa.table({"output": [b"a", b"b"]}), None, r"output", r"binary|bytes"),
    "nulls alone": (pa.table({"output": pa.nulls(3)}), None, r"output", r"null|None|empty|missing"),
    "no response": (pa.table({"prompt": ["a"], "words": ["b"]}), None, r"prompt", r"words", r"--field"),
    "no rows": (pa.table({"output": pa.array([], pa.string())}), None, r"no rows|empty"),
    "no columns": (pa.table({}), None, r"column|field|no rows|empty"),
    "an unknown speaker": (pa.Table.from_pylist([*TALKS, _talk(("user", "x"), ("Alice", "y"))]), 7, r"Alice"),
    "a null list of turns": (pa.Table.from_pylist([*TALKS[:2], {"messages": None}]), 2, r"messages"),
    "JSON text that is cut": (pa.table({"messages": [json.dumps(TALKS[0]["messages"]), '[{"role": "us']}), 1, r"messages"),
}  # fmt: skip


@pytest.mark.parametrize("measure", ["words", "chars"])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", IN_PARQUET)
def test_rows_of_tables(place, name, kind, measure):
    table, number, *wanted = IN_PARQUET[name]
    file = f"rows.{kind}"
    write_table(table, place / file, "file" if kind == "arrow" else kind)
    named = [] if number is None else [rf"\brow {number}\b"]
    _refused(place, [file, "-o", f"out.{kind}", "--measure", measure, "-k", 1], *named, *wanted, file=file)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7", r"number|int|object|row"),
        ('"text"', r"text|str|object|row"),
        ("null", r"null|None|object|row"),
        ("true", r"bool|true|object|row"),
        ('{"train": [{"output": "a"}], "test": [{"output": "b"}]}', r"\btest\b"),
        ('{"left": [{"output": "a"}], "right": [{"output": "b"}], "n": 1}', r"right"),
        ('{"data": []}', r"no rows|empty"),
        ('{"rows": ["a", "b"]}', r"rows|text|response|field"),
        ('{"data": {"0": {"output": "a"}}}', r"data|field"),
        ('{"0": {"output": "a"}, "1": {"output": "b"}}', r"field|row"),
        ('{"output": ["a", "b"], "instruction": ["c", "d"]}', r"output"),
        (DEEP, r"deep|nested|JSON|recursion"),
        ("{'output': 'a'}", r"JSON|quot"),
        ("[" + DEEP + "]", r"deep|nested|JSON|recursion"),
        ("[" * 100_000, r"deep|nested|JSON|recursion|list"),
        ('{"a":' * 100_000, r"deep|nested|JSON|recursion"),
    ],
    ids=["number", "text", "null", "truth", "two lists", "two lists and a number", "void list", "list of text", "map", "numbered", "columns", "deep line", "Python", "deep array", "deep brackets", "deep braces"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_documents(place, text, wanted, name):
    (place / name).write_text(text)
    _refused(place, [name, "-o", f"out.{name}", "--measure", "words", "-k", 1], wanted, file=name)


# --- folders and splits --------------------------------------------------------------------------------------------


def _folder(place, *names, rows=ROWS):
    for name in names:
        write_part(place / "rows" / name, rows)


SPLITS = {
    "misspelt": (["train.jsonl", "test.jsonl"], ["--split", "trian"], r"trian", r"\btrain\b", r"\btest\b"),
    "misspelt, shards": (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], ["--split", "tset"], r"tset", r"\btrain\b", r"\btest\b"),
    "misspelt, one file": (["train.jsonl"], ["--split", "test"], r"\btest\b", r"\btrain\b"),
    "several, none called train": (["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], [], r"train_sft", r"test_sft", r"train_gen", r"--split"),
    "two subsets": (["en/train.jsonl", "fr/train.jsonl"], [], r"\ben\b", r"\bfr\b"),
    "two subsets of shards": (["en/train-00000-of-00001.parquet", "fr/train-00000-of-00001.parquet"], [], r"\ben\b", r"\bfr\b"),
    "two subsets without splits": (["en/a.jsonl", "fr/a.jsonl"], [], r"\ben\b", r"\bfr\b"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_splits(place, name):
    files, options, *wanted = SPLITS[name]
    _folder(place, *files)
    out = "out" + Path(files[0]).suffix
    _refused(place, ["rows", "-o", out, "--measure", "words", "-k", 1, *options], *wanted, file="rows")


def test_two_subsets_of_a_card(place):
    _folder(place, "a.jsonl", "b.jsonl")
    configs = "".join(
        f"- config_name: {name}\n  data_files: {file}\n" for name, file in (("en", "a.jsonl"), ("fr", "b.jsonl"))
    )
    (place / "rows" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    _refused(place, ["rows", "-o", "out.jsonl", "--measure", "words", "-k", 1], r"\ben\b", r"\bfr\b", file="rows")


def test_a_card_that_names_files_that_are_not_there(place):
    _folder(place, "a.jsonl")
    (place / "rows" / "README.md").write_text(specimens.card(("train", "gone/*.jsonl")))
    _refused(place, ["rows", "-o", "out.jsonl", "--measure", "words", "-k", 1], r"gone", file="rows")


def test_a_card_that_is_no_yaml(place):
    """The card cannot be trusted then: either it is said, or the files' names decide; nothing else."""
    _folder(place, "train.jsonl")
    (place / "rows" / "README.md").write_text("---\nconfigs: [a: {\n---\n")
    done = _either_way(place, ["rows", "-o", "out.jsonl", "--measure", "words", "-k", 3])
    assert done.status == 0 or "README.md" in done.errors[0]


@pytest.mark.parametrize("files", [{}, {"notes.txt": "a"}, {"load.py": "x = 1\n", "README.md": "# A\n"}, {".a.jsonl": LINES}], ids=["void", "text", "script", "hidden"])  # fmt: skip
def test_a_folder_without_data(place, files):
    (place / "rows").mkdir()
    for name, text in files.items():
        (place / "rows" / name).write_text(text)
    _refused(place, ["rows", "-o", "out.jsonl", "-k", 1, "--measure", "words"], r"folder|no ", file="rows")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_a_bad_row_in_a_later_part_is_numbered_within_it(place, suffix):
    _folder(place, f"a.{suffix}", f"b.{suffix}")
    bad = [ROWS[0], {"instruction": "x", "output": None}]
    if suffix == "csv":
        (place / "rows" / "b.csv").write_text("instruction,output\na,b\nc,d,e\n")
    else:
        write_part(place / "rows" / f"b.{suffix}", bad)
    said = _row(1, blank_lines=suffix == "csv")  # the header is a line
    _refused(place, ["rows", "-o", f"out.{suffix}", "--measure", "words", "-k", 1], said, file=f"b.{suffix}")


def test_parts_of_different_columns(place):
    write_part(place / "rows" / "a.parquet", ROWS)
    write_part(place / "rows" / "b.parquet", [{"output": "a"}])
    _refused(place, ["rows", "-o", "out.parquet", "--measure", "words", "-k", 1], r"column", file="b.parquet")


def test_parts_of_different_headers(place):
    write_part(place / "rows" / "a.csv", ROWS)
    write_part(place / "rows" / "b.csv", [{"output": "a", "other": "b"}])
    _refused(place, ["rows", "-o", "out.csv", "--measure", "words", "-k", 1], r"column|header|field", file="b.csv")


# --- places and options --------------------------------------------------------------------------------------------


@pytest.fixture
def lines(place):
    """A good file of ten rows, `rows.jsonl`."""
    (place / "rows.jsonl").write_text(LINES)
    return place


ASKED = {
    "k of 0": (["-k", "0"], r"\b0\b", r"rows\.jsonl|-k|k ="),
    "k negative": (["-k", "-5"], r"-5"),
    "k larger than the rows": (["-k", "11"], r"\b11\b", r"\b10\b"),
    "k no number": (["-k", "many"], r"many"),
    "k a fraction": (["-k", "1.5"], r"1\.5"),
    "an unknown measure": (["--measure", "letters"], r"letters", r"words", r"chars", r"tokens"),
    "a measure in capitals": (["--measure", "Words"], r"Words"),
    "an unknown rule for turns": (["--turns", "median"], r"median", r"first"),
    "a field that no row has": (["--field", "answer"], r"answer", r"instruction", r"output"),
    "a void field": (["--field", ""], r"empty"),
    "an unknown word for errors": (["--on-error", "ignore"], r"ignore", r"skip"),
    "a tokenizer that is not there": (["--measure", "tokens", "--tokenizer", "./none.json"], r"none\.json"),
    "a tokenizer that is none": (["--measure", "tokens", "--tokenizer", "rows.jsonl"], r"rows\.jsonl"),
    "no process": (["--processes", "0"], r"processes"),
    "an unknown option": (["--mesure", "words"], r"--mesure"),
    "another form": (["-o", "out.parquet"], r"out\.parquet", r"\.jsonl"),
    "a list": (["-o", "out.json"], r"out\.json", r"\.jsonl"),
    "CSV": (["-o", "out.csv"], r"out\.csv", r"\.jsonl"),
    "Arrow": (["-o", "out.arrow"], r"out\.arrow", r"\.jsonl"),
    "the input itself": (["-o", "rows.jsonl"], r"rows\.jsonl", r"input"),
    "the input by another way": (["-o", "./x/../rows.jsonl"], r"rows\.jsonl"),
    "a folder": (["-o", "."], r"folder"),
    "below a file": (["-o", "rows.jsonl/out.jsonl"], r"rows\.jsonl"),
    "given twice": (["rows.jsonl"], r"twice|again|two times"),
    "given twice, spelled in two ways": (["./rows.jsonl"], r"twice|again|two times"),
    "beside one that is not there": (["none.jsonl"], r"none\.jsonl", r"no such|not found|not there"),
    "beside Parquet": (["other.parquet"], r"other\.parquet|rows\.jsonl"),
    "beside CSV": (["other.csv"], r"other\.csv|rows\.jsonl"),
    "beside an array": (["other.json"], r"other\.json|rows\.jsonl"),
    "beside another form of rows": (["messages.jsonl"], r"messages\.jsonl|rows\.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_places_and_options(lines, name):
    for other in ("other.parquet", "other.csv", "other.json"):
        write_part(lines / other, ROWS)
    (lines / "messages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TALKS))
    (lines / "x").mkdir()
    options, *wanted = ASKED[name]
    _refused(lines, ["-o", "out.jsonl", "--measure", "words", "-k", "3", "rows.jsonl", *options], *wanted)


@pytest.mark.parametrize("given", ["none.jsonl", "none.parquet", "none", "*.nothing", "none/*.jsonl"])
def test_nothing_there(place, given):
    _refused(place, [given, "-o", "out.jsonl", "-k", 1], re.escape(given), r"no such|nothing|not there|neither")


def test_an_output_within_the_input_folder(place):
    _folder(place, "a.jsonl")
    _refused(place, ["rows", "-o", "rows/out.jsonl", "-k", 1, "--measure", "words"], r"folder|within|part")


def test_only_bad_rows_to_skip(place):
    (place / "rows.jsonl").write_text('{"output": 1}\n[]\n')
    options = ["-o", "out.jsonl", "-k", 1, "--measure", "words", "--on-error", "skip"]
    _refused(place, ["rows.jsonl", *options], r"no rows|\b0\b|skipped", file="rows.jsonl")


def test_fewer_good_rows_than_are_asked_for(place):
    (place / "rows.jsonl").write_text('{"output": 1}\n{"output": "a"}\n')
    options = ["-o", "out.jsonl", "-k", 2, "--measure", "words", "--on-error", "skip"]
    _refused(place, ["rows.jsonl", *options], r"\b2\b", file="rows.jsonl")


@pytest.mark.parametrize("ending", ["skipped.jsonl", "manifest.json"])
def test_what_is_written_beside_the_output_replaces_no_input(place, ending):
    """The manifest and the skipped rows have names of their own, which an input may have."""
    given = f"out.jsonl.{ending}"
    (place / given).write_text(LINES)
    _refused(place, [given, "-o", "out.jsonl", "-k", 1, "--measure", "words", "--on-error", "skip"], re.escape(given))


def test_an_output_that_is_a_link_to_the_input(lines):
    (lines / "out.jsonl").symlink_to("rows.jsonl")
    _refused(lines, ["rows.jsonl", "-o", "out.jsonl", "-k", 1, "--measure", "words"], r"out\.jsonl|rows\.jsonl")


def test_a_link_that_leads_nowhere(place):
    (place / "rows.jsonl").symlink_to("gone.jsonl")
    _refused(place, ["rows.jsonl", "-o", "out.jsonl", "-k", 1], file="rows.jsonl")


def test_a_link_that_leads_to_itself(place):
    (place / "rows.jsonl").symlink_to("rows.jsonl")
    _refused(place, ["rows.jsonl", "-o", "out.jsonl", "-k", 1], file="rows.jsonl")


STREAMS = {
    "empty": (b"", "out.jsonl", r"empty|no rows"),
    "cut short": (b'[{"output": "a"}, {"out', "out.json", r"row 1", r"JSON|cut"),
    "text": (b"a b c\n", "out.jsonl", r"JSON"),
    "a bad row": (b'{"output": "a"}\n{"output": 1}\n', "out.jsonl", r"\b(row 1|line 2)\b"),
    "another form": (LINES.encode(), "out.parquet", r"out\.parquet", r"\.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_standard_input(place, soon, standard_input, name):
    """It has no name, and above all not that of a temporary file, which is gone when the process has ended."""
    content, out, *wanted = STREAMS[name]
    standard_input(content)
    said = _refused(place, ["-", "-o", out, "-k", 1, "--measure", "words"], *wanted, watched=place)
    assert str(place.parent / "tmp") not in said


def test_standard_input_twice(lines, soon, standard_input):
    standard_input(LINES.encode())
    _refused(lines, ["-", "-", "-o", "out.jsonl", "-k", 1, "--measure", "words"], "twice", watched=lines)


@pytest.fixture
def soon():
    """A test that hangs is ended after five seconds."""

    def fail(number, frame):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.json.gz", "rows"])
def test_a_pipe_with_a_name(place, soon, name):
    os.mkfifo(place / name)
    _refused(place, [name, "-o", f"out.{name}", "-k", 1], r"pipe|fifo|regular", file=name)


def test_a_device(place, soon):
    _refused(place, ["/dev/null", "-o", "out.jsonl", "-k", 1], r"empty|device|regular", file="/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows/"])
def test_what_may_not_be_read(place, name):
    if name.endswith("/"):
        (place / name).mkdir()
    else:
        (place / name).write_text(LINES)
    (place / name).chmod(0)
    try:
        done = specimens.run(name, "-o", f"out.{name.strip('/')}", "-k", 1, "--measure", "words")
    finally:
        (place / name).chmod(0o700)
    assert done.status == 2 and len(done.errors) == 1
    assert name.strip("/") in done.errors[0] and "denied" in done.errors[0].lower()


@pytest.fixture
def byte_tokenizer(place):
    """A tokenizer that has a token for every byte, as a file."""
    from tokenizers import Tokenizer, models, normalizers

    made = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256}, [], byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.save(str(place / "tokenizer.json"))
    return "tokenizer.json"


def test_half_a_character_has_no_tokens(place, byte_tokenizer):
    (place / "rows.jsonl").write_text('{"output": "a"}\n{"output": "\\ud83d b"}\n')
    options = ["-o", "out.jsonl", "-k", 1, "--measure", "tokens", "--tokenizer", byte_tokenizer]
    _refused(place, ["rows.jsonl", *options], _row(1), r"surrogate", file="rows.jsonl")


# --- what may be read or refused, but must not crash ---------------------------------------------------------------


def _either_way(place, arguments, ids=(2, 3, 5)):
    """Run a command that selects, or says in one line why it does not and leaves nothing behind."""
    before = _tree(place.parent)
    done = specimens.run(*arguments)
    if done.status == 0:
        (manifest,) = place.rglob("*.manifest.json")
        assert json.loads(manifest.read_text())["ids"] == list(ids)
        return done
    assert (done.status, done.output, len(done.errors)) == (2, "", 1), done
    assert done.errors[0].startswith("error: ")
    assert MEND.search(done.errors[0]), done.errors
    assert _tree(place.parent) == before
    return done


@pytest.mark.parametrize(
    "odd",
    ['"x": NaN', '"x": -Infinity', '"x": 1, "x": 2', '"x": 1e999', f'"x": {"9" * 5000}', '"x": "\\ud800"', '"": 1', '"x": "\\u0000"'],
    ids=["NaN", "Infinity", "a key twice", "a large exponent", "many digits", "half a character", "a void key", "a zero"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["lines", "array"])
def test_odd_json(place, odd, kind):
    lines = [json.dumps(row)[:-1] + f", {odd}}}" for row in ROWS]
    name = "rows.jsonl" if kind == "lines" else "rows.json"
    (place / name).write_text("\n".join(lines) if kind == "lines" else f"[{', '.join(lines)}]")
    done = _either_way(place, [name, "-o", f"out.{name}", "-k", 3, "--measure", "words"])
    if done.status == 0:
        out = (place / f"out.{name}").read_text()
        assert all(lines[i] in out for i in (2, 3, 5)), "the rows are copied as they were written"
    else:
        assert name in done.errors[0]


def test_an_output_in_a_folder_that_is_not_there(lines):
    _either_way(lines, ["rows.jsonl", "-o", "new/out.jsonl", "-k", 3, "--measure", "words"])


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl.gz"])
def test_own_prompts_in_other_files(place, kind):
    """A test-prompt file of one's own is read, or refused by its name and with the mend."""
    rows = [{"id": "q1", "instruction": "Name a prime."}, {"id": "q2", "instruction": "Name another."}]
    name = f"prompts.{kind}"
    write_part(place / name, rows)
    try:
        found = data.load_prompts(name)
    except InputError as error:
        assert name in str(error) and MEND.search(str(error).partition(name)[2]), error
    else:
        assert [(each.id, each.instruction) for each in found] == [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("content", [PARQUET[:-30], LINES.encode()], ids=["cut", "lines"])
def test_own_prompts_that_are_no_parquet(place, content):
    (place / "prompts.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"prompts\.parquet") as refused:
        data.load_prompts("prompts.parquet")
    assert MEND.search(str(refused.value).partition("prompts.parquet")[2]), refused.value
