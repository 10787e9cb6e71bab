"""The passages of the whole library by what they mean: their vectors, kept beside the library's index in its file.

A vector is kept in bytes, a quarter of what it was made as: its largest part is 127. All are read for a search, which is a
few milliseconds for ten thousand passages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kmcli.retrieval.dense import Encoder
from kmcli.routing.index import Hit, LibraryIndex
from kmcli.routing.store import BLOCK, Span

if TYPE_CHECKING:
    import numpy as np

TOGETHER = 256
"""Passages that are kept at once."""


def update(index: LibraryIndex, encoder: Encoder, progress: Callable[[int, int], None] | None = None) -> int:
    """Make the vectors that are missing. Returns of how many passages."""
    mark = index.mark
    missing = index.without_vectors(encoder.revision)
    total, done, made = sum(span.passages for span in missing), 0, 0
    for group in _groups(missing):
        if progress:
            progress(done, total)
        done += sum(span.passages for span in group)
        read = [(span, index.texts(span)) for span in group]
        read = [(span, texts) for span, texts in read if len(texts) == span.passages]
        if not read:
            continue
        packed = pack(encoder.encode([text for _, texts in read for text in texts], questions=False))
        end, found = 0, []
        for span, texts in read:
            end += len(texts)
            found.append((span, packed[end - len(texts) : end].tobytes()))
        made += index.keep_vectors(encoder.revision, found)
    if made == total:  # else something has changed meanwhile: the next search makes up for it
        index.all_have_vectors(encoder.revision, mark)
    return made


def _groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Documents that are encoded together, of some TOGETHER passages."""
    group: list[Span] = []
    for span in spans:
        group.append(span)
        if sum(one.passages for one in group) >= TOGETHER:
            yield group
            group = []
    if group:
        yield group


def search(index: LibraryIndex, encoder: Encoder, query: str, k: int) -> list[Hit]:
    """The k passages nearest to a query, nearest first, with the cosine of the angle between them."""
    import numpy as np

    if k < 1:
        return []
    (asked,) = encoder.encode([query], questions=True)
    with index.snapshot():
        begins, data = index.vectors(encoder.revision)
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
