"""Attention inside each example of a flat row, by torch's fused kernels and without a mask.

A dense block-diagonal mask over a row of 2,048 tokens multiplies every pair of tokens and then throws nine tenths of
the products away. Here the kernel is called once for each example. Where FlashAttention is at hand it does the same
in one call (`model.attention = "flash_attention_2"`).
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_example"


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    AttentionInterface.register(NAME, attend_by_example)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attend_by_example(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    block_lengths: list[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of a flat row whose examples have `block_lengths` tokens; shapes (1, heads, tokens, size).

    Without block_lengths (generation), and where an example is longer than the model's sliding window, attention is
    SDPA's own with the mask that transformers made.
    """
    window = options.get("sliding_window")
    if block_lengths is None or (window and max(block_lengths) > window):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    blocks = zip(*(tensor.split(block_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in blocks]
    return torch.cat(attended, dim=1), None
