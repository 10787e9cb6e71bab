"""Several documents, one after the other: each under its lock, and none in the way of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from kmcli.bases import Base, Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.types import Document, Event
from kmcli.workflows.house import Failure, House

T = TypeVar("T")


def each(
    house: House, documents: Sequence[Document], verb: str, work: Callable[[Document], T]
) -> tuple[list[T], list[Failure], InterruptedRun | None]:
    """Work on each document under its lock. One that fails does not stop the others; Ctrl-C does, and what is finished
    stays."""
    done: list[T] = []
    failed: list[Failure] = []
    try:
        for place, document in enumerate(documents, 1):
            if len(documents) > 1:
                house.report(Event(verb, f"{document.name}, {place} of {len(documents)}"))
            try:
                with house.library.lock(document, verb) as current:  # it may have changed while others were worked on
                    done.append(work(current))
            except InterruptedRun as stopped:
                return done, failed, stopped
            except KmError as error:
                failed.append(Failure(document.name, error))
    except KeyboardInterrupt:
        message = "stopped; nothing that was finished is lost."
        return done, failed, InterruptedRun(message, "The same command goes on from there.")
    return done, failed, None


class Loader:
    """Keeps one base in memory, for the documents that follow each other on it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loaded: Loaded | None = None

    def load(self, base: Base) -> Loaded:
        if self._loaded is None or self._loaded.base != base:
            self._house.announce(base)
            self._loaded = None  # two bases at once may not fit in memory
            self._loaded = self._house.load(base)
        return self._loaded
