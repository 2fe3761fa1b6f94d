"""Stage 01: the tables of the sample always, those of the paper's data where they are at hand."""

import csv
import itertools
import subprocess
import sys

import numpy as np
import pytest

from nbutils import ROOT, arms, explore, lengths
from nbutils.core.errors import InputError
from nbutils.data.rows import Row
from nbutils.selection import tables

TABLES = ["budget", "content", "histograms", "lengths", "measures", "overlaps", "scores"]
COMMITTED = ROOT / "figures" / "tables"


def read(folder, name):
    with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find(records, value, **where):
    (found,) = [record for record in records if all(record[key] == wanted for key, wanted in where.items())]
    return float(found[value])


# --- the sample, always --------------------------------------------------------------------------------------------


@pytest.fixture
def made(no_data, runs):
    return explore.run("tiny")


def test_sample_gives_every_table_but_scores(made):
    assert sorted(made.outputs) == [*(f"{name}.csv" for name in TABLES if name != "scores"), "selections.json"]
    assert made.facts["datasets"] == ["sample"]
    assert "alpaca-52k" in made.facts["not_at_hand"]


def test_second_run_returns_the_first_manifest(made):
    assert explore.run("tiny").created == made.created


def test_only_arm_is_all(runs):
    with pytest.raises(InputError, match="only arm is 'all'"):
        explore.run("tiny", "alpaca-1k-longest")


def test_longest_of_the_sample_are_longer(made):
    table = read(made.folder, "lengths")
    assert find(table, "rows", dataset="sample") == 260
    assert find(table, "min", dataset="sample-60-longest") >= find(table, "median", dataset="sample")
    assert find(table, "max", dataset="sample-60-longest") == find(table, "max", dataset="sample")


def test_histograms_hold_every_row_on_one_axis(made):
    table = read(made.folder, "histograms")
    bins = {}
    for record in table:
        bins.setdefault(record["dataset"], []).append(record)
    assert {name: sum(int(one["rows"]) for one in ones) for name, ones in bins.items()} == {
        "sample": 260,
        "sample-60-longest": 60,
    }
    sample, longest = ([(one["low"], one["high"]) for one in ones] for ones in bins.values())
    assert sample == longest
    assert all(high == low for (_, high), (low, _) in itertools.pairwise(sample))


def test_nltk_words_agree_with_themselves_and_no_share_is_too_large(made):
    table = read(made.folder, "measures")
    assert find(table, "shared", measure="nltk_words") == 60
    assert all(0 <= int(record["shared"]) <= 60 for record in table)
    assert find(table, "by_chance", measure="words") == pytest.approx(60 * 60 / 260, abs=1e-3)


def test_overlap_with_itself_is_the_size(made):
    table = read(made.folder, "overlaps")
    own = [record for record in table if record["left"] == record["right"]]
    assert len(own) == len(tables.RULES)
    assert all(record["shared"] == record["of"] for record in own)


def test_token_matched_control_has_the_budget_of_the_longest(made):
    table = read(made.folder, "budget")
    matched = find(table, "trained", arm="sample-60-random-token-matched-7")
    assert matched == pytest.approx(find(table, "trained", arm="sample-60-longest"), rel=0.03)


def test_examples_begin_with_the_longest(made):
    examples = explore.load_examples(made)
    counts = lengths.count([row.response for row in examples["sample-60-longest"]], "nltk_words")
    assert len(counts) == 60
    assert list(counts) == sorted(counts, reverse=True)
    assert "sample-60-random-7" in examples


def test_examples_are_escaped():
    rows = [Row(0, "own", "<script>alert(1)</script>", "", "<img src=x onerror=alert(1)>")]
    shown = explore.show_examples(rows)._repr_html_()
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_an_own_file_is_looked_at(no_data, runs, tmp_path):
    from nbutils.core.settings import load_profile

    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Say it.", "output": "word"}\n' * 5 + '{"instruction": "x", "output": "a b c"}\n')
    own = load_profile("tiny").model_copy(update={"dataset": str(path), "arms": ("own-2-longest", "own-2-random-7")})
    made = explore.run(own)
    assert find(read(made.folder, "lengths"), "min", dataset="own-2-longest") == 1
    assert find(read(made.folder, "measures"), "k", measure="nltk_words", text="response") == 2


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [0, 1, 2, 7, 255, 256, 823, 3492])
def test_bins_reach_above_the_longest(longest):
    edges = tables.bin_edges(longest)
    assert edges[:2] == [0, 1]
    assert edges[-1] > longest
    assert all(np.diff(edges) > 0)


@pytest.mark.parametrize(
    ("pool", "k", "rule", "name"),
    [
        ("alpaca-52k", 1000, "longest", "alpaca-1k-longest"),
        ("alpaca-52k", 1000, "random-token-matched-7", "alpaca-random-token-matched-7"),
        ("alpaca-52k", 500, "random-7", "alpaca-500-random-7"),
        ("sample", 60, "shortest", "sample-60-shortest"),
        ("evol-70k", 2000, "longest-stratified", "evol-2k-longest-stratified"),
        ("my/rows.jsonl", 1000, "longest", "own-1k-longest"),
    ],
)
def test_names_are_those_of_arms(pool, k, rule, name):
    assert tables.arm_name(pool, k, rule) == name
    assert arms.parse_arm(name).k == k


@pytest.mark.parametrize(
    ("response", "traits"),
    [
        ("It ends.", []),
        ('He said "so."', []),
        ("return x\n```", []),
        ("It stops in the", ["unfinished end"]),
        ("- one\n- two.", ["holds a list"]),
        ("1. one\n2) two.", ["holds a list"]),
        ("no no no no no no no no no no no no.", ["repeats itself"]),
    ],
)
def test_traits(response, traits):
    assert tables.find_traits(Row(0, "own", "Do it.", "", response)) == traits
    assert tables.find_traits(Row(0, "own", "Do it.", "to this", response)) == ["has an input", *traits]


def test_repeated_share_counts_what_came_before():
    words = " ".join("abcdefgh")
    assert tables.repeated_share(words) == 0
    assert tables.repeated_share(f"{words} {words}") == pytest.approx(1 / 9)
    assert tables.repeated_share("") == 0


def test_scores_that_nobody_gave_are_left_out():
    lima = tables.Counted("lima-1k", [Row(0, "lima-1k", "", "", "x", 0.0)] * 2, {})
    rated = tables.Counted("alpaca-1k-score", [Row(0, "alpaca-1k-score", "", "", "x", 4.5)] * 2, {})
    found = tables.tabulate_scores([lima, rated]).to_dict("records")
    assert found == [{"dataset": "alpaca-1k-score", "score": 4.5, "rows": 2}]
    assert tables.tabulate_scores([lima]).empty
    assert tables.tabulate_scores([]).empty


def test_importing_what_the_notebooks_need_is_light():
    heavy = {"torch", "transformers", "matplotlib", "pandas"}
    code = "from nbutils import explore, notebook, select; from nbutils.figures import registry; "
    code += "from nbutils.selection import tables; import sys; "
    code += f"assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the paper's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "words", "tokens"),
    [
        ("alpaca-52k", 51.4, 64.5),
        ("alpaca-1k-longest-published", 256.8, 323.7),
        ("lima-1k", 531.3, 652.4),
        ("alpaca-1k-score", 63.7, 82.0),
        ("alpaca-1k-longest-refined", 244.3, 329.4),
        ("evol-1k-score", 323.3, 421.8),
    ],
)
def test_mean_lengths(dataset, words, tokens):
    table = read(COMMITTED, "lengths")
    assert round(find(table, "mean", dataset=dataset), 1) == words
    assert round(find(table, "mean_tokens", dataset=dataset), 1) == tokens


def test_only_nltk_words_give_the_published_rows():
    shared = {(one["measure"], one["text"]): int(one["shared"]) for one in read(COMMITTED, "measures")}
    assert shared == {
        ("nltk_words", "response"): 1000,
        ("words", "response"): 933,
        ("chars", "response"): 858,
        ("tokens", "response"): 823,
        ("chars", "whole example"): 816,
        ("chars", "instruction"): 23,
    }


def test_ratings_of_the_longest():
    rows = [one for one in read(COMMITTED, "scores") if one["dataset"] == "alpaca-1k-longest-published"]
    counts = {float(one["score"]): int(one["rows"]) for one in rows}
    assert counts == {3.0: 8, 3.5: 537, 4.0: 178, 4.5: 277}
    assert sum(score * count for score, count in counts.items()) / 1000 == pytest.approx(3.86, abs=0.005)


def test_content_of_the_longest():
    counts = {one["value"]: int(one["in_selection"]) for one in read(COMMITTED, "content")}
    expected = {"has an input": 232, "unfinished end": 53, "repeats itself": 41}
    expected |= {"write": 285, "generate": 215, "create": 139, "compose": 57}
    assert {name: counts[name] for name in expected} == expected


def test_overlap_with_alpagasus():
    assert find(read(COMMITTED, "overlaps"), "shared", left="alpaca-1k-longest", right="alpaca-1k-score") == 28


@pytest.mark.parametrize(
    ("arm", "trained"),
    [
        ("alpaca-1k-longest", 324_720),
        ("alpaca-1k-longest-refined", 330_407),
        ("alpaca-1k-score", 82_993),
        ("lima-1k", 653_437),
        ("evol-1k-score", 422_816),
        ("alpaca-1k-random-7", 67_310),
    ],
)
def test_trained_tokens(arm, trained):
    assert find(read(COMMITTED, "budget"), "trained", arm=arm) == trained


@pytest.mark.thorough
def test_real_data_gives_the_committed_tables_byte_for_byte(counted_runs):
    made = explore.run("tiny")
    for name in TABLES:
        assert made.path(f"{name}.csv").read_bytes() == (COMMITTED / f"{name}.csv").read_bytes(), name
