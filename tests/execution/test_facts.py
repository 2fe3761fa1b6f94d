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
