"""The k longest of a list and of a stream, against a sort."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import lengths, select
from nbutils.core.errors import InputError
from nbutils.selection import topk

few_lengths = st.lists(st.integers(0, 6), max_size=60)
quick = settings(max_examples=300, deadline=None)


def _by_sorting(values, k):
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])


def _ties(values, k):
    threshold = sorted(values, reverse=True)[k - 1]
    taken = sum(values[i] == threshold for i in _by_sorting(values, k))
    return values.count(threshold), taken


@quick
@given(few_lengths, st.data())
def test_top_k_is_a_stable_sort_by_length(values, data):
    k = data.draw(st.integers(0, len(values)))
    ids = select.top_k(np.array(values, dtype=np.int64), k)
    assert ids.tolist() == _by_sorting(values, k)
    assert ids.dtype == np.int64


def test_top_k_ties_go_to_the_lower_id():
    assert select.top_k(np.array([3, 1, 3, 2, 3]), 2).tolist() == [0, 2]
    assert select.top_k(np.array([1.5, 2.5, 2.5]), 1).tolist() == [1]
    assert select.top_k([5, 5], 2).tolist() == [0, 1]


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_outside_the_rows_is_refused(k):
    with pytest.raises(InputError, match=f"k = {k} of 3 rows"):
        select.top_k(np.array([1, 2, 3]), k)


@quick
@given(few_lengths.filter(bool), st.data())
def test_a_stream_in_any_order_and_batches_keeps_the_same_rows(values, data):
    k = data.draw(st.integers(1, len(values)))
    kept = topk.Longest(k)
    for batch in _batches(data.draw(st.permutations(range(len(values)))), data):
        kept.add(np.array([values[i] for i in batch]), np.array(batch))
    _check(kept, values, k)


@quick
@given(few_lengths.filter(bool), st.data())
def test_merged_partitions_keep_the_same_rows(values, data):
    k = data.draw(st.integers(1, len(values)))
    parts = []
    for batch in _batches(data.draw(st.permutations(range(len(values)))), data):
        part = topk.Longest(k)
        for piece in _batches(batch, data):
            part.add(np.array([values[i] for i in piece]), np.array(piece))
        parts.append(part)
    first, *others = parts
    for other in others:
        first.merge(other)
    _check(first, values, k)


def _batches(ids, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(ids) - 1)), max_size=5)))
    pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    return [piece for piece in pieces if piece]


def _check(kept, values, k):
    assert kept.ids.tolist() == _by_sorting(values, k)
    assert kept.lengths.tolist() == [values[i] for i in kept.ids]
    assert kept.n == len(values)
    assert kept.threshold == sorted(values, reverse=True)[k - 1]
    assert kept.ties == _ties(values, k)


def test_before_k_rows_have_come_everything_is_kept():
    kept = topk.Longest(3)
    kept.add(np.array([5, 1]), np.array([0, 1]))
    assert (kept.ids.tolist(), kept.threshold) == ([0, 1], -np.inf)


def test_none_of_a_stream():
    kept = topk.Longest(0)
    kept.add(np.array([5, 1]), np.array([0, 1]))
    assert (kept.ids.tolist(), kept.n) == ([], 2)
    assert topk.longest(["a", "bb"], 0, "nltk_words").tolist() == []


def test_streams_of_different_k_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge the 2 longest into the 3 longest"):
        topk.Longest(3).merge(topk.Longest(2))


@pytest.mark.parametrize("measure", ["nltk_words", "words", "chars", "bytes"])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text("a b.\n", max_size=10), max_size=40), data=st.data())
def test_longest_is_top_k_of_the_counts(measure, texts, data):
    k = data.draw(st.integers(0, len(texts)))
    expected = topk.top_k(lengths.count(texts, measure), k)
    assert topk.longest(texts, k, measure).tolist() == expected.tolist()


def test_longest_of_more_than_there_are_is_refused():
    with pytest.raises(InputError, match="k = 3 of 2 rows"):
        topk.longest(["a", "bb"], 3, "nltk_words")


def _counted(monkeypatch):
    """Texts that are counted exactly from now on."""
    seen, count = [], lengths.count
    monkeypatch.setattr(lengths, "count", lambda some, *rest: seen.extend(some) or count(some, *rest))
    return seen


def test_texts_whose_bound_is_too_low_are_not_counted(monkeypatch):
    texts = ["one two three four five"] * 3 + ["a"] * 5000
    seen = _counted(monkeypatch)
    kept = topk.Longest(2)
    topk.add_texts(kept, texts, 0, "nltk_words")
    topk.add_texts(kept, texts, len(texts), "nltk_words")
    assert kept.ids.tolist() == [0, 1]
    assert (kept.n, kept.ties) == (2 * len(texts), (6, 2))
    assert seen == texts[:3] * 2, "what ties with the shortest kept, too"


def test_texts_are_counted_when_all_have_been_seen(monkeypatch):
    """One batch alone would have k rows of its own counted; the longest come last here."""
    seen = _counted(monkeypatch)
    kept = topk.Longest(2)
    candidates = topk.Candidates(kept, "nltk_words")
    for batch in range(10):
        candidates.add_texts(["word " * batch + "a.-b word"] * 50, 50 * batch)
    assert (kept.n, len(candidates._held.ids), seen) == (500, 150, [])
    candidates.settle()
    assert (kept.ids.tolist(), kept.threshold, kept.ties, kept.n) == ([450, 451], 11, (50, 2), 500)
    assert len(seen) == 150, "two batches have 9 and 10 words and bounds of 11 and 12"


def test_a_text_whose_bound_just_reaches_the_threshold_is_counted():
    """Row 0 has the lowest bound, ties with all the others, and has the lowest id."""
    texts = ["a"] + ["o'clock"] * 2000
    assert lengths.upper_bound(texts[:2], "nltk_words").tolist() == [1, 2]
    kept = topk.Longest(1)
    topk.add_texts(kept, texts, 0, "nltk_words")
    assert (kept.ids.tolist(), kept.ties) == ([0], (2001, 1))


# Exact, below their bound ("o'clock", "a.-b a"), and above their words ("a,b").
some_texts = st.lists(st.sampled_from(["a ", "o'clock ", "a.-b a ", "gonna ", "(b) ", "\n", "a,b "]), max_size=6)
rows_of_turns = st.lists(st.lists(some_texts.map("".join), min_size=1, max_size=3), min_size=1, max_size=40)


@pytest.mark.parametrize("rule", ["sum", "mean", "first", "last"])
@settings(max_examples=150, deadline=None)
@given(turns=rows_of_turns, held=st.sampled_from([0, 40, topk.Candidates.HELD]), data=st.data())
def test_candidates_are_as_if_every_row_were_counted(rule, turns, held, data):
    k = data.draw(st.integers(1, len(turns)))
    every = topk.Longest(k)
    every.add(topk.per_row(turns, rule, lambda texts: lengths.count(texts, "nltk_words")), np.arange(len(turns)))
    kept = topk.Longest(k)
    candidates = topk.Candidates(kept, "nltk_words", rule=rule)
    candidates.HELD = held
    for ids in _batches(list(range(len(turns))), data):
        batch, is_single = [turns[i] for i in ids], all(len(turns[i]) == 1 for i in ids)
        if is_single and data.draw(st.booleans()):
            texts = [texts[0] for texts in batch]
            candidates.add_texts(pa.array(texts) if data.draw(st.booleans()) else texts, ids[0])
        else:
            candidates.add_turns(batch, ids[0])
    candidates.settle()
    _same(kept, every)


@pytest.mark.parametrize("measure", ["words", "chars", "bytes"])
def test_candidates_of_a_measure_without_a_bound_are_counted_at_once(measure):
    turns = [["a bb", "c"], ["é"], ["d e f g"]]
    kept, every = topk.Longest(2), topk.Longest(2)
    topk.Candidates(kept, measure).add_turns(turns, 0)
    every.add(topk.per_row(turns, "sum", lambda texts: lengths.count(texts, measure)), np.arange(3))
    _same(kept, every)


def _same(kept, every):
    assert kept.ids.tolist() == every.ids.tolist()
    assert kept.lengths.tolist() == every.lengths.tolist()
    assert (kept.n, kept.threshold, kept.ties) == (every.n, every.threshold, every.ties)


@quick
@given(few_lengths.filter(bool), st.data())
def test_a_floor_is_reached_by_the_k_longest(values, data):
    """Whatever is held or counted, at least k rows are as long as the floor says."""
    k = data.draw(st.integers(1, len(values) + 1))
    candidates = topk.Candidates(topk.Longest(k), "nltk_words")
    texts = ["a.-b " + "a " * value for value in values]
    candidates.add_texts(texts, 0)
    if data.draw(st.booleans()):
        candidates.settle()
    assert (lengths.count(texts, "nltk_words") >= candidates.floor).sum() >= min(k, len(values))


@pytest.mark.parametrize(
    ("rule", "expected"), [("sum", [6, 5, 0]), ("mean", [2.0, 5.0, 0.0]), ("first", [1, 5, 0]), ("last", [3, 5, 0])]
)
def test_length_of_turns(rule, expected):
    turns = [["a", "bb", "ccc"], ["ddddd"], [""]]
    assert topk.per_row(turns, rule, lambda texts: lengths.count(texts, "chars")).tolist() == expected
