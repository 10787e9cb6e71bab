"""Train the base's tokenizer: byte-level BPE with the GPT-2 pattern, on the mixture that the base is trained on.

python -m basemodel.tokenizer OUT.json [--size 12288] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from basemodel.chats import Mixture, Scale
from basemodel.material import natural

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONVERSATIONS = 20_000
PROSE_CHARACTERS = 12_000_000


def texts(data: Path | None) -> Iterator[str]:
    """Conversations, and prose where there is a folder of it."""
    rows = natural(data / "rc.jsonl.xz", held_out=False) if data else []
    mixture = Mixture(1, (0.3, 0.4, 0.3, 0.0), rows)
    scales: tuple[Scale, ...] = ("short", "middle", "long")
    for number in range(CONVERSATIONS):
        yield "\n".join(content for _, content in mixture.next(scales[number % 3]))
    if data:
        with lzma.open(data / "prose-modern.txt.xz", "rt", encoding="utf-8") as file:
            yield file.read(PROSE_CHARACTERS)


def train(size: int, data: Path | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(data), trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=12_288)
    parser.add_argument("--data", type=Path, default=None, help="folder with rc.jsonl.xz and prose-modern.txt.xz")
    arguments = parser.parse_args()
    train(arguments.size, arguments.data).save(str(arguments.out))


if __name__ == "__main__":
    main()
