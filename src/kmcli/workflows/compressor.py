"""Compressors, one for a base: train, list and remove them. What a compressed document is begun from is `House.shelf`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli.bases import Base, Loaded
from kmcli.chunking import join_pages
from kmcli.errors import UsageError
from kmcli.library import files
from kmcli.library.compressors import Kept
from kmcli.library.layout import RUN
from kmcli.types import Document, Event
from kmcli.workflows.house import House
from kmcli.workflows.naming import find_all

if TYPE_CHECKING:
    from kmcli.training.compressor_recipe import CompressorRecipe
    from kmcli.training.segments import Text

MATERIAL = 256
"""Samples of a document's study material, at most: no document is to be most of what is learned from."""


@dataclass(frozen=True, slots=True)
class TrainedCompressor:
    """documents, held_out: how many were trained on, and held out."""

    compressor: Kept
    documents: int
    held_out: int
    resumed: bool
    seconds: float


def train(house: House, names: Sequence[str], settings: Sequence[str], restart: bool = False) -> TrainedCompressor:
    """Train the compressor of the base that the settings name, on documents that are named or tagged, or all. The same
    command goes on with what was interrupted.

    Raises UsageError for what makes no sense, KmError where there is too little text, InterruptedRun after Ctrl-C.
    """
    started = time.monotonic()
    documents = find_all(house.library, names) if names else house.library.documents()
    if not documents:
        raise UsageError("the library has no documents to train a compressor on.", "Add some: km add FILE")
    from kmcli.training import compressor as training
    from kmcli.training.compressor_recipe import resolve
    from kmcli.training.segments import usable_text

    recipe, base = resolve(settings), house.base()
    house.announce(base)
    compressors = house.library.compressors
    with compressors.training(base.name, base.revision) as workspace:
        resumed = _take_up(house, base, workspace, recipe, documents, restart)
        loaded = house.load(base)
        found = {document.id: _text(house, loaded, document) for document in documents}
        found = {about: text for about, text in found.items() if usable_text(text)}
        taught, held = training.split(list(found), recipe)
        out = compressors.staging(workspace)
        metrics = training.train(
            loaded,
            [found[about] for about in taught],
            [found[about] for about in held],
            recipe,
            workspace,
            out,
            house.report,
        )
        metrics |= {"documents": len(taught), "held_out_documents": len(held)}
        kept = compressors.commit(base.name, base.revision, workspace, dataclasses.asdict(recipe), metrics)
    return TrainedCompressor(kept, len(taught), len(held), resumed, time.monotonic() - started)


def ls(house: House) -> list[Kept]:
    return house.library.compressors.all()


def rm(house: House) -> Kept:
    """That of the base that the settings name."""
    base = house.base()
    return house.library.compressors.remove(base.name, base.revision)


def _text(house: House, loaded: Loaded, document: Document) -> Text:
    """The document, and its study material, whoever wrote it."""
    from kmcli.objectives.views import chunk_in_context
    from kmcli.training.segments import Text

    def ids(text: str) -> list[int]:
        return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    chunks = house.library.chunk_texts(document)
    samples = [sample for sample in house.library.samples(document) if sample.chunk_sha256 in chunks]
    samples = samples[:: max(1, -(-len(samples) // MATERIAL))]
    pairs = [
        (ids(chunk), chunk_in_context(sample, chunk, loaded))
        for sample in samples
        for chunk in [chunks[sample.chunk_sha256]]
    ]
    room = loaded.base.context // 2
    fitting = [(chunk, view) for chunk, view in pairs if chunk and len(chunk) <= room and any(view.student_mask)]
    return Text(ids(join_pages(house.library.text(document))), fitting)


def _take_up(
    house: House, base: Base, workspace: Path, recipe: CompressorRecipe, documents: Sequence[Document], restart: bool
) -> bool:
    """Whether an unfinished training is gone on with: one by the same recipe on the same texts and study material. Any other
    is dropped, and this one noted."""
    seen = [
        [document.id, document.text_sha256, [sample.id for sample in house.library.samples(document)]]
        for document in sorted(documents, key=lambda one: one.id)
    ]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    run = json.dumps({"recipe": dataclasses.asdict(recipe), "texts_sha256": digest}, indent=2)
    file = workspace / RUN
    unfinished = any(workspace.glob("checkpoint*"))
    if unfinished and not restart and file.exists() and file.read_text("utf-8") == run:
        house.report(Event("train", f"going on with the unfinished compressor for {base.name}"))
        return True
    if unfinished and not restart:
        house.warn(f"texts or recipe differ from the unfinished compressor for {base.name}: starting anew")
    house.library.compressors.clear(workspace)
    with files.explained(workspace):
        files.write(file, run.encode())
    return False
