"""Keys and values of the rows in flight: right-aligned columns that are written in place, layer by layer.

transformers' own cache copies everything at every step, and rows that enter or leave copy it again, of which all layers
at once would need twice the memory. Here a layer has spare columns on its right; rows that enter are written where
others have left, and a layer that has to grow does so alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 64
"""Columns that a layer grows by beyond what it needs."""


class SlotLayer(DynamicLayer):
    """One layer: `rows` rows whose columns `start` to `end` of its blocks hold all tokens but each row's last.

    A row shorter than that has anything finite on its left: the attention mask hides it.
    """

    def __init__(self, coming: int = 0) -> None:
        super().__init__()
        self.keys: Any = None
        self.values: Any = None
        self.coming, self.is_entering = coming, True
        self.rows = self.start = self.end = 0
        self._blocks: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in states of shape (rows, heads, columns, size): prompts of new rows, or one more column of all rows.

        Returns what the layer attends to: of new rows their own states, else all columns.
        """
        states = [key_states, value_states]
        if self.is_entering:
            self._add_rows(states)
            return key_states, value_states
        if self.end == self._blocks[0].shape[2]:
            self._grow(states, self.rows, self.end - self.start)
        for block, state in zip(self._blocks, states, strict=True):
            block[: self.rows, :, self.end : self.end + 1] = state
        self.end += 1
        self._show()
        return self.keys, self.values

    def get_seq_length(self, *arguments: Any) -> int:
        """Columns that stand before the states that come next; new rows begin at none."""
        return 0 if self.is_entering else self.end - self.start

    def _add_rows(self, states: list[torch.Tensor]) -> None:
        count, width = states[0].shape[0], states[0].shape[2]
        rows = self.rows + count
        if not self._blocks or rows > self._blocks[0].shape[0] or width > self.end:
            self._grow(states, max(rows, self.coming), max(width, self.end - self.start))
        for block, state in zip(self._blocks, states, strict=True):
            block[self.rows : rows, :, self.end - width : self.end] = state
        self.rows, self.start, self.is_initialized = rows, min(self.start, self.end - width), True
        self._show()

    def _grow(self, states: list[torch.Tensor], rows: int, width: int) -> None:
        """New blocks for so many rows, with what is there at the right end of `width` columns, and spare ones."""
        kept = self.end - self.start
        self.keys = self.values = None  # views would keep the old blocks
        for number, state in enumerate(states):
            block = state.new_zeros(rows, state.shape[1], width + SPARE, state.shape[3])
            if kept:
                old = self._blocks[number][: self.rows, :, self.start : self.end]
                block[: self.rows, :, width - kept : width] = old
                del old
            self._blocks[number : number + 1] = [block]  # the old keys go before new values are made
        self.start, self.end = width - kept, width

    def keep(self, rows: int, width: int, moved: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Keep the last `width` columns of the first `rows` rows, after rows have moved: (from, to)."""
        self.start, self.rows = self.end - width, rows
        for columns in (block[:, :, self.start : self.end] for block in self._blocks):
            if moved:
                columns[moved[1]] = columns[moved[0]]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (block[: self.rows, :, self.start : self.end] for block in self._blocks)


class SlotCache(Cache):
    """The layers of a model, which appear as its first prompts are read."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self.layers: list[SlotLayer]

    @property
    def width(self) -> int:
        """Columns that are filled."""
        return self.layers[0].end - self.layers[0].start if self.layers else 0

    def expect(self, rows: int) -> None:
        """What comes next: new rows, until there are so many; or, at 0, the next column of those that are there."""
        self.layer_class_to_replicate = functools.partial(SlotLayer, rows)
        for layer in self.layers:
            layer.coming, layer.is_entering = rows, rows > 0

    @torch.inference_mode()
    def keep(self, kept: Sequence[int], width: int) -> list[int]:
        """Keep some rows and the last `width` columns; returns the kept rows in their new order.

        The last rows move into the places of those that leave: nothing else is copied.
        """
        count, stay = len(kept), set(kept)
        free = [row for row in range(count) if row not in stay]
        movers = [row for row in kept if row >= count]
        device = self.layers[0].keys.device
        moved = (torch.tensor(movers, device=device), torch.tensor(free, device=device)) if free else None
        for layer in self.layers:
            layer.keep(count, width, moved)
        places = dict(zip(free, movers, strict=True))
        return [places.get(row, row) for row in range(count)]
