"""The Knowledge Extractor (Caccia et al. 2025, section 3.3): a second LoRA, shared by documents, that learns to use what
their Knowledge Modules know.

Of every linear layer the output is base + w_km * (the row's Knowledge Module) + w_ke * (the extractor), with a learnable
pair of weights a layer, 0.5 at the start. In training each row of a batch has the module of its own document. For use the
two are baked into one plain LoRA of PEFT's format, which everything that takes a module takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from kmcli.adapters.folder import missing
from kmcli.adapters.lora import CONFIG, WEIGHTS
from kmcli.adapters.stack import Adapter, read
from kmcli.bases import Loaded
from kmcli.errors import KmError, ResourceError

MIXING = "mixing.safetensors"
"""Beside the LoRA's own files: of each layer, w_km and w_ke."""

START = 0.5
_AGAIN = "Train it again with: km extractor train NAME --restart"


class Mixture:
    """An extractor in training, over a frozen base.

    parameters: of each layer A (rank, in), B (out, rank), w_km and w_ke, by the names that `save` gives them.
    """

    def __init__(self, loaded: Loaded, rank: int, alpha: float, seed: int) -> None:
        """B is zero, so it changes nothing yet but how much a module counts."""
        self._loaded, self._scale, self.rank = loaded, alpha / rank, rank
        self._layers = linear_layers(loaded.model)
        self.parameters: dict[str, torch.nn.Parameter] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, layer in self._layers.items():
            wide, out = layer.in_features, layer.out_features
            bound = 1 / math.sqrt(wide)  # as PEFT begins
            down = torch.empty(rank, wide).uniform_(-bound, bound, generator=generator)
            values = {"lora_A.weight": down, "lora_B.weight": torch.zeros(out, rank)}
            values |= {"w_km": torch.tensor(START), "w_ke": torch.tensor(START)}
            for key, value in values.items():
                self.parameters[f"{name}.{key}"] = torch.nn.Parameter(value.to(loaded.device))

    @contextmanager
    def on(self, modules: Sequence[Adapter | None], alone: bool = False) -> Iterator[None]:
        """In forward passes inside, row i of the batch has modules[i] on, and the extractor.

        alone: the modules by themselves, at full weight. Raises ResourceError for one that does not fit the base.
        """
        for module in modules:
            if module is not None and (odd := module.factors.keys() - self._layers.keys()):
                raise ResourceError(
                    f"a Knowledge Module changes {min(odd)}, which is no linear layer of the base.",
                    "Train it again with: km train NAME --restart",
                )
        handles = [
            layer.register_forward_hook(self._hook(name, modules, alone)) for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def save(self, folder: Path) -> None:
        """Write the extractor into an existing folder: a LoRA in PEFT's format, and the weights beside it."""
        from safetensors.torch import save_file

        values = {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters.items()}
        lora = {name: value for name, value in values.items() if ".lora_" in name}
        _write(folder, lora, self.rank, self._scale * self.rank, _origin(self._loaded))
        save_file({name: value for name, value in values.items() if ".lora_" not in name}, folder / MIXING)

    def weights(self) -> tuple[float, float]:
        """Means over the layers of w_km and w_ke."""
        values = {name: value.item() for name, value in self.parameters.items() if ".lora_" not in name}
        w_km, w_ke = (fmean(one for name, one in values.items() if name.endswith(key)) for key in (".w_km", ".w_ke"))
        return w_km, w_ke

    def _hook(self, name: str, modules: Sequence[Adapter | None], alone: bool) -> Any:
        down, up = (self.parameters[f"{name}.lora_{side}.weight"] for side in "AB")
        w_km, w_ke = (self.parameters[f"{name}.{key}"] for key in ("w_km", "w_ke"))
        factors = _side_by_side(name, modules)

        def add(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            (given,) = inputs
            if given.dim() != 3 or len(given) != len(modules):
                raise ResourceError(
                    f"km cannot train an extractor for {self._loaded.base.name}: its layers see no batch of rows.",
                    "Choose another base with --model (see km models).",
                )
            states = given.to(down.dtype)
            changes = []
            if factors is not None:
                change = torch.bmm(torch.bmm(states, factors[0]), factors[1])
                changes.append(change if alone else w_km * change)
            if not alone:
                changes.append(w_ke * self._scale * (states @ down.t() @ up.t()))
            return output + sum(changes).to(output.dtype) if changes else output  # type: ignore[union-attr]

        return add


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers of a base by name, its head excepted: those that a Knowledge Module changes."""
    head = model.get_output_embeddings()
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head
    }


def bake(extractor: Path, module: Path | None, out: Path) -> None:
    """Write what an extractor and a Knowledge Module, or the extractor by itself, make of a base as one plain LoRA in PEFT's
    format, into an existing folder: their ranks side by side, their weights in its factors.

    Raises KmError where a folder is damaged, ResourceError where the module is more than a plain LoRA.
    """
    cpu = torch.device("cpu")
    own = _read_extractor(extractor)
    mixing = _mixing(extractor, own)
    known = read(module, cpu) if module else Adapter(0, {})
    rank = own.rank + known.rank
    tensors: dict[str, torch.Tensor] = {}
    for name, (down, up) in own.factors.items():
        downs, ups = [down.float()], [up.float() * mixing[f"{name}.w_ke"]]
        if name in known.factors:
            first, second = known.factors[name]
            downs.insert(0, first.float())
            ups.insert(0, second.float() * mixing[f"{name}.w_km"])
        elif known.rank:
            downs.append(down.new_zeros(len(down), known.rank))
            ups.append(up.new_zeros(known.rank, up.shape[1]))
        tensors[f"{name}.lora_A.weight"] = torch.cat(downs, 1).t().contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.cat(ups, 0).t().contiguous()
    if odd := known.factors.keys() - own.factors.keys():
        raise ResourceError(f"the Knowledge Module changes {min(odd)}, and the extractor does not.", _AGAIN)
    config = json.loads((extractor / CONFIG).read_text("utf-8"))
    _write(out, tensors, rank, rank, {key: config.get(key) for key in ("base_model_name_or_path", "revision")})


def _side_by_side(name: str, modules: Sequence[Adapter | None]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of one layer the rows' factors, (rows, in, rank) and (rows, rank, out), zeros where there is none; None where no row
    has any."""
    found = [(module.factors.get(name) if module else None) for module in modules]
    like = next((pair for pair in found if pair is not None), None)
    if like is None:
        return None
    rank = max(pair[0].shape[1] for pair in found if pair is not None)
    down = like[0].new_zeros(len(modules), like[0].shape[0], rank)
    up = like[1].new_zeros(len(modules), rank, like[1].shape[1])
    for row, pair in enumerate(found):
        if pair is not None:
            down[row, :, : pair[0].shape[1]] = pair[0]
            up[row, : pair[1].shape[0]] = pair[1]
    return down, up


def _origin(loaded: Loaded) -> dict[str, Any]:
    return {"base_model_name_or_path": loaded.base.portable_name, "revision": loaded.base.revision}


def _write(
    folder: Path, tensors: Mapping[str, torch.Tensor], rank: int, alpha: float, origin: Mapping[str, Any]
) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    save_file({f"base_model.model.{name}": value for name, value in tensors.items()}, folder / WEIGHTS)
    targets = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = LoraConfig(
        r=rank, lora_alpha=int(alpha), target_modules=targets, task_type="CAUSAL_LM", inference_mode=True, **origin
    )
    config.save_pretrained(str(folder))
    values = json.loads((folder / CONFIG).read_text("utf-8"))
    values["target_modules"].sort()  # from a set: in another order every time
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


def _read_extractor(folder: Path) -> Adapter:
    try:
        return read(folder, torch.device("cpu"))
    except KmError as error:
        raise _damaged(folder, error.message) from None


def _mixing(folder: Path, own: Adapter) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(folder / MIXING)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from None
    if any(f"{name}.{key}" not in found for name in own.factors for key in ("w_km", "w_ke")):
        raise _damaged(folder, f"weights are missing in {MIXING}")
    return found


def _damaged(folder: Path, why: str) -> KmError:
    if not folder.is_dir():
        return missing(folder)
    return KmError(f"the Knowledge Extractor in {folder} cannot be loaded: {why.rstrip('.')}.", _AGAIN)
