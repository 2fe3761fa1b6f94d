"""Datasets in parts of rows that are as long as a test says, and what a selection wrote."""

import json

import pyarrow as pa
import pyarrow.parquet as pq


def write_lines(folder, parts):
    """Parts of JSON lines; a part is a list of lengths in words, and every row is different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        rows = [{"row": f"{number}-{i}", "output": " ".join(["é"] * length)} for i, length in enumerate(part)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"part-{number:02}.jsonl").write_text(text)


def write_parquet(folder, parts, group=3):
    """The same as Parquet with a dictionary column and row groups of a few rows."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([("row", pa.string()), ("output", pa.large_string()), ("kind", kind)], metadata={"a": "b"})
    for number, part in enumerate(parts):
        columns = {
            "row": [f"{number}-{i}" for i in range(len(part))],
            "output": [" ".join(["é"] * length) for length in part],
            "kind": [f"kind {length % 3}" for length in part],
        }
        table = pa.table(columns, schema=schema)
        pq.write_table(table, folder / f"part-{number:02}.parquet", row_group_size=group)


def selected(out):
    """The bytes of a selection and the text of its manifest."""
    return out.read_bytes(), out.with_name(out.name + ".manifest.json").read_text()
