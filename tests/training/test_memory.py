"""Estimates against what autograd really keeps and what a step really executes."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trainable_models import profile_on, save_model

from nbutils.core.errors import InputError
from nbutils.core.machine import Precision
from nbutils.prompts import IGNORED, Example
from nbutils.training import attention, memory, trainer

CPU = Precision("cpu", "float32", "")
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), **SHAPE)


def tuned_model(folder, training, attention="sdpa"):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    if training.method != "full":
        lora = LoraConfig(r=training.lora_rank, target_modules="all-linear", lora_dropout=training.lora_dropout)
        model = get_peft_model(model, lora)
    if training.gradient_checkpointing:
        model.enable_input_require_grads() if training.method != "full" else None
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def one_row(length):
    ids = np.random.default_rng(1).integers(4, 300, length).tolist()
    example = Example(ids, [IGNORED] * 4 + ids[4:], False)
    return example, trainer.flatten([example], np.array([1 / example.trained]))


def kept_bytes(model, row):
    """Bytes of distinct storages that a forward pass keeps for the backward pass, weights apart."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Holding the tensor keeps its address from being given to another one.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        trainer.weighted_loss(model, row)
    return sum(size for size, _ in kept.values())


CASES = {
    "lora": {"method": "lora"},
    "lora with dropout": {"method": "lora", "lora_dropout": 0.1},
    "full": {"method": "full"},
}


@pytest.mark.parametrize("case", CASES)
def test_activations_are_what_autograd_keeps(folder, case):
    profile = profile_on(folder, CASES[case])
    model = tuned_model(folder, profile.training)
    short, long = (kept_bytes(model, one_row(length)[1]) for length in (64, 320))
    per_token = (long - short) / 256
    guessed = memory.activation_bytes(memory.read_shape(profile, 42), profile, width=2)
    assert guessed == pytest.approx(per_token, rel=0.15)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_grouped_heads_keep_less_unless_their_keys_are_repeated(tmp_path, monkeypatch, case, repeats):
    profile = profile_on(save_model(tmp_path, **SHAPE, num_key_value_heads=2), CASES[case])
    monkeypatch.setattr(attention, "repeats_keys", lambda device: repeats)
    model = tuned_model(tmp_path, profile.training, attention.register())
    short, long = (kept_bytes(model, one_row(length)[1]) for length in (64, 320))
    shape = memory.read_shape(profile, 42)
    guessed = memory.activation_bytes(shape, profile, 2, repeats)
    assert guessed == pytest.approx((long - short) / 256, rel=0.15)
    more = memory.activation_bytes(shape, profile, 2, True) - memory.activation_bytes(shape, profile, 2, False)
    assert more == 4 * 2 * 2 * 128, "keys and values of half the heads, in four layers"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_operations_are_what_a_step_executes(folder, method, checkpointing):
    profile = profile_on(folder, {"method": method, "gradient_checkpointing": checkpointing})
    # The counter does not see the CPU's fused attention kernel: eager attention's products are counted.
    model = tuned_model(folder, profile.training, "eager")
    example, row = one_row(300)
    with FlopCounterMode(display=False) as counter:
        trainer.weighted_loss(model, row).backward()
    guessed = memory.count_flops(memory.read_shape(profile, 42), profile, [len(example.input_ids)])
    assert guessed == pytest.approx(counter.get_total_flops(), rel=0.06)


# --- sizes and refusals --------------------------------------------------------------------------------------------


def test_the_papers_model_has_its_known_size(tmp_path):
    from transformers import LlamaConfig

    # Llama-2-7B's published configuration.
    LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008).save_pretrained(tmp_path)
    shape = memory.read_shape(profile_on(tmp_path), 42)
    assert shape.linear + shape.other == 6_738_415_616
    assert shape.lora_per_rank * 64 == 159_907_840


def test_qlora_takes_a_fraction_of_full_fine_tuning(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008).save_pretrained(tmp_path)
    example, _ = one_row(400)
    gigabytes = {}
    for method in ("qlora", "full"):
        profile = profile_on(tmp_path, {"method": method, "lora_rank": 64, "gradient_checkpointing": True})
        shape = memory.read_shape(profile, 42)
        made = memory.estimate(shape, profile, Precision("cpu", "bfloat16", ""), [[0] * 128], [example])
        gigabytes[method] = made.bytes / 1e9
    assert 5 < gigabytes["qlora"] < 9
    assert 105 < gigabytes["full"] < 115


@pytest.mark.parametrize(
    ("free", "given", "launched", "recomputes", "row"),
    [
        (80e9, None, 1, True, 16384),
        (80e9, None, 1, False, 4096),
        (80e9, 3000, 1, True, 3000),  # the profile's own
        (80e9, None, 8, True, 6250),  # a process's share of a step of 50,000 tokens
        (34e9, None, 1, False, 2048),
        (15e9, None, 1, True, 2048),  # a T4 keeps to max_length
    ],
)
def test_large_cards_take_longer_rows(tmp_path, monkeypatch, free, given, launched, recomputes, row):
    from transformers import LlamaConfig

    LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008).save_pretrained(tmp_path)
    training = {"method": "qlora", "lora_rank": 64, "gradient_checkpointing": recomputes, "max_length": 2048}
    profile = profile_on(tmp_path, training | {"tokens_per_row": given})
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(memory, "processes", lambda: launched)
    monkeypatch.setattr(memory, "_repeats_keys", lambda precision: False)
    example, _ = one_row(400)
    shape, card = memory.read_shape(profile, 42), Precision("cuda", "bfloat16", "")
    assert memory.choose_row(shape, profile, card, [range(125)], [example] * 125) == row
    assert memory.choose_row(shape, profile, CPU, [range(125)], [example] * 125) == (given or 2048)


def test_the_estimate_says_what_its_time_rests_on(folder, monkeypatch):
    example, _ = one_row(50)
    profile = profile_on(folder)
    monkeypatch.setattr(memory, "measure_flops", lambda precision: 2e9)
    made = memory.estimate(memory.read_shape(profile, 42), profile, CPU, [[0]], [example])
    assert made.seconds == made.flops / 1e9
    assert "at 50% of the 2.0e+09 a second of a plain product here, as measured on two cores)" in str(made)


def test_what_cannot_fit_is_refused_with_the_mend(folder, monkeypatch, capsys):
    example, _ = one_row(50)
    profile = profile_on(folder)
    made = memory.check_fit(profile, 42, CPU, [[0, 0]], [example])
    assert "estimate: needs about" in capsys.readouterr().out
    assert made.flops == memory.count_flops(memory.read_shape(profile, 42), profile, [50, 50])
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1e6)
    with pytest.raises(InputError, match=r"but cpu has 1 MB: set training\.method = 'qlora'"):
        memory.check_fit(profile, 42, CPU, [[0, 0]], [example])
    for training, mend in (
        ({"method": "qlora"}, "set training.gradient_checkpointing = true"),
        ({"method": "qlora", "gradient_checkpointing": True}, "a smaller model"),
    ):
        with pytest.raises(InputError, match=mend):
            memory.check_fit(profile_on(folder, training), 42, CPU, [[0, 0]], [example])
