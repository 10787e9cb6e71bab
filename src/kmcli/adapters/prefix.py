"""A base with keys and values that stand before whatever it reads: what carries cartridges.

Shapes: P tokens of a cartridge, L layers, K key and value heads, D their size. A cartridge is one tensor (P, L * 2 * K * D),
as PEFT keeps it: of each token the keys and the values of every layer. Keys have their rotary positions, 0 to P - 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from kmcli.adapters.before import Before
from kmcli.bases import Loaded
from kmcli.engines import attention, decoding
from kmcli.errors import ResourceError

TRIED = range(3, 3 + 16)
"""Token ids of a text that is read to see how a base goes about its keys and values."""
ROUNDING = 0.1
"""What half precision may differ by, of the largest; another kind of attention differs by far more."""


class Prefixed(Before):
    """A carrier of cartridges by name, of which one is on. The base itself is not changed: whoever reads with it asks
    `before` what is to stand there."""

    def __init__(self, loaded: Loaded, heads: tuple[int, int]) -> None:
        """heads: K and D."""
        super().__init__()
        self.loaded, self.heads = loaded, heads
        self.base: Any = loaded.model
        self.cartridges = torch.nn.ModuleDict()

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def get_base_model(self) -> Any:
        return self.base

    def unload(self) -> Any:
        return self.base

    def before(self) -> attention.Layers | None:
        """Keys and values (K, P, D) of each layer, in the base's numbers, with gradients; None while they are off."""
        if not self._on:
            return None
        flat: torch.Tensor = self.cartridges[self.active].weight  # type: ignore[assignment]
        return layers(flat.to(self.base.dtype), self.heads)


def layers(flat: torch.Tensor, heads: tuple[int, int]) -> attention.Layers:
    """A cartridge (P, L * 2 * K * D) as keys and values (K, P, D) of each layer."""
    apart = flat.view(len(flat), -1, 2, *heads).permute(1, 2, 3, 0, 4).contiguous()  # (L, 2, K, P, D)
    return [(one[0], one[1]) for one in apart]


def flat_of(found: attention.Layers) -> torch.Tensor:
    """The reverse of `layers`."""
    both = torch.stack([torch.stack([keys, values]) for keys, values in found])  # (L, 2, K, P, D)
    return both.permute(3, 0, 1, 2, 4).reshape(both.shape[3], -1)


def read_text(loaded: Loaded, ids: Sequence[int], start: int = 0) -> attention.Layers:
    """Keys and values (K, P, D) of each layer of a text that the base alone reads, from a position on."""
    decoder: Any = loaded.model.get_decoder()
    cache = attention.own_cache(loaded.model.config, len(ids))
    places = torch.arange(start, start + len(ids), device=loaded.device)[None]
    with torch.no_grad():
        decoder(
            input_ids=torch.tensor([ids], device=loaded.device),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def heads_of(loaded: Loaded) -> tuple[int, int]:
    """K and D. Raises ResourceError where nothing can be put before what the base reads."""
    model = loaded.model
    refused = ResourceError(
        f"nothing can stand before what {loaded.base.name} reads: its attention is of another kind.",
        "Use the adapter lora, or choose another base with --model (see km models).",
    )
    if not attention.keeps_everything(model.config):
        raise refused
    training = model.training
    model.eval()
    with torch.no_grad():
        able = decoding.can_decode(model) and decoding.can_share(model, list(TRIED), loaded.device, ROUNDING)
    found = read_text(loaded, list(TRIED)) if able else []
    model.train(training)
    shapes = {(tensor.shape[0], tensor.shape[2]) for pair in found for tensor in pair}
    if len(shapes) != 1:
        raise refused
    ((count, size),) = shapes
    return count, size


def rebased(loaded: Loaded, flat: torch.Tensor, heads: tuple[int, int], start: int) -> torch.Tensor:
    """A cartridge whose keys stand `start` positions further on. Raises ResourceError where the base's positions are of a
    kind that km does not know."""
    if not start:
        return flat
    if not _turns(loaded):
        raise ResourceError(
            f"cartridges of {loaded.base.name} cannot be put one after the other: its positions are of another kind.",
            "Ask about them one by one.",
        )
    return flat_of([(_turned(loaded, keys, start), values) for keys, values in layers(flat, heads)])


def _turned(loaded: Loaded, keys: torch.Tensor, start: int) -> torch.Tensor:
    """Keys (K, P, D) turned by so many positions, as the base's family turns them."""
    decoder: Any = loaded.model.get_decoder()
    family: Any = sys.modules[type(decoder).__module__]
    places = torch.full((1, keys.shape[1]), start, device=loaded.device)
    four = keys.to(loaded.device, torch.float32)[None]
    cos, sin = decoder.rotary_emb(four, places)
    scale = getattr(decoder.rotary_emb, "attention_scaling", 1.0)  # it is in the keys already
    _, turned = family.apply_rotary_pos_emb(four, four, cos / scale, sin / scale)
    return torch.as_tensor(turned[0].to(keys.device, keys.dtype))


def _turns(loaded: Loaded) -> bool:
    """Whether `_turned` does what the base does: tried on a text read from two positions."""
    start = 5
    try:
        moved = [_turned(loaded, keys, start) for keys, _ in read_text(loaded, list(TRIED))]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    there = read_text(loaded, list(TRIED), start)
    return all(
        bool((one - keys).abs().max() <= 0.02 * keys.abs().max()) for one, (keys, _) in zip(moved, there, strict=True)
    )
