"""How long is a response? Exact counts under five measures, and sound upper bounds that let a top-k skip rows.

The paper's own measure is `nltk_words`: the number of tokens of `nltk.word_tokenize` (English punkt sentences, then
NLTK's word tokenizer). It reproduces the published selection to the last id; no other measure does.
"""

import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import data
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.data.tokens import Lengths, count_bytes, from_iterable, token_counter

MEASURES = ("nltk_words", "words", "chars", "bytes", "tokens")
EXACT_NLTK = ("3.9.1", "3.9.2")  # the same counts on all of Alpaca-52k
NLTK_WITHOUT_PUNKT = (
    "nltk_words is approximate: no punkt parameters were found (`python -m nbutils.data fetch punkt`, or set "
    "NLTK_DATA). An untrained punkt splits sentences instead; on Alpaca-52k it changes {rows} of 52,002 counts and "
    "{ids} of the 1,000 longest ids."
)
# Measured on Alpaca-52k with nltk 3.9.2 by tests/test_lengths.py: rows counted differently, ids that differ.
UNTRAINED_PUNKT_COST = {"rows": 585, "ids": 0}


def count(texts: Sequence[str], measure: str, tokenizer: Any = None) -> Lengths:
    """Length of every text under a measure, as int64 of shape (len(texts),).

    measure: `nltk_words` (the paper's), `words` (split at white space), `chars` (Unicode code points), `bytes`
    (UTF-8), `tokens` (of `tokenizer`, special tokens not added; Llama-2's when none is given).
    Raises InputError for an unknown measure.
    """
    check_measure(measure)
    if measure == "tokens":
        return token_counter(tokenizer).count(texts)
    if measure == "bytes":
        return count_bytes(texts)
    if measure == "nltk_words":
        split_sentences, split_words = nltk_tokenizers()
        words = (sum(len(split_words(part)) for part in split_sentences(text)) for text in texts)
        return from_iterable(words, len(texts))
    return from_iterable((len(text) if measure == "chars" else len(text.split()) for text in texts), len(texts))


def count_again(texts: Sequence[str], measure: str) -> Lengths:
    """`count`, remembered on disk by the texts' content: every stage and every arm asks for the same pools."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(content) + content)  # a text may hold any separator itself
    made_by = (measure, library_version(measure), _punkt_folder() is None, digest.hexdigest())
    return disk.remembered_array("lengths", made_by, functools.partial(count, texts, measure))


def check_measure(measure: str) -> str:
    """Return the measure, or raise InputError naming the known ones."""
    if measure not in MEASURES:
        raise InputError(f"unknown measure '{measure}': choose one of {', '.join(MEASURES)}")
    return measure


def upper_bound(texts: Sequence[str], measure: str, tokenizer: Any = None) -> Lengths | None:
    """A cheap bound that no length exceeds, or None where none is known to be sound.

    An NLTK token uses up at least one character that is not a space. A byte-fallback BPE token covers at least one
    UTF-8 byte of the text, or the one space that Llama's normaliser puts in front.
    """
    if measure == "nltk_words":
        return from_iterable((len(text) - text.count(" ") for text in texts), len(texts))
    return token_counter(tokenizer).upper_bound(texts) if measure == "tokens" else None


def library_version(measure: str) -> str:
    """The library and version that define a measure, for manifests."""
    import importlib.metadata as metadata

    library = {"nltk_words": "nltk", "tokens": "tokenizers"}.get(measure)
    return f"{library} {metadata.version(library)}" if library else "python"


def has_punkt() -> bool:
    """Whether punkt's English parameters are at hand, so that `nltk_words` is the paper's measure exactly."""
    return _punkt_folder() is not None


def nltk_tokenizers() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """The sentence and the word splitter that `nltk.word_tokenize` is made of.

    Warns once when punkt's parameters are missing (the untrained splitter is then used) or when nltk is not the
    version with which the published selection was reproduced.
    """
    if (folder := _punkt_folder()) is None:
        _ask_for_punkt()
        folder = _punkt_folder()
    return _make_tokenizers(folder)


@functools.cache
def _ask_for_punkt() -> None:
    # Once a process: every count of a machine without punkt comes by here.
    data.can_obtain("punkt")


@functools.cache
def _make_tokenizers(punkt_folder: str | None) -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    import nltk
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer, load_punkt_params

    if nltk.__version__ not in EXACT_NLTK:
        warnings.warn(
            f"nltk {nltk.__version__}: the published selection is exact with {EXACT_NLTK[-1]}; newer versions differ "
            "in 1 id of 1,000 because dashes became tokens",
            stacklevel=2,
        )
    punkt = PunktSentenceTokenizer()
    if punkt_folder:
        punkt._params = load_punkt_params(punkt_folder)
    else:
        warnings.warn(NLTK_WITHOUT_PUNKT.format(**UNTRAINED_PUNKT_COST), stacklevel=2)
    return punkt.tokenize, NLTKWordTokenizer().tokenize


def _punkt_folder() -> str | None:
    """Where punkt's English tables lie: NLTK_DATA and nltk's own places first, then the project's sources."""
    places = filter(Path.is_dir, map(Path, nltk_folders()))
    found = [place / "tokenizers" / "punkt_tab" / "english" for place in places]
    found += data.locate("punkt") or []
    return next((str(folder) for folder in found if (folder / "abbrev_types.txt").is_file()), None)


def nltk_folders() -> list[str]:
    """`nltk.data.path`, where nltk looks for its data; known without nltk, whose import takes two seconds."""
    if "nltk" in sys.modules:
        from nltk.data import path

        return list(path)
    named = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    home = str(Path.home() / "nltk_data")
    installed = [f"{sys.prefix}/{place}nltk_data" for place in ("", "share/", "lib/")]
    system = [f"/usr/{place}/nltk_data" for place in ("share", "local/share", "lib", "local/lib")]
    return [*named, home, *installed, *system]


def trained_tokens(texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that responses add to the loss, the end-of-sequence token counted (Llama-2's, else NLTK words)."""
    return count_again(texts, trained_measure()) + 1


def trained_measure() -> str:
    """The measure that trained tokens are counted by: Llama-2 tokens where its tokenizer is at hand, else words."""
    return "tokens" if data.is_at_hand("llama2-tokenizer") else "nltk_words"
