"""Decoding by one of two engines, with memory that may run out.

transformers 5 has continuous batching of its own (`engine = "continuous"`). The default is the schedule of
nbutils/slots.py over its cache: on a CPU that was 1.4 to 2.3 times as fast, and transformers drops, with a mere
warning, the processor that forbids the end of sequence for the first tokens.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from nbutils.drafts import Draft, Room, Rules, Tally
from nbutils.errors import InputError
from nbutils.slots import run_slots


def decode(
    model: Any, drafts: Sequence[Draft], rules: Rules, room: Room, tally: Tally, engine: str = "slots"
) -> Iterator[Draft]:
    """Write every draft to its end; each is yielded as soon as it is finished, so not in the order given.

    engine: `slots` (nbutils/slots.py) or `continuous` (transformers' own; greedy and without a ban only). When memory
    runs out the rows in flight are halved, with one line on stdout, and keep what they have written. Raises InputError
    for a prompt that does not fit alone.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    run = {"slots": run_slots, "continuous": _run_continuous}[engine]
    waiting = sorted(drafts, key=lambda draft: -draft.length)
    while waiting:
        try:
            yield from run(model, waiting, rules, room, tally)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        waiting = [draft for draft in waiting if not draft.is_finished(rules.eos)]
        if waiting:
            room = _halve(room, waiting, tally)
            clear_device_cache(garbage_collection=True)


def _halve(room: Room, waiting: Sequence[Draft], tally: Tally) -> Room:
    in_flight = tally.in_flight
    if in_flight == 1:
        longest = waiting[0]
        raise InputError(
            f"prompt '{longest.name}' ({len(longest.prompt)} tokens) does not fit into memory, even alone: lower "
            "max_new_tokens, or use a smaller model or a larger device"
        )
    tally.halvings += 1
    print(f"out of memory with {in_flight} rows at once: going on with {in_flight // 2}", flush=True)
    return room._replace(slots=in_flight // 2)


# --- the continuous batching of transformers -----------------------------------------------------------------------

PAGE = 32


def _run_continuous(model: Any, drafts: Sequence[Draft], rules: Rules, room: Room, tally: Tally) -> Iterator[Draft]:
    """Hand the drafts to transformers' manager. An interrupted draft begins anew: its answer is only known whole."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    if rules.min_new or rules.temperature:
        raise InputError("engine 'continuous' decodes greedily and without a ban of the end: use engine 'slots'")
    longest = max(draft.final_length for draft in drafts)
    tally.in_flight = slots = max(1, min(room.slots, room.tokens // longest))
    config = GenerationConfig(do_sample=False, eos_token_id=rules.eos, pad_token_id=rules.pad, max_new_tokens=longest)
    # transformers 5.15, which Colab has, calls a page a block.
    page: dict[str, Any] = {"page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size": PAGE}
    batching = ContinuousBatchingConfig(
        **page,
        num_blocks=slots * math.ceil(longest / PAGE) + 1,
        max_batch_tokens=max(512, slots),
        max_requests_per_batch=slots,
        allow_block_sharing=False,
    )
    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=batching, warmup=False
    ) as manager:
        yield from _collect(manager, drafts, rules)
        tally.steps += manager.current_batch
        tally.prefills += len(drafts)


def _collect(manager: Any, drafts: Sequence[Draft], rules: Rules) -> Iterator[Draft]:
    asked = {
        manager.add_request(draft.prompt, max_new_tokens=draft.max_new, eos_token_id=rules.eos): draft
        for draft in drafts
    }
    while asked:
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running():
                raise RuntimeError("transformers' continuous batching ended before all answers were written")
        elif result.error is not None:
            raise RuntimeError(result.error)
        elif result.is_finished():
            draft = asked.pop(result.request_id)
            draft.new = [int(token) for token in result.generated_tokens]
            yield draft
