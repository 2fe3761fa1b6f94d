"""The k longest of a list and of a stream, against a sort."""

import numpy as np
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


def test_texts_whose_bound_is_too_low_are_not_counted(monkeypatch):
    texts = ["one two three four five"] * 3 + ["a"] * 5000
    seen = []
    count = lengths.count
    monkeypatch.setattr(lengths, "count", lambda some, *rest: seen.extend(some) or count(some, *rest))
    kept = topk.Longest(2)
    topk.add_texts(kept, texts, 0, "nltk_words")
    topk.add_texts(kept, texts, len(texts), "nltk_words")
    assert kept.ids.tolist() == [0, 1]
    assert (kept.n, kept.ties) == (2 * len(texts), (6, 2))
    assert len(seen) == 1000 + 3, "the first step of the first batch, and then only what reaches the threshold"


def test_a_text_whose_bound_just_reaches_the_threshold_is_counted():
    """Row 0 has the lowest bound, ties with all the others, and has the lowest id."""
    texts = ["a"] + ["ab"] * 2000
    kept = topk.Longest(1)
    topk.add_texts(kept, texts, 0, "nltk_words")
    assert (kept.ids.tolist(), kept.ties) == ([0], (2001, 1))


@pytest.mark.parametrize(
    ("rule", "expected"), [("sum", [6, 5, 0]), ("mean", [2.0, 5.0, 0.0]), ("first", [1, 5, 0]), ("last", [3, 5, 0])]
)
def test_length_of_turns(rule, expected):
    turns = [["a", "bb", "ccc"], ["ddddd"], [""]]
    assert topk.per_row(turns, rule, lambda texts: lengths.count(texts, "chars")).tolist() == expected
