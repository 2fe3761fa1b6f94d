"""How many calls may be in flight, when the next one may start, and how much they may cost.

A `Throttle` lives for one run in one event loop. A few calls go ahead of the others, so that a wrong key costs no more
than those; then as many are in flight as the settings allow; an endpoint that says "too many" halves that number, makes
everybody wait as long as it asks, and gets it back step by step.

`estimate` says before a run what it will cost and how long it will take; a `Budget` keeps its ceiling while it runs.
Prices are in data/prices.toml, each with its date and source. A price that is not there is unknown, and never nothing.
"""

import asyncio
import collections
import contextlib
import functools
import math
import re
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nbutils import ROOT
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Request, StopAskingError
from nbutils.llm.refusals import backoff_seconds

TOKENS_PER_MESSAGE = 8  # what a chat format adds to each message for its role and its ends, on the cautious side
SECONDS_PER_CALL = 5.0  # assumed time of one call in estimates: some 150 to 250 tokens from a hosted model

# Of the calls in flight:
PROBES = 2  # until the first answer
PROBE_SECONDS = 5.0  # a refusal comes within seconds: after these the others follow, however slow the first answer is
RECOVERY = 0.25  # what an answer gives back after a refusal: a quarter more with every round of answers
MARGIN = 1.02  # starts are spread by this much more than the allowance asks: clocks and networks are not exact
SPACING_SECONDS = 0.001  # between starts: calls that start together end together, and wait for each other's bookkeeping
CATCH_UP_SECONDS = 1.0  # what late starts have lost and may make up for: less than MARGIN keeps free in a minute
WIND_DOWN_SECONDS = 30.0  # how long a run that stops waits for the answers that are already being paid for


class Price(NamedTuple):
    """US dollars for a million tokens in and out, and the date of these prices."""

    input: float
    output: float
    date: str

    def dollars(self, tokens: tuple[int, int]) -> float:
        """Price of so many tokens in and out."""
        return (tokens[0] * self.input + tokens[1] * self.output) / 1e6


class Cost(NamedTuple):
    """An estimate: different calls, tokens in and at most out, dollars (None where no price is known), seconds."""

    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    date: str
    seconds: float = 0.0

    def describe(self) -> str:
        """One line for a dry run."""
        size = f"{self.calls:,} calls, about {self.tokens_in:,} tokens in and at most {self.tokens_out:,} out"
        price = f"no price known for '{self.model}' (data/prices.toml)"
        if self.dollars is not None:
            price = f"at most {self.dollars:.2f} USD at the prices of {self.date}"
        clock = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        time = f"about {clock} if a call takes {SECONDS_PER_CALL:g} s"
        return f"{size}; {price}; {'done within 24 hours (batch)' if self.seconds == math.inf else time}"

    def check_ceiling(self, ceiling: float | None) -> str:
        """What is to be said of a ceiling before the run: "" where the run cannot reach it.

        Raises InputError where no price is known, since nobody could keep the ceiling then.
        """
        if ceiling is None:
            return ""
        if self.dollars is None:
            raise InputError(_unknown(self.model))
        if self.dollars <= ceiling:
            return ""
        return f"the run may cost up to {self.dollars:.2f} USD: it stops before it has spent {ceiling:.4g}"


class Budget:
    """The ceiling of one run. Calls in flight count with the most that they may cost until they are settled."""

    def __init__(self, judge: JudgeModel) -> None:
        self.spent = 0.0
        self._reserved, self._ceiling, self._price = 0.0, judge.max_cost, find_price(judge)
        if self._ceiling is not None and self._price is None:
            raise InputError(_unknown(judge.model))

    def allows(self, request: Request) -> bool:
        """Whether this call can be paid for, whatever it and the calls in flight will cost."""
        return self._ceiling is None or self.spent + self._reserved + self._most(request) <= self._ceiling

    def reserve(self, request: Request) -> None:
        """A call starts."""
        self._reserved += self._most(request)

    def settle(self, request: Request, tokens: tuple[int, int]) -> None:
        """A call is over and has used so many tokens in and out."""
        self._reserved -= self._most(request)
        self.spent += self._price.dollars(tokens) if self._price else 0.0

    def describe(self, request: Request) -> str:
        """Why the run stops before this call."""
        spent = f"{self.spent:.4f} USD of --max-cost {self._ceiling:.4f} are spent"
        return f"{spent} and the next call may cost {self._most(request):.4f}: what was answered is kept"

    def _most(self, request: Request) -> float:
        return self._price.dollars(most_tokens(request)) if self._price else 0.0


def most_tokens(request: Request) -> tuple[int, int]:
    """Tokens in and out that a request may use at most; the first is an estimate on the cautious side."""
    size = sum(len(text.encode("utf-8", "replace")) for _, text in request.messages)
    # English text has 4 bytes and more in a token, Chinese about 3.
    return math.ceil(size / 3.0) + TOKENS_PER_MESSAGE * len(request.messages), request.max_tokens


def estimate(requests: Sequence[Request], judge: JudgeModel) -> Cost:
    """Estimate a run that answers each different request once. Judges without a service cost nothing."""
    different = {request.key: request for request in requests}.values()
    if judge.kind != "openai":
        return Cost(judge.name, len(different), 0, 0, 0.0, "today: no service is asked")
    counts = [most_tokens(request) for request in different]
    tokens = (sum(count[0] for count in counts), sum(count[1] for count in counts))
    bounds = [len(counts) * SECONDS_PER_CALL / judge.concurrency]
    bounds += [60 * len(counts) / judge.requests_per_minute] if judge.requests_per_minute else []
    bounds += [60 * sum(tokens) / judge.tokens_per_minute] if judge.tokens_per_minute else []
    price, seconds = find_price(judge), math.inf if judge.batch else max(bounds)
    dollars, date = (price.dollars(tokens), price.date) if price else (None, "")
    return Cost(judge.model, len(counts), *tokens, dollars, date, seconds)


def find_price(judge: JudgeModel) -> Price | None:
    """The price of a judge's tokens, in batches where it uses them; None where data/prices.toml does not say."""
    known = _known_price(judge.model)
    if known is None or (judge.batch and "batch" not in known):
        return None
    factor = known["batch"] if judge.batch else 1.0
    return Price(known["input"] * factor, known["output"] * factor, known["date"])


def _known_price(model: str) -> dict[str, Any] | None:
    """The entry of a model, also under a name with its publisher before it or its date behind it.

    A mere beginning is another model: gpt-4o-mini is not gpt-4o.
    """
    prices, bare = _prices(), model.rpartition("/")[2]
    undated = re.sub(r"[-@:](\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$", "", bare)
    return next((prices[name] for name in (model, bare, undated) if name in prices), None)


def _unknown(model: str) -> str:
    return f"--max-cost needs a known price: add '{model}' to data/prices.toml"


@functools.cache
def _prices() -> dict[str, Any]:
    return tomllib.loads((ROOT / "data" / "prices.toml").read_text(encoding="utf-8"))


class Pace:
    """An allowance for each minute, spread evenly: never a burst."""

    def __init__(self, per_minute: int | None) -> None:
        self._seconds_each = 60 * MARGIN / per_minute if per_minute else 0.0
        self._next = 0.0

    def book(self, now: float, amount: float = 1.0) -> float:
        """When a call of this amount may start; may lie in the past. All times in seconds of the loop's clock."""
        start = max(self._next or now, now - CATCH_UP_SECONDS)
        self._next = start + amount * self._seconds_each
        return start

    def correct(self, amount: float) -> None:
        """Add what a call took beyond what was booked for it (negative: give back)."""
        self._next += amount * self._seconds_each


@dataclass
class Call:
    """One attempt at a request: when it started, and the tokens in and out that it used (or may have used)."""

    request: Request
    booked: float
    started: float | None = None
    tokens: tuple[int, int] = (0, 0)


class Throttle:
    """The gate that every attempt of every call of one run passes."""

    def __init__(self, judge: JudgeModel, budget: Budget) -> None:
        self.limit = float(min(PROBES, judge.concurrency))
        self.closed = False
        self._setting, self._budget = judge.concurrency, budget
        self._requests, self._tokens = Pace(judge.requests_per_minute), Pace(judge.tokens_per_minute)
        self._calls = dict[asyncio.Task[None] | None, Call]()
        self._guessed, self._used, self._next_start = 0.0, 0.0, 0.0
        self._resume_at, self._halved_at, self._halvings = 0.0, -1.0, 0
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._opening = self._loop.call_later(PROBE_SECONDS, self._open)

    @contextlib.asynccontextmanager
    async def slot(self, request: Request) -> AsyncIterator[Call]:
        """Wait until this call may start, and count it as in flight until the block ends.

        Raises StopAskingError when the ceiling leaves nothing for it and no call in flight could give any back.
        """
        while self.closed or len(self._calls) >= int(self.limit) or not self._budget.allows(request):
            if not self.closed and not self._calls:
                raise StopAskingError(self._budget.describe(request))
            self._changed.clear()
            await self._changed.wait()
        call = self._calls[asyncio.current_task()] = Call(
            request, sum(most_tokens(request)) * (self._used / self._guessed if self._guessed else 1.0)
        )
        self._budget.reserve(request)
        try:
            await self._wait_for_turn(call)
            call.started = self._loop.time()
            yield call
        finally:
            del self._calls[asyncio.current_task()]
            self._tokens.correct(sum(call.tokens) - call.booked)
            self._budget.settle(call.request, call.tokens)
            self._changed.set()

    async def _wait_for_turn(self, call: Call) -> None:
        now = self._loop.time()
        start = max(self._next_start, self._requests.book(now), self._tokens.book(now, call.booked))
        self._next_start = max(now, self._next_start) + SPACING_SECONDS
        # Somebody may be told to wait, or to stop, while this call is waiting; a run that stops cancels it.
        while (wait := max(start, self._resume_at) - self._loop.time()) > 0 or self.closed:
            await asyncio.sleep(max(wait, SPACING_SECONDS))

    def answered(self, call: Call) -> None:
        """An answer came: open the gate, or give back some of what a refusal took."""
        self._open()
        self._halvings = 0
        self._guessed += sum(most_tokens(call.request))
        self._used += sum(call.tokens)
        self.limit = min(float(self._setting), self.limit + RECOVERY)

    def refused(self, call: Call, asked_to_wait: float | None) -> None:
        """The endpoint said "too many": halve, once for all the calls that were in flight together, and wait."""
        self.slow_down(call)
        wait = asked_to_wait or backoff_seconds(max(1, self._halvings))
        self._resume_at = max(self._resume_at, self._loop.time() + wait)

    def slow_down(self, call: Call) -> None:
        """Halve the number in flight, once for all the calls that were in flight together."""
        if (call.started or 0.0) > self._halved_at:
            self.limit, self._halved_at = max(1.0, self.limit / 2), self._loop.time()
            self._halvings += 1

    def _open(self) -> None:
        self._opening.cancel()
        if self._halved_at < 0:
            self.limit = float(self._setting)
            self._changed.set()

    async def run(self, requests: Sequence[Request], ask: Callable[[Request], Awaitable[None]]) -> None:
        """Ask for everything, in order, as the gate allows.

        At the first error nothing new starts, what is in flight is waited for (it is being paid for), and the error
        is raised.
        """
        waiting = collections.deque(requests)

        async def work() -> None:
            while waiting and not self.closed:
                await ask(waiting.popleft())

        workers = [self._loop.create_task(work()) for _ in range(min(self._setting, len(requests)))]
        try:
            await asyncio.gather(*workers)
        finally:
            self.closed = True
            self._opening.cancel()
            in_flight = {task for task, call in self._calls.items() if call.started is not None}
            for worker in set(workers) - in_flight:
                worker.cancel()
            await asyncio.wait(workers, timeout=WIND_DOWN_SECONDS)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
