"""A run as facts: judged from lengths and scores alone, analysed from the committed files, refused where they lack."""

import json

import pytest

from nbutils import ROOT
from nbutils.core import tables
from nbutils.core.errors import InputError
from nbutils.execution import facts

COMMITTED = sorted((ROOT / "figures" / "tables").glob("*/made.json"))
TARGET, OTHER = "alpaca-1k-longest", "alpaca-1k-random-7"


def write_facts(folder, lengths, scores, cut=None):
    """A folder of facts; lengths and scores: of the target's and the other arm's answers, prompt by prompt."""
    (folder / TARGET).mkdir(parents=True)
    (folder / OTHER).mkdir()
    for side, arm in enumerate((TARGET, OTHER)):
        rows = [
            {"test_set": "vicuna", "id": f"vicuna_{number}", "chars": both[side], "score": scores[number][side]}
            for number, both in enumerate(lengths)
        ]
        tables.write(folder / arm / "reference_scores.csv", rows)
        answers = [
            {
                "test_set": "vicuna",
                "id": row["id"],
                "tokens": row["chars"] // 4,
                "words": row["chars"] // 5,
                "stopped": True,
                "repetition": 0.0,
            }
            for row in rows
        ]
        tables.write(folder / arm / "answer_facts.csv", answers)
        likelihoods = [
            {"references": "lima", "id": str(n), "tokens": 9, "log_likelihood": -2.0 - side / 10 * n} for n in range(4)
        ]
        tables.write(folder / arm / "likelihoods.csv", likelihoods)
    shorter = [min(both) for both in lengths]
    rows = [
        {
            "test_set": "vicuna",
            "id": f"vicuna_{n}",
            "chars": size,
            "chars_target": size,
            "score": 2.0,
            "score_target": 2.0,
        }
        for n, size in enumerate(shorter)
    ]
    tables.write(folder / OTHER / "cut_scores.csv", cut or rows)
    (folder / "made.json").write_text(json.dumps({"target": TARGET, "arms": {TARGET: {}, OTHER: {}}}))
    return folder


def test_judges_see_lengths_and_scores_alone(tmp_path):
    folder = write_facts(tmp_path / "facts", [(400, 100), (90, 90)], [(3.5, 2.25), (2.0, 4.0)])
    rows = list(facts.judge_facts(folder, TARGET, OTHER))
    found = {(row["judge"], row["id"], row["order"]): row for row in rows}
    assert len(rows) == 2 * 4 * 2
    for order in ("arm_first", "baseline_first"):
        better = found["reference", "vicuna_0", order]
        assert (better["score_arm"], better["score_baseline"], better["preference"]) == (3.5, 2.25, 1.0)
        assert (better["len_arm"], better["len_baseline"], better["measure"]) == (400, 100, "chars")
        assert found["reference", "vicuna_1", order]["preference"] == 0.0
        assert found["longer", "vicuna_0", order]["preference"] == 1.0
        assert found["longer", "vicuna_1", order]["preference"] == 0.5
    assert [found["first", "vicuna_1", order]["preference"] for order in ("arm_first", "baseline_first")] == [1.0, 0.0]


def test_the_cut_answers_have_judgments_of_their_own(tmp_path):
    folder = write_facts(tmp_path / "facts", [(400, 100)], [(3.5, 2.25)])
    (row,) = [
        row
        for row in facts.judge_facts(folder, TARGET, OTHER, is_cut=True)
        if (row["judge"], row["order"]) == ("reference", "arm_first")
    ]
    assert (row["preference"], row["len_arm"], row["len_baseline"]) == (0.5, 100, 100)


def test_analysis_reads_the_folder_and_writes_into_it(tmp_path, capsys):
    lengths = [(200 + 10 * n, 100 + 7 * n) for n in range(12)]
    folder = write_facts(tmp_path / "facts", lengths, [(3.0 + n % 3, 3.5) for n in range(12)])
    facts.main(["--analyse", str(folder)])
    table = tables.read(folder / "length_bias.csv").set_index("judge")
    assert table.loc["reference", "win_rate"] == pytest.approx(8 / 12, abs=1e-4)
    assert table.loc["longer", "win_rate"] == 1.0 and table.loc["first", "win_rate"] == 0.5
    cut = tables.read(folder / "cut.csv").set_index("judge")
    assert cut.loc["reference", "win_rate_cut"] == 0.5
    measures = tables.read(folder / "answer_measures.csv").set_index("measure")
    assert measures.loc["log_likelihood", "difference"] == pytest.approx(0.15)
    assert "length of an answer in words" in capsys.readouterr().out


def test_what_is_no_folder_of_facts_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="no facts of a run"):
        facts.analyse(tmp_path)
    (tmp_path / "made.json").write_text(json.dumps({"target": TARGET, "arms": {TARGET: {}}}))
    with pytest.raises(InputError, match="no arm besides the target"):
        facts.analyse(tmp_path)
    with pytest.raises(SystemExit) as ended:
        facts.main([])
    assert ended.value.code == 2 and "give a PROFILE, or --analyse FOLDER" in capsys.readouterr().err


def test_a_profile_whose_target_is_not_finished_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        facts.main(["tiny", "-o", str(tmp_path / "facts")])
    assert ended.value.code == 2 and "is not finished" in capsys.readouterr().err
    assert not (tmp_path / "facts").exists()


@pytest.mark.parametrize("made", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_facts_give_the_committed_analysis(made, tmp_path):
    folder = made.parent
    copy = tmp_path / folder.name
    for path in (made, *folder.glob("*/*.csv")):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    facts.analyse(copy)
    for name in ("length_bias.csv", "cut.csv", "answer_measures.csv"):
        assert (copy / name).read_text() == (folder / name).read_text(), name


# --- facts that were lost, torn, mixed up or edited ------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    lengths = [(200 + 10 * n, 100 + 7 * n) for n in range(12)]
    return write_facts(tmp_path / "facts", lengths, [(3.0 + n % 3, 3.5) for n in range(12)])


def change(path, *replacements):
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")


def seal(folder):
    """Write the hashes of all tables into made.json, as an export does."""
    about = json.loads((folder / "made.json").read_text())
    about["arms"] = {arm: {"sha256": facts.hash_tables(folder / arm)} for arm in about["arms"]}
    (folder / "made.json").write_text(json.dumps(about))


def refused(folder, capsys):
    """The one line with which the analysis refuses a folder, which it leaves as it was."""
    with pytest.raises(SystemExit) as ended:
        facts.main(["--analyse", str(folder)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert not [path.name for path in folder.glob("*.csv")], "nothing is half-written"
    return said


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("reference_scores", "score", "points", "unknown column 'points'"),
        ("reference_scores", "test_set,id,chars,score", "test_set,id,chars", "column 'score' is missing"),
        ("reference_scores", "vicuna_3", "vicuna_2", "line 5 (vicuna/vicuna_2): the text stands there twice"),
        ("reference_scores", "vicuna,vicuna_3,", "vicuna,vicuna_3,-", "line 5 (vicuna/vicuna_3): 'chars' is no number"),
        ("reference_scores", "3.5", "nan", "line 2 (vicuna/vicuna_0): 'score' is no number from 1 to 10"),
        ("reference_scores", "3.5", "11", "'score' is no number from 1 to 10"),
        ("reference_scores", "vicuna_3", "koala_3", "12 prompts, 12 with alpaca-1k-longest, 11 the same"),
        ("cut_scores", "vicuna_3", "koala_3", "line 5 (vicuna/koala_3): 'chars' is more than the whole answer has"),
        ("cut_scores", "vicuna_0,100,", "vicuna_0,900,", "'chars' is more than the whole answer has"),
        ("answer_facts", "True", "maybe", "answer_facts.csv: "),
        ("likelihoods", "-2.0", "inf", "line 2 (lima/0): 'log_likelihood' is no number from -inf to 0"),
        ("likelihoods", "lima,1,", "lima,0,", "line 3 (lima/0): the text stands there twice"),
    ],
)
def test_a_table_with_what_cannot_be_is_refused(folder, capsys, name, old, new, complaint):
    path = folder / OTHER / f"{name}.csv"
    if old.startswith("test_set,id"):
        path.write_text("\n".join([new, *[line.rpartition(",")[0] for line in path.read_text().splitlines()[1:]], ""]))
    else:
        change(path, (old, new))
    said = refused(folder, capsys)
    assert said.startswith(f"error: {path}: ") and complaint in said


@pytest.mark.parametrize("name", ["reference_scores", "cut_scores", "answer_facts", "likelihoods"])
@pytest.mark.parametrize("kind", ["missing", "empty", "torn", "binary"])
def test_a_table_that_is_not_whole_is_refused(folder, capsys, name, kind):
    seal(folder) if (name, kind) == ("likelihoods", "empty") else None  # an arm may have none: its hash tells
    path = folder / OTHER / f"{name}.csv"
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "torn": content[:-3], "binary": b"\xff\xfe" + content}[kind])
    assert f"{OTHER}/{name}.csv" in refused(folder, capsys)


@pytest.mark.parametrize(
    ("about", "complaint"),
    [
        ([], "no table 'arms'"),
        ({"target": TARGET, "arms": [TARGET, OTHER]}, "no table 'arms'"),
        ({"target": TARGET, "arms": {TARGET: 1}}, "no table 'arms'"),
        ({"arms": {TARGET: {}, OTHER: {}}}, "key 'target': 'None' is none of its arms"),
        ({"target": "lima-1k", "arms": {TARGET: {}, OTHER: {}}}, "key 'target': 'lima-1k' is none of its arms"),
        ({"target": TARGET, "arms": {TARGET: {}, "../../tables": {}}}, "key 'arms': unknown arm '../../tables'"),
        ({"target": TARGET, "arms": {TARGET: {}, "lima-1k": {}}}, "lima-1k/reference_scores.csv: no such table"),
    ],
)
def test_what_made_json_cannot_say_is_refused(folder, capsys, about, complaint):
    (folder / "made.json").write_text(json.dumps(about))
    assert complaint in refused(folder, capsys)


@pytest.mark.parametrize("kind", ["edited", "swapped", "removed", "added"])
def test_other_bytes_than_were_written_are_refused(folder, capsys, kind):
    """A number that could be, in a table that is whole, is found out by the table's hash alone."""
    seal(folder)
    facts.analyse(folder)
    for path in folder.glob("*.csv"):
        path.unlink()
    mine, theirs = (folder / arm / "answer_facts.csv" for arm in (TARGET, OTHER))
    if kind == "edited":
        change(mine, ("True", "False"))
    elif kind == "swapped":
        before = mine.read_bytes()
        mine.write_bytes(theirs.read_bytes())
        theirs.write_bytes(before)
    elif kind == "removed":
        mine.unlink()
    else:
        (folder / TARGET / "loss.csv").write_text("step,loss\n1,2.0\n")
    said = refused(folder, capsys)
    assert f"{TARGET}/" in said and "not a table that made.json was written with" in said


def test_prompts_without_references_have_measures_alone(folder):
    for arm in (TARGET, OTHER):
        tables.write(folder / arm / "reference_scores.csv", [])
    tables.write(folder / OTHER / "cut_scores.csv", [])
    table, measures = facts.analyse(folder)
    assert table.empty and tables.read(folder / "cut.csv").empty
    assert set(measures["measure"]) == {"log_likelihood", "tokens", "words", "stopped", "repetition"}


def test_facts_of_another_seed_or_profile_are_not_mixed_with_these(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    about = {"profile": "tiny", "seed": 42, "target": TARGET, "arms": {TARGET: {}}}
    (tmp_path / "made.json").write_text(json.dumps(about))
    for given, held in ((["tiny", "--seed", "43"], "'tiny' with seed 42"), (["demo"], "'tiny' with seed 42")):
        with pytest.raises(SystemExit) as ended:
            facts.main([*given, "-o", str(tmp_path)])
        assert ended.value.code == 2 and f"it holds the facts of profile {held}" in capsys.readouterr().err
    assert json.loads((tmp_path / "made.json").read_text()) == about


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--analyse", "x", "-o", "y"], "-o goes with a PROFILE"),
        (["tiny", "--seed", "-1"], "is no seed"),
        (["tiny", "--seed", "nan"], "is no seed"),
        (["tiny", "--analyse", "x"], "give a PROFILE, or --analyse FOLDER"),
        (["nothing"], "no profile 'nothing'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(given, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        facts.main(given)
    assert ended.value.code == 2 and complaint in capsys.readouterr().err
