"""An endpoint that misbehaves: what passes is tried again, what is final stops the run, and nothing becomes a score."""

import dataclasses
import datetime
import email.utils
import json
import logging
import socket
import sys
import time
import traceback
from types import SimpleNamespace

import pytest
from asking import CANARY, ask, count, echo, judge_at, questions
from chat_server import Answer, completion, refusal, serving
from pydantic import SecretStr

from nbutils.core import judge_settings
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm import batch, endpoint, limits, refusals
from nbutils.llm.client import Reply, StopAskingError, ask_all, ask_in_some_way
from nbutils.llm.endpoint import OpenAIBackend
from nbutils.llm.protocol import is_same_model


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


@pytest.fixture
def impatient(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(refusals, "LONGEST_BACKOFF_SECONDS", 0.01)


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 409])
def test_a_passing_error_is_tried_again(ledger, impatient, status):
    with serving(lambda number, question: refusal(status, "busy") if number < 2 else "at last") as server:
        assert ask(server, ledger, "a") == [Reply("at last", None, 7, 3, served="fake-1")]
    assert len(server.asked) == 3
    assert (count(ledger, "replies"), count(ledger, "failures")) == (1, 0)


def test_retries_are_bounded(ledger, impatient):
    with serving(lambda number, question: refusal(500, "out of order")) as server:
        (reply,) = ask(server, ledger, "a")
    assert len(server.asked) == JudgeModel.model_fields["attempts"].default == 5
    assert reply.text is None
    assert reply.error == "HTTP 500: out of order"


def test_retry_after_is_honoured(ledger):
    """Without the header the first wait is a second."""
    asked_at = []

    def busy_once(number, question):
        asked_at.append(time.monotonic())
        return refusal(429, "slow down", headers=(("Retry-After", "0.3"),)) if number == 0 else "ok"

    with serving(busy_once) as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert 0.3 <= asked_at[1] - asked_at[0] < 0.9


def complaint(status, headers):
    error = Exception("busy")
    error.status_code, error.response = status, SimpleNamespace(headers=headers)
    return error


@pytest.mark.parametrize(
    ("headers", "attempt", "expected"),
    [
        ({"retry-after": "7"}, 1, 7),
        ({"retry-after": "0.5"}, 4, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 1, 0.25),
        ({}, 1, 1),
        ({}, 2, 2),
        ({}, 9, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1, 1),
        ({"retry-after": "soon"}, 1, 1),
        ({"retry-after": "0"}, 2, 2),
        ({"retry-after": "-3"}, 1, 1),
        ({"retry-after": "nan"}, 1, 1),
        ({"retry-after": "inf"}, 1, 1),
        ({"retry-after": "9" * 400}, 1, 1),
    ],
)
def test_how_long_to_wait(headers, attempt, expected):
    assert refusals.wait_seconds(complaint(500, headers), attempt) == expected
    assert refusals.retry_after(complaint(429, headers)) == refusals.retry_after(complaint(500, headers))


def test_retry_after_as_a_date():
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    asked = refusals.retry_after(complaint(429, {"retry-after": email.utils.format_datetime(then, usegmt=True)}))
    assert 85 < asked <= 90


@pytest.mark.thorough
def test_a_date_is_honoured(ledger):
    asked_at = []

    def busy_once(number, question):
        asked_at.append(time.time())
        then = datetime.datetime.fromtimestamp(int(asked_at[0]) + 2, datetime.UTC)
        date = email.utils.format_datetime(then, usegmt=True)
        return refusal(429, "slow down", headers=(("Retry-After", date),)) if number == 0 else "ok"

    with serving(busy_once) as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert int(asked_at[0]) + 2 <= asked_at[1] < int(asked_at[0]) + 2.9


def test_an_endpoint_that_asks_for_an_hour_is_left_alone(ledger):
    answer = refusal(429, "daily limit", headers=(("Retry-After", "3600"),))
    with (
        serving(lambda number, question: answer) as server,
        pytest.raises(StopAskingError, match="asks to wait 60 minutes: run the same again then"),
    ):
        ask(server, ledger, *map(str, range(20)), concurrency=8)
    assert len(server.asked) <= limits.PROBES


def test_a_broken_connection_is_tried_again(ledger, impatient):
    with serving(lambda number, question: Answer(None) if number == 0 else "ok") as server:
        assert ask(server, ledger, "a")[0].text == "ok"


def test_one_question_that_breaks_the_connection_costs_only_itself(ledger, impatient):
    with serving(lambda number, question: Answer(None) if question == "b" else "ok") as server:
        replies = ask(server, ledger, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["ok", None, "ok"]
    assert replies[1].error.startswith("the connection broke")


SLOW = {
    "hangs": lambda number, question: time.sleep(0.6),
    "comes in drips": lambda number, question: Answer(completion("8 9"), drip=0.02),
}


@pytest.mark.parametrize("name", SLOW)
def test_an_answer_that_is_not_complete_in_time_fails(ledger, impatient, name):
    started = time.monotonic()
    with serving(SLOW[name]) as server:
        (reply,) = ask(server, ledger, "a", timeout=0.2, attempts=2)
    assert (reply.text, len(server.asked)) == (None, 2)
    assert "no complete answer within 0.2 seconds" in reply.error or reply.error.startswith("APITimeoutError")
    assert time.monotonic() - started < 2


def test_answers_that_come_twice_answer_nobody_else(ledger):
    """On a connection that is used again, the second copy would be the answer to the next question."""
    with serving(lambda number, question: Answer(completion(echo(number, question)), copies=3)) as server:
        replies = ask(server, ledger, *"abcdefgh", concurrency=1)
    assert [reply.text for reply in replies] == [f"you said {text}" for text in "abcdefgh"]


def test_answers_in_any_order_find_their_questions(ledger):
    def later_is_faster(number, question):
        time.sleep(0.2 - int(question) * 0.01)
        return echo(number, question)

    texts = [str(number) for number in range(16)]
    with serving(later_is_faster) as server:
        replies = ask(server, ledger, *texts, concurrency=16)
    assert [reply.text for reply in replies] == [f"you said {text}" for text in texts]


# --- what fails is recorded, never cached, and asked again -----------------------------------------------------------

NO_TEXT = {
    "no choices": Answer(completion("", choices=[])),
    "choices are null": Answer(completion("", choices=None)),
    "choices are no list": Answer(completion("", choices={"0": "8 9"})),
    "a null text": Answer(completion(None)),
    "a text that is none": Answer(completion(["8 9"])),
    "a null message": Answer(completion("", choices=[{"index": 0, "message": None, "finish_reason": "stop"}])),
    "status 418": refusal(418, "8 9"),
    "status 422": refusal(422, "8 9"),
}


NO_COMPLETION = {
    "an error with status 200": (Answer({"error": {"message": "8 9"}}), "an error instead of an answer: 8 9"),
    "an error that is a text": (Answer({"error": "8 9"}), "an error instead of an answer: 8 9"),
    "an empty object": (Answer({}), "the answer has no 'choices'"),
    "another object": (Answer({"status": "ok", "text": "8 9"}), "the answer has no 'choices'"),
    "HTML": (
        Answer(b"<html>8 9\nPlease log in.</html>", kind="text/html; charset=utf-8"),
        "(text/html, 31 bytes) is not JSON, or was cut short: a web page, so check base_url",
    ),
    "HTML that says it is JSON": (Answer(b"<html>8 9</html>"), "(application/json, 16 bytes) is not JSON"),
    "half a JSON document": (Answer(b'{"choices": [{"message": {"content": "8 9'), "is not JSON, or was cut short"),
    "no UTF-8": (Answer(b"\xff\xfe8 9"), "is not JSON, or was cut short"),
    "brackets without end": (Answer(b"[" * 100_000), "is not JSON, or was cut short"),
    "an empty body": (Answer(b""), "is not JSON, or was cut short"),
    "a list": (Answer([]), "not a chat completion but a list"),
    "a number": (Answer(8), "not a chat completion but a int"),
}


@pytest.mark.parametrize("name", NO_COMPLETION)
def test_what_is_no_completion_is_tried_again_and_then_fails(ledger, impatient, name):
    answer, expected = NO_COMPLETION[name]
    with serving(lambda number, question: answer if number != 2 else "8 9") as server:
        (failed,) = ask(server, ledger, "a", attempts=2)
        assert failed.text is None and expected in failed.error
        assert (count(ledger, "replies"), count(ledger, "failures")) == (0, 1)
        assert ask(server, ledger, "a", attempts=2)[0].text == "8 9"
    assert len(server.asked) == 3


@pytest.mark.parametrize(("code", "asked"), [(429, 2), ("503", 2), (500, 2), (418, 1)])
def test_the_status_in_a_body_counts(ledger, impatient, code, asked):
    """Some routers send their errors with status 200."""
    error = Answer({"error": {"message": "busy", "code": code}})
    with serving(lambda number, question: error if number == 0 else "ok") as server:
        (reply,) = ask(server, ledger, "a")
    assert (reply.text == "ok", len(server.asked)) == (asked == 2, asked)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        [],
        {"prompt_tokens": -5, "completion_tokens": "x"},
        {"prompt_tokens": 10**40},
        {"prompt_tokens": 1.5},
    ],
)
def test_strange_counts_are_no_counts(ledger, usage):
    with serving(lambda number, question: Answer(completion("ok", usage=usage))) as server:
        assert ask(server, ledger, "a") == [Reply("ok", None, 0, 0)]


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


# --- what stops the run ----------------------------------------------------------------------------------------------


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
        (refusal(400, "unknown parameter"), "check model 'fake-1', base_url and the judge's settings"),
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


FINAL = {
    "a wrong key": refusal(401, "no"),
    "no quota": refusal(429, "You exceeded your current quota", "insufficient_quota"),
    "no such model": refusal(404, "The model `fake-1` does not exist", "model_not_found"),
    "a wrong key with status 200": Answer({"error": {"message": "no", "code": 401}}),
    "no credit with status 200": Answer({"error": {"message": "Insufficient credits", "code": 402}}),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_run_that_cannot_work_stops_within_three_requests(ledger, name):
    def slowly(number, question):
        time.sleep(0.05)
        return FINAL[name]

    with serving(slowly) as server, pytest.raises(StopAskingError):
        ask(server, ledger, *map(str, range(300)), concurrency=64)
    assert len(server.asked) <= 3
    assert count(ledger, "replies") == 0


@pytest.mark.thorough
def test_a_refusal_gives_its_place_to_nobody(ledger):
    """A server that refuses at once: a race that a third call would win now and then."""
    with serving(lambda number, question: FINAL["a wrong key"]) as server:
        for _ in range(25):
            before = len(server.asked)
            with pytest.raises(StopAskingError):
                ask(server, ledger, *map(str, range(40)))
            assert len(server.asked) - before <= limits.PROBES


def test_what_is_in_flight_is_waited_for_when_the_run_stops(ledger):
    """It is being paid for."""

    def script(number, question):
        if question == "0":
            return "ok"
        time.sleep(0.1 if question == "7" else 0.4)
        return refusal(401, "revoked") if question == "7" else "late"

    with serving(script) as server, pytest.raises(StopAskingError, match="HTTP 401"):
        ask(server, ledger, *map(str, range(30)), concurrency=8)
    kept = {text for (text,) in ledger.execute("SELECT reply FROM replies")}
    assert kept == {"ok", "late"}
    assert count(ledger, "replies") == len(server.asked) - 1, "all but the refused one"
    assert len(server.asked) <= 9


def test_an_outage_stops_the_run(ledger, impatient):
    with (
        serving(lambda number, question: refusal(500, "on fire") if number > 3 else "ok") as server,
        pytest.raises(StopAskingError, match=r"the last 10 calls failed \(HTTP 500: on fire.*run again"),
    ):
        ask(server, ledger, *map(str, range(100)), concurrency=4, attempts=1)
    assert count(ledger, "failures") >= endpoint.OUTAGE
    assert len(server.asked) <= 4 + endpoint.OUTAGE + 4


def test_faults_between_answers_are_no_outage(ledger):
    def every_second(number, question):
        return "ok" if int(question) % 2 else refusal(500, "unlucky")

    with serving(every_second) as server:
        replies = ask(server, ledger, *map(str, range(2 * endpoint.OUTAGE + 4)), concurrency=1, attempts=1)
    assert sum(reply.text is None for reply in replies) == endpoint.OUTAGE + 2


def test_many_texts_that_are_too_long_are_no_outage(ledger):
    with serving(lambda number, question: refusal(400, "maximum context length")) as server:
        replies = ask(server, ledger, *map(str, range(30)))
    assert [reply.text for reply in replies] == [None] * 30
    assert len(server.asked) == 30


def test_a_request_above_the_allowance_is_given_up_at_once(ledger):
    said = "Request too large for fake-1 on tokens per min (TPM): Limit 10000, Requested 12024."
    answer = refusal(429, said, "rate_limit_exceeded")
    with serving(lambda number, question: answer if question == "b" else "ok") as server:
        replies = ask(server, ledger, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["ok", None, "ok"]
    assert len(server.asked) == 3


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
    monkeypatch.setattr(refusals, "wait_seconds", lambda error, attempt: waits.append(attempt) or 0.0)
    with serving(echo) as server:
        backend = OpenAIBackend(judge_at(server.url))
        ask_all(questions("a"), backend, ledger, "test")
    with pytest.raises(StopAskingError, match="cannot be reached"):
        ask_all(questions("b"), backend, ledger, "test")
    assert waits[:4] == [1, 2, 3, 4]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_the_key_appears_nowhere(tmp_path, ledger, impatient, capfd, caplog):
    """Servers quote the key in all kinds of complaints."""
    quoting = [refusal(500, f"bad {CANARY}")] * 5 + [refusal(422, f"{CANARY}?"), refusal(400, f"no parameter {CANARY}")]
    told = []
    with serving(lambda number, question: quoting[number]) as server:
        told += ask(server, ledger, "a", "b", concurrency=1)
        with pytest.raises(StopAskingError) as stopped:
            ask(server, ledger, "c")
    told += traceback.format_exception(stopped.value)
    assert [reply.text for reply in told[:2]] == [None, None]
    assert "bad [LIM_TEST_KEY]" in told[0].error and "no parameter [LIM_TEST_KEY]" in str(stopped.value)
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
    assert judge_settings.read_key(judge_at(url)) == "no-key"


@pytest.mark.parametrize("url", [None, "https://api.example.com/v1", "https://localhost.example.com/v1"])
def test_a_missing_key_is_named(ledger, monkeypatch, url):
    monkeypatch.setenv("LIM_TEST_KEY", "")
    with pytest.raises(InputError) as refused:
        ask_all(questions("a"), OpenAIBackend(judge_at(url)), ledger, "test")
    assert str(refused.value) == "judge 'fake' needs a key: set the environment variable LIM_TEST_KEY"


def test_what_is_in_the_ledger_needs_no_key(ledger, monkeypatch):
    remote = judge_at("https://api.example.com/v1")
    for question in questions("a", "b"):
        ledger.write(question, Reply("paid for"))
    monkeypatch.delenv("LIM_TEST_KEY")
    replies = ask_all(questions("a", "b"), OpenAIBackend(remote), ledger, "test")
    assert [reply.text for reply in replies] == ["paid for"] * 2
    with pytest.raises(InputError, match="needs a key"):
        ask_all(questions("a", "c"), OpenAIBackend(remote), ledger, "test")


def test_a_server_that_echoes_the_key_does_not_get_it_into_the_ledger(tmp_path, ledger):
    with serving(lambda number, question: f"8 9 and your key is {CANARY}") as server:
        assert ask(server, ledger, "a")[0].text == "8 9 and your key is [LIM_TEST_KEY]"
    assert not any(CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_words_like_the_stand_in_for_a_key_stay(ledger, monkeypatch):
    monkeypatch.delenv("LIM_TEST_KEY")
    with serving(lambda number, question: "there is no-key here") as server:
        assert ask(server, ledger, "a")[0].text == "there is no-key here"
    assert server.keys == ["Bearer no-key"]


# --- who has answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "served", "expected"),
    [
        ("gpt-4", "gpt-4", True),
        ("gpt-4", "GPT-4-0613", True),
        ("gpt-4-turbo", "gpt-4-turbo-2024-04-09", True),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("m", "vendor/m:2", True),
        ("/models/smol", "/models/smol@main", True),
        ("m", "m:free", False),
        ("gpt-4", "gpt-4o", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-3.5-turbo", False),
        ("m.1", "mx1", False),
    ],
)
def test_names_of_one_model(asked, served, expected):
    assert is_same_model(asked, served) is expected


def test_an_answer_of_another_model_is_no_answer(ledger, impatient):
    """Once the endpoint has shown that it knows the model by its name."""

    def script(number, question):
        return Answer(completion("9 1", model="cheap-7b" if number in (1, 2) or question == "c" else "fake-1-0613"))

    with serving(script) as server:
        replies = ask(server, ledger, *"abcd", concurrency=1, attempts=3)
    assert [reply.text for reply in replies] == ["9 1", "9 1", None, "9 1"]
    assert replies[2].error == "'cheap-7b' has answered in place of 'fake-1'"
    assert server.questions() == list("abbbcccd") and count(ledger, "replies") == 3


def test_other_models_that_answered_first_are_taken_back(ledger, impatient):
    """The first answers come from elsewhere; the third shows that the endpoint knows the name."""

    def script(number, question):
        return Answer(completion("9 1", model="cheap-7b" if number < 2 else "fake-1"))

    with serving(script) as server:
        replies = ask(server, ledger, *"abc", concurrency=1)
        assert [reply.text for reply in replies] == [None, None, "9 1"]
        assert {reply.error for reply in replies[:2]} == {"'cheap-7b' has answered in place of 'fake-1'"}
        assert (count(ledger, "replies"), count(ledger, "failures")) == (1, 2)
        assert [reply.text for reply in ask(server, ledger, *"abc")] == ["9 1"] * 3
    assert server.questions() == list("abcab")


def test_the_name_is_remembered_by_the_ledger(ledger, impatient):
    with serving(lambda number, question: Answer(completion("9 1", model="fake-1" if number == 0 else "x"))) as server:
        assert ask(server, ledger, "a")[0].text == "9 1"
        assert ask(server, ledger, "b", attempts=2)[0].text is None
    assert server.questions() == ["a", "b", "b"]


def test_an_alias_is_told_once(ledger, capfd):
    with serving(lambda number, question: Answer(completion("9 1", model="served-name"))) as server:
        assert [reply.text for reply in ask(server, ledger, *"abc")] == ["9 1"] * 3
    assert capfd.readouterr().err.count("3 answers say: 'served-name' has answered in place of 'fake-1'") == 1


QUOTING = {
    "an answer": "ok",
    "a wrong key": refusal(401, f"wrong: {CANARY}"),
    "no such model": refusal(404, f"no model for {CANARY}"),
    "a fault": refusal(500, CANARY),
    "a broken connection": Answer(None),
}


@pytest.mark.parametrize("name", QUOTING)
def test_the_key_is_in_no_log_and_no_local_variable_of_a_traceback(ledger, impatient, caplog, name):
    caplog.set_level(logging.DEBUG)
    with serving(lambda number, question: QUOTING[name]) as server:
        try:
            told = repr(ask(server, ledger, "a", attempts=1))
        except StopAskingError as stopped:
            told = "".join(traceback.TracebackException.from_exception(stopped, capture_locals=True).format())
    assert CANARY not in told + caplog.text
    assert len(server.asked) == 1


@pytest.mark.parametrize("key", ["sk-with a space-1234", "sk-zwei\nZeilen-1234", "sk-schlüssel-1234"])
def test_a_key_that_cannot_be_one_is_not_shown(ledger, monkeypatch, key):
    monkeypatch.setenv("LIM_TEST_KEY", key)
    with pytest.raises(InputError) as refused:
        ask_all(questions("a"), OpenAIBackend(judge_at("http://127.0.0.1:1/v1")), ledger, "test")
    assert str(refused.value) == "the key in LIM_TEST_KEY holds a space or a foreign character: copy it anew"


def test_a_key_from_colabs_secrets(monkeypatch):
    class SecretError(Exception):
        pass

    def get(name):
        if name != "LIM_TEST_KEY":
            raise SecretError
        return CANARY

    errors = dict.fromkeys(("SecretNotFoundError", "NotebookAccessError", "TimeoutException"), SecretError)
    userdata = SimpleNamespace(get=get, **errors)
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=SimpleNamespace(userdata=userdata)))
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(userdata=userdata))
    monkeypatch.delenv("LIM_TEST_KEY")
    assert judge_settings.read_key(judge_at("https://judge.example/v1")) == CANARY
    with pytest.raises(InputError, match="set the environment variable OTHER_KEY"):
        judge_settings.read_key(judge_at("https://judge.example/v1", key_variable="OTHER_KEY"))


URLS = [
    "api.example.com/v1",
    "localhost:8000/v1",
    "http//localhost/v1",
    "ftp://localhost/v1",
    "http://",
    "http:///v1",
    "http://local host/v1",
    " http://localhost/v1",
    "http://localhost:port/v1",
    "http://localhost:99999999/v1",
    f"https://user:{CANARY}@host/v1",
    f"https://host/v1?api_key={CANARY}",
    f"https://host/{CANARY}/v1",
    "https://host/v1#part",
    "",
]


@pytest.mark.parametrize("number", range(len(URLS)))
def test_a_malformed_url_is_one_line_that_does_not_repeat_it(number):
    with pytest.raises(InputError, match=r"^key 'base_url': ") as refused:
        JudgeModel.build(name="x", kind="openai", model="m", base_url=URLS[number])
    assert CANARY not in str(refused.value) and "\n" not in str(refused.value)
    assert CANARY not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "name", ["hf-internal-testing/tiny-random-LlamaForCausalLM", "skeptical-judge-of-answers", "pkg-server-internal-1"]
)
def test_ordinary_names_are_no_keys(name):
    assert JudgeModel.build(name="x", kind="openai", model=name).model == name


@pytest.mark.parametrize("field", ["name", "model", "key_variable"])
@pytest.mark.parametrize("value", [CANARY, "gsk_0123456789abcdefghij", "hf_0123456789abcdefghij"])
def test_a_setting_that_looks_like_a_key_is_refused_and_not_shown(field, value):
    fields = {"name": "x", "kind": "openai", "model": "m"} | {field: value}
    with pytest.raises(InputError, match=f"^key '{field}': ") as refused:
        JudgeModel.build(**fields)
    with pytest.raises(ValueError, match=field) as shown:
        JudgeModel(**fields)
    assert value not in str(refused.value) + str(shown.value)


@pytest.mark.parametrize(
    "url", [None, "http://localhost:8000/v1", "https://h-1.example.com:8443/a/b_c/v1/", "http://[::1]:80"]
)
def test_ordinary_urls_are_taken(url):
    assert judge_at(url).base_url == url


def test_the_endpoint_is_what_the_settings_say(monkeypatch):
    """Not what a variable of the openai package says, which no key of the ledger would know of."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    client = batch.connect(judge_at(None), SecretStr("x"))
    assert str(client.base_url) == "https://api.openai.com/v1/"


# --- what a server says ----------------------------------------------------------------------------------------------

WORDS = {
    "FastAPI": ({"detail": "no such thing"}, "no such thing"),
    "locations": ({"detail": [{"loc": ["body", "top_k"], "msg": "too high", "type": "x"}]}, "body.top_k: too high"),
    "a text": ({"error": "a bad day"}, "a bad day"),
    "a list of errors": ({"errors": [{"message": "one"}, {"message": "two"}]}, "one; two"),
    "a bare list": ([{"error": {"message": "in a list"}}], "in a list"),
    "plain text": (b"upstream is gone", "upstream is gone"),
    "a web page": (b"<html><title>502 Bad Gateway</title><body>x</body></html>", "a web page: 502 Bad Gateway"),
    "a router": ({"error": {"message": "Provider error", "metadata": {"raw": "inner"}}}, "Provider error: inner"),
    "nothing": (b"", "without a word"),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_servers_words_are_shown(ledger, name):
    body, expected = WORDS[name]
    with serving(lambda number, question: Answer(body, 418)) as server:
        (reply,) = ask(server, ledger, "a")
    assert reply.error == f"HTTP 418: {expected}"


SHARED = {
    "an unknown model": (Answer({"detail": "Model 'x' not found"}, 404), "check model 'fake-1'"),
    "a proxy's unknown model": (refusal(400, "Invalid model name passed in model=x"), "check model 'fake-1'"),
    "a wrong path": (Answer({"detail": "Not Found"}, 404), "base_url usually ends in /v1"),
    "a limit above the server's": (refusal(400, "max_tokens is too large: 16. At most 8."), "a lower --max-tokens"),
    "a limit above the context": (
        refusal(400, "This model's maximum context length is 8 tokens. However, you requested 30 tokens."),
        "a lower --max-tokens",
    ),
    "a temperature": (refusal(400, "Unsupported value: 'temperature' does not support 0.0"), "--temperature"),
    "another place": (
        Answer(b"", 301, headers=(("Location", "https://new.example/v1/x"),)),
        "https://new.example/v1/x",
    ),
    "a budget": (refusal(400, "Budget has been exceeded! Current cost: 1"), "quota of the key"),
    "a budget behind 403": (refusal(403, "Key limit exceeded (total limit)"), "quota of the key"),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_fault_of_all_calls_stops_the_run_and_names_the_mend(ledger, name):
    answer, expected = SHARED[name]
    with serving(lambda number, question: answer) as server, pytest.raises(StopAskingError) as stopped:
        ask(server, ledger, *map(str, range(30)), concurrency=1)
    assert expected in str(stopped.value) and len(server.asked) == 1


@pytest.mark.parametrize(
    ("answered", "expected", "asked"),
    [(0, "refuses one call after the other", endpoint.SAME_REFUSALS), (2, "the last 10 calls failed", 12)],
)
def test_a_refusal_that_nobody_knows_stops_after_a_few(ledger, answered, expected, asked):
    with (
        serving(lambda number, question: refusal(400, "gnarf") if number >= answered else "ok") as server,
        pytest.raises(StopAskingError, match=f"{expected} .*gnarf"),
    ):
        ask(server, ledger, *map(str, range(30)), concurrency=1)
    assert len(server.asked) == asked


def test_a_few_prompts_in_a_row_that_are_refused_in_unknown_words_stop_nothing(ledger):
    with serving(lambda number, question: refusal(400, "gnarf") if 2 <= number < 10 else "ok") as server:
        replies = ask(server, ledger, *map(str, range(14)), concurrency=1)
    assert [reply.text for reply in replies] == ["ok"] * 2 + [None] * 8 + ["ok"] * 4


NEVER_ANSWERED = {
    "a web page": (Answer(b"<html><title>Web UI</title>", kind="text/html"), "base_url, it usually ends in /v1", 6),
    "another service": (Answer({"status": "ok"}), "base_url, it usually ends in /v1", 6),
    "a wrong path with 200": (Answer({"error": "Unexpected endpoint or method. (POST /x)"}), "ends in /v1", 1),
    "no key with 200": (Answer({"detail": "Not authenticated"}), "refuses the key in LIM_TEST_KEY: correct it", 1),
    "a key with 400": (refusal(400, "API key not valid."), r"refuses the key in LIM_TEST_KEY \(HTTP 400\)", 1),
    "a proxy's password": (Answer(b"", 407), "set HTTPS_PROXY", 1),
    "no memory": (refusal(500, "model requires more system memory (9 GiB) than"), "choose a smaller model", 1),
    "another model only": (refusal(400, "Server is pinned to 'x'; requested 'y'."), "check model 'fake-1'", 1),
    "a spent month": (refusal(429, "Monthly usage limit reached"), "quota of the key", 1),
    "no balance": (refusal(429, "Your account balance is insufficient"), "quota of the key", 1),
    "too many, for ever": (refusal(429, "later"), "with a lower --concurrency", endpoint.SAME_REFUSALS * 20),
    "out of order": (refusal(500, "boom"), "the last 5 calls failed", endpoint.FIRST_OUTAGE * 5),
    "a limit": (refusal(400, "max_tokens: 16 > 8, which is the maximum allowed number of output tokens"), "lower", 1),
}


@pytest.mark.parametrize("name", NEVER_ANSWERED)
def test_what_was_never_answered_stops_after_a_few(ledger, impatient, name):
    answer, expected, asked = NEVER_ANSWERED[name]
    with serving(lambda number, question: answer) as server, pytest.raises(StopAskingError, match=expected):
        ask(server, ledger, *map(str, range(30)), concurrency=1)
    assert len(server.asked) == asked


OF_ONE = [
    refusal(422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
    refusal(400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
    refusal(400, "Invalid request: Your request exceeded model token limit: 8192"),
    refusal(400, "'max_tokens' is too large: 16. This model's maximum context length is 4096 tokens and your request "
            "has 4090 input tokens"),
    refusal(400, "the request exceeds the available context size. try increasing the context size"),
    refusal(500, "input is too large to process. increase the physical batch size"),
    refusal(400, "Trying to keep the first 9000 tokens when context the overflows."),
    Answer(b"<html><title>413 Request Entity Too Large</title></html>", 413, kind="text/html"),
    refusal(403, "Your input was flagged by moderation"),
    refusal(400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy."),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(OF_ONE)))
def test_what_one_text_meets_never_stops_a_run(ledger, number):
    with serving(lambda _, question: OF_ONE[number] if int(question) % 2 else "ok") as server:
        replies = ask(server, ledger, *map(str, range(26)), concurrency=1)
    assert [reply.text for reply in replies] == ["ok", None] * 13
    assert {reply.reason for reply in replies[1::2]} == {"filter" if number > 7 else "overflow"}
    assert len(server.asked) == 26, "no second attempt"


NO_SYSTEM = [
    "System role not supported",
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    "This model doesn't support system messages. Try again without a system prompt",
    "Unexpected role 'system'",
    "invalid role: system",
]


@pytest.mark.parametrize("said", NO_SYSTEM)
def test_a_model_that_takes_no_system_message_gets_it_before_the_question(ledger, capfd, said):
    def script(number, question):
        return "ok" if question == "Be brief.\n\na" else refusal(400, said)

    with serving(script) as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert len(server.asked) == 2 and server.asked[1]["messages"] == [{"role": "user", "content": "Be brief.\n\na"}]
    assert "takes no system message" in capfd.readouterr().err


def test_the_limits_other_name_is_learned(ledger):
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    script = lambda number, question: refusal(400, said) if number == 0 else "ok"  # noqa: E731
    with serving(script) as server:
        assert [reply.text for reply in ask(server, ledger, "a", "b", concurrency=1)] == ["ok", "ok"]
    assert ["max_completion_tokens" in body for body in server.asked] == [False, True, True]


def test_a_redirect_on_the_same_host_is_followed_once(ledger):
    def script(number, question):
        return Answer(b"", 307, headers=(("Location", "/v1/chat/completions/"),)) if number == 0 else "ok"

    with serving(script) as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert len(server.asked) == 2


# --- reasoning and empty answers -------------------------------------------------------------------------------------


def choice(content, finish="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    return Answer(completion("", choices=[{"index": 0, "message": message, "finish_reason": finish}]))


THINKING = {
    "tags": choice("<think>\nThe answer says 1 10.\n</think>\n\n8 9"),
    "a closing tag alone": choice("The answer says 1 10.\n</think>\n\n8 9"),
    "a field": choice("8 9", reasoning_content="The answer says 1 10."),
    "another field": choice("8 9", reasoning="The answer says 1 10."),
    "parts": choice([
        {"type": "thinking", "thinking": [{"type": "text", "text": "The answer says 1 10."}]},
        {"type": "text", "text": "8 9"},
    ]),
    "channels": choice(
        "<|channel|>analysis<|message|>The answer says 1 10.<|end|><|start|>assistant<|channel|>final<|message|>8 9"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THINKING)
def test_reasoning_is_set_aside_and_kept(ledger, name):
    with serving(lambda number, question: THINKING[name]) as server:
        first, again = ask(server, ledger, "a")[0], ask(server, ledger, "a")[0]
    assert (first.text.strip(), again.text.strip()) == ("8 9", "8 9") and len(server.asked) == 1
    assert "The answer says 1 10." in first.reasoning and again.reasoning == first.reasoning


EMPTY = {
    "withheld": (choice(None, "content_filter"), "filter"),
    "an empty text": (choice(""), "empty"),
    "a blank text": (choice(" \n "), "empty"),
    "thoughts without an end": (choice("<think>Let me see", "length"), "length"),
    "only a field of thoughts": (choice(None, "length", reasoning_content="Let me see"), "length"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_that_was_billed_is_kept(ledger, name):
    answer, reason = EMPTY[name]
    with serving(lambda number, question: answer if number == 0 else "8 9") as server:
        for _ in range(2):
            (reply,) = ask(server, ledger, "a")
            assert (reply.text, reply.reason) == ("", reason)
        assert len(server.asked) == 1
        assert ledger.forget_empty(questions("a")) == 1
        assert ask(server, ledger, "a")[0].text == "8 9"


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        (choice(None, "content_filter"), "", "filter"),
        (choice("", "SAFETY"), "", "filter"),
        (choice("The first", "content_filter"), "The first", "filter"),
        (choice("The first", "error"), None, ""),
        (choice(None, refusal="I will not."), "I will not.", "refusal"),
        (choice("8 9 becau", "length"), "8 9 becau", "length"),
    ],
)
def test_how_an_answer_ended_is_told(ledger, answer, text, reason):
    with serving(lambda number, question: answer) as server:
        (reply,) = ask(server, ledger, "a")
    assert (reply.text, reply.reason) == (text, reason)


def event(**choice):
    return f"data: {json.dumps({'id': 's', 'choices': [{'index': 0, **choice}]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"
THOUGHT, BEGUN = event(delta={"role": "assistant", "reasoning_content": "Hm."}), event(delta={"content": "8 "})
ENDED, CUT = event(delta={"content": "9"}, finish_reason="stop"), event(delta={"content": "9"}, finish_reason="length")
STREAMS = {
    "whole": (THOUGHT + BEGUN + ENDED + DONE, Reply("8 9", reasoning="Hm.")),
    "comments": (b": wait\n\n" + BEGUN + b": wait\n\n" + ENDED, Reply("8 9")),
    "at its limit": (BEGUN + CUT + DONE, Reply("8 9", reason="length")),
    "one object": (event(message={"content": "8 9"}, finish_reason="stop") + DONE, Reply("8 9")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_nobody_asked_for_is_read(ledger, name):
    content, expected = STREAMS[name]
    with serving(lambda number, question: Answer(content, kind="text/event-stream")) as server:
        assert ask(server, ledger, "a") == [expected]
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [BEGUN, BEGUN + b'data: {"choi', b"data: 8 9\n\n" + DONE, DONE])
def test_half_a_stream_is_no_answer(ledger, impatient, content):
    with serving(lambda number, question: Answer(content, kind="text/event-stream")) as server:
        (reply,) = ask(server, ledger, "a", attempts=1)
    assert reply.text is None and "is not JSON, or was cut short" in reply.error


def test_a_damaged_character_costs_no_answer(ledger):
    content = json.dumps(completion("8 9\nXX")).encode().replace(b"XX", b"\xff\xfe")
    with serving(lambda number, question: Answer(b"\xef\xbb\xbf" + content)) as server:
        assert ask(server, ledger, "a")[0].text == "8 9\n\ufffd\ufffd"


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("header", ["x", "x" * 30_000])
def test_a_success_is_read_whatever_its_head(ledger, status, header):
    with serving(lambda number, question: Answer(completion("8 9"), status, (("X-Policy", header),))) as server:
        assert ask(server, ledger, "a")[0].text == "8 9"


@pytest.mark.parametrize(
    "choice",
    [{"text": "8 9"}, {"delta": {"content": "8 9"}}, {"message": {"content": {"type": "text", "text": "8 9"}}}],
)
def test_other_places_of_a_text(ledger, choice):
    with serving(lambda number, question: Answer(completion("", choices=[choice]))) as server:
        assert ask(server, ledger, "a")[0].text == "8 9"


FAULTS = {"boom": 2, "Connection error. Cannot connect to host": 1, "upstream is overloaded": 1}


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_without_words_is_tried_without_the_format(ledger, impatient, said):
    """Some servers fail inside over a schema that they do not know; an outage is no such thing."""
    in_words = questions("a")[0]
    with_format = dataclasses.replace(in_words, options={"response_format": {"type": "json_schema"}})
    with serving(lambda number, question: refusal(500, said)) as server:
        backend = OpenAIBackend(judge_at(server.url, attempts=1))
        ask_in_some_way([[with_format, in_words]], backend, ledger, "test")
        assert len(server.asked) == FAULTS[said]
        ledger.write(in_words, Reply("8 9"))
        ledger.execute("DELETE FROM notes")
        backend = OpenAIBackend(judge_at(server.url, attempts=1))
        other = [dataclasses.replace(way, max_tokens=9) for way in (with_format, in_words)]
        ask_in_some_way([other], backend, ledger, "test")
    assert len(server.asked) == FAULTS[said] + 1, "a model that has answered before is not asked in another way"


def test_a_format_refused_by_a_fault_is_tried_once(ledger, impatient):
    def script(number, question):
        is_first = "response_format" in server.asked[number]
        return refusal(500, "JSON schema conversion failed: unsupported") if is_first else "8 9"

    in_words = questions("a")[0]
    with_format = dataclasses.replace(in_words, options={"response_format": {"type": "json_schema"}})
    with serving(script) as server:
        (reply,) = ask_in_some_way([[with_format, in_words]], OpenAIBackend(judge_at(server.url)), ledger, "test")
    assert reply.text == "8 9" and len(server.asked) == 2


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2])
def test_connections_are_used_again_where_answers_have_ids(ledger, copies):
    """With an answer that comes twice, no copy is taken for the answer to the next question."""

    def script(number, question):
        return Answer(completion(f"you said {question}", id=f"c{number}"), copies=copies if number > 5 else 1)

    with serving(script) as server:
        replies = ask(server, ledger, *map(str, range(30)), concurrency=1)
    assert [reply.text for reply in replies] == [f"you said {number}" for number in range(30)]
    assert len(server.ports) < 8 if copies == 1 else len(server.ports) > 20


def test_a_late_copy_is_no_answer(ledger, impatient):
    """The server writes the second copy while the next question is on its way."""
    with serving(
        lambda number, question: Answer(completion(question, id=f"c{number}"), copies=2, pause=0.05)
    ) as server:
        replies = ask(server, ledger, *map(str, range(8)), concurrency=1)
    assert [reply.text for reply in replies] == [str(number) for number in range(8)]


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(ledger, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(echo) as server:
        assert ask(server, ledger, "a")[0].text == "you said a"


def test_one_server_under_two_names_is_asked_once(ledger):
    spelled = [f"http://{host}:{port}/v1{slash}" for host, port, slash in
               [("localhost", 8000, ""), ("127.0.0.1", 9999, ""), ("[::1]", 1, "/")]]  # fmt: skip
    first, *others = (questions("a")[0].__class__(url, "m", (("user", "a"),), 16) for url in spelled)
    ledger.write(first, Reply("paid for"))
    assert [ledger.find_answers([other]) for other in others] == [{other.key: Reply("paid for")} for other in others]
    elsewhere = questions("a")[0].__class__("http://localhost:8000/v2", "m", (("user", "a"),), 16)
    assert ledger.find_answers([elsewhere]) == {}


def test_answers_under_the_old_key_of_a_local_server_stay(ledger):
    request = questions("a")[0].__class__("http://localhost:8000/v1", "m", (("user", "a"),), 16)
    ledger.write(request, Reply("paid for"))
    ledger.execute("UPDATE replies SET key = ?", [request.key])
    assert request.stored_key != request.key
    assert ledger.find_answers([request]) == {request.key: Reply("paid for")}


def test_the_first_unreadable_replies_stop_the_run(ledger):
    with (
        serving(lambda number, question: "Hmm.") as server,
        pytest.raises(StopAskingError, match=r"first 20 .*'Hmm\.'"),
    ):
        ask_all(
            questions(*map(str, range(90))),
            OpenAIBackend(judge_at(server.url, concurrency=4)),
            ledger,
            "test",
            lambda request, reply: reply.text == "8 9",
        )
    assert 20 <= count(ledger, "replies") <= 24


def test_timeouts_lower_the_number_in_flight(ledger, impatient):
    with serving(lambda number, question: time.sleep(0.5) if number in (3, 4, 5, 6) else "ok") as server:
        backend, seen = OpenAIBackend(judge_at(server.url, concurrency=8, timeout=0.2)), []
        real = limits.Throttle.slow_down
        limits.Throttle.slow_down = lambda self, call: (real(self, call), seen.append(self.limit))[0]
        try:
            ask_all(questions(*map(str, range(20))), backend, ledger, "test")
        finally:
            limits.Throttle.slow_down = real
    assert seen and seen[0] == 4


def test_what_is_waited_for_is_told(ledger, monkeypatch, capfd):
    monkeypatch.setattr(endpoint, "TELLING_SECONDS", 0.2)
    with serving(lambda number, question: refusal(503, "Loading model") if number == 0 else "ok") as server:
        assert ask(server, ledger, "a")[0].text == "ok"
    assert "waiting for the endpoint: 1 calls are made again (HTTP 503: Loading model)" in capfd.readouterr().err
