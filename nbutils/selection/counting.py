"""What counts texts: this process, or several that are handed texts and give lengths back."""

import contextlib
import functools
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import data, lengths
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.selection.topk import Count, Numbers

WORTH_HANDING_ON = ("nltk_words", "tokens")
"""Measures that take longer to count than a text takes to reach another process."""
WORTH_STARTING = 500_000
"""Characters that are counted in about the time that a process takes to start."""


def load_tokenizer(given: str | None) -> Any:
    """The tokenizer of a `tokenizer.json`, of its folder or of a Hub name; Llama-2's when none is given.

    Raises InputError where there is none.
    """
    from tokenizers import Tokenizer

    if given is None:
        return data.llama2_tokenizer()
    path = Path(given) / "tokenizer.json" if Path(given).is_dir() else Path(given)
    if not path.is_file() and (path.suffix == ".json" or settings.is_offline()):
        raise InputError(f"{given}: no such file: give a tokenizer.json, or a Hub name when there is a network")
    try:
        return Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(given)
    except Exception as error:
        raise InputError(f"{given}: no tokenizer there ({error}): give a tokenizer.json or a Hub name") from None


@contextlib.contextmanager
def counting(measure: str, tokenizer: str | None, loaded: Any, processes: int) -> Iterator[Count]:
    """What gives texts their lengths, in `processes` processes (this is one of them) where it is worth it.

    tokenizer, loaded: as it was given (each process loads its own), and the object of this process.
    """
    alone = functools.partial(lengths.count, measure=measure, tokenizer=loaded)
    if processes == 1 or measure not in WORTH_HANDING_ON:
        yield alone
        return
    if measure == "nltk_words":
        lengths.prepare_nltk()  # fetches punkt, or warns that it is not there, once and here
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes - 1, context, _start_worker, (measure, tokenizer))
    try:
        yield _CountTogether(pool, 8 * processes, alone)
    except BrokenProcessPool:
        mend = "give fewer --processes or more memory"
        raise InputError(f"a counting process was ended from outside: {mend}") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _CountTogether:
    """Counts here and in a pool, whose processes are started when there is first enough to count."""

    def __init__(self, pool: ProcessPoolExecutor, parts: int, alone: Count) -> None:
        self._pool, self._parts, self._alone, self._is_started = pool, parts, alone, False

    def __call__(self, texts: list[str]) -> Numbers:
        self._is_started = self._is_started or sum(map(len, texts)) >= WORTH_STARTING
        try:
            return self._count_together(texts) if self._is_started else self._alone(texts)
        except InputError:
            return self._alone(texts)  # says which text it is

    def _count_together(self, texts: list[str]) -> Numbers:
        # Every n-th text, since the longest may come first; many parts, so that Ctrl-C waits for little.
        n = self._parts
        parts = [texts[i::n] for i in range(min(n, len(texts)))]
        counts = np.empty(len(texts), dtype=np.int64)
        with _interrupt_held_back():
            counted = [self._pool.submit(_count_in_worker, part) for part in parts]
        # From the end on, what the others have not begun is counted here: they may not even be ready.
        for i in reversed(range(len(parts))):
            counts[i::n] = self._alone(parts[i]) if counted[i].cancel() else counted[i].result()
        return counts


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Processes that start in here never see Ctrl-C, not even before they have come to `_start_worker`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_in_worker: dict[str, Count] = {}


def _start_worker(measure: str, tokenizer: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the first process ends the others
    warnings.simplefilter("ignore")
    loaded = load_tokenizer(tokenizer) if measure == "tokens" else None
    _in_worker["count"] = functools.partial(lengths.count, measure=measure, tokenizer=loaded)


def _count_in_worker(texts: list[str]) -> Numbers:
    return _in_worker["count"](texts)
