"""What stage 05 says of an arm without a judge: likelihoods as plain transformers gives them, references held out."""

import pytest
import trainable_models
from hypothesis import given
from hypothesis import strategies as st

from nbutils import data, finetune, generate, prompts, select
from nbutils.core import manifests, tables
from nbutils.core.errors import InputError
from nbutils.core.settings import Measures
from nbutils.data.rows import Row
from nbutils.generation import measures

SETS = ["sample"]
ONE, TWO = "alpaca-1k-longest", "alpaca-1k-random-7"


def row(instruction="What?", response="Because.", **fields):
    return Row(0, "here", instruction, fields.pop("input", ""), response, **fields)


# --- one answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0), ("four words only here", 0), ("a b c d e", 0),
        ("a b c d a b c d", 1 / 5),  # abcd, bcda, cdab, dabc, abcd
        ("no " * 13, 9 / 10),
    ],
)  # fmt: skip
def test_repetition(text, share):
    assert measures.repetition(text) == pytest.approx(share)


@given(st.text(alphabet="ab ", max_size=200))
def test_repetition_is_a_share_and_saying_it_all_again_adds_to_it(text):
    once, twice = measures.repetition(text), measures.repetition(f"{text} {text}")
    assert 0 <= once <= 1
    assert len(text.split()) < 4 or twice > once or once == twice == 0 or once > 0.5


def test_answers_are_described():
    answers = [
        {"test_set": "s", "id": 7, "response": "It is so, I think.", "n_tokens": 8, "finish_reason": "stop"},
        {"test_set": "s", "id": 8, "response": "no no no no no no", "n_tokens": 9, "finish_reason": "length"},
    ]
    assert measures.describe_answers(answers).to_dict("records") == [
        {"test_set": "s", "id": "7", "tokens": 8, "words": 5, "stopped": True, "repetition": 0.0},
        {"test_set": "s", "id": "8", "tokens": 9, "words": 6, "stopped": False, "repetition": 0.666667},
    ]


# --- references ----------------------------------------------------------------------------------------------------


def ids(found):
    return [each.id for each in found["sample"]]


@pytest.mark.parametrize("change", ["response", "prompt", "capitals", "earlier answer", "earlier question"])
def test_a_reference_that_any_arm_was_taught_is_dropped(change):
    known = data.load_prompts("sample")[3]
    taught = {
        "response": row(response=known.reference),
        "prompt": row(instruction=known.instruction, input=known.input),
        "capitals": row(response="  " + known.reference.upper().replace(" ", "\n ")),
        "earlier answer": row(history=(("Hm?", known.reference),)),
        "earlier question": row(history=((known.text, "Hm."),)),
    }[change]
    asked = Measures(texts=1000)
    everything = ids(measures.held_out(asked, SETS, {ONE: [row()], TWO: []}))
    assert everything == list(range(40))
    found = ids(measures.held_out(asked, SETS, {ONE: [row()], TWO: [taught]}))
    assert found == [number for number in range(40) if number != 3]


def test_the_draw_is_the_same_for_all_arms():
    asked = Measures(texts=5)
    first = ids(measures.held_out(asked, SETS, {ONE: []}))
    assert len(first) == 5 and first == sorted(first) == ids(measures.held_out(asked, SETS, {TWO: []}))


def test_an_arm_of_a_whole_set_drops_none_of_it_and_is_not_measured_by_it(monkeypatch):
    lima = [row(instruction=f"question {number}", response=f"answer {number}") for number in range(3)]
    monkeypatch.setitem(measures.SETS, "lima", (lambda: iter(lima), ("lima-1k",)))
    taught = {"lima-1k": lima, "alpaca-1k-longest": lima[:1]}
    found = measures.held_out(Measures(), ["lima"], taught)["lima"]
    assert [each.response for each in found] == ["answer 1", "answer 2"]
    assert measures.is_own_set("lima-1k+epochs3", "lima")
    assert not measures.is_own_set("alpaca-1k-longest", "lima") and not measures.is_own_set("lima-1k", "sample")


def test_only_sets_at_hand_are_read_and_unknown_ones_refused(no_data):
    assert list(measures.sets_at_hand(Measures())) == ["sample"]
    assert measures.sets_at_hand(Measures(texts=0)) == {}
    with pytest.raises(InputError, match=r"measures\.references: unknown set 'lama': choose from sample, lima"):
        measures.sets_at_hand(Measures(references=("lama",)))


def test_the_public_sets_hold_what_they_should(mirror):
    read = {name: list(source()) for name, (source, _) in measures.SETS.items()}
    assert {name: len(found) for name, found in read.items()} == {
        "sample": 40, "lima": 1000, "mt-bench": 30, "alpaca-eval": 805
    }  # fmt: skip
    assert all(each.instruction.strip() for found in read.values() for each in found)
    assert sum(bool(each.response.strip()) for each in read["alpaca-eval"]) >= 804


# --- a model -------------------------------------------------------------------------------------------------------


def by_hand(model, tokenizer, prompt, response):
    """The mean log-likelihood of a response and its end, token by token, by plain transformers."""
    import torch

    before = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    after = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(after)) / len(after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small arm, trained, answered and measured."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIM_RUNS", str(folder / "runs"))
        patch.setenv("LIM_OFFLINE", "1")
        patch.delenv("LIM_DATA_MIRROR", raising=False)
        patch.setenv("LIM_DATA_CACHE", str(folder / "cache"))
        base = trainable_models.save_model(folder / "model", max_position_embeddings=2048)
        training = {"epochs": 1, "max_rows": 6}
        profile = trainable_models.profile_on(base, training, {"max_prompts": 3, "max_new_tokens": 6})
        profile = profile.model_copy(update={"measures": Measures(texts=4, max_tokens=1500)})
        generate.run(profile, "sample-24-longest", 42)
        yield profile, folder


def test_the_likelihoods_are_those_of_plain_transformers(trained):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    profile, folder = trained
    made = generate.run_measures(profile, "sample-24-longest", 42)
    found = tables.read(made.path("likelihoods.csv"))
    assert list(found["references"].unique()) == ["sample"] and made.facts["references"] == {"sample": len(found)}
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    tuned = finetune.run(profile, "sample-24-longest", 42).path("adapter")
    model, tokenizer = PeftModel.from_pretrained(base, tuned).eval(), AutoTokenizer.from_pretrained(tuned)
    known = data.load_prompts("sample")
    for line in found.to_dict("records"):
        asked = known[int(line["id"])]
        prompt = prompts.render(asked).text
        assert line["log_likelihood"] == pytest.approx(by_hand(model, tokenizer, prompt, asked.reference), abs=2e-5)
        assert line["tokens"] == len(tokenizer(asked.reference, add_special_tokens=False)["input_ids"]) + 1


def test_answers_are_described_beside_them(trained):
    made = generate.run_measures(trained[0], "sample-24-longest", 42)
    facts = tables.read(made.path("answer_facts.csv"))
    assert list(facts["test_set"]) == ["sample"] * 3 and (facts["tokens"] <= 6).all()


def test_a_variant_is_described_and_its_model_not_measured_again(trained, monkeypatch):
    monkeypatch.setattr(generate.measures, "measure", None)
    made = generate.run(trained[0], "sample-24-longest+min4", 42)
    measured = generate.run_measures(trained[0], made.arm, 42)
    assert tables.read(measured.path("likelihoods.csv")).empty
    assert (tables.read(measured.path("answer_facts.csv"))["tokens"] >= 4).all()


def test_another_arm_makes_it_stale_and_the_answers_not(trained):
    profile, _ = trained
    more = profile.model_copy(update={"arms": (*profile.arms, "sample-24-random-7")})
    select.run(more, "sample-24-random-7", 42)
    for stage, fresh in ((generate.plan, True), (generate.plan_measures, False)):
        assert (manifests.fresh_manifest(stage(more, "sample-24-longest", 42)) is not None) is fresh
