"""Aims J1 to J3 (judging): time against the bound that the limits set, CPU a call, and what a kill -9 costs."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timing import result

CALLS, IN_FLIGHT, LATENCY = 2060, 64, 1.0
"""1,030 prompts in both orders, as the paper's five test sets have them."""

Result = dict[str, Any]

_ASK = """
import contextlib, sys
from pathlib import Path
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Ledger, Request, ask_all
from nbutils.llm.endpoint import OpenAIBackend
url, path, calls, concurrency, extra = sys.argv[1:]
limits = {name: int(value) for name, _, value in (part.partition("=") for part in extra.split())}
judge = JudgeModel(name="j", kind="openai", model="m", base_url=url, concurrency=int(concurrency), **limits)
requests = [Request(url, "m", (("user", f"{i} " + "x" * 1500),), 512) for i in range(int(calls))]
with contextlib.closing(Ledger(Path(path))) as ledger:
    replies = ask_all(requests, OpenAIBackend(judge), ledger, "judging")
assert all(reply.text == "8 7\\nBoth are fine." for reply in replies), "some calls failed"
"""


def time_of_judging() -> list[Result]:
    """J1: 2,060 calls against the bound, which the calls in flight, the requests or the tokens a minute set."""
    ways = {
        f"{IN_FLIGHT} in flight, {LATENCY:g} s each": ("", CALLS * LATENCY / IN_FLIGHT),
        "3,000 requests a minute": ("requests_per_minute=3000", CALLS / 3000 * 60),
        "1,500,000 tokens a minute, 500 a call": ("tokens_per_minute=1500000", CALLS * 500 / 1_500_000 * 60),
    }
    with tempfile.TemporaryDirectory() as scratch, _serving(LATENCY) as url:
        rows = [_measured(name, url, Path(scratch), *way) for name, way in ways.items()]
        asked = _asked(url)
        again, _ = _timed(url, Path(scratch) / "0.sqlite", CALLS, IN_FLIGHT)
        made = _asked(url) - asked
    met = again <= 2 and made == 0
    return [*rows, result("J1", f"the same run again: seconds ({made} calls made)", round(again, 2), "at most 2", met)]


def time_at_low_latency() -> list[Result]:
    """J3: the same calls at 100 ms, over the bound, and CPU a call beyond that of a run without calls."""
    latency = 0.1
    with tempfile.TemporaryDirectory() as scratch, _serving(latency) as url:
        before = os.times()
        _timed(url, Path(scratch) / "none.sqlite", 1, IN_FLIGHT)
        started = os.times()
        seconds, load = _timed(url, Path(scratch) / "all.sqlite", CALLS, IN_FLIGHT)
        ended = os.times()
    idle, busy = (
        late.children_user + late.children_system - early.children_user - early.children_system
        for early, late in ((before, started), (started, ended))
    )
    bound, cpu = CALLS * latency / IN_FLIGHT, 1000 * (busy - idle) / CALLS
    what = f"{CALLS:,} calls, {latency:g} s each, {IN_FLIGHT} in flight"
    detail = {"seconds": round(seconds, 2), "bound": round(bound, 2), "load of the machine": load}
    return [
        result(
            "J3",
            f"{what}: whole process over the bound",
            round(seconds / bound, 3),
            "at most 1.6",
            seconds <= 1.6 * bound,
            detail,
        ),
        result("J3", f"{what}: ms of CPU a call", round(cpu, 2), "at most 1.5", cpu <= 1.5, detail),
    ]


def _measured(name: str, url: str, scratch: Path, limits: str, bound: float) -> Result:
    ledger = scratch / f"{len(list(scratch.glob('*.sqlite')))}.sqlite"
    seconds, load = _timed(url, ledger, CALLS, IN_FLIGHT, limits)
    detail = {"seconds": round(seconds, 1), "bound": round(bound, 1), "load of the machine": load}
    what = f"{CALLS:,} calls, {name}: whole process over the bound"
    return result("J1", what, round(seconds / bound, 3), "at most 1.15", seconds <= 1.15 * bound, detail)


def cost_of_a_kill() -> Result:
    """J2: calls that are asked twice when a run is killed three times and continued."""
    with tempfile.TemporaryDirectory() as scratch, _serving(0.2) as url:
        ledger, kept = Path(scratch) / "ledger.sqlite", []
        for answered in (100, 250, 400):
            process = subprocess.Popen(_command(url, ledger, 600, IN_FLIGHT), stderr=subprocess.DEVNULL)
            while _asked(url) < answered + IN_FLIGHT * len(kept):
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kept.append(_rows(ledger))
        _timed(url, ledger, 600, IN_FLIGHT)
        twice = _asked(url) - 600
    what = f"calls paid twice after three kill -9 with {IN_FLIGHT} in flight"
    detail = {"answers in the ledger after each kill": kept, "in the end": 600}
    return result("J2", what, twice, f"at most {3 * IN_FLIGHT}", twice <= 3 * IN_FLIGHT, detail)


@contextlib.contextmanager
def _serving(latency: float) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("fake_endpoint.py")), str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _command(url: str, ledger: Path, calls: int, concurrency: int, limits: str = "") -> list[str]:
    return [sys.executable, "-c", _ASK, url, str(ledger), str(calls), str(concurrency), limits]


def _timed(url: str, ledger: Path, calls: int, concurrency: int, limits: str = "") -> tuple[float, str]:
    started = time.perf_counter()
    subprocess.run(_command(url, ledger, calls, concurrency, limits), check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def _asked(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        return int(answer.read())


def _rows(ledger: Path) -> int:
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])


BENCHMARKS = [time_of_judging, time_at_low_latency, cost_of_a_kill]
