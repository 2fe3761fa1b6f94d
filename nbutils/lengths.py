"""How long is a response? Exact counts under five measures, and sound upper bounds that let a top-k skip rows.

The paper's own measure is `nltk_words`: the number of tokens of `nltk.word_tokenize` (English punkt sentences, then
NLTK's word tokenizer). It reproduces the published selection to the last id; no other measure does.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import data
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.data.tokens import Lengths, Texts, count_bytes, from_iterable, is_arrow, token_counter

MEASURES = ("nltk_words", "words", "chars", "bytes", "tokens")
EXACT_NLTK = ("3.9.1", "3.9.2")  # the same counts on all of Alpaca-52k
NLTK_WITHOUT_PUNKT = (
    "nltk_words is approximate: no punkt parameters were found (`python -m nbutils.data fetch punkt`, or set "
    "NLTK_DATA). An untrained punkt splits sentences instead; on Alpaca-52k it changes {rows} of 52,002 counts and "
    "{ids} of the 1,000 longest ids."
)
# Measured on Alpaca-52k with nltk 3.9.2 by tests/test_lengths.py: rows counted differently, ids that differ.
UNTRAINED_PUNKT_COST = {"rows": 585, "ids": 0}
# Of nltk/tokenize/destructive.py and punkt.py, one after the other, in 3.9.1 and 3.9.2: what is proved here of these
# rules is used with no others.
RULES_SHA256 = (
    "0ee5750d05dba0ced5945f8ff6365fd7a8d89d662ce46bd3735b6b1ab8ace1e9",
    "c8544ceec59f7a1d3d780e54d260141c8aa61303690462275e4841ca4595d620",
)


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
        is_known = knows_nltk_rules()
        shorten = _shorten_gaps if is_known else str
        size = functools.partial(_count_sentence, split_words) if is_known else lambda part: len(split_words(part))
        words = (sum(map(size, split_sentences(shorten(text)))) for text in texts)
        return from_iterable(words, len(texts))
    return _count_words(texts) if measure == "words" else from_iterable(map(len, texts), len(texts))


def _count_words(texts: Sequence[str]) -> Lengths:
    return from_iterable((len(text.split()) for text in texts), len(texts))


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


def upper_bound(texts: Texts, measure: str, tokenizer: Any = None, threads: int = 1) -> Lengths | None:
    """A cheap bound that no length exceeds, or None where none is known to be sound.

    threads: how many may count at a time (for `nltk_words`).
    """
    if measure == "nltk_words":
        return _bound_nltk_words(texts, threads)
    return token_counter(tokenizer).upper_bound(texts) if measure == "tokens" else None


def lower_bound(texts: Sequence[str], measure: str) -> Lengths:
    """A cheap bound that no length falls below: NLTK never joins what white space parts. Zero where none is known."""
    if measure == "nltk_words" and knows_nltk_rules():
        return _count_words(texts)
    return np.zeros(len(texts), dtype=np.int64)


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
    return _make_tokenizers(prepare_nltk())


def prepare_nltk() -> str | None:
    """The folder of punkt's parameters, fetched if need be; warns as `nltk_tokenizers` does, without importing nltk."""
    if (folder := _punkt_folder()) is None:
        _ask_for_punkt()
        folder = _punkt_folder()
    _warn_of_nltk(folder)
    return folder


@functools.cache
def _ask_for_punkt() -> None:
    # Once a process: every count of a machine without punkt comes by here.
    data.can_obtain("punkt")


@functools.cache
def _make_tokenizers(punkt_folder: str | None) -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    with _hidden("scipy", "sklearn"):
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktSentenceTokenizer, load_punkt_params

    punkt = PunktSentenceTokenizer()
    if punkt_folder:
        punkt._params = load_punkt_params(punkt_folder)
    return punkt.tokenize, NLTKWordTokenizer().tokenize


@contextlib.contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Let no import find these: nltk asks for them, for what is not used here, and then takes two seconds to import."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@functools.cache
def _warn_of_nltk(punkt_folder: str | None) -> None:
    version = library_version("nltk_words")
    if version.removeprefix("nltk ") not in EXACT_NLTK:
        warnings.warn(
            f"{version}: the published selection is exact with {EXACT_NLTK[-1]}; newer versions differ "
            "in 1 id of 1,000 because dashes became tokens",
            stacklevel=2,
        )
    if not punkt_folder:
        warnings.warn(NLTK_WITHOUT_PUNKT.format(**UNTRAINED_PUNKT_COST), stacklevel=2)


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


@functools.cache
def knows_nltk_rules() -> bool:
    """Whether the nltk that is installed has the rules that the bounds on its counts were derived from."""
    found: Any = importlib.util.find_spec("nltk")  # not imported, which takes two seconds
    try:
        folder = Path(found.origin).with_name("tokenize")
        rules = b"".join((folder / name).read_bytes() for name in ("destructive.py", "punkt.py"))
    except (AttributeError, TypeError, OSError):
        return False
    return hashlib.sha256(rules).hexdigest() in RULES_SHA256


def _shorten_gaps(text: str) -> str:
    """The text with at most two spaces on end, of which NLTK makes the same tokens in linear time.

    Behind a full stop its rule for the last one tries every way to share out a run of spaces. No rule of the two
    splitters tells two spaces from more; punkt does tell one from two (`. . .`).
    """
    return re.sub("   +", "  ", text) if "   " in text else text


# What Python counts as white space, most of which RE2 does not; and signs that NLTK parts from their neighbours.
_SPACE = "\t-\r\x1c- \x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SIGNS = '«“‘„»”’"`;@#$%&?!*()\\[\\]{}<>'
_INNER = f"[^{_SPACE}{_SIGNS}'.,:-]"
_NLTK_PIECE = (
    rf"--|\.\.+|(?:-?\.?{_INNER}|'[mtsdnMTSDN]|'\w\w){_INNER}*(?:[-.]{_INNER}+|[:,][0-9]{_INNER}*)*|[{_SIGNS}'.,:-]"
)
# Python's re takes a dotless or dotted i for an i, and a long s for an s.
_NLTK_CONTRACTION = "(?i:cannot|d'ye|g[iıİ]mme|gonna|gotta|lemme|more'n|wanna|'t[iıİ][sſ]|'twa[sſ])"


def _bound_nltk_words(texts: Texts, threads: int) -> Lengths:
    """What NLTK can part at most, counted by Arrow.

    Its rules, and punkt's cuts, put spaces in and take none away. They do so beside a sign, which is a piece of its
    own here, but for these cases. A hyphen is parted only as one of a pair, from the left; a full stop only in a run,
    or where a sentence may end, so not before a letter; a colon or comma not before a digit. An apostrophe is parted
    from what follows only as one of a pair (which then stays whole: no more pieces than here), or before a single
    letter that is none of m, t, s, d and n. The n of n't is parted in place of the apostrophe. A contraction is parted
    within, and from what stands on both sides.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = texts.cast(pa.large_string()) if is_arrow(texts) else _arrow_texts(texts)
    if not knows_nltk_rules():  # a token of any version uses up at least one character that is not a space
        return pc.subtract(pc.utf8_length(array), pc.count_substring(array, " ")).to_numpy().astype(np.int64)

    def bound(part: Any) -> Lengths:
        pieces, contractions = (pc.count_substring_regex(part, rule) for rule in (_NLTK_PIECE, _NLTK_CONTRACTION))
        return pieces.to_numpy().astype(np.int64) + 3 * contractions.to_numpy()

    if threads == 1:
        return bound(array)
    size = -(-len(array) // (4 * threads)) or 1
    with ThreadPoolExecutor(threads) as pool:  # Arrow computes without Python's lock
        bounds = pool.map(bound, [array.slice(start, size) for start in range(0, len(array), size)])
        return np.concatenate([np.empty(0, dtype=np.int64), *bounds])


def _arrow_texts(texts: Sequence[str]) -> Any:
    """An Arrow array of texts; a lone surrogate, which it cannot hold, becomes another sign that is no letter."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        whole = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in texts]
        return pa.array(whole, pa.large_string())


# For each of NLTK's rules, in its order, before and after it puts a space on both sides of the text: the ASCII signs of
# which it needs one. The first of the later ones is for signs beyond ASCII alone. White space is drawn together for
# what follows it, and a quotation mark becomes two apostrophes, or two backticks.
_NEEDED_BEFORE = ("`", '"', '`"', "\"'", "'", ".", ":,", ":,", ".", ";@#$%&", ".", "?!", "'", "*", "[](){}<>", "-")
_NEEDED_AFTER = ("", "'", '"', "\"'", "\"'", "\"'")
_NEEDED = frozenset("".join((*_NEEDED_BEFORE, *_NEEDED_AFTER)))
_CONTRACTED = ("cannot", "d'ye", "gimme", "gonna", "gotta", "lemme", "more'n", "wanna", "'tis", "'twas")


def _count_sentence(split_words: Callable[[str], list[str]], text: str) -> int:
    """Words of a sentence as `split_words`, NLTK's splitter, parts it, by those of its rules that can find something.

    Nearly all sentences of Alpaca-52k are ASCII with few signs, and trying the other rules takes most of the time.
    """
    if not text.isascii():
        return len(split_words(text))
    before, after, contractions = _rules_for(_NEEDED.intersection(text))
    for rule, replacement in before:
        text = rule.sub(replacement, text)
    folded = text.lower()
    is_contracted = any(word in folded for word in _CONTRACTED)
    text = f" {text} "
    for rule, replacement in (*after, *contractions) if is_contracted else after:
        text = rule.sub(replacement, text)
    return len(text.split())


@functools.lru_cache(maxsize=4096)
def _rules_for(signs: frozenset[str]) -> tuple[list[Any], list[Any], list[Any]]:
    """Of NLTK's rules those that can find something in an ASCII text that has these of the needed signs."""
    from nltk.tokenize import NLTKWordTokenizer as Nltk

    before = [*Nltk.STARTING_QUOTES, *Nltk.PUNCTUATION, Nltk.PARENS_BRACKETS, Nltk.DOUBLE_DASHES]
    contractions = [(rule, r" \1 \2 ") for rule in (*Nltk.CONTRACTIONS2, *Nltk.CONTRACTIONS3)]

    def choose(rules: list[Any], needed: tuple[str, ...]) -> list[Any]:
        return [rule for rule, some in zip(rules, needed, strict=True) if signs.intersection(some)]

    return choose(before, _NEEDED_BEFORE), choose(Nltk.ENDING_QUOTES, _NEEDED_AFTER), contractions


def trained_tokens(texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that responses add to the loss, the end-of-sequence token counted (Llama-2's, else NLTK words)."""
    return count_again(texts, trained_measure()) + 1


def trained_measure() -> str:
    """The measure that trained tokens are counted by: Llama-2 tokens where its tokenizer is at hand, else words."""
    return "tokens" if data.is_at_hand("llama2-tokenizer") else "nltk_words"
