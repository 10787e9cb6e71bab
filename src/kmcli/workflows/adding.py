"""How documents come into the library: files are read by several processes, and written by this one, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from kmcli.errors import KmError
from kmcli.library import Added
from kmcli.types import Document, Event, Ingested
from kmcli.workflows.house import Failure, House
from kmcli.workflows.reading import Foreign

TOGETHER = 64
"""Documents that are written at once."""

TOGETHER_BYTES = 32_000_000
"""Or so many bytes of them, all of which are in memory."""


class Intake:
    """added, failed: what has become of what was taken in, when `flush` was called."""

    def __init__(self, house: House, name: str | None, tags: Sequence[str], update: Document | None) -> None:
        self._house = house
        self._name = name
        self._tags = tags
        self._update = update
        self._waiting: list[tuple[str, Ingested]] = []
        self.added: list[Added] = []
        self.failed: list[Failure] = []
        self.foreign = Foreign(house)

    def take(self, source: str, found: Ingested | KmError) -> None:
        if isinstance(found, KmError):
            self.failed.append(Failure(source, found))
            return
        self._waiting.append((source, found))
        if len(self._waiting) >= TOGETHER or sum(len(one.data) for _, one in self._waiting) >= TOGETHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in: those that are new together, and the others, and those that fail, one by one."""
        waiting, self._waiting = self._waiting, []
        made: list[Added | None] = [None] * len(waiting)
        if len(waiting) > 1:
            with suppress(KmError):  # which of them it was, and why, comes out one by one
                made = self._house.library.add_new([one for _, one in waiting], self._tags)
        for (source, one), added in zip(waiting, made, strict=True):
            try:
                done = added or self._one(one)
            except KmError as error:
                self.failed.append(Failure(source, error))
                continue
            self.added.append(done)
            if done.action != "unchanged":
                self.foreign.look(done.document.name, one.text)

    def _one(self, ingested: Ingested) -> Added:
        name = self._name
        added = self._house.library.add(ingested, name, self._tags, self._update)
        here = added.document.name
        if added.action == "unchanged":
            own = self._house.library.catalogue.of_source(ingested.source)
            if own and own.id != added.document.id:
                keeps = f"{own.name}, which was read from it before, keeps its old text: km rm {own.name}"
                self._house.warn(f"{ingested.source} has the same contents as {here} now; {keeps}")
        if name is not None and added.action != "added" and here.casefold() != name.casefold():
            self._house.report(Event("add", f"it is in the library already, as {here}: km mv {here} {name} renames it"))
        return added


def read(house: House, sources: Sequence[str], column: str | None = None) -> Iterator[tuple[str, Ingested | KmError]]:
    """Every document of the sources, in their order, with the source that it is of; with one bar for all."""
    from kmcli import ingest
    from kmcli.ingest import ahead
    from kmcli.ingest.worker import Worker

    limits = house.limits()
    plain = [source for source in sources if ingest.is_file(source)]
    processes = ahead.processes_for(plain)
    with ExitStack() as until:
        reading = until.enter_context(ahead.Ahead(plain, house.report, processes, limits)) if processes else None
        worker = until.enter_context(Worker())
        for done, source in enumerate(sources):
            shown = ingest.without_password(source)
            house.report(Event("add", shown, done, len(sources)))
            if reading and ingest.is_file(source):
                yield source, reading.read()
                continue
            try:
                for found in ingest.read_all(source, house.report, column, limits, worker.parse):
                    yield shown, found
            except KmError as error:
                yield shown, error
    if sources:
        house.report(Event("add", "", len(sources), len(sources)))
