"""Searching the text of the whole library: by words, by meaning, or both."""

from __future__ import annotations

from kmcli.errors import NotFoundError, UsageError
from kmcli.evaluation.comparison import Retriever
from kmcli.routing.index import Hit, LibraryIndex
from kmcli.types import Event, Passage
from kmcli.workflows.house import House
from kmcli.workflows.passages import index_of_library


def search(house: House, query: str, k: int, retriever: Retriever = "bm25") -> list[Passage]:
    """The k best passages of the library, best first; fewer where there are no more.

    Raises UsageError for an empty query, NotFoundError where the library is empty, ResourceError where a model that makes
    vectors cannot be had.
    """
    if not query.strip():
        raise UsageError("there is nothing to search for.", 'For example: km search "notice period"')
    if not house.library.catalogue.count():
        raise NotFoundError("the library is empty.", "Add a document with: km add FILE")
    with index_of_library(house) as index:
        if retriever == "bm25":
            return _named(house, index.passages(query, k))
        if retriever == "dense":
            return _named(house, _nearest(house, index, query, k))
        from kmcli.retrieval.hybrid import DEPTH, fuse

        return fuse([_named(house, index.passages(query, DEPTH)), _named(house, _nearest(house, index, query, DEPTH))])[
            :k
        ]


def _nearest(house: House, index: LibraryIndex, query: str, k: int) -> list[Hit]:
    from kmcli.retrieval import embedder
    from kmcli.routing import vectors

    path = embedder.find(house.settings["embedder"].value, house.report)
    encoder = embedder.Embedder(path, house.settings["device"].value, house.report)

    def progress(done: int, total: int) -> None:
        house.report(Event("read", "making vectors of the library, once", done, total))

    vectors.update(index, encoder, progress)
    return vectors.search(index, encoder, query, k)


def _named(house: House, hits: list[Hit]) -> list[Passage]:
    """Without those of documents that were removed just now."""
    found = [(house.library.catalogue.of_id(hit.document), hit) for hit in hits]
    return [Passage(document.name, hit.text, hit.score, hit.page) for document, hit in found if document]
