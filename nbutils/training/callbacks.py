"""What happens while a model trains: sealed checkpoints, progress, the loss curve, sample answers."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from accelerate import PartialState
from transformers import TrainerCallback

from nbutils import data, prompts
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.machine import peak_memory_gb, track
from nbutils.core.settings import Training

if TYPE_CHECKING:
    from pandas import DataFrame

MARKER = "complete.json"


class CheckpointSeal(TrainerCallback):
    """Writes the names and sizes of a checkpoint's files beside them, once all of them are on disk.

    Only then do older ones go, of which the last `kept` stay: the trainer itself would remove them before.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Seal the checkpoint that the trainer has just written, once every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            for old in _newest_first(Path(args.output_dir))[self.kept :]:
                shutil.rmtree(old)


CLOCK = "seconds.json"


class Clock(TrainerCallback):
    """Counts the seconds of training, and keeps them with each checkpoint, so that they add up over sessions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.since = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Begin to count, behind the seconds of an earlier session."""
        self.since = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Write the seconds so far into a new checkpoint, before it is sealed."""
        self._count()
        if state.is_world_process_zero:
            disk.write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / CLOCK, round(self.seconds, 3))

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Count the rest."""
        self._count()

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now


def read_seconds(checkpoint: Path) -> float:
    """The seconds of training that lie behind a checkpoint; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return float(json.loads((checkpoint / CLOCK).read_text(encoding="utf-8")))
    return 0.0


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole."""
    disk.write_json(checkpoint / MARKER, _sizes(checkpoint))


def check_room(folder: Path, trained: float, state: float, settings: Training, steps: int) -> None:
    """Say what checkpoints take, and refuse a disk that has no room for them and for the weights at the end.

    trained, state: bytes of the trained weights and of the optimizer's state. A new checkpoint is written before the
    oldest one goes.
    """
    made = math.ceil(steps / settings.save_steps)
    size, number = trained + state, min(made, settings.checkpoints_kept + 1)
    free, needed = shutil.disk_usage(folder).free, number * size + trained
    there = sum(sum(_sizes(path).values()) for path in folder.glob(".checkpoints-*/checkpoint-*"))
    if size >= 1e9:
        kept = f"of {made} the last {min(made, settings.checkpoints_kept)} are kept until the end"
        print(f"checkpoints: {size / 1e9:.1f} GB each, {kept}; the disk has {free / 1e9:.1f} GB", flush=True)
    if needed > free + there:
        mend = "make room, or lower training.checkpoints_kept"
        taken = f"{number} checkpoints and the weights take {needed / 1e9:.1f} GB"
        raise InputError(f"{folder}: {taken}, and its disk has {free / 1e9:.1f} GB: {mend}")


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest sealed checkpoint whose files all have the sizes they were sealed with; None where there is none."""
    for path in _newest_first(folder):
        with contextlib.suppress(OSError, ValueError):
            sealed, present = json.loads((path / MARKER).read_text(encoding="utf-8")), _sizes(path)
            if all(present.get(name) == size for name, size in sealed.items()):
                return path
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}


def epochs_after(steps: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Epochs behind each step of a plan: examples trained on so far over the arm's rows."""
    return np.cumsum([len(step) for step in steps]) / rows


class Progress(TrainerCallback):
    """One line (or bar) with loss, speed, memory and time left; stops at a loss that is not a number.

    The speed is in tokens a second where the trainer counts `tokens_seen`, as `PackedTrainer` does.
    """

    def __init__(self, trainer: Any, label: str):
        self.trainer, self.label = trainer, label

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Begin to count, behind the steps of an earlier run."""
        self.started = time.monotonic()
        self.bar = None
        if state.is_world_process_zero:
            self.bar = track([], self.label, total=state.max_steps, initial=state.global_step)
            self.bar.refresh()  # before its first step a large model says nothing for minutes

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **named: Any) -> None:
        """Show a step's loss."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise InputError(f"{self.label}: loss is {loss} at step {state.global_step}: lower training.learning_rate")
        if self.bar is not None:
            seen = getattr(self.trainer, "tokens_seen", 0)
            speed = f", {seen / (time.monotonic() - self.started):,.0f} tokens/s" if seen else ""
            self.bar.set_postfix_str(f"loss {loss:.3f}{speed}, {peak_memory_gb():.1f} GB", refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """End the line."""
        if self.bar is not None:
            self.bar.close()


class SampleAnswers(TrainerCallback):
    """After every epoch, the model's greedy answers to the same few prompts, in `samples.jsonl`."""

    def __init__(self, path: Path, tokenizer: Any, settings: Training, epochs: np.ndarray):
        self.path, self.tokenizer, self.settings = path, tokenizer, settings
        self.epochs = [0.0, *map(float, epochs)]
        self.prompts = data.load_prompts("sample")[: settings.sample_prompts]
        self.records = disk.read_jsonl(path) if path.is_file() else []

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Forget answers later than the checkpoint that the run continues from; a fresh run asks the base model."""
        self.records = [record for record in self.records if record["step"] <= state.global_step]
        if state.global_step == 0:
            self._ask(state, named["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Ask when a step has ended an epoch, and after the last one."""
        before, now = self.epochs[state.global_step - 1 : state.global_step + 1]
        if int(now + 1e-9) > int(before + 1e-9) or state.global_step == state.max_steps:
            self._ask(state, named["model"])

    def _ask(self, state: Any, model: Any) -> None:
        if not self.prompts or not state.is_world_process_zero:
            return
        import torch

        at = {"step": state.global_step, "epoch": round(self.epochs[state.global_step], 4)}
        self.records = [record for record in self.records if record["step"] != state.global_step]
        model.eval()
        for prompt in self.prompts:
            ids = prompts.encode_prompt(prompt, self.tokenizer, self.settings.prompt_style)
            given = torch.tensor([ids], device=model.device)
            with torch.no_grad():
                made = model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    max_new_tokens=self.settings.sample_tokens,
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                )[0, len(ids) :].tolist()
            response = self.tokenizer.decode(made, skip_special_tokens=True)
            stopped = made[-1] == self.tokenizer.eos_token_id
            answer = {"prompt": prompt.text, "response": response, "n_tokens": len(made), "stopped": stopped}
            self.records.append({**at, **answer})
        model.train()
        disk.write_jsonl(self.path, self.records)


Watch: TypeAlias = Callable[["DataFrame", Sequence[dict[str, Any]], int], None]
"""Who looks on: is handed, after every step, the losses and sample answers so far, and how many steps there will be."""


class LookingOn(TrainerCallback):
    """Hands on, after every step, the losses and sample answers so far, of earlier sessions too."""

    def __init__(self, watch: Watch, epochs: np.ndarray, trainer: Any):
        self.watch, self.epochs = watch, epochs
        asked = (each for each in trainer.callback_handler.callbacks if isinstance(each, SampleAnswers))
        self.samples = next(asked, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **named: Any) -> None:
        """Hand on what there is, once a step's loss is known."""
        if logs and "loss" in logs and state.is_world_process_zero:
            answers = self.samples.records if self.samples else []
            self.watch(loss_table(state.log_history, self.epochs), answers, state.max_steps)


def loss_table(history: Sequence[dict[str, Any]], epochs: np.ndarray) -> "DataFrame":
    """One row a step: `step`, `epoch`, `loss` (nats a token), `learning_rate`, `grad_norm`."""
    import pandas as pd

    names = ["step", "loss", "learning_rate", "grad_norm"]
    frame = pd.DataFrame([entry for entry in history if "loss" in entry], columns=names)
    frame = frame.astype(dict.fromkeys(names[1:], float)).round({"loss": 6, "grad_norm": 6})
    frame.insert(1, "epoch", np.asarray(epochs)[frame["step"] - 1].round(4))
    return frame


def summarise_loss(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean loss of the first and of the last quarter of the steps: that of single steps is noisy."""
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    quarter = max(1, len(losses) // 4)
    return {"first_loss": sum(losses[:quarter]) / quarter, "last_loss": sum(losses[-quarter:]) / quarter}
