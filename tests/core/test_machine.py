"""Progress in a log: plain lines, whole and once."""

import asyncio
import gc
import io
import itertools
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient.exceptions import DeadKernelError

from nbutils.core import machine


@given(st.lists(st.sampled_from(["\r1 of 2", "\r2 of 2", "\n", "\r", ""]), max_size=8))
def test_lines_are_whole_and_none_comes_twice_in_a_row(written):
    log = io.StringIO()
    lines = machine._Lines(log)
    for text in written:
        lines.write(text)
    shown = log.getvalue().splitlines()
    assert all(a != b for a, b in itertools.pairwise(shown))
    assert set(shown) == {text.strip() for text in written} - {""}


def test_long_work_says_where_it_is(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(machine, "SECONDS_BETWEEN_LINES", 0.0)
    bar = machine.track([], "rows", total=3, initial=1)
    bar.start_t -= 5.0
    bar.update()
    bar.update()
    bar.close()
    shown = log.getvalue().splitlines()
    assert [line.partition(",")[0] for line in shown] == ["rows: 2 of 3", "rows: 3 of 3"]
    assert "\r" not in log.getvalue()


def test_a_slow_first_item_is_left_out_of_the_estimate(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(machine, "SECONDS_BETWEEN_LINES", 0.0)
    bar = machine.track([], "steps", total=12)
    bar.start_t -= 100.0  # the first step: loading and compiling
    bar.update()
    bar.start_t -= 4.0  # two more take two seconds each
    bar.update(2)
    bar.start_t -= 18.0
    bar.update(9)
    bar.close()
    first, third, last = log.getvalue().splitlines()
    assert first == "steps: 1 of 12, 01:40 elapsed, ? left"
    assert third == "steps: 3 of 12, 01:44 elapsed, 00:18 left"
    assert last.startswith("steps: 12 of 12, 02:02 elapsed, 00:00 left")


def test_what_has_no_known_end_is_counted_without_one(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(machine, "SECONDS_BETWEEN_LINES", 0.0)
    bar = machine.track(iter([]), "rows")
    bar.start_t -= 100.0
    bar.update(7)
    bar.close()
    assert set(log.getvalue().splitlines()) == {"rows: 7 so far, 01:40 elapsed, no end known"}


@pytest.mark.parametrize("text", ["", "\n"])
def test_nothing_is_nothing(text):
    log = io.StringIO()
    machine._Lines(log).write(text)
    assert log.getvalue() == ""


def test_the_note_of_an_absent_kernel_is_kept_out_and_nothing_else(caplog):
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
    log.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_a_killed_kernel_is_told_by_whoever_waited_for_it(caplog):
    """asyncio's own words about a task that nobody awaits any more; of every other task they stay."""

    async def fail(error):
        raise error

    async def leave(error):
        abandoned = asyncio.ensure_future(fail(error))
        await asyncio.sleep(0)
        assert abandoned.done()

    for error in (DeadKernelError("Kernel died"), ValueError("something else")):
        asyncio.run(leave(error))
        gc.collect()
    assert [record.exc_info[0] for record in caplog.records if record.name == "asyncio"] == [ValueError]


def test_bars_of_libraries_are_lines_now_and_then_and_errors_stay(monkeypatch):
    out, err, now = io.StringIO(), io.StringIO(), [0.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(machine, "running_shell", lambda: type("Shell", (), {"kernel": None}))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with machine.plain_bars():
        for text in ("\r1/9", "\r2/9", "\n", "\n", "a real error\n"):
            sys.stderr.write(text)
        now[0] += machine.SECONDS_BETWEEN_LINES
        sys.stderr.write("\r5/9")
        sys.stderr.write("\r6/9")
        print("another", file=sys.stderr)
    assert sys.stderr is err
    assert (out.getvalue(), err.getvalue()) == ("5/9\n", "\na real error\nanother\n")


@pytest.mark.thorough
def test_importing_bitsandbytes_says_nothing():
    code = "from nbutils.core import machine; import bitsandbytes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
