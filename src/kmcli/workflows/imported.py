"""Study material from elsewhere, fitted to the chunks that a training cuts: whoever wrote it knew nothing of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kmcli.chunking import locate
from kmcli.metrics import occurrences
from kmcli.objectives.views import Reads
from kmcli.retrieval import Index
from kmcli.types import IMPORTED, Chunk, Document, Event, Recipe, Sample, text_hash
from kmcli.workflows.house import House, counter, usable
from kmcli.workflows.renewed import renewed


class Finder:
    """Says which chunk of a document a sample is about: see `find`."""

    def __init__(self, text: str, chunks: Sequence[Chunk], index: Index) -> None:
        self._text, self._chunks, self._index = text, chunks, index
        self._places = locate(text, (chunk.text for chunk in chunks))
        self._overlapping: dict[str, list[str]] = {}

    def find(self, prompt: str, response: str, came_with: str = "") -> str | None:
        """The hash of the chunk that BM25 ranks first for prompt and response; None where none has a word of them.

        came_with: the text that the sample was written about. Where that stands in the document, only the chunks that
        overlap it count, and there is always one.
        """
        near = self._near(came_with)
        for passage in self._index.search(f"{prompt} {response}", len(self._chunks)):
            found = text_hash(passage.text)
            if not near or found in near:
                return found
        return near[0] if near else None

    def superseded(self, response: str, came_with: str, sha256: str) -> bool:
        """Whether an answer was the words of a text that the document no longer has, and is not in the chunk that takes its
        place, nor in those beside it."""
        if not came_with or self._near(came_with):
            return False
        at = next(place for place, chunk in enumerate(self._chunks) if chunk.sha256 == sha256)
        here = " ".join(chunk.text for chunk in self._chunks[max(0, at - 1) : at + 2])
        return occurrences(response, came_with) > 0 and not occurrences(response, here)

    def _near(self, piece: str) -> list[str]:
        """The hashes of the chunks that overlap a piece of the document, the one that has most of it first."""
        if piece not in self._overlapping:
            (own,) = locate(self._text, [piece])
            places = zip(self._chunks, self._places, strict=True)
            shared = {chunk.sha256: own.shared(place) for chunk, place in places if own and place}
            self._overlapping[piece] = sorted(filter(shared.get, shared), key=lambda sha256: -shared[sha256])
        return self._overlapping[piece]


@contextmanager
def finder(house: House, document: Document, chunks: Sequence[Chunk]) -> Iterator[Finder]:
    with Index(document.name, chunks) as index:
        yield Finder(house.library.text(document), chunks, index)


@dataclass(frozen=True, slots=True)
class Attached:
    """samples: what can be studied. Of those imported: moved, how many were written about another piece of text than the
    chunk they have now; renewed, how many have the text's new answer in place of their own; strange, how many have no word
    in common with the document; superseded, how many have an answer that it no longer has; long, how many do not fit the
    base."""

    samples: list[Sample]
    moved: int = 0
    renewed: int = 0
    strange: int = 0
    superseded: int = 0
    long: int = 0


def attach(house: House, document: Document, loaded: Reads, recipe: Recipe, chunks: Sequence[Chunk]) -> Attached:
    """The document's study material for a recipe, with every imported sample about one of these chunks."""
    samples = usable(house.library.samples(document), recipe)
    if not any(sample.engine == IMPORTED for sample in samples):
        return Attached(samples)
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    others = house.library.chunk_texts(document)
    count = counter(loaded)
    kept: list[Sample] = []
    gone: list[Sample] = []
    now: list[tuple[Sample, str]] = []

    def fits(sample: Sample, text: str) -> bool:
        return _length(sample, text, loaded) + count(sample.response) < loaded.base.context

    moved = strange = long = 0
    with finder(house, document, chunks) as search:
        for sample in samples:
            sha256: str | None = sample.chunk_sha256
            if sample.engine != IMPORTED:
                kept.append(sample)
                continue
            came_with = "" if sha256 in texts else others.get(sample.chunk_sha256, "")
            if sha256 not in texts:
                sha256 = search.find(sample.prompt, sample.response, came_with)
            if sha256 is None:
                strange += 1
            elif search.superseded(sample.response, came_with, sha256):
                gone.append(sample)
            elif not fits(sample, texts[sha256]):
                long += 1
            else:
                moved += sha256 != sample.chunk_sha256
                now.append((sample, sha256))
                kept.append(replace(sample, chunk_sha256=sha256))
    new = [one for one in renewed(gone, now, others) if fits(one, texts[one.chunk_sha256])]
    return Attached([*kept, *new], moved, len(new), strange, len(gone) - len(new), long)


def tell(house: House, document: Document, attached: Attached) -> None:
    """Says what became of the imported samples."""
    if attached.moved:
        message = f"imported samples with the chunk of this recipe that fits them best: {attached.moved:,}"
        house.report(Event("note", message))
    if attached.renewed:
        message = f"imported samples with the new answer that another one of their passage has: {attached.renewed:,}"
        house.report(Event("note", message))
    if attached.strange:
        house.warn(f"imported samples left out, without a word in common with {document.name}: {attached.strange:,}")
    if attached.superseded:
        house.report(
            Event("note", f"imported samples left out, whose answer the text no longer has: {attached.superseded:,}")
        )
    if attached.long:
        house.warn(f"imported samples left out, too long for the base to read with their chunk: {attached.long:,}")


def _length(sample: Sample, text: str, loaded: Reads) -> int:
    """Tokens that the teacher reads before the response."""
    content = loaded.base.prompts.under_text.format(text=text, question=sample.prompt)
    return len(loaded.chat_ids([("user", content)]))
