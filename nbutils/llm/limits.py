"""How many calls may be in flight, when the next one may start, and how much they may cost.

A `Throttle` lives for one run in one event loop. A few calls go ahead of the others, so that a wrong key costs no more
than those; then as many are in flight as the settings allow; an endpoint that says "too many" halves that number, makes
everybody wait as long as it asks, and gets it back step by step.
"""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Request, StopAskingError
from nbutils.llm.prices import Budget, most_tokens

PROBES = 2
"""Calls in flight until the first answer."""

PROBE_SECONDS = 5.0
"""A refusal comes within seconds: after these the others follow, however slow the first answer is."""

RECOVERY = 0.25
"""Calls in flight that an answer gives back after a refusal: a quarter more with every round of answers."""

MARGIN = 1.02
"""Starts are spread by this much more than the allowance asks, for clocks and networks that are not exact."""

SPACING_SECONDS = 0.005
"""Between two starts. Calls that start together end together and then all wait for each other's bookkeeping."""

CATCH_UP_SECONDS = 1.0
"""How much of what late starts have lost may be made up for: less than what MARGIN keeps free in a minute."""

LONGEST_BACKOFF_SECONDS = 30.0
"""Between attempts where the endpoint does not say how long to wait: one second, then twice as long each time."""

WIND_DOWN_SECONDS = 30.0
"""How long a run that stops waits for the answers that are already being paid for."""


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

    # --- through the gate ------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def slot(self, request: Request) -> AsyncIterator[Call]:
        """Wait until this call may start, and count it as in flight until the block ends.

        Raises StopAskingError when the ceiling leaves nothing for it and no call in flight could give any back.
        """
        while not self._may_start(request):
            self._changed.clear()
            await self._changed.wait()
        call = self._calls[asyncio.current_task()] = Call(request, self._guess(request))
        self._budget.reserve(request)
        try:
            await self._wait_for_turn(call)
            call.started = self._loop.time()
            yield call
        finally:
            self._leave(call)

    def _may_start(self, request: Request) -> bool:
        if self.closed or len(self._calls) >= int(self.limit):
            return False
        if self._budget.allows(request):
            return True
        if not self._calls:
            raise StopAskingError(self._budget.describe(request))
        return False

    def _guess(self, request: Request) -> float:
        return sum(most_tokens(request)) * (self._used / self._guessed if self._guessed else 1.0)

    async def _wait_for_turn(self, call: Call) -> None:
        now = self._loop.time()
        start = max(self._next_start, self._requests.book(now), self._tokens.book(now, call.booked))
        self._next_start = max(now, self._next_start) + SPACING_SECONDS
        # Somebody may be told to wait, or to stop, while this call is waiting; a run that stops cancels it.
        while (wait := max(start, self._resume_at) - self._loop.time()) > 0 or self.closed:
            await asyncio.sleep(max(wait, SPACING_SECONDS))

    def _leave(self, call: Call) -> None:
        del self._calls[asyncio.current_task()]
        self._tokens.correct(sum(call.tokens) - call.booked)
        self._budget.settle(call.request, call.tokens)
        self._changed.set()

    # --- what the endpoint says ------------------------------------------------------------------------------------

    def answered(self, call: Call) -> None:
        """An answer came: open the gate, or give back some of what a refusal took."""
        self._open()
        self._halvings = 0
        self._guessed += sum(most_tokens(call.request))
        self._used += sum(call.tokens)
        self.limit = min(float(self._setting), self.limit + RECOVERY)

    def refused(self, call: Call, asked_to_wait: float | None) -> None:
        """The endpoint said "too many": halve, once for all the calls that were in flight together, and wait."""
        now, started = self._loop.time(), call.started or 0.0
        if started > self._halved_at:
            self.limit, self._halved_at, self._halvings = max(1.0, self.limit / 2), now, self._halvings + 1
        wait = asked_to_wait or min(2.0 ** (self._halvings - 1), LONGEST_BACKOFF_SECONDS)
        self._resume_at = max(self._resume_at, now + wait)

    def _open(self) -> None:
        self._opening.cancel()
        if self._halved_at < 0:
            self.limit = float(self._setting)
            self._changed.set()

    # --- the run ---------------------------------------------------------------------------------------------------

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
            await self._wind_down(workers)

    async def _wind_down(self, workers: Sequence["asyncio.Task[None]"]) -> None:
        self.closed = True
        self._opening.cancel()
        in_flight = {task for task, call in self._calls.items() if call.started is not None}
        for worker in set(workers) - in_flight:
            worker.cancel()
        await asyncio.wait(workers, timeout=WIND_DOWN_SECONDS)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
