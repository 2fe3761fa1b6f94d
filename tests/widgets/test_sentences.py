"""Prose of stage 01: its numbers are those of the tables."""

import pytest

from nbutils import ROOT
from nbutils.core import tables
from nbutils.widgets import sentences


def read(name):
    return tables.read(ROOT / "figures" / "tables" / f"{name}.csv")


def test_lengths_of_the_papers_data():
    told = sentences.of_lengths(read("lengths"))
    assert told.startswith("Half of all 52,002 responses have 37 NLTK words or fewer, and the mean is 51.4. ")
    assert "The 1,000 longest begin at **192** and have a mean of 256.8, 5.0 times as many." in told
    assert "531.3 words, 2.1 times the mean of the longest" in told


def test_lima_is_spoken_of_where_it_is_at_hand():
    lengths = read("lengths")
    assert "LIMA" not in sentences.of_lengths(lengths[lengths.dataset != "lima-1k"])


@pytest.mark.parametrize(
    ("name", "passages"),
    [
        ("measures", ["between **7%** and **18%** of the selection", "*instructions* 23 are in it, and chance alone"]),
        ("content", ["“write”, “generate”, “create” and “compose” open **70%** of them, and 23% of all"]),
        ("content", ["23% against 40% work on a given input", "5% against 14% have an unfinished end"]),
        ("scores", ["would have kept 277 of the 1,000 longest and thrown away **72%**"]),
        ("overlaps", ["The longest and AlpaGasus-1k have **28** examples of 1,000 in common", "would have 19."]),
        ("budget", ["**324,720** Llama-2 tokens", "3.9 times those of AlpaGasus-1k", "4.8 times those of a random"]),
    ],
)
def test_each_table_says_what_it_holds(name, passages):
    told = getattr(sentences, f"of_{name}")(read(name))
    assert [passage for passage in passages if passage not in told] == []


def test_without_alpagasus_a_random_choice_is_the_rival():
    overlaps, budget = read("overlaps"), read("budget")
    told = sentences.of_overlaps(overlaps[overlaps.right != "alpaca-1k-score"])
    assert told.startswith("The longest and a random choice have **16** examples of 1,000")
    rest = budget[~budget.arm.isin(["alpaca-1k-score", "lima-1k"])]
    assert sentences.of_budget(rest).endswith("in the loss of an epoch: 4.8 times those of a random choice.")
