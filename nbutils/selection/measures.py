"""Which measure fits a text, and counting Arrow's string arrays without turning them into Python's.

Words are told apart by spaces, which Chinese, Japanese, Thai and their like do not write: there every text is one word.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from nbutils.data.tokens import is_arrow
from nbutils.selection.topk import Numbers

AUTO = "auto"
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""A letter of Thai, Lao, Tibetan, Burmese, Khmer, Japanese or Chinese."""

SAMPLED = 200
_BLANKS = np.zeros(256, dtype=bool)
_BLANKS[[*range(9, 14), *range(28, 33)]] = True


class Scripts:
    """Counts letters of scripts without spaces among all that is no space, in a sample of each batch."""

    def __init__(self) -> None:
        self.spaceless = self.letters = 0

    def add(self, texts: Any) -> None:
        """Look at some rows of a batch, evenly from all of it: an Arrow array, or a text or several texts a row."""
        sample = texts[:: max(1, len(texts) // SAMPLED)]
        rows = sample.to_pylist() if is_arrow(sample) else sample
        for text in (text for row in rows for text in ([row] if isinstance(row, str) else row)):
            self.letters += len(text) - text.count(" ")
            self.spaceless += len(SPACELESS.findall(text)) if not text.isascii() else 0

    @property
    def are_spaceless(self) -> bool:
        """Whether most of the text is of such scripts."""
        return self.spaceless * 2 > self.letters


def choose_measure(batches: Iterable[Any]) -> str:
    """What `auto` stands for: `chars` where most of the text is in scripts without spaces, else `nltk_words`."""
    scripts = Scripts()
    for batch in batches:
        scripts.add(batch)
    return "chars" if scripts.are_spaceless else "nltk_words"


def say_misfit(measure: str, scripts: Scripts, ties: int, rows: int) -> str | None:
    """What is wrong with counting words here, and the mend; None where nothing is.

    ties: how many of the rows are exactly as long as the threshold.
    """
    if measure not in ("nltk_words", "words"):
        return None
    mend = "count with --measure chars or --measure tokens (or --measure auto)"
    if scripts.are_spaceless:
        return (
            f"most of the text is in a script that puts no spaces between words, which {measure} cannot count: {mend}"
        )
    if rows >= 20 and ties * 2 > rows:
        return f"{ties:,} of {rows:,} rows are as long as the threshold, so {measure} hardly tells them apart: {mend}"
    return None


def count_array(texts: Any, measure: str) -> Numbers | None:
    """Lengths of an Arrow string array under `chars`, `bytes` or `words`, exactly as `lengths.count` gives them.

    None for another measure. Shape (len(texts),), int64.
    """
    import pyarrow.compute as pc

    if measure in ("chars", "bytes"):
        counted = pc.call_function("utf8_length" if measure == "chars" else "binary_length", [texts])
        return counted.to_numpy(zero_copy_only=False).astype(np.int64)
    return _count_words(texts) if measure == "words" else None


def _count_words(texts: Any) -> Numbers:
    """Words as `str.split` finds them: each begins where a byte that is no white space follows one that is."""
    _, places, content = texts.buffers()
    kind = np.int64 if str(texts.type).startswith("large") else np.int32
    offsets = np.frombuffer(places, dtype=kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    if content is None or not len(texts):
        return np.zeros(len(texts), dtype=np.int64)
    start = int(offsets[0])
    data = np.frombuffer(content, dtype=np.uint8)[start : int(offsets[-1])]
    offsets = offsets - start
    blank = _BLANKS[data]
    begins = ~blank
    begins[1:] &= blank[:-1]
    edges = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins[edges] = ~blank[edges]
    counts = np.diff(np.searchsorted(np.flatnonzero(begins), offsets))
    for row in _rows_with_wide_blanks(data, offsets):
        counts[row] = len(texts[int(row)].as_py().split())
    return counts


def _rows_with_wide_blanks(data: Numbers, offsets: Numbers) -> Numbers:
    """Rows that may hold white space of several bytes: U+0085, U+00A0, U+1680, U+2000 to U+205F, U+3000."""
    lead = np.flatnonzero(data >= 0xC2)
    lead = lead[lead + 1 < len(data)]
    pairs = data[lead].astype(np.int32) << 8 | data[lead + 1]
    wide = lead[np.isin(pairs, [0xC285, 0xC2A0, 0xE19A, 0xE280, 0xE281, 0xE380])]
    third = data[np.minimum(wide + 2, len(data) - 1)]
    is_other = (data[wide] == 0xE2) & (data[wide + 1] == 0x80) & ~np.isin(third, [*range(0x80, 0x8B), 0xA8, 0xA9, 0xAF])
    return np.unique(np.searchsorted(offsets, wide[~is_other], side="right") - 1)
