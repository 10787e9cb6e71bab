"""Many Knowledge Modules in one forward pass: every row of a batch adds the low-rank updates of its own.

PEFT can do that too (`adapter_names`), one small product per layer and module; here all rows are one batched product per
layer, which is several times faster from eight modules on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters.folder import AGAIN, CONFIG, WEIGHTS, explained
from kmcli.engines import attention
from kmcli.errors import ResourceError

# What else a PEFT configuration may ask for, and the values with which it asks for nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """Factors (in, rank) and (rank, out) for each linear layer of the base, by its name; the second has the scale in it.

    before: keys and values that stand before the row, which `Slots.join` puts there. vectors (V, H): input embeddings of
    which the base makes them, with the factors on it; see `Stack.before`."""

    rank: int
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    before: attention.Layers | None = None
    vectors: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """That stand before the row."""
        if self.vectors is not None:
            return len(self.vectors)
        return self.before[0][0].shape[1] if self.before else 0


def read(folder: Path, device: torch.device) -> Adapter:
    """The adapter in a folder of PEFT's format, as `lora.save` writes it.

    Raises KmError where the folder is damaged or gone, ResourceError where the adapter is more than a plain LoRA.
    """
    from safetensors.torch import load_file

    with explained(folder):
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS, device=str(device))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    odd = [key for key, plain in _PLAIN.items() if config.get(key, plain[0]) not in plain]
    names = sorted({key.partition(".lora_")[0] for key in tensors})
    pairs = [(tensors.get(f"{name}.lora_A.weight"), tensors.get(f"{name}.lora_B.weight")) for name in names]
    if odd or len(tensors) != 2 * len(names) or any(a is None or b is None for a, b in pairs):
        named = ", ".join(odd) or "its weights"
        raise ResourceError(
            f"the Knowledge Module in {folder} is more than a plain LoRA ({named}), and those cannot be batched.", AGAIN
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    factors = {
        name.removeprefix("base_model.model."): (a.t().contiguous(), (b.t() * scale).contiguous())
        for name, (a, b) in zip(names, pairs, strict=True)
        if a is not None and b is not None
    }
    return Adapter(rank, factors)


class Stack:
    """The adapters of a batch's rows, hooked into the linear layers of a model.

    Each row has a place in two tensors per layer, (rows, in, rank) and (rows, rank, out), filled with zeros where it
    carries none or one of lower rank. Nothing is added outside of `on`.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self._model, self._rows = model, rows
        self._rank = 0
        self._carried = [False] * rows
        self._rooms: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._part: slice | None = None

    def put(self, row: int, adapter: Adapter | None) -> None:
        """Raises ResourceError where the adapter does not fit the model."""
        self._carried[row] = adapter is not None
        if adapter is None and not self._rooms:
            return
        if adapter is not None:
            self._make_room(adapter)
        for name, (down, up) in self._rooms.items():
            down[row].zero_()
            up[row].zero_()
            if adapter is not None and name in adapter.factors:
                first, second = adapter.factors[name]
                down[row, :, : adapter.rank] = first
                up[row, : adapter.rank] = second

    def before(self, row: int, adapter: Adapter | None) -> attention.Layers | None:
        """What stands before a row, whose adapter has been put there."""
        if adapter is None or adapter.vectors is None:
            return adapter.before if adapter else None
        from kmcli.adapters.reading import read_vectors

        with self.on(row, row + 1):
            return read_vectors(self._model, adapter.vectors)

    def move(self, source: int, target: int) -> None:
        """The row at one place is at another from now on."""
        self._carried[target] = self._carried[source]
        for room in self._rooms.values():
            for tensor in room:
                tensor[target] = tensor[source]

    @contextmanager
    def on(self, start: int, stop: int) -> Iterator[None]:
        """In forward passes inside, batch row 0 is the row `start`, and so on up to `stop`."""
        self._part = slice(start, stop) if any(self._carried[start:stop]) else None
        try:
            yield
        finally:
            self._part = None

    def _make_room(self, adapter: Adapter) -> None:
        if adapter.rank > self._rank:
            self._rank = adapter.rank
            for name, old in self._rooms.items():
                self._rooms[name] = new = self._empty(old[0].shape[1], old[1].shape[2], old[0])
                new[0][:, :, : old[0].shape[2]] = old[0]
                new[1][:, : old[1].shape[1]] = old[1]
        for name, (down, up) in adapter.factors.items():
            if name in self._rooms:
                continue
            try:
                layer = self._model.get_submodule(name)
            except AttributeError:
                raise ResourceError(
                    f"the Knowledge Module changes {name}, which the base does not have.",
                    "Train it again with: km train NAME --restart",
                ) from None
            self._rooms[name] = self._empty(down.shape[0], up.shape[1], down)
            layer.register_forward_hook(self._hook(name))

    def _empty(self, wide: int, out: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return like.new_zeros((self._rows, wide, self._rank)), like.new_zeros((self._rows, self._rank, out))

    def _hook(self, name: str) -> Any:
        def add(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            if self._part is None:
                return output
            down, up = (room[self._part] for room in self._rooms[name])
            inner = torch.bmm(inputs[0].to(down.dtype), down)
            if output.dtype == up.dtype:
                return output.baddbmm_(inner, up)
            return output + torch.bmm(inner, up).to(output.dtype)

        return add
