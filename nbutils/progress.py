"""Progress of long work: a bar on a terminal or in a notebook, a plain line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Any], label: str, total: int | None = None, initial: int = 0) -> "tqdm[Any]":
    """Wrap an iterable (or count from `initial` to `total` by hand with `.update`) with progress on stderr."""
    interactive = sys.stderr.isatty()
    return tqdm(
        items,
        desc=label,
        total=total,
        initial=initial,
        file=sys.stderr,
        ascii=not interactive,
        mininterval=0.2 if interactive else SECONDS_BETWEEN_LINES,
        delay=1.0,
        bar_format=None
        if interactive
        else "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left{postfix}\n",
    )
