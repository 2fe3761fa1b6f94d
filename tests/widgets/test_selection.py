"""The cut that one moves: what it keeps, trains and shares, on made-up lengths and on Alpaca, and what a move costs."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.core.errors import InputError
from nbutils.selection import tables
from nbutils.selection.topk import top_k
from nbutils.widgets.selection import Cuts, stops_of

N = 52_002


def make_rows(lengths, **more):
    """A frame of rows of these lengths, each row trained on one token more than it has words."""
    lengths = np.asarray(lengths)
    texts = [f"response {place}" for place in range(len(lengths))]
    frame = pd.DataFrame({"id": range(len(lengths)), "instruction": "Say it.", "response": texts})
    return frame.assign(nltk_words=lengths, trained=lengths + 1, **more)


@pytest.fixture(scope="module")
def large():
    """As many rows as Alpaca has, of lengths 0 to 499 in turn, under two measures; ids that end in 490 are a rival."""
    words = np.arange(N) % 500
    return Cuts(make_rows(words, chars=5 * words[::-1]), {"alpaca-1k-score": range(490, N, 500)})


# --- values --------------------------------------------------------------------------------------------------------


def test_a_cut_through_52_thousand_rows_is_exact(large):
    # Each of 499, 498, ... 491 occurs 104 times, which makes 936; of the 104 rows of 490 words the first 64 are taken.
    total = 104 * sum(range(491, 500)) + 64 * 490
    whole = 104 * sum(range(500)) + 1 + N  # rows of 0 and 1 words occur once more; one token more each
    assert large.at(1000) == {
        "measure": "nltk_words",
        "k": 1000,
        "threshold": 490,
        "ties": 104,
        "ties_taken": 64,
        "mean_length": total / 1000,
        "trained_tokens": total + 1000,
        "trained_share": (total + 1000) / whole,
        "in AlpaGasus-1k": 64,
    }


def test_the_rows_kept_are_those_of_the_selection(large):
    for measure in ("nltk_words", "chars"):
        kept = large.kept(1000, measure)["id"]
        assert sorted(kept) == list(top_k(large.rows[measure].to_numpy(), 1000))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.data())
def test_every_cut_agrees_with_counting_by_hand(lengths, data):
    k = data.draw(st.integers(1, len(lengths)))
    rival = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    cut = Cuts(make_rows(lengths), {"rival": rival}).at(k)
    chosen = top_k(np.array(lengths), k)
    kept = [lengths[i] for i in chosen]
    assert cut["threshold"] == min(kept)
    assert (cut["ties_taken"], cut["ties"]) == (kept.count(min(kept)), lengths.count(min(kept)))
    assert cut["trained_tokens"] == sum(kept) + k
    assert cut["in rival"] == len(rival & set(chosen.tolist()))


def test_a_table_has_a_line_for_each_measure_and_k(large):
    table = large.table([104, 1000, N], ["nltk_words", "chars"])
    assert table[["measure", "k", "threshold"]].to_numpy().tolist() == [
        ["nltk_words", 104, 499],
        ["nltk_words", 1000, 490],
        ["nltk_words", N, 0],
        ["chars", 104, 2495],
        ["chars", 1000, 2450],
        ["chars", N, 0],
    ]
    assert table["trained_share"].iloc[[2, 5]].tolist() == [1, 1]


def test_facts_say_what_chance_would_give(large):
    facts = large.facts(1000).set_index("at this cut")
    assert facts.loc["shortest kept, in NLTK words", "found"] == 490
    assert facts.loc["of the rows of that length, kept"].tolist()[:2] == [64, 104]
    assert facts.loc["also in AlpaGasus-1k"].tolist() == [64, 104, 2.0]  # 1,000 of 52,002 times 104


def test_examples_lie_on_both_sides_of_the_cut(large):
    examples = large.examples(1000, each=1)
    assert examples[["place", "kept", "row", "NLTK words"]].to_numpy().tolist() == [
        [1000, True, 490 + 63 * 500, 490],
        [1001, False, 490 + 64 * 500, 490],
    ]
    assert len(large.examples(1)) == 3 and len(large.examples(N)) == 2


def test_published_selections_of_alpaca(alpaca, alpaca_words, mirror):
    counted = tables.Counted("alpaca-52k", alpaca, {"nltk_words": alpaca_words})
    cut = Cuts(tables.tabulate_rows(counted), tables.published_ids("alpaca-52k")).at(1000)
    assert (cut["threshold"], cut["ties_taken"], cut["ties"]) == (192, 2, 15)
    assert (cut["in the published longest"], cut["in AlpaGasus-1k"]) == (1000, 28)
    assert cut["mean_length"] == pytest.approx(256.838)


@pytest.mark.parametrize(
    ("k", "measure", "complaint"),
    [
        (0, "nltk_words", "at least one row"),
        (N + 1, "nltk_words", "more than the 52,002 rows"),
        (5, "bytes", "no column 'bytes': choose one of nltk_words, chars"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(large, k, measure, complaint):
    with pytest.raises(InputError, match=complaint):
        large.at(k, measure)


# --- what is drawn -------------------------------------------------------------------------------------------------


def test_the_histogram_colours_as_many_rows_as_are_kept(large):
    whole, kept = (patch.get_data() for patch in large.figure(1000).axes[0].patches)
    octaves = np.diff(np.log2(whole.edges))
    assert (whole.values * octaves).sum() == pytest.approx(N - 105)  # empty responses have no place on the axis
    assert (kept.values * octaves).sum() == pytest.approx(1000)
    (line,) = large.figure(1000).axes[0].lines
    assert list(line.get_xdata()) == [489.5, 489.5]


def test_the_title_states_the_cut(large):
    title = "The 1,000 longest by characters: responses of 2,450 and more"
    assert large.title(1000, "chars") == title
    assert large.figure(1000, "chars").texts[0].get_text() == title
    assert "105 empty responses are not drawn" in large.figure(1000).texts[1].get_text().replace("\n", " ")


def test_what_a_dataset_holds_is_escaped():
    rows = make_rows([3, 2, 1]).assign(instruction="<script>alert(1)</script>", response="<img src=x onerror=alert(1)>")
    pane = Cuts(rows, {"<b>": [1]}).pane(2, "nltk_words")
    assert "<script>" not in pane and "<img src=x" not in pane and "<b>" not in pane
    assert pane.count("&lt;script&gt;") == 3


def test_controls_move_the_pane(large):
    live = large.live(1000)
    slider, buttons = live.controls.values()
    assert "The 1,000 longest by NLTK words: responses of 490 and more" in live.html()
    slider.value, buttons.value = 11_000, "chars"  # 105 lengths of 104 rows each make 10,920: the next one is 5 x 394
    assert "The 11,000 longest by characters: responses of 1,970 and more" in live.html()


def test_a_move_takes_less_than_a_third_of_a_second(large):
    large.pane(900, "chars")  # the first one reads fonts

    def measure(k):
        begun = time.process_time()
        large.pane(k, "nltk_words")
        return time.process_time() - begun

    assert min(map(measure, (10, 1000, 20_000))) < 0.3


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (260, 60), (52_002, 1000), (52_002, 1234)])
def test_the_sliders_stops_run_from_one_to_all_and_have_k_among_them(n, k):
    stops = stops_of(n, k)
    assert (stops[0], stops[-1]) == (1, n) and k in stops
    assert stops == sorted(set(stops)) and len(stops) <= 115
    assert all(high <= 1.2 * low or high - low == 1 for low, high in itertools.pairwise(stops))
