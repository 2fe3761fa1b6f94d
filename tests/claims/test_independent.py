"""What others' models say: the verdicts are counted exactly, and the committed tables are what the data gives."""

import math

import pandas as pd
import pytest

from nbutils import data
from nbutils.analysis import pooled, standings
from nbutils.claims import independent
from nbutils.core.tables import read
from nbutils.data import catalogue
from nbutils.execution import tables
from nbutils.figures import registry
from nbutils.judging import records

TABLES = registry.FOLDER / "tables"


@pytest.fixture(scope="module")
def frame(mirror):
    return independent.to_arms(records.opencs_judgments())


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("Llama-2-7b-hf-alpaca-longest-1k-fp16", ("alpaca-1k-longest", "fp16")),
        ("Llama-2-7b-hf-refined_alpaca_1k_longestk-e15lr1e-5", ("alpaca-1k-longest-refined", "")),
        ("Llama-2-7b-hf-cluster_pair_score_myprompt_sharegpt-e15lr1e-5-len2048", ("tacos", "len2048")),
        ("Llama-2-7b-hf-cluster_pair_score_WHATMAKESGOOD_1k_sharegpt-e15lr1e-5", ("tacos-what", "")),
    ],
)
def test_models_are_named_by_what_they_were_trained_on(upstream, expected):
    assert independent.name_model(upstream) == expected


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="no model of the TACOS authors that is known here: gpt-4"):
        independent.name_model("gpt-4")


def test_the_verdicts_are_those_of_the_files(frame):
    """Counted here from the records, with FastChat's own reading: where both read a verdict they agree."""
    raw = data.load_table("opencs-pairs")
    assert len(frame) == 2 * len(raw) == 4480 and frame.file.nunique() == 14
    values = {"model_1": 1.0, "tie": 0.5, "model_2": 0.0}
    theirs = frame.winner.map(values)
    both = frame.preference.notna() & theirs.notna()
    assert (frame.preference[both] == theirs[both]).all() and both.sum() == 4469
    assert frame.preference.isna().sum() == 11 and (frame.winner == "error").sum() == 5
    first = raw.iloc[0]
    (game, swapped) = frame.iloc[:2].to_dict("records")
    assert (game["order"], swapped["order"]) == ("arm_first", "baseline_first")
    answers = data.load_table("opencs-answers").set_index(["file", "question_id"]).choices
    for side, model in (("arm", first.model_1), ("baseline", first.model_2)):
        text = answers[model, first.question_id][0]["turns"][first.turn - 1]
        assert game[f"len_{side}"] == swapped[f"len_{side}"] == len(text)
    assert frame.cluster.nunique() == 80, "both turns of a question are one cluster"
    assert frame.groupby("judge").file.nunique().to_dict() == {"gpt-4, edited prompt": 6, "gpt-4, stock prompt": 8}


def test_the_committed_counts_are_what_the_data_gives(frame):
    for name in ("independent-files", "independent-lengths", "independent-same"):
        pd.testing.assert_frame_equal(read(TABLES / f"{name}.csv"), tables.TABLES[name](), check_dtype=False)


def test_the_headline_comes_out_again(frame):
    stored = read(TABLES / "independent.csv").query("what == 'headline'").reset_index(drop=True)
    found = independent.compare(independent.PARTS["headline"](frame))
    pd.testing.assert_frame_equal(found, stored, check_dtype=False, atol=2e-3)


@pytest.mark.thorough
def test_the_whole_committed_table_comes_out_again(frame):
    pd.testing.assert_frame_equal(
        independent.tabulate(frame), read(TABLES / "independent.csv"), check_dtype=False, atol=2e-3
    )


def test_the_direct_rate_of_a_file_is_its_mean(frame):
    """Against the common opponent nothing is indirect: the fit without length gives the file's own mean."""
    mine = independent.PARTS["stock prompt only"](frame)
    field = pooled.lay_out(mine)
    ground = standings.survey(pooled.fit(field, "none", pooled.Penalties(0.5)))
    for name in ("alpaca-52k", "alpaca-1k-longest-refined"):
        rate = standings.win_rate(ground, field.models.index(name), field.models.index("tacos"))
        direct = 1 - mine[mine.baseline == name].preference.mean()
        assert rate.value == pytest.approx(direct, abs=0.005)


def test_a_file_that_others_changed_is_refused(tmp_path, monkeypatch):
    """Each member of the source is known by git's id of its content."""
    entry = catalogue.source("opencs-pairs")
    path = tmp_path / f"{entry.members[0]}.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(catalogue.InputError, match="its git blob id differs"):
        catalogue.verify(entry, path)
    own = entry.model_copy(update={"blobs": {entry.members[0]: catalogue.git_blob_id(path)}})
    assert catalogue.verify(own, path)
    assert set(entry.blobs) == set(entry.members) and set(map(len, entry.blobs.values())) == {40}


def test_the_committed_table_has_what_the_page_and_the_figure_need():
    table = read(TABLES / "independent.csv")
    assert set(independent.PARTS) <= set(table.what)
    assert sum(name.startswith("without ") for name in table.what.unique()) == 10
    longest = table[
        (table.arm == "alpaca-1k-longest") & (table.other == "alpaca-52k") & (table.what == "headline")
    ].iloc[0]
    assert longest.raw_low > 0.5 and longest.equal_low < 0.5 < longest.equal_high
    assert not math.isnan(longest.difference)
