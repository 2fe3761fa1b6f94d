"""The Batch API: submitted once, collected after any restart, and whatever is missing is a recorded failure."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from asking import CANARY, count, judge_at, questions
from batch_server import serving_batches
from chat_server import completion

from nbutils.llm import batch, limits
from nbutils.llm.batch import BatchBackend
from nbutils.llm.client import LocalBackend, Reply, StopAskingError, ask_all


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)
    monkeypatch.setattr(batch, "POLL_SECONDS", 0.01)


def question_of(line):
    return line["body"]["messages"][-1]["content"]


def entry(line, text=None, error=None):
    response = {"status_code": 200, "request_id": "r", "body": completion(text)} if error is None else None
    return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": error}


def echo(line):
    return entry(line, f"you said {question_of(line)}")


def ask(server, ledger, *texts, **options):
    return ask_all(questions(*texts), BatchBackend(judge_at(server.url, batch=True, **options)), ledger, "test")


def texts_of(replies):
    return [reply.text for reply in replies]


def test_a_batch(ledger, capfd):
    with serving_batches(echo) as server:
        replies = ask(server, ledger, "a", "b", "a")
        assert ask_all(questions("b"), LocalBackend(pytest.fail), ledger, "again")[0].text == "you said b"
    assert replies[0] == Reply("you said a", None, 7, 3)
    assert texts_of(replies) == ["you said a", "you said b", "you said a"]
    (batch,) = server.batches.values()
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    body = {"model": "fake-1", "messages": expected, "max_tokens": 16, "temperature": 0.0}
    key = questions("a")[0].key
    assert server.asked[0] == {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert count(ledger, "batches") == 0, "what is collected is not open any more"
    assert "batch batch-0: 2 requests submitted" in capfd.readouterr().err


def shuffled(lines):
    doubled = [*lines, *[entry({"custom_id": line["custom_id"]}, "second copy") for line in lines]]
    mixed = doubled[: len(lines)]
    random.Random(3).shuffle(mixed)
    return [*mixed, *doubled[len(lines) :], entry({"custom_id": "unknown"}, "for nobody"), b"{torn\n", b"[1]\n"]


def test_answers_in_any_order_and_twice(ledger):
    texts = [str(number) for number in range(30)]
    with serving_batches(echo, spoil=shuffled) as server:
        replies = ask(server, ledger, *texts)
    assert texts_of(replies) == [f"you said {text}" for text in texts]
    assert count(ledger, "replies") == 30


def some_fail(line):
    return {
        "a": echo(line),
        "b": entry(line, error={"code": "server_error", "message": "lost"}),
        "c": None,
        "d": entry(line, None),
        "e": {**echo(line), "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}},
    }[question_of(line)]


def test_what_fails_is_recorded_and_asked_again(ledger):
    with serving_batches(some_fail, end="expired") as server:
        replies = ask(server, ledger, *"abcde")
    assert texts_of(replies) == ["you said a", None, None, None, None]
    said = [reply.error for reply in replies[1:]]
    assert "lost" in said[0] and "ended (expired) without an answer" in said[1]
    assert "holds no text" in said[2] and "too long" in said[3]
    assert (count(ledger, "replies"), count(ledger, "failures")) == (1, 4)
    with serving_batches(echo) as server:
        assert texts_of(ask(server, ledger, *"abcde")) == [f"you said {text}" for text in "abcde"]
    assert sorted(map(question_of, server.asked)) == ["b", "c", "d", "e"]


def test_a_batch_that_the_endpoint_refuses(ledger):
    errors = [{"code": "model_not_found", "message": f"no such model for {CANARY}", "line": 1, "param": None}]
    with (
        serving_batches(echo, end="failed", errors=errors) as server,
        pytest.raises(StopAskingError, match=r"batch batch-0 was refused .*no such model for \[LIM_TEST_KEY\]"),
    ):
        ask(server, ledger, "a")
    assert count(ledger, "batches") == 0


def test_large_batches_are_parted(ledger, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 4)
    with serving_batches(echo) as server:
        assert len(ask(server, ledger, *map(str, range(10)))) == 10
    assert len(server.batches) == 3
    monkeypatch.setattr(batch, "MOST_REQUESTS", 100)
    monkeypatch.setattr(batch, "MOST_BYTES", 700)
    with serving_batches(echo) as server:
        ask(server, ledger, *[f"again {number}" for number in range(6)])
    assert len(server.batches) == 3
    assert all(len(content) <= 700 for content in list(server.files.values())[:3])


# --- restarts ------------------------------------------------------------------------------------------------------


def broken_at(step):
    """Break the connection at a step of the first run: (method, beginning of the path)."""
    broken = []

    def refuse(method, path):
        if not broken and (method, path[: len(step[1])]) == step:
            broken.append(path)
            return 400, {"error": {"message": "stop here", "type": "error", "param": None, "code": None}}
        return None

    return refuse


@pytest.mark.parametrize(
    "step", [("POST", "/v1/files"), ("POST", "/v1/batches"), ("GET", "/v1/batches/batch-0"), ("GET", "/v1/files/")]
)
def test_whatever_breaks_the_next_run_goes_on(ledger, step):
    with serving_batches(echo, refuse=broken_at(step)) as server:
        with pytest.raises(StopAskingError, match="stop here"):
            ask(server, ledger, "a", "b")
        assert texts_of(ask(server, ledger, "a", "b")) == ["you said a", "you said b"]
        assert len(server.batches) == 1, "submitted once"
    assert count(ledger, "batches") == 0


def test_a_batch_whose_number_was_lost_is_found_again(ledger):
    """The endpoint made it, and the answer that says so never came."""
    lost = []

    def refuse(method, path):
        if method == "GET" and path.startswith("/v1/batches/") and not lost:
            lost.append(path)
            return 403, {"error": {"message": "killed here", "type": "error", "param": None, "code": None}}
        return None

    with serving_batches(echo, refuse=refuse) as server:
        with pytest.raises(StopAskingError):
            ask(server, ledger, "a", "b")
        ledger.execute("UPDATE batches SET id = NULL")
        assert texts_of(ask(server, ledger, "a", "b", "c")) == ["you said a", "you said b", "you said c"]
    assert [question_of(line) for line in server.asked] == ["a", "b", "c"], "each was submitted once"


@pytest.mark.parametrize("others", [99, 250])
def test_a_batch_is_found_by_its_own_mark_behind_the_newest_hundred(ledger, others):
    with serving_batches(echo, refuse=broken_at(("GET", "/v1/batches/batch-0"))) as server:
        with pytest.raises(StopAskingError):
            ask(server, ledger, "a")
        ledger.execute("UPDATE batches SET id = NULL")
        made = server.batches["batch-0"]
        for number in range(1, others + 1):
            mark = {} if number % 2 else {"metadata": {batch.TOKEN: f"another run's {number}"}}
            server.batches[f"batch-{number}"] = made | {"id": f"batch-{number}", "metadata": None} | mark
        assert texts_of(ask(server, ledger, "a")) == ["you said a"]
        assert len(server.batches) == others + 1 and len(server.asked) == 1, "submitted once"


def test_a_batch_that_the_endpoint_never_got_is_submitted_again(ledger):
    with serving_batches(echo, refuse=broken_at(("POST", "/v1/batches"))) as server:
        with pytest.raises(StopAskingError):
            ask(server, ledger, "a")
        other = {"id": "other", "object": "batch", "created_at": 1, "status": "completed", "metadata": None}
        server.batches |= {f"other-{number}": other | {"id": f"other-{number}"} for number in range(120)}
        assert texts_of(ask(server, ledger, "a")) == ["you said a"]
    assert len(server.asked) == 1


def test_what_a_batch_waits_for_is_told(ledger, capfd):
    with serving_batches(echo, polls=3) as server:
        ask(server, ledger, "a", "b")
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("waiting")]
    assert told == ["waiting for batch batch-0: in_progress, 0 of 2 done"]


def test_answers_that_nobody_waits_for_any_more_are_kept(ledger):
    with serving_batches(echo, refuse=broken_at(("GET", "/v1/batches/batch-0"))) as server:
        with pytest.raises(StopAskingError):
            ask(server, ledger, "a", "b")
        assert texts_of(ask(server, ledger, "c")) == ["you said c"]
    assert texts_of(ask_all(questions("a", "b"), LocalBackend(pytest.fail), ledger, "later")) == [
        "you said a",
        "you said b",
    ]


ASK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from asking import judge_at, questions
from nbutils.llm import batch
from nbutils.llm.client import Ledger, ask_all
batch.POLL_SECONDS = 0.05
backend = batch.BatchBackend(judge_at(sys.argv[1], batch=True))
replies = ask_all(questions(*map(str, range(40))), backend, Ledger(Path(sys.argv[2])), "test")
assert [reply.text for reply in replies] == [f"you said {i}" for i in range(40)]
"""


@pytest.mark.thorough
def test_after_kill_9_the_same_batch_is_collected(tmp_path, request):
    with serving_batches(echo, polls=12) as server:
        command = [
            sys.executable,
            "-c",
            ASK,
            server.url,
            str(tmp_path / "l.sqlite"),
            str(request.path.parents[1] / "support"),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 20
        while server.looks < 3 and time.monotonic() < limit:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert len(server.batches) == 1 and len(server.asked) == 40


# --- limits and keys -----------------------------------------------------------------------------------------------


def test_a_wrong_key_stops_at_once(ledger):
    error = {"error": {"message": f"wrong key {CANARY}", "type": "error", "param": None, "code": None}}
    with (
        serving_batches(echo, refuse=lambda method, path: (401, error)) as server,
        pytest.raises(StopAskingError, match="refuses the key in LIM_TEST_KEY"),
    ):
        ask(server, ledger, "a")
    assert len(server.keys) == 1


@pytest.mark.thorough
def test_a_fault_is_tried_again(ledger):
    seen = []

    def refuse(method, path):
        """Every second look fails, and so does the first upload."""
        seen.append(path)
        return (503, {}) if (method == "GET" or path == "/v1/files") and seen.count(path) % 2 else None

    with serving_batches(echo, refuse=refuse) as server:
        assert texts_of(ask(server, ledger, "a")) == ["you said a"]
    assert len(server.batches) == 1
    assert seen.count("/v1/files") == 2


def test_a_submission_is_not_repeated_blindly(ledger):
    """A batch may have been made although the answer says otherwise: the next run looks before it submits."""
    with (
        serving_batches(echo, refuse=lambda method, path: (503, {}) if path == "/v1/batches" else None) as server,
        pytest.raises(StopAskingError, match="run again, what was submitted is not lost"),
    ):
        ask(server, ledger, "a")
    assert server.batches == {} and len(server.keys) == 2
    assert count(ledger, "batches") == 1


def test_a_batch_must_fit_below_the_ceiling(ledger, monkeypatch):
    known = {"fake-1": {"input": 1000.0, "output": 5000.0, "batch": 0.5, "date": "2026-01-01"}}
    monkeypatch.setattr(limits, "_prices", lambda: known)
    with serving_batches(echo) as server:
        with pytest.raises(StopAskingError, match="a batch must fit as a whole"):
            ask(server, ledger, *map(str, range(30)), max_cost=1.0)
        assert server.batches == {}
        assert len(ask(server, ledger, *map(str, range(15)), max_cost=1.0)) == 15, "half of the ordinary price"


def test_the_key_is_in_no_file(tmp_path, ledger):
    def quoting(line):
        return entry(line, f"8 9 {CANARY}") if question_of(line) == "a" else entry(line, error={"message": CANARY})

    with serving_batches(quoting) as server:
        replies = ask(server, ledger, "a", "b")
    assert set(server.keys) == {f"Bearer {CANARY}"}
    assert texts_of(replies) == ["8 9 [LIM_TEST_KEY]", None] and "[LIM_TEST_KEY]" in replies[1].error
    assert not any(CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert CANARY not in json.dumps(ledger.execute("SELECT * FROM failures"))
