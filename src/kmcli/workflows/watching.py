"""A folder that is kept in the library: looked at again and again, new files added, changed ones updated, none removed.

It is looked at and not listened to: that works on every file system, also over a network, and costs a `stat` for each file.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kmcli import ingest
from kmcli.errors import InterruptedRun, KmError, NotFoundError, ResourceError
from kmcli.ingest import sources
from kmcli.library import names
from kmcli.library.locks import Busy
from kmcli.types import Document, Event
from kmcli.workflows import documents, study
from kmcli.workflows.house import House
from kmcli.workflows.material import RecipeOptions, recipe_for
from kmcli.workflows.naming import carries

TRAINED_AT_ONCE = 8
"""Documents between which the folder is not looked at."""

Stamp = tuple[int, int, int]
"""When a file was written, how long it is, and which: it has changed where one of them has."""


@dataclass(frozen=True, slots=True)
class Happened:
    """What was seen of a file, or done about it.

    kind: added, updated; moved: the document's file lies elsewhere now; copy: the library has these bytes; tagged: it was
    there, and is given the tags; gone: the file of a document, which stays; failed: with the error; trained. stale: its
    Knowledge Module is of another text.
    """

    kind: Literal["added", "updated", "moved", "copy", "tagged", "gone", "failed", "trained"]
    path: str
    document: Document | None = None
    stale: bool = False
    error: KmError | None = None


@dataclass(slots=True)
class Watched:
    """How often each kind of thing has happened, and what interrupted a training."""

    counts: dict[str, int] = field(default_factory=dict)
    interrupted: InterruptedRun | None = None


def watch(
    house: House,
    folder: str,
    tell: Callable[[Happened], None],
    tags: Sequence[str] = (),
    train: RecipeOptions | None = None,
    every: float = 2.0,
    wait: Callable[[float], None] = time.sleep,
) -> Watched:
    """Look at a folder every so many seconds, until Ctrl-C.

    tags: that every document of the folder is given, also one that is there already. train: keep every one trained as well,
    by this recipe. Raises NotFoundError where there is no such folder, UsageError for a tag that is not allowed.
    """
    tags = [names.tag(tag) for tag in tags]
    top = sources.absolute(folder)
    if not top.is_dir():
        alone = f"A file by itself: km add {folder}" if top.is_file() else "Check the path."
        raise NotFoundError(f"there is no folder {top}.", alone)
    if train is not None:
        recipe_for(house, house.base(), train)  # what makes no sense is said now, not at the first file
    house.report(Event("note", f"watching {folder}; Ctrl-C ends it"))
    seen = Watched()

    def count(happened: Happened) -> None:
        seen.counts[happened.kind] = seen.counts.get(happened.kind, 0) + 1
        tell(happened)

    watcher = Watcher(house, top, tags, every, count)
    try:
        while True:
            settled = watcher.look()
            if train is not None and settled and watcher.untrained():
                seen.interrupted = watcher.train(train)
                if seen.interrupted:
                    return seen
                continue
            wait(every)
    except KeyboardInterrupt:
        return seen


class Watcher:
    def __init__(
        self, house: House, folder: Path, tags: Sequence[str], every: float, tell: Callable[[Happened], None]
    ) -> None:
        self._house = house
        self._folder = folder
        self._tags = tags
        self._every = every
        self._tell = tell
        self._known: dict[str, Stamp] = {}
        self._unsettled: Mapping[str, Stamp] = {}
        self._untrained: dict[str, None] | None = None
        """Ids of documents that may want training, in order; None: nobody has looked yet."""
        self._missing = False
        self._looked = False
        self._failed: dict[str, str] = {}
        """What was told of files that are tried again, because nothing is wrong with themselves."""

    def look(self) -> bool:
        """Take in what has changed since the last look; whether nothing is being written just now.

        A file is taken when it is as it was at the last look, or was written longer ago: what is half copied is left.
        """
        if not self._folder.is_dir():  # unplugged: its files are not gone
            if not self._missing:
                self._house.warn(f"{self._folder} is not there now; km waits for it")
            self._missing = True
            return False
        self._missing = False
        now = time.time_ns()
        there = _stamps(self._folder)
        changed = {path: stamp for path, stamp in there.items() if self._known.get(path) != stamp}
        settled = [
            path
            for path, stamp in changed.items()
            if self._unsettled.get(path) == stamp or now - stamp[0] > self._every * 1e9
        ]
        self._unsettled = {path: stamp for path, stamp in changed.items() if path not in set(settled)}
        again = self._take(settled)
        self._known |= {path: there[path] for path in settled if path not in again}
        if not self._looked:
            here = self._house.library.catalogue.below(f"{self._folder}{os.sep}")
            lost = [document.source for document in here if not os.path.lexists(_file(document.source))]
            self._looked = True
        else:
            lost = [path for path in self._known if path not in there and not os.path.lexists(path)]
        for path in lost:
            self._known.pop(path, None)
            document = self._house.library.catalogue.of_source(path)
            if document:
                self._tell(Happened("gone", path, document))
        return not self._unsettled

    def untrained(self) -> list[str]:
        """Names of documents of the folder that want training, the first few."""
        catalogue = self._house.library.catalogue
        if self._untrained is None:
            self._untrained = {document.id: None for document in catalogue.below(f"{self._folder}{os.sep}")}
        found = []
        for document_id in list(self._untrained):
            document = catalogue.of_id(document_id)
            if document is None or self._house.state(document) == "fresh":
                del self._untrained[document_id]
            else:
                found.append(document.name)
                if len(found) == TRAINED_AT_ONCE:
                    break
        return found

    def train(self, options: RecipeOptions) -> InterruptedRun | None:
        """Train these. What fails is told, and left until it changes."""
        assert self._untrained is not None
        todo = self.untrained()
        ids = [self._house.library.find(name).id for name in todo]
        report = study.train(self._house, todo, False, options)
        for trained in report.trained:
            self._tell(Happened("trained", trained.document.source, trained.document))
        for failure in report.failed:
            self._tell(Happened("failed", failure.source, error=failure.error))
        for one in ids if not report.interrupted else ():
            self._untrained.pop(one, None)
        return report.interrupted

    def _take(self, paths: Sequence[str]) -> set[str]:
        """Returns those that could not be taken now, but may be later: the document is in use, or the disk is full."""
        new = []
        for path in paths:
            document = self._held(path)
            if document:
                self._tag(document, path)
            else:
                new.append(path)
        if not new:
            return set()
        report = documents.add(self._house, new, None, self._tags)
        for added in report.added:
            document, kind = added.document, added.action
            if self._untrained is not None and kind != "unchanged":
                self._untrained[document.id] = None
            stale = kind == "updated" and added.was_trained
            self._tell(Happened("copy" if kind == "unchanged" else kind, document.source, document, stale))
        failed: dict[str, str] = {}
        for failure in report.failed:
            if isinstance(failure.error, Busy | ResourceError):
                failed[_file(failure.source)] = str(failure.error)
            if self._failed.get(_file(failure.source)) != str(failure.error):
                self._tell(Happened("failed", failure.source, error=failure.error))
        self._failed = failed
        return set(failed)

    def _held(self, path: str) -> Document | None:
        """The document of a file that the library has as it is; where it was moved, that is noted."""
        try:
            sha256 = hashlib.sha256(sources.from_file(Path(path), self._house.limits())).hexdigest()
        except KmError:
            return None  # reading it says why
        catalogue = self._house.library.catalogue
        own, same = catalogue.of_source(path), catalogue.of_bytes(sha256)
        if own:
            return own if own.sha256 == sha256 else None
        if same is None:
            return None
        if os.path.isabs(same.source) and not os.path.lexists(_file(same.source)):
            self._known.pop(same.source, None)
            same = self._house.library.found_at(same, path)
            self._tell(Happened("moved", path, same))
        else:
            self._tell(Happened("copy", path, same))
        return same

    def _tag(self, document: Document, path: str) -> None:
        """As `km add` does with what is in the library already."""
        if not all(carries(document, tag) for tag in self._tags):
            self._tell(Happened("tagged", path, self._house.library.retag(document, self._tags, ())))


def _file(source: str) -> str:
    """Where a document was read from."""
    return ingest.parts(source)[0]


def _stamps(folder: Path) -> dict[str, Stamp]:
    """Of every file that km reads."""
    found: dict[str, Stamp] = {}
    for path in ingest.expand(str(folder)):
        try:
            status = os.stat(path)
        except OSError:  # gone just now
            continue
        found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found
