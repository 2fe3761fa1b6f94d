"""What decoding works on: answers in the making, the rules and the room for writing them, and the tally of slots."""

import functools
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


@dataclass(eq=False)
class Draft:
    """An answer in the making. `prompt` and `new` are token ids; `seed` draws its samples, whatever its neighbours."""

    name: str
    prompt: list[int]
    max_new: int
    seed: int = 0
    new: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.new)

    @property
    def final_length(self) -> int:
        """Tokens when all that it may write is written."""
        return len(self.prompt) + self.max_new

    def is_finished(self, eos: int) -> bool:
        """Whether it has ended by itself, or may write no more."""
        return bool(self.new) and (self.new[-1] == eos or len(self.new) >= self.max_new)

    @functools.cached_property
    def dice(self) -> Any:
        """Its own random numbers, on the CPU, so that a continued run draws what an uninterrupted one does."""
        import torch

        return torch.Generator().manual_seed(self.seed)


class Rules(NamedTuple):
    """How tokens are chosen: greedily at temperature 0; the end of sequence is banned for `min_new` tokens."""

    eos: int
    pad: int
    min_new: int = 0
    temperature: float = 0.0


class Room(NamedTuple):
    """What is decoded at once: at most `slots` rows, and `tokens` of them in the cache at their final lengths."""

    slots: int
    tokens: int


@dataclass
class Tally:
    """What decoding did. A slot is one row of one step: `useful` wrote a token; `executed` are these and the ones that
    stayed empty although a prompt waited. Prompts were read in `prefills`, padded to `prompt_columns`. `in_flight`: the
    rows of the latest batch.
    """

    steps: int = 0
    executed: int = 0
    useful: int = 0
    prefills: int = 0
    prompt_tokens: int = 0
    prompt_columns: int = 0
    in_flight: int = 0
    halvings: int = 0

    def facts(self) -> dict[str, Any]:
        """The counts, with the share of useful slots and the mean rows of a step where they are known."""
        if not self.executed:
            return asdict(self)
        shares = {"useful_slots": self.useful / self.executed, "mean_rows": self.useful / self.steps}
        return {name: round(value, 4) for name, value in shares.items()} | asdict(self)
