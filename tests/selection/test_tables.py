"""Frames that notebooks hand to their widgets: rows with their lengths, published row numbers, facts in words."""

import numpy as np

from nbutils.data.rows import Row
from nbutils.selection import tables

ROWS = [Row(7, "own", "Add.", "1 and 2", "three", history=(("Hi.", "Hello."),)), Row(9, "own", "Stop.", "", "")]


def test_rows_have_what_was_asked_and_every_length():
    counted = tables.Counted("own", ROWS, {"nltk_words": np.array([3, 0]), "chars": np.array([11, 0])})
    assert tables.tabulate_rows(counted).to_dict("records") == [
        {"id": 7, "instruction": "Add.\n\n1 and 2", "response": "Hello.\nthree", "nltk_words": 3, "chars": 11}
        | {"trained": 5},  # two turns, an end of sequence each
        {"id": 9, "instruction": "Stop.", "response": "", "nltk_words": 0, "chars": 0, "trained": 1},
    ]


def test_published_row_numbers(mirror):
    ids = tables.published_ids("alpaca-52k")
    assert {name: (len(found), min(found)) for name, found in ids.items()} == {
        "alpaca-1k-longest-published": (1000, 7),
        "alpaca-1k-score": (1000, min(ids["alpaca-1k-score"])),
    }
    assert len(ids["alpaca-1k-longest-published"] & ids["alpaca-1k-score"]) == 28


def test_nothing_was_published_of_the_sample_and_nothing_is_at_hand_without_data(no_data):
    assert tables.published_ids("sample") == {} == tables.published_ids("alpaca-52k")


def test_facts_in_words():
    facts = {"measure": "nltk_words", "rows": 1000, "pool_rows": 52_002, "threshold": 192, "ties_taken": 2}
    facts |= {"ties_at_threshold": 15, "mean_length": 256.838, "trained_tokens": 324_720, "ids_sha256": "b66"}
    assert tables.tabulate_facts(facts).to_numpy().tolist() == [
        ["rows kept", 1000, 52_002],
        ["shortest response kept, in NLTK words", 192, None],
        ["rows of exactly that length, kept", 2, 15],
        ["mean length of the rows kept", 256.8, None],
        ["trained tokens", 324_720, None],
    ]
    few = {"measure": "chars", "rows": 20, "pool_rows": 260, "threshold": 277, "ids_in_published_selection": 4}
    assert tables.tabulate_facts(few).to_numpy().tolist() == [
        ["rows kept", 20, 260],
        ["shortest response kept, in characters", 277, None],
        ["row numbers that are in the published selection", 4, 20],
    ]
