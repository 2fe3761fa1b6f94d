"""What fits: an adapter merged into its base where memory allows, and how many rows are decoded at once.

A decoding step is bound by its launches and by reading the weights, hardly by its rows: so as many rows as fit are
written together, and the three more products that an adapter makes of each are saved by merging it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbutils.core.machine import free_bytes, size_text
from nbutils.core.settings import Generation
from nbutils.generation.slots import READ_COLUMNS, Draft, Room

MOST_ROWS = {"cpu": 64, "cuda": 256}
"""Rows at once where no `batch_size` is given: with more of them the products are bound by arithmetic."""

SHARE = 0.85
"""Share of the free memory that the cache may take, after what a forward pass needs; our margin."""

TOLERANCE = 0.05
"""Largest difference allowed between probabilities of the merged model and of base and adapter apart."""


def choose_room(model: Any, drafts: Sequence[Draft], settings: Generation) -> tuple[Room, str]:
    """The rows and tokens of a generation, the settings' own where given, and the reason in words."""
    device, rows = model.device.type, most_rows(model, drafts, settings)
    free, each = free_bytes(device), token_bytes(model)
    tokens = settings.batch_tokens or max(count_tokens(model, rows, free), 1)
    longest = max(draft.final_length for draft in drafts)
    at_once = max(1, min(rows, tokens // longest))
    asked = f"batch_tokens = {tokens:,}" if settings.batch_tokens else f"{size_text(free)} free of {device}"
    said = f"{at_once} rows at once of at most {longest:,} tokens: {size_text(each)} a token, {asked}"
    return Room(rows, tokens), said


def most_rows(model: Any, drafts: Sequence[Draft], settings: Generation) -> int:
    """Rows that may be decoded at once, memory apart: the settings' own number, else what the device can use."""
    return min(settings.batch_size or MOST_ROWS.get(model.device.type, MOST_ROWS["cuda"]), len(drafts))


def token_bytes(model: Any) -> int:
    """Bytes of the keys and values that one token leaves in the cache."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def count_tokens(model: Any, rows: int, free: float) -> int:
    """Tokens whose keys and values fit beside what a forward pass needs: reading prompts, and scores in fp32.

    One layer more, because a layer that grows is there twice.
    """
    config = model.config.get_text_config()
    vectors = 8 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    work = READ_COLUMNS * vectors * model.dtype.itemsize + rows * config.vocab_size * 4 * 4
    layers = config.num_hidden_layers
    return int(SHARE * max(free - work, 0) / token_bytes(model) * layers / (layers + 1))


def merge(model: Any, drafts: Sequence[Draft], settings: Generation, reload: Callable[[], Any]) -> tuple[Any, str]:
    """A model with its adapter added to the weights, and what was done in words; the model itself where it cannot be.

    Four-bit weights are unpacked one by one to the number format in which they compute, and take that much more memory.
    A merged model whose probabilities differ by more than TOLERANCE from the two apart, for rounding to 16 bits, is
    given up, and `reload` gives the model once more.
    """
    if not hasattr(model, "peft_config"):
        return model, "no adapter: all weights are the model's own"
    if any(_is_packed(layer.get_base_layer()) for _, layer in _adapted(model)):
        return model, "adapter apart: its base has answered before, and its weights are packed for this CPU since then"
    more = sum(_growth(layer, model.dtype.itemsize) for _, layer in _adapted(model))
    if more > 0:
        rows = most_rows(model, drafts, settings)
        wanted = rows * max(draft.final_length for draft in drafts)
        free = free_bytes(model.device.type)
        apart, merged = (count_tokens(model, rows, left) for left in (free, free - more))
        if merged <= min(wanted, apart) / 2:
            said = f"merged it would take {size_text(more)} more, of {size_text(free)} free"
            return model, f"adapter apart: {said}, and leave no room for half as many rows"
    probe = drafts[0].prompt[:256]
    expected = _chances(model, probe)
    _merge_layers(model)
    merged_model = model.get_base_model()
    difference = float((_chances(merged_model, probe) - expected).abs().max())
    if difference > TOLERANCE:
        del model, merged_model
        return reload(), f"adapter apart: merged, probabilities would be {difference:.3f} off"
    return merged_model, f"adapter merged into its base: probabilities within {difference:.1e}"


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers that an adapter has been put around, with their names."""
    from peft.tuners.lora import LoraLayer

    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer))


def _growth(layer: Any, width: int) -> float:
    """Bytes that a layer takes more when its weight is one of `width` bytes a number."""
    base = layer.get_base_layer()
    return base.in_features * base.out_features * width - base.weight.numel() * base.weight.itemsize


def _is_packed(base: Any) -> bool:
    """Whether bitsandbytes has repacked a four-bit weight, which unpacking would take for nonsense."""
    return bool(getattr(getattr(base.weight, "quant_state", None), "packing_format_for_cpu", False))


def _merge_layers(model: Any) -> None:
    """Put a plain layer, base and adapter added up in fp32, in the place of each adapted one."""
    import torch
    from peft.utils.integrations import dequantize_module_weight

    for name, layer in list(_adapted(model)):
        base = layer.get_base_layer()
        with torch.no_grad():
            weight = dequantize_module_weight(base).detach().float()
            for adapter in layer.active_adapters:
                weight = weight + layer.get_delta_weight(adapter).float()
        plain = torch.nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
        plain.weight = torch.nn.Parameter(weight.to(model.dtype), requires_grad=False)
        plain.bias = base.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)


def _chances(model: Any, ids: list[int]) -> Any:
    """Next-token probabilities after every token of a prompt."""
    import torch

    # A forward pass in eval mode would repack four-bit weights on CPUs with AVX512-BF16 (see `_is_packed`).
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().softmax(-1).cpu()
