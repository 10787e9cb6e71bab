"""Passages near a question in meaning: the cosine of vectors that are made once and kept on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kmcli.library.files import explained, make_folder, write
from kmcli.types import Chunk, Passage

if TYPE_CHECKING:
    import numpy as np


class Encoder(Protocol):
    """revision: identifies the weights, in characters that a file's name may have."""

    revision: str

    def encode(
        self, texts: Sequence[str], *, questions: bool, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """float32 (texts, size), each of length 1. questions: some models are told which texts ask and which answer.

        progress is called with the number of texts done so far."""


class Dense:
    """A document's passages by their vectors. Passages that are equally near come in the document's order."""

    def __init__(self, document: str, chunks: Sequence[Chunk], vectors: np.ndarray, encoder: Encoder) -> None:
        """vectors (chunks, size), each of length 1."""
        self._document, self._chunks, self._vectors, self._encoder = document, chunks, vectors, encoder
        self._asked: dict[str, np.ndarray] = {}

    def prepare(self, queries: Sequence[str]) -> None:
        """Encode many queries at once, for searches to come."""
        new = [query for query in dict.fromkeys(queries) if query not in self._asked]
        if new:
            self._asked.update(zip(new, self._encoder.encode(new, questions=True), strict=True))

    def search(self, query: str, k: int) -> list[Passage]:
        if k < 1 or not self._chunks:
            return []
        self.prepare([query])
        scores = self._vectors @ self._asked[query]
        best = (-scores).argsort(kind="stable")[:k].tolist()
        chunks = [self._chunks[place] for place in best]
        return [
            Passage(self._document, chunk.text, float(scores[place]), chunk.first_page)
            for place, chunk in zip(best, chunks, strict=True)
        ]


def kept_vectors(
    folder: Path,
    chunks: Sequence[Chunk],
    encoder: Encoder,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The vectors of a document's passages (chunks, size), from a file of the document's own folder, which is made where it
    is missing. It holds one file for each encoder: that of its text and passages as they are now.
    """
    import numpy as np

    digest = hashlib.sha256("".join(chunk.sha256 for chunk in chunks).encode()).hexdigest()[:16]
    mine = f"vectors-{encoder.revision}-"
    file = folder / f"{mine}{digest}.npy"
    try:
        kept: np.ndarray = np.load(file, allow_pickle=False)
        if kept.ndim == 2 and len(kept) == len(chunks):
            return kept
    except (OSError, ValueError, EOFError):  # missing, or damaged: a file of the cache
        pass
    made = encoder.encode([chunk.text for chunk in chunks], questions=False, progress=progress)
    data = io.BytesIO()
    np.save(data, made, allow_pickle=False)
    with explained(folder):
        make_folder(folder)
        for old in folder.glob(f"{mine}*.npy"):
            old.unlink(missing_ok=True)
        write(file, data.getvalue())
    return made
