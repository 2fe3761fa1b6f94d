"""An arm's rows as tokens, which of them make up each optimizer step, and how these lie in flat rows without padding.

The official recipe pads every row to 2,048 tokens, of which the 1,000 longest Alpaca rows fill a fifth. Here a step's
examples are laid end to end in rows of at most `tokens_per_row` tokens: nothing is padded, no example is cut, and the
step keeps its number of examples. What a token adds to the loss is fixed before anything runs (`token_weights`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbutils import prompts
from nbutils.core.errors import InputError
from nbutils.core.settings import Training
from nbutils.data.rows import Row
from nbutils.prompts import Example

WEIGHTINGS = ("token", "example", "paper")


def encode_rows(
    rows: Sequence[Row], tokenizer: Any, settings: Training, arm: str
) -> tuple[list[Example], dict[str, int]]:
    """Tokenise an arm's rows and assert that each of them is trained on; the counts are for the manifest.

    A row whose prompt alone fills `max_length` has nothing left to train on: it is dropped and counted.
    """
    encoded = [prompts.encode(row, tokenizer, settings.prompt_style, settings.max_length) for row in rows]
    examples = [example for example in encoded if example.trained]
    if not examples:
        raise InputError(f"{arm}: no row has a trained token within {settings.max_length}: raise max_length")
    prompts.check_examples(examples, tokenizer.eos_token_id)
    if empty := sum(not row.response.strip() for row in rows):
        print(f"{arm}: {empty:,} rows have an empty response: they train the end of sequence alone")
    return examples, {
        "rows": len(examples),
        "dropped_rows": len(encoded) - len(examples),
        "empty_responses": empty,
        "truncated_rows": sum(example.is_truncated for example in examples),
        "tokens_per_epoch": sum(len(example.input_ids) for example in examples),
        "trained_tokens_per_epoch": sum(example.trained for example in examples),
    }


def check_rows(examples: Sequence[Example], settings: Training) -> None:
    """Raise InputError for an example that fits no flat row, before a model is loaded for it."""
    longest, capacity = max(len(example.input_ids) for example in examples), settings.tokens_per_row
    if capacity and longest > capacity:
        mend = f"set it to {longest} or more, or lower max_length"
        raise InputError(f"training.tokens_per_row = {capacity}, and the longest example has {longest} tokens: {mend}")


def plan_steps(rows: int, examples_per_step: int, epochs: float, epoch_end: str, seed: int) -> list[np.ndarray]:
    """Row numbers of every optimizer step of a run; each epoch is a fresh permutation.

    epoch_end: `carry` does what the official run's trainer did (transformers 4.34.1): the rows that an epoch leaves
    over begin the next step together with the next epoch's, and a run has `epochs * (rows // examples_per_step)`
    steps. 1,000 rows in steps of 128 over 15 epochs are 105 steps, which is 13.44 epochs. `short` ends every epoch
    with a smaller step: 120 steps, 15 whole epochs.
    """
    size = min(rows, examples_per_step)
    if epoch_end == "short":
        steps, whole_epochs = max(1, math.ceil(epochs * math.ceil(rows / size))), math.ceil(epochs)
    else:
        steps = max(1, math.ceil(epochs * (rows // size)))
        whole_epochs = math.ceil(steps * size / rows)
    orders = [np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(whole_epochs)]
    stretches = orders if epoch_end == "short" else [np.concatenate(orders)]
    planned = [stretch[start : start + size] for stretch in stretches for start in range(0, len(stretch), size)]
    return planned[:steps]


def pack_rows(lengths: Sequence[int], capacity: int, processes: int = 1) -> list[list[int]]:
    """Lay examples of the given token counts into rows of at most `capacity` tokens, by first fit, longest first.

    Returns the examples' positions, row by row, the fullest row first. With several processes the number of rows is
    a multiple of theirs wherever there are examples enough, so that all make the same number of passes. Raises
    InputError for an example longer than a row.
    """
    if max(lengths) > capacity:
        raise InputError(f"an example of {max(lengths)} tokens does not fit rows of {capacity}: raise tokens_per_row")
    rows: list[list[int]] = []
    room: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((i for i, free in enumerate(room) if free >= lengths[position]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(position)
        room[row] -= lengths[position]
    # The row with most examples is halved until the rows go evenly among the processes.
    while len(rows) % processes and (widest := max(rows, key=len))[1:]:
        rows.append(widest[1::2])
        del widest[1::2]
    return sorted(rows, key=lambda row: (-sum(lengths[i] for i in row), row))


def token_weights(trained: Sequence[int], weighting: str) -> np.ndarray:
    """What each trained token of each example of a step adds to the step's loss; the tokens' weights sum to 1.

    trained: trained tokens of each example, in the step's order. weighting: `token`, every token of the step alike;
    `example`, every example alike; `paper`, the mean over pairs of neighbours of each pair's token mean, as the
    official run's micro-batches of two give it (last one alone if the number is odd).
    """
    counts = np.asarray(trained, dtype=np.float64)
    if weighting == "token":
        return np.full(len(counts), 1 / counts.sum())
    if weighting == "example":
        return 1 / (len(counts) * counts)
    if weighting != "paper":
        raise InputError(f"unknown loss_weighting '{weighting}': choose one of {', '.join(WEIGHTINGS)}")
    pairs = np.arange(len(counts)) // 2
    return 1 / ((pairs[-1] + 1) * np.bincount(pairs, counts)[pairs])
