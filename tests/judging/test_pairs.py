"""References of prompts that their own test set gives none."""

from nbutils.core import settings
from nbutils.judging.pairs import load_references


def test_gpt4s_outputs_stand_in_where_the_text_is_an_alpaca_eval_instruction(mirror):
    sets = ("koala", "lima", "sinstruct", "vicuna", "wizardlm")
    own = load_references(sets)
    known = load_references(sets, "alpaca-eval")
    counts = {name: sum(bool(text) for (of, _), text in known.items() if of == name) for name in sets}
    assert counts == {"koala": 144, "lima": 39, "sinstruct": 252, "vicuna": 80, "wizardlm": 1}
    assert all(known[place] == text for place, text in own.items() if text)
    assert sum(map(bool, own.values())) == 252


def test_a_profile_that_asks_for_none_keeps_its_settings():
    """A field that is not set stays out of a stage's key, so that what is finished stays fresh."""
    assert "references" not in settings.load_profile("tiny").judging.model_dump()
    assert settings.load_profile("smollm2-1k").judging.model_dump()["references"] == "alpaca-eval"
