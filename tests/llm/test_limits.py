"""How many calls are in flight, how fast they start, what they may cost: against real servers with limits."""

import asyncio
import threading
import time

import pytest
from asking import CANARY, ask, count, echo, judge_at, questions
from chat_server import Answer, completion, refusal, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.core.errors import InputError
from nbutils.llm import limits
from nbutils.llm.client import StopAskingError, ask_all
from nbutils.llm.endpoint import OpenAIBackend
from nbutils.llm.limits import Budget, Pace, Price, Throttle


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", CANARY)


class Counting:
    """A script that counts the calls in flight and notes when each came."""

    def __init__(self, seconds, most_allowed=None):
        self.in_flight, self.most, self.times, self.refusals = 0, 0, [], 0
        self._seconds, self._allowed, self._lock = seconds, most_allowed, threading.Lock()

    def __call__(self, number, question):
        with self._lock:
            self.times.append(time.monotonic())
            if self._allowed and self.in_flight >= self._allowed:
                self.refusals += 1
                return refusal(429, "too many", headers=(("Retry-After", "0.05"),))
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        time.sleep(self._seconds)
        with self._lock:
            self.in_flight -= 1
        return echo(number, question)


def texts_of(n):
    return [str(number) for number in range(n)]


# --- concurrency ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "concurrency", [pytest.param(1, marks=pytest.mark.thorough), 4, pytest.param(12, marks=pytest.mark.thorough)]
)
def test_as_many_calls_in_flight_as_set(ledger, concurrency):
    server_side = Counting(0.4)  # long beside the time that a busy machine takes to open twelve connections
    with serving(server_side) as server:
        ask(server, ledger, *texts_of(concurrency * 3), concurrency=concurrency)
    assert server_side.most == concurrency


@pytest.mark.thorough
def test_until_the_first_answer_only_a_few_go_ahead(ledger):
    server_side = Counting(0.15)
    with serving(server_side) as server:
        ask(server, ledger, *texts_of(40), concurrency=20)
    first = server_side.times[0]
    assert sum(at < first + 0.14 for at in server_side.times) == limits.PROBES
    assert sum(at < first + 0.29 for at in server_side.times) >= 15


@pytest.mark.thorough
def test_a_slow_first_answer_holds_up_nobody(ledger, monkeypatch):
    monkeypatch.setattr(limits, "PROBE_SECONDS", 0.05)
    server_side = Counting(0.4)
    with serving(server_side) as server:
        ask(server, ledger, *texts_of(8), concurrency=8)
    assert server_side.times[-1] - server_side.times[0] < 0.35


@pytest.mark.thorough
def test_a_server_with_fewer_places_is_found_out(ledger):
    """64 in flight against 6 places: halved until it fits; everything is answered, and the places stay in use."""
    server_side = Counting(0.02, most_allowed=6)
    with serving(server_side) as server:
        replies = ask(server, ledger, *texts_of(150), concurrency=64)
    assert [reply.text for reply in replies] == [f"you said {text}" for text in texts_of(150)]
    assert server_side.most >= 4
    assert server_side.refusals < 150
    assert count(ledger, "failures") == 0


@pytest.mark.thorough
def test_a_storm_of_refusals_passes(ledger):
    """For half a second every call is told to come back."""
    began = time.monotonic()

    def storm(number, question):
        over = time.monotonic() - began > 0.5
        return echo(number, question) if over else refusal(429, "storm", headers=(("Retry-After", "0.1"),))

    with serving(storm) as server:
        replies = ask(server, ledger, *texts_of(60), concurrency=32)
    assert all(reply.text for reply in replies)
    assert len(server.asked) < 60 + 40, "while it lasts, hardly anybody asks"


def throttled(steps, **options):
    """The limit after each step: "+" an answer, "-" a refusal of a call that starts now."""

    async def run():
        judge = judge_at("http://127.0.0.1:1/v1", **{"concurrency": 64} | options)
        throttle, seen = Throttle(judge, Budget(judge)), []
        (request,) = questions("a")
        for step in steps:
            call = limits.Call(request, 0.0, started=asyncio.get_running_loop().time() + 1e-9)
            throttle.answered(call) if step == "+" else throttle.refused(call, 0.001)
            seen.append(throttle.limit)
            await asyncio.sleep(0.001)
        return seen

    return asyncio.run(run())


def test_a_refusal_halves_and_answers_give_back():
    assert throttled("+-") == [64, 32]
    assert throttled("+---------") == [64, 32, 16, 8, 4, 2, 1, 1, 1, 1]
    assert throttled("+-" + "+" * 4)[-1] == 33
    assert throttled("+-" + "+" * 500)[-1] == 64, "and no more than the setting"
    assert throttled("-" + "+" * 4) == [1, 1.25, 1.5, 1.75, 2], "a refused probe opens nothing at once"


def test_calls_that_were_in_flight_together_halve_once():
    async def run():
        judge = judge_at("http://127.0.0.1:1/v1", concurrency=64)
        throttle = Throttle(judge, Budget(judge))
        (request,) = questions("a")
        calls = [limits.Call(request, 0.0, started=asyncio.get_running_loop().time()) for _ in range(40)]
        throttle.answered(calls[0])
        await asyncio.sleep(0.001)
        for call in calls:
            throttle.refused(call, 0.001)
        return throttle.limit

    assert asyncio.run(run()) == 32


# --- allowances ----------------------------------------------------------------------------------------------------


@given(
    per_minute=st.integers(1, 150),
    late=st.lists(st.floats(0, 3, allow_nan=False), min_size=2, max_size=200),
)
@settings(max_examples=60, deadline=None)
def test_no_minute_holds_more_starts_than_allowed(per_minute, late):
    """Whatever the delays between the bookings are."""
    pace, now, starts = Pace(per_minute), 1000.0, []
    for delay in late:
        starts.append(max(now, pace.book(now)))
        now = starts[-1] + delay
    for first, start in enumerate(starts):
        assert sum(start <= other < start + 60 for other in starts[first:]) <= per_minute
    if not any(late):
        assert starts[-1] - starts[0] == pytest.approx((len(late) - 1) * limits.MARGIN * 60 / per_minute)


@pytest.mark.thorough
def test_requests_per_minute(ledger):
    """1,200 a minute are one every 50 ms; the bound for 30 calls is 1.5 s."""
    server_side = Counting(0.01)
    started = time.monotonic()
    with serving(server_side) as server:
        ask(server, ledger, *texts_of(30), concurrency=16, requests_per_minute=1200)
    gaps = [later - earlier for earlier, later in zip(server_side.times, server_side.times[1:], strict=False)]
    assert 1.4 <= time.monotonic() - started < 2.5
    assert sum(gaps) / len(gaps) >= 0.95 * 60 / 1200


@pytest.mark.thorough
def test_attempts_count_as_requests(ledger):
    with serving(lambda number, question: echo(number, question) if number % 2 else refusal(500, "no")) as server:
        began = time.monotonic()
        ask(server, ledger, "a", requests_per_minute=30)
    assert len(server.asked) == 2
    assert time.monotonic() - began >= 60 / 30


@pytest.mark.thorough
def test_tokens_per_minute_are_those_that_were_used(ledger):
    """40 calls of 100 tokens at 240,000 a minute: the bound is a second, although each may use far more."""
    usage = {"prompt_tokens": 60, "completion_tokens": 40}
    started = time.monotonic()
    with serving(lambda number, question: Answer(completion("ok", usage=usage))) as server:
        ask(server, ledger, *texts_of(40), concurrency=8, tokens_per_minute=240_000)
    assert 0.9 <= time.monotonic() - started < 2.0


# --- the ceiling ---------------------------------------------------------------------------------------------------

USED = {"prompt_tokens": 1000, "completion_tokens": 10}
PRICE = Price(1000.0, 5000.0, "2026-01-01")
"""Dollars a million tokens: a call of the tests costs 1.05 as USED says, and at most 0.137 as was estimated."""


@pytest.fixture
def priced(monkeypatch):
    known = {"fake-1": {"input": PRICE.input, "output": PRICE.output, "date": PRICE.date}}
    monkeypatch.setattr(limits, "_prices", lambda: known)


def test_what_a_call_may_cost():
    (request,) = questions("a")
    assert limits.most_tokens(request) == (4 + 16, 16), "10 bytes are 4 tokens, two messages 16 more"
    assert PRICE.dollars((20, 16)) == pytest.approx(0.1)


def test_the_ceiling_is_kept_while_the_endpoint_keeps_to_the_estimate(ledger, priced):
    usage = {"prompt_tokens": 10, "completion_tokens": 10}  # 0.06 USD
    with (
        serving(lambda number, question: Answer(completion("ok", usage=usage))) as server,
        pytest.raises(StopAskingError, match=r"of --max-cost 2\.0000 are spent and the next call may cost 0\.1000"),
    ):
        ask(server, ledger, *texts_of(300), concurrency=16, max_cost=2.0)
    assert len(server.asked) == count(ledger, "replies")
    assert 1.9 < 0.06 * len(server.asked) <= 2.0, "used to the last call that is sure to fit"


def test_the_ceiling_is_overshot_by_no_more_than_the_calls_in_flight(ledger, priced):
    """The endpoint uses ten times the tokens that were estimated."""
    with (
        serving(lambda number, question: Answer(completion("ok", usage=USED))) as server,
        pytest.raises(StopAskingError),
    ):
        ask(server, ledger, *texts_of(300), concurrency=8, max_cost=10.0)
    dollars = PRICE.dollars((1000, 10)) * len(server.asked)
    assert 10.0 - 1.2 < dollars <= 10.0 + 8 * 1.05
    assert len(server.asked) == count(ledger, "replies"), "what is in flight at the end is kept"


def test_a_run_that_fits_is_not_stopped(ledger, priced):
    with serving(lambda number, question: Answer(completion("ok", usage={}))) as server:
        replies = ask(server, ledger, *texts_of(10), concurrency=4, max_cost=1.0)
    assert [reply.text for reply in replies] == ["ok"] * 10


def test_one_backend_keeps_one_ceiling_for_several_comparisons(ledger, priced):
    """Ten calls of 0.06 USD fit under the ceiling once, and not once for each of two baselines."""
    usage = {"prompt_tokens": 10, "completion_tokens": 10}
    with serving(lambda number, question: Answer(completion("ok", usage=usage))) as server:
        backend = OpenAIBackend(judge_at(server.url, max_cost=0.7))
        ask_all(questions(*texts_of(10)), backend, ledger, "first")
        with pytest.raises(StopAskingError, match=r"0\.\d{4} USD of --max-cost 0\.7000 are spent"):
            ask_all(questions(*"abcdefghij"), backend, ledger, "second")
    assert len(server.asked) == 10


def test_nothing_is_asked_where_nothing_may_be_spent(ledger, priced):
    with serving(echo) as server, pytest.raises(StopAskingError, match=r"0\.0000 USD of --max-cost 0\.0000 are spent"):
        ask(server, ledger, "a", max_cost=0.0)
    assert server.asked == []


def test_a_ceiling_without_a_price_is_refused(ledger):
    with serving(echo) as server, pytest.raises(InputError, match="--max-cost needs a known price: add 'fake-1'"):
        ask(server, ledger, "a", max_cost=1.0)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (Answer(completion("ok", usage={"prompt_tokens": 10, "completion_tokens": 10})), 0.94),
        (Answer(completion("ok", usage=None)), 0.9),
        (Answer(completion(None, usage={"prompt_tokens": 10, "completion_tokens": 10})), 0.94),
        (Answer(b'{"choices": [{"mess'), 0.9),
        (refusal(422, "no"), 1.0),
        (refusal(500, "no"), 1.0),
    ],
)
def test_what_counts_as_spent(ledger, priced, monkeypatch, answer, left):
    """A refusal costs nothing; what may have been answered counts with the most that it may cost."""
    budgets = []
    monkeypatch.setattr("nbutils.llm.endpoint.Budget", lambda judge: budgets.append(Budget(judge)) or budgets[0])
    with serving(lambda number, question: answer) as server:
        ask(server, ledger, "a", max_cost=1.0, attempts=1)
    assert 1.0 - budgets[0].spent == pytest.approx(left)


@given(
    calls=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 16)), max_size=60),
    ceiling=st.floats(0, 5, allow_nan=False),
    in_flight=st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_calls_use_the_ceiling_holds(calls, ceiling, in_flight):
    judge = judge_at(None, max_cost=ceiling, model="gpt-4o")
    (request,) = questions("a")
    budget = Budget(judge)
    budget._price = PRICE
    open_calls = []
    for used in calls:
        if budget.allows(request):
            budget.reserve(request)
            open_calls.append(used)
        if len(open_calls) >= in_flight:
            budget.settle(request, open_calls.pop(0))
        assert budget.spent <= ceiling + 1e-9
    for used in open_calls:
        budget.settle(request, used)
    assert budget.spent <= ceiling + 1e-9
