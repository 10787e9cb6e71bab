"""How fast `skd` writes: rows side by side, against one after the other.

    python -m bench.skd [--rows N] [--share N] [--tokens N] [--draft N] [--accept N ...] [--repeats N]

The embedded base, one thread, on the chunks of examples/harbour.md and the questions beside it; the student carries a LoRA
of the default rank which, at its start, adds nothing: it is the base without the document. Both sides write the same rows
with the same seeds (a row's own), so they must write the same tokens: the share of rows that are equal is printed. Time is
the process's own, the best of the repeats, each side in turn. `FIGURE skd_batch N` is tokens a second side by side over
those one after the other, at the default --accept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kmcli import bases
from kmcli.adapters import lora
from kmcli.chunking import chunk
from kmcli.evaluation.questions import read_about
from kmcli.objectives.views import chunk_in_context
from kmcli.training import skd
from kmcli.training.skd import Written
from kmcli.types import Recipe, Sample, silent

EXAMPLES = Path(__file__).parent.parent / "examples"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--share", type=int, default=16, help="rows about one chunk, as many as it has generations")
    parser.add_argument("--tokens", type=int, default=48, help="how long a response may be")
    parser.add_argument("--draft", type=int, default=Recipe().skd_draft)
    parser.add_argument("--accept", type=int, nargs="*", default=[0, Recipe().skd_accept, 10**6])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    text = (EXAMPLES / "harbour.md").read_text("utf-8")
    chunks = chunk(text, loaded.base.chunk_tokens, 0.1, lambda some: len(loaded.tokenizer(some)["input_ids"]))
    questions = [one.question for _, _, one in read_about(EXAMPLES / "harbour.questions.jsonl")]
    views = []
    for row in range(asked.rows):
        read, question = chunks[row // asked.share % len(chunks)], questions[row % len(questions)]
        sample = Sample(str(row), read.sha256, "qa", question, "x", "scripted", "embedded", "", 0)
        views.append(chunk_in_context(sample, read.text, loaded))
    recipe = Recipe(chunk_tokens=asked.tokens, skd_draft=asked.draft)
    model = lora.build(loaded, recipe)
    print(f"{len(views)} rows, {asked.share} about one chunk, drafts of {asked.draft}, {skd.ROWS} rows side by side\n")
    print("| accepted among | tokens | tokens/s alone | tokens/s side by side | times | equal rows |")
    print("|---|---|---|---|---|---|")
    for accept in asked.accept:
        wanted = Recipe(**{**recipe.as_json(), "skd_accept": accept})

        def alone(wanted: Recipe = wanted) -> list[Written]:
            return [skd.write(model, loaded, [view], wanted, [seed])[0] for seed, view in enumerate(views)]

        def together(wanted: Recipe = wanted) -> list[Written]:
            return skd.write(model, loaded, views, wanted, range(len(views)))

        (slow, single), (fast, batched) = _best([alone, together], asked.repeats)
        tokens = sum(len(one.response) for one in batched)
        equal = sum(one.response == other.response for one, other in zip(single, batched, strict=True))
        print(
            f"| {accept} | {tokens} | {tokens / slow:.0f} | {tokens / fast:.0f} | {slow / fast:.1f} | "
            f"{equal} of {len(views)} |",
            flush=True,
        )
        if accept == Recipe().skd_accept:
            print(f"FIGURE skd_batch {slow / fast:.2f}", file=sys.stderr)
    return 0


def _best(sides: Sequence[Callable[[], list[Written]]], repeats: int) -> list[tuple[float, list[Written]]]:
    """Of each side its least seconds of the processor, and what it wrote."""
    found: dict[int, tuple[float, list[Written]]] = {}
    for _ in range(repeats):
        for number, side in enumerate(sides):
            start = time.process_time()
            written = side()
            taken = time.process_time() - start
            if number not in found or taken < found[number][0]:
                found[number] = taken, written
    return [found[number] for number in range(len(sides))]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
