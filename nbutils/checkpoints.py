"""Checkpoints that survive a kill at any moment: a half-written one is recognised and passed over."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from nbutils import artifacts

MARKER = "complete.json"


class CheckpointSeal(TrainerCallback):
    """Writes the names and sizes of a checkpoint's files beside them, once all of them are on disk."""

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Seal the checkpoint that the trainer has just written."""
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole."""
    artifacts.write_json(checkpoint / MARKER, _sizes(checkpoint))


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest sealed checkpoint whose files all have the sizes they were sealed with; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def step_of(checkpoint: Path | None) -> int:
    """How many optimizer steps a checkpoint has behind it; 0 without one."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _is_whole(checkpoint: Path) -> bool:
    try:
        sealed = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    present = _sizes(checkpoint)
    return all(present.get(name) == size for name, size in sealed.items())


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
