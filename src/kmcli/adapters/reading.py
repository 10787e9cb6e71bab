"""A base that reads summary vectors first, by a LoRA: what carries compressed documents.

What stands before a text are the keys and values that base and LoRA make of the vectors: they are read as input embeddings
are, once for all rows of a batch, and gradients go back through that to the LoRA, and to the vectors where they learn.
Shapes: V vectors, H the hidden size, K key and value heads, D their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kmcli.adapters.before import Before
from kmcli.bases import Loaded
from kmcli.engines import attention


class Reading(Before):
    """vectors: of each adapter (V, H), in units of `unit`, so that a step of training is of a like size for all bases.
    loras: the LoRA of each adapter; those of a group have the same. peft: that carries them."""

    def __init__(self, loaded: Loaded, peft: Any, unit: float) -> None:
        super().__init__()
        self.loaded, self.peft, self.unit = loaded, peft, unit
        self.vectors = torch.nn.ParameterDict()
        self.loras: dict[str, str] = {}

    def put(self, name: str, lora: str, vectors_VH: torch.Tensor, train: bool) -> None:
        own = (vectors_VH.float() / self.unit).to(self.loaded.device)
        self.vectors[name] = torch.nn.Parameter(own, requires_grad=train)
        self.loras[name] = lora

    def set_adapter(self, name: str) -> None:
        super().set_adapter(name)
        self.peft.set_adapter(self.loras[name])

    def enable_adapter_layers(self) -> None:
        self.peft.enable_adapter_layers()

    def get_base_model(self) -> Any:
        return self.peft.get_base_model()

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        before, self._on = self._on, False
        try:
            with self.peft.disable_adapter():
                yield
        finally:
            self._on = before

    def unload(self) -> Any:
        return self.peft.unload()

    def embeddings(self, name: str) -> torch.Tensor:
        """The vectors (V, H) of an adapter as the base reads them, in fp32."""
        return self.vectors[name] * self.unit

    def before(self) -> attention.Layers | None:
        """Keys and values (K, V, D) of each layer, in the base's numbers, with gradients; None while they are off."""
        return read_vectors(self.get_base_model(), self.embeddings(self.active)) if self._on else None


def read_vectors(base: Any, vectors_VH: torch.Tensor) -> attention.Layers:
    """What a transformers model makes of vectors, with whatever adapter is on it."""
    decoder: Any = base.get_decoder()
    cache = DynamicCache(config=decoder.config)
    with _whole(decoder):
        decoder(inputs_embeds=vectors_VH.to(base.dtype)[None], past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


@contextmanager
def _whole(decoder: Any) -> Iterator[None]:
    """Within it nothing is computed a second time for the gradients: transformers keeps no keys and values then."""
    saving = [one for one in decoder.modules() if getattr(one, "gradient_checkpointing", False)]
    for one in saving:
        one.gradient_checkpointing = False
    try:
        yield
    finally:
        for one in saving:
            one.gradient_checkpointing = True
