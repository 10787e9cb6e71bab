"""What the study material of the examples is worth: how much of it parses, is kept and is right.

    python bench/material.py [--pairs FILE] [DOCUMENT ...]       default: harbour report handbook article

The embedded base writes pairs about each document with the settings of a new installation, also where km would stop because
the base cannot read it. Of what it wrote:

    parses      generations that hold at least one question with a finished answer
    kept        drafts that became samples; what became of the others is listed below the table
    in chunk    kept pairs whose answer stands in their chunk, word for word but for case, punctuation and articles
    agrees      kept pairs that ask one of the example's own questions and answer it as known, of all that ask one; pairs
                about a chunk without the passage that supports the known answer are left out

Shares come with their 95% Wilson intervals: pairs of one chunk are much alike, so the true ones are wider. Prints a Markdown
table, the reasons, and lines `FIGURE name value`. --pairs: the kept pairs go to this file, a JSON line each, for a person to
read.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kmcli import bases
from kmcli.chunking import chunk
from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.metrics import exact_match, normalise, occurrences
from kmcli.synthesis.check import KEPT
from kmcli.synthesis.parse import pairs
from kmcli.synthesis.write import write
from kmcli.training.recipes import resolve
from kmcli.types import Sample, silent

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCUMENTS = ("harbour", "report", "handbook", "article")


class Watched(HfEngine):
    """Counts the generations that were asked for as pairs, and those that hold one."""

    asked_as_pairs = parsed = 0

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        written = super().generate(chats, sampling, progress)
        for chat, one in zip(chats, written, strict=True):
            if chat[-1][1].endswith(self.loaded.base.prompts.write_qa):
                self.asked_as_pairs += 1
                self.parsed += bool(pairs(one.text, one.finished))
        return written


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    z = 1.96
    middle, half = hits / of + z * z / (2 * of), z * math.sqrt(hits / of * (1 - hits / of) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def share(hits: int, of: int) -> str:
    if not of:
        return "none"
    low, high = wilson(hits, of)
    return f"{hits:,} of {of:,}: {hits / of:.0%} ({low:.0%}-{high:.0%})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("documents", nargs="*", default=list(DOCUMENTS))
    parser.add_argument("--pairs", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    recipe = resolve(loaded.base, "standard", None, ["tasks=qa"])
    print("| document | parses | kept | in chunk | agrees |")
    print("|---|---|---|---|---|")
    remarks, figures, listed = [], [], []
    for name in given.documents:
        text = (EXAMPLES / f"{name}.md").read_text("utf-8")
        chunks = chunk(
            text,
            recipe.chunk_tokens,
            recipe.chunk_overlap,
            lambda part: len(loaded.tokenizer(part, add_special_tokens=False)["input_ids"]),
        )
        texts = {one.sha256: one.text for one in chunks}
        engine, samples = Watched(loaded), list[Sample]()
        counts = write(
            engine,
            chunks,
            recipe,
            loaded.base.prompts,
            set(),
            {},
            lambda new, units, reasons: samples.extend(new),  # noqa: B023 (used within this turn)
            silent,
            force=True,
        )
        known = {
            normalise(one["question"]): one
            for one in map(json.loads, (EXAMPLES / f"{name}.questions.jsonl").read_text("utf-8").splitlines())
        }
        grounded = [one for one in samples if occurrences(one.response, texts[one.chunk_sha256])]
        asked = [
            (one, match)
            for one in samples
            if (match := known.get(normalise(one.prompt))) and occurrences(match["evidence"], texts[one.chunk_sha256])
        ]
        right = [one for one, match in asked if exact_match(one.response, match["answers"])]
        print(
            f"| {name} | {share(engine.parsed, engine.asked_as_pairs)} | {share(len(samples), sum(counts.values()))} "
            f"| {share(len(grounded), len(samples))} | {share(len(right), len(asked))} |",
            flush=True,
        )
        reasons = Counter({reason: count for (_, reason), count in counts.items() if reason not in KEPT})
        remarks.append(
            f"{name} dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        )
        for figure, hits, of in (
            ("parse_rate", engine.parsed, engine.asked_as_pairs),
            ("kept_share", len(samples), sum(counts.values())),
            ("kept_in_chunk", len(grounded), len(samples)),
            ("kept_agrees", len(right), len(asked)),
        ):
            figures += [f"FIGURE {figure}_{name} {hits / of:.3f}"] if of else []
        listed += [
            {"document": name, "chunk": texts[one.chunk_sha256], "question": one.prompt, "answer": one.response}
            for one in samples
        ]
    print()
    print("\n".join(f"- {remark}" for remark in remarks))
    print("\n".join(figures))
    if given.pairs:
        given.pairs.write_text("".join(json.dumps(one) + "\n" for one in listed), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
