"""What a run will cost and how long it will take, before it starts; and the ceiling that it keeps while it runs.

Prices are in data/prices.toml, each with its date and source. A price that is not there is unknown, and never nothing.
"""

import functools
import math
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbutils import ROOT
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Request

BYTES_PER_TOKEN = 3.0
"""UTF-8 bytes of a token, on the cautious side: English text has 4 and more, Chinese about 3."""

TOKENS_PER_MESSAGE = 8
"""What a chat format adds to each message for its role and its ends, on the cautious side."""

SECONDS_PER_CALL = 5.0
"""Assumed time of one call in estimates: some 150 to 250 tokens from a hosted model."""


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
        return f"{size}; {price}; {self._describe_time()}"

    def _describe_time(self) -> str:
        if self.seconds == math.inf:
            return "done within 24 hours (batch)"
        return f"about {_clock(self.seconds)} if a call takes {SECONDS_PER_CALL:g} s"

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
    return math.ceil(size / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(request.messages), request.max_tokens


def estimate(requests: Sequence[Request], judge: JudgeModel) -> Cost:
    """Estimate a run that answers each different request once. Judges without a service cost nothing."""
    different = {request.key: request for request in requests}.values()
    if judge.kind != "openai":
        return Cost(judge.name, len(different), 0, 0, 0.0, "today: no service is asked")
    counts = [most_tokens(request) for request in different]
    tokens = (sum(count[0] for count in counts), sum(count[1] for count in counts))
    price, seconds = find_price(judge), _seconds(len(counts), sum(tokens), judge)
    dollars, date = (price.dollars(tokens), price.date) if price else (None, "")
    return Cost(judge.model, len(counts), *tokens, dollars, date, seconds)


def find_price(judge: JudgeModel) -> Price | None:
    """The price of a judge's tokens, in batches where it uses them; None where data/prices.toml does not say."""
    known = _prices().get(judge.model)
    if known is None or (judge.batch and "batch" not in known):
        return None
    factor = known["batch"] if judge.batch else 1.0
    return Price(known["input"] * factor, known["output"] * factor, known["date"])


def _seconds(calls: int, tokens: int, judge: JudgeModel) -> float:
    if judge.batch:
        return math.inf
    bounds = [calls * SECONDS_PER_CALL / judge.concurrency]
    bounds += [60 * calls / judge.requests_per_minute] if judge.requests_per_minute else []
    bounds += [60 * tokens / judge.tokens_per_minute] if judge.tokens_per_minute else []
    return max(bounds)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _unknown(model: str) -> str:
    return f"--max-cost needs a known price: add '{model}' to data/prices.toml"


@functools.cache
def _prices() -> dict[str, Any]:
    return tomllib.loads((ROOT / "data" / "prices.toml").read_text(encoding="utf-8"))
