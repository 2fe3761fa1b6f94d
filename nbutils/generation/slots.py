"""Decoding in slots: answers in the making, the rules and the room for writing them, and the tally of slots."""

import functools
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from nbutils.core.errors import InputError

READ_COLUMNS = 8192
"""Most tokens of prompts that are read in one forward pass; on any device enough to be bound by arithmetic."""


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
class SlotCounts:
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


def run_slots(model: Any, drafts: Sequence[Draft], rules: Rules, room: Room, tally: SlotCounts) -> Iterator[Draft]:
    """Write drafts, the longest first; each is yielded as soon as it is finished. See `decode`.

    Raises InputError for a model whose layers keep more than keys and values of every token (Mamba and the like).
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    if others := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise InputError(
            f"the slots engine knows attention layers only, and this model has {', '.join(others)}: "
            "set generation.backend = 'openai' and serve it by `vllm serve`"
        )
    waiting, slots = deque(drafts), _Slots(model, rules, tally)
    while waiting or slots.live:
        free = count_admissible(waiting, slots.live, room)
        if is_worth_a_prefill(free, len(slots.live), len(waiting)):
            slots.enter([waiting.popleft() for _ in range(count_similar(waiting, free))], len(slots.live) + free)
        else:
            slots.step(idle=free)
        yield from slots.leave()


def count_admissible(waiting: Sequence[Draft], live: Sequence[Draft], room: Room) -> int:
    """How many of the waiting, in their order, have a slot and, at their final lengths, room in the cache.

    At least one where nothing is live: whether it fits alone is for the device to say.
    """
    width = max((draft.final_length for draft in live), default=0)
    free = min(room.slots - len(live), len(waiting))
    for number, draft in enumerate(itertools.islice(waiting, free)):
        width = max(width, draft.final_length)
        rows = len(live) + number + 1
        if rows > 1 and rows * width > room.tokens:
            return number
    return free


def is_worth_a_prefill(free: int, live: int, waiting: int) -> bool:
    """Whether to fill the free slots now: an eighth of all is free, or all that wait can enter, or nothing runs.

    Waiting for an eighth saves prefills, at the price of a little idleness.
    """
    return free > 0 and (live == 0 or free >= min(math.ceil((live + free) / 8), waiting))


def count_similar(waiting: Sequence[Draft], free: int) -> int:
    """How many of the first `free` are read together: those at least half as long as the first, to pad little.

    At most READ_COLUMNS tokens with their padding, or one prompt: this bounds what reading needs beside the cache.
    """
    most = min(free, max(1, READ_COLUMNS // waiting[0].length))
    similar = itertools.takewhile(lambda draft: 2 * draft.length >= waiting[0].length, itertools.islice(waiting, most))
    return len(list(similar))


class _Slots:
    """The rows in flight and their cache, which holds all tokens but each row's last."""

    def __init__(self, model: Any, rules: Rules, tally: SlotCounts) -> None:
        from nbutils.generation.cache import SlotCache

        self.live: list[Draft] = []
        self._model, self._rules, self._tally, self._cache = model, rules, tally, SlotCache()

    def enter(self, entering: list[Draft], rows: int) -> None:
        """Read the prompts of new rows in one forward pass (with what an interruption left of their answers).

        `rows`: how many there will be, with those that enter next.
        """
        self._tally.in_flight = len(self.live) + len(entering)
        width = max(draft.length for draft in entering)
        pad = [[self._rules.pad] * (width - draft.length) for draft in entering]
        ids = [gap + draft.prompt + draft.new for gap, draft in zip(pad, entering, strict=True)]
        self._cache.expect(rows)
        scores = self._forward(ids, [draft.length for draft in entering], width)
        self.live += entering
        self._append(entering, scores)
        self._tally.prefills += 1
        self._tally.prompt_tokens += sum(map(len, ids)) - sum(map(len, pad))
        self._tally.prompt_columns += width * len(ids)

    def step(self, idle: int) -> None:
        """One more token for every row; `idle` slots stay empty although prompts wait for them."""
        ids = [[draft.new[-1]] for draft in self.live]
        self._tally.in_flight = len(ids)
        self._cache.expect(0)
        scores = self._forward(ids, [draft.length for draft in self.live], self._cache.width + 1)
        self._append(self.live, scores)
        self._tally.steps += 1
        self._tally.executed += len(ids) + idle
        self._tally.useful += len(ids)

    def leave(self) -> list[Draft]:
        """Take out the finished rows, and the columns that only they needed."""
        from nbutils.generation.cache import SlotCache

        kept = [row for row, draft in enumerate(self.live) if not draft.is_finished(self._rules.eos)]
        done = [draft for draft in self.live if draft.is_finished(self._rules.eos)]
        if done and kept:
            width = max(self.live[row].length - 1 for row in kept)
            self.live = [self.live[row] for row in self._cache.keep(kept, width)]
        elif done:
            self.live, self._cache = [], SlotCache()
        return done

    def _forward(self, ids: list[list[int]], lengths: list[int], width: int) -> Any:
        """Scores of the next token (rows by vocabulary, fp32) after reading `ids`, which end in the last column."""
        import torch

        device, count = self._model.device, len(ids[0])
        # One transfer: what a step sends to a card and asks of it waits for all that runs there.
        given = torch.tensor([[width - length, *row] for length, row in zip(lengths, ids, strict=True)], device=device)
        gaps, columns = given[:, :1], torch.arange(width, device=device)
        with torch.inference_mode():
            output = self._model(
                input_ids=given[:, 1:],
                attention_mask=columns >= gaps,
                position_ids=(columns[width - count :] - gaps).clamp(min=0),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float()

    def _append(self, drafts: Sequence[Draft], scores: Any) -> None:
        for draft, token in zip(drafts, choose(scores, drafts, self._rules), strict=True):
            draft.new.append(token)


def choose(scores: Any, drafts: Sequence[Draft], rules: Rules) -> list[int]:
    """The next token of each draft. Raises InputError where the model's scores are not numbers."""
    import torch

    with torch.inference_mode():
        if banned := [row for row, draft in enumerate(drafts) if len(draft.new) < rules.min_new]:
            scores = scores.clone()
            scores[banned, rules.eos] = -math.inf
        best, tokens = scores.max(dim=-1)
        if rules.temperature:
            tokens = _draw(scores / rules.temperature, drafts)
        chosen: list[int] = torch.where(best.isfinite(), tokens, -1).tolist()
    if min(chosen) < 0:
        raise InputError("the model's scores are not numbers: its weights or this precision are broken")
    return chosen


HEAD = 64
"""Tokens that are drawn from one by one; all others take part as one, and are told apart where that one is drawn."""


def _draw(scores: Any, drafts: Sequence[Draft]) -> Any:
    """A token for each row by its chances, softmax of `scores`, with the row's own random numbers.

    The token whose waiting time, exponential with its chance as the rate, is the shortest: exact, and one random
    number for each of the likeliest instead of the whole vocabulary. The rarer ones wait together.
    """
    import torch

    chances = torch.softmax(scores, dim=-1)
    head, ids = chances.topk(min(HEAD, chances.shape[-1]))
    rest = (1 - head.sum(dim=-1, keepdim=True)).clamp(min=0)
    waits = torch.stack([torch.empty(head.shape[-1] + 1).exponential_(generator=draft.dice) for draft in drafts])
    waits = waits.clamp(min=torch.finfo(waits.dtype).tiny)  # 0 / 0 is no time
    first = (waits.to(scores.device) / torch.cat([head, rest], dim=-1)).argmin(dim=-1, keepdim=True)
    tokens = ids.gather(-1, first.clamp(max=ids.shape[-1] - 1))[:, 0]
    for row in (first[:, 0] == ids.shape[-1]).nonzero()[:, 0].tolist():
        rare = chances[row].scatter(0, ids[row], 0).cpu()
        # Nothing is left where the rest was but rounding.
        tokens[row] = torch.multinomial(rare, 1, generator=drafts[row].dice)[0] if rare.sum() > 0 else ids[row, 0]
    return tokens


def decode(model: Any, drafts: Sequence[Draft], rules: Rules, room: Room, tally: SlotCounts) -> Iterator[Draft]:
    """Write every draft to its end; each is yielded as soon as it is finished, so not in the order given.

    When memory runs out the rows in flight are halved, with one line on stdout, and keep what they have written. Raises
    InputError for a prompt that does not fit alone.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    waiting = sorted(drafts, key=lambda draft: -draft.length)
    while waiting:
        try:
            yield from run_slots(model, waiting, rules, room, tally)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        waiting = [draft for draft in waiting if not draft.is_finished(rules.eos)]
        if waiting and tally.in_flight == 1:
            raise InputError(
                f"prompt '{waiting[0].name}' ({len(waiting[0].prompt)} tokens) does not fit into memory, even alone: "
                "lower max_new_tokens, or use a smaller model or a larger device"
            )
        if waiting:
            tally.halvings += 1
            room = room._replace(slots=tally.in_flight // 2)
            print(f"out of memory with {tally.in_flight} rows at once: going on with {room.slots}", flush=True)
            clear_device_cache(garbage_collection=True)
