"""What fits on a device: the rows at once by its free memory, and an adapter merged where there is room for it."""

import pytest
import torch
from small_models import EOS, PAD, build, one_by_one, prompts

from nbutils.core import machine
from nbutils.core.settings import Generation
from nbutils.generation import fitting
from nbutils.generation.slots import READ_COLUMNS, Draft, Room, Rules, SlotCounts, decode

ASKED = prompts(12)


def drafts(limit=30):
    return [Draft(str(number), list(ids), limit, seed=number) for number, ids in enumerate(ASKED)]


def settings(**changed):
    return Generation(test_sets=("x",), **changed)


def adapted(base=None, strength=0.2):
    """A model with an adapter that changes its answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(base or build(), LoraConfig(r=4, target_modules="all-linear")).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    return model


def four_bit(folder):
    """The small model saved and read again in NF4."""
    from transformers import AutoModelForCausalLM

    build().save_pretrained(folder)
    how = machine.Precision("cpu", "float32", "").nf4()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=how)


def answers(model):
    made = drafts()
    list(decode(model, made, Rules(EOS, PAD), Room(8, 10_000), SlotCounts()))
    return [draft.new for draft in made]


# --- rows at once --------------------------------------------------------------------------------------------------


def test_a_tokens_bytes_are_those_of_the_cache():
    model = build()
    output = model(input_ids=torch.tensor([ASKED[0]]), use_cache=True)
    layers = output.past_key_values.layers
    kept = sum(states.numel() * states.itemsize for layer in layers for states in (layer.keys, layer.values))
    assert fitting.token_bytes(model) * len(ASKED[0]) == kept


@pytest.mark.parametrize(
    ("asked", "free", "rows", "said"),
    [
        ({}, 1e12, 12, "1000.0 GB free of cpu"),  # one row a prompt, never more
        ({"batch_size": 5}, 1e12, 5, "1000.0 GB free of cpu"),
        ({"batch_size": 64, "batch_tokens": 140}, 1e12, 2, "batch_tokens = 140"),
        ({}, 0.0, 1, "0 bytes free of cpu"),  # whether one fits alone is for the device to say
    ],
)
def test_rows_are_as_many_as_fit_or_as_asked(monkeypatch, asked, free, rows, said):
    monkeypatch.setattr(fitting, "free_bytes", lambda device: free)
    room, reason = fitting.choose_room(build(), drafts(), settings(**asked))
    longest = max(map(len, ASKED)) + 30
    assert room.slots == min(asked.get("batch_size", 12), 12)
    assert max(1, min(room.slots, room.tokens // longest)) == rows
    assert reason == f"{rows} rows at once of at most {longest} tokens: 512 bytes a token, {said}"


def test_memory_is_shared_by_the_cache_and_what_a_pass_needs():
    model = build()
    vectors = 8 * 64 + 3 * 128
    work = READ_COLUMNS * vectors * 4 + 10 * 64 * 16
    assert fitting.count_tokens(model, 10, work) == 0
    # 512 bytes a token; one of the two layers may be there twice; 85% of what is free.
    assert fitting.count_tokens(model, 10, work + 512 * 3000) == pytest.approx(0.85 * 3000 * 2 / 3, abs=1)


# --- merging -------------------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_and_the_answers_stay():
    model = adapted()
    expected = answers(model)
    assert expected != answers(build())
    merged, said = fitting.merge(model, drafts(), settings(), reload=None)
    assert said.startswith("adapter merged into its base: probabilities within ")
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert answers(merged) == expected == one_by_one(merged, ASKED, [30] * len(ASKED))


def test_four_bit_weights_are_unpacked_where_there_is_room(tmp_path, monkeypatch):
    model = adapted(four_bit(tmp_path))
    for layer in (module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")):
        layer.support_avx512bf16_for_cpu = False
    expected = answers(model)
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    more = linear * 4 - linear / 2
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "free_bytes", lambda device: more + 1e6)
        kept, said = fitting.merge(model, drafts(), settings(), reload=None)
        assert kept is model
        assert said.startswith(f"adapter apart: merged it would take {machine.size_text(more)} more, of ")
    merged, said = fitting.merge(model, drafts(), settings(), reload=None)
    assert said.startswith("adapter merged")
    assert {type(module) for module in merged.modules() if isinstance(module, torch.nn.Linear)} == {torch.nn.Linear}
    assert answers(merged) == expected


def test_weights_that_are_packed_for_a_cpu_are_not_unpacked(tmp_path):
    model = adapted(four_bit(tmp_path))
    model.get_base_model().model.layers[1].mlp.up_proj.get_base_layer().weight.quant_state.packing_format_for_cpu = True
    kept, said = fitting.merge(model, drafts(), settings(), reload=None)
    assert kept is model and said.startswith("adapter apart: its base has answered before")


def test_a_merge_that_changes_the_model_is_given_up(monkeypatch):
    monkeypatch.setattr(fitting, "TOLERANCE", -1.0)
    kept, said = fitting.merge(adapted(), drafts(), settings(), reload=lambda: "once more")
    assert kept == "once more"
    assert said.startswith("adapter apart: merged, probabilities would be 0.000 off")


def test_a_model_without_an_adapter_stays_as_it_is():
    model = build()
    assert fitting.merge(model, drafts(), settings(), reload=None) == (
        model,
        "no adapter: all weights are the model's own",
    )


# --- free memory ---------------------------------------------------------------------------------------------------


def test_a_containers_limit_counts(tmp_path):
    assert machine._free_in_cgroup(tmp_path) == float("inf")
    for name, text in (
        ("memory.max", "max\n"),
        ("memory.current", "70\n"),
        ("memory.stat", "anon 5\ninactive_file 20\n"),
    ):
        (tmp_path / name).write_text(text, encoding="ascii")
    assert machine._free_in_cgroup(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("100\n", encoding="ascii")
    assert machine._free_in_cgroup(tmp_path) == 50


def test_a_cards_free_memory_counts_what_torch_has_kept(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 30)
    assert machine.free_bytes("cuda") == 30
