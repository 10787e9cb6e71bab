"""The library's own verbs: add, ls, show, tag, mv, rm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmcli.bases import EMBEDDED
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.library import Added, names
from kmcli.library.exams import Exam, Head
from kmcli.library.files import open_many
from kmcli.types import Document, KnowledgeModule, State
from kmcli.workflows import adding
from kmcli.workflows.house import Failure, House
from kmcli.workflows.naming import carries, find_all, find_one, tagged
from kmcli.workflows.passages import forget


@dataclass(frozen=True, slots=True)
class AddReport:
    added: tuple[Added, ...]
    failed: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as `ls` lists it. bytes: its Knowledge Module's size on disk, 0 without one. exam: what its exam
    came to."""

    document: Document
    state: State
    module: KnowledgeModule | None
    bytes: int
    exam: Head | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """samples: lines of study material by task. kept: modules of other kinds of adapter than its own. exam: of its Knowledge
    Module, where there was one and it is wished for; conflicts: what passages then answer in different ways, as
    `workflows.conflicts.Conflict`; confidence: as `routing.confidence.Calibration`."""

    entry: Entry
    samples: Mapping[str, int]
    kept: Sequence[KnowledgeModule] = ()
    exam: Exam | None = None
    conflicts: Sequence[Mapping[str, Any]] = ()
    confidence: Mapping[str, Any] | None = None


def add(
    house: House,
    sources: Sequence[str],
    name: str | None = None,
    tags: Sequence[str] = (),
    column: str | None = None,
    update: str | None = None,
) -> AddReport:
    """Read each source into the library; a folder is each file in it, a JSONL file or a dataset of the hub each line of
    it. What fails never stops the rest. column: where the text of a line stands. update: the name of a document whose text
    the one source becomes."""
    from kmcli import ingest  # not needed by the verbs that must be quick

    old = None if update is None else find_one(house.library, update)
    tags = [names.tag(tag) for tag in tags]
    failed: list[Failure] = []
    files: list[str] = []
    for source in sources:
        try:
            if not source.strip():
                raise UsageError("a source is empty.", "Name a file, a folder or a URL.")
            inside = ingest.expand(source)
            if not inside:
                raise NotFoundError(
                    f"there is no document in {source}.", "Hidden files and kinds that km does not read do not count."
                )
            files += inside
        except KmError as error:
            failed.append(Failure(source, error))
    many = [source for source in files if ingest.is_many(source)]
    if name is not None and (many or len(files) + len(failed) != 1):
        raise UsageError(
            "--name names one document, and several were given.", "Add them without --name, or one by one."
        )
    if old is not None and (name is not None or many or len(files) + len(failed) != 1):
        raise UsageError(
            "--update takes the one file that is the document's text now.",
            f"For example: km add --update {old.name} FILE; its name changes with: km mv {old.name} NEW",
        )
    if column is not None and not many:
        raise UsageError("--column is for JSONL files and datasets of the hub.", "Leave it out.")
    intake = adding.Intake(house, name, tags, old)
    for source, found in adding.read(house, files, column):
        intake.take(source, found)
    intake.flush()
    added, failed = intake.added, failed + intake.failed
    if any(one.action != "unchanged" for one in added) and house.settings["model"].value == EMBEDDED:
        house.announce_embedded()
    intake.foreign.tell()
    return AddReport(tuple(added), tuple(failed))


def ls(house: House, tag: str | None = None, limit: int | None = None) -> list[Entry]:
    """Documents by name, or those that carry a tag: the first so many of them, or all."""
    return [entry(house, document) for document in house.library.catalogue.documents(tag, limit)]


def count(house: House, tag: str | None = None) -> int:
    """How many documents there are, or carry a tag."""
    return house.library.catalogue.count(tag)


def next_ones(house: House) -> tuple[Document | None, Document | None, int]:
    """The first document without a Knowledge Module, the one that was trained last, and how many documents there are."""
    catalogue = house.library.catalogue
    return catalogue.unmade(), house.library.last_trained(), catalogue.count()


def show(house: House, name: str, exam: bool = False) -> Shown:
    """exam: with all of its exam. Warns where the document's module can no longer be used."""
    document = find_one(house.library, name)
    shown = entry(house, document)
    if shown.module and (outdated := house.outdated(document, shown.module)):
        house.warn(str(outdated))
    found = house.library.exams.of(shown.module) if exam and shown.module else None
    samples = Counter(sample.task for sample in house.library.samples(document))
    kept = house.library.kept_modules(document)
    if not (found and shown.module):
        return Shown(shown, samples, kept)
    beside = house.library.beside
    conflicts, confidence = (beside.of(shown.module, "conflicts"), beside.of(shown.module, "confidence"))
    return Shown(shown, samples, kept, found, conflicts or (), confidence)


def tags(house: House) -> dict[str, int]:
    """Every tag, by name, and how many documents have it."""
    return house.library.catalogue.tags()


def tag(house: House, given: Sequence[str], add: Sequence[str], remove: Sequence[str]) -> list[Document]:
    """Give documents tags, or take them away. Raises UsageError for a tag that is not allowed, NotFoundError for one to
    remove that none of the documents has."""
    add = [names.tag(tag) for tag in add]
    documents = find_all(house.library, given)
    for one in remove:
        if not any(carries(document, one) for document in documents):
            tagged(house.library, one)  # says where there is no such tag at all
            raise NotFoundError(f"none of these documents has the tag {one!r}.", "km ls shows the tags.")
    return [house.library.retag(document, add, remove) for document in documents]


def mv(house: House, old: str, new: str) -> Document:
    return house.library.rename(find_one(house.library, old).name, new)


def entries(house: House, given: Sequence[str]) -> list[Entry]:
    """The documents that are named or tagged."""
    return [entry(house, document) for document in find_all(house.library, given)]


def rm(house: House, given: Sequence[str]) -> list[Document]:
    """Remove documents and what km made of them: all, or none where a name is wrong or a document in use.

    The files that they came from stay.
    """
    documents = find_all(house.library, given)
    open_many()  # each lock is an open file
    with ExitStack() as held:
        for document in documents:
            held.enter_context(house.library.lock(document, "rm"))
        for document in documents:
            house.library.remove(document.name)
        forget(house, documents)
    return documents


def entry(house: House, document: Document) -> Entry:
    module = house.library.module(document)
    size = _bytes(module.path) if module else 0
    return Entry(document, house.state(document), module, size, house.library.exams.head(module) if module else None)


def _bytes(folder: Path) -> int:
    """0 where another process has just put another module in its place."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return 0
