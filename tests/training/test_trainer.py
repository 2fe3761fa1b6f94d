"""Packed rows give the same loss and gradients as examples one by one, on two architectures and attention backends."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainable_models import save_model

from nbutils.core import settings
from nbutils.prompts import IGNORED, Example
from nbutils.training import attention, packing
from nbutils.training.trainer import EmbeddingNoise, StepCollator, WeightedCrossEntropy, flatten, weighted_loss


def examples_of(lengths, prompt=3, vocabulary=300):
    random = np.random.default_rng(5)
    ids = [random.integers(4, vocabulary, length).tolist() for length in lengths]
    return [Example(each, [IGNORED] * prompt + each[prompt:], False) for each in ids]


def training(**fields):
    return settings.load_profile("tiny").training.model_copy(update=fields)


@pytest.fixture(scope="module", params=["llama", "mistral"])
def tuned(request, tmp_path_factory):
    """A model with adapters whose second matrix is not zero, so that both matrices get gradients."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = save_model(tmp_path_factory.mktemp("model"), request.param)
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.register())
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def loss_and_gradients(model, rows):
    model.zero_grad()
    loss = sum(weighted_loss(model, row) for row in rows)
    loss.backward()
    gradients = [weight.grad.flatten() for _, weight in model.named_parameters() if weight.grad is not None]
    return loss.item(), torch.cat(gradients)


def relative_difference(one, other):
    return ((one - other).norm() / other.norm()).item()


ATTENTIONS = [attention.NAME, "sdpa", "eager"]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("weighting", ["token", "example", "paper"])
def test_packed_equals_one_by_one(tuned, weighting, attention):
    tuned.get_base_model().set_attn_implementation(attention)
    examples = examples_of([40, 12, 75, 30, 9, 61])
    weights = packing.token_weights([example.trained for example in examples], weighting)
    one_by_one = [flatten([example], weights[[i]]) for i, example in enumerate(examples)]
    collator = StepCollator(training(max_length=128, tokens_per_row=None, loss_weighting=weighting))
    packed = collator([example._asdict() for example in examples])["rows"]
    assert len(packed) == 2
    loss, gradient = loss_and_gradients(tuned, packed)
    alone, gradient_alone = loss_and_gradients(tuned, one_by_one)
    assert loss == pytest.approx(alone, rel=1e-5)
    assert relative_difference(gradient, gradient_alone) < 1e-5


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_no_token_attends_across_examples(tuned, attention):
    tuned.get_base_model().set_attn_implementation(attention)
    first, second = examples_of([20, 30])
    other = Example([7] * 20, first.labels, False)
    logits = [logits_of_last(tuned, [start, second]) for start in (first, other)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_without_the_mask_a_token_would_attend_across_examples(tuned, attention):
    tuned.get_base_model().set_attn_implementation(attention)
    first, second = examples_of([20, 30])
    other = Example([7] * 20, first.labels, False)
    logits = [logits_of_last(tuned, [start, second], one_block=True) for start in (first, other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def logits_of_last(model, examples, one_block=False):
    row = flatten(examples, np.ones(len(examples)))
    row = unmask(row) if one_block else row
    blocks = attention.describe_row(model, row)
    with torch.no_grad():
        output = model(input_ids=row["input_ids"], position_ids=row["position_ids"], use_cache=False, **blocks)
    return output.logits[0, -len(examples[-1].input_ids) :]


def unmask(row):
    """The row with its examples' borders taken away."""
    tokens = row["input_ids"].numel()
    borders = torch.tensor([0, tokens], dtype=torch.int32)
    return {**row, "position_ids": torch.arange(tokens)[None], "block_lengths": [tokens], "borders": borders}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradients_without_the_mask_are_far_off(tuned, attention):
    """What the equality above would look like if attention crossed the examples' borders."""
    tuned.get_base_model().set_attn_implementation(attention)
    examples = examples_of([40, 12, 75])
    weights = packing.token_weights([example.trained for example in examples], "example")
    row = flatten(examples, weights)
    _, gradient = loss_and_gradients(tuned, [row])
    _, crossed = loss_and_gradients(tuned, [unmask(row)])
    assert relative_difference(crossed, gradient) > 0.01


def test_the_loss_is_the_models_own_where_every_token_counts_alike(tuned):
    (example,) = examples_of([50])
    row = flatten([example], packing.token_weights([example.trained], "token"))
    ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
    assert weighted_loss(tuned, row).item() == pytest.approx(tuned(input_ids=ids, labels=labels).loss.item(), rel=1e-6)


def test_processes_share_a_step_and_pad_it_with_nothing():
    examples = examples_of([60, 60, 60])
    rows = []
    for process in range(2):
        collator = StepCollator(training(max_length=64, tokens_per_row=None), process, 2)
        made = collator([example._asdict() for example in examples])
        assert made["tokens"] == 180
        assert len(made["rows"]) == 2
        rows += made["rows"]
    assert sum(row["weights"].sum().item() for row in rows) == pytest.approx(1)
    assert sorted(row["weights"].sum().item() > 0 for row in rows) == [False, True, True, True]


def test_a_rows_first_label_is_never_the_end_of_the_example_before():
    one, two = examples_of([5, 6], prompt=1)
    row = flatten([one, two], np.array([1.0, 2.0]))
    assert row["sources"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert row["targets"].tolist() == one.input_ids[1:] + two.input_ids[1:]
    assert row["weights"].tolist() == [1.0] * 4 + [2.0] * 5
    assert row["position_ids"].tolist() == [[*range(5), *range(6)]]


@pytest.mark.parametrize(("scale", "lengths"), [("padded", [1000, 1000]), ("example", [10, 40])])
def test_the_noise_has_the_size_of_its_scale(scale, lengths):
    width, alpha = 64, 5.0
    embedding = torch.nn.Embedding(10, width)

    class Model:
        def get_input_embeddings(self):
            return embedding

    noise = EmbeddingNoise(Model(), training(max_length=1000, neftune_scale=scale), alpha)
    row = flatten(examples_of([10, 40], vocabulary=10), np.ones(2))
    ids, noise.lengths = row["input_ids"], row["lengths"]
    embedding.train()
    added = (embedding(ids) - embedding.weight[ids])[0].abs()
    for part, length in zip(added.split([10, 40]), lengths, strict=True):
        bound = alpha / (length * width) ** 0.5
        assert 0.95 * bound < part.max().item() <= bound
        assert part.mean().item() == pytest.approx(bound / 2, rel=0.1)
    embedding.eval()
    assert torch.equal(embedding(ids), embedding.weight[ids])


@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=30)
def test_loss_and_its_gradient_are_torchs(tokens, vocabulary, seed):
    random = torch.Generator().manual_seed(seed)
    logits = (8 * torch.randn(tokens, vocabulary, generator=random)).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=random)
    weights = torch.rand(tokens, generator=random)
    known = torch.nn.functional.cross_entropy(logits, targets, reduction="none") @ weights
    loss = WeightedCrossEntropy.apply(logits, targets, weights)
    assert loss.item() == pytest.approx(known.item(), rel=1e-5, abs=1e-6)
    (wanted,) = torch.autograd.grad(3 * known, logits)
    (found,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_loss_refuses_a_second_way_back():
    """Its gradient lies where its probabilities were: a wrong one must not be taken from there."""
    logits = torch.randn(3, 5, requires_grad=True)
    loss = WeightedCrossEntropy.apply(logits, torch.tensor([0, 1, 2]), torch.ones(3))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
