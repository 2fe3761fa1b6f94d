"""What only a card can show, checked on one within ten minutes: `make check-gpu`.

    python -m nbutils.execution.check_gpu [--small]

Random models, the sample's rows, no network. Steps in 16 and in four bits against fp32, packed rows against one by one,
a training that is stopped and goes on, generation in slots against one by one, memory against the estimate, and speed
against stock TRL on the same rows. Prints a table and one line for a log; exit status 1 where a check fails. Without a
card the same code runs on the CPU at a small size, and what only a card can show is left open.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import finetune, generate
from nbutils.core import manifests
from nbutils.core.errors import ArgumentParser, exits_cleanly
from nbutils.core.machine import Precision, choose_precision, describe_device, free_memory, quiet_libraries, size_text
from nbutils.core.settings import Profile
from nbutils.execution import random_models
from nbutils.execution.random_models import ARM, CARD, SMALL, Size
from nbutils.generation.slots import Draft, Room, Rules, SlotCounts, decode
from nbutils.prompts import Example
from nbutils.training import memory, models


class Check(NamedTuple):
    """One line of the table; `is_met` is None where it is only shown."""

    name: str
    expected: str
    found: str
    is_met: bool | None


GRADIENTS = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}
"""Largest relative distance of the adapters' gradients from fp32's, by number format; a wrong mask gives 0.5."""


def run(folder: Path, size: Size, precision: Precision) -> Iterator[Check]:
    """All checks, one after the other; `folder` takes models and runs."""
    for kind in ("llama", "mistral"):
        path = random_models.build_model(folder / kind, kind, size.small)
        yield from check_steps(path, kind, size, precision)
        yield check_packing(path, kind, size, precision)
        yield check_slots(path, kind, precision)
        free_memory()
    yield from check_stage(random_models.build_model(folder / "stage", "llama", size.small), folder, size, precision)
    yield from check_speed(random_models.build_model(folder / "large", "llama", size.large), folder, size, precision)


# --- what must agree -----------------------------------------------------------------------------------------------


def check_steps(path: Path, kind: str, size: Size, precision: Precision) -> Iterator[Check]:
    """A step's loss and gradients in each number format of the device, and over four-bit weights, against fp32."""
    plain = precision._replace(dtype="float32")
    formats = {"float16": precision.device == "cuda", "bfloat16": precision.dtype != "float16"}
    ways = [(precision._replace(dtype=name), False) for name, is_here in formats.items() if is_here]
    for chosen, quantised in [*ways, (precision, True)]:
        exact, found = (
            random_models.load_adapted(path, plain, quantised, unpacked=True),
            random_models.load_adapted(path, chosen, quantised),
        )
        random_models.share_adapter(exact, found)
        (loss, gradients), (own_loss, own) = (
            _step(model, random_models.random_rows(size, packed=True)) for model in (exact, found)
        )
        off, most = _distance(own, gradients), GRADIENTS[chosen.dtype]
        yield Check(
            f"{kind}: a step {'over NF4 ' if quantised else ''}in {chosen.dtype} against fp32",
            f"gradients within {most:g}, loss within 0.01",
            f"{off:.1e}, {abs(own_loss / loss - 1):.1e}",
            off <= most and abs(own_loss / loss - 1) <= 0.01,
        )


def check_packing(path: Path, kind: str, size: Size, precision: Precision) -> Check:
    """Gradients of packed rows against those of the same examples one by one, in the device's own format."""
    model, most = random_models.load_adapted(path, precision), max(1e-4, GRADIENTS[precision.dtype] / 3)
    packed, alone = (_step(model, random_models.random_rows(size, packed))[1] for packed in (True, False))
    off = _distance(packed, alone)
    what = f"{kind}: packed against one by one in {precision.dtype}"
    return Check(what, f"gradients within {most:.0e}", f"{off:.1e}", off <= most)


def check_slots(path: Path, kind: str, precision: Precision) -> Check:
    """Greedy answers in slots against `generate` on one prompt after the other, in fp32, where ties are rare."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from nbutils.training import attention

    model: Any = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention.register())
    model = model.to(precision.device).eval()
    random = np.random.default_rng(0)
    asked = [random.integers(4, 256, int(length)).tolist() for length in random.integers(2, 60, 16)]
    drafts = [Draft(str(number), ids, 10 + 2 * number) for number, ids in enumerate(asked)]
    for _ in decode(model, drafts, Rules(2, 0), Room(6, 10_000), SlotCounts()):
        pass
    same, config = 0, GenerationConfig(do_sample=False, max_new_tokens=40, eos_token_id=2, pad_token_id=0)
    for ids, draft in zip(asked, drafts, strict=True):
        given = torch.tensor([ids], device=model.device)
        output = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        same += output[0, len(ids) :].tolist()[: draft.max_new] == draft.new
    least = 16 if precision.device == "cpu" else 15
    return Check(f"{kind}: slots against one by one, fp32", f"at least {least} of 16 alike", f"{same}", same >= least)


def check_stage(path: Path, folder: Path, size: Size, precision: Precision) -> Iterator[Check]:
    """The stages themselves: a training that is stopped behind a checkpoint and goes on, its adapter, its answers."""
    profile = random_models.profile_on(
        path, size, {"method": "qlora", "optimizer": "paged_adamw_8bit", "save_steps": 2}
    )
    if precision.device == "cpu":  # paged memory is a card's
        profile = random_models.profile_on(path, size, {"method": "qlora", "save_steps": 2})
    adapters, again = [], 0
    for way in ("whole", "stopped"):
        with _runs_in(folder / way):
            if way == "stopped":
                with _stop_after(3), contextlib.suppress(KeyboardInterrupt):
                    finetune.run(profile, ARM)
            with _stop_after() as done:
                tuned = finetune.run(profile, ARM)
            adapters.append(random_models.read_adapter(tuned.folder / "adapter"))
            again = done[0]
            if way == "whole":
                facts = generate.run(profile, ARM).facts
                found = f"{facts['answers']} answers, {facts['adapter']}"
                yield Check("answers of the adapter", "adapter merged", found, "adapter merged" in found)
    off, most = _distance(adapters[1], adapters[0]), 0.0 if precision.device == "cpu" else 0.01
    steps = tuned.facts["optimizer_steps"]
    what, expected = (
        f"stopped behind 3 of {steps} steps, and continued",
        f"weights within {most:g}, {steps - 2} steps again",
    )
    yield Check(what, expected, f"{off:.1e}, {again} steps", off <= most and steps > 3 and again == steps - 2)


# --- memory and speed ----------------------------------------------------------------------------------------------


def check_speed(path: Path, folder: Path, size: Size, precision: Precision) -> Iterator[Check]:
    """Peak of memory, real tokens a second, and the share of a plain product's speed, beside stock TRL's."""
    import torch

    profile, is_card = random_models.profile_on(path, size, {"method": "qlora"}), precision.device == "cuda"
    examples, steps = random_models.random_examples(size, 32), [np.arange(32)] * 3
    shape, device = memory.read_shape(profile, 0), precision.local_device
    row = memory.choose_row(shape, profile, precision, steps[:1], examples)
    profile = profile.model_copy(update={"training": profile.training.model_copy(update={"tokens_per_row": row})})
    expected = memory.estimate(shape, profile, precision, steps[:1], examples)
    if is_card:
        torch.cuda.reset_peak_memory_stats()
    seconds = _time_ours(profile, precision, examples, steps, folder)
    peak = torch.cuda.max_memory_allocated(device) if is_card else 0
    free_memory()
    stock = _time_stock(profile, precision, examples, folder)
    free_memory()
    tokens, share = (
        sum(map(random_models.length_of, examples)),
        expected.flops / seconds / memory.measure_flops(precision),
    )
    near = 0.5 * expected.bytes <= peak <= 1.15 * expected.bytes
    found = f"{size_text(peak)}, estimated {size_text(expected.bytes)}" if is_card else "-"
    what, is_near = f"peak of memory, rows of {row:,} tokens", near if is_card else None
    yield Check(what, "0.5 to 1.15 of the estimate", found, is_near)
    # Of the CPU's small model speed says nothing.
    speeds = f"{tokens / seconds:,.0f} tokens/s, {tokens / stock:,.0f}: {stock / seconds:.2f}x"
    is_fast, is_full = (stock / seconds >= 1.5, share >= 0.15) if is_card else (None, None)
    yield Check("a step of 32 examples, ours and stock TRL's", "at least 1.5x (aim 2.5x)", speeds, is_fast)
    yield Check("share of a plain product's speed", "at least 0.15 (aim 0.45)", f"{share:.2f}", is_full)


def _time_ours(
    profile: Profile, precision: Precision, examples: Sequence[Example], steps: Sequence[Any], folder: Path
) -> float:
    """Seconds of the fastest of the steps."""
    from nbutils.training import trainer

    planned = manifests.Plan("check", profile.name, ARM, 0, folder / "ours", {}, {})
    tokenizer, settings = models.load_tokenizer(profile, 0), profile.training.model_copy(update={"sample_prompts": 0})
    base = models.load_base(profile, 0, precision, quantised=True, trains=True)
    made = trainer.make_trainer(base, planned, settings, precision, tokenizer, examples, steps, folder / "ours")
    return _fastest(made)


def _time_stock(profile: Profile, precision: Precision, examples: Sequence[Example], folder: Path) -> float:
    """The same for TRL as it comes: batches of four, padded to the longest, over the same base and adapter."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": each.input_ids, "labels": each.labels} for each in examples]
    base = AutoModelForCausalLM.from_pretrained(
        profile.model.base,
        dtype=precision.torch_dtype,
        quantization_config=precision.nf4(),
        device_map={"": precision.local_device},
    )
    settings = profile.training
    arguments = SFTConfig(
        output_dir=str(folder / "stock"),
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=len(examples) // 4,
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=precision.dtype == "bfloat16",
        fp16=precision.dtype == "float16",
        use_cpu=precision.device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    made = SFTTrainer(
        model=base,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer(profile, 0),
        peft_config=LoraConfig(r=settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for weight in made.model.parameters():  # TRL's bf16 adapters do not train under the scaler of fp16
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    return _fastest(made)


def _fastest(trainer: Any) -> float:
    """Train, and return the seconds of the fastest step."""
    import torch
    from transformers import TrainerCallback

    marks: list[float] = []

    def mark(*_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.monotonic())

    clock = TrainerCallback()
    clock.on_step_begin = clock.on_step_end = mark
    trainer.add_callback(clock)
    trainer.train()
    return min(after - before for before, after in zip(marks[::2], marks[1::2], strict=True))


# --- parts of checks -------------------------------------------------------------------------------------------------


def _step(model: Any, rows: Sequence[dict[str, Any]]) -> tuple[float, Any]:
    """Loss and gradients of a step, as training makes them; scaled on the way for fp16's sake."""
    import torch

    from nbutils.training import trainer

    model.zero_grad()
    total, scale = 0.0, 1024.0
    for row in rows:
        there = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in row.items()}
        loss = trainer.weighted_loss(model, there)
        (loss * scale).backward()
        total += loss.item()
    gradients = [weight.grad.float().flatten() for weight in model.parameters() if weight.requires_grad]
    return total, torch.cat(gradients).cpu() / scale


def _distance(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())


@contextlib.contextmanager
def _runs_in(folder: Path) -> Iterator[None]:
    """Let stages write there."""
    before = os.environ.get("LIM_RUNS")
    os.environ["LIM_RUNS"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("LIM_RUNS")
        os.environ |= {"LIM_RUNS": before} if before is not None else {}


@contextlib.contextmanager
def _stop_after(steps: int = sys.maxsize) -> Iterator[list[int]]:
    """Count optimizer steps, in a list of one number, and let training be interrupted behind so many."""
    from nbutils.training import trainer

    original, done = trainer.PackedTrainer.training_step, [0]

    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        if done[0] == steps:
            raise KeyboardInterrupt
        done[0] += 1
        return original(self, *arguments, **named)

    trainer.PackedTrainer.training_step = step  # type: ignore[method-assign]
    try:
        yield done
    finally:
        trainer.PackedTrainer.training_step = original  # type: ignore[method-assign]


# --- the table -----------------------------------------------------------------------------------------------------


def show(checks: Sequence[Check], seconds: float) -> str:
    """The table, and one line for a log."""
    marks = {True: "ok", False: "FAILED", None: "open"}
    cells = [("check", "expected", "found", ""), *((*check[:3], marks[check.is_met]) for check in checks)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    counts = {mark: sum(check.is_met is met for check in checks) for met, mark in marks.items()}
    log = {"device": describe_device(), "seconds": round(seconds), **counts, "versions": manifests.installed_versions()}
    return "\n".join([*lines, "", "check-gpu: " + json.dumps(log)])


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.check_gpu`."""
    parser = ArgumentParser(prog="python -m nbutils.execution.check_gpu", description="Check this machine's card.")
    parser.add_argument("--small", action="store_true", help="the small size, as without a card")
    given, precision, started = parser.parse_args(arguments), choose_precision(), time.monotonic()
    print(f"{describe_device()}, {precision.dtype}: {precision.reason}", flush=True)
    quiet_libraries()
    size = SMALL if given.small or precision.device == "cpu" else CARD
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        for check in run(Path(folder), size, precision):
            print(f"{check.name}: {check.found}", flush=True)
            checks.append(check)
    print(show(checks, time.monotonic() - started), flush=True)
    sys.exit(int(any(check.is_met is False for check in checks)))


if __name__ == "__main__":
    main()
