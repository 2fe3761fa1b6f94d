"""`python -m nbutils.judge --compare`: what it reads, prints, writes and refuses."""

import json

import pytest

from nbutils import judge
from nbutils.analysis import intervals
from nbutils.core import disk, tables
from nbutils.core.errors import InputError
from nbutils.judging import human, records
from nbutils.judging.pairs import Pair

SAID = {"a": 1.0, "b": 0.0, "=": 0.5, "?": None}


def write(path, says, **fields):
    """A judgment file: a letter for each prompt, the same in both orders."""
    head = {"judge": path.stem, "arm": "mine", "baseline": "theirs", "test_set": "set", "len_arm": 3, "len_baseline": 3}
    rows = [
        head | {"id": f"p{number}", "order": order, "preference": SAID[said]} | fields
        for number, said in enumerate(says)
        for order in ("arm_first", "baseline_first")
    ]
    disk.write_jsonl(path, [{key: value for key, value in row.items() if value is not ...} for row in rows])
    return path


def test_prints_a_table_and_writes_it(tmp_path, capsys):
    files = [write(tmp_path / "gpt.jsonl", "aab=b"), write(tmp_path / "local.jsonl", "aabb?")]
    judge.main(["--compare", *map(str, files), "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "judges  gpt    local" in printed and "Krippendorff's, ordinal" in printed and "nan" not in printed
    table = tables.read(tmp_path / "out" / "agreement.csv").set_index("kind")
    assert table.loc["judges", ["prompts", "left_out", "agree"]].tolist() == [4, 1, 0.75]
    assert table.loc["orders", "agree"].tolist() == [1, 1]


def test_two_files_of_one_judge_are_a_retest(tmp_path):
    files = [write(tmp_path / f"{day}.jsonl", says, judge="gpt") for day, says in (("mon", "aabb"), ("tue", "aaab"))]
    table = records.compare_files(files).set_index("kind")
    assert table.loc["retest", ["judge", "other", "agree"]].tolist() == ["gpt", "run 2", 0.75]


def test_a_judge_without_a_name_is_called_as_its_file(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", says, judge=...) for name, says in (("one", "ab"), ("two", "aa"))]
    assert records.compare_files(files).query("kind == 'judges'")[["judge", "other"]].values.tolist() == [
        ["one", "two"]
    ]


def test_votes_of_people(tmp_path):
    pairs = [Pair(f"p{i}", "set", "Q?", "mine", "theirs", f"my {i}", f"their {i}") for i in range(4)]
    key = human.make_key(human.draw_ballots(pairs))
    for name in ("ann", "ben"):
        lines = [f"{number},{1 if item['order'] == 'arm_first' else 2}\n" for number, item in key["items"].items()]
        disk.write_text(tmp_path / f"{name}.csv", "number,vote\n" + "".join(lines[: 3 if name == "ben" else 4]))
    votes = [row for name in ("ann", "ben") for row in human.read_votes(tmp_path / f"{name}.csv", key)]
    disk.write_jsonl(tmp_path / "votes.jsonl", votes)
    table = records.compare_files([write(tmp_path / "gpt.jsonl", "aaab")], tmp_path / "votes.jsonl")
    found = table.set_index(["kind", "judge", "other"])
    assert found.loc[("judge and person", "gpt", "ann"), "agree"] == 0.75
    assert found.loc[("people", "ann", "ben"), ["prompts", "left_out", "agree"]].tolist() == [3, 1, 1]
    assert "all" in table["kind"].tolist()
    with pytest.raises(InputError, match=r"votes\.jsonl: 'ann' is the name of a judge as well"):
        records.compare_files([write(tmp_path / "ann.jsonl", "aaab")], tmp_path / "votes.jsonl")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        judge.main(["--compare", *map(str, arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    return error


def test_what_cannot_be_compared_is_one_line(tmp_path, capsys):
    one = write(tmp_path / "one.jsonl", "ab", order="arm_first", id=...)
    rows = [{**row, "id": str(number)} for number, row in enumerate(disk.read_jsonl(one))]
    disk.write_jsonl(one, rows)
    assert "one judge, each prompt judged once and in one order: nothing to compare" in refused(capsys, one)
    disk.write_jsonl(other := tmp_path / "other.jsonl", [row | {"judge": "x", "arm": "else"} for row in rows])
    assert "no prompt in common: a prompt is the same by arm, baseline" in refused(capsys, one, other)
    disk.write_jsonl(other, [row | {"judge": "x", "preference": None} for row in rows])
    assert "none of 4 prompts in common has two verdicts" in refused(capsys, one, other)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(one.read_bytes())
    assert "copy.jsonl: the same as" in refused(capsys, one, copy)
    assert "nowhere.jsonl" in refused(capsys, one, tmp_path / "nowhere.jsonl")
    disk.write_text(tmp_path / "faulty.jsonl", json.dumps({"id": 1}) + "\n")
    assert "faulty.jsonl: row" in refused(capsys, tmp_path / "faulty.jsonl")


def test_help_names_the_other_way(capsys):
    for arguments in (["--help"], ["--help", "--compare"], ["--compare", "--help"], ["--compare", "x.jsonl", "-h"]):
        with pytest.raises(SystemExit):
            judge.main(arguments)
        assert "--compare JUDGMENTS" in capsys.readouterr().out


def test_a_column_cluster_of_one_file_ties_the_questions_of_all(tmp_path):
    """Two questions of two turns: one agreed on twice, one never, which is one agreement of two and not two of four."""
    turns = {"gpt.csv": "1100", "local.csv": "1111"}
    for name, says in turns.items():
        rows = [f"{turn},{weight},{name[:-4]}" for turn, weight in enumerate(says)]
        if name == "gpt.csv":
            rows = [f"{row},q{number // 2}" for number, row in enumerate(rows)]
        header = "id,preference,judge" + (",cluster" if name == "gpt.csv" else "")
        disk.write_text(tmp_path / name, "\n".join([header, *rows]) + "\n")
    (found,) = records.compare_files([tmp_path / name for name in turns]).to_dict("records")
    assert [found[name] for name in ("prompts", "questions", "agree")] == [4, 2, 0.5]
    # The share without either question is 0 or 1: an error of 0.5, as one prompt alone has.
    low, high = intervals.wilson_interval(0.5, 1, intervals.student_margin(1))
    assert (found["agree_low"], found["agree_high"]) == (round(low, 4), round(high, 4))
    disk.write_text(tmp_path / "gpt.csv", "id,preference,judge\n0,1,gpt\n1,1,gpt\n2,0,gpt\n3,0,gpt\n")
    (alone,) = records.compare_files([tmp_path / name for name in turns]).to_dict("records")
    assert (alone["questions"], alone["agree"]) == (4, 0.5) and alone["agree_low"] > found["agree_low"] + 0.05
