"""Specimens: known rows written in the forms that people have, and what a selection of them must hold.

A builder writes a specimen into a folder and gives a `Specimen`: how it is read by `python -m nbutils.select`, and what
OUT must be for any ids. Nothing here asks the package how it reads a file.
"""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from nbutils import select

TEXTS = [
    "one two three",
    "",
    'She said "yes, twice", and\nleft.',
    "ein zwei drei vier fünf",
    "007",
    "a b c d e",
    "supercalifragilistic-antidisestablishmentarianism",
    "x, y; z\t'w'",
    "five words, in this one",
    "NA",
]
"""Words 3 0 6 5 1 5 1 4 5 1: the third of the three longest is the first of three ties."""

COUNTS: dict[str, Callable[[str], int]] = {"words": lambda text: len(text.split()), "chars": len}
DECOY = "decoy " * 60
"""Longer than any response: where it is counted, its row is taken."""


class Specimen(NamedTuple):
    """Arguments that name the input, the name of OUT, what OUT holds once read, and what it must hold for some ids."""

    sources: list[str]
    out: str
    read: Callable[[Path], Any]
    expected: Callable[[list[int]], Any]
    options: Sequence[str] = ()


class Printed(NamedTuple):
    """What a command did: its exit status, its output, and the lines on stderr."""

    status: int
    output: str
    errors: list[str]


def run(*arguments: object) -> Printed:
    """`python -m nbutils.select` in this process."""
    output, errors = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            select.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
    return Printed(status, output.getvalue(), errors.getvalue().splitlines())


def longest(lengths: Sequence[float], k: int) -> list[int]:
    """The k longest rows by sorting all of them, ties to the lower number, in ascending order."""
    return sorted(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))[:k])


def records(texts: Sequence[str] = TEXTS) -> list[dict[str, Any]]:
    """Rows in Alpaca form with fields of every type that JSON has."""
    return [
        {
            "instruction": f"task {i}",
            "input": "",
            "output": text,
            "extra": {"n": [i, 0.1, None], "tag": "<é/>", "deep": {"a": []}},
            "id": 2**53 + i,
            "score": float(i),
            "good": i % 2 == 0,
            "none": None,
        }
        for i, text in enumerate(texts)
    ]


def flat(texts: Sequence[str] = TEXTS) -> list[dict[str, str]]:
    """Rows of text alone, some of which looks like numbers, dates, truth and nothing."""
    looks = ["1.10", "007", "null", "true", "2024-01-01", "", "1e5", "NaN", "0x1F", "-0"]
    return [
        {"instruction": f"task {i}, please", "output": text, "code": looks[i % 10], 'a "key"': f"{i:03}"}
        for i, text in enumerate(texts)
    ]


# --- packing -------------------------------------------------------------------------------------------------------


def pack(name: str, content: bytes) -> bytes:
    """Content packed as the name's ending says; as it is for other endings."""
    suffix = Path(name).suffix
    if suffix == ".zst":
        packed = pa.BufferOutputStream()
        with pa.CompressedOutputStream(packed, "zstd") as stream:
            stream.write(content)
        return packed.getvalue().to_pybytes()
    if suffix == ".zip":
        return zipped({Path(name).stem: content})
    ways = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    return ways[suffix](content) if suffix in ways else content


def unpack(path: Path) -> bytes:
    """What `pack` packed."""
    content = path.read_bytes()
    if path.suffix == ".zst":
        return pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            (member,) = archive.namelist()
            return archive.read(member)
    ways = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
    return ways[path.suffix](content) if path.suffix in ways else content


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# --- text ----------------------------------------------------------------------------------------------------------


def exact(text: str) -> Any:
    """A JSON document in which the order of keys and the spelling of numbers count."""
    return json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs), parse_float=str, parse_int=_spelled)


def _spelled(digits: str) -> tuple[str, str]:
    return ("number", digits)


def plain_text(path: Path) -> str:
    """The text of a file, unpacked, without its byte order mark; a line's end is one line feed."""
    return unpack(path).decode("utf-8-sig").replace("\r\n", "\n")


def spell(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each row as JSON of one line, spelled in ways that differ from row to row."""
    separators = [(", ", ": "), (",", ":"), (" , ", " :  ")]
    return [json.dumps(row, ensure_ascii=i % 2 == 0, separators=separators[i % 3]) for i, row in enumerate(rows)]


def json_lines(folder: Path, rows=None, name="rows.jsonl", ending="\n", start="", blank="", last=True) -> Specimen:
    """JSON lines. blank: what stands between the lines besides; last: whether the last line is ended."""
    lines = spell(records() if rows is None else rows)
    text = start + (ending + blank).join(lines) + (ending if last else "")
    (folder / name).write_bytes(pack(name, text.encode()))
    return Specimen([str(folder / name)], name, plain_text, lambda ids: "".join(lines[i] + "\n" for i in ids))


def json_array(folder: Path, rows=None, name="rows.json", indent=None, ending="\n", start="") -> Specimen:
    """A JSON file that is one list, laid out by the standard library."""
    rows = records() if rows is None else rows

    def lay_out(some):
        return json.dumps(some, indent=indent, ensure_ascii=False)

    (folder / name).write_bytes(pack(name, (start + lay_out(rows).replace("\n", ending)).encode()))
    before = start.removeprefix("\ufeff")
    return Specimen([str(folder / name)], name, plain_text, lambda ids: before + lay_out([rows[i] for i in ids]))


def json_objects(folder: Path, rows=None, name="rows.json", indent=2, between="\n") -> Specimen:
    """Indented JSON objects one after another, as `jq .` prints them."""
    rows = records() if rows is None else rows
    objects = [json.dumps(row, indent=indent, ensure_ascii=False) for row in rows]
    (folder / name).write_text(between.join(objects) + "\n", encoding="utf-8")
    return Specimen([str(folder / name)], name, _objects_of, lambda ids: [objects[i] for i in ids])


def _objects_of(path: Path) -> list[str]:
    """The text of each JSON value of a file that holds one after another."""
    text, found = plain_text(path).strip(), []
    while text:
        _, end = json.JSONDecoder().raw_decode(text)
        found.append(text[:end])
        text = text[end:].strip()
    return found


def json_wrapped(folder: Path, rows=None, key="data", before=None, after=None, indent=None, name="rows.json"):
    """A list of rows under a key, with other values beside it."""
    rows = records() if rows is None else rows

    def wrap(some):
        return json.dumps({**(before or {}), key: some, **(after or {})}, indent=indent)

    (folder / name).write_bytes(pack(name, wrap(rows).encode()))

    def read(path):
        return exact(plain_text(path))

    return Specimen([str(folder / name)], name, read, lambda ids: exact(wrap([rows[i] for i in ids])))


def delimited(
    folder: Path, rows=None, name="rows.csv", comma=",", ending="\n", start="", quoting=csv.QUOTE_MINIMAL, last=True
) -> Specimen:
    """CSV or TSV as the standard library writes it: each record's text is known."""
    rows = flat() if rows is None else rows
    written = []
    for record in [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter=comma, lineterminator=ending, quoting=quoting).writerow(record)
        written.append(buffer.getvalue())
    header, *lines = written
    whole = start + "".join(written)
    (folder / name).write_bytes(pack(name, (whole if last else whole.removesuffix(ending)).encode()))

    def expected(ids):
        return (header + "".join(lines[i] for i in ids)).replace("\r\n", "\n")

    return Specimen([str(folder / name)], name, plain_text, expected)


# --- Arrow ---------------------------------------------------------------------------------------------------------


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as Arrow sees them, with metadata in the schema."""
    return pa.Table.from_pylist(list(rows)).replace_schema_metadata({"about": "specimens"})


def write_table(table: pa.Table, path: Path, kind: str, batch: int = 3, **options: Any) -> None:
    """Write a table as `parquet`, Arrow `file` or Arrow `stream`, a few rows in a batch."""
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=batch, **options)
        return
    make = ipc.new_file if kind == "file" else ipc.new_stream
    with make(path, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch)


def read_table(path: Path) -> tuple[str, pa.Table]:
    """A table and the kind of file that held it."""
    content = unpack(path)
    if content.startswith(b"PAR1"):
        return "parquet", pq.ParquetFile(pa.BufferReader(content)).read()
    if content.startswith(b"ARROW1"):
        return "file", ipc.open_file(content).read_all()
    return "stream", ipc.open_stream(content).read_all()


def _known(kind: str, table: pa.Table) -> tuple[str, dict[str, str], dict[bytes, bytes], list[Any]]:
    """Kind, types, metadata and values. By value: Arrow itself compares and takes views nowhere."""
    types = {field.name: str(field.type) for field in table.schema}
    return kind, types, table.schema.metadata or {}, table.to_pylist()


def arrow(folder: Path, table=None, name="rows.parquet", kind="parquet", **options: Any) -> Specimen:
    """A table in one file."""
    table = table_of(records()) if table is None else table
    write_table(table, folder / name, kind, **options)
    kept, types, metadata, rows = _known(*read_table(folder / name))

    def expected(ids):
        return (kept, types, metadata, [rows[i] for i in ids])

    return Specimen([str(folder / name)], name, lambda path: _known(*read_table(path)), expected)


# --- folders -------------------------------------------------------------------------------------------------------


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows in the form that a file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".parquet", ".arrow"):
        write_table(table_of(rows), path, {".parquet": "parquet", ".arrow": "stream"}[path.suffix])
    elif ".csv" in path.suffixes:
        delimited(path.parent, rows, path.name)
    elif ".json" in path.suffixes:
        json_array(path.parent, rows, path.name)
    else:
        json_lines(path.parent, rows, path.name)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an output in any of the forms of `write_part`."""
    if path.suffix in (".parquet", ".arrow"):
        return read_table(path)[1].to_pylist()
    text = unpack(path).decode("utf-8-sig")
    if ".csv" in path.suffixes:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if ".json" in path.suffixes and text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line]


def layout(folder: Path, wanted: Sequence[str], others: Sequence[str] = (), more=None, options=(), rows=None):
    """A folder whose wanted files hold the rows in this order, and whose other data files hold longer ones.

    more: further files, by name, as text.
    """
    place = folder / "dataset"
    form = "".join(Path(wanted[0]).suffixes[-2:]) if Path(wanted[0]).suffix in PACKED else Path(wanted[0]).suffix
    rows = (flat() if ".csv" in form else records()) if rows is None else rows
    size = -(-len(rows) // len(wanted))
    for number, name in enumerate(wanted):
        write_part(place / name, rows[number * size : (number + 1) * size])
    for name in others:
        write_part(place / name, [{**row, "output": DECOY} for row in rows[:3]])
    for name, text in (more or {}).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    return Specimen([str(place)], f"out{form}", read_rows, lambda ids: [rows[i] for i in ids], options)


PACKED = (".gz", ".zst", ".xz", ".bz2", ".zip")


def card(*data_files: tuple[str, str | list[str]], name: str = "default") -> str:
    """A dataset's README.md whose `configs` says which files are which split."""
    lines = ["---", "license: mit", "configs:", f"- config_name: {name}", "  data_files:"]
    for split, paths in data_files:
        lines.append(f"  - split: {split}")
        lines += [f"    path: {json.dumps(paths)}"]
    return "\n".join([*lines, "---", "", "# A dataset", ""])


def saved_to_disk(folder: Path, rows=None, shards=2) -> Specimen:
    """A folder that `datasets` saved."""
    import datasets

    rows = [{key: row[key] for key in ("instruction", "output", "extra", "id")} for row in records()]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved", num_shards=shards)
    return Specimen([str(folder / "saved")], "out.arrow", read_rows, lambda ids: [rows[i] for i in ids])


def saved_splits(folder: Path, split="train") -> Specimen:
    """A DatasetDict that `datasets` saved."""
    import datasets

    rows = [{"instruction": row["instruction"], "output": row["output"]} for row in records()]
    decoys = [{**row, "output": DECOY} for row in rows]
    other = "test" if split == "train" else "train"
    made = {split: datasets.Dataset.from_list(rows), other: datasets.Dataset.from_list(decoys)}
    datasets.DatasetDict(made).save_to_disk(folder / "saved")

    def expected(ids):
        return [rows[i] for i in ids]

    return Specimen([str(folder / "saved")], "out.arrow", read_rows, expected, ["--split", split])
