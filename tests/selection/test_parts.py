"""The k longest of a dataset in parts, part by part and once more, against one selection from all of them."""

import gzip
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_parts import selected, write_lines, write_parquet

from nbutils import lengths, select
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.selection import counting, parts
from nbutils.selection.files import SelectionRequest
from nbutils.selection.parts import select_files

WORDS_3 = SelectionRequest(3, "words")


def _parts_of(folder):
    return [str(path) for path in sorted(folder.iterdir())]


def _select_parts(folder, request, bests, suffix=None):
    """The k longest of every part, the last part first; the outputs in the parts' order."""
    found = _parts_of(folder)
    outs = [bests / f"{number}{suffix or Path(part).suffix}" for number, part in enumerate(found)]
    for part, out in reversed(list(zip(found, outs, strict=True))):
        select_files([part], request, out, is_part=True)
    return list(map(str, outs))


def _joined(folder, request, out, suffix=None):
    """OUT's and its manifest's bytes, by way of a selection from every part."""
    select_files(_select_parts(folder, request, out.parent / "bests", suffix), request, out)
    return selected(out)


def _at_once(folder, request, out):
    select_files(_parts_of(folder), request, out)
    return selected(out)


# --- equal to one process ------------------------------------------------------------------------------------------

parts_of_lengths = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(lists=parts_of_lengths.filter(any), data=st.data())
@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_any_partitioning_gives_the_bytes_of_one_selection(write, lists, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "parts"
    write(folder, lists)
    measure = data.draw(st.sampled_from(["words", "bytes", "nltk_words"]))
    request = SelectionRequest(data.draw(st.integers(1, sum(map(len, lists)))), measure)
    suffix = ".jsonl" if write is write_lines else ".parquet"
    once = _at_once(folder, request, folder.parent / f"once{suffix}")
    assert _joined(folder, request, folder.parent / f"joined{suffix}") == once


@settings(max_examples=20, deadline=None)
@given(lists=parts_of_lengths.filter(any), data=st.data())
def test_packed_parts_more_rows_of_each_and_a_folder_of_them(lists, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "parts"
    write_lines(folder, lists)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    k = data.draw(st.integers(1, sum(map(len, lists))))
    request, more = SelectionRequest(k, "words"), SelectionRequest(k + data.draw(st.integers(0, 9)), "words")
    once = _at_once(folder, request, folder.parent / "once.jsonl")
    _select_parts(folder, more, folder.parent / "bests", ".jsonl.gz")
    select_files([str(folder.parent / "bests")], request, folder.parent / "joined.jsonl")
    assert selected(folder.parent / "joined.jsonl") == once


@settings(max_examples=20, deadline=None)
@given(lists=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=8), min_size=4, max_size=4))
def test_parts_of_parts(lists, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "parts"
    write_parquet(folder, lists)
    once = _at_once(folder, WORDS_3, folder.parent / "once.parquet")
    bests = _select_parts(folder, WORDS_3, folder.parent / "bests")
    pairs = [folder.parent / "left.parquet", folder.parent / "right.parquet"]
    for some, out in zip((bests[:2], bests[2:]), pairs, strict=True):
        select_files(some, WORDS_3, out, is_part=True)
    select_files(list(map(str, pairs)), WORDS_3, folder.parent / "joined.parquet")
    assert selected(folder.parent / "joined.parquet") == once


@settings(max_examples=20, deadline=None)
@given(lists=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=8), min_size=2, max_size=4))
@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_plain_selections_can_be_joined_too(write, lists, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "parts"
    write(folder, lists)
    found = _parts_of(folder)
    suffix = Path(found[0]).suffix
    outs = [str(folder.parent / f"{number}{suffix}") for number in range(len(found))]
    for part, out in zip(found, map(folder.parent.joinpath, outs), strict=True):
        assert "part" not in select_files([part], WORDS_3, out)
    select_files(outs, WORDS_3, folder.parent / f"joined{suffix}")
    assert selected(folder.parent / f"joined{suffix}") == _at_once(folder, WORDS_3, folder.parent / f"once{suffix}")


def test_ties_across_borders_go_to_the_lower_row_of_all(tmp_path):
    write_lines(tmp_path / "parts", [[1, 5], [], [5, 7, 5], [5, 7]])
    _, manifest = _joined(tmp_path / "parts", WORDS_3, tmp_path / "out.jsonl")
    made = json.loads(manifest)
    assert (made["ids"], made["rows"], made["threshold"]) == ([1, 3, 6], 7, 5)
    assert (made["ties_at_threshold"], made["ties_taken"]) == (4, 1)
    assert made["source"] == [f"part-0{number}.jsonl" for number in range(4)]
    assert made["source_sha256"] == [disk.sha256_file(path) for path in sorted((tmp_path / "parts").iterdir())]
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
        joined = _joined(tmp_path / "parts", request, tmp_path / "joined.jsonl")
        assert joined == _at_once(tmp_path / "parts", request, tmp_path / "once.jsonl")


def test_a_folder_has_the_rows_of_its_parts_in_order(tmp_path):
    write_lines(tmp_path / "parts", [[3, 1], [2], []])
    rows, manifest = _at_once(tmp_path / "parts", WORDS_3, tmp_path / "once.jsonl")
    select_files([str(tmp_path / "parts")], WORDS_3, tmp_path / "folder.jsonl")
    of_folder = json.loads(selected(tmp_path / "folder.jsonl")[1])
    assert selected(tmp_path / "folder.jsonl")[0] == rows
    other = {name for name, value in json.loads(manifest).items() if of_folder[name] != value}
    assert other == {"source", "source_sha256"}
    assert of_folder["source"] == "parts"


def test_other_files_and_splits_of_a_folder(tmp_path):
    write_lines(tmp_path / "parts", [[3, 1], [2]])
    for old, new in (("part-00", "train-a"), ("part-01", "train-b")):
        (tmp_path / "parts" / f"{old}.jsonl").rename(tmp_path / "parts" / f"{new}.jsonl")
    (tmp_path / "parts" / "test-a.jsonl").write_text('{"output": "a b c d e f"}\n')
    (tmp_path / "parts" / "README").write_text("about")
    request = SelectionRequest(2, "words")
    select_files([str(tmp_path / "parts")], request, tmp_path / "part.jsonl", is_part=True)
    select_files([str(tmp_path / "parts")], request, tmp_path / "once.jsonl")
    select_files([str(tmp_path / "part.jsonl")], request, tmp_path / "joined.jsonl")
    assert selected(tmp_path / "joined.jsonl") == selected(tmp_path / "once.jsonl")
    assert json.loads(selected(tmp_path / "joined.jsonl")[1])["ids"] == [0, 2]


def test_what_the_manifest_of_a_part_says_besides(tmp_path):
    write_lines(tmp_path / "parts", [[3, 1]])
    made = select_files([str(tmp_path / "parts" / "part-00.jsonl")], WORDS_3, tmp_path / "out.jsonl", is_part=True)
    assert (made["rows"], made["k"], made["ids"], made["threshold"]) == (2, 3, [0, 1], 1)
    assert made["part"] == {
        "form": "text in 'output'",
        "lengths": [3, 1],
        "out_sha256": disk.sha256_file(tmp_path / "out.jsonl"),
        "tokenizer_sha256": None,
    }
    (tmp_path / "empty.jsonl").write_text("")
    made = select_files([str(tmp_path / "empty.jsonl")], WORDS_3, tmp_path / "out.jsonl", is_part=True)
    assert (made["rows"], made["ids"], made["threshold"]) == (0, [], None)


# --- several processes ---------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("measure", ["nltk_words", "tokens"])
def test_two_processes_count_as_one(tmp_path, monkeypatch, measure):
    monkeypatch.setattr(counting, "WORTH_STARTING", 0)
    write_lines(tmp_path / "parts", [[n * 7919 % 61 for n in range(900)], [n * 31 % 50 for n in range(500)]])
    _write_tokenizer(tmp_path / "tokenizer.json", ["?", "é"])
    tokenizer = str(tmp_path / "tokenizer.json") if measure == "tokens" else None
    request = SelectionRequest(400, measure, tokenizer=tokenizer)
    select_files(_parts_of(tmp_path / "parts"), request, tmp_path / "two.jsonl", processes=2)
    assert selected(tmp_path / "two.jsonl") == _at_once(tmp_path / "parts", request, tmp_path / "one.jsonl")


def test_an_error_of_another_process_is_worded_as_here(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "WORTH_STARTING", 0)
    _write_tokenizer(tmp_path / "tokenizer.json", ["?", "é"])
    rows = [{"output": "é"}] * 99 + [{"output": "\ud800"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = SelectionRequest(1, "tokens", tokenizer=str(tmp_path / "tokenizer.json"))
    said = []
    for processes in (1, 2):
        with pytest.raises(InputError) as refusal:
            select_files([str(tmp_path / "rows.jsonl")], request, tmp_path / "out.jsonl", processes)
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert "rows.jsonl: row 99: holds a lone surrogate" in said[0]


def test_a_process_that_is_ended_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "WORTH_STARTING", 0)
    monkeypatch.setattr(counting, "_count_in_worker", _end_process)
    write_lines(tmp_path / "parts", [list(range(100))])
    with pytest.raises(InputError, match=r"a counting process was ended from outside: give fewer --processes"):
        select_files(_parts_of(tmp_path / "parts"), SelectionRequest(1, "nltk_words"), tmp_path / "out.jsonl", 2)


def _end_process(texts):
    os._exit(9)


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_parts(tmp_path):
    """A folder of two parts, and what was selected from each."""
    write_lines(tmp_path / "parts", [[3, 1, 4, 0], [1, 5, 9, 0]])
    return tmp_path / "parts", _select_parts(tmp_path / "parts", WORDS_3, tmp_path / "bests")


def _refused(bests, request=WORDS_3):
    out = Path(bests[0]).parents[1] / "out.jsonl"
    with pytest.raises(InputError) as refusal:
        select_files(bests, request, out)
    assert not out.exists()
    return str(refusal.value)


def test_a_part_without_its_manifest(two_parts):
    _, bests = two_parts
    Path(bests[1] + ".manifest.json").unlink()
    assert "1.jsonl: no manifest of a selection beside it, as other inputs have: select from it" in _refused(bests)


def test_rows_that_have_changed_since(two_parts):
    _, bests = two_parts
    with open(bests[1], "a") as file:
        file.write('{"output": "other"}\n')
    assert "1.jsonl: not the rows that its manifest was written with: run select on part-01.jsonl again" in _refused(
        bests
    )


def test_rows_of_a_plain_selection_that_have_changed_since(two_parts):
    folder, bests = two_parts
    for part, out in zip(_parts_of(folder), bests, strict=True):
        select_files([part], WORDS_3, Path(out))
    text = Path(bests[0]).read_text()
    Path(bests[0]).write_text(text.replace("é é é é", "é é é").replace("é é é", "é"))
    assert "0.jsonl: not the rows that its manifest was written with" in _refused(bests)


def test_parts_that_were_asked_otherwise(two_parts):
    _, bests = two_parts
    for request, what in [
        (SelectionRequest(3, "chars"), "measure"),
        (SelectionRequest(3, "words", "mean"), "turns"),
        (SelectionRequest(3, "words", field="output"), "field"),
        (SelectionRequest(3, "words", split="test"), "split"),
    ]:
        said = f"0.jsonl: its manifest has another {what} than is asked for: run select on part-00.jsonl again, or move"
        assert said in _refused(bests, request)


def test_parts_of_too_few_rows(two_parts):
    folder, bests = two_parts
    expected = "0.jsonl: only the 3 longest of its 4 rows: run select on part-00.jsonl again, with -k 4"
    assert expected in _refused(bests, SelectionRequest(4, "words"))
    for part, out in zip(_parts_of(folder), bests, strict=True):
        select_files([part], SelectionRequest(4, "words"), Path(out), is_part=True)
    joined = folder.parent / "joined.jsonl"
    select_files(bests, SelectionRequest(6, "words"), joined)
    assert selected(joined) == _at_once(folder, SelectionRequest(6, "words"), folder.parent / "once.jsonl")


@pytest.mark.parametrize(
    ("measure", "name", "value", "what"),
    [
        ("words", "library_version", lambda measure: "python 4", "library"),
        ("nltk_words", "library_version", lambda measure: "nltk 9", "library"),
        ("nltk_words", "has_punkt", lambda: "otherwise", "exact"),
    ],
    ids=["library", "nltk", "punkt"],
)
def test_a_part_that_was_counted_with_something_else(tmp_path, monkeypatch, measure, name, value, what):
    request = SelectionRequest(1, measure)
    write_lines(tmp_path / "parts", [[3, 1]])
    bests = _select_parts(tmp_path / "parts", request, tmp_path / "bests")
    select_files(bests, request, tmp_path / "before.jsonl")
    monkeypatch.setattr(lengths, name, value)
    assert f"0.jsonl: its manifest has another {what} than is asked for" in _refused(bests, request)


def _write_tokenizer(path, words):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))


@pytest.mark.parametrize("given", ["own", "own/tokenizer.json"], ids=["folder", "file"])
def test_a_tokenizer_file_that_has_changed(tmp_path, given):
    folder, request = tmp_path / "parts", SelectionRequest(2, "tokens", tokenizer=f"{tmp_path}/{given}")
    (tmp_path / "own").mkdir()
    _write_tokenizer(tmp_path / "own" / "tokenizer.json", ["?", "é"])
    write_lines(folder, [[3, 1], [2]])
    joined = _joined(folder, request, tmp_path / "joined.jsonl")
    assert joined == _at_once(folder, request, tmp_path / "once.jsonl")
    (tmp_path / "own" / "weights.bin").write_text("no part of the tokenizer")
    bests = [str(tmp_path / "bests" / f"{number}.jsonl") for number in range(2)]
    select_files(bests, request, tmp_path / "joined.jsonl")
    (tmp_path / "joined.jsonl").rename(tmp_path / "before.jsonl")
    _write_tokenizer(tmp_path / "own" / "tokenizer.json", ["?", "other"])
    assert "0.jsonl: its manifest has another tokenizer than is asked for" in _refused(bests, request)


@pytest.mark.parametrize("once", [True, False])
def test_parts_of_different_forms(two_parts, once):
    folder, bests = two_parts
    (folder / "part-01.jsonl").write_text('{"messages": [{"role": "assistant", "content": "a b"}]}\n')
    select_files(_parts_of(folder)[1:], WORDS_3, Path(bests[1]), is_part=True)
    said = _refused(_parts_of(folder) if once else bests)
    first, second = _parts_of(folder) if once else bests
    as_text, as_turns = "text in 'output'", "turns in 'messages'"
    assert said == f"{first} has its responses as {as_text}, {second} as {as_turns}: inputs must agree to be compared"


def test_more_rows_than_there_are(two_parts):
    folder, bests = two_parts
    request = SelectionRequest(9, "words")
    for part, out in zip(_parts_of(folder), bests, strict=True):
        select_files([part], request, Path(out), is_part=True)
    assert "0.jsonl and 1 more: k = 9 is more than the 8 rows there are" in _refused(bests, request)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["parts/part-07.jsonl", "parts/part-00.jsonl", "-o", "out.jsonl"], "parts/part-07.jsonl: no such file"),
        (["parts/*.parquet", "-o", "out.jsonl"], "parts/*.parquet: no such file"),
        (["parts/*", "parts/part-01.jsonl", "-o", "out.jsonl"], "parts/part-01.jsonl: given twice"),
        (["parts/*", "-k", "0", "-o", "out.jsonl"], "parts/part-00.jsonl and 1 more: k = 0: at least one row"),
        (["parts/*", "--measure", "inches", "-o", "out.jsonl"], "unknown measure 'inches'"),
        (["parts/*", "-o", "parts/part-01.jsonl"], "the output would replace the input"),
        (["parts", "more.jsonl", "-o", "parts/out.jsonl"], "a part of the input folder"),
        (["parts/*", "-o", "out.parquet"], "let its name end in"),
        (["parts/*", "array.json", "-o", "out.jsonl"], "array.json: several inputs must be of one kind"),
        (["array.json", "parts/*", "-o", "out.json"], "parts/part-00.jsonl: several inputs must be of one kind"),
        (["parts/*", "rows.parquet", "-o", "out.jsonl"], "rows.parquet: several inputs must be of one kind"),
        (["array.json", "--part", "-o", "out.json"], "array.json: a part must be JSON lines or Parquet"),
        (["parts/*", "nobody/nothing", "-o", "out.jsonl"], "nobody/nothing: no such file"),
        (["parts/*", "--processes", "0", "-o", "out.jsonl"], "--processes 0: at least one must count"),
    ],
)
def test_bad_commands(two_parts, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(two_parts[0].parent)
    Path("array.json").write_text('[{"output": "a"}]')
    Path("more.jsonl").write_text('{"output": "a"}\n')
    pq.write_table(pa.table({"output": ["a"]}), "rows.parquet")
    measured = [] if "--measure" in arguments else ["--measure", "words"]
    with pytest.raises(SystemExit) as ended:
        select.main(["-k", "1", *arguments, *measured])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
    assert not list(Path().glob("out.*"))


@pytest.mark.parametrize("arguments", [["a.jsonl", "--part"], ["b.jsonl", "a.jsonl"]], ids=["part", "several"])
def test_a_faulty_row_is_named_by_its_part(tmp_path, arguments):
    (tmp_path / "a.jsonl").write_text('{"output": "a"}\n{"output": 3}\n')
    (tmp_path / "b.jsonl").write_text('{"output": "a"}\n')
    given = [str(tmp_path / name) for name in arguments if name != "--part"]
    with pytest.raises(InputError, match=r"a\.jsonl: row 1: the response field 'output' is int"):
        select_files(given, WORDS_3, tmp_path / "out.jsonl", is_part="--part" in arguments)
    assert not (tmp_path / "out.jsonl").exists()


# --- the commands, and the engine ----------------------------------------------------------------------------------


def test_the_commands(tmp_path, monkeypatch, capsys):
    write_lines(tmp_path / "parts", [[3, 1, 4, 0], [1, 5, 9, 0]])
    monkeypatch.chdir(tmp_path)
    asked = ["-k", "2", "--measure", "words", "-o"]
    for name in ("part-00", "part-01"):
        select.main([f"parts/{name}.jsonl", "--part", *asked, f"bests/{name}.jsonl"])
    select.main(["bests/*", *asked, "out.jsonl"])
    assert capsys.readouterr().out.splitlines() == [
        "bests/part-00.jsonl: 2 of 4 rows of a part",
        "bests/part-01.jsonl: 2 of 4 rows of a part",
        "out.jsonl: 2 of 8 rows, words >= 5; 1 of 1 ties at the threshold taken, lower row numbers first",
    ]
    select.main(["parts/*", *asked, "once.jsonl"])
    assert selected(tmp_path / "out.jsonl") == selected(tmp_path / "once.jsonl")


def test_what_is_fresh(two_parts, monkeypatch):
    folder, bests = two_parts
    part, out = folder / "part-00.jsonl", Path(bests[0])
    assert parts.is_fresh(part, out, WORDS_3)
    assert not parts.is_fresh(folder / "part-01.jsonl", out, WORDS_3)
    assert not parts.is_fresh(part, out, SelectionRequest(2, "words"))
    assert not parts.is_fresh(part, out, SelectionRequest(3, "chars"))
    with monkeypatch.context() as other:
        other.setattr(lengths, "library_version", lambda measure: "python 4")
        assert not parts.is_fresh(part, out, WORDS_3)
    kept, text = out.read_bytes(), part.read_text()
    out.write_bytes(kept + b"\n")
    assert not parts.is_fresh(part, out, WORDS_3)
    out.write_bytes(kept)
    part.write_text(text.replace("é é é", "é é e"))
    os.utime(part, ns=(time.time_ns(), 0))
    assert not parts.is_fresh(part, out, WORDS_3)
    out.unlink()
    assert not parts.is_fresh(part, out, WORDS_3)
