"""TRL's SFTTrainer over flat, unpadded rows: one batch is one optimizer step, attention stays within each example."""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from nbutils.core.errors import InputError, is_out_of_memory
from nbutils.core.machine import Precision, is_sharded, processes
from nbutils.core.manifests import Plan
from nbutils.core.settings import Training
from nbutils.prompts import IGNORED, Example
from nbutils.training import attention, packing, saving
from nbutils.training.callbacks import (
    CheckpointSeal,
    Clock,
    Progress,
    SampleAnswers,
    epochs_after,
    last_complete_checkpoint,
    read_seconds,
)


class StepCollator:
    """Turns one step's examples into this process's flat rows, with the weight of every trained token."""

    def __init__(self, settings: Training, process: int = 0, processes: int = 1):
        self.capacity = settings.tokens_per_row or settings.max_length
        self.weighting = settings.loss_weighting
        self.process, self.processes = process, processes

    def __call__(self, batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`rows`: the flat rows (see `flatten`); `tokens`: how many tokens the whole step has, on all processes."""
        examples = [Example(**item) for item in batch]
        lengths = [len(example.input_ids) for example in examples]
        weights = packing.token_weights([example.trained for example in examples], self.weighting)
        packed = packing.pack_rows(lengths, self.capacity, self.processes)
        rows = [flatten([examples[i] for i in row], weights[row]) for row in packed]
        while len(rows) % self.processes:
            # Every process has to make as many passes as the others: this one adds nothing.
            rows.append({**rows[-1], "weights": torch.zeros_like(rows[-1]["weights"])})
        return {"rows": rows[self.process :: self.processes], "tokens": sum(lengths)}


def flatten(examples: Sequence[Example], weights: np.ndarray) -> dict[str, Any]:
    """Examples end to end, as a batch of one row.

    `block_lengths`: tokens of each example; `borders`: where each begins and the last one ends, int32.
    `input_ids`, `position_ids`, `lengths` (of the example that each token belongs to): shape (1, tokens). `sources`:
    the positions whose next token is trained; `targets`, `weights`: that token and what it adds to the loss.
    """
    lengths = [len(example.input_ids) for example in examples]
    labels = np.concatenate([[IGNORED, *example.labels[1:]] for example in examples])
    trained = np.flatnonzero(labels != IGNORED)
    owner = np.repeat(np.arange(len(examples)), lengths)
    return {
        "block_lengths": lengths,
        "borders": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        "input_ids": torch.tensor([[token for example in examples for token in example.input_ids]]),
        "position_ids": torch.tensor([[position for length in lengths for position in range(length)]]),
        "lengths": torch.from_numpy(np.repeat(lengths, lengths))[None],
        "sources": torch.from_numpy(trained - 1),
        "targets": torch.from_numpy(labels[trained]),
        "weights": torch.from_numpy(weights[owner[trained]]).float(),
    }


def weighted_loss(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """What a flat row adds to its step's loss: the weighted sum of its trained tokens' cross-entropies.

    Only positions that predict a trained token go through the output layer.
    """
    output = model(
        input_ids=row["input_ids"],
        position_ids=row["position_ids"],
        use_cache=False,
        logits_to_keep=row["sources"],
        **attention.describe_row(model, row),
    )
    # A view: indexing would copy all logits once more on the way back.
    logits = output.logits.flatten(0, 1).float()
    loss: torch.Tensor = WeightedCrossEntropy.apply(logits, row["targets"], row["weights"])
    return loss


class WeightedCrossEntropy(torch.autograd.Function):
    """The weighted sum of tokens' cross-entropies, whose gradient is worked out in the place of the probabilities.

    logits: (tokens, vocabulary), fp32; targets, weights: (tokens,). torch's own function, weighted afterwards, makes
    two more tensors of the logits' size on its way back.
    """

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        said = torch.log_softmax(logits, dim=-1)
        context.save_for_backward(said, targets, weights)
        return -(said.gather(1, targets[:, None])[:, 0] @ weights)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Probability less one where the target is, times the token's weight; made once, in place."""
        said, targets, weights = context.saved_tensors
        gradient = said.exp_()
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
        return gradient.mul_((weights * gradients[0])[:, None]), None, None


class PackedTrainer(SFTTrainer):
    """SFTTrainer whose every step is planned ahead by `packing.plan_steps` and packed by `StepCollator`."""

    def __init__(self, *arguments: Any, steps: Sequence[np.ndarray], settings: Training, **named: Any):
        super().__init__(*arguments, **named)
        self.steps, self.settings = steps, settings
        self.noise: EmbeddingNoise | None = None
        self.tokens_seen = 0
        # TRL casts the adapters of a quantised model to bf16, which has too few digits for AdamW's small steps and does
        # not exist on a T4: there the fp16 gradient scaler fails on it.
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        if self.is_fsdp_enabled:
            self._reduce_in_fp32()

    def _reduce_in_fp32(self) -> None:
        """Let FSDP add gradients up in fp32: accelerate's own policy does it in the compute dtype."""
        plugin = self.accelerator.state.fsdp_plugin
        if policy := plugin.mixed_precision_policy:
            plugin.mixed_precision_policy = dataclasses.replace(policy, reduce_dtype=torch.float32)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights; under FSDP the trainer does that beside the optimizer's state."""
        if self.is_world_process_zero() and not self.is_fsdp_enabled:
            saving.write_weights(self.model, Path(output_dir or str(self.args.output_dir)))

    def get_train_dataloader(self) -> DataLoader:
        """One batch a step. Every process reads every step and takes its own rows: there is nothing to shard."""
        collator = StepCollator(self.settings, self.args.process_index, self.args.world_size)
        batches = [step.tolist() for step in self.steps]
        examples: Any = self.train_dataset
        return DataLoader(examples, batch_sampler=batches, collate_fn=collator)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over a step's rows; returns the step's loss (this process's part times processes)."""
        model.train()
        rows: Any = self._prepare_inputs(inputs["rows"])
        total = torch.zeros((), device=self.args.device)
        for number, row in enumerate(rows):
            if self.noise:
                self.noise.lengths = row["lengths"]
            # Gradients travel between processes once a step, with its last row; under FSDP with every row, since each
            # process would otherwise hold those of the whole model.
            travels = self.is_fsdp_enabled or number == len(rows) - 1
            syncing = nullcontext() if travels else self.accelerator.no_sync(model)
            with syncing, self.compute_loss_context_manager():
                try:
                    # DDP and FSDP average gradients over the processes; a step's loss is a sum over them.
                    loss = weighted_loss(model, row) * self.args.world_size
                    self.accelerator.backward(loss)
                except (RuntimeError, MemoryError) as error:
                    self._explain(error, row["input_ids"].numel())
                    raise
            total += loss.detach()
        self.tokens_seen += inputs["tokens"]
        return total

    def _explain(self, error: BaseException, tokens: int) -> None:
        """Raise InputError for a pass over a row of so many tokens that got no memory."""
        if not is_out_of_memory(error):
            return
        mends = [] if self.settings.gradient_checkpointing else ["set gradient_checkpointing = true"]
        mend = ", or ".join([*mends, "lower training.tokens_per_row or max_length"])
        where = f"out of memory on {self.args.device.type} in a row of {tokens:,} tokens"
        raise InputError(f"{where}: {mend}, and run the same command to continue") from None


class EmbeddingNoise:
    """NEFTune (2310.05914): in training, uniform noise of at most alpha / sqrt(L * d) on every embedded token.

    scale: what L is. `padded`: always `max_length`, which is what the official run's padding to 2,048 made of it;
    `example`: the length of the token's own example, as in the NEFTune paper. d is the embedding's width.
    """

    def __init__(self, model: Any, settings: Training, alpha: float):
        self.alpha, self.is_padded, self.max_length = alpha, settings.neftune_scale == "padded", settings.max_length
        self.lengths: torch.Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training or self.lengths is None:
            return embedded
        length = torch.full_like(self.lengths, self.max_length) if self.is_padded else self.lengths
        size = self.alpha / (length * embedded.shape[-1]).float().sqrt()
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1) * size[..., None]
        return embedded + noise.to(embedded.dtype)


def make_trainer(
    model: Any,
    planned: Plan,
    settings: Training,
    precision: Precision,
    tokenizer: Any,
    examples: Sequence[Example],
    steps: Sequence[np.ndarray],
    folder: Path,
) -> PackedTrainer:
    """The trainer of a plan over its base model, with adapters where the method has them; nothing is trained yet."""
    # TRL makes the adapters, whose first matrix is random, before the trainer sets its seed.
    set_seed(planned.seed)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = PackedTrainer(
        model=model,
        args=_arguments(settings, planned, precision, len(steps), folder),
        train_dataset=Dataset.from_list([example._asdict() for example in examples]),
        processing_class=tokenizer,
        peft_config=None if settings.method == "full" else lora,
        steps=steps,
        settings=settings,
    )
    if settings.fused_kernels:
        print(f"{planned.arm}: {attention.fuse_kernels(trainer.model, precision.device)}", flush=True)
    if settings.neftune_alpha:
        trainer.noise = EmbeddingNoise(trainer.model, settings, settings.neftune_alpha)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.add_callback(CheckpointSeal(settings.checkpoints_kept))
    trainer.add_callback(Progress(trainer, planned.arm))
    if not trainer.is_fsdp_enabled:
        epochs = epochs_after(steps, len(examples))
        trainer.add_callback(SampleAnswers(folder / "samples.jsonl", tokenizer, settings, epochs))
    return trainer


def _arguments(settings: Training, planned: Plan, precision: Precision, steps: int, folder: Path) -> Any:
    arguments = SFTConfig(
        # A run with other settings has another key, and never continues from these; nor do FSDP's, which have a form of
        # their own, and the others from each other's.
        output_dir=str(folder / f".checkpoints-{planned.key[:12]}{'-sharded' if is_sharded() else ''}"),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.max_grad_norm,
        optim=choose_optimizer(settings),
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=precision.dtype == "bfloat16",
        fp16=precision.dtype == "float16",
        use_cpu=precision.device == "cpu",
        ddp_backend="gloo" if precision.device == "cpu" and processes() > 1 else None,
        # Every weight that is trained is used by every row.
        ddp_find_unused_parameters=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        report_to="none",
        seed=planned.seed,
        disable_tqdm=True,
    )
    # Several GPUs in one process would be driven by torch's DataParallel, which splits rows: launch processes instead.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def choose_optimizer(settings: Training) -> str:
    """The profile's optimizer; under FSDP AdamW for those of bitsandbytes, which take no shared-out weights."""
    is_foreign = settings.optimizer.endswith(("_8bit", "_32bit"))
    return "adamw_torch" if is_sharded() and is_foreign else settings.optimizer


def fit(trainer: PackedTrainer, label: str) -> float:
    """Train, from the last whole checkpoint where there is one; returns the seconds of all sessions."""
    # The first process chooses for all: another machine may see the shared folder as it was a moment ago.
    (found,) = broadcast_object_list([last_complete_checkpoint(Path(str(trainer.args.output_dir)))])
    clock = next(each for each in trainer.callback_handler.callbacks if isinstance(each, Clock))
    if found:
        clock.seconds = read_seconds(found)
        print(f"{label}: continuing from {found.name}", flush=True)
    with saving.explained(Path(str(trainer.args.output_dir))):
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    return clock.seconds
