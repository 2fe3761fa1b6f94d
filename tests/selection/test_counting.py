"""Counting in several processes: the same lengths, and processes only where they pay."""

import time

import numpy as np
import pytest

from nbutils import lengths
from nbutils.selection import counting

TEXTS = ["a (b) " * (number * 7919 % 61) for number in range(300)]
MARK = 1_000_000


def _count_with_a_mark(texts):
    return lengths.count(texts, "nltk_words") + MARK


def test_other_processes_take_part_and_every_text_gets_its_own_length(monkeypatch):
    monkeypatch.setattr(counting, "WORTH_STARTING", 0)
    monkeypatch.setattr(counting, "_count_in_worker", _count_with_a_mark)
    with counting.counting("nltk_words", None, None, 3) as count:
        alone = count._alone
        count._alone = lambda texts: time.sleep(0.05) or alone(texts)  # the others have time to begin
        counts = count(TEXTS)
    assert (counts % MARK).tolist() == lengths.count(TEXTS, "nltk_words").tolist()
    assert (counts >= MARK).sum() > 0, "none was counted by another process"


def test_few_texts_start_no_process(monkeypatch):
    monkeypatch.setattr(counting, "_count_in_worker", _count_with_a_mark)
    with counting.counting("nltk_words", None, None, 2) as count:
        counts = [count(some).tolist() for some in (TEXTS, [])]
        assert not count._is_started
    assert counts == [lengths.count(TEXTS, "nltk_words").tolist(), []]


@pytest.mark.parametrize("measure", ["words", "chars", "bytes"])
def test_measures_that_cost_little_are_counted_here(measure, monkeypatch):
    monkeypatch.setattr(counting, "WORTH_STARTING", 0)
    monkeypatch.setattr(counting, "ProcessPoolExecutor", None)
    with counting.counting(measure, None, None, 2) as count:
        assert np.array_equal(count(TEXTS), lengths.count(TEXTS, measure))
