"""What the tests of cartridges share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kmcli.adapters import cartridge
from kmcli.adapters.folder import WEIGHTS
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.training import train
from kmcli.types import Recipe, silent
from training_cases import CHUNKS, RECIPE, samples

TEXT = " ".join(f"Ann built mill {number} in {1800 + number}, and Bo kept it." for number in range(40))
CARTRIDGE = replace(RECIPE, adapter="cartridge", cartridge_tokens=24, learning_rate=0.02)
IDS = list(range(3, 43))
GREEDY = Sampling(max_tokens=8, temperature=0.0)


def folder_of(loaded: Loaded, folder: Path, recipe: Recipe = CARTRIDGE, text: str = TEXT) -> Path:
    model = cartridge.build(loaded, recipe, text=text)
    folder.mkdir()
    cartridge.save(model, folder)
    return folder


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.as_tensor(found)


def trained(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """A training in a folder, or what is left of it; its metrics and its tensor."""
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    recipe = replace(CARTRIDGE, **changes)
    metrics = train(loaded, samples(14), CHUNKS, recipe, folder / "work", folder / "out", report, TEXT)
    return metrics, load_file(folder / "out" / WEIGHTS)[cartridge.EMBEDDINGS]
