"""From study material to a trained adapter on disk. Knows nothing of documents or libraries.

`train` reads top to bottom: split, views, adapter, loop, files. The loop itself is `loop.run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.errors import KmError
from kmcli.types import Recipe, Reporter, Sample, View

if TYPE_CHECKING:
    from kmcli.bases import Loaded


def train(
    loaded: Loaded,
    samples: Sequence[Sample],
    chunks: Mapping[str, str],
    recipe: Recipe,
    workspace: Path,
    out: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Train an adapter on samples, whose chunks' texts are given by hash, and save it to `out`. Returns its metrics.

    workspace: where the checkpoint lives while training; one found there is continued. Raises InterruptedRun after Ctrl-C,
    KmError where there is nothing to train on or training diverges.
    """
    from kmcli.adapters import lora
    from kmcli.objectives import OBJECTIVES
    from kmcli.training import loop

    make_view = OBJECTIVES[recipe.objective]
    known = [sample for sample in samples if sample.chunk_sha256 in chunks and sample.task in recipe.tasks]
    taught, held = split(known, recipe)
    if not taught:
        raise KmError("there is no study material to train on.", "Write some first: km synth NAME")

    def views(some: Sequence[Sample]) -> list[View]:
        return [make_view(sample, chunks[sample.chunk_sha256], loaded) for sample in some]

    model = lora.build(loaded, recipe)
    try:
        metrics = loop.run(model, loaded, views(taught), views(held), recipe, workspace, report)
        lora.save(model, out)
    finally:
        model.unload()  # the base goes back to what it was: the next document uses it
    return metrics


def split(samples: Sequence[Sample], recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, and held out. By a hash of question and seed, so that material that is added later does not
    move the old across the line, and the same question about one chunk is never on both sides."""
    taught: list[Sample] = []
    held: list[Sample] = []
    for sample in samples:
        identity = f"{recipe.seed}\0{sample.chunk_sha256}\0{sample.prompt.casefold()}"
        share = int(hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 0x1_0000_0000
        (held if share < recipe.held_out and sample.task == "qa" else taught).append(sample)
    return taught, held
