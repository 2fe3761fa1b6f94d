"""Stage 04: fine-tune the base model on one arm, by TRL's SFTTrainer with a PEFT adapter over an NF4 base."""

import functools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import arms, artifacts, model_card, models, prompts, select
from nbutils.artifacts import Manifest, Plan
from nbutils.devices import Precision, choose_precision, peak_memory_gb
from nbutils.prompts import IGNORED, Example
from nbutils.settings import Profile


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 04 would train for an arm."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {
        "select": artifacts.upstream(select.plan(chosen, name, seed)),
        "base": models.base_fingerprint(chosen, seed),
    }
    folder = artifacts.stage_folder(chosen.name, "finetune", name, seed)
    return Plan("finetune", chosen.name, name, seed, folder, chosen.training.model_dump(), inputs, version=2)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Train on an arm's rows: `adapter/` (or `model/`), `loss.csv`, and the counts in the manifest."""
    chosen, name = arms.prepare(profile, arm)
    selected = select.run(chosen, name, seed)
    models.base_location(chosen, seed)
    planned = plan(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_train, chosen, selected, planned))


def _train(profile: Profile, selected: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    precision = choose_precision()
    print(f"{planned.arm}: {profile.training.method} in {precision.dtype}: {precision.reason}", flush=True)
    tokenizer = models.load_tokenizer(profile, planned.seed)
    examples = encode_rows(profile, selected, tokenizer)
    trainer = _make_trainer(profile, planned, precision, tokenizer, examples, folder)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(_checkpoints(planned, folder)))
    seconds = time.monotonic() - started
    weights = folder / weights_name(profile)
    trainer.model.save_pretrained(weights)
    tokenizer.save_pretrained(weights)
    if profile.training.method != "full":
        model_card.describe_adapter(weights, profile, selected)
    _write_loss(folder / "loss.csv", trainer.state.log_history)
    facts = _count(profile, examples, trainer.state.log_history, trainer.state.global_step)
    facts["uniform_loss"] = round(math.log(len(tokenizer)), 4)
    speed = {"train_seconds": round(seconds, 2), "peak_memory_gb": round(peak_memory_gb(), 3)}
    outputs = ["loss.csv", *(f"{weights.name}/{path.name}" for path in sorted(weights.iterdir()))]
    return {"outputs": outputs, **facts, **speed, "precision": precision._asdict()}


def weights_name(profile: Profile) -> str:
    """Folder of what was trained: `adapter`, or `model` after full fine-tuning."""
    return "model" if profile.training.method == "full" else "adapter"


def encode_rows(profile: Profile, selected: Manifest, tokenizer: Any) -> list[Example]:
    """Tokenise an arm's rows (all, or the profile's first `max_rows`) and assert that each of them is trained on."""
    settings = profile.training
    rows = select.load_arm(selected)[: settings.max_rows]
    style = settings.prompt_style
    examples = [prompts.encode(row, tokenizer, style, settings.max_length) for row in rows]
    usable = [example for example in examples if example.trained]
    prompts.check_examples(usable, tokenizer.eos_token_id)
    return usable


def _make_trainer(
    profile: Profile, planned: Plan, precision: Precision, tokenizer: Any, examples: Sequence[Example], folder: Path
) -> Any:
    from trl import SFTTrainer

    settings = profile.training
    base = models.load_base(profile, planned.seed, precision, settings.method == "qlora", trains=True)
    trainer = SFTTrainer(
        model=base,
        args=_arguments(profile, planned, precision, len(examples), folder),
        train_dataset=_dataset(examples),
        processing_class=tokenizer,
        data_collator=functools.partial(collate, pad=tokenizer.pad_token_id),
        peft_config=None if settings.method == "full" else _lora(profile),
    )
    _use_fp32_adapters(trainer.model)
    return trainer


def _lora(profile: Profile) -> Any:
    from peft import LoraConfig

    settings = profile.training
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _use_fp32_adapters(model: Any) -> None:
    # TRL casts every adapter to bf16, which has too few digits for AdamW's small steps and crashes fp16 on a T4.
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _arguments(profile: Profile, planned: Plan, precision: Precision, rows: int, folder: Path) -> Any:
    from trl import SFTConfig

    settings = profile.training
    steps = math.ceil(rows / settings.examples_per_step) * settings.epochs
    return SFTConfig(
        output_dir=str(_checkpoints(planned, folder)),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=min(settings.micro_batch, settings.examples_per_step),
        gradient_accumulation_steps=max(1, settings.examples_per_step // settings.micro_batch),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        neftune_noise_alpha=settings.neftune_alpha if arms.parse_arm(planned.arm).neftune else None,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=precision.dtype == "bfloat16",
        fp16=precision.dtype == "float16",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=precision.device == "cuda",
        logging_steps=1,
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",
        seed=planned.seed,
        disable_tqdm=True,
    )


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    ids, labels = [example.input_ids for example in examples], [example.labels for example in examples]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def collate(batch: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Any]:
    """Pad a batch on the right; padding is masked in attention and in the loss."""
    import torch

    longest = max(len(item["input_ids"]) for item in batch)

    def padded(key: str, fill: int) -> Any:
        return torch.tensor([list(item[key]) + [fill] * (longest - len(item[key])) for item in batch])

    mask = torch.tensor([[1] * len(item["input_ids"]) + [0] * (longest - len(item["input_ids"])) for item in batch])
    return {"input_ids": padded("input_ids", pad), "labels": padded("labels", IGNORED), "attention_mask": mask}


# --- checkpoints and counts ----------------------------------------------------------------------------------------


def _checkpoints(planned: Plan, folder: Path) -> Path:
    # Named by the plan, so that a run with other settings never continues from these.
    return folder / f".checkpoints-{planned.key[:12]}"


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose last-written file is whole; a half-written one is passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in found if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _count(profile: Profile, examples: Sequence[Example], log: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    # The loss of single steps is noisy: the first and the last quarter of them are averaged.
    losses = [float(entry["loss"]) for entry in log if "loss" in entry]
    quarter = max(1, len(losses) // 4)
    return {
        "method": profile.training.method,
        "rows": len(examples),
        "truncated_rows": sum(example.is_truncated for example in examples),
        "trained_tokens_per_epoch": sum(example.trained for example in examples),
        "optimizer_steps": steps,
        "first_loss": sum(losses[:quarter]) / quarter,
        "last_loss": sum(losses[-quarter:]) / quarter,
    }


def _write_loss(path: Path, log: list[dict[str, Any]]) -> None:
    entries = [entry for entry in log if "loss" in entry]
    lines = [f"{entry['step']},{entry['epoch']:.4f},{float(entry['loss']):.6f}" for entry in entries]
    artifacts.write_text(path, "\n".join(["step,epoch,loss", *lines]) + "\n")
