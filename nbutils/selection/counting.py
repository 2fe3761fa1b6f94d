"""What counts texts: this process, or several that are handed texts and give lengths back."""

import contextlib
import functools
import multiprocessing
import signal
import sys
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
    """What gives texts their lengths, in `processes` processes where a measure is worth it.

    tokenizer, loaded: as it was given (each process loads its own), and the object of this process. The processes
    are started at once, so that they are ready when texts have been read.
    """
    alone = functools.partial(lengths.count, measure=measure, tokenizer=loaded)
    if processes == 1 or measure not in WORTH_HANDING_ON:
        yield alone
        return
    if measure == "nltk_words":
        lengths.prepare_nltk()  # fetches punkt, or warns that it is not there, once and here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, (measure, tokenizer)) as pool:
        try:
            for _ in range(processes):
                pool.submit(_be_ready)
            yield functools.partial(_count_in, pool, processes, alone)
        except BrokenProcessPool:
            mend = "give fewer --processes or more memory"
            raise InputError(f"a counting process was ended from outside: {mend}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_in_worker: dict[str, Count] = {}


def _start_worker(measure: str, tokenizer: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the first process ends the others
    warnings.simplefilter("ignore")
    if measure == "nltk_words":
        # nltk imports these where they are, for what is not used here: most of the two seconds that its import takes.
        sys.modules.update(dict.fromkeys(("scipy", "sklearn")))  # type: ignore[arg-type]
        lengths.nltk_tokenizers()
    loaded = load_tokenizer(tokenizer) if measure == "tokens" else None
    _in_worker["count"] = functools.partial(lengths.count, measure=measure, tokenizer=loaded)


def _be_ready() -> None:
    """What starts a process, one each."""


def _count_in_worker(texts: list[str]) -> Numbers:
    return _in_worker["count"](texts)


def _count_in(pool: ProcessPoolExecutor, processes: int, alone: Count, texts: list[str]) -> Numbers:
    counts, n = np.empty(len(texts), dtype=np.int64), 4 * processes
    try:
        # Every n-th text, since the longest may come first; n more than the processes, so that Ctrl-C waits for little.
        for i, some in enumerate(pool.map(_count_in_worker, [texts[i::n] for i in range(min(n, len(texts)))])):
            counts[i::n] = some
    except InputError:
        return alone(texts)  # says which text it is
    return counts
