"""Notebook 04: settings and facts in words, the curve while it grows, sample answers by epoch."""

import re

import pandas as pd
import pytest

from nbutils.core.settings import Training, load_profile, profile_names
from nbutils.widgets import training

LOSSES = pd.DataFrame({"step": [1, 2, 3], "epoch": [0.5, 1.0, 1.5], "loss": [3.0, 2.0, 1.5]})
SAMPLES = [
    {"step": 0, "epoch": 0.0, "prompt": "<b>One?", "response": "nothing", "n_tokens": 2, "stopped": True},
    {"step": 0, "epoch": 0.0, "prompt": "Two?", "response": "", "n_tokens": 1, "stopped": True},
    {"step": 2, "epoch": 1.0, "prompt": "<b>One?", "response": "<i>more", "n_tokens": 5, "stopped": False},
    {"step": 2, "epoch": 1.0, "prompt": "Two?", "response": "two", "n_tokens": 3, "stopped": True},
    {"step": 3, "epoch": 1.5, "prompt": "<b>One?", "response": "the most", "n_tokens": 9, "stopped": True},
    {"step": 3, "epoch": 1.5, "prompt": "Two?", "response": "two two", "n_tokens": 4, "stopped": True},
]


# --- settings and facts --------------------------------------------------------------------------------------------


def test_every_setting_has_words_and_a_heading():
    named = [key for words in training.SETTINGS.values() for key in words]
    assert sorted(named) == sorted(Training.model_fields)


def test_settings_in_words():
    found = training.tabulate_settings(load_profile("tiny"))
    rows = {row["key"]: row for row in found.to_dict("records")}
    assert rows["method"]["value"] == "a LoRA adapter on a base model in four bits (NF4)"
    assert (rows["lora_rank"]["about"], rows["lora_rank"]["setting"], rows["lora_rank"]["value"]) == (
        "adapter",
        "rank",
        16,
    )
    assert rows["tokens_per_row"]["value"] == "as many as fit"
    assert "method_reason" not in rows and "neftune_alpha" not in rows
    assert "see above" not in str(found) and not found["value"].map(lambda value: isinstance(value, dict)).any()


def test_a_reason_stands_where_a_profile_gives_one():
    given = load_profile("tiny")
    reasoned = training.tabulate_settings(given.model_copy(update={"method_reason": "for no reason"}))
    assert reasoned.iloc[1].tolist() == ["method", "why so", "for no reason", "method_reason"]
    whole = given.training.model_copy(update={"method": "full", "neftune_alpha": 5.0})
    about = set(training.tabulate_settings(given.model_copy(update={"training": whole}))["about"])
    assert "adapter" not in about and "noise on embeddings" in about


@pytest.mark.parametrize("name", profile_names())
def test_no_profile_has_a_setting_that_is_a_dump(name):
    kinds = {type(value) for value in training.tabulate_settings(load_profile(name))["value"]}
    assert kinds <= {str, int, float, bool}


FACTS = {
    "rows": 64,
    "last_loss": 5.559297,
    "peak_memory_gb": 0.877,
    "base_commit": None,
    "precision": {"device": "cpu", "dtype": "float32", "reason": "no card"},
    "base_generation": {"bos_token_id": 0, "use_cache": True, "temperature": 0.6, "top_p": 0.9, "do_sample": True},
}


def test_facts_in_words_without_dumps():
    found = training.tabulate_facts(FACTS)
    rows = {(row["about"], row["fact"]): row["value"] for row in found.to_dict("records")}
    assert rows == {
        ("rows", "trained on"): 64,
        ("loss, nats a token", "mean of the last quarter"): 5.559297,
        ("memory", "GB at most, of the whole process"): 0.877,
        ("machine", "device"): "cpu",
        ("machine", "numbers"): "float32",
        ("base model", "sampling that it ships with, used nowhere here"): "do_sample yes, temperature 0.6, top_p 0.9",
    }
    shown = training.under_headings(found)
    assert shown["value"].tolist() == [
        "64",
        "5.559",
        "0.877",
        "cpu",
        "float32",
        rows["base model", found.iloc[-1]["fact"]],
    ]
    assert shown["about"].tolist() == ["rows", "loss, nats a token", "memory", "machine", "", "base model"]


def test_a_base_without_settings_of_its_own_samples_nothing():
    assert training.tabulate_facts({"base_generation": {"eos_token_id": 1}}).iloc[-1]["value"] == "none"
    assert training.tabulate_facts({}).iloc[-1]["value"] == "none"


# --- sample answers ------------------------------------------------------------------------------------------------


def words(html):
    return re.sub(r"\s*(<[^>]*>)+\s*", "|", html).strip("|").split("|")


def test_the_slider_shows_an_epoch_beside_the_beginning():
    made = training.browse_samples(pd.DataFrame(SAMPLES), "a note")
    slider = made.controls["epoch"]
    assert (*slider.options,) == ("0", "1", "1.5") and slider.value == "1.5"
    assert words(made.html())[:8] == [
        *("prompt", "before training", "at epoch 1.5", "&lt;b&gt;One?", "tokens, epoch by epoch: 2 · 5 · 9"),
        *("nothing", "2 tokens, ended by itself", "the most"),
    ]
    slider.value = "1"
    assert "&lt;i&gt;more" in made.html() and "5 tokens, cut" in made.html() and "the most" not in made.html()
    slider.value = "0"
    assert words(made.html())[:2] == ["prompt", "before training"] and "at epoch" not in made.html()
    assert "(empty)" in made.html() and "a note" in made.html()


def test_no_samples_are_said_to_be_none():
    assert "No sample answers" in training.browse_samples(pd.DataFrame({"step": [], "response": []})).html()


# --- while it trains -----------------------------------------------------------------------------------------------


class Handle:
    def __init__(self, what):
        self.states = [what]

    def update(self, what):
        self.states.append(what)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show: a handle for each output, in order."""
    import IPython.display

    handles = []

    def display(what, display_id):
        assert display_id is True
        handles.append(Handle(what))
        return handles[-1]

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(training, "running_shell", object)
    monkeypatch.setattr(
        training.results,
        "draw_losses",
        lambda losses, note, steps=None: (list(losses), len(*losses.values()), note, steps),
    )
    return handles


def test_the_curve_grows_in_one_place_and_the_answers_go_at_the_end(shown, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    curve = training.LiveCurve("tiny", "alpaca-1k-longest")
    curve(LOSSES[:1], [], 3)
    assert shown == []  # one point is no line
    curve(LOSSES[:2], SAMPLES[:4], 3)
    now[0] += training.SECONDS_BETWEEN_DRAWINGS / 2
    curve(LOSSES, SAMPLES, 3)
    picture, answers = shown
    assert len(picture.states) == 1  # too soon
    now[0] += training.SECONDS_BETWEEN_DRAWINGS
    curve(LOSSES, SAMPLES, 3)
    curve.finish(LOSSES)
    assert [(drawn, steps) for _, drawn, _, steps in picture.states] == [(2, 3), (3, 3), (3, None)]
    assert picture.states[0][2] == load_profile("tiny").note
    assert "at epoch 1<" in answers.states[0].data and "&lt;i&gt;more" in answers.states[0].data
    assert "the most" in answers.states[1].data and answers.states[2]._repr_html_() == ""
    assert len(shown) == 2


def test_a_finished_training_shows_its_curve_alone(shown):
    training.LiveCurve("tiny", "alpaca-1k-longest").finish(LOSSES)
    assert [len(handle.states) for handle in shown] == [1]


def test_nothing_is_drawn_where_there_is_no_notebook(shown, monkeypatch):
    monkeypatch.setattr(training, "running_shell", lambda: None)
    curve = training.LiveCurve("tiny", "alpaca-1k-longest")
    curve(LOSSES, SAMPLES, 3)
    curve.finish(LOSSES)
    assert shown == []
