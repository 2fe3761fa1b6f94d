"""Writing what was trained: gathered from all processes, checked on disk, and in one line what the machine refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import Trainer

from nbutils.core.errors import InputError, is_out_of_memory, is_out_of_room


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise InputError for what the machine refuses while a model is trained, or written into a folder."""
    try:
        yield
    except (RuntimeError, MemoryError, SafetensorError, OSError) as error:
        if is_out_of_memory(error):
            mend = "choose another training.optimizer (adamw_8bit), training.method = 'qlora' or a smaller model"
            raise InputError(f"out of memory outside of a row's passes: {mend}") from None
        if is_out_of_room(error):
            mend = "make room (training.checkpoints_kept says how many are kept) and run the same command to continue"
            raise InputError(f"{folder}: no room on its disk: {mend}") from None
        raise


def save(trainer: Trainer, weights: Path) -> None:
    """Write what was trained, and the tokenizer, into a folder, and check it there.

    Every process of a run calls it: weights that FSDP has shared out are gathered by all of them together, once, and
    the first one writes. Raises InputError for weights that are not numbers, or differ on disk.
    """
    gathered = _gather(trainer) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    with explained(weights):
        _write(trainer.accelerator.unwrap_model(trainer.model), gathered, weights)
        trainer.processing_class.save_pretrained(weights)


def _write(model: Any, gathered: dict[str, torch.Tensor] | None, weights: Path) -> None:
    if isinstance(model, PeftModel):
        trained = get_peft_model_state_dict(model, state_dict=gathered, save_embedding_layers=False)
        check_numbers(weights, trained)
        write_weights(model, weights, gathered)
        check_saved_adapter(weights, trained)
    else:
        check_numbers(weights, gathered or model.state_dict())
        write_weights(model, weights, gathered)


def write_weights(model: Any, folder: Path, gathered: dict[str, torch.Tensor] | None = None) -> None:
    """Write an adapter, or a whole model; `gathered` are its weights where FSDP has shared them out."""
    # PEFT by itself would ask the Hub, at every checkpoint, whether the vocabulary has grown.
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(folder, state_dict=gathered, **options)


def _gather(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The trained weights, whole, in the first process's memory; nothing in the others, which have to call it too."""
    is_adapter = isinstance(trainer.model, PeftModel)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=is_adapter)
    # Gathered by itself, a weight that two layers share would be written twice.
    twins = set(getattr(trainer.model, "all_tied_weights_keys", {}))
    gathered: dict[str, Any] = get_model_state_dict(trainer.model, options=options)
    return {name: weight for name, weight in gathered.items() if name not in twins}


def check_saved_adapter(folder: Path, trained: dict[str, Any]) -> None:
    """Assert that every trained tensor of an adapter (PEFT's names) is on disk, number for number."""
    saved = load_file(folder / "adapter_model.safetensors")
    if not trained:
        raise InputError(f"{folder}: the model holds no adapter that could be saved: its layers have unexpected names")
    if unlike := [name for name in trained if not torch.equal(saved.get(name, torch.empty(0)), trained[name].cpu())]:
        raise InputError(f"{folder}: the saved adapter differs from the trained one, first in {unlike[0]}: train again")


def check_numbers(folder: Path, trained: dict[str, Any]) -> None:
    """Raise InputError for trained weights, on their way to a folder, that are not numbers."""
    if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
        raise InputError(f"{folder}: training has left weights that are not numbers: lower training.learning_rate")
