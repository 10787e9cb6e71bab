"""Chats under one long text of which only a part of the keys and values is kept: those that draw most attention.

Devoto et al. 2024 (arXiv 2406.11430): a key of low L2 norm is attended to most. So each head of each layer keeps the keys
of the lowest norm, with their values, in the places that they had; the first layers keep all of theirs. The text is read
whole before anything is dropped: it must fit in the context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kmcli.bases import Loaded
from kmcli.engines import Chat
from kmcli.engines.hf import HfEngine
from kmcli.engines.prefixes import Group
from kmcli.errors import ResourceError

if TYPE_CHECKING:
    import torch

    from kmcli.engines.attention import Prefixes

UNTOUCHED = 2
"""Layers, the first, that keep everything: there a low norm does not yet mean attention."""


class CompressedEngine(HfEngine):
    def __init__(
        self,
        loaded: Loaded,
        opening: Chat,
        kept: float,
        model: Any = None,
        adapter: bool | str = True,
        others: Sequence[Any] = (),
    ) -> None:
        """opening: what all the chats begin with. kept: the share of its keys and values that stays, over 0 and up to 1.

        Raises ValueError for another share, ResourceError for a base whose attention cannot leave tokens out.
        """
        if not 0 < kept <= 1:
            raise ValueError(f"the share kept must lie above 0 and not above 1, not {kept}")
        super().__init__(loaded, model, adapter, others)
        self.kept = kept
        self._opening = loaded.chat_ids(list(opening))
        self._squeeze = self._lowest
        if not self._can_share(self._opening[:64]):
            raise ResourceError(
                f"the keys and values of {loaded.base.name} cannot be compressed: its attention is of another kind.",
                "Leave full-l2 out.",
            )

    def held(self, tokens: float) -> float:
        """Of a chat that begins with the opening."""
        layers = int(self.loaded.model.config.get_text_config().num_hidden_layers)
        return super().held(tokens) - len(self._opening) * (1 - share_kept(self.kept, layers))

    def _plan(self, prompts: list[list[int]], todo: Sequence[int], new: int) -> list[list[Group]]:
        """A prefix is the opening, as far as a prompt begins with it, and no more: questions alike are not compressed."""
        lengths: dict[int, list[int]] = {}
        for row in todo:
            pairs = zip(self._opening, prompts[row][:-1], strict=False)
            common = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
            length = min(len(self._opening), len(prompts[row]) - 1) if common is None else common
            lengths.setdefault(length, []).append(row)
        batches: list[list[Group]] = []
        for prefix, rows in lengths.items():
            widest = max(len(prompts[row]) for row in rows) - prefix + new
            size = max(1, (self.tokens_per_batch - prefix) // widest)
            batches += [[Group(prefix, tuple(rows[at : at + size]))] for at in range(0, len(rows), size)]
        return batches

    def _lowest(self, prefixes: Prefixes) -> Prefixes:
        return compress(prefixes, self.kept)


def compress(prefixes: Prefixes, kept: float, untouched: int = UNTOUCHED) -> Prefixes:
    """A single prefix with, in every layer but the first `untouched`, each head's tokens whose keys have the lowest norm.

    Of n tokens ceil(kept * n) stay, in their order. Raises ValueError for several prefixes: they would keep unlike numbers.
    """
    if len(prefixes.lengths) != 1:
        raise ValueError("one prefix at a time can be compressed")
    stay = math.ceil(kept * prefixes.lengths[0])
    layers = [pair if number < untouched else _smallest(*pair, stay) for number, pair in enumerate(prefixes.layers)]
    return replace(prefixes, layers=layers)


def _smallest(keys: torch.Tensor, values: torch.Tensor, stay: int) -> tuple[torch.Tensor, torch.Tensor]:
    """keys, values (1, K, P, D) -> (1, K, stay, D)."""
    lowest = keys.float().norm(dim=-1).topk(stay, dim=-1, largest=False).indices.sort(dim=-1).values
    places = lowest[..., None].expand(*lowest.shape, keys.shape[-1])
    return keys.gather(2, places), values.gather(2, places)


def share_kept(kept: float, layers: int) -> float:
    """Of all the keys and values of a text, the first layers' among them."""
    whole = min(UNTOUCHED, layers)
    return (whole + (layers - whole) * kept) / layers
