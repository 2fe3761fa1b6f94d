"""Processes for tests that kill them: forked from a server that has imported the libraries already.

A training or a generation spends ten seconds on imports before there is anything to kill.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

PRELOADED = ["trl.trainer.sft_trainer", "bitsandbytes", "transformers.models.llama.modeling_llama"]


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run a function of a test module in a process of its own; `.kill()` is SIGKILL, `.exitcode` None while it runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
