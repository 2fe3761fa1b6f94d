"""Timing by alternating repeats, and the peak memory of a process."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_MEASURED = """
import resource, sys
import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)
"""


def medians(repeats: int, ways: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each way, run by turns so that a busy moment hits all of them; and what each returned."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            results[name] = way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}, results


def peak_megabytes(module: str, *arguments: str) -> float:
    """Peak memory of `python -m module arguments`."""
    # By way of a shell: a process started directly would inherit the peak of this one.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", _MEASURED, module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def result(aim: str, what: str, value: Any, target: str, met: bool | None, detail: Any = "") -> dict[str, Any]:
    """One line of the table; `met` is None where it could not be measured here."""
    return {"aim": aim, "what": what, "value": value, "target": target, "met": met, "detail": detail}


def not_here(aim: str, what: str, target: str, why: object) -> dict[str, Any]:
    """A line for an aim that cannot be measured here."""
    return result(aim, what, "-", target, None, str(why))
