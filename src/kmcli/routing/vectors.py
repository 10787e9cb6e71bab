"""The passages of the whole library by what they mean: their vectors, kept beside the library's index in its file.

A vector is kept in bytes, a quarter of what it was made as: its largest part is 127. All are read for a search, which is a
few milliseconds for ten thousand passages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kmcli.retrieval.dense import Encoder
from kmcli.routing.index import Hit, LibraryIndex

if TYPE_CHECKING:
    import numpy as np

TOGETHER = 256
"""Passages that are given to the encoder at once."""


def update(index: LibraryIndex, encoder: Encoder, progress: Callable[[int, int], None] | None = None) -> int:
    """Make the vectors that are missing. Returns of how many passages."""
    missing = index.without_vectors(encoder.revision)
    total, made = sum(last - first + 1 for _, first, last in missing), 0
    while missing:
        group = [missing.pop(0)]
        while missing and sum(last - first + 1 for _, first, last in (*group, missing[0])) <= TOGETHER:
            group.append(missing.pop(0))
        if progress:
            progress(made, total)
        texts = [text for _, first, last in group for text in index.texts(first, last)]
        vectors = pack(encoder.encode(texts, questions=False))
        begin, rows = 0, []
        for document, first, last in group:
            rows.append((document, vectors[begin : begin + last - first + 1].tobytes()))
            begin += last - first + 1
        index.keep_vectors(encoder.revision, rows)
        made += len(texts)
    return made


def search(index: LibraryIndex, encoder: Encoder, query: str, k: int) -> list[Hit]:
    """The k passages nearest to a query, nearest first, with the cosine of the angle between them."""
    import numpy as np

    firsts, data = index.vectors(encoder.revision)
    (asked,) = encoder.encode([query], questions=True)
    kept = np.frombuffer(b"".join(data), np.uint8).reshape(-1, 4 + len(asked))
    scores = kept[:, 4:].view(np.int8).astype(np.float32) @ asked
    scores *= np.ascontiguousarray(kept[:, :4]).view(np.float32)[:, 0]
    counts = [len(one) // (4 + len(asked)) for one in data]
    rows = np.repeat(np.array(firsts, np.int64) - np.cumsum([0, *counts[:-1]]), counts) + np.arange(len(scores))
    best = np.argsort(-scores, kind="stable")[: max(0, k)]
    return [index.hit(int(rows[place]), float(scores[place])) for place in best]


def pack(vectors: np.ndarray) -> np.ndarray:
    """uint8 (vectors, 4 + size): what the bytes are to be multiplied by, as a float32, and then the bytes."""
    import numpy as np

    largest = np.abs(vectors).max(axis=1, keepdims=True) / 127
    scale = np.where(largest > 0, largest, 1).astype(np.float32)
    return np.hstack([scale.view(np.uint8), np.rint(vectors / scale).astype(np.int8).view(np.uint8)])
