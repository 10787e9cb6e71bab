"""A compressed document: summary vectors that stand before the question, and a LoRA that has learned to read them (LLoCO,
Tan et al. 2024, arXiv 2404.07979).

The vectors are a compressor's, or means of token embeddings where there is none for the base (`summary`). The LoRA is of
one document, or one for a group of them, which read their own vectors each. Its folder is a LoRA's in PEFT's own format,
with the vectors as they are fed in one file more: whatever loads LoRAs loads that part of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.adapters import lora
from kmcli.adapters.folder import CONFIG, FIRST, WEIGHTS, explained
from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.bases import Base, Loaded
from kmcli.errors import KmError, UsageError
from kmcli.types import Recipe

if TYPE_CHECKING:
    import torch

    from kmcli.adapters.reading import Reading
    from kmcli.adapters.stack import Adapter

PEFT_TYPE = "LORA"
BESIDE = "summary_vectors.safetensors"
WHAT = "a LoRA with summary vectors that stand before the question"
ABLE = frozenset({"hf", "vllm", "peft", "gguf", "gguf-lora", "merged", "group"})
DEFAULTS: Mapping[str, Any] = {}

RATE = 10.0
"""How many times the LoRA's learning rate the vectors have that are refined, in units of the base's own embeddings."""


def build(loaded: Loaded, recipe: Recipe, name: str = FIRST, text: str = "", shelf: Shelf = EMPTY) -> Reading:
    from kmcli.adapters.prefix import heads_of
    from kmcli.adapters.reading import Reading
    from kmcli.adapters.summary import spread, vectors_of

    heads_of(loaded)  # whether anything can stand before what it reads
    vectors_VH = vectors_of(loaded, text, recipe.summary_ratio, shelf)
    model = Reading(loaded, lora.build(loaded, recipe, name), RATE * spread(loaded))
    model.put(name, name, vectors_VH, recipe.summary_refined)
    activate(model, [name])
    return model


def add(model: Any, loaded: Loaded, recipe: Recipe, name: str, text: str = "", shelf: Shelf = EMPTY) -> None:
    """One of the same group reads with the LoRA that is there."""
    from kmcli.adapters.summary import vectors_of

    vectors_VH = vectors_of(loaded, text, recipe.summary_ratio, shelf, model)
    own = name
    if recipe.group:
        own = next(iter(model.loras.values()))
    else:
        lora.add(model.peft, loaded, recipe, name)
    model.put(name, own, vectors_VH, recipe.summary_refined)


def activate(model: Any, names: Sequence[str]) -> None:
    """One at a time."""
    (name,) = names
    model.active = name
    lora.activate(model.peft, [model.loras[name]])


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Of a group: the LoRA, and the vectors of all that have it. Vectors are there also where they do not learn, so that a
    checkpoint has those that it was trained with."""
    own = model.loras[model.active]
    sharing = [name for name, other in model.loras.items() if other == own]
    return lora.trainable(model.peft) | {f"vectors.{place}": model.vectors[name] for place, name in enumerate(sharing)}


def save(model: Any, folder: Path, name: str = FIRST) -> None:
    lora.save(model.peft, folder, model.loras[name])
    _write(folder, model.embeddings(name).detach().cpu())


def _write(folder: Path, vectors_VH: torch.Tensor) -> None:
    from safetensors.torch import save as as_bytes

    # save_file would make a file for its owner alone
    (folder / BESIDE).write_bytes(as_bytes({"vectors": vectors_VH.contiguous()}, {"format": "pt"}))


def read_folder(folder: Path, base_width: int = 0) -> torch.Tensor:
    """The vectors (V, H) of a folder, in fp32. base_width: the H that they must have; 0: any.

    Raises KmError where the folder is damaged or the vectors do not fit."""
    from safetensors.torch import load_file

    with explained(folder):
        vectors_VH = load_file(folder / BESIDE)["vectors"].float()
        if vectors_VH.dim() != 2 or not len(vectors_VH) or not vectors_VH.isfinite().all():
            raise ValueError("its summary vectors are damaged")
    if base_width and vectors_VH.shape[1] != base_width:
        raise KmError(
            f"the summary vectors in {folder} do not fit the base: they have {vectors_VH.shape[1]:,} numbers each, its "
            f"embeddings {base_width:,}.",
            "Use the base that they were made with.",
        )
    return vectors_VH


def load_side_by_side(loaded: Loaded, folders: Mapping[str, Path]) -> Reading:
    from kmcli.adapters.reading import Reading

    table: Any = loaded.model.get_input_embeddings()
    width = int(table.weight.shape[1])
    found = {name: read_folder(folder, width) for name, folder in folders.items()}
    model = Reading(loaded, lora.load_side_by_side(loaded, folders), 1.0)
    for name, vectors_VH in found.items():
        model.put(name, name, vectors_VH, train=False)
    model.set_adapter(next(iter(folders)))
    return model.eval()


def load_sum(loaded: Loaded, weighted: Sequence[tuple[Path, float]]) -> Reading:
    if len(weighted) > 1:
        raise UsageError("compressed documents cannot be on the base together.", "Ask about them one by one.")
    ((folder, weight),) = weighted
    if weight != 1:
        raise UsageError("a compressed document takes no weight: it is there or not.", "Leave --weight out.")
    return load_side_by_side(loaded, {FIRST: folder})


def join(base: Base, folders: Sequence[Path], out: Path) -> int:
    if len(folders) > 1:
        raise UsageError("compressed documents cannot be put together.", "Export them one by one.")
    from safetensors import safe_open

    from kmcli.bases.folder import read_config

    told = read_config(base.path)
    read_folder(folders[0], int((told.get("text_config") or told)["hidden_size"]))
    for name in (CONFIG, WEIGHTS, BESIDE):
        with explained(folders[0]):
            shutil.copyfile(folders[0] / name, out / name)
    with explained(folders[0]), safe_open(out / WEIGHTS, "pt") as tensors:
        return len(list(tensors.keys())) + 1


def read(folder: Path, device: torch.device) -> Adapter:
    from kmcli.adapters import stack

    return replace(stack.read(folder, device), vectors=read_folder(folder).to(device))


def described(recipe: Recipe) -> str:
    how = ", refined" if recipe.summary_refined else ""
    return f"lora of rank {recipe.rank} that reads a vector for every {recipe.summary_ratio} tokens{how}"


def written(folder: Path) -> Mapping[str, Any]:
    return lora.written(folder)


def advice(base: Base, shelf: Shelf) -> tuple[str, str] | None:
    if shelf.compressor:
        return None
    return (
        f"there is no compressor for {base.name}: the document's vectors begin as means of its tokens' embeddings",
        "Train one on the library's texts: km compressor train",
    )
