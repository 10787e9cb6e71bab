"""What the tests of compressed documents and of compressors share."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kmcli.adapters import compressed
from kmcli.adapters.folder import WEIGHTS
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.objectives.views import chunk_in_context
from kmcli.training import Job, compressor, train_together
from kmcli.training.compressor_recipe import CompressorRecipe
from kmcli.training.segments import Text
from kmcli.types import Event, silent
from training_cases import CHUNKS, RECIPE, samples

TEXT = " ".join(f"Ann built mill {number} in {1800 + number}, and Bo kept it." for number in range(20))
COMPRESSED = replace(RECIPE, adapter="compressed", summary_ratio=8)
IDS = list(range(3, 43))
GREEDY = Sampling(max_tokens=8, temperature=0.0)
FEW = CompressorRecipe(rank=4, alpha=8, steps=30, learning_rate=0.01, ratios=(8, 15), held_out=0.2)


def ids_of(loaded: Loaded, text: str) -> list[int]:
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=torch.tensor([ids])).logits[0])


def behind(loaded: Loaded, model: Any, vectors_VH: torch.Tensor, ids: list[int] = IDS) -> torch.Tensor:
    """Logits of ids whose row begins with vectors, by the model's own forward pass."""
    embedded = loaded.model.get_input_embeddings()(torch.tensor(ids))
    with torch.no_grad():
        found = model.get_base_model()(inputs_embeds=torch.cat([vectors_VH, embedded])[None], use_cache=False)
    return torch.as_tensor(found.logits[0, len(vectors_VH) :])


def trained(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A training in a folder, or what is left of it: its metrics, and the tensors of both its files."""
    job = job_of(folder, **changes)
    results: list[Any] = []
    train_together(loaded, [job], report, lambda _, result: results.append(result))
    return results[0], tensors(job.out)


def job_of(folder: Path, count: int = 14, **changes: Any) -> Job:
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = changes.pop("text", TEXT)
    recipe = replace(COMPRESSED, **changes)
    return Job(folder.name, samples(count), CHUNKS, recipe, folder / "work", folder / "out", text)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS) | load_file(folder / compressed.BESIDE)


def texts(loaded: Loaded) -> list[Text]:
    """Of five documents with material on the chunks that `samples` are about."""
    material = [
        (ids_of(loaded, CHUNKS[one.chunk_sha256]), chunk_in_context(one, CHUNKS[one.chunk_sha256], loaded))
        for one in samples(6)
    ]
    return [Text(ids_of(loaded, TEXT[start * 40 :]), material[start : start + 2]) for start in range(5)]


def made(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[dict[str, Any], Path]:
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    given = texts(loaded)
    recipe = replace(FEW, **changes)
    return compressor.train(
        loaded, given[1:], given[:1], recipe, folder / "work", folder / "out", report
    ), folder / "out"


def interrupting(at: int, steps: list[float]) -> Any:
    def report(event: Event) -> None:
        if event.stage == "train" and event.done:
            steps.append(event.done)
            if event.done == at and steps.count(at) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    return report
