"""The client and its ledger against a real HTTP server: nothing is paid twice, and no failure counts as an answer."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from types import SimpleNamespace

import pytest
from chat_server import Answer, completion, refusal, serving

from nbutils import endpoint, llm
from nbutils.endpoint import OpenAIBackend
from nbutils.errors import InputError
from nbutils.llm import Ledger, LocalBackend, Reply, Request, StopAskingError, ask_all
from nbutils.settings import JudgeModel

CANARY = "sk-canary-4f1d8e72b09a"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


@pytest.fixture
def ledger(tmp_path):
    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(endpoint, "_wait", lambda state: 0.0)


def judge_at(url, **options):
    return JudgeModel(name="fake", kind="openai", model="fake-1", base_url=url, key_variable="LIM_TEST_KEY", **options)


def questions(*texts):
    return [Request("somewhere", "fake-1", (("system", "Be brief."), ("user", text)), 16) for text in texts]


def ask(server, ledger, *texts, **options):
    return ask_all(questions(*texts), OpenAIBackend(judge_at(server.url, **options)), ledger, "test")


def count(ledger, table):
    return ledger._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608


def echo(number, question):
    return f"you said {question}"


# --- asking and remembering ----------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests(ledger):
    def slow_first(number, question):
        time.sleep(0.1 if question == "a" else 0)
        return echo(number, question)

    with serving(slow_first) as server:
        replies = ask(server, ledger, "a", "b", "c")
    assert [reply.text for reply in replies] == ["you said a", "you said b", "you said c"]
    assert replies[0] == Reply("you said a", None, 7, 3)
    assert server.keys == [f"Bearer {CANARY}"] * 3
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    asked = next(body for body in server.asked if body["messages"][1]["content"] == "a")
    assert asked == {"messages": expected, "model": "fake-1", "max_tokens": 16, "temperature": 0.0}


def test_equal_requests_are_asked_once(ledger):
    with serving(echo) as server:
        replies = ask(server, ledger, "a", "b", "a", "a")
    assert sorted(server.questions()) == ["a", "b"]
    assert [reply.text for reply in replies] == ["you said a", "you said b", "you said a", "you said a"]


def test_a_second_run_asks_nothing(ledger):
    with serving(echo) as server:
        first = ask(server, ledger, "a", "b")
        again = ask(server, ledger, "b", "a")
    assert len(server.asked) == 2
    assert [reply.text for reply in again] == [first[1].text, first[0].text]
    assert ask_all(questions("a", "b"), LocalBackend(pytest.fail), ledger, "no server")[0].text == "you said a"


def test_a_larger_second_run_asks_only_what_is_new(ledger):
    with serving(echo) as server:
        ask(server, ledger, "a", "b")
        replies = ask(server, ledger, "a", "b", "c")
    assert server.questions()[2:] == ["c"]
    assert [reply.text for reply in replies] == ["you said a", "you said b", "you said c"]


def test_one_backend_serves_several_runs(ledger):
    with serving(echo) as server:
        backend = OpenAIBackend(judge_at(server.url))
        for text in "abc":
            assert ask_all(questions(text), backend, ledger, "test") == [Reply(f"you said {text}", None, 7, 3)]


def test_no_requests(ledger):
    assert ask_all([], LocalBackend(pytest.fail), ledger, "none") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"endpoint": "elsewhere"},
        {"model": "fake-2"},
        {"messages": (("system", "Be brief."), ("user", "b"))},
        {"messages": (("user", "Be brief."), ("user", "a"))},
        {"messages": (("user", "a"),)},
        {"max_tokens": 17},
        {"temperature": 0.1},
        {"facts": {"reference": "x"}},
    ],
)
def test_the_key_holds_the_whole_request(changed):
    (request,) = questions("a")
    fields = {name: getattr(request, name) for name in request.__dataclass_fields__}
    assert Request(**fields).key == request.key
    assert Request(**(fields | changed)).key != request.key


def test_no_more_calls_in_flight_than_allowed(ledger):
    in_flight, most, lock = 0, 0, threading.Lock()

    def counting(number, question):
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        time.sleep(0.02)
        with lock:
            in_flight -= 1
        return "ok"

    with serving(counting) as server:
        ask(server, ledger, *map(str, range(24)), concurrency=4)
    assert 2 <= most <= 4


def test_texts_that_no_network_takes(ledger):
    with serving(lambda number, question: "half a pair \ud83d") as server:
        (reply,) = ask(server, ledger, "odd \udcff text")
    assert server.questions() == ["odd ? text"]
    assert reply.text == "half a pair ?"
    assert ask_all(questions("odd \udcff text"), LocalBackend(pytest.fail), ledger, "again")[0].text == "half a pair ?"


def test_what_is_unanswered(tmp_path):
    path, asked = tmp_path / "ledger.sqlite", questions("a", "b", "a")
    assert llm.unanswered(asked, path) == asked[:2]
    assert not path.exists(), "asking makes no file"
    with contextlib.closing(Ledger(path)) as ledger:
        ask_all(asked[:1], LocalBackend(lambda request: "x"), ledger, "test")
        ledger.write(asked[1], Reply(None, "failed"))
    assert llm.unanswered(asked, path) == asked[1:2]


def test_more_keys_than_sqlite_takes_at_once(ledger):
    asked = questions(*map(str, range(1203)))
    ask_all(asked, LocalBackend(lambda request: request.messages[-1][1]), ledger, "test")
    assert [reply.text for reply in ask_all(asked, LocalBackend(pytest.fail), ledger, "again")] == [
        str(number) for number in range(1203)
    ]


# --- what passes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 409])
def test_a_passing_error_is_tried_again(ledger, impatient, status):
    with serving(lambda number, question: refusal(status, "busy") if number < 2 else "at last") as server:
        assert ask(server, ledger, "a") == [Reply("at last", None, 7, 3)]
    assert len(server.asked) == 3
    assert (count(ledger, "replies"), count(ledger, "failures")) == (1, 0)


def test_retries_are_bounded(ledger, impatient):
    with serving(lambda number, question: refusal(500, "out of order")) as server:
        (reply,) = ask(server, ledger, "a")
    assert len(server.asked) == endpoint.ATTEMPTS
    assert reply.text is None
    assert "InternalServerError" in reply.error and "out of order" in reply.error


def test_retry_after_is_honoured(ledger):
    """Without the header the first wait is a second."""
    asked_at = []

    def busy_once(number, question):
        asked_at.append(time.monotonic())
        return refusal(429, "slow down", headers=(("Retry-After", "0.3"),)) if number == 0 else "ok"

    with serving(busy_once) as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert 0.3 <= asked_at[1] - asked_at[0] < 0.9


@pytest.mark.parametrize(
    ("header", "attempt", "expected"),
    [
        ("7", 1, 7),
        ("0.5", 4, 0.5),
        ("99999", 1, 120),
        ("", 1, 1),
        ("", 2, 2),
        ("", 9, 30),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1, 1),
        ("-3", 1, 1),
        ("nan", 1, 1),
    ],
)
def test_how_long_to_wait(header, attempt, expected):
    error = SimpleNamespace(response=SimpleNamespace(headers={"retry-after": header} if header else {}))
    state = SimpleNamespace(outcome=SimpleNamespace(exception=lambda: error), attempt_number=attempt)
    assert endpoint._wait(state) == expected


def test_a_broken_connection_is_tried_again(ledger, impatient):
    with serving(lambda number, question: Answer(None) if number == 0 else "ok") as server:
        assert ask(server, ledger, "a")[0].text == "ok"


def test_one_question_that_breaks_the_connection_costs_only_itself(ledger, impatient):
    with serving(lambda number, question: Answer(None) if question == "b" else "ok") as server:
        replies = ask(server, ledger, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["ok", None, "ok"]
    assert replies[1].error.startswith("APIConnectionError")


def test_a_slow_answer_fails_and_is_no_answer(ledger, impatient, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(endpoint, "ATTEMPTS", 2)

    def slow(number, question):
        time.sleep(0.4)
        return "too late"

    with serving(slow) as server:
        (reply,) = ask(server, ledger, "a")
    assert (reply.text, len(server.asked)) == (None, 2)
    assert reply.error.startswith("APITimeoutError")


# --- what fails is recorded, never cached, and asked again ---------------------------------------------------------

NO_TEXT = {
    "no choices": Answer(completion("", choices=[])),
    "choices are null": Answer(completion("", choices=None)),
    "an empty text": Answer(completion("")),
    "a null text": Answer(completion(None)),
    "a null message": Answer(completion("", choices=[{"index": 0, "message": None, "finish_reason": "stop"}])),
    "an error with status 200": Answer({"error": {"message": "8 9"}}),
    "an empty object": Answer({}),
    "HTML with status 200": Answer(b"<html><body>8 9\nPlease log in.</body></html>", kind="text/html"),
    "HTML that says it is JSON": Answer(b"<html>8 9</html>"),
    "half a JSON document": Answer(b'{"choices": [{"message": {"content": "8 9'),
    "an empty body": Answer(b""),
    "a list": Answer([]),
    "status 418": refusal(418, "8 9"),
    "status 422": refusal(422, "8 9"),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_answer_fails_and_is_asked_again(ledger, name):
    with serving(lambda number, question: NO_TEXT[name] if number == 0 else "8 9") as server:
        (failed,) = ask(server, ledger, "a")
        assert failed.text is None and failed.error
        assert (count(ledger, "replies"), count(ledger, "failures")) == (0, 1)
        assert ask(server, ledger, "a")[0].text == "8 9"
        assert ask(server, ledger, "a")[0].text == "8 9"
    assert len(server.asked) == 2
    assert (count(ledger, "replies"), count(ledger, "failures")) == (1, 1)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 4096 tokens.", "context_length_exceeded"),
        ("The decoder prompt (length 9000) is longer than the maximum model length of 4096.", None),
        ("The response was filtered due to the prompt triggering content management policy.", "content_filter"),
    ],
)
def test_one_refused_text_stops_nothing(ledger, message, code):
    with serving(lambda number, question: refusal(400, message, code) if question == "b" else "ok") as server:
        replies = ask(server, ledger, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["ok", None, "ok"]
    assert message in replies[1].error


# --- what stops the run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            refusal(401, f"Incorrect API key: {CANARY}"),
            "refuses the key in LIM_TEST_KEY (HTTP 401): correct it",
        ),
        (refusal(403, "no"), "refuses the key in LIM_TEST_KEY (HTTP 403): correct it"),
        (refusal(402, "pay first"), "the quota of the key in LIM_TEST_KEY is used up"),
        (refusal(429, "too little", "insufficient_quota"), "the quota of the key in LIM_TEST_KEY is used up"),
        (refusal(404, "no model long-context"), "no model long-context"),
        (refusal(400, "unknown parameter"), "unknown parameter"),
        (refusal(400, "unknown parameter"), "check model 'fake-1' and base_url"),
    ],
)
def test_an_error_that_all_calls_would_meet_stops_the_run(ledger, answer, expected):
    texts, started = [str(number) for number in range(30)], time.monotonic()
    with (
        serving(lambda number, question: answer if number else "the first is answered") as server,
        pytest.raises(StopAskingError) as stopped,
    ):
        ask(server, ledger, *texts, concurrency=1)
    assert expected in str(stopped.value) and server.url in str(stopped.value)
    assert CANARY not in "".join(traceback.format_exception(stopped.value))
    assert len(server.asked) == 2, "the first refusal is the last call"
    assert time.monotonic() - started < 5
    assert count(ledger, "replies") == 1, "what was answered and paid for is kept"


def test_of_several_calls_in_flight_the_first_refusal_stops_all(ledger):
    with serving(lambda number, question: refusal(401, "no")) as server, pytest.raises(StopAskingError, match="401"):
        ask(server, ledger, *map(str, range(200)), concurrency=4)
    assert len(server.asked) <= 8


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there_stops_the_run_at_once(ledger):
    url, started = f"http://127.0.0.1:{unused_port()}/v1", time.monotonic()
    with pytest.raises(StopAskingError) as stopped:
        ask_all(questions(*"abcdefgh"), OpenAIBackend(judge_at(url)), ledger, "test")
    assert str(stopped.value) == f"{url} cannot be reached: is the server running and base_url right?"
    assert time.monotonic() - started < 5


def test_a_server_that_goes_away_is_waited_for_and_then_stops_the_run(ledger, monkeypatch):
    waits = []
    monkeypatch.setattr(endpoint, "_wait", lambda state: waits.append(state.attempt_number) or 0.0)
    with serving(echo) as server:
        backend = OpenAIBackend(judge_at(server.url))
        ask_all(questions("a"), backend, ledger, "test")
    with pytest.raises(StopAskingError, match="cannot be reached"):
        ask_all(questions("b"), backend, ledger, "test")
    assert waits[:4] == [1, 2, 3, 4]


def test_a_local_judges_complaint_arrives_as_it_is(ledger):
    def complain(request):
        raise InputError("no reference answer")

    with pytest.raises(InputError, match=r"^no reference answer$"):
        ask_all(questions("a", "b"), LocalBackend(complain), ledger, "test")


def test_a_bug_is_not_hidden(ledger):
    with pytest.raises(ExceptionGroup) as found:
        ask_all(questions("a"), LocalBackend(lambda request: 1 / 0), ledger, "test")
    assert isinstance(found.value.exceptions[0], ZeroDivisionError)


# --- the ledger on disk --------------------------------------------------------------------------------------------


def test_a_ledger_that_is_none(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("this is no database, but long enough to be taken for one" * 20)
    with pytest.raises(InputError, match=r"ledger\.sqlite: cannot be used as a ledger \(file is not a database\)"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_ledger_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_full_disk_stops_the_run_and_keeps_what_was_answered(ledger):
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages + 8}")
    with serving(lambda number, question: "x" * 1000) as server:
        with pytest.raises(StopAskingError, match=r"ledger\.sqlite: cannot be written .*full"):
            ask(server, ledger, *map(str, range(300)), concurrency=2)
        kept = count(ledger, "replies")
    assert 0 < kept < 100
    assert len(server.asked) <= kept + 4, "no more is asked, and paid for, than can be written down"


def test_several_processes_share_a_ledger(tmp_path):
    """Two connections write at the same time; each request is kept once, and no writer fails."""
    path, asked = tmp_path / "ledger.sqlite", questions(*map(str, range(150)))

    def work():
        with contextlib.closing(Ledger(path)) as mine:
            for request in asked:
                mine.write(request, Reply(request.messages[-1][1]))

    Ledger(path).close()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with contextlib.closing(Ledger(path)) as ledger:
        assert count(ledger, "replies") == 150
        assert ledger.find([asked[7].key]) == {asked[7].key: "7"}


ASK_MANY = """
import sys
from pathlib import Path
from nbutils.endpoint import OpenAIBackend
from nbutils.llm import Ledger, Request, ask_all
from nbutils.settings import JudgeModel
url, path, n = sys.argv[1:]
judge = JudgeModel(name="j", kind="openai", model="m", base_url=url, key_variable="LIM_TEST_KEY", concurrency=8)
requests = [Request("e", "m", (("user", str(i)),), 16) for i in range(int(n))]
replies = ask_all(requests, OpenAIBackend(judge), Ledger(Path(path)), "many")
assert [reply.text for reply in replies] == [f"you said {i}" for i in range(int(n))]
"""


def wait_until(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.002)


@pytest.mark.slow
def test_after_kill_9_at_most_the_calls_in_flight_are_paid_again(tmp_path):
    n, kills, in_flight = 90, (15, 40), 8

    def slowly(number, question):
        time.sleep(0.01)
        return echo(number, question)

    with serving(slowly) as server:
        command = [sys.executable, "-c", ASK_MANY, server.url, str(tmp_path / "ledger.sqlite"), str(n)]
        for answered in kills:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            wait_until(lambda answered=answered: server.finished >= answered)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert len(server.asked) < n, "every run was killed before its end"
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        assert {int(question) for question in server.questions()} == set(range(n))
        assert len(server.asked) <= n + in_flight * len(kills)


# --- in a notebook -------------------------------------------------------------------------------------------------


def test_inside_a_running_event_loop(ledger):
    async def cell():
        return ask(server, ledger, "a", "b")

    with serving(echo) as server:
        replies = asyncio.run(cell())
    assert [reply.text for reply in replies] == ["you said a", "you said b"]


def test_errors_come_out_of_a_running_event_loop(ledger):
    async def cell():
        return ask(server, ledger, "a")

    with (
        serving(lambda number, question: refusal(401, "no")) as server,
        pytest.raises(StopAskingError, match="HTTP 401"),
    ):
        asyncio.run(cell())


ASK_IN_A_LOOP = """
import asyncio, sys
from pathlib import Path
from nbutils.endpoint import OpenAIBackend
from nbutils.llm import Ledger, Request, ask_all
from nbutils.settings import JudgeModel
url, path = sys.argv[1:]
judge = JudgeModel(name="j", kind="openai", model="m", base_url=url, key_variable="LIM_TEST_KEY", concurrency=4)
requests = [Request("e", "m", (("user", str(i)),), 16) for i in range(5000)]

async def cell():
    ask_all(requests, OpenAIBackend(judge), Ledger(Path(path)), "many")

try:
    asyncio.new_event_loop().run_until_complete(cell())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_a_notebooks_stop_button_stops_the_asking(tmp_path):
    def slowly(number, question):
        time.sleep(0.01)
        return "ok"

    with serving(slowly) as server:
        command = [sys.executable, "-c", ASK_IN_A_LOOP, server.url, str(tmp_path / "ledger.sqlite")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        wait_until(lambda: server.finished >= 20)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=20)
        assert printed == "interrupted\n"
        assert len(server.asked) < 1000
    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert 0 <= len(server.asked) - count(ledger, "replies") <= 4, "all but those in flight are kept"


# --- keys ----------------------------------------------------------------------------------------------------------


def test_the_key_appears_nowhere(tmp_path, ledger, impatient, capfd, caplog):
    """Servers quote the key in all kinds of complaints."""
    quoting = [refusal(500, f"bad {CANARY}")] * 5 + [refusal(422, f"{CANARY}?"), refusal(400, f"no {CANARY}")]
    told = []
    with serving(lambda number, question: quoting[number]) as server:
        told += ask(server, ledger, "a", "b", concurrency=1)
        with pytest.raises(StopAskingError) as stopped:
            ask(server, ledger, "c")
    told += traceback.format_exception(stopped.value)
    assert [reply.text for reply in told[:2]] == [None, None]
    assert "bad [LIM_TEST_KEY]" in told[0].error and "no [LIM_TEST_KEY]" in str(stopped.value)
    shown = [repr(told), caplog.text, *capfd.readouterr()]
    assert not any(CANARY in text for text in shown)
    assert count(ledger, "failures") == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(CANARY.encode() in path.read_bytes() for path in files)


def test_the_key_is_in_no_settings():
    judge = judge_at("http://127.0.0.1:1/v1")
    assert CANARY not in judge.model_dump_json() + repr(OpenAIBackend(judge))


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://127.0.0.1:8000/v1", "http://[::1]:8000/v1"])
def test_a_server_on_this_machine_needs_no_key(monkeypatch, url):
    monkeypatch.delenv("LIM_TEST_KEY")
    assert endpoint.read_key(judge_at(url)) == "no-key"


@pytest.mark.parametrize("url", [None, "https://api.example.com/v1", "https://localhost.example.com/v1"])
def test_a_missing_key_is_named(monkeypatch, url):
    monkeypatch.setenv("LIM_TEST_KEY", "")
    with pytest.raises(InputError) as refused:
        OpenAIBackend(judge_at(url))
    assert str(refused.value) == "judge 'fake' needs a key: set the environment variable LIM_TEST_KEY"


def test_the_request_is_kept_with_its_answer(ledger):
    """Judgments are data: a ledger says later what was asked."""
    with serving(echo) as server:
        ask(server, ledger, "é\u2028")
    row = ledger._connection.execute("SELECT model, request, reply, tokens_in, tokens_out FROM replies").fetchone()
    assert row[0] == "fake-1" and row[2:] == ("you said é\u2028", 7, 3)
    assert json.loads(row[1])["messages"] == [["system", "Be brief."], ["user", "é\u2028"]]


def test_the_ledger_is_an_ordinary_database(tmp_path):
    Ledger(tmp_path / "new" / "ledger.sqlite").close()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ledger.sqlite"], "closing leaves no side files"
    with contextlib.closing(sqlite3.connect(tmp_path / "new" / "ledger.sqlite")) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    assert names == [("failures",), ("replies",)]
