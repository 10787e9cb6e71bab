"""The library's own verbs: add, ls, show, mv, rm."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmcli import ingest
from kmcli.bases import EMBEDDED, EMBEDDED_NOTICE
from kmcli.errors import KmError, UsageError
from kmcli.library import Added
from kmcli.types import Document, Event, KnowledgeModule, State
from kmcli.workflows.house import Failure, House


@dataclass(frozen=True, slots=True)
class AddReport:
    added: tuple[Added, ...]
    failed: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as `ls` lists it. bytes: its Knowledge Module's size on disk, 0 without one."""

    document: Document
    state: State
    module: KnowledgeModule | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Shown:
    """samples: lines of study material by task."""

    entry: Entry
    samples: Mapping[str, int]


def add(house: House, sources: Sequence[str], name: str | None = None, tags: Sequence[str] = ()) -> AddReport:
    """Read each source into the library; a folder is each file in it. A source that fails never stops the rest."""
    added: list[Added] = []
    failed: list[Failure] = []
    files: list[str] = []
    for source in sources:
        try:
            files += ingest.expand(source)
        except KmError as error:
            failed.append(Failure(source, error))
    if name is not None and len(files) + len(failed) != 1:
        raise UsageError(
            "--name names one document, and several were given.", "Add them without --name, or one by one."
        )
    for done, source in enumerate(files):
        house.report(Event("add", source, done, len(files)))
        try:
            read = ingest.read(source, sys.stdin.buffer if source == "-" else None, house.report)
            added.append(house.library.add(read, name, tags))
        except KmError as error:
            failed.append(Failure(source, error))
    if files:
        house.report(Event("add", "", len(files), len(files)))
    if added and house.settings["model"].value == EMBEDDED:
        house.report(Event("base", EMBEDDED_NOTICE))
    return AddReport(tuple(added), tuple(failed))


def ls(house: House, tag: str | None = None) -> list[Entry]:
    """Every document, or those that carry a tag."""
    return [entry(house, document) for document in house.library.documents() if tag is None or tag in document.tags]


def show(house: House, name: str) -> Shown:
    document = house.library.find(name)
    return Shown(entry(house, document), Counter(sample.task for sample in house.library.samples(document)))


def mv(house: House, old: str, new: str) -> Document:
    return house.library.rename(old, new)


def rm(house: House, names: Sequence[str]) -> list[Document]:
    """Remove documents and what km made of them; the files they came from stay. All names are checked first."""
    documents = list({document.id: document for document in map(house.library.find, names)}.values())
    for document in documents:
        with house.library.lock(document, "rm"):
            house.library.remove(document.name)
    return documents


def entry(house: House, document: Document) -> Entry:
    module = house.library.module(document)
    size = sum(file.stat().st_size for file in module.path.iterdir() if file.is_file()) if module else 0
    return Entry(document, house.library.state(document), module, size)
