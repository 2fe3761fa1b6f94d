"""The k longest of a dataset in parts, part by part and merged, against one process over all of it."""

import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import lengths
from nbutils.core.errors import InputError
from nbutils.execution import cluster, partition
from nbutils.selection import files
from nbutils.selection.files import SelectionRequest

WORDS_3 = SelectionRequest(3, "words")


def _write_lines(folder, parts):
    """Parts of JSON lines; a part is a list of lengths in words, and every row is different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        rows = [{"row": f"{number}-{i}", "output": " ".join(["é"] * length)} for i, length in enumerate(part)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"part-{number:02}.jsonl").write_text(text)


def _write_parquet(folder, parts, group=3):
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


def _merged(folder, request, out):
    """OUT's and its manifest's bytes, by way of a map for every part, the last part first."""
    bests = out.parent / "bests"
    for name in reversed(partition.part_names(folder)):
        partition.select_part(folder, name, request, bests)
    partition.merge(folder, bests, request, out)
    return _bytes(out)


def _at_once(folder, request, out):
    files.select_file(str(folder), request, out)
    return _bytes(out)


def _bytes(out):
    return out.read_bytes(), out.with_name(out.name + ".manifest.json").read_text()


# --- equal to one process ------------------------------------------------------------------------------------------

parts_of_lengths = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(parts=parts_of_lengths.filter(any), data=st.data())
@pytest.mark.parametrize("write", [_write_lines, _write_parquet])
def test_any_partitioning_gives_the_bytes_of_one_process(write, parts, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "parts"
    write(folder, parts)
    request = SelectionRequest(
        data.draw(st.integers(1, sum(map(len, parts)))), data.draw(st.sampled_from(["words", "bytes"]))
    )
    suffix = ".jsonl" if write is _write_lines else ".parquet"
    merged = _merged(folder, request, folder.parent / f"merged{suffix}")
    assert merged == _at_once(folder, request, folder.parent / f"once{suffix}")


def test_ties_across_borders_go_to_the_lower_row_of_all(tmp_path):
    _write_lines(tmp_path / "parts", [[1, 5], [], [5, 7, 5], [5, 7]])
    _, manifest = _merged(tmp_path / "parts", WORDS_3, tmp_path / "out.jsonl")
    made = json.loads(manifest)
    assert (made["ids"], made["rows"], made["threshold"]) == ([1, 3, 6], 7, 5)
    assert (made["ties_at_threshold"], made["ties_taken"]) == (4, 1)
    chosen = [json.loads(line)["row"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert chosen == ["0-1", "2-1", "3-1"]


def test_several_turns_and_the_papers_measure(tmp_path):
    turns = [["a b.", "c"], ["d, e"], ["f"], ["g h i. j"], ["k", "l", "m"]]
    (tmp_path / "parts").mkdir()
    for number, some in enumerate([turns[:2], turns[2:]]):
        rows = [{"messages": [{"role": "assistant", "content": text} for text in texts]} for texts in some]
        (tmp_path / "parts" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for rule in ("sum", "mean", "last"):
        request = SelectionRequest(2, "nltk_words", rule)
        merged = _merged(tmp_path / "parts", request, tmp_path / "merged.jsonl")
        assert merged == _at_once(tmp_path / "parts", request, tmp_path / "once.jsonl")


def test_other_files_and_splits_of_the_folder(tmp_path):
    _write_lines(tmp_path / "parts", [[3, 1], [2]])
    for old, new in (("part-00", "train-a"), ("part-01", "train-b")):
        (tmp_path / "parts" / f"{old}.jsonl").rename(tmp_path / "parts" / f"{new}.jsonl")
    (tmp_path / "parts" / "test-a.jsonl").write_text('{"output": "a b c d e f"}\n')
    (tmp_path / "parts" / "README").write_text("about")
    request = SelectionRequest(2, "words")
    merged = _merged(tmp_path / "parts", request, tmp_path / "merged.jsonl")
    assert merged == _at_once(tmp_path / "parts", request, tmp_path / "once.jsonl")
    assert json.loads(merged[1])["ids"] == [0, 2]


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """A folder of two parts, mapped: the folder and its bests."""
    _write_lines(tmp_path / "parts", [[3, 1, 4], [1, 5, 9]])
    for name in partition.part_names(tmp_path / "parts"):
        partition.select_part(tmp_path / "parts", name, WORDS_3, tmp_path / "bests")
    return tmp_path / "parts", tmp_path / "bests"


def _refused(folder, bests, request=WORDS_3):
    out = folder.parent / "out.jsonl"
    with pytest.raises(InputError) as refusal:
        partition.merge(folder, bests, request, out)
    assert not out.exists()
    return str(refusal.value)


def test_a_missing_map(mapped):
    folder, bests = mapped
    (bests / "1.json").unlink()
    assert "1.json: not the k longest of part-01.jsonl as it is: run its map (again)" in _refused(folder, bests)


def test_a_part_that_has_changed(mapped):
    folder, bests = mapped
    part = folder / "part-00.jsonl"
    text = part.read_text()
    part.write_text(text.replace("é é é", "é é e"))
    os.utime(part, ns=(time.time_ns(), part.stat().st_mtime_ns + 1))
    assert "0.json: not the k longest of part-00.jsonl" in _refused(folder, bests)


def test_a_map_that_was_asked_otherwise(mapped):
    folder, bests = mapped
    assert "0.json: not the k longest" in _refused(folder, bests, SelectionRequest(2, "words"))
    assert "0.json: not the k longest" in _refused(folder, bests, SelectionRequest(3, "chars"))


@pytest.mark.parametrize(
    ("measure", "name", "value"),
    [
        ("words", "library_version", lambda measure: "python 4"),
        ("nltk_words", "library_version", lambda measure: "nltk 9"),
        ("nltk_words", "has_punkt", lambda: "otherwise"),
    ],
    ids=["library", "nltk", "punkt"],
)
def test_a_map_that_counted_with_something_else(tmp_path, monkeypatch, measure, name, value):
    folder, bests, request = tmp_path / "parts", tmp_path / "bests", SelectionRequest(1, measure)
    _write_lines(folder, [[3, 1]])
    partition.select_part(folder, "part-00.jsonl", request, bests)
    partition.merge(folder, bests, request, tmp_path / "before.jsonl")
    monkeypatch.setattr(lengths, name, value)
    assert "0.json: not the k longest of part-00.jsonl" in _refused(folder, bests, request)


def _write_tokenizer(path, words):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))


@pytest.mark.parametrize("given", ["own", "own/tokenizer.json"], ids=["folder", "file"])
def test_a_tokenizer_file_that_has_changed(tmp_path, given):
    folder, bests, request = (
        tmp_path / "parts",
        tmp_path / "bests",
        SelectionRequest(2, "tokens", tokenizer=f"{tmp_path}/{given}"),
    )
    (tmp_path / "own").mkdir()
    _write_tokenizer(tmp_path / "own" / "tokenizer.json", ["?", "é"])
    _write_lines(folder, [[3, 1], [2]])
    merged = _merged(folder, request, tmp_path / "merged.jsonl")
    assert merged == _at_once(folder, request, tmp_path / "once.jsonl")
    (tmp_path / "own" / "weights.bin").write_text("no part of the tokenizer")
    partition.merge(folder, bests, request, tmp_path / "merged.jsonl")
    _write_tokenizer(tmp_path / "own" / "tokenizer.json", ["?", "other"])
    assert "0.json: not the k longest of part-00.jsonl" in _refused(folder, bests, request)


def test_a_run_forgets_the_maps_that_count_with_something_else(mapped, monkeypatch):
    folder, bests = mapped
    out, left = folder.parent / "out.jsonl", []
    bests.rename(folder.parent / "out.jsonl.parts")
    see = lambda snakefile, bests, *more: left.append(sorted(path.name for path in bests.glob("?.json")))  # noqa: E731
    monkeypatch.setattr(cluster, "start", see)
    partition.run(folder, WORDS_3, out, cluster.Options(dry_run=True))
    monkeypatch.setattr(lengths, "library_version", lambda measure: "python 4")
    partition.run(folder, WORDS_3, out, cluster.Options(dry_run=True))
    assert left == [["0.json", "1.json"], []]


def test_a_new_part_in_front_shifts_no_rows_unseen(mapped):
    folder, bests = mapped
    (folder / "a-first.jsonl").write_text('{"output": "a"}\n')
    assert "0.json: not the k longest of a-first.jsonl" in _refused(folder, bests)


def test_rows_that_are_not_those_of_the_map(mapped):
    folder, bests = mapped
    (bests / "1.jsonl").write_text('{"output": "other"}\n')
    assert "1.jsonl: not the rows that its map wrote" in _refused(folder, bests)


def test_parts_of_different_forms(mapped):
    folder, bests = mapped
    (folder / "part-01.jsonl").write_text('{"messages": [{"role": "assistant", "content": "a b"}]}\n')
    partition.select_part(folder, "part-01.jsonl", WORDS_3, bests)
    expected = "part-00.jsonl has form alpaca, part-01.jsonl messages: parts must agree to be compared"
    assert _refused(folder, bests) == expected


def test_more_rows_than_there_are(mapped):
    folder, bests = mapped
    request = SelectionRequest(7, "words")
    for name in partition.part_names(folder):
        partition.select_part(folder, name, request, bests)
    assert "k = 7 is more than the 6 rows there are" in _refused(folder, bests, request)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["map", "parts", "part-07.jsonl", "-o", "bests"], "no part 'part-07.jsonl'"),
        (["map", "parts", "part-00.jsonl", "-k", "0", "-o", "bests"], "k = 0"),
        (["map", "parts", "part-00.jsonl", "--measure", "inches", "-o", "bests"], "unknown measure 'inches'"),
        (["map", "parts/part-00.jsonl", "part-00.jsonl", "-o", "bests"], "not a folder of parts"),
        (["run", "parts", "-k", "0", "-o", "out.jsonl"], "error: parts: k = 0: at least one row must be asked for"),
        (["merge", "parts", "bests", "-o", "parts/out.jsonl"], "a part of the input folder"),
        (["merge", "parts", "bests", "-o", "out.parquet"], "let its name end in"),
        (["merge", "parts", "nowhere", "-o", "out.jsonl"], "run its map"),
        (["other"], "invalid choice"),
    ],
)
def test_bad_commands(mapped, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(mapped[0].parent)
    monkeypatch.setattr(cluster, "start", lambda *given: pytest.fail("no job may start"))
    with pytest.raises(SystemExit) as ended:
        partition.main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_faulty_row_is_named_by_its_part(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text('{"output": "a"}\n{"output": 3}\n')
    with pytest.raises(InputError, match=r"a\.jsonl: row 1: the response field 'output' is int"):
        partition.select_part(tmp_path / "parts", "a.jsonl", WORDS_3, tmp_path / "bests")
    assert not (tmp_path / "bests" / "0.json").exists()


# --- the commands, and the engine ----------------------------------------------------------------------------------


def test_the_commands(mapped, monkeypatch, capsys):
    monkeypatch.chdir(mapped[0].parent)
    for name in partition.part_names("parts"):
        partition.main(["map", "parts", name, "-k", "2", "--measure", "words", "-o", "bests"])
    partition.main(["merge", "parts", "bests", "-k", "2", "--measure", "words", "-o", "out.jsonl"])
    assert capsys.readouterr().out.splitlines() == [
        "part-00.jsonl: 2 of 3 rows kept",
        "part-01.jsonl: 2 of 3 rows kept",
        "out.jsonl: 2 of 6 rows, words >= 5",
    ]


@pytest.mark.thorough
@pytest.mark.slow
def test_run_by_snakemake_and_again(tmp_path):
    pytest.importorskip("snakemake", reason="needs requirements-batch.txt")
    from engine_runs import run_command

    rows = tmp_path / "the parts"
    _write_parquet(rows, [[3, 1, 4], [1, 5], [9, 2, 6]])
    arguments = ["execution.partition", "run", "the parts", "-k", "3", "--measure", "words", "-o", "out put.parquet"]
    first = run_command(arguments, tmp_path)
    assert first.returncode == 0, first.stderr
    assert _bytes(tmp_path / "out put.parquet") == _at_once(rows, WORDS_3, tmp_path / "once.parquet")
    assert _count_maps(first) == 3
    _write_parquet(tmp_path / "other", [[], [50]])
    (tmp_path / "other" / "part-01.parquet").replace(rows / "part-01.parquet")
    again = run_command(arguments, tmp_path)
    assert (again.returncode, _count_maps(again)) == (0, 1), again.stderr
    assert _bytes(tmp_path / "out put.parquet") == _at_once(rows, WORDS_3, tmp_path / "once.parquet")


def _count_maps(done):
    return done.stderr.count("\nrule longest:") + done.stderr.count("\nlocalrule longest:")
