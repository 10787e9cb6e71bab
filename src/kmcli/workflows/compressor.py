"""Compressors, one for a base: train, list and remove them. What a compressed document is begun from is `House.shelf`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmcli.bases import Loaded
from kmcli.chunking import join_pages
from kmcli.errors import UsageError
from kmcli.library.compressors import Kept
from kmcli.types import Document
from kmcli.workflows.house import House
from kmcli.workflows.naming import find_all
from kmcli.workflows.resuming import take_up

if TYPE_CHECKING:
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
    from kmcli.training.stepwise import split

    recipe, base = resolve(settings), house.base()
    house.announce(base)
    compressors = house.library.compressors
    with compressors.training(base.name, base.revision) as workspace:
        what = ("texts", f"compressor for {base.name}")
        resumed = take_up(house, workspace, dataclasses.asdict(recipe), _inputs(house, documents), what, restart)
        loaded = house.load(base)
        found = {document.id: _text(house, loaded, document) for document in documents}
        found = {about: text for about, text in found.items() if usable_text(text)}
        taught, held = split(list(found), recipe.held_out, recipe.seed)
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


def _inputs(house: House, documents: Sequence[Document]) -> object:
    """What identifies the texts, and the study material."""
    return [
        [document.id, document.text_sha256, [sample.id for sample in house.library.samples(document)]]
        for document in sorted(documents, key=lambda one: one.id)
    ]
