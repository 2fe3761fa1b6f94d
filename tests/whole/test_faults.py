"""A whole judging against a hostile world: every kind of fault at once, a disk that is full, and twenty kills."""

import collections
import hashlib
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from asking import CANARY
from chat_server import Answer, completion, refusal, serving

from nbutils.core import disk
from nbutils.judging import command

N = 40

FAULTS = {
    "delays": None,
    "drops": Answer(None),
    "a page with status 200": Answer(b"<html>8 9</html>", kind="text/html"),
    "no choices": Answer(completion("", choices=[])),
    "a content filter": Answer(
        completion("", choices=[{"message": {"content": None}, "finish_reason": "content_filter"}])
    ),
    "another model": Answer(completion("10 1", model="cheap-7b")),
    "a lie": Answer({"error": {"message": "overloaded", "code": 503}}),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two answer files of N prompts, as arguments of the command; the key is in the environment."""
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)
    paths = [tmp_path / "mine.jsonl", tmp_path / "theirs.jsonl"]
    for path in paths:
        answers = [{"id": str(n), "prompt": f"Q{n}?", "response": f"{path.stem} {n} " + "x" * 40} for n in range(N)]
        disk.write_jsonl(path, answers)
    return [str(path) for path in paths]


def arguments(files, url, out, *more):
    options = ["--judge", "fake-1", "--base-url", url, "--key-variable", "LIM_TEST_KEY", "-o", str(out)]
    return [*files, *options, *more]


def graded(question):
    """The grades that this question gets from a server in its right mind: two digits of its hash."""
    digest = hashlib.sha256(question.encode()).digest()
    return f"{digest[0] % 9 + 1} {digest[1] % 9 + 1}"


def check_reviews(out):
    """Every judgment is the grades of its own question, or none at all; what a filter withheld is kept as it came."""
    with sqlite3.connect(out / "ledger.sqlite") as database:
        stored = database.execute("SELECT request, reply FROM replies").fetchall()
    for request, reply in stored:
        assert reply in ("", graded(json.loads(request)["messages"][-1][1]))
    rows = disk.read_jsonl(out / "judgments.jsonl")
    for row in rows:
        scores = [row["score_arm"], row["score_baseline"]]
        swapped = scores if row["order"] == "arm_first" else scores[::-1]
        is_withheld = (row["status"], row.get("reason"), row["review"]) == ("unparsed", "filter", "")
        assert row["status"] == "failed" or is_withheld or [float(each) for each in row["review"].split()] == swapped
    return rows


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_all_faults_at_once(files, tmp_path, monkeypatch, share):
    """`share` of the answers are faults, of all kinds alike: what is judged is right, and the counts add up."""
    monkeypatch.setattr("nbutils.llm.refusals.LONGEST_BACKOFF_SECONDS", 0.05)
    dice, lock = random.Random(5), threading.Lock()
    met = collections.Counter()

    def script(number, question):
        with lock:
            kind = dice.choice(list(FAULTS)) if dice.random() < share else ""
            met[kind] += 1
        if kind == "delays":
            time.sleep(0.3)
        return FAULTS.get(kind) or graded(question)

    with serving(script) as server:
        for _ in range(12):
            try:
                command.main(arguments(files, server.url, tmp_path / "out", "--concurrency", "16", "--retry-empty"))
            except SystemExit as stopped:  # ten calls lost one after the other count as an outage
                assert stopped.code == 2 and share > 0.5
                continue
            rows = check_reviews(tmp_path / "out")
            counts = collections.Counter(row["status"] for row in rows)
            assert sum(counts.values()) == 2 * N
            if counts["judged"] == 2 * N:
                break
        assert counts["judged"] == 2 * N, "what fails is asked again by the next run"
    assert set(FAULTS) <= set(met)


# --- a full disk -----------------------------------------------------------------------------------------------------


def run_limited(command, most_bytes):
    """Run a command that may write no file longer than this; the operating system refuses as a full disk does."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    # Python itself would leave compiled modules behind that are cut off, and they would break every later process.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, preexec_fn=limit, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing_that_was_answered(files, tmp_path):
    """First the ledger does not fit, then the judgments; with room again the run goes on where it was."""
    out = tmp_path / "out"
    with serving(lambda number, question: graded(question) + "\n" * 2500 + ".") as server:
        command = [sys.executable, "-m", "nbutils.judge", *arguments(files, server.url, out)]
        done = run_limited(command, 150_000)
        assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.strip().splitlines()) == 1
        assert "ledger.sqlite: cannot be written" in done.stderr and "make room and run the same again" in done.stderr
        assert not (out / "judgments.jsonl").exists() and CANARY not in done.stderr
        kept = sqlite3.connect(out / "ledger.sqlite").execute("SELECT count(*) FROM replies").fetchone()[0]
        assert 0 < kept < 2 * N and len(server.asked) - kept <= 8, "no more is lost than was in flight"
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert len(server.asked) <= 2 * N + 8
        finished, asked = (out / "judgments.jsonl").read_bytes(), len(server.asked)
        (out / "judgments.jsonl").unlink()
        (out / "judged.json").unlink()
        done = run_limited(command, 100_000)
        assert done.returncode == 2 and done.stderr.strip().count("\n") == 0, done.stderr
        assert "make room and run the same command to continue" in done.stderr
        assert not (out / "judgments.jsonl").exists() and not list(out.glob("*.part")), "no half file"
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert len(server.asked) == asked and (out / "judgments.jsonl").read_bytes() == finished


# --- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_twenty_kills_pay_for_no_more_than_was_in_flight(files, tmp_path):
    """The command itself, killed at twenty moments of its life: while it starts, asks, and writes its tables."""
    dice, in_flight, out = random.Random(11), 8, tmp_path / "out"

    def slowly(number, question):
        time.sleep(0.05)
        return graded(question)

    with serving(slowly) as server:
        command = [sys.executable, "-m", "nbutils.judge", *arguments(files, server.url, out)]
        lost = 0
        for kill in range(20):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before, wanted = len(server.asked), dice.randrange(0, 12)
            limit = time.monotonic() + (0.05 * kill if kill < 5 else 30)
            while process.poll() is None and time.monotonic() < limit and len(server.asked) < before + wanted:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.1)
            if (out / "ledger.sqlite").exists():
                with sqlite3.connect(out / "ledger.sqlite") as database:
                    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                    kept = database.execute("SELECT count(*) FROM replies").fetchone()[0]
                assert len(server.asked) - kept - lost <= in_flight, "at most the calls in flight are paid again"
                lost = len(server.asked) - kept
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        print(f"20 kills: {len(server.asked)} calls for {2 * N} answers, {len(server.asked) - 2 * N} paid again")
        asked = len(server.asked)
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert len(server.asked) == asked, "a complete run asks nothing"
    assert len(check_reviews(out)) == 2 * N


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("answer", [refusal(401, f"no such key: {CANARY}"), refusal(400, f"{CANARY}?")])
def test_a_failing_command_leaves_no_key_anywhere(files, tmp_path, answer):
    with serving(lambda number, question: answer) as server:
        command = [
            sys.executable,
            "-X",
            "dev",
            "-m",
            "nbutils.judge",
            *arguments(files[:], server.url, tmp_path / "out"),
        ]
        environment = dict(os.environ, OPENAI_LOG="debug", PYTHONWARNINGS="ignore")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert server.keys[0] == f"Bearer {CANARY}", "it was really sent"
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert CANARY not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
