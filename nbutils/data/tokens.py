"""Exact token counts that tokenise every different word once, and a bound that lets a top-k skip rows."""

import itertools
import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from nbutils.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow

Lengths = np.ndarray[Any, np.dtype[np.int64]]
Texts: TypeAlias = "Sequence[str] | pyarrow.Array"
"""Python's strings, or an Arrow array of strings."""


def from_iterable(values: Iterable[int], size: int) -> Lengths:
    """Lengths from an iterable of known size."""
    return np.fromiter(values, dtype=np.int64, count=size)


def count_bytes(texts: Sequence[str]) -> Lengths:
    """UTF-8 bytes of every text; a lone surrogate, which can come out of JSON, has three as in WTF-8."""
    return from_iterable((len(text.encode("utf-8", "surrogatepass")) for text in texts), len(texts))


def is_arrow(texts: Texts) -> "TypeGuard[pyarrow.Array]":
    """Whether texts lie in an Arrow array (asked without importing Arrow)."""
    return hasattr(texts, "to_pylist")


def take_texts(texts: Texts, rows: Lengths) -> list[str]:
    """The texts of these rows, as Python's strings."""
    return texts.take(rows).to_pylist() if is_arrow(texts) else [texts[row] for row in rows]


class WordTable(NamedTuple):
    """Texts cut at every space: each different word once (an Arrow array), and every text as a run of word codes.

    A leading space or a run of spaces shows as an empty word. The words themselves can be texts of such a table.
    """

    words: Any
    codes: Lengths
    offsets: Lengths

    def sum(self, values: Lengths) -> Lengths:
        """Per text, the sum of one value per word."""
        totals = np.concatenate([[0], np.cumsum(values[self.codes])])
        return totals[self.offsets[1:]] - totals[self.offsets[:-1]]

    def rows_with(self, is_meant: Any) -> Lengths:
        """Numbers of the texts that have a word for which the Arrow predicate array holds."""
        meant = np.flatnonzero(is_meant.to_numpy(zero_copy_only=False))
        places = np.flatnonzero(np.isin(self.codes, meant)) if len(meant) else meant
        return np.unique(np.searchsorted(self.offsets, places, side="right") - 1)


def word_table(texts: Texts) -> WordTable:
    """Cut texts (a sequence or an Arrow array) at every space, by Arrow's kernels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = texts.cast(pa.large_string()) if is_arrow(texts) else pa.array(texts, pa.large_string())
    split = pc.split_pattern(array, " ")
    coded = split.flatten().dictionary_encode()
    offsets = split.offsets.to_numpy().astype(np.int64)
    return WordTable(coded.dictionary, coded.indices.to_numpy().astype(np.int64), offsets - offsets[0])


class TokenCounter:
    """Exact token counts of a `tokenizers.Tokenizer` (or of a transformers tokenizer that wraps one).

    Llama-2's BPE can be counted word by word: no vocabulary entry has a space after a non-space, so no merge crosses
    that border and counts add up. The property is verified on the vocabulary here; a tokenizer without it, and any
    text that spells a special token or the space's stand-in, is tokenised as it is.
    """

    SPACE = "\u2581"
    FREQUENT = 20_000
    REMEMBERED = 200_000

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        whole = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if whole.truncation or whole.padding:  # a transformers call leaves both switched on
            whole = Tokenizer.from_str(whole.to_str())
            whole.no_truncation()
            whole.no_padding()
        vocabulary = whole.get_vocab(with_added_tokens=False)
        self._whole = whole
        self._words: Any = _word_tokenizer(whole, vocabulary)
        # Words are cut between an ASCII letter and a sign that never follows one in any entry: no merge crosses that.
        joined = set(re.findall("[A-Za-z]([^A-Za-z\0])", "\0".join(vocabulary)))
        signs = "".join(sign for sign in string.punctuation + "\n" if sign not in joined)
        self._border = f"([A-Za-z])([{re.escape(signs)}])" if signs else ""
        added = whole.get_added_tokens_decoder().values()
        self._irregular = "|".join(map(re.escape, [self.SPACE, *(token.content for token in added)]))
        # Text is cut at these before it is normalised: each piece gets a stand-in for a space of its own in front.
        self._one_byte = [token.content for token in added if not token.normalized and len(token.content.encode()) == 1]
        self._counts: dict[str, int] = {}

    @property
    def is_exact_by_words(self) -> bool:
        """Whether the vocabulary allows counting word by word (and bounding by bytes)."""
        return self._words is not None

    def count(self, texts: Sequence[str]) -> Lengths:
        """Tokens of every text, special tokens not added."""
        _refuse_surrogates(texts)
        if not self.is_exact_by_words:
            return self._count_whole(texts)
        table = word_table(texts)
        pieces = self._cut(table.words)
        lengths = table.sum(pieces.sum(self._count_pieces(pieces.words.to_pylist())))
        spaced, irregular = self._exceptions(table)
        split = [split_words(texts[row]) for row in spaced]
        self._count_pieces(list(itertools.chain.from_iterable(split)))
        lengths[spaced] = [sum(map(self._counts.__getitem__, words)) for words in split]
        # After the others: a text can be irregular as well as spaced.
        lengths[irregular] = self._count_whole([texts[row] for row in irregular])
        return lengths

    def upper_bound(self, texts: Texts) -> Lengths | None:
        """Bound per text: exact counts for frequent pieces, bytes for the others; None where unsound."""
        import pyarrow.compute as pc

        if not self.is_exact_by_words:
            return None
        if not is_arrow(texts):
            _refuse_surrogates(texts)
        table = word_table(texts)
        pieces = self._cut(table.words)
        starts_word = pc.starts_with(pieces.words, self.SPACE).to_numpy(zero_copy_only=False)
        of_pieces = pc.binary_length(pieces.words).to_numpy().astype(np.int64) - 2 * starts_word
        times = np.repeat(np.bincount(table.codes, minlength=len(table.words)), np.diff(pieces.offsets))
        frequent = np.argsort(-np.bincount(pieces.codes, weights=times), kind="stable")[: self.FREQUENT]
        of_pieces[frequent] = self._count_pieces(pieces.words.take(frequent).to_pylist())
        bounds = table.sum(pieces.sum(of_pieces))
        spaced, irregular = self._exceptions(table)
        for row, text in zip(spaced, take_texts(texts, spaced), strict=True):
            # The stand-in for a space has three bytes and is one token at most.
            words = split_words(text)
            bounds[row] = sum(self._counts.get(w) or len(w.encode()) - 2 * w.count(self.SPACE) for w in words)
        bounds[irregular] = self._bound_whole(take_texts(texts, irregular))
        return bounds

    def _bound_whole(self, texts: Sequence[str]) -> Lengths:
        """Bounds for texts that the whole tokenizer cuts at added tokens.

        A token covers a byte at least, or the stand-in that is put before a piece of text. Every added token opens at
        most one more piece; it makes up for that where it has two bytes itself. One that is looked for in normalised
        text opens none.
        """
        further = from_iterable((sum(map(text.count, self._one_byte)) for text in texts), len(texts))
        return count_bytes(texts) + 1 + further

    def _exceptions(self, table: WordTable) -> tuple[Lengths, Lengths]:
        """Numbers of the texts with a run of spaces, and of those that only the whole tokenizer can count."""
        import pyarrow.compute as pc

        spaced = table.rows_with(pc.equal(table.words, ""))
        return spaced, table.rows_with(pc.match_substring_regex(table.words, self._irregular))

    def _count_whole(self, texts: Sequence[str]) -> Lengths:
        encodings = self._whole.encode_batch_fast(list(texts), add_special_tokens=False)
        return from_iterable(map(len, encodings), len(texts))

    def _cut(self, words: Any) -> WordTable:
        """Each word, with the stand-in for its space before it, cut at the borders inside it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        space, nothing = pa.scalar(self.SPACE, words.type), pa.scalar("", words.type)
        marked = pc.binary_join_element_wise(space, words, nothing)
        return word_table(pc.replace_substring_regex(marked, self._border, r"\1 \2") if self._border else marked)

    def _count_pieces(self, pieces: Sequence[str]) -> Lengths:
        if len(self._counts) > self.REMEMBERED:  # a long stream of rare words must not fill the memory
            self._counts.clear()
        new = list(set(pieces).difference(self._counts))
        encodings = self._words.encode_batch_fast(new, add_special_tokens=False)
        self._counts.update(zip(new, map(len, encodings), strict=True))
        return from_iterable(map(self._counts.__getitem__, pieces), len(pieces))


def split_words(text: str) -> list[str]:
    """Cut a text before each space that follows a non-space; spaces are written with Llama's stand-in."""
    pieces = re.findall(r" +[^ ]*", " " + text) if text else []
    return [piece.replace(" ", TokenCounter.SPACE) for piece in pieces]


def token_counter(tokenizer: Any = None) -> TokenCounter:
    """The counter of a tokenizer, made once per tokenizer; Llama-2's when none is given."""
    if tokenizer is None:
        from nbutils.data import load

        tokenizer = load.llama2_tokenizer()
    if isinstance(tokenizer, TokenCounter):
        return tokenizer
    return _counters.setdefault(id(tokenizer), (TokenCounter(tokenizer), tokenizer))[0]


# The tokenizer is kept beside its counter so that its id is not given to another object.
_counters: dict[int, tuple[TokenCounter, Any]] = {}


_SURROGATE = re.compile("[\ud800-\udfff]")


def has_surrogate(text: str) -> bool:
    """Whether a text holds a lone surrogate, half a character, which no tokenizer takes."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def _refuse_surrogates(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if has_surrogate(text):
            raise InputError(f"text {index} holds a lone surrogate, which is not valid Unicode: repair or remove it")


def _word_tokenizer(tokenizer: Any, vocabulary: Iterable[str]) -> Any:
    """The same model without normaliser and special tokens, or None where counting by words is not exact."""
    from tokenizers import Tokenizer

    model, space = tokenizer.model, TokenCounter.SPACE
    if type(model).__name__ != "BPE" or not model.byte_fallback or tokenizer.pre_tokenizer:
        return None
    if model.dropout or model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    prepend = {"type": "Prepend", "prepend": space}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": space}
    normalizer = tokenizer.normalizer and json.loads(tokenizer.normalizer.__getstate__())
    if normalizer != {"type": "Sequence", "normalizers": [prepend, replace]}:
        return None
    for token in tokenizer.get_added_tokens_decoder().values():
        # The second is found in text that spells a space where the token has the stand-in.
        if " " in token.content or (token.normalized and space in token.content):
            return None
    entries = set(vocabulary)
    singles = {f"<0x{byte:02X}>" for byte in range(256)} | {space}
    crosses = re.compile(f"[^{space}]{space}|<0x[0-9A-F]{{2}}>.|.<0x[0-9A-F]{{2}}>|\0", re.S)
    return Tokenizer(model) if singles <= entries and not any(map(crosses.search, entries)) else None
