"""The library's index of passages, kept in the cache: brought up to date when it is asked, made anew when it is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kmcli.errors import ResourceError
from kmcli.library.database import HINTS
from kmcli.library.files import explained
from kmcli.routing.index import SEARCHED, Found, LibraryIndex
from kmcli.routing.store import damaged
from kmcli.types import Document, Event
from kmcli.workflows.house import House

FILE = "passages.db"


def search(house: House, question: str, k: int = SEARCHED) -> list[Found]:
    """The k documents that most likely answer a question, the likeliest first, by the library's index. It is brought up to
    date."""

    def name(document_id: str) -> str:
        document = house.library.catalogue.of_id(document_id)
        return document.name if document else document_id  # removed just now

    with index_of_library(house) as index:
        return index.search(question, k, name)


@contextmanager
def index_of_library(house: House) -> Iterator[LibraryIndex]:
    """Brought up to date."""
    with _opened(house) as index:
        _bring_up_to_date(house, index)
        yield index


@contextmanager
def _opened(house: House) -> Iterator[LibraryIndex]:
    """Raises ResourceError where the disk, or another process, is in the way."""
    file = house.library.cache / FILE
    try:
        with explained(house.library.cache), LibraryIndex(file) as index:
            yield index
    except sqlite3.DatabaseError as error:
        # damaged: not when it was opened, but found to be later
        hint = "Delete it: km makes it anew." if damaged(error) else HINTS.get(str(error))
        if hint is None:
            raise
        raise ResourceError(f"the index of the library's passages {file} cannot be used: {error}.", hint) from error


def _bring_up_to_date(house: House, index: LibraryIndex) -> None:
    """Read what has changed since the library was last searched."""

    def progress(done: int, total: int) -> None:
        house.report(Event("read", "reading the library, once", done, total))

    catalogue = house.library.catalogue
    held, latest = index.mark, catalogue.mark()
    if held == latest:
        return
    changes = catalogue.changes(held)
    if changes and held:
        index.forget(changes.gone)
        index.put(changes.changed, house.library.text, progress)
        latest = changes.mark
    else:
        index.update(catalogue.documents(), house.library.text, progress)
    index.noted(latest)


def shares(house: House, question: str, documents: Sequence[Document]) -> list[float] | None:
    """What part each document has in a question: its share of the question's words, squared, as a part of all of theirs.

    They add up to 1; None where no document has a word. Squared, because eight documents that have no more than a common
    word of it should not weigh as much together as the one that it is about.
    """
    covered = {one.document: one.covered for one in search(house, question)}
    squares = [covered.get(document.id, 0.0) ** 2 for document in documents]
    total = sum(squares)
    return [one / total for one in squares] if total else None


def forget(house: House, documents: Iterable[Document]) -> None:
    """Take documents that are removed out of the index."""
    if (house.library.cache / FILE).exists():
        with _opened(house) as index:
            index.forget([document.id for document in documents])
