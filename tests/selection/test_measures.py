"""Which measure fits a text, and counting without Python's strings."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbutils import lengths
from nbutils.selection import measures

# Every white space that Python's `split` knows, and neighbours of them that are none.
BLANKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
BLANKS += "".join(map(chr, range(0x2000, 0x200B)))
NEAR = "\x1b\x21\x84\x86\x9f\xa1\u1681\u200b\u2027\u202a\u2030\u2060\u3001"
hostile = st.text(st.sampled_from(BLANKS + NEAR + "ab€😈語") | st.characters(exclude_categories=["Cs"]), max_size=30)


def test_the_blanks_are_all_that_there_are():
    assert set(BLANKS) == {character for character in map(chr, range(0x110000)) if character.isspace()}


@settings(deadline=None)  # the first call imports Arrow's kernels
@given(st.lists(hostile, max_size=8), st.sampled_from(["words", "chars", "bytes"]), st.booleans(), st.integers(0, 3))
@example(["", "", " ", "a"], "words", True, 0)
@example(["a\u2003b", "a\u2019s", "\u3000"], "words", False, 1)
def test_arrays_are_counted_as_texts_are(texts, measure, is_large, start):
    array = pa.array(texts, pa.large_string() if is_large else pa.string())[start:]
    assert measures.count_array(array, measure).tolist() == lengths.count(texts[start:], measure).tolist()


def test_other_measures_are_not_counted_so():
    assert measures.count_array(pa.array(["a"]), "nltk_words") is None


ENGLISH = ["The rain in Spain stays mainly in the plain."] * 40
CHINESE = ["西班牙的雨主要落在平原上。"] * 40
THAI = ["ฝนในสเปนตกส่วนใหญ่บนที่ราบ"] * 40


@pytest.mark.parametrize(
    ("texts", "measure"),
    [(ENGLISH, "nltk_words"), (CHINESE, "chars"), (THAI, "chars"), (ENGLISH + CHINESE, "nltk_words")],
)
def test_auto_goes_by_the_script(texts, measure):
    assert measures.choose_measure([texts]) == measure
    assert measures.choose_measure([pa.array(texts)]) == measure
    assert measures.choose_measure([[text] for text in texts]) == measure


def test_auto_is_the_papers_measure_on_alpaca(alpaca):
    assert measures.choose_measure([[row.response for row in alpaca]]) == "nltk_words"


def _scripts(texts):
    scripts = measures.Scripts()
    scripts.add(texts)
    return scripts


def test_a_misfit_is_said_with_its_mend():
    assert measures.say_misfit("words", _scripts(ENGLISH), ties=3, rows=40) is None
    assert measures.say_misfit("chars", _scripts(CHINESE), ties=40, rows=40) is None
    cases = [(CHINESE, 1, "a script that puts no spaces between words"), (ENGLISH, 21, "21 of 40 rows are as long as")]
    for texts, ties, why in cases:
        said = measures.say_misfit("nltk_words", _scripts(texts), ties, 40)
        assert why in said and "--measure chars or --measure tokens" in said


def test_counts_are_whole_numbers_of_64_bits():
    assert measures.count_array(pa.array(["a b", ""]), "words").dtype == np.int64
