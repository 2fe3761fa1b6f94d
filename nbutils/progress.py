"""Progress of long work: a bar on a terminal, a plain line now and then in a notebook or a log."""

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
PLAIN = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left{postfix}"


def track(items: Iterable[Any], label: str, total: int | None = None, initial: int = 0) -> "tqdm[Any]":
    """Wrap an iterable (or count from `initial` to `total` by hand with `.update`) with progress on stderr."""
    interactive = sys.stderr.isatty()
    # A notebook shows what goes to stderr as if something were wrong.
    log = sys.stdout if hasattr(running_shell(), "kernel") else sys.stderr
    return tqdm(
        items,
        desc=label,
        total=total,
        initial=initial,
        file=sys.stderr if interactive else _Lines(log),
        ascii=not interactive,
        mininterval=0.2 if interactive else SECONDS_BETWEEN_LINES,
        delay=1.0,
        bar_format=None if interactive else PLAIN,
    )


def running_shell() -> Any:
    """The IPython shell that runs this code, a notebook's among them; None where there is none."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class _Lines:
    """A log under a bar: whole lines without carriage returns, and none of them twice."""

    def __init__(self, log: TextIO):
        self.log, self.last = log, ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.last:
            self.log.write(f"{line}\n")
            self.last = line

    def flush(self) -> None:
        self.log.flush()


def quiet_libraries() -> None:
    """Keep out of logs what says nothing of a run: bars of loading, notes of absent kernels and new names."""
    import transformers

    # transformers renames the setting; its older releases, which Colab has, know the old name only.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
