"""The passages of the whole library by what they mean: their vectors, kept beside the library's index in its file.

A vector is kept in bytes, a quarter of what it was made as: its largest part is 127. All are read for a search, which is a
few milliseconds for ten thousand passages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from kmcli.retrieval.dense import Encoder
from kmcli.routing.index import Hit, LibraryIndex
from kmcli.routing.store import BLOCK

if TYPE_CHECKING:
    import numpy as np

TOGETHER = 256
"""Passages that are kept at once."""


def update(index: LibraryIndex, encoder: Encoder, progress: Callable[[int, int], None] | None = None) -> int:
    """Make the vectors that are missing. Returns of how many passages."""
    missing = index.without_vectors(encoder.revision)
    total, made = sum(last - first + 1 for _, first, last in missing), 0
    texts: list[str] = []
    group: list[tuple[str, int, int]] = []
    for place, (document, first, last) in enumerate(missing, 1):
        group.append((document, first, last))
        texts += index.texts(first, last)
        if len(texts) < TOGETHER and place < len(missing):
            continue
        if progress:
            progress(made, total)
        packed = pack(encoder.encode(texts, questions=False))
        ends = itertools.accumulate(last - first + 1 for _, first, last in group)
        index.keep_vectors(
            encoder.revision,
            [
                (document, first, packed[end - (last - first + 1) : end].tobytes())
                for (document, first, last), end in zip(group, ends, strict=True)
            ],
        )
        made += len(texts)
        texts, group = [], []
    index.all_have_vectors(encoder.revision)
    return made


def search(index: LibraryIndex, encoder: Encoder, query: str, k: int) -> list[Hit]:
    """The k passages nearest to a query, nearest first, with the cosine of the angle between them."""
    import numpy as np

    if k < 1:
        return []
    begins, data = index.vectors(encoder.revision)
    (asked,) = encoder.encode([query], questions=True)
    scores = np.concatenate([np.zeros(0, np.float32), *(_near(block, asked) for block in data)])
    best = np.argsort(-scores, kind="stable") if len(scores) <= k else _best(scores, k)
    return [
        index.hit(begins[place // BLOCK] + int(place % BLOCK), float(scores[place]))
        for place in best
        if scores[place] > -np.inf
    ]


def _near(block: bytes, asked: np.ndarray) -> np.ndarray:
    """The cosines of a block's vectors with one, float32 (BLOCK,); -inf where there is none."""
    import numpy as np

    kept = np.frombuffer(block, np.uint8).reshape(BLOCK, -1)
    scale = np.ascontiguousarray(kept[:, :4]).view(np.float32)[:, 0]
    scores: np.ndarray = (kept[:, 4:].view(np.int8).astype(np.float32) @ asked) * scale
    scores[scale == 0] = -np.inf
    return scores


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest, the largest first; of equals the first."""
    import numpy as np

    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    among = np.flatnonzero(scores >= least)
    return among[np.argsort(-scores[among], kind="stable")][:k]


def pack(vectors: np.ndarray) -> np.ndarray:
    """uint8 (vectors, 4 + size): what the bytes are to be multiplied by, as a float32, and then the bytes."""
    import numpy as np

    largest = np.abs(vectors).max(axis=1, keepdims=True) / 127
    scale = np.where(largest > 0, largest, 1).astype(np.float32)
    return np.hstack([scale.view(np.uint8), np.rint(vectors / scale).astype(np.int8).view(np.uint8)])
