"""Attention by device: one call where torch has FlashAttention, repeated keys where grouped heads have no kernel."""

import inspect

import numpy as np
import pytest
import torch
from trainable_models import save_model

from nbutils.prompts import IGNORED, Example
from nbutils.training import attention
from nbutils.training.trainer import flatten, weighted_loss

LENGTHS = [40, 12, 75]  # the last one is longer than Mistral's window of 48
GROUPED = {"num_key_value_heads": 2}


def load(folder, architecture, kind=None, **shape):
    from transformers import AutoModelForCausalLM

    save_model(folder, architecture, **shape)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kind or attention.register())


def packed_row():
    random = np.random.default_rng(5)
    ids = [random.integers(4, 300, length).tolist() for length in LENGTHS]
    return flatten([Example(each, [IGNORED, *each[1:]], False) for each in ids], np.full(3, 1 / 124))


def loss_and_gradients(model):
    model.zero_grad()
    loss = weighted_loss(model, packed_row())
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.fixture
def card(monkeypatch):
    """`card(major)`: this machine's CPU passes for a card of that compute capability."""

    def pretend(major):
        monkeypatch.setattr(attention, "_capability", lambda device: major)
        monkeypatch.setattr(attention, "repeats_keys", lambda device: major < 8)

    return pretend


# --- all at once ---------------------------------------------------------------------------------------------------


def varlen_by_hand(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch's documentation says of varlen_attn, in plain products; shapes (tokens, heads, size)."""
    assert cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k
    assert (max_q, max_k) == (max(LENGTHS), max(LENGTHS))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    assert right == 0
    key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], 1) for states in (key, value))
    parts = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        back = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (back >= 0) & ((back <= left) if left >= 0 else True)
        chances = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", chances, value[start:end]))
    return torch.cat(parts)


@pytest.mark.parametrize(("architecture", "shape"), [("llama", {}), ("llama", GROUPED), ("mistral", {})])
def test_one_call_gives_what_one_by_one_gives(tmp_path, monkeypatch, architecture, shape):
    """With the reference in the place of torch's kernel: layout, borders, groups and windows are as it takes them."""
    model = load(tmp_path, architecture, **shape)
    expected, gradients = loss_and_gradients(model)
    calls = []

    def varlen(*given, **named):
        calls.append(given)
        return varlen_by_hand(*given, **named)

    monkeypatch.setattr(attention, "varlen_attn", varlen)
    monkeypatch.setattr(attention, "_is_fused", lambda *_: True)
    loss, found = loss_and_gradients(model)
    assert len(calls) == model.config.num_hidden_layers
    assert loss == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(found, gradients, atol=1e-6)


def test_torchs_kernel_takes_what_it_is_given():
    taken = inspect.signature(attention.varlen_attn).bind(*[None] * 7, scale=1.0, window_size=(-1, 0), enable_gqa=True)
    assert len(taken.arguments) == 10


@pytest.mark.parametrize(
    ("major", "dtype", "changes", "fused"),
    [
        (8, torch.bfloat16, {}, True),
        (9, torch.float16, {}, True),
        (7, torch.float16, {}, False),
        (9, torch.float32, {}, False),
        (9, torch.bfloat16, {"head_dim": 20}, False),
        (9, torch.bfloat16, {"head_dim": 320}, False),
        (9, torch.bfloat16, {"attention_dropout": 0.1}, False),
    ],
)
def test_the_kernel_is_taken_where_it_can_be(monkeypatch, card, major, dtype, changes, fused):
    from transformers import LlamaConfig

    card(major)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert attention._is_fused(LlamaConfig(**changes), dtype, torch.device("cuda")) == fused
    assert not attention._is_fused(LlamaConfig(**changes), dtype, torch.device("cpu"))


# --- masks and borders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "masks"), [("llama", 0), ("mistral", 1)])
def test_no_mask_of_all_pairs_is_made_that_nobody_reads(tmp_path, monkeypatch, architecture, masks):
    from transformers import AttentionMaskInterface

    model, made = load(tmp_path, architecture), []
    register, original = AttentionMaskInterface.register, attention.sdpa_mask
    register(attention.NAME, lambda *given, **named: made.append(1) or original(*given, **named))
    try:
        weighted_loss(model, packed_row())
    finally:
        register(attention.NAME, original)
    assert len(made) == masks, "only an example beyond a sliding window needs one"


def test_flash_attention_is_told_the_borders():
    """By the names that transformers takes; so that it need not look for them in every layer."""
    from transformers.modeling_flash_attention_utils import _flash_attention_forward

    class Model:
        class config:  # noqa: N801
            _attn_implementation = "flash_attention_2"

    told = attention.describe_row(Model, packed_row())
    assert set(told) <= set(inspect.signature(_flash_attention_forward).parameters)
    assert told["cu_seq_lens_q"] is told["cu_seq_lens_k"]
    assert told["cu_seq_lens_q"].tolist() == [0, 40, 52, 127] and told["cu_seq_lens_q"].dtype == torch.int32
    assert (told["max_length_q"], told["max_length_k"]) == (75, 75)


# --- grouped heads -------------------------------------------------------------------------------------------------


def test_keys_are_repeated_where_grouped_heads_have_no_kernel(tmp_path, monkeypatch, card):
    model = load(tmp_path, "llama", **GROUPED)
    expected, gradients = loss_and_gradients(model)
    seen, original = [], torch.nn.functional.scaled_dot_product_attention

    def look(query, key, value, **options):
        seen.append((query.shape[1], key.shape[1], value.shape[1], options.get("enable_gqa", False)))
        return original(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    for major, shapes in ((7, (4, 4, 4, False)), (8, (4, 2, 2, True))):
        card(major)
        seen.clear()
        loss, found = loss_and_gradients(model)
        assert set(seen) == {shapes} and len(seen) == len(LENGTHS) * model.config.num_hidden_layers
        assert loss == pytest.approx(expected, rel=1e-6)
        assert torch.allclose(found, gradients, atol=1e-6)


def test_a_prompt_is_read_without_the_slow_kernel_too(tmp_path, card):
    """Generation by the same attention: without padding there is no mask, and SDPA would keep every pair of tokens."""
    model = load(tmp_path, "llama", **GROUPED).eval()
    ids = torch.arange(4, 60)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        card(7)
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)


# --- fused kernels -------------------------------------------------------------------------------------------------


def test_fused_kernels_are_off_where_they_are_missing(monkeypatch):
    from transformers import utils
    from transformers.integrations import liger

    given = []
    monkeypatch.setattr(liger, "apply_liger_kernel", lambda model, parts: given.append(parts))
    assert attention.fuse_kernels(None, "cpu") == "fused kernels: off, they need a CUDA card"
    monkeypatch.setattr(utils, "is_liger_kernel_available", lambda: False)
    assert attention.fuse_kernels(None, "cuda") == "fused kernels: off, liger-kernel is not installed"
    assert given == []
    monkeypatch.setattr(utils, "is_liger_kernel_available", lambda: True)
    assert attention.fuse_kernels(None, "cuda") == "fused kernels: rope, rms_norm, swiglu of liger-kernel"
    (parts,) = given
    assert not parts["cross_entropy"] and not parts["fused_linear_cross_entropy"], "the loss is ours"
