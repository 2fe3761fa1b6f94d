"""Stage 04: fine-tune the base model on one arm, by TRL's SFTTrainer with a PEFT adapter over an NF4 base.

python -m nbutils.finetune PROFILE ARM                      one process
accelerate launch -m nbutils.finetune PROFILE ARM           one process a GPU, on one machine or several
python -m nbutils.finetune PROFILE ARM --merge              then runs/<profile>/merge/<arm>/seed-<n>/model as well
python -m nbutils.finetune PROFILE ARM --push-to OWNER/NAME    and upload adapter (or merged model) to the Hub, private
"""

import dataclasses
import functools
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import arms, prompts, refine, select
from nbutils.core import disk, manifests
from nbutils.core.devices import Precision, choose_precision, peak_memory_gb
from nbutils.core.errors import InputError, exits_cleanly
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile, Training, seed_of, stage_parser
from nbutils.data.rows import Row
from nbutils.prompts import Example
from nbutils.training import memory, models, packing, release


class Encoded(NamedTuple):
    """An arm's tokenised rows; how many were dropped because nothing of their response fits, and how many are empty."""

    examples: list[Example]
    dropped: int
    empty: int = 0


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 04 would train for an arm."""
    chosen, name = _prepare(profile, arm)
    inputs = {
        "select": manifests.upstream(select.plan(chosen, name, seed)),
        "base": models.base_fingerprint(chosen, seed),
    }
    is_rewritten = arms.parse_arm(name).rewritten
    if is_rewritten:
        inputs["refine"] = manifests.upstream(refine.plan(chosen, arms.parse_arm(name).drawn, seed))
    folder = manifests.stage_folder(chosen.name, "finetune", name, seed)
    version = 4 if is_rewritten else 3
    return Plan("finetune", chosen.name, name, seed, folder, chosen.training.model_dump(), inputs, version)


def _prepare(profile: str | Profile, arm: str) -> tuple[Profile, str]:
    """The profile with what is at hand and the arm's own settings, and the name of the model that it stands for."""
    chosen, name = arms.prepare(profile, arm)
    parsed = arms.parse_arm(name)
    changes: dict[str, Any] = {"epochs": float(parsed.suffixes.epochs)} if parsed.suffixes.epochs else {}
    if not parsed.suffixes.neftune:
        changes["neftune_alpha"] = None
    elif chosen.training.neftune_alpha is None:
        raise InputError(f"arm '{name}' asks for NEFTune: set training.neftune_alpha in the profile")
    training = chosen.training.model_copy(update=changes)
    return chosen.model_copy(update={"training": training}), parsed.trained


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Train on an arm's rows: `adapter/` (or `model/`), `loss.csv`, `samples.jsonl`, and counts in the manifest."""
    chosen, name = _prepare(profile, arm)
    if models.processes() > 1:
        return _run_together(chosen, name, seed)
    selected = _bring_inputs(chosen, name, seed)
    planned = plan(chosen, name, seed)
    manifest = manifests.complete(planned, functools.partial(_train, chosen, selected, planned))
    _drop_checkpoints(planned)
    return manifest


def _bring_inputs(profile: Profile, arm: str, seed: int) -> Manifest:
    """The selection that an arm trains on, with its rewriting and the base model made where they are not yet."""
    selected, parsed = select.run(profile, arm, seed), arms.parse_arm(arm)
    if parsed.rewritten:
        refine.run(profile, parsed.drawn, seed)
    models.base_location(profile, seed)
    return selected


def load_rows(profile: Profile, selected: Manifest, arm: str, seed: int) -> list[Row]:
    """An arm's training rows: those of its selection, as stage 03 rewrote them where the arm's name says so."""
    rows, parsed = select.load_arm(selected), arms.parse_arm(arm)
    return refine.rewritten_rows(profile, parsed.drawn, seed, rows) if parsed.rewritten else rows


def _run_together(profile: Profile, arm: str, seed: int) -> Manifest:
    """As `run`, in one of several processes: the first one prepares, keeps the lock and writes; all of them train."""
    from accelerate import PartialState

    state = PartialState(cpu=choose_precision().device == "cpu")
    with state.main_process_first():
        selected = _bring_inputs(profile, arm, seed)
    planned = plan(profile, arm, seed)
    is_fresh = manifests.fresh_manifest(planned) is not None
    state.wait_for_everyone()
    if state.is_main_process:
        manifests.complete(planned, functools.partial(_train, profile, selected, planned))
        _drop_checkpoints(planned)
    elif not is_fresh:
        _train(profile, selected, planned, planned.folder)
    state.wait_for_everyone()
    manifest = manifests.fresh_manifest(planned)
    if manifest is None:
        raise InputError(f"{planned.folder}: the first process wrote no result there: all machines must share runs/")
    return manifest


def _train(profile: Profile, selected: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    precision = choose_precision()
    print(f"{planned.arm}: {profile.training.method} in {precision.dtype}: {precision.reason}", flush=True)
    tokenizer = models.load_tokenizer(profile, planned.seed)
    rows = load_rows(profile, selected, planned.arm, planned.seed)[: profile.training.max_rows]
    encoded = encode_rows(profile, rows, tokenizer, planned.arm)
    steps = plan_steps(profile.training, len(encoded.examples), planned.seed)
    expected = memory.check_fit(profile, planned.seed, precision, steps, encoded.examples)
    trainer = make_trainer(profile, planned, precision, tokenizer, encoded.examples, steps, folder)
    seconds = _fit(trainer, folder, planned)
    weights = folder / models.weights_name(profile)
    prompts.add_chat_template(tokenizer, profile.training.prompt_style)
    _save(trainer, tokenizer, weights)
    if not trainer.is_world_process_zero():
        return {}
    own = _measure_rewritten(profile, rows, planned.arm)
    _conclude(profile, dataclasses.replace(selected, facts=selected.facts | own), planned.arm, weights, trainer)
    epochs = _write_curve(folder, trainer, steps, len(encoded.examples))
    outputs = ["loss.csv", *(f"{weights.name}/{path.name}" for path in sorted(weights.iterdir()))]
    outputs += ["samples.jsonl"] * (folder / "samples.jsonl").is_file()
    counted = _count(profile, encoded, trainer.state)
    speed = {"train_seconds": round(seconds, 2), "peak_memory_gb": round(peak_memory_gb(), 3)}
    guess = {"estimated_gb": round(expected.bytes / 1e9, 3), "estimated_seconds": round(expected.seconds, 1)}
    facts = {**counted, **own, "epochs": epochs, "uniform_loss": round(math.log(len(tokenizer)), 4), **speed, **guess}
    return {"outputs": outputs, **facts, "precision": precision._asdict(), "processes": models.processes()}


def _measure_rewritten(profile: Profile, rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """How long the responses of rewritten rows are; nothing for others, whose selection has counted them."""
    if not arms.parse_arm(arm).rewritten:
        return {}
    measure, turns = profile.selection.measure, profile.selection.turns
    return {"measure": measure, "mean_length": round(float(select.row_lengths(rows, measure, turns).mean()), 4)}


def plan_steps(settings: Training, rows: int, seed: int) -> list[Any]:
    """Row numbers of every optimizer step (see `packing.plan_steps`)."""
    return packing.plan_steps(rows, settings.examples_per_step, settings.epochs, settings.epoch_end, seed)


def encode_rows(profile: Profile, rows: Sequence[Row], tokenizer: Any, arm: str) -> Encoded:
    """Tokenise an arm's rows and assert that each of them is trained on.

    A row whose prompt alone fills `max_length` has nothing left to train on: it is dropped and counted.
    """
    settings = profile.training
    examples = [prompts.encode(row, tokenizer, settings.prompt_style, settings.max_length) for row in rows]
    usable = [example for example in examples if example.trained]
    if not usable:
        raise InputError(f"{arm}: no row has a trained token within {settings.max_length}: raise max_length")
    prompts.check_examples(usable, tokenizer.eos_token_id)
    empty = sum(not row.response.strip() for row in rows)
    if empty:
        print(f"{arm}: {empty:,} rows have an empty response: they train the end of sequence alone")
    return Encoded(usable, len(examples) - len(usable), empty)


# --- the trainer ---------------------------------------------------------------------------------------------------


def make_trainer(
    profile: Profile,
    planned: Plan,
    precision: Precision,
    tokenizer: Any,
    examples: Sequence[Example],
    steps: Sequence[Any],
    folder: Path,
) -> Any:
    """The trainer for a plan, with the base model loaded and nothing trained yet."""
    from transformers import PrinterCallback, set_seed

    from nbutils.training.callbacks import CheckpointSeal, Progress, SampleAnswers, epochs_after
    from nbutils.training.trainer import EmbeddingNoise, PackedTrainer

    settings = profile.training
    # TRL makes the adapters, whose first matrix is random, before the trainer sets its seed.
    set_seed(planned.seed)
    trainer = PackedTrainer(
        model=models.load_base(profile, planned.seed, precision, settings.method == "qlora", trains=True),
        args=_arguments(settings, planned, precision, len(steps), folder),
        train_dataset=_dataset(examples),
        processing_class=tokenizer,
        peft_config=None if settings.method == "full" else _lora(settings),
        steps=steps,
        settings=settings,
    )
    if settings.neftune_alpha:
        trainer.noise = EmbeddingNoise(trainer.model, settings, settings.neftune_alpha)
    epochs = epochs_after(steps, len(examples))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CheckpointSeal())
    trainer.add_callback(Progress(trainer, planned.arm))
    if not trainer.is_fsdp_enabled:
        trainer.add_callback(SampleAnswers(folder / "samples.jsonl", tokenizer, settings, epochs))
    return trainer


def _lora(settings: Training) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(settings: Training, planned: Plan, precision: Precision, steps: int, folder: Path) -> Any:
    from trl import SFTConfig

    arguments = SFTConfig(
        output_dir=str(checkpoint_folder(planned, folder)),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=precision.dtype == "bfloat16",
        fp16=precision.dtype == "float16",
        use_cpu=precision.device == "cpu",
        ddp_backend="gloo" if precision.device == "cpu" and models.processes() > 1 else None,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",
        seed=planned.seed,
        disable_tqdm=True,
    )
    # Several GPUs in one process would be driven by torch's DataParallel, which splits rows: launch processes instead.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([example._asdict() for example in examples])


def _fit(trainer: Any, folder: Path, planned: Plan) -> float:
    """Train, from the last whole checkpoint where there is one; returns the seconds that it took."""
    from nbutils.training.callbacks import last_complete_checkpoint

    found = last_complete_checkpoint(checkpoint_folder(planned, folder))
    if found:
        print(f"{planned.arm}: continuing from {found.name}", flush=True)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    return time.monotonic() - started


def checkpoint_folder(planned: Plan, folder: Path) -> Path:
    """Where a plan's checkpoints lie; a run with other settings has another key and never continues from these."""
    return folder / f".checkpoints-{planned.key[:12]}"


def _drop_checkpoints(planned: Plan) -> None:
    # Only behind a written manifest: until then they are all there is of a run.
    for folder in planned.folder.glob(".checkpoints-*"):
        shutil.rmtree(folder)


# --- what remains --------------------------------------------------------------------------------------------------


def _save(trainer: Any, tokenizer: Any, weights: Path) -> None:
    if trainer.is_fsdp_enabled:
        # Sharded weights are gathered by all processes together.
        trainer.save_model(str(weights))
        (weights / "training_args.bin").unlink(missing_ok=True)
    elif trainer.is_world_process_zero():
        trainer.model.save_pretrained(weights)
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(weights)


def _conclude(profile: Profile, selected: Manifest, arm: str, weights: Path, trainer: Any) -> None:
    models.check_saved_tokenizer(weights, trainer.processing_class)
    if profile.training.method != "full":
        models.check_saved_adapter(weights, trainer.model)
        release.name_base(weights, profile)
    release.write_card(weights, profile, selected, arm, len(trainer.train_dataset))


def _write_curve(folder: Path, trainer: Any, steps: Sequence[Any], rows: int) -> float:
    from nbutils.training.callbacks import epochs_after, loss_table

    epochs = epochs_after(steps, rows)
    disk.write_csv(folder / "loss.csv", loss_table(trainer.state.log_history, epochs))
    return round(float(epochs[-1]), 4)


def _count(profile: Profile, encoded: Encoded, state: Any) -> dict[str, Any]:
    from nbutils.training.callbacks import summarise_loss

    examples = encoded.examples
    return {
        "method": profile.training.method,
        "rows": len(examples),
        "dropped_rows": encoded.dropped,
        "empty_responses": encoded.empty,
        "truncated_rows": sum(example.is_truncated for example in examples),
        "tokens_per_epoch": sum(len(example.input_ids) for example in examples),
        "trained_tokens_per_epoch": sum(example.trained for example in examples),
        "optimizer_steps": state.global_step,
        **summarise_loss(state.log_history),
    }


# --- merging -------------------------------------------------------------------------------------------------------


def plan_merge(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What merging an arm's adapter would make."""
    chosen, name = _prepare_merge(profile, arm)
    inputs = {"finetune": manifests.upstream(plan(chosen, name, seed))}
    folder = manifests.stage_folder(chosen.name, "merge", name, seed)
    return Plan("merge", chosen.name, name, seed, folder, {}, inputs)


def _prepare_merge(profile: str | Profile, arm: str) -> tuple[Profile, str]:
    # Variants of an arm (`+min150`) are one trained model: it is merged once.
    chosen, name = arms.prepare(profile, arm)
    return chosen, arms.parse_arm(name).trained


def merge(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Merge an arm's trained adapter: `model/` in safetensors, and how far its probabilities are from the adapter's."""
    chosen, name = _prepare_merge(profile, arm)
    if chosen.training.method == "full":
        raise InputError(f"{chosen.name} trains all weights: finetune/{name} holds a whole model, nothing is to merge")
    tuned = run(chosen, name, seed)
    planned = plan_merge(chosen, name, seed)
    return manifests.complete(planned, functools.partial(release.merge_adapter, chosen, tuned, planned))


# --- the command ---------------------------------------------------------------------------------------------------


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.finetune`."""
    parser = stage_parser("finetune", "Fine-tune a profile's base model on an arm.")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="upload the weights to the Hub (a private repository)")
    parser.add_argument("--merge", action="store_true", help="also merge the adapter into its base: one 16-bit model")
    given = parser.parse_args(arguments)
    manifest = run(given.profile, given.arm, seed_of(given))
    weights = manifest.path("model" if manifest.facts["method"] == "full" else "adapter")
    print(f"{manifest.facts['optimizer_steps']} steps, loss {manifest.facts['last_loss']:.3f}: {weights}")
    if given.merge:
        merged = merge(given.profile, given.arm, seed_of(given))
        weights = merged.path("model")
        print(f"{weights}: probabilities within {merged.facts['largest_difference']} of the adapter's")
    if given.push_to:
        print(f"uploaded: {release.push(weights, given.push_to)}")


if __name__ == "__main__":
    main()
