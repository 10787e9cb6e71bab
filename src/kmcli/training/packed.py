"""Rows without padding: the tokens of a batch stand one after the other, and attention keeps to each sample.

Rows that begin alike may share their beginning, which is then read once and seen by all of them. Shapes: T tokens of the
batch, H query heads, K key and value heads, D their size.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from kmcli.engines.attention import Layers, attend_over
from kmcli.engines.prefixes import plan

NAME = "km_packed"
ALIKE = 0.75
"""Samples are attended to in one padded batch where none is shorter than this share of the longest."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of rows.

    ids, positions: of its tokens. blocks: in the tokens' order, the length of a shared beginning (0: none) and of what
    each sample has of its own. starts: for each row, where its own tokens begin, and how many of its tokens are before.
    """

    ids: list[int]
    positions: list[int]
    blocks: list[tuple[int, list[int]]]
    starts: list[tuple[int, int]]

    def places(self, row: int, indices: Sequence[int]) -> list[int]:
        """Where these tokens of a row stand in the batch. They must not be in the shared beginning."""
        start, before = self.starts[row]
        return [start + index - before for index in indices]


def pack(rows: Sequence[list[int]], own: Sequence[int] | None = None, documents: Sequence[int] = ()) -> Packed:
    """Put rows of ids one after the other.

    own: how many tokens at the end of each row must stay its own; what rows have in common before that is read once. None:
    nothing is shared, and no row's place depends on what another says. documents: then, how many of the rows each document
    has, one after the other, whose tokens stay together; none: all are of one.
    """
    groups: list[tuple[int, Sequence[int]]]
    if own is None:
        ends = list(accumulate(documents or [len(rows)]))
        groups = [
            (0, sorted(range(start, end), key=lambda row: -len(rows[row]))) for start, end in pairwise([0, *ends])
        ]
    else:
        heads = [ids[: len(ids) - count + 1] for ids, count in zip(rows, own, strict=True)]
        unbounded = sum(map(len, rows)) * (len(rows) + 1)
        batches = plan(heads, range(len(rows)), 0, unbounded, share=True)
        found = [group for batch in batches for group in batch]
        alone = [row for group in found if not group.prefix for row in group.rows]
        groups = [(group.prefix, group.rows) for group in found if group.prefix]
        groups += [(0, sorted(alone, key=lambda row: -len(rows[row])))] if alone else []
    ids: list[int] = []
    positions: list[int] = []
    blocks: list[tuple[int, list[int]]] = []
    starts = [(0, 0)] * len(rows)
    for prefix, members in groups:
        ids += rows[members[0]][:prefix]
        positions += range(prefix)
        for row in members:
            starts[row] = (len(ids), prefix)
            ids += rows[row][prefix:]
            positions += range(prefix, len(rows[row]))
        blocks.append((prefix, [len(rows[row]) - prefix for row in members]))
    return Packed(ids, positions, blocks, starts)


_CAN_PACK: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()


def can_pack(decoder: Any) -> bool:
    """Whether a family's rows may be packed: it may do more to its scores than scale them. Tried once, on a few tokens."""
    if decoder not in _CAN_PACK:
        _CAN_PACK[decoder] = isinstance(decoder, PreTrainedModel) and _equal(decoder)
    return _CAN_PACK[decoder]


def _equal(decoder: Any) -> bool:
    layers = {type(layer) for layer in DynamicCache(config=decoder.config).layers}
    if (
        not decoder._supports_attention_backend
        or not layers <= {DynamicLayer, DynamicSlidingWindowLayer}  # states that run through all tokens
        or getattr(decoder.config, "attention_chunk_size", None)
    ):
        return False
    device = decoder.get_input_embeddings().weight.device
    rows = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, *more] for more in ([20, 21], [30, 31, 32])]
    training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            packed = pack(rows, [2, 3])
            plan = _Plan(packed.blocks, device)
            mine = read(decoder, packed, device, plan).last_hidden_state[0]
            if DynamicSlidingWindowLayer in layers and not plan.windows:  # the family keeps its window to its own mask
                return False
            for row, ids in enumerate(rows):
                theirs = decoder(input_ids=torch.tensor([ids], device=device), use_cache=False).last_hidden_state[0]
                found = mine[packed.places(row, range(16, len(ids)))]
                if (found - theirs[16:]).abs().max() > 0.02 * theirs.abs().max():
                    return False
    except TypeError:  # the family does not hand on what its attention is to be given
        return False
    finally:
        decoder.train(training)
    return True


def read(
    decoder: Any,
    packed: Packed,
    device: torch.device,
    plan: _Plan | None = None,
    before: Layers | None = None,
    **more: Any,
) -> Any:
    """The decoder's output for a batch, of shape (1, T, ...). before: what every row reads before its own tokens, which
    begin behind it; no row shares anything else then."""
    already = before[0][0].shape[1] if before else 0
    with attending(decoder):
        return decoder(
            input_ids=torch.tensor([packed.ids], device=device),
            position_ids=already + torch.tensor([packed.positions], device=device),
            use_cache=False,
            packed=plan or _Plan(packed.blocks, device, before),
            **more,
        )


@contextmanager
def attending(decoder: Any) -> Iterator[None]:
    """Within it a decoder that can pack attends by this module: while it reads, and while gradients are computed of what it
    has read, for which layers may be computed again."""
    config, before = decoder.config, decoder.config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


class _Plan:
    """Which tokens attend together: the same for all layers of a forward pass.

    spans: (start, tokens, rows, width, gather, scatter) of samples by themselves: `rows` samples of at most `width` tokens;
    gather and scatter bring tokens to rows with padding and back, None where all are of one length. shared: (start, prefix,
    lengths) of those that have a beginning in common. windows: whether any layer has said that it sees a window only.
    before: what all samples see before their own tokens; of a base whose layers see everything.
    """

    def __init__(
        self, blocks: Sequence[tuple[int, list[int]]], device: torch.device, before: Layers | None = None
    ) -> None:
        if before and any(prefix for prefix, _ in blocks):
            raise ValueError("samples that share a beginning have nothing else before them")
        self.before = before
        self.spans: list[tuple[int, int, int, int, torch.Tensor | None, torch.Tensor | None]] = []
        self.shared: list[tuple[int, int, list[int]]] = []
        self.windows = False
        start = 0
        for prefix, lengths in blocks:
            if prefix:
                self._span(start, [prefix], device)
                self.shared.append((start, prefix, lengths))
                start += prefix + sum(lengths)
                continue
            while lengths:  # the longest first
                count = next((i for i, size in enumerate(lengths) if size < ALIKE * lengths[0]), len(lengths))
                self._span(start, lengths[:count], device)
                start += sum(lengths[:count])
                lengths = lengths[count:]

    def _span(self, start: int, lengths: Sequence[int], device: torch.device) -> None:
        width, total = max(lengths), sum(lengths)
        gather = scatter = None
        if total < width * len(lengths):
            padded = torch.empty((len(lengths), width), dtype=torch.long)
            places: list[int] = []
            at = 0
            for row, size in enumerate(lengths):
                padded[row] = at  # padding reads the row's first token, for others may be no numbers; nothing reads it
                padded[row, :size] = torch.arange(at, at + size)
                places += range(row * width, row * width + size)
                at += size
            gather, scatter = padded.view(-1).to(device), torch.tensor(places, device=device)
        self.spans.append((start, total, len(lengths), width, gather, scatter))


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: _Plan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query (1, H, T, D), key and value (1, K, T, D). Returns (1, T, H, D)."""
    if softcap is not None:
        raise TypeError("scores with a cap")
    packed.windows |= sliding_window is not None
    many = query.shape[1] != key.shape[1]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (T, heads, D), as it lies in memory
    parts: list[tuple[int, torch.Tensor]] = []
    for start, total, count, width, gather, scatter in packed.spans:
        asked, keys, values = (_rows(states[start : start + total], count, width, gather) for states in (q, k, v))
        if packed.before:
            before = packed.before[module.layer_idx]
            out = attend_over(asked, keys, values, before, scaling or q.shape[-1] ** -0.5)
            flat = out.transpose(1, 2).reshape(count * width, *q.shape[1:])
            parts.append((start, flat if scatter is None else flat.index_select(0, scatter)))
            continue
        window = sliding_window if sliding_window and sliding_window < width else None
        mask = None if window is None else _visible(width, width, window, q.device)
        out = scaled_dot_product_attention(
            asked,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=many,
        )
        flat = out.transpose(1, 2).reshape(count * width, *q.shape[1:])
        parts.append((start, flat if scatter is None else flat.index_select(0, scatter)))
    for start, prefix, lengths in packed.shared:
        at = start + prefix
        for size in lengths:
            keys, values = (
                torch.cat([states[start : start + prefix], states[at : at + size]]).transpose(0, 1)[None]
                for states in (k, v)
            )
            mask = _visible(size, prefix + size, sliding_window, q.device)
            own = q[at : at + size].transpose(0, 1)[None]
            out = scaled_dot_product_attention(
                own, keys, values, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=many
            )
            parts.append((at, out[0].transpose(0, 1)))
            at += size
    parts.sort(key=lambda part: part[0])
    return torch.cat([part for _, part in parts])[None] if len(parts) > 1 else parts[0][1][None], None


def _rows(states: torch.Tensor, count: int, width: int, gather: torch.Tensor | None) -> torch.Tensor:
    """Tokens (T, heads, D) of samples as (count, heads, width, D)."""
    states = states if gather is None else states.index_select(0, gather)
    return states.reshape(count, width, *states.shape[1:]).transpose(1, 2)


def _visible(new: int, total: int, window: int | None, device: torch.device) -> torch.Tensor:
    """(new, total): which of all tokens the last `new` see: themselves and those before, within a window."""
    before = torch.arange(total - new, total, device=device)[:, None] - torch.arange(total, device=device)
    return before >= 0 if window is None else (before >= 0) & (before < window)


AttentionInterface.register(NAME, _attend)
