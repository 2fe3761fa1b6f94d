"""The ledger and the asking: nothing is paid twice, no failure counts as an answer, whoever answers."""

import asyncio
import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from asking import CANARY, ask, count, echo, judge_at, questions
from chat_server import refusal, serving

from nbutils.core import machine
from nbutils.core.errors import InputError
from nbutils.llm import client
from nbutils.llm.client import Ledger, LocalBackend, Reply, Request, StopAskingError, ask_all
from nbutils.llm.endpoint import OpenAIBackend


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)


# --- asking and remembering ------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests(ledger):
    def slow_first(number, question):
        time.sleep(0.1 if question == "a" else 0)
        return echo(number, question)

    with serving(slow_first) as server:
        replies = ask(server, ledger, "a", "b", "c")
    assert [reply.text for reply in replies] == ["you said a", "you said b", "you said c"]
    assert replies[0] == Reply("you said a", None, 7, 3, served="fake-1")
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
            assert ask_all(questions(text), backend, ledger, "test") == [
                Reply(f"you said {text}", None, 7, 3, served="fake-1")
            ]


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


def test_texts_that_no_network_takes(ledger):
    with serving(lambda number, question: "half a pair \ud83d") as server:
        (reply,) = ask(server, ledger, "odd \udcff text")
    assert server.questions() == ["odd ? text"]
    assert reply.text == "half a pair ?"
    assert ask_all(questions("odd \udcff text"), LocalBackend(pytest.fail), ledger, "again")[0].text == "half a pair ?"


def test_what_is_unanswered(tmp_path):
    path, asked = tmp_path / "ledger.sqlite", questions("a", "b", "a")
    assert client.unanswered(asked, path) == asked[:2]
    assert not path.exists(), "asking makes no file"
    with contextlib.closing(Ledger(path)) as ledger:
        ask_all(asked[:1], LocalBackend(lambda request: "x"), ledger, "test")
        ledger.write(asked[1], Reply(None, "failed"))
    assert client.unanswered(asked, path) == asked[1:2]


def test_more_keys_than_sqlite_takes_at_once(ledger):
    asked = questions(*map(str, range(1203)))
    ask_all(asked, LocalBackend(lambda request: request.messages[-1][1]), ledger, "test")
    assert [reply.text for reply in ask_all(asked, LocalBackend(pytest.fail), ledger, "again")] == [
        str(number) for number in range(1203)
    ]


def test_a_local_judges_complaint_arrives_as_it_is(ledger):
    def complain(request):
        raise InputError("no reference answer")

    with pytest.raises(InputError, match=r"^no reference answer$"):
        ask_all(questions("a", "b"), LocalBackend(complain), ledger, "test")


def test_a_bug_is_not_hidden(ledger):
    with pytest.raises(ZeroDivisionError):
        ask_all(questions("a"), LocalBackend(lambda request: 1 / 0), ledger, "test")


# --- the ledger on disk ----------------------------------------------------------------------------------------------


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
        assert ledger.find([asked[7].key]) == {asked[7].key: Reply("7")}


ASK_MANY = """
import sys
from pathlib import Path
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Request
from nbutils.llm.client import ask_all
from nbutils.llm.endpoint import OpenAIBackend
from nbutils.llm.client import Ledger
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


def check_ledger(path, at_least):
    """A killed run leaves a whole database, in which every answer is the answer to its question."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT key, request, reply FROM replies").fetchall()
    for key, asked, reply in rows:
        fields = json.loads(asked)
        request = Request(**fields | {"messages": tuple(map(tuple, fields["messages"]))})
        assert (request.key, reply) == (key, f"you said {request.messages[-1][1]}")
    assert len(rows) >= at_least


@pytest.mark.thorough
def test_two_processes_at_once_pay_once(tmp_path):
    def slowly(number, question):
        time.sleep(0.02)
        return echo(number, question)

    with serving(slowly) as server:
        command = [sys.executable, "-c", ASK_MANY, server.url, str(tmp_path / "ledger.sqlite"), "60"]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(int, server.questions())) == list(range(60))
    assert sum("another process is asking m with" in text for text in told) <= 1
    check_ledger(tmp_path / "ledger.sqlite", at_least=60)


@pytest.mark.thorough
@pytest.mark.slow
def test_after_kill_9_at_most_the_calls_in_flight_are_paid_again(tmp_path):
    n, kills, in_flight = 90, (15, 40), 8

    def slowly(number, question):
        time.sleep(0.01)
        return echo(number, question)

    with serving(slowly) as server:
        command = [sys.executable, "-c", ASK_MANY, server.url, str(tmp_path / "ledger.sqlite"), str(n)]
        for killed, answered in enumerate(kills, start=1):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            wait_until(lambda answered=answered: server.finished >= answered)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            check_ledger(tmp_path / "ledger.sqlite", at_least=len(server.asked) - in_flight * killed)
        assert len(server.asked) < n, "every run was killed before its end"
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        assert {int(question) for question in server.questions()} == set(range(n))
        assert len(server.asked) <= n + in_flight * len(kills)


def test_the_request_is_kept_with_its_answer(ledger):
    """Judgments are data: a ledger says later what was asked."""
    with serving(echo) as server:
        ask(server, ledger, "é\u2028")
    row = ledger.execute("SELECT model, request, reply, tokens_in, tokens_out FROM replies")[0]
    assert row[0] == "fake-1" and row[2:] == ("you said é\u2028", 7, 3)
    assert json.loads(row[1])["messages"] == [["system", "Be brief."], ["user", "é\u2028"]]


def test_the_ledger_is_an_ordinary_database(tmp_path):
    Ledger(tmp_path / "new" / "ledger.sqlite").close()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ledger.sqlite"], "closing leaves no side files"
    with contextlib.closing(sqlite3.connect(tmp_path / "new" / "ledger.sqlite")) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    assert names == [("batches",), ("failures",), ("notes",), ("replies",)]


# --- in a notebook ---------------------------------------------------------------------------------------------------


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
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Ledger, Request, ask_all
from nbutils.llm.endpoint import OpenAIBackend
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


@pytest.mark.thorough
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


def test_an_error_with_half_a_surrogate_pair_is_noted(ledger):
    request = Request("e", "m", (("user", "x"),), 16)
    ledger.write(request, Reply(None, "bad \ud800"))
    assert ledger.execute("SELECT error FROM failures") == [("bad ?",)]


def test_long_asking_says_how_much_time_is_left(ledger, monkeypatch, capsys):
    monkeypatch.setattr(machine, "SECONDS_BETWEEN_LINES", 0.0)
    backend = LocalBackend(lambda request: time.sleep(0.6) or "8 7")
    ask_all(questions(*"abcd"), backend, ledger, "judging")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    for line in lines:
        assert re.fullmatch(r"judging: [1-4] of 4, 00:0\d elapsed, 00:0\d left", line), line
