"""Every measure against hand-checked values and against brute force."""

import itertools
import json
import os
import random
import re
import string
import subprocess
import sys
import time

import nltk
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from nbutils import lengths, select
from nbutils.core.errors import InputError
from nbutils.data import tokens
from nbutils.selection import parts, topk

PUBLISHED_IDS = "b6691885e9c956494c44d574f60ed34147780fba56335f86e0d9d263f8190d33"
CORPUS = (
    "The quick brown fox jumps over the lazy dog. The dog, being lazy, does not mind!",
    "Write a function f(x) that returns x * 2;  then test it: f(21) == 42.",
    "It's the 3rd time - the the the then there these; over and over again.",
)
SPACE = tokens.TokenCounter.SPACE


# --- tokenizers made here ------------------------------------------------------------------------------------------


def _like_llama(entries=(), merges=(), **options):
    """A small tokenizer built as Llama-2's is, with further vocabulary entries and merges."""
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    alphabet = [*string.printable.replace(" ", "").replace("\r", ""), SPACE]
    learner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=230, initial_alphabet=alphabet, special_tokens=["<unk>", "<s>", "</s>"])
    )
    learned = json.loads(learner.to_str())["model"]
    byte_entries = [f"<0x{byte:02X}>" for byte in range(256)] if options.get("byte_fallback", True) else []
    names = dict.fromkeys([*learned["vocab"], *byte_entries, *entries])
    rules = [tuple(merge) for merge in learned["merges"]] + list(merges)
    model = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True} | options
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, rules, **model))
    made.normalizer = normalizer
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def _byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return made


def _word_piece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"]))
    return made


def _metaspace():
    made = _like_llama()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


def _other_normalizer():
    made = _like_llama()
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), made.normalizer])
    return made


def _added_with_space():
    made = _like_llama()
    made.add_tokens([AddedToken("the dog", normalized=False), AddedToken("  ", normalized=False)])
    return made


def _with_added(tokens, special=(), **options):
    made = _like_llama()
    made.add_tokens([AddedToken(content, **options) for content in tokens])
    made.add_special_tokens([AddedToken(content, **options) for content in special])
    return made


UNFIT = {
    "an entry crosses a space": lambda: _like_llama(["e" + SPACE], [("e", SPACE)]),
    "an entry joins words": lambda: _like_llama([SPACE + "t", "o" + SPACE + "t"], [("o", SPACE + "t")]),
    "an entry joins a letter and a byte": lambda: _like_llama(["x<0x0D>"], [("x", "<0x0D>")]),
    "byte-level BPE": _byte_level,
    "WordPiece": _word_piece,
    "no byte fallback": lambda: _like_llama(byte_fallback=False),
    "whole entries without merges": lambda: _like_llama([SPACE + "zebra"], ignore_merges=True),
    "Metaspace instead of the normaliser": _metaspace,
    "another normaliser": _other_normalizer,
    "an added token with a space": _added_with_space,
    "an added token that normalised text may spell": lambda: _with_added([SPACE + "a"], normalized=True),
    "a split as pre-tokenizer": lambda: _with_split(_like_llama()),
}


def _with_split(made):
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9]"), "isolated")
    return made


def _brute_force(tokenizer, texts):
    return [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def _forget_memo(counter):
    counter._counts.clear()
    return counter


# --- texts ---------------------------------------------------------------------------------------------------------

PIECES = (
    *" ".join(CORPUS).split(), " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\0", "\x1b[0m", "\x7f", "\x85", "\u00a0",
    "\u2028", "\u200b", "\u3000", SPACE, SPACE * 3, "</s>", "<s>", "<unk>", "<0x0A>", "[UNK]", "é", "e\u0301", "ß", "ﬁ",
    "🎉", "👩‍👩‍👧", "漢字", "。", "한국어", "العربية", "\ufeff", "\U0010ffff", "supercalifragilistic" * 30, "x" * 300,
    "cannot", "can't", '"', "''", "``", "...", "--", "U.S.", "Mr.", "gonna", "the dog", "a.b", "--->", "</s", "0x0A>",
)  # fmt: skip
any_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text(" aT\t" + SPACE, max_size=12),
)
texts_of_any_kind = st.lists(any_text, max_size=8)
thorough = settings(max_examples=150, deadline=None)

SMALL = _like_llama()
SMALL_COUNTER = tokens.TokenCounter(SMALL)


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "text", "expected"),
    [
        ("words", "", 0),
        ("words", "  one\ttwo\n three ", 3),
        ("words", "a\u00a0b\u3000c", 3),
        ("chars", "", 0),
        ("chars", "naïve 🎉", 7),
        ("chars", "👩‍👩‍👧", 5),
        ("chars", "e\u0301\0", 3),
        ("bytes", "", 0),
        ("bytes", "naïve 🎉", 11),
        ("bytes", "漢字", 6),
        ("bytes", "\ud800", 3),
    ],
)
def test_value(measure, text, expected):
    counted = lengths.count([text], measure)
    assert counted.tolist() == [expected]
    assert counted.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("Hello.", 2),  # Hello .
        ("I can't; you cannot.", 8),  # I ca n't ; you can not .
        ('She said "no" -- twice.', 8),  # She said `` no '' -- twice .
        ("$3.88 in 5%...", 6),  # $ 3.88 in 5 % ...
        ("漢字 漢字", 2),
        ("One. Two. Three", 5),
    ],
)
def test_nltk_words_value(text, expected):
    assert lengths.count([text], "nltk_words").tolist() == [expected]


def test_no_texts():
    for measure in ("nltk_words", "words", "chars", "bytes"):
        assert lengths.count([], measure).shape == (0,)
    assert SMALL_COUNTER.count([]).shape == (0,)
    assert SMALL_COUNTER.upper_bound([]).shape == (0,)


def test_nltk_words_is_nltks_own_word_tokenize(mirror, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(mirror / "nltk_data")])
    texts = [
        "Mr. Smith paid $3.88, e.g. in the U.S. He left.",
        'No. 5 is alive! Is it? "Yes." Dr. Who can\'t say.',
        *CORPUS,
    ]
    assert lengths.count(texts, "nltk_words").tolist() == [len(nltk.word_tokenize(text)) for text in texts]


def test_unknown_measure_is_refused_by_name():
    with pytest.raises(InputError, match=r"unknown measure 'letters'.*nltk_words, words, chars, bytes, tokens"):
        lengths.count(["a"], "letters")


def test_library_version_names_what_defines_the_measure():
    assert lengths.library_version("nltk_words") == f"nltk {nltk.__version__}"
    assert lengths.library_version("tokens").startswith("tokenizers 0.")
    assert lengths.library_version("chars") == "python"


def test_counts_are_remembered_by_what_the_texts_are(runs, monkeypatch):
    asked = []
    count = lengths.count
    monkeypatch.setattr(
        lengths, "count", lambda texts, measure: asked.append((texts, measure)) or count(texts, measure)
    )
    pools = [["a\0", "b"], ["a", "\0b"], ["a\0b"], ["a"], [], ["\ud800"]]
    for _ in range(2):
        assert [lengths.count_again(pool, "chars").tolist() for pool in pools] == [[2, 1], [1, 2], [3], [1], [], [1]]
    assert lengths.count_again(["a"], "words").tolist() == [1]
    assert asked == [*((pool, "chars") for pool in pools), (["a"], "words")]


def test_approximate_counts_are_not_served_as_exact_ones(runs, mirror, no_data, monkeypatch):
    text = ["The U.S. and Dr. Who. They left"]
    monkeypatch.setattr(lengths, "_punkt_folder", lambda: None)
    approximate = lengths.count_again(text, "nltk_words")
    lengths._make_tokenizers.cache_clear()
    folder = str(mirror / "nltk_data" / "tokenizers" / "punkt_tab" / "english")
    monkeypatch.setattr(lengths, "_punkt_folder", lambda: folder)
    exact = lengths.count_again(text, "nltk_words")
    assert (approximate.tolist(), exact.tolist()) == ([10], [8])


# --- nltk_words ----------------------------------------------------------------------------------------------------


ALL_SPACES = "".join(sign for sign in map(chr, range(sys.maxunicode + 1)) if sign.isspace())
QUOTES = ("''", "'''", "``", "```", '"', "'", "`", "«", "“", "‘", "„", "»", "”", "’")
SIGNS = (*"@#$%&?!*[](){}<>.,:;-", *QUOTES, "--", "---", "..", "...", "…", "–", "—")
CLITICS = (
    "cannot", "d'ye", "gimme", "gonna", "gotta", "lemme", "more'n", "wanna", "'tis", "'twas", "can't", "n't",
    "N'T", "'s", "'m", "'d", "'ll", "'re", "'ve", "'RE", "CANNOT", "gımme", "Gİmme", "'tıſ", "'twaſ", "'x",
    "'xy", "'ſ", "'é", "can", "not", "'t", "is", "d", "'ye",
)  # fmt: skip
WORDS = (
    "a", "b", "Z", "s", "t", "n", "m", "5", "10", "3.88", "3,36", "10:30", "U.S.", "Mr.", "e.g.", "No.", "1.",
    "J.", "The", "they", "é", "ß", "漢", "字", "ا", "_", "/", "=", "+", "~", "^", "|", "\\", "🎉", "²", "ſ", "İ",
    "ı", "\u0661", "\u0301", "\0", "\x01", "\u200b", "\ufeff", "\u212a", "\U0010ffff", "\ud800",
)  # fmt: skip
POOLS = (
    (*SIGNS, "a", "b", "5", " "),
    (*CLITICS, " ", " ", "'", ".", "-", "a", '"'),
    (*"'\"` atsnm",),
    (*".,:5a -'\")",),
    (*WORDS, *CLITICS, *SIGNS, *" " * 20),
    (*SIGNS, *ALL_SPACES, *CLITICS, *WORDS, *" " * 9),
)
hostile_text = st.one_of(*(st.lists(st.sampled_from(pool), max_size=16).map("".join) for pool in POOLS), any_text)
abbreviations = st.sets(st.sampled_from(["a", "5", "mr", "u.s", "e.g", "s", "é", "1", "cannot", "x"]))


def _count_with(split_sentences, texts):
    _, split_words = lengths.nltk_tokenizers()
    return [sum(len(split_words(part)) for part in split_sentences(text)) for text in texts]


def _check_bounds(texts, counts):
    lower, upper = lengths.lower_bound(texts, "nltk_words"), lengths.upper_bound(texts, "nltk_words")
    broken = np.flatnonzero((lower > counts) | (counts > upper))
    assert [(texts[i], lower[i], counts[i], upper[i]) for i in broken] == []


def _check_counts(texts):
    expected = _count_with(lengths.nltk_tokenizers()[0], texts)
    counted = lengths.count(texts, "nltk_words").tolist()
    assert [each for each in zip(texts, counted, expected, strict=True) if each[1] != each[2]] == []


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile_text, max_size=8))
def test_nltk_words_are_those_that_all_of_its_rules_part(texts):
    _check_counts(texts)


ASCII_POOL = [each for pool in POOLS for each in pool if each.isascii()]


@pytest.mark.parametrize("rounds", [1, pytest.param(60, marks=pytest.mark.long)])
def test_no_text_of_many_is_parted_otherwise_than_by_all_rules(rounds):
    drawn = random.Random(8)
    for _ in range(rounds):
        pools = [drawn.sample(ASCII_POOL, drawn.randint(1, 12)) for _ in range(4000)]
        _check_counts(["".join(drawn.choices(pool, k=drawn.randint(0, 16))) for pool in pools])


@pytest.mark.parametrize("signs", ["a's ", "'\"` ", ".,:5", "n't ", "(-)."])
def test_no_short_text_is_parted_otherwise_than_by_all_rules(signs):
    _check_counts(["".join(text) for size in range(6) for text in itertools.product(signs, repeat=size)])


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile_text, max_size=8))
def test_nltk_words_stay_within_their_bounds(texts):
    _check_bounds(texts, lengths.count(texts, "nltk_words"))


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile_text, max_size=8), abbreviations)
def test_nltk_words_stay_within_their_bounds_wherever_punkt_cuts(texts, known):
    punkt = PunktSentenceTokenizer()
    punkt._params.abbrev_types = known
    _check_bounds(texts, np.array(_count_with(punkt.tokenize, texts), dtype=np.int64))


@pytest.mark.parametrize("rounds", [4, pytest.param(200, marks=pytest.mark.long)])
def test_no_text_of_many_breaks_the_bounds_of_nltk_words(rounds):
    drawn = random.Random(7)
    for _ in range(rounds):
        pools = [drawn.sample(pool, min(len(pool), drawn.randint(1, 30))) for pool in drawn.choices(POOLS, k=5000)]
        texts = ["".join(drawn.choices(pool, k=drawn.randint(0, 16))) for pool in pools]
        _check_bounds(texts, lengths.count(texts, "nltk_words"))


@pytest.mark.parametrize("signs", ["a' s", "a.' ", "a-. ", "a\"`'", "n't ", "5,:a", "'aé.", "(')-"])
def test_no_short_text_breaks_the_bounds_of_nltk_words(signs):
    texts = ["".join(text) for size in range(7) for text in itertools.product(signs, repeat=size)]
    _check_bounds(texts, lengths.count(texts, "nltk_words"))


@pytest.mark.parametrize(
    ("text", "words", "bound"),
    [
        ("", 0, 0),
        ("Plain words, here. And (more); 3.88 at 10:30!", 14, 14),
        ("I can't, it's -- a well-known 'fact'...", 12, 12),
        ("x/cannot/y", 4, 4),  # parted on both sides and within
        ("a---b -5 a--b", 7, 7),
        ("''s ''''s '''x", 8, 10),
        ('"a" ``b`` ```', 8, 11),
        ("a.-b 1.;", 3, 6),  # a full stop within a sentence
        ("o'clock 'x 'ſ", 4, 6),
        ("g\u0131mme 'tıſ", 4, 8),
        ("a\u00a0b\u2028c\x1fd", 4, 4),
        ("\ud800 a\udc00b", 2, 2),
    ],
)
def test_the_bound_of_nltk_words_is_close(text, words, bound):
    assert lengths.count([text], "nltk_words").tolist() == [words]
    assert lengths.upper_bound([text], "nltk_words").tolist() == [bound]


def test_the_bounds_know_every_white_space_of_python():
    assert lengths.upper_bound([f"a{space}b" for space in ALL_SPACES], "nltk_words").tolist() == [2] * len(ALL_SPACES)


def test_the_bounds_know_every_spelling_of_a_contraction():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    for rule in NLTKWordTokenizer.CONTRACTIONS2 + NLTKWordTokenizer.CONTRACTIONS3:
        letters = "".join(re.findall(r"[a-z']", re.sub(r"\(\?[^()]*\)|\\b", "", rule.pattern)))
        assert rule.search(f" {letters} "), "the letters are those of the rule"
        for i, letter in enumerate(letters):
            signs = re.findall(letter, everything, re.IGNORECASE)
            texts = [f"/{letters[:i]}{sign}{letters[i + 1 :]}/" for sign in signs]
            plain = 1 + letters.count("'")
            assert (lengths.upper_bound(texts, "nltk_words") == plain + 3).all()


@pytest.fixture
def unknown_rules(monkeypatch):
    """As if another nltk were installed."""
    monkeypatch.setattr(lengths, "RULES_SHA256", ())
    lengths.knows_nltk_rules.cache_clear()
    yield
    lengths.knows_nltk_rules.cache_clear()


def test_rules_of_which_nothing_was_proved_are_bounded_by_signs(unknown_rules):
    texts = ["one two", "a  (b)", "", "\ud800 é", "x.   y"]
    assert lengths.upper_bound(texts, "nltk_words").tolist() == [6, 4, 0, 2, 3]
    assert lengths.lower_bound(texts, "nltk_words").tolist() == [0] * 5
    assert lengths.count(texts, "nltk_words").tolist() == [2, 4, 0, 2, 2]
    assert topk.longest(texts, 2, "nltk_words").tolist() == [0, 1]


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile_text, max_size=8), st.integers(2, 3))
def test_threads_and_arrow_arrays_bound_alike(texts, threads):
    expected = lengths.upper_bound(texts, "nltk_words").tolist()
    assert lengths.upper_bound(texts, "nltk_words", threads=threads).tolist() == expected
    if not re.search("[\ud800-\udfff]", "".join(texts)):
        assert lengths.upper_bound(pa.array(texts, pa.string()), "nltk_words", threads=threads).tolist() == expected


gaps = st.sampled_from(["   ", " " * 7, " " * 30, "  ", " ", "\t", "\n", " \n  ", "   \t    ", "\u00a0", "  \u3000   "])
spaced_text = st.lists(st.one_of(gaps, *map(st.sampled_from, POOLS)), max_size=16).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(spaced_text, max_size=8), abbreviations)
def test_gaps_are_shortened_without_another_count(texts, known):
    punkt = PunktSentenceTokenizer()
    punkt._params.abbrev_types = known
    shortened = list(map(lengths._shorten_gaps, texts))
    assert _count_with(punkt.tokenize, shortened) == _count_with(punkt.tokenize, texts)
    assert lengths.count(texts, "nltk_words").tolist() == _count_with(lengths.nltk_tokenizers()[0], texts)


RUNS = (" ", "  \t", "\t", "\n", "\u00a0", ".", ". ", "'", '"', "`", "-", ",", "!", "?)", ") ", ".)", "'s ", "a.", "x")


@pytest.mark.parametrize("unit", RUNS)
def test_no_run_takes_more_than_linear_time(unit):
    started = time.process_time()
    assert lengths.count([f"x.{unit * (32_000 // len(unit))}y"], "nltk_words") >= 1
    assert time.process_time() - started < 10, "quadratic time is twice as much"


def test_without_punkt_the_measure_says_how_far_it_is_off(no_data):
    assert not lengths.has_punkt()
    with pytest.warns(UserWarning, match="nltk_words is approximate.*585 of 52,002 counts and 0 of the 1,000"):
        lengths.count(["One. Two."], "nltk_words")


def test_punkt_is_asked_for_once_however_often_is_counted(no_data, monkeypatch):
    asked = []
    monkeypatch.setattr(lengths.data, "can_obtain", asked.append)
    with pytest.warns(UserWarning, match="nltk_words is approximate"):
        assert [lengths.count(["One. Two."], "nltk_words").tolist() for _ in range(3)] == [[4], [4], [4]]
    assert asked == ["punkt"]


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("", marks=pytest.mark.thorough),
        pytest.param("/a", marks=pytest.mark.thorough),
        f"/a{os.pathsep}/b with a space{os.pathsep}",
    ],
)
def test_nltks_folders_are_known_without_nltk(named):
    program = "import sys\nfrom nbutils import lengths\nours, early = lengths.nltk_folders(), 'nltk' in sys.modules\n"
    program += "import nltk.data\nassert ours == nltk.data.path == lengths.nltk_folders(), ours\nassert not early"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "NLTK_DATA": named}, check=True)


def test_punkt_is_found_in_the_mirror_and_gives_the_trained_splitter(mirror):
    assert lengths.has_punkt()
    split_sentences, _ = lengths.nltk_tokenizers()
    assert len(split_sentences("Dr. Who met Prof. Smith. They left.")) == 2


# --- tokens --------------------------------------------------------------------------------------------------------


def test_the_small_tokenizer_is_counted_by_words():
    assert SMALL_COUNTER.is_exact_by_words
    learned = [name for name in SMALL.get_vocab() if name.startswith(SPACE) and len(name) > 2]
    assert len(learned) > 5, "it has learned whole words, else the property would be tested on letters alone"


@thorough
@given(texts_of_any_kind)
def test_tokens_equal_brute_force(texts):
    assert SMALL_COUNTER.count(texts).tolist() == _brute_force(SMALL, texts)


@thorough
@given(texts_of_any_kind)
def test_tokens_never_exceed_their_bound(texts):
    expected = np.array(_brute_force(SMALL, texts), dtype=np.int64)
    assert (_forget_memo(SMALL_COUNTER).upper_bound(texts) >= expected).all()


def test_rare_words_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(tokens.TokenCounter, "FREQUENT", 1)
    counter = tokens.TokenCounter(SMALL)
    # "the" is the most frequent word and counted exactly (1 token); "fox" has at most its 3 bytes and a space.
    assert counter.upper_bound(["the the fox"]).tolist() == [1 + 1 + 4]
    assert counter.count(["the the fox"]).tolist() == _brute_force(SMALL, ["the the fox"])


def test_the_memo_of_words_stays_small(monkeypatch):
    monkeypatch.setattr(tokens.TokenCounter, "REMEMBERED", 50)
    counter = tokens.TokenCounter(SMALL)
    for start in range(0, 1000, 20):
        texts = [f"word{number} the" for number in range(start, start + 20)]
        assert counter.count(texts).tolist() == _brute_force(SMALL, texts)
    assert len(counter._counts) <= 50 + 21


def test_llama2_tokens_equal_brute_force(llama2):
    counter = tokens.token_counter(llama2)
    assert counter.is_exact_by_words

    @thorough
    @given(texts_of_any_kind)
    def check(texts):
        expected = _brute_force(llama2, texts)
        assert counter.count(texts).tolist() == expected
        assert (_forget_memo(counter).upper_bound(texts) >= np.array(expected, dtype=np.int64)).all()

    check()


@pytest.mark.parametrize("name", UNFIT)
def test_a_tokenizer_without_the_property_is_counted_whole(name):
    made = UNFIT[name]()
    counter = tokens.TokenCounter(made)
    assert not counter.is_exact_by_words
    assert counter.upper_bound(["the dog"]) is None
    _check_against_brute_force(made, counter)


def _check_against_brute_force(made, counter):
    @settings(max_examples=25, deadline=None)
    @given(texts_of_any_kind)
    def check(texts):
        assert counter.count(texts).tolist() == _brute_force(made, texts)

    check()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("an entry crosses a space", "ze q"),
        ("an entry joins words", "fo tz"),
        ("whole entries without merges", "x zebra"),
        ("an added token with a space", "see the dog run"),
        ("an added token that normalised text may spell", "b  a"),
    ],
)
def test_counting_these_by_words_would_be_wrong(name, text):
    """The fallback above is needed: the sum over the words differs from the count of the whole."""
    made = UNFIT[name]()
    by_words = Tokenizer(made.model)
    total = sum(len(by_words.encode(SPACE + word, add_special_tokens=False).ids) for word in text.split(" "))
    assert total != len(made.encode(text, add_special_tokens=False).ids)


# One byte, one character of several bytes, more; spelt by others, by what the text's own pieces hold, by a word.
CONTENTS = (
    "\n",
    "\0",
    "a",
    "T",
    ".",
    "é",
    "漢",
    "\u3000",
    "\n\n",
    "</",
    "aa",
    "a\n",
    "\na",
    "Tée",
    SPACE,
    "[UNK]",
    "the",
)
by_added = st.one_of(
    st.lists(st.sampled_from([*CONTENTS, *CONTENTS, " ", "b", "\t"]), max_size=12).map("".join), any_text
)


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("is_normalized", [False, True])
@pytest.mark.parametrize("options", [{}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"rstrip": True}])
@settings(max_examples=30, deadline=None)
@given(contents=st.sets(st.sampled_from(CONTENTS), min_size=1, max_size=4), data=st.data())
def test_added_tokens_are_counted_and_bounded(is_special, is_normalized, options, contents, data):
    tables = {"special" if is_special else "tokens": sorted(contents)}
    made = _with_added(tables.get("tokens", []), tables.get("special", []), normalized=is_normalized, **options)
    counter = tokens.TokenCounter(made)
    assert counter.is_exact_by_words == (not is_normalized or SPACE not in contents)
    texts = data.draw(st.lists(by_added, max_size=6))
    expected = _brute_force(made, texts)
    bounds = counter.upper_bound(texts)
    assert bounds is None or (bounds >= np.array(expected, dtype=np.int64)).all()
    assert counter.count(texts).tolist() == expected


@pytest.mark.parametrize(
    ("added", "text", "tokens_of_it", "bound"),
    [
        ("\n", "c\nc\nc", 8, 8),  # a stand-in and a letter thrice, and two line breaks: two more than bytes + 1
        ("é", "cécéc", 8, 8),
        ("\n\n", "c\n\nc", 5, 5),
    ],
)
def test_the_bound_of_text_cut_at_added_tokens_is_tight(added, text, tokens_of_it, bound):
    made = _with_added([added], normalized=False)
    assert _brute_force(made, [text]) == [tokens_of_it]
    assert _forget_memo(tokens.TokenCounter(made)).upper_bound([text]).tolist() == [bound]


def test_a_table_of_many_added_tokens_is_bounded():
    made = _with_added([f"<extra_{number}>" for number in range(20_000)], normalized=False)
    texts = ["the <extra_19999><extra_7> dog", "the dog"]
    counter = tokens.TokenCounter(made)
    assert counter.count(texts).tolist() == _brute_force(made, texts)
    assert (counter.upper_bound(texts) >= np.array(_brute_force(made, texts))).all()


@thorough
@given(texts_of_any_kind)
def test_the_bound_of_an_arrow_array_is_that_of_its_texts(texts):
    counter = _forget_memo(SMALL_COUNTER)
    expected = counter.upper_bound(texts).tolist()
    for kind in (pa.string(), pa.large_string()):
        array = pa.concat_arrays([pa.array(["before"], kind), pa.array(texts, kind)]).slice(1)
        assert _forget_memo(counter).upper_bound(array).tolist() == expected


def test_padding_and_truncation_left_on_do_not_change_the_count():
    made = _like_llama()
    made.enable_padding(length=64)
    made.enable_truncation(max_length=3)
    texts = ["the quick brown fox jumps over the lazy dog", "a", ""]
    assert tokens.TokenCounter(made).count(texts).tolist() == _brute_force(SMALL, texts)
    assert made.truncation and made.padding, "the caller's tokenizer stays as it was"


def test_a_transformers_tokenizer_counts_as_the_one_it_wraps():
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=SMALL, bos_token="<s>")
    texts = ["the dog", "", "漢字 </s>"]
    assert lengths.count(texts, "tokens", wrapped).tolist() == _brute_force(SMALL, texts)


def test_lone_surrogates_are_refused_with_their_text():
    for count in (SMALL_COUNTER.count, SMALL_COUNTER.upper_bound):
        with pytest.raises(InputError, match="text 1 holds a lone surrogate"):
            count(["fine", "not \ud800 fine"])


def test_one_counter_per_tokenizer():
    assert tokens.token_counter(SMALL) is tokens.token_counter(SMALL)
    assert tokens.token_counter(SMALL_COUNTER) is SMALL_COUNTER


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("a b", ["_a", "_b"]),
        (" a", ["__a"]),
        ("a  b ", ["_a", "__b", "_"]),
        ("  ", ["___"]),
        ("a\tb\nc", ["_a\tb\nc"]),
    ],
)
def test_split_words(text, pieces):
    assert tokens.split_words(text) == [piece.replace("_", SPACE) for piece in pieces]


# --- Alpaca-52k ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_selection_to_the_last_id(alpaca, alpaca_words):
    assert alpaca_words.mean() == pytest.approx(51.3826, abs=1e-4)
    assert (int(np.median(alpaca_words)), alpaca_words.min(), alpaca_words.max()) == (37, 0, 823)
    ids = select.top_k(alpaca_words, 1000)
    assert parts.ids_sha256(ids) == PUBLISHED_IDS
    kept = alpaca_words[ids]
    assert (kept.min(), (kept == 192).sum(), (alpaca_words == 192).sum()) == (192, 2, 15)
    assert kept.mean() == pytest.approx(256.8, abs=0.05)


@pytest.mark.thorough
@pytest.mark.slow
def test_the_bound_finds_the_same_ids_as_counting_all(alpaca):
    kept = topk.Longest(1000)
    topk.add_texts(kept, [row.response for row in alpaca], 0, "nltk_words")
    assert parts.ids_sha256(kept.ids) == PUBLISHED_IDS
    assert (kept.n, kept.threshold, kept.ties) == (52_002, 192, (15, 2))


@pytest.mark.slow
def test_llama2_tokens_of_alpaca(alpaca, llama2):
    texts = [row.response for row in alpaca]
    whole = np.array([len(encoding) for encoding in llama2.encode_batch_fast(texts, add_special_tokens=False)])
    counter = tokens.TokenCounter(llama2)
    assert (counter.upper_bound(texts) >= whole).all()
    assert (counter.count(texts) == whole).all()
    assert whole.mean() == pytest.approx(64.5, abs=0.05)


@pytest.mark.long  # counts all of Alpaca a second time, for a constant that only another nltk would change
@pytest.mark.filterwarnings("ignore:nltk_words is approximate")
def test_what_an_untrained_punkt_costs(alpaca, alpaca_words, no_data):
    approximate = lengths.count([row.response for row in alpaca], "nltk_words")
    kept = set(select.top_k(approximate, 1000))
    cost = {"rows": int((approximate != alpaca_words).sum()), "ids": len(kept - set(select.top_k(alpaca_words, 1000)))}
    assert cost == lengths.UNTRAINED_PUNKT_COST
