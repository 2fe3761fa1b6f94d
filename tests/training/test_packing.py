"""Steps, rows and weights of the packed training, as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.core.errors import InputError
from nbutils.training import packing

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def test_the_papers_run_makes_105_updates_and_a_naive_one_120():
    carried = packing.plan_steps(1000, 128, 15, "carry", seed=42)
    assert len(carried) == 105
    assert {len(step) for step in carried} == {128}
    assert sum(map(len, carried)) / 1000 == 13.44
    short = packing.plan_steps(1000, 128, 15, "short", seed=42)
    assert len(short) == 120
    assert [len(step) for step in short[:8]] == [128] * 7 + [104]
    assert sum(map(len, short)) == 15_000


@given(
    st.integers(1, 40), st.integers(1, 50), st.integers(1, 5), st.sampled_from(["carry", "short"]), st.integers(0, 9)
)
def test_every_epoch_takes_every_row_once(rows, size, epochs, end, seed):
    steps = packing.plan_steps(rows, size, epochs, end, seed)
    stream = np.concatenate(steps)
    for start in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    rest = stream[len(stream) // rows * rows :]
    assert len(set(rest)) == len(rest)
    if end == "short" or rows <= size:
        assert len(stream) == rows * epochs
    else:
        assert {len(step) for step in steps} == {size}
        assert len(steps) == epochs * (rows // size)


def test_epochs_differ_and_the_seed_decides():
    one, again, other = (np.concatenate(packing.plan_steps(50, 50, 2, "carry", seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[:50], one[50:])


@given(LENGTHS, st.integers(1, 5))
def test_rows_hold_every_example_once_within_the_capacity(lengths, processes):
    rows = packing.pack_rows(lengths, 100, processes)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)
    assert len(rows) % processes == 0 or max(map(len, rows)) == 1


@given(LENGTHS)
def test_first_fit_leaves_no_two_rows_that_would_fit_in_one(lengths):
    rows = packing.pack_rows(lengths, 100)
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(filled) < 2 or filled[0] + filled[1] > 100


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="101 tokens does not fit rows of 100: raise tokens_per_row"):
        packing.pack_rows([3, 101], 100)


@given(LENGTHS, st.sampled_from(packing.WEIGHTINGS))
def test_the_weights_of_a_steps_tokens_sum_to_one(trained, weighting):
    assert np.dot(packing.token_weights(trained, weighting), trained) == pytest.approx(1)


def test_the_three_weightings_by_hand():
    trained = [1, 3, 4]
    assert packing.token_weights(trained, "token") == pytest.approx([1 / 8] * 3)
    assert packing.token_weights(trained, "example") == pytest.approx([1 / 3, 1 / 9, 1 / 12])
    assert packing.token_weights(trained, "paper") == pytest.approx([1 / 8, 1 / 8, 1 / 8])
    assert packing.token_weights([1, 3, 4, 4], "paper") == pytest.approx([1 / 8, 1 / 8, 1 / 16, 1 / 16])
    assert packing.token_weights([2, 2, 6], "paper") == pytest.approx([1 / 8, 1 / 8, 1 / 12])
    with pytest.raises(InputError, match="unknown loss_weighting 'mean'"):
        packing.token_weights(trained, "mean")
