"""Files of records, and the published tables in their raw form (what test_select.py does not cover)."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbutils import data
from nbutils.core.errors import InputError
from nbutils.data import arrow_records, catalogue, json_records, line_records, records
from nbutils.data import records as data_records
from nbutils.data.record_file import Faults
from nbutils.data.rows import Form, Row


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows.json", b'[{"a": 1}]', json_records.JsonDocument),
        ("rows.json", b'\xef\xbb\xbf \n [{"a": 1}]', json_records.JsonDocument),
        ("rows", b'[{"a": 1}]', json_records.JsonDocument),
        ("rows.json", b'{"a": 1}\n', line_records.JsonLines),
        ("rows.txt", b'\n\n{"a": 1}\n', line_records.JsonLines),
        ("rows.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0), line_records.JsonLines),
    ],
)
def test_the_kind_is_told_by_the_content(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    opened = records.open_records(tmp_path / name)
    assert type(opened) is kind
    assert records.read_records(tmp_path / name) == [{"a": 1}]


def test_parquet_is_known_without_its_suffix(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "rows")
    assert records.read_records(tmp_path / "rows") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_batches_are_numbered(tmp_path, monkeypatch, suffix):
    for module in (arrow_records, line_records, json_records):
        monkeypatch.setattr(module, "BATCH_ROWS", 3)
    records, path = [{"a": i} for i in range(7)], tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(json.dumps(records) if suffix == "json" else "\n".join(map(json.dumps, records)))
    batches = list(data_records.open_records(path).batches())
    assert [first for first, _ in batches] == [0, 3, 6]
    assert [record for _, read in batches for record in read] == records


def test_batches_of_long_rows_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(line_records, "BATCH_BYTES", 1000)
    monkeypatch.setattr(arrow_records, "BATCH_BYTES", 1000)
    records = [{"a": f"{i:300}"} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        batches = list(data_records.open_records(tmp_path / name).batches())
        assert max(len(read) for _, read in batches) <= 4
        assert [record for _, read in batches for record in read] == records


@pytest.mark.parametrize("between", ["", " ", "\r", "\n\n", "\n  "])
@pytest.mark.parametrize("indent", [None, 2])
def test_objects_one_after_another(tmp_path, between, indent):
    """However they are separated; a selection keeps what stands between them."""
    rows = [{"output": "a"}, {"output": "b c", "n": [1]}, {"output": "d e f"}]
    path, out = tmp_path / "rows.json", tmp_path / "out.json"
    texts = [json.dumps(row, indent=indent) for row in rows]
    path.write_text(between.join(texts), newline="")
    assert records.read_records(path) == rows
    records.open_records(path).write_selected([1, 2], out)
    assert records.read_records(out) == rows[1:]
    assert re.sub(r"\s+", " ", out.read_text()).strip() == re.sub(r"\s+", " ", between.join(texts[1:]))


def test_what_is_valid_json_and_what_is_not(tmp_path):
    path = tmp_path / "rows.json"
    for text in ("[ ]", "[{}]", '[{"a":[1,{"b":"]"}]} ,\t{"c":"\\u00e9,"}\r\n]\n'):
        path.write_text(text)
        assert records.read_records(path) == json.loads(text)
    for text in ("[{},]", "[,{}]", "[{} {}]", "[{}]]", "[{}", "[", '[{"a":01}]', "[{'a': 1}]"):
        path.write_text(text)
        with pytest.raises(InputError, match="not valid JSON"):
            records.read_records(path)


def test_a_column_is_asked_for_by_its_own_name(tmp_path):
    name = 'od.d "name"'
    pq.write_table(pa.table({"od": ["x"], name: ["é"]}), tmp_path / "rows.parquet")
    opened = records.open_records(tmp_path / "rows.parquet")
    assert [read.texts.to_pylist() for read in opened.responses(Form("text", name), Faults())] == [["é"]]


def test_text_of_a_parquet_file_must_be_utf8(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["ab"]).buffers()[:2], pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"output": broken}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="not readable as Parquet"):
        list(records.open_records(tmp_path / "rows.parquet").responses(Form("text", "output"), Faults()))


# --- published tables in their raw form ----------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Write files into a cache as if they had been downloaded; the test gives the sources' hashes up."""
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path))
    monkeypatch.delenv("LIM_DATA_MIRROR", raising=False)

    def put(name, contents):
        entry = data.source(name).model_copy(
            update={
                "sha256": "unverified",
                "git_blob": None,
                "bytes": None,
                "members": tuple(contents) if any(contents) else (),
            }
        )
        known = {**catalogue.sources(), name: entry}
        monkeypatch.setattr(catalogue, "sources", lambda: known)
        for file_name, content in zip(entry.downloads(), contents.values(), strict=True):
            path = tmp_path / name / file_name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)

    return put


def _baseline(instructions):
    return json.dumps(
        [{"dataset": "koala", "instruction": text, "output": "x", "generator": "m"} for text in instructions]
    )


def test_alpaca_eval_annotations(cached):
    """A model that lacks the first item: its records still count under their own instruction's number."""
    cached("alpaca-eval", {"": _baseline(["one", "two", "three"])})
    record = {"output_1": "x", "generator_1": "gpt4_1106_preview", "output_2": "y", "annotator": "weighted"}
    lacking = [
        {"instruction": "three", **record, "preference": 1.25},
        {"instruction": "two", **record, "preference": 2.0},
    ]
    whole = [{"instruction": name, **record, "preference": 1.5} for name in ("one", "two", "three")]
    cached("alpaca-eval-preferences", {"model-a": json.dumps(lacking), "model-b": json.dumps(whole)})
    table = data.load_table("alpaca-eval-preferences")
    assert list(table.columns) == ["annotator", "model", "idx", "preference"]
    assert table.values.tolist() == [
        ["weighted", "model-a", 2, 1.25],
        ["weighted", "model-a", 1, 2.0],
        ["weighted", "model-b", 0, 1.5],
        ["weighted", "model-b", 1, 1.5],
        ["weighted", "model-b", 2, 1.5],
    ]


def test_alpaca_eval_outputs(cached):
    cached("alpaca-eval", {"": _baseline(["one", "two"])})
    outputs = [{"dataset": "koala", "instruction": "two", "output": "né", "generator": "m"}]
    cached("alpaca-eval-outputs", {"model-a": json.dumps(outputs)})
    assert data.load_table("alpaca-eval-outputs").to_dict("records") == [
        {"model": "model-a", "idx": 1, "output": "né", "n_chars": 2}
    ]


def test_an_instruction_that_is_not_alpaca_evals_is_refused(cached):
    cached("alpaca-eval", {"": _baseline(["one"])})
    cached("alpaca-eval-outputs", {"model-a": json.dumps([{"instruction": "else", "output": "x"}])})
    with pytest.raises(InputError, match="not one of AlpacaEval's instructions: 'else'"):
        data.load_table("alpaca-eval-outputs")


REVIEW = {
    "Answer1": "a",
    "Answer2": "b",
    "review": "8 9\nBecause",
    "scores": "[8.0, 9.0]",
    "review_reverse": "9 8",
    "scores_reverse": "[9.0, 8.0]",
}


def test_cherry_reviews(cached):
    keys = {
        "koala": "prompt",
        "lima": "conversations",
        "sinstruct": "instruction",
        "vicuna": "text",
        "wizardlm": "Instruction",
    }
    members = {
        f"{name}_wrap_reviews_gpt4": json.dumps({"Meta_Info": {}, "data": [{key: f"{name}?", **REVIEW}] * 2})
        for name, key in keys.items()
    }
    cached("cherry-reviews", members)
    assert data.load_table("cherry-reviews").to_dict("records") == [
        {"test_set": name, "judge": "gpt4", "index": number, "prompt": f"{name}?", **REVIEW}
        for name in keys
        for number in range(2)
    ]


def test_mt_bench_answers(cached):
    answer = {"question_id": 81, "answer_id": "x", "model_id": "m", "choices": [{"index": 0, "turns": ["a", "b"]}]}
    cached("mt-bench-answers", {"alpaca-13b": json.dumps(answer), "gpt-4": json.dumps(answer)})
    assert data.load_table("mt-bench-answers").to_dict("records") == [
        {"file": "alpaca-13b", **answer},
        {"file": "gpt-4", **answer},
    ]


def test_training_rows_in_their_raw_form(cached):
    cached("alpaca-52k", {"": json.dumps([{"instruction": "Add.", "input": "1 2", "output": "3"}], indent=4)})
    cached("lima-hub", {"": '{"conversations": ["q", "a"], "source": "stackexchange"}\n'})
    assert data.load_rows("alpaca-52k") == [Row(0, "alpaca-52k", "Add.", "1 2", "3")]
    assert data.load_rows("lima-hub") == [Row(0, "lima-hub", "q", "", "a", stratum="stackexchange")]


def test_a_csv_table(cached):
    cached("alpaca-eval-leaderboard", {"": ",win_rate,avg_length\nmodel-a,12.5,1800\n"})
    table = data.load_table("alpaca-eval-leaderboard")
    assert table.loc["model-a"].to_dict() == {"win_rate": 12.5, "avg_length": 1800}


def test_tables_of_the_mirror_have_the_raw_forms_columns(mirror):
    reviews = data.load_table("cherry-reviews")
    assert list(reviews.columns) == ["test_set", "judge", "index", "prompt", *REVIEW]
    assert (len(reviews), int(reviews["prompt"].isna().sum())) == (2060, 0)
    preferences = data.load_table("alpaca-eval-preferences")
    assert list(preferences.columns) == ["annotator", "model", "idx", "preference"]
    assert {"model", "idx", "output", "n_chars"} <= set(data.load_table("alpaca-eval-outputs").columns)


MIRRORED = [entry for entry in data.sources().values() if entry.mirror and entry.kind in ("table", "rows", "prompts")]


@pytest.mark.parametrize("entry", MIRRORED, ids=lambda entry: entry.name)
def test_row_counts(entry, mirror):
    load = {"table": data.load_table, "rows": data.load_rows, "prompts": data.load_prompts}[entry.kind]
    made = load(entry.name)
    # The copy at hand may hold more models than a source names.
    counted = made[made["model"].isin(entry.members)] if "model" in getattr(made, "columns", ()) else made
    assert len(counted) == entry.rows


def test_row_counts_of_the_sample():
    assert len(data.load_rows("sample")) == data.source("sample").rows >= 200
    prompts = data.load_prompts("sample")
    assert len(prompts) == data.source("sample-prompts").rows == 40
    assert all(prompt.reference for prompt in prompts)
