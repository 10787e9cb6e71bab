"""Attention of rows that begin alike: what they share is kept once and read once for all of them.

Copying a shared prefix to every row would cost its memory, and its reading in every step, once a row: most of the time
that a batch takes. Shapes: G prefixes of at most P tokens, R rows with Q new tokens each and S in their own cache, H
query heads, K key and value heads, D their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

NAME = "km_shared_prefix"

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values (K, P, D) of each layer, of tokens that stand before others."""


def before(model: Any) -> Layers | None:
    """What stands before all that a model reads: see `adapters`. None for most models."""
    found = getattr(model, "before", None)
    layers: Layers | None = found() if found else None
    return layers


@dataclass(frozen=True, slots=True)
class Prefixes:
    """layers: keys and values (G, K, P, D) of each layer, padded on the right to P.

    lengths: of each prefix, without padding; a layer may have kept fewer. rows: how many rows read each; the rows of a
    batch stand in this order.
    """

    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    lengths: Sequence[int]
    rows: Sequence[int]

    def keep(self, kept: Sequence[int]) -> Prefixes:
        """With only the rows of these ascending indices."""
        rows, start = [], 0
        for count in self.rows:
            rows.append(sum(start <= row < start + count for row in kept))
            start += count
        return replace(self, rows=rows)


class OwnLayer(DynamicLayer):
    """Keys and values (R, K, S, D) of one layer, written in place: transformers' own copies all of them at each step."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.room = [
            torch.empty((*states.shape[:2], self.capacity, states.shape[3]), dtype=states.dtype, device=states.device)
            for states in (key_states, value_states)
        ]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.used = self.used, self.used + key_states.shape[2]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start : self.used] = states
        return self._show()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        for which, room in enumerate(self.room):
            kept = room.new_empty((len(indices), *room.shape[1:]))
            torch.index_select(room[:, :, : self.used], 0, indices, out=kept[:, :, : self.used])
            self.room[which] = kept
        self._show()

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (room[:, :, : self.used] for room in self.room)
        return self.keys, self.values


def own_cache(config: Any, capacity: int) -> Any:
    """transformers' Cache of an OwnLayer for each layer."""
    return Cache(layers=[OwnLayer(capacity) for _ in DynamicCache(config=config).layers])


def keeps_everything(config: Any) -> bool:
    """Whether every layer attends to all tokens before: no sliding windows, no states of another kind."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def only(layers: Layers, rows: int) -> Prefixes:
    """What all rows of a batch read before their own, once."""
    return Prefixes([(keys[None], values[None]) for keys, values in layers], [layers[0][0].shape[1]], [rows])


def read_prefixes(
    decoder: Any,
    prefixes: Sequence[list[int]],
    rows: Sequence[int],
    device: torch.device,
    before: Layers | None = None,
) -> Prefixes:
    """One forward pass over the prefixes, padded on the right: with causal attention none sees its padding.

    before: what stands before each of them, and is a part of it from then on."""
    ids = torch.zeros((len(prefixes), max(map(len, prefixes))), dtype=torch.long)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = torch.tensor(prefix)
    already = before[0][0].shape[1] if before else 0
    cache = own_cache(decoder.config, already + ids.shape[1])
    for number, states in enumerate(before or ()):
        cache.update(*(one.expand(len(prefixes), -1, -1, -1) for one in states), number)
    decoder(input_ids=ids.to(device), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return Prefixes([(layer.keys, layer.values) for layer in layers], [already + len(one) for one in prefixes], rows)


@contextmanager
def over(prefixes: Prefixes | None, config: Any) -> Iterator[dict[str, Any]]:
    """What to give a model's forward so that its rows read the prefixes too; None changes nothing."""
    if prefixes is None:
        yield {}
        return
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield {"shared_prefixes": prefixes}
    finally:
        config._attn_implementation = before


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    shared_prefixes: Prefixes,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query (R, H, Q, D), key and value (R, K, S, D): the rows' own.

    attention_mask (R, 1, Q, S) is added to the scores of the rows' own tokens; all of a prefix is visible.
    Returns (R, Q, H, D). Raises TypeError for a family that caps its scores.
    """
    if softcap is not None:
        raise TypeError("scores with a cap")
    (count, heads, _, size), (groups, own) = query.shape, key.shape[1:3]
    queries = (query * scaling).reshape(count, groups, -1, size)  # the query heads of a key head, one after the other
    scores = queries @ key.transpose(2, 3)
    scores = (scores.view(count, groups, heads // groups, -1, own) + attention_mask[:, :, None]).view(scores.shape)
    output, weights = torch.empty_like(queries), torch.empty_like(scores)
    start = 0
    keys, values = shared_prefixes.layers[module.layer_idx]
    for which, (length, rows) in enumerate(zip(shared_prefixes.lengths, shared_prefixes.rows, strict=True)):
        if not rows:  # all of them have ended
            continue
        length = min(length, keys.shape[2])
        part = slice(start, start + rows)
        start += rows
        asked = queries[part].transpose(0, 1).reshape(groups, -1, size)
        both = torch.cat(
            [
                asked @ keys[which, :, :length].transpose(1, 2),
                scores[part].transpose(0, 1).reshape(groups, -1, own),
            ],
            dim=-1,
        )
        both = torch.softmax(both, dim=-1, dtype=torch.float32).to(query.dtype)
        read = both[..., :length] @ values[which, :, :length]
        output[part] = read.view(groups, rows, -1, size).transpose(0, 1)
        weights[part] = both[..., length:].reshape(groups, rows, -1, own).transpose(0, 1)
    output += weights @ value
    return output.view(query.shape).transpose(1, 2).contiguous(), None


def attend_over(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
) -> torch.Tensor:
    """Causal attention of samples (R, H, W, D) over their own keys and values (R, K, W, D) and those (K, P, D) that stand
    before all of them, which are not copied for each: one product for all samples' queries. Returns (R, H, W, D)."""
    (count, heads, width, size), groups, (far_key, far_value) = query.shape, key.shape[1], before
    already = far_key.shape[1]
    asked = (query * scaling).reshape(count, groups, -1, size)  # the query heads of a key head, one after the other
    far = asked.transpose(0, 1).reshape(groups, -1, size) @ far_key.transpose(1, 2)
    far = far.view(groups, count, -1, already).transpose(0, 1)
    near = asked @ key.transpose(2, 3)
    hidden = torch.full((width, width), -torch.inf, device=query.device, dtype=query.dtype).triu(1)
    near = (near.view(count, groups, heads // groups, width, width) + hidden).view(near.shape)
    weights = torch.softmax(torch.cat([far, near], dim=-1), dim=-1, dtype=torch.float32).to(query.dtype)
    far, near = weights.split([already, width], dim=-1)
    read = far.transpose(0, 1).reshape(groups, -1, already) @ far_value
    out = read.view(groups, count, -1, size).transpose(0, 1) + near @ value
    return out.reshape(query.shape)


AttentionInterface.register(NAME, _attend)
