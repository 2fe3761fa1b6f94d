"""What a judging run will cost, before it starts: calls, tokens and dollars from data/prices.toml."""

import functools
import math
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbutils import ROOT
from nbutils.errors import InputError
from nbutils.llm import Request
from nbutils.settings import JudgeModel

BYTES_PER_TOKEN = 3.0
"""UTF-8 bytes of a token, on the cautious side: English text has 4 and more, Chinese about 3."""


class Cost(NamedTuple):
    """An estimate: different calls, tokens in and at most out, and dollars (None where no price is known)."""

    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    date: str

    def describe(self) -> str:
        """One line for a dry run."""
        size = f"{self.calls:,} calls, about {self.tokens_in:,} tokens in and at most {self.tokens_out:,} out"
        if self.dollars is None:
            return f"{size}; no price known for '{self.model}' (data/prices.toml)"
        return f"{size}; at most {self.dollars:.2f} USD at the prices of {self.date}"

    def check_ceiling(self, ceiling: float | None) -> None:
        """Raise InputError when a ceiling is given and the price is unknown or above it."""
        if ceiling is None:
            return
        if self.dollars is None:
            raise InputError(f"--max-cost needs a known price: add '{self.model}' to data/prices.toml")
        if not self.dollars <= ceiling:  # not `>`, which a ceiling of NaN would pass
            raise InputError(f"the run may cost {self.dollars:.2f} USD, above --max-cost {ceiling:.2f}: judge fewer")


def estimate(requests: Sequence[Request], judge: JudgeModel) -> Cost:
    """Estimate a run that answers each different request once. Judges without a service cost nothing."""
    different = {request.key: request for request in requests}.values()
    size = sum(len(text.encode("utf-8", "replace")) for request in different for _, text in request.messages)
    tokens_in = math.ceil(size / BYTES_PER_TOKEN)
    tokens_out = sum(request.max_tokens for request in different)
    if judge.kind != "openai":
        return Cost(judge.name, len(different), 0, 0, 0.0, "today: no service is asked")
    price = _prices().get(judge.model)
    dollars = (tokens_in * price["input"] + tokens_out * price["output"]) / 1e6 if price else None
    return Cost(judge.model, len(different), tokens_in, tokens_out, dollars, price["date"] if price else "")


@functools.cache
def _prices() -> dict[str, Any]:
    return tomllib.loads((ROOT / "data" / "prices.toml").read_text(encoding="utf-8"))
