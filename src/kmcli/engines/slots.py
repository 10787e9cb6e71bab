"""Rows that write together and come and go at any step: the cache and the forward passes of continuous batching.

Where `decoding` keeps a batch until its last row has ended, here every row has a place of its own in the cache and
writes at a position of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from kmcli.engines.attention import Layers
from kmcli.engines.decoding import Rows, can_decode
from kmcli.engines.prefixes import Group
from kmcli.errors import ResourceError

STRIDE = 64
"""The cache grows by so many tokens a row at least."""

Around = Callable[[int, int], AbstractContextManager[None]]
"""What to hold around a forward pass of the rows from one to another."""


class SlotLayer(DynamicLayer):
    """Keys and values (rows, K, S, D) of one layer. `update` writes one token of each row at the row's own position."""

    def __init__(self, places: Slots) -> None:
        super().__init__()
        self.places = places
        self.room: list[torch.Tensor] = []
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, seen = self.places.count, self.places.longest + 1
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[self.places.order, :, self.places.lengths] = states[:, :, 0]
        self.keys, self.values = (room[:count, :, :seen] for room in self.room)
        return self.keys, self.values


class Slots:
    """Rows 0 to count - 1 of a model. A row that leaves gives its place to the last one.

    lengths (rows,): tokens of each row that are in the cache. Not for several threads.
    """

    def __init__(self, model: Any, device: torch.device, around: Around) -> None:
        """Raises ResourceError where the model cannot be written with in this way."""
        if not can_decode(model):
            raise _unfit(model)
        self.model, self.device, self.around = model, device, around
        self._lengths: list[int] = []
        self._needs: list[int] = []
        self._layers = [SlotLayer(self) for _ in DynamicCache(config=model.config).layers]
        self._cache = Cache(layers=list(self._layers))
        self.bytes_per_token = self._try()

    @property
    def count(self) -> int:
        return len(self._lengths)

    @property
    def longest(self) -> int:
        return max(self._lengths, default=0)

    @property
    def longest_need(self) -> int:
        """The most tokens that any row may come to."""
        return max(self._needs, default=0)

    def join(
        self, prompts: Sequence[list[int]], needs: Sequence[int], befores: Sequence[Layers | None] = ()
    ) -> torch.Tensor:
        """Read prompts; they become the last rows. needs: prompt and answer of each, in tokens. befores: what stands before
        each, if anything does: it is copied into the row's own part of the cache. Neighbours with the same are read in one
        pass.

        Returns logits (prompts, vocabulary) of the token that each writes next.
        """
        logits: list[torch.Tensor] = []
        rows = list(zip(prompts, needs, befores or [None] * len(prompts), strict=True))
        for _, run in groupby(rows, key=lambda row: id(row[2])):
            some = list(run)
            logits.append(self._join([prompt for prompt, *_ in some], [need for _, need, _ in some], some[0][2]))
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _join(self, prompts: Sequence[list[int]], needs: Sequence[int], before: Layers | None) -> torch.Tensor:
        start, already = self.count, 0
        if before:
            where: dict[str, Any] = {"device": self.device, "dtype": self.model.dtype}
            before, already = [(keys.to(**where), values.to(**where)) for keys, values in before], before[0][0].shape[1]
        needs = [already + need for need in needs]
        groups = [Group(0, (row,)) for row in range(len(prompts))]
        with self.around(start, start + len(prompts)):
            read = Rows(self.model, prompts, groups, 0, self.device, before=before)
        self._fit(start + len(prompts), max(self.longest_need, *needs), read.cache.layers)
        width = read.width
        for number, (mine, theirs) in enumerate(zip(self._layers, read.cache.layers, strict=True)):
            for which, (room, states) in enumerate(zip(mine.room, (theirs.keys, theirs.values), strict=True)):
                for row, prompt in enumerate(prompts):  # they are padded on the left
                    end = already + len(prompt)
                    room[start + row, :, already:end] = states[row, :, width - len(prompt) :]
                if before:
                    room[start : start + len(prompts), :, :already] = before[number][which]
        self._lengths += [already + len(prompt) for prompt in prompts]
        self._needs += needs
        return read.logits

    def write(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token (count,) to each row. Returns logits (count, vocabulary) of the next."""
        count, seen = self.count, self.longest + 1
        self.order = torch.arange(count, device=self.device)
        self.lengths = torch.tensor(self._lengths, device=self.device)
        hidden = torch.arange(seen, device=self.device) > self.lengths[:, None]
        mask = torch.zeros((count, 1, 1, seen), dtype=self.model.dtype, device=self.device)
        with self.around(0, count):
            output = self.model(
                input_ids=tokens[:, None].to(self.device),
                position_ids=self.lengths[:, None],
                attention_mask=mask.masked_fill_(hidden[:, None, None], -torch.inf),
                past_key_values=self._cache,
                use_cache=True,
            )
        self._lengths = [length + 1 for length in self._lengths]
        return torch.as_tensor(output.logits[:, -1].float())

    def leave(self, row: int) -> None:
        """The last row takes the place of this one."""
        last = self.count - 1
        for layer in self._layers:
            for room in layer.room:
                room[row, :, : self._lengths[last]] = room[last, :, : self._lengths[last]]
        for values in (self._lengths, self._needs):
            values[row] = values[last]
            values.pop()

    def clear(self) -> None:
        self._lengths, self._needs = [], []

    def _fit(self, rows: int, tokens: int, like: Sequence[Any]) -> None:
        """Make the cache large enough for so many rows of so many tokens."""
        old = self._layers[0].room
        if old and old[0].shape[0] >= rows and old[0].shape[2] >= tokens:
            return
        size = rows + rows // 2, -(-tokens // STRIDE) * STRIDE
        for layer, other in zip(self._layers, like, strict=True):
            new = []
            for which, states in enumerate((other.keys, other.values)):
                # Zeros: what is hidden counts as nothing times its value, and nothing times NaN would be NaN.
                room = states.new_zeros((size[0], states.shape[1], size[1], states.shape[3]))
                if self.count:
                    room[: self.count, :, : self.longest] = layer.room[which][: self.count, :, : self.longest]
                new.append(room)
            layer.room = new

    def _try(self) -> int:
        """The bytes of one token in the cache, after a trial: rows that join must be read as those that are alone."""
        prompts = [[5, 6, 7, 8], [9, 10]]
        with torch.inference_mode():
            alone = Rows(self.model, prompts[:1], [Group(0, (0,))], 1, self.device)
            token = alone.logits.argmax(-1)
            alone.write(token)
            self.join(prompts[:1], [6])
            self.join(prompts[1:], [6])
            mine = self.write(token.repeat(2))[:1]
        size = sum(room.shape[1] * room.shape[3] * room.element_size() for one in self._layers for room in one.room)
        self.clear()
        if (mine - alone.logits).abs().max() > 0.02 * alone.logits.abs().max():
            raise _unfit(self.model)
        return size


def _unfit(model: Any) -> ResourceError:
    return ResourceError(
        f"bases of the family {model.config.model_type} cannot be batched by km serve.", "Choose another base: --model"
    )
