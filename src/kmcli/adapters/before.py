"""What carriers have in common whose adapter stands before the text: they read it, and write after it, for a row alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from kmcli.engines import Sampling, attention, decoding
from kmcli.engines.prefixes import Group


class Before(torch.nn.Module, ABC):
    """A carrier of adapters by name, of which one is on."""

    def __init__(self) -> None:
        super().__init__()
        self.active = ""
        self._on = True

    @property
    def active_adapters(self) -> list[str]:
        return [self.active]

    def set_adapter(self, name: str) -> None:
        self.active = name

    def enable_adapter_layers(self) -> None:
        """As PEFT's: layers of the base that the adapter changes do so again."""

    @abstractmethod
    def get_base_model(self) -> Any:
        """The transformers model."""

    @abstractmethod
    def before(self) -> attention.Layers | None:
        """What stands there: see `engines.attention.before`."""

    @property
    def generation_config(self) -> Any:
        return self.get_base_model().generation_config

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        """The base's output for one row of ids."""
        base, before = self.get_base_model(), self.before()
        already = before[0][0].shape[1] if before else 0
        cache: Any = attention.own_cache(base.config, already + input_ids.shape[1])
        for number, (keys, values) in enumerate(before or ()):
            cache.update(keys[None], values[None], number)
        return base(input_ids=input_ids, past_key_values=cache, use_cache=True, **more)

    def generate(
        self, input_ids: torch.Tensor, max_new_tokens: int, eos_token_id: Sequence[int], **greedy: Any
    ) -> torch.Tensor:
        """What is written after one row of ids, the likeliest token each time, with the ids before it."""
        base, ids = self.get_base_model(), input_ids[0].tolist()
        with torch.inference_mode():
            group = [Group(0, (0,))]
            rows = decoding.Rows(base, [ids], group, max_new_tokens, input_ids.device, before=self.before())
            sampling = Sampling(max_tokens=max_new_tokens, temperature=0.0)
            (written,) = decoding.decode(rows, sampling, eos_token_id, torch.zeros((1, max_new_tokens, 2)))
        return torch.tensor([ids + written])
