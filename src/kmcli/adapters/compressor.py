"""A compressor in training: summary tokens, a projection and a LoRA over a frozen base. See `summary` for what it makes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters import lora, summary
from kmcli.bases import Loaded
from kmcli.types import Recipe


class Learning:
    """Shapes as in `summary`. model: a carrier of its LoRA. parameters: what learns, in a fixed order; tokens and projection
    in units of the base's own embeddings, so that a step is of a like size for all bases."""

    def __init__(self, loaded: Loaded, rank: int, alpha: int, seed: int) -> None:
        """It adds nothing yet to the means of embeddings."""
        self.loaded = loaded
        self.model: Any = lora.build(loaded, Recipe(rank=rank, alpha=alpha, seed=seed))
        self.embedded = summary.embedder(loaded)
        self._unit = summary.spread(loaded)
        wide = self.embedded([0]).shape[1]
        zeros = partial(torch.zeros, device=loaded.device)
        self._tokens = torch.nn.Parameter(zeros((summary.most_vectors(loaded.base), wide)))
        self._projection = torch.nn.Parameter(zeros((wide, wide)))
        own = {"tokens": self._tokens, "projection": self._projection}
        self.parameters: dict[str, torch.nn.Parameter] = lora.trainable(self.model) | own

    def vectors(self, segments: Sequence[Sequence[int]], ratio: int, pooled: bool = False) -> torch.Tensor:
        """Of segments that follow each other (V, H), with gradients. pooled: the means of embeddings alone."""
        base: Any = self.model.get_base_model().get_decoder()
        found = self.embedded([])
        for segment in segments:
            part = self.embedded(segment)
            count = min(summary.vectors_for(len(segment), ratio), len(self._tokens))
            if pooled:
                new = summary.pooled(part, count)
            else:
                room = summary.kept_earlier(self.loaded.base, len(segment), count)
                earlier = found[max(0, len(found) - room) :]
                tokens_KH, projection_HH = self._unit * self._tokens, self._unit * self._projection
                new = summary.summarise(base, part, count, earlier, tokens_KH, projection_HH)
            found = torch.cat([found, new])
        return found

    def save(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Write it into an existing folder: a LoRA in PEFT's format, and what else is learned."""
        from safetensors.torch import save as as_bytes

        lora.save(self.model, folder)
        learned = {
            name: (self._unit * one).detach().cpu().contiguous()
            for name, one in (("tokens", self._tokens), ("projection", self._projection))
        }
        # save_file would make a file for its owner alone
        (folder / summary.LEARNED).write_bytes(as_bytes(learned, {"format": "pt"}))
        size = summary.segment_tokens(self.loaded.base)
        told = {"id": secrets.token_hex(8), "segment_tokens": size, "recipe": dict(recipe)}
        (folder / summary.TOLD).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
