"""Attention within each example of a flat row, by what the device is good at.

On cards of compute capability 8 and more one call of torch's FlashAttention takes the whole row with its examples'
borders. Elsewhere SDPA attends to one example after the other. Cards below 8 have no fused kernel for grouped heads:
there keys and values are repeated first, since SDPA would fall back to products that keep every pair of tokens.
"""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None

NAME = "sdpa_by_example"
UNGROUPED: Any = SimpleNamespace(is_causal=True)
"""What SDPA's wrapper asks of a module whose keys and values are repeated already."""


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    AttentionInterface.register(NAME, attend_by_example)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def describe_row(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """What a model's forward pass is told of a flat row's borders, so that no layer has to work them out.

    `row` has `block_lengths`, tokens of each example, and `borders`, where each begins and the last one ends.
    """
    model = getattr(model, "module", model)  # what a launcher has wrapped
    config = model.config
    kind, lengths, borders = config._attn_implementation, row["block_lengths"], row["borders"]
    if kind.startswith("flash_attention"):
        longest = max(lengths)
        both = {"cu_seq_lens": borders, "max_length": longest}
        return {f"{name}_{side}": value for name, value in both.items() for side in ("q", "k")}
    if kind != NAME:
        return {}
    window = getattr(config.get_text_config(), "sliding_window", None)
    told: dict[str, Any] = {"block_lengths": lengths}
    if _is_fused(config.get_text_config(), _dtype_of(borders.device, model.dtype), borders.device):
        told["borders"] = borders
    elif _passes_window(lengths, window):
        return told
    # A mask of four dimensions is handed on as it is: nobody reads this one, and none of tokens x tokens is made.
    return told | {"attention_mask": borders.new_ones(1, 1, 1, 1, dtype=torch.bool)}


def attend_by_example(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    block_lengths: list[int] | None = None,
    borders: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of a flat row (see `describe_row`); shapes (1, heads, tokens, size).

    With `borders` all examples are attended to at once. Without block_lengths (generation), and where an example is
    longer than the model's sliding window, attention is SDPA's own with the mask that transformers made.
    """
    if block_lengths is not None and borders is not None:
        return _attend_at_once(query, key, value, borders, max(block_lengths), options), None
    if block_lengths is None or _passes_window(block_lengths, options.get("sliding_window")):
        return _attend(module, query, key, value, attention_mask, **options)
    blocks = zip(*(tensor.split(block_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [_attend(module, q, k, v, None, **options)[0] for q, k, v in blocks]
    return torch.cat(attended, dim=1), None


def repeats_keys(device: torch.device) -> bool:
    """Whether grouped heads need their keys and values repeated: on cards below compute capability 8."""
    return device.type == "cuda" and _capability(device) < 8


def _attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is None and query.shape[2] > 1 and repeats_keys(query.device):
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        return sdpa_attention_forward(UNGROUPED, query, key, value, None, **options)
    return sdpa_attention_forward(module, query, key, value, mask, **options)


def _attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    options: dict[str, Any],
) -> torch.Tensor:
    """All examples in one call of FlashAttention; returns (1, tokens, heads, size)."""
    dtype, window = _dtype_of(query.device, query.dtype), options.get("sliding_window")
    packed = [states[0].transpose(0, 1).to(dtype) for states in (query, key, value)]
    attended: torch.Tensor = varlen_attn(
        *packed,
        borders,
        borders,
        longest,
        longest,
        scale=options.get("scaling"),
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[None]


def _dtype_of(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The number format of a product: autocast's where it is on, which custom operators do not heed."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def _is_fused(config: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch has FlashAttention with borders for these heads, in this number format, on this device."""
    if varlen_attn is None or device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_fit = size <= 256 and size % 8 == 0 and not getattr(config, "attention_dropout", 0)
    return is_fit and _capability(device) >= 8 and torch.backends.cuda.is_flash_attention_available()


def _passes_window(lengths: Sequence[int], window: int | None) -> bool:
    return window is not None and 0 < window < max(lengths)


def fuse_kernels(model: Any, device: str) -> str:
    """Put liger-kernel's norms, rotations and gated products in the place of a model's own; says what was done.

    The loss stays ours. transformers' `use_kernels` is left alone: it runs compiled code that it downloads.
    """
    from transformers.integrations.liger import apply_liger_kernel
    from transformers.utils import is_liger_kernel_available

    if device != "cuda" or not is_liger_kernel_available():
        missing = "liger-kernel is not installed" if device == "cuda" else "they need a CUDA card"
        return f"fused kernels: off, {missing}"
    parts = {"rope": True, "rms_norm": True, "swiglu": True}
    apply_liger_kernel(model, parts | {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return f"fused kernels: {', '.join(parts)} of liger-kernel"


@functools.cache
def _capability(device: torch.device) -> int:
    """Major number of a card's compute capability."""
    return torch.cuda.get_device_capability(device)[0]
