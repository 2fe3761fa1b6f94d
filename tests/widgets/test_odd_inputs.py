"""What one plays with, given what nobody planned for: nothing, one row, gaps, equal lengths, hostile texts."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest

from nbutils.analysis.calibration import Taste
from nbutils.analysis.comparison import analyse
from nbutils.analysis.verdicts import to_frame
from nbutils.core.disk import writable
from nbutils.core.errors import InputError
from nbutils.core.tables import Table, make
from nbutils.widgets import answers, length, live, rewrites, selection, sentences, start, training

HOSTILE = {
    "html": "</div><script>alert(1)</script><img src=x onerror=alert(2)>",
    "half": "half a \ud83d character \udc00",
    "right to left": "שלום \u202eevil\u202c مرحبا",
    "long": "x" * 100_000,
    "words": "word " * 20_000,
    "lines": "\n" * 1_000,
    "empty": "",
}


def assert_harmless(html):
    html.encode("utf-8")
    assert "<script" not in html and "<img src=x" not in html


def rows_of(texts, lengths=None, **more):
    count = len(texts)
    words = [len(text) for text in texts] if lengths is None else lengths
    about = {"id": range(count), "instruction": texts, "response": texts, "nltk_words": words, "chars": words}
    return pd.DataFrame({**about, "trained": np.asarray(words) + 1, **more})


def judgments(lengths, preferences=None, judge="j"):
    """Both orders of each prompt, each with the same preference."""
    preferences = [1.0] * len(lengths) if preferences is None else preferences
    return [
        {"judge": judge, "arm": "a", "baseline": "b", "test_set": "s", "id": str(n), "order": order, "status": "judged",
         "preference": preference, "len_arm": mine, "len_baseline": theirs, "measure": "chars"}
        for n, ((mine, theirs), preference) in enumerate(zip(lengths, preferences, strict=True))
        for order in ("arm_first", "baseline_first")
    ]  # fmt: skip


def ends_of(control):
    """The values at both ends of a slider, or of a menu."""
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return (
            [(values[0], values[-1]), (values[0], values[0])]
            if isinstance(control.value, tuple)
            else [*{0: values[0], 1: values[-1]}.values()]
        )
    if hasattr(control, "base"):
        return [control.base**control.min, control.base**control.max]
    return [control.min, control.max]


def assert_moves(shown):
    """Every corner of what the controls can reach draws a pane."""
    controls = shown.controls
    for values in itertools.product(*map(ends_of, controls.values())):
        for control, value in zip(controls.values(), values, strict=True):
            control.value = value
        assert_harmless(shown.html())


# --- nothing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "show",
    [
        lambda: live.browse({}, None),
        lambda: live.browse({"a": 0}, None),
        lambda: length.ask_ratio([]),
        lambda: length.browse_cards(make("length_bias")),
        lambda: answers.browse([], answers.tabulate([])),
        lambda: training.browse_samples(pd.DataFrame()),
    ],
)
def test_where_there_is_nothing_a_line_says_so(show):
    shown = show()
    assert shown.controls == {} and shown.html().startswith("<p>") and "nan" not in shown.html()
    assert shown.box().children[-1].value == live.LINES.format(shown.html())


def test_no_rewritings_are_chosen_from_none():
    nothing = pd.DataFrame(columns=["id", "instruction", "original", "refined", "flags"], dtype="str")
    nothing = nothing.assign(words_before=np.array([], int), words_after=np.array([], int))
    for choose in (rewrites.choose_good, rewrites.choose_wrong):
        assert rewrites.Changes(choose(nothing))._repr_html_() == "<p>None at hand.</p>"


@pytest.mark.parametrize(
    ("tell", "table"),
    [(sentences.of_lengths, "lengths"), (sentences.of_measures, "measures"), (sentences.of_content, "content"),
     (sentences.of_scores, "scores"), (sentences.of_overlaps, "overlaps"), (sentences.of_budget, "budget")],
)  # fmt: skip
def test_of_an_empty_table_nothing_is_told(tell, table):
    assert tell(make(table)) == ""


def test_start_shows_what_is_there():
    with pytest.raises(InputError, match="no histogram of 'gone' among none"):
        start.draw_cut(make("histograms"), {"pool_rows": 0, "measure": "nltk_words"}, "gone")
    assert start.show_examples({"a": []}).frame.empty
    assert start.show_answers({"a": [], "b": []}).note == "No prompt was answered."


def test_no_rows_are_no_cut():
    with pytest.raises(InputError, match="there are no rows to cut through"):
        selection.Cuts(rows_of([]))
    cuts = selection.Cuts(rows_of(["a"]))
    for k, measure in ((0, "chars"), (2, "chars"), (1, "tokens")):
        with pytest.raises(InputError):
            cuts.live(k, measure)


# --- little, equal, with gaps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[5], [0], [0, 0, 0], [7] * 50, [0, 10**9], [1, 2]])
def test_cuts_through_few_or_equal_rows(lengths):
    cuts = selection.Cuts(rows_of(["text"] * len(lengths), lengths), {"other": [0]})
    assert_moves(cuts.live(1))
    assert cuts.at(len(lengths))["trained_share"] == 1.0


@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [(5, 3)],
        [(5, 5)] * 30,
        [(0, 0)] * 30,
        [(0, 9)] * 15 + [(9, 0)] * 15,
        [(float("nan"), 3)] * 30,
        [(5, 3)] * 30,
        [(10**9, 1)] * 15 + [(1, 10**9)] * 15,
    ],
)
@pytest.mark.parametrize("preference", [1.0, 0.5, None])
def test_every_ratio_of_odd_judgments_is_drawn(lengths, preference):
    rows = judgments(lengths, [preference] * len(lengths))
    assert_moves(length.ask_ratio(rows))
    assert_moves(length.browse_cards(analyse(rows, draws=50)))


def test_one_prompt_has_a_rate_without_an_interval():
    text = length.describe_ratio(length.compare(to_frame(judgments([(5, 3)]))), 1.0)
    assert "nan" not in text


@pytest.mark.thorough
def test_every_corner_of_the_planted_judge():
    assert_moves(length.plant_judge(prompts=60))
    for taste in (Taste(2, 6, 2), Taste(-2, -3, -2)):
        assert_harmless(length.show_planted(taste, 3))


# --- hostile texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_are_shown_as_text(kind):
    text = HOSTILE[kind]
    side = {"text": text, "chars": len(text), "tokens": None, "finish": "length"}
    said = {"verdict": "win", "reviews": [["arm_first", "judged", 8.0, 2.0, text]]}
    pair = {"set": text, "id": text, "prompt": text, "arm": text[:99], "baseline": text[:99], "mine": side}
    pair |= {"theirs": side, "judges": {text[:99]: said}}
    compared = answers.tabulate([pair])
    assert_moves(answers.browse([pair], compared, text))
    framed = writable(text)  # no frame holds half a character
    assert_moves(selection.Cuts(rows_of([framed, "b"])).live(1))
    sample = {"prompt": framed, "response": framed, "epoch": 0.0, "step": 0, "n_tokens": 3, "stopped": True}
    assert_moves(training.browse_samples(pd.DataFrame([sample, sample | {"epoch": 1.0}]), text))
    table = Table([{"a": text}], text)
    assert_harmless(table._repr_html_())
    repr(table).encode("utf-8")
    said = {"prompt": text, "response": text}
    assert_harmless(start.show_answers({"a": [said], "b": [said]}, text)._repr_html_())
    row = {"id": 1, "instruction": framed, "original": framed, "refined": framed + " more", "why": framed}
    changes = rewrites.Changes(pd.DataFrame([row | {"words_before": 1, "words_after": 2}]))
    assert_harmless(changes._repr_html_())


@pytest.mark.parametrize("words", ["a", "a b", "x {}", "{}"])
def test_two_long_texts_are_compared_in_a_moment(words):
    def text(shift):
        return " ".join(words.format(n + shift) for n in range(8_000))

    started = time.process_time()
    changes = rewrites.compare(text(0), text(4_000) + " end")
    assert time.process_time() - started < 3
    kept = [word for change in changes if change.kind != "inserted" for word in change.words]
    assert [word.strip() for word in kept] == text(0).split()


# --- a move over the whole of a dataset ------------------------------------------------------------------------------


@pytest.mark.thorough
def test_moves_at_both_ends_of_52_thousand_rows():
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(3.5, 1, 52_002).astype(int)
    cuts = selection.Cuts(rows_of(["word " * 20] * 52_002, lengths), {"a": range(1000), "b": range(500, 1500)})
    shown = cuts.live(1000)
    seconds = []
    for k, measure in itertools.product((1, 1000, 52_002), cuts.measures):
        started = time.process_time()
        shown.controls["k"].value, shown.controls["measure"].value = k, measure
        shown.html()
        seconds.append(time.process_time() - started)
    assert np.median(seconds) < 0.5, seconds
