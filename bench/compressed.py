"""What of a compressed document's answers comes from its vectors: exact match with them, with noise, and by its LoRA alone.

python -m bench.compressed MODULE QUESTIONS.jsonl          MODULE: the module's folder, on the embedded base
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from kmcli import adapters, bases
from kmcli.engines import Sampling
from kmcli.engines.hf import HfEngine
from kmcli.metrics import exact_match
from kmcli.types import silent


def main(module: Path, file: Path) -> None:
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    asked = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    chats = [[("user", loaded.base.prompts.ask.format(question=one["question"]))] for one in asked]

    def score(name: str, folder: Path, noise: bool = False) -> None:
        model = adapters.load(loaded, folder)
        if noise:
            vectors = model.vectors[model.active].data
            vectors.copy_(vectors.std() * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0)))
        found = HfEngine(loaded, model).generate(chats, Sampling(max_tokens=24, temperature=0.0))
        right = [exact_match(one.text, question["answers"]) for one, question in zip(found, asked, strict=True)]
        print(f"{name}: {sum(right) / len(right):.3f}", flush=True)
        model.unload()

    score("its vectors", module)
    score("noise of the same size", module, noise=True)
    with tempfile.TemporaryDirectory() as plain:
        score("the LoRA alone", adapters.without_it(module, Path(plain)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
