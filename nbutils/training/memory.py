"""Before anything loads: how much memory fine-tuning will take and about how long, and whether it can fit at all.

The model is built without weights (torch's meta device), so that the counts are the architecture's own.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbutils.core.errors import InputError
from nbutils.core.machine import Precision, free_bytes, processes, size_text
from nbutils.core.settings import Profile
from nbutils.prompts import Example
from nbutils.training import models

# NF4 with double quantisation (2305.14314, section 3): 4 bits, an 8-bit constant per 64 weights, and a 32-bit one per
# 256 of those.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
SHARES = {
    "cpu": (0.5, "as measured on two cores"),
    "cuda": (0.25, "calculated from launches and never measured: `make check-gpu` measures it"),
}
"""Share of a plain matrix product's speed that training reaches, and what that rests on."""
LARGE_CARD = 32e9
"""Free bytes from which on rows may be longer than `max_length`, if a profile leaves it open: cards from 40 GB on."""
LONG_ROWS = (16384, 8192, 4096)
ROOM = 0.7
"""Share of the free memory that a run with longer rows may take by the estimate."""


class Shape(NamedTuple):
    """A decoder's configuration, and parameters of its linear layers (output layer apart) and of everything else."""

    linear: int
    other: int
    largest_linear: int
    lora_per_rank: int
    config: Any


class Footprint(NamedTuple):
    """Bytes by part, floating-point operations of the whole run, and the seconds that they take.

    `basis` says what the seconds rest on; `row`: most tokens of a flat row.
    """

    parts: dict[str, float]
    flops: float
    seconds: float
    basis: str
    row: int

    @property
    def bytes(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size_text(size)}" for name, size in self.parts.items() if size)
        time = f"{self.seconds / 60:.0f} min" if self.seconds < 5400 else f"{self.seconds / 3600:.1f} h"
        time = f"{self.seconds:.0f} s" if self.seconds < 90 else time
        return f"needs about {size_text(self.bytes)} ({parts}) and {time} ({self.flops:.2e} FLOP, {self.basis})"


def check_fit(
    profile: Profile, seed: int, precision: Precision, steps: Sequence[Any], examples: list[Example]
) -> Footprint:
    """Print the estimate beside what the device has. Raises InputError, with the mend, where it cannot fit.

    The estimate's `row` is how many tokens a flat row may have: see `choose_row`.
    """
    shape = read_shape(profile, seed)
    row = choose_row(shape, profile, precision, steps, examples)
    made = estimate(shape, _with_row(profile, row), precision, steps, examples)
    # Sharded weights are spread over the processes; activations are not.
    available = free_bytes(precision.device) * (processes() if models.is_sharded() else 1)
    print(f"estimate: {made}; {precision.device} has {size_text(available)} free", flush=True)
    if made.bytes - made.parts["activations"] > available:
        mend = "lower training.tokens_per_row or max_length, or choose a smaller model (profile colab-t4)"
        if profile.training.method != "qlora":
            mend = "set training.method = 'qlora', or share the work among GPUs (docs/multi-gpu.md)"
        elif not profile.training.gradient_checkpointing:
            mend = "set training.gradient_checkpointing = true"
        raise InputError(f"{profile.name}: {made}, but {precision.device} has {size_text(available)}: {mend}")
    return made


def choose_row(
    shape: Shape, profile: Profile, precision: Precision, steps: Sequence[Any], examples: Sequence[Example]
) -> int:
    """Most tokens of a flat row: the profile's own number, else `max_length`, and on a large card as many as fit.

    A long row saves launches and fills the card; no row is longer than a process's share of a step.
    """
    settings = profile.training
    if settings.tokens_per_row or precision.device != "cuda" or free_bytes("cuda") < LARGE_CARD:
        return settings.tokens_per_row or settings.max_length
    step = max(sum(len(examples[i].input_ids) for i in step) for step in steps)
    for row in LONG_ROWS:
        row = min(row, math.ceil(step / processes()))
        if row > settings.max_length:
            parts = _count_parts(shape, _with_row(profile, row), precision, examples)
            if sum(parts.values()) <= ROOM * free_bytes("cuda"):
                return row
    return settings.max_length


def _with_row(profile: Profile, row: int) -> Profile:
    return profile.model_copy(update={"training": profile.training.model_copy(update={"tokens_per_row": row})})


def read_shape(profile: Profile, seed: int) -> Shape:
    """Sizes of the profile's base model, from its configuration alone."""
    import torch
    from transformers import AutoModelForCausalLM

    config = models.load_config(profile, seed)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    linear = sum(module.weight.numel() for module in linears.values())
    return Shape(
        linear=linear,
        other=sum(weight.numel() for weight in model.parameters()) - linear,
        largest_linear=max(module.weight.numel() for module in linears.values()),
        lora_per_rank=sum(module.in_features + module.out_features for module in linears.values()),
        config=config,
    )


def estimate(
    shape: Shape, profile: Profile, precision: Precision, steps: Sequence[Any], examples: Sequence[Example]
) -> Footprint:
    """Memory at its peak, operations and time of a planned run."""
    settings = profile.training
    flops = count_flops(shape, profile, [len(examples[i].input_ids) for step in steps for i in step])
    (share, why), peak = SHARES[precision.device], measure_flops(precision)
    basis = f"at {share:.0%} of the {peak:.1e} a second of a plain product here, {why}"
    row = settings.tokens_per_row or settings.max_length
    return Footprint(_count_parts(shape, profile, precision, examples), flops, flops / (peak * share), basis, row)


def _count_parts(shape: Shape, profile: Profile, precision: Precision, examples: Sequence[Example]) -> dict[str, float]:
    """Bytes at the peak of a run, by what they are for."""
    settings, width = profile.training, precision.torch_dtype.itemsize
    trained = shape.linear + shape.other if settings.method == "full" else shape.lora_per_rank * settings.lora_rank
    frozen = {
        "full": 0.0,
        "lora": (shape.linear + shape.other) * width,
        "qlora": shape.linear * NF4_BYTES + shape.other * width,
    }[settings.method]
    row = min(settings.tokens_per_row or settings.max_length, sum(len(example.input_ids) for example in examples))
    kept = activation_bytes(shape, profile, width, _repeats_keys(precision))
    return {
        "weights": frozen + 4.0 * trained,
        "gradients": 4.0 * trained,
        "optimizer": (2.0 if "8bit" in settings.optimizer else 8.0) * trained,
        "activations": row * kept + row * shape.config.vocab_size * 12.0,
        "unpacked weights": float(shape.largest_linear * width) if settings.method == "qlora" else 0.0,
    }


def _repeats_keys(precision: Precision) -> bool:
    """Whether attention repeats the keys and values of grouped heads on this device."""
    import torch

    from nbutils.training import attention

    return attention.repeats_keys(torch.device(precision.device))


def count_flops(shape: Shape, profile: Profile, lengths: Sequence[int]) -> float:
    """Operations of a run over examples of these token counts: 2 per weight and token and pass, and attention.

    A frozen weight takes two passes, a trained one three; recomputation adds a forward pass. Attention is counted in
    full, as a masked product executes it; kernels that skip what is masked do about half of it. All of a row's tokens
    are taken to go through the output layer, of which only the trained ones do.
    """
    settings, config = profile.training, shape.config
    passes, recomputed = (3 if settings.method == "full" else 2), int(settings.gradient_checkpointing)
    adapters = 0 if settings.method == "full" else (3 + recomputed) * shape.lora_per_rank * settings.lora_rank
    tokens = float(sum(lengths))
    head = passes * config.vocab_size * config.hidden_size
    attention = 4 * config.num_hidden_layers * config.hidden_size * sum(float(length) ** 2 for length in lengths)
    return 2 * tokens * ((passes + recomputed) * shape.linear + head + adapters) + attention * (3 + recomputed)


def activation_bytes(shape: Shape, profile: Profile, width: int, repeats_keys: bool = False) -> float:
    """Bytes kept for the backward pass per token; `width` is that of the compute dtype.

    Grouped heads keep fewer keys and values, unless they are repeated (`attention.repeats_keys`).

    What a Llama layer keeps, counted in vectors of its width and of its inner width: queries, keys, values, their
    rotations, the attention's output and the norms' inputs (fp32), and three products of the gated layer. Weights
    that are trained need their inputs as well. Each of seven adapters keeps a copy of its input, and with dropout a
    mask. With recomputation one vector a layer remains, and one layer's worth at a time. The tests compare this with
    what autograd really keeps.
    """
    settings, config = profile.training, shape.config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    if settings.method == "full":
        layer = width * (10 * hidden + 4 * inner) + 4 * 4 * hidden
    else:
        per_input = width + (4 if settings.lora_dropout else 0)
        layer = width * (8 * hidden + 3 * inner) + 4 * 2 * hidden + per_input * (6 * hidden + inner)
    heads = config.num_attention_heads
    groups = 1 if repeats_keys else heads / (getattr(config, "num_key_value_heads", None) or heads)
    layer -= 2 * width * hidden * (1 - 1 / groups)
    return layers * width * hidden + layer if settings.gradient_checkpointing else layers * layer


def measure_flops(precision: Precision, seconds: float = 0.2) -> float:
    """Operations per second of a large matrix product here and now, in the compute dtype."""
    import torch

    size = 4096 if precision.device == "cuda" else 1024
    left = torch.ones(size, size, device=precision.device, dtype=precision.torch_dtype)

    def multiply() -> None:
        left @ left
        if precision.device == "cuda":
            torch.cuda.synchronize()

    multiply()
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        multiply()
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - started)
