"""Aims T1 to T5: packed training against the official recipe, which pads every example to 2,048 tokens, and on two
cores against stock TRL.
"""

import functools
import tempfile
import time
from typing import Any

import numpy as np
from timing import not_here, result

from nbutils import data, prompts
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.core.machine import choose_precision
from nbutils.core.settings import Profile
from nbutils.prompts import IGNORED, Example
from nbutils.training import models, packing

PADDED = 2048
OFFICIAL_ROWS = 105 * 128
# Mean of the 1,000 longest rows in the official format.
OFFICIAL_TOKENS = 410
COUNTED_ROWS = 6
Result = dict[str, Any]


@functools.cache
def longest_examples() -> list[Example]:
    """The published 1,000 longest rows of Alpaca in the project's own template, in Llama-2 tokens.

    Its prompts are shorter than the official ones, with which an example has 410 tokens on average (docs/decisions.md).
    """
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=data.llama2_tokenizer(), **special)
    return [prompts.encode(row, tokenizer, "plain", PADDED) for row in data.load_rows("alpaca-1k-longest-published")]


def _steps() -> list[np.ndarray]:
    return packing.plan_steps(len(longest_examples()), 128, 15, "carry", seed=42)


def _rows_of(step: np.ndarray) -> list[dict[str, Any]]:
    from nbutils.training.trainer import StepCollator

    recipe = settings.load_profile("llama2-7b").training
    return StepCollator(recipe)([longest_examples()[i]._asdict() for i in step])["rows"]


def processed_tokens() -> Result:
    """T1: tokens that pass through the model for each token of the data."""
    what, target = (
        "processed over real tokens, Alpaca-1k-longest, 128 examples kept in each of 105 steps",
        "at most 1.02",
    )
    try:
        lengths = [len(example.input_ids) for example in longest_examples()]
    except InputError as error:
        return not_here("T1", what, target, error)
    packed = [_rows_of(step) for step in _steps()]
    processed = sum(row["input_ids"].numel() for rows in packed for row in rows)
    real = sum(lengths[i] for step in _steps() for i in step)
    rows = [len(each) for each in packed]
    detail = {
        "official recipe, padded to 2,048": f"{OFFICIAL_ROWS * PADDED / real:.2f}",
        "flat rows a step": f"{min(rows)} to {max(rows)}, {real / sum(rows) / PADDED:.1%} of 2,048 tokens each",
        "mean tokens an example": f"{np.mean(lengths):.1f}",
    }
    return result("T1", what, f"{processed / real:.2f}", target, processed / real <= 1.02, detail)


def same_loss() -> Result:
    """T2: loss and adapter gradients of packed rows against one example at a time, fp32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from nbutils.training import attention

    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=1000, attn_implementation=attention.register(), **shape)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    packed, alone, unmasked = (_gradient(model, rows) for rows in _three_ways())
    loss, gradient = (abs(packed[0] / alone[0] - 1), _distance(packed[1], alone[1]))
    detail = {
        "loss": f"{loss:.1e}",
        "adapter gradients": f"{gradient:.1e}",
        "gradients without the block mask": f"{_distance(unmasked[1], alone[1]):.1e}",
    }
    what = "packed against one by one: relative difference of loss and adapter gradients, fp32"
    return result("T2", what, f"{max(loss, gradient):.1e}", "at most 1e-5", max(loss, gradient) <= 1e-5, detail)


def _three_ways() -> list[list[dict[str, Any]]]:
    from nbutils.training.trainer import StepCollator, flatten

    random = np.random.default_rng(0)
    ids = [random.integers(4, 1000, length).tolist() for length in random.integers(20, 700, 32)]
    examples = [Example(each, [IGNORED] * 8 + each[8:], False) for each in ids]
    weights = packing.token_weights([example.trained for example in examples], "example")
    packed = StepCollator(settings.load_profile("llama2-7b").training)([example._asdict() for example in examples])[
        "rows"
    ]
    alone = [flatten([example], weights[[i]]) for i, example in enumerate(examples)]
    return [packed, alone, [_unmask(row) for row in packed]]


def _unmask(row: dict[str, Any]) -> dict[str, Any]:
    import torch

    tokens = row["input_ids"].numel()
    borders = torch.tensor([0, tokens], dtype=torch.int32)
    return {**row, "position_ids": torch.arange(tokens)[None], "block_lengths": [tokens], "borders": borders}


def _gradient(model: Any, rows: list[dict[str, Any]]) -> tuple[float, Any]:
    import torch

    from nbutils.training.trainer import weighted_loss

    model.zero_grad()
    total = 0.0
    for row in rows:
        loss = weighted_loss(model, row)
        loss.backward()
        total += loss.item()
    return total, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])


def _distance(one: Any, other: Any) -> float:
    return ((one - other).norm() / other.norm()).item()


def executed_operations() -> list[Result]:
    """T3: floating-point operations of the whole run at Llama-2-7B's shape, against the official recipe."""
    what = "executed FLOPs over the official recipe's, Llama-2-7B's shape, Alpaca-1k-longest, {} recomputation"
    ways = {"with": (True, 6), "without": (False, 9)}
    try:
        rows = _rows_of(_steps()[0])[:COUNTED_ROWS]
    except InputError as error:
        return [not_here("T3", what.format(way), f"at most 1/{limit}", error) for way, (_, limit) in ways.items()]
    official = _official_operations()
    found = []
    for way, (recomputes, limit) in ways.items():
        # Counted on a few rows; the rest of the run, with the official prompts' length, in proportion to the tokens.
        counted = _operations(_adapted_llama(recomputes), rows) / sum(row["input_ids"].numel() for row in rows)
        ours = counted * OFFICIAL_TOKENS * OFFICIAL_ROWS
        detail = f"{ours:.2e} against {official:.2e} FLOP, at the official prompts' {OFFICIAL_TOKENS} tokens an example"
        target = f"at most 1/{limit}"
        found.append(
            result("T3", what.format(way), f"1/{official / ours:.1f}", target, ours * limit <= official, detail)
        )
    return found


def _llama_7b(recomputes: bool, attention: str) -> Any:
    """Llama-2-7B's architecture without weights: operations are counted, none is executed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=11008, attn_implementation=attention))
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _adapted_llama(recomputes: bool) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    from nbutils.training import attention

    model = _llama_7b(recomputes, attention.register())
    with torch.device("meta"):
        adapted = get_peft_model(model, LoraConfig(r=64, target_modules="all-linear"), low_cpu_mem_usage=True)
    if recomputes:
        adapted.enable_input_require_grads()
    return adapted.train()


def _official_operations() -> float:
    # Full fine-tuning with recomputation; every padded example costs the same.
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = _llama_7b(recomputes=True, attention="eager")
    ids = torch.zeros(1, PADDED, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, attention_mask=_mask(PADDED), use_cache=False).loss.backward()
    return float(counter.get_total_flops()) * OFFICIAL_ROWS


def _operations(model: Any, rows: list[dict[str, Any]]) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        for row in rows:
            meta = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in row.items()}
            given = {name: meta[name] for name in ("input_ids", "position_ids", "block_lengths")}
            mask = _mask(row["input_ids"].numel())
            output = model(**given, attention_mask=mask, use_cache=False, logits_to_keep=meta["sources"])
            losses = torch.nn.functional.cross_entropy(output.logits[0].float(), meta["targets"], reduction="none")
            (losses @ meta["weights"]).backward()
    return float(counter.get_total_flops())


def _mask(length: int) -> Any:
    # Without values no mask can be worked out; its size is all that counts here.
    import torch

    return torch.zeros(1, 1, length, length, device="meta")


def against_other_trainers() -> Result:
    """T4: tokens a second on a GPU, against stock TRL and unsloth."""
    what = "tokens/s against stock TRL SFTTrainer and unsloth, 7B shape, one GPU"
    return not_here("T4", what, "at least 2.5x and 1.0x", "needs a CUDA device")


def on_cores() -> list[Result]:
    """T5: SmolLM2 with LoRA in fp32 on this machine's cores: share of the matrix peak, tokens/s over stock TRL's."""
    share = "executed FLOP/s over those of plain products of 2,048, SmolLM2 with LoRA in fp32, 32 longest rows"
    speed = "tokens/s over stock TRL's (batches of 4, padded), the same rows"
    try:
        given = settings.load_profile("smollm2-1k")
        tokenizer = models.load_tokenizer(given, 42)
        rows = data.load_rows("alpaca-1k-longest-published")[:32]
        examples = [prompts.encode(row, tokenizer, "chat", given.training.max_length) for row in rows]
    except InputError as error:
        return [not_here("T5", share, "at least 0.6", error), not_here("T5", speed, "at least 2x", error)]
    tokens = sum(len(example.input_ids) for example in examples)
    stock = _train_by_trl(given, tokenizer, examples)
    ours, operations = _train_packed(given, examples)
    peak = _product_rate()
    reached, ratio = operations / ours / peak, stock / ours
    rates = {"packed": f"{tokens / ours:.0f} tokens/s", "stock TRL": f"{tokens / stock:.0f} tokens/s"}
    detail = {"plain products": f"{peak / 1e9:.0f} GFLOP/s", "attention": "not counted among the operations"}
    return [
        result("T5", share, f"{reached:.2f}", "at least 0.6", reached >= 0.6, detail),
        result("T5", speed, f"{ratio:.2f}", "at least 2x", ratio >= 2, rates),
    ]


def _train_by_trl(given: Profile, tokenizer: Any, examples: list[Example]) -> float:
    """Seconds of a step of TRL's own trainer for each batch of four, as it pads them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    records = [{"input_ids": each.input_ids, "labels": each.labels} for each in examples]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        base = AutoModelForCausalLM.from_pretrained(models.base_location(given, 42), dtype="float32")
        trainer = SFTTrainer(
            base, arguments, train_dataset=Dataset.from_list(records), processing_class=tokenizer, peft_config=_lora()
        )
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def _train_packed(given: Profile, examples: list[Example]) -> tuple[float, float]:
    """Seconds of the same steps in flat rows, with AdamW, and the operations that were executed in them."""
    import torch
    from peft import get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    from nbutils.training.trainer import StepCollator, weighted_loss

    base = models.load_base(given, 42, choose_precision(), quantised=False, trains=True)
    model = get_peft_model(base, _lora()).train()
    optimizer = torch.optim.AdamW(weight for weight in model.parameters() if weight.requires_grad)
    size = given.training.examples_per_step
    batches = [[each._asdict() for each in examples[first : first + size]] for first in range(0, len(examples), size)]
    steps = [StepCollator(given.training)(batch)["rows"] for batch in batches]

    def train() -> float:
        started = time.perf_counter()
        for rows in steps:
            for row in rows:
                weighted_loss(model, row).backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    seconds = train()
    with FlopCounterMode(display=False) as counter:
        train()
    return seconds, float(counter.get_total_flops())


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _product_rate(size: int = 2048, repeats: int = 20) -> float:
    """FLOP/s of the best of some plain products in fp32."""
    import torch

    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


BENCHMARKS = [processed_tokens, same_loss, executed_operations, against_other_trainers, on_cores]
