"""What a worker of a Ray cluster does: a batch of documents, as data, in a library of its own that goes when it goes.

It works there as `km train` and `km synth` work at home, and hands over parcels: as soon as a document comes to another
state, every so many seconds, and at the end. The base stays in memory for the batches that follow. Nothing here needs Ray.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import kmcli
from kmcli import bases, config
from kmcli.bases import Base
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library, parcels
from kmcli.library.parcels import Parcel, Stamps
from kmcli.types import Document, Event, Recipe
from kmcli.workflows import due
from kmcli.workflows.batch import Loader
from kmcli.workflows.group import Group
from kmcli.workflows.house import House
from kmcli.workflows.material import RecipeOptions, Synthesised, write_missing
from kmcli.workflows.standing import ENDED, Follower, Standing
from kmcli.workflows.task import Trained
from kmcli.workflows.writer import open_writer

TELL_EVERY = 1.0
"""Seconds between two tellings of how far a batch is."""
SCRATCH = "km-worker-"
"""What the folders of workers begin with, among the machine's temporary files."""
_OWN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
"""How they are opened: what others of the machine put there under such a name is not waited for, nor followed."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done with every document. verb: train or synth. options: of which only counts whether any were given.

    tasks: the person's own, a file's contents by its name. keep_every: seconds between two parcels of what is unfinished.
    """

    verb: str
    wanted: Recipe
    options: RecipeOptions
    settings: Mapping[str, config.Value]
    force: bool
    restart: bool
    tasks: Mapping[str, str]
    keep_every: float
    version: str


@dataclass(frozen=True, slots=True)
class Told:
    """How far documents are, and warnings."""

    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a document stands, to go on from should this worker be lost."""

    parcel: Parcel


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a document; nothing more comes of it. parcel: None where nothing has changed since the last."""

    document_id: str
    result: Trained | Synthesised | KmError
    parcel: Parcel | None


Message = Told | Kept | Ended


def work_on(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
    """Work on documents, and tell of it as it goes. Raises what is no document's failure.

    The work is done in a thread of its own, always the same: what reports cannot give out values itself, and the library and
    the base belong to the thread that opened them.
    """
    out: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    done = _thread().submit(_work, work, batch, out.put)
    done.add_done_callback(lambda _: out.put(None))
    while (message := out.get()) is not None:
        yield message
    done.result()


_THREADS: list[ThreadPoolExecutor] = []
_DESKS: list[_Desk] = []


def _thread() -> ThreadPoolExecutor:
    if not _THREADS:
        _THREADS.append(ThreadPoolExecutor(1))
    return _THREADS[0]


def _work(work: Work, batch: Sequence[Parcel], put: Callable[[Message], None]) -> None:
    if work.version != kmcli.__version__:
        raise ResourceError(
            f"a worker has km {kmcli.__version__}, and this is {work.version}.", "Install the same on all machines."
        )
    if not _DESKS or _DESKS[0].house.settings != work.settings:
        _DESKS[:] = [_Desk(work)]
    _DESKS[0].work(work, batch, put)


@dataclass(slots=True)
class _Batch:
    """put: hands a message over. sent: what has been, by document; told: when; kept: when parcels were last packed."""

    work: Work
    put: Callable[[Message], None]
    documents: list[Document] = field(default_factory=list)
    sent: dict[str, Stamps] = field(default_factory=dict)
    follower: Follower = field(default_factory=Follower)
    latest: dict[str, Event] = field(default_factory=dict)
    told: float = 0.0
    kept: float = field(default_factory=time.monotonic)


class _Desk:
    """The library and the base of a worker process."""

    def __init__(self, work: Work) -> None:
        folder = _scratch()
        os.environ["KM_HOME"] = str(folder)  # also the person's own tasks are looked for there
        self.library = Library.open(folder)
        self.house = House(self.library, work.settings, self._report)
        self._loader = Loader(self.house)
        self._batch: _Batch | None = None

    def work(self, work: Work, given: Sequence[Parcel], put: Callable[[Message], None]) -> None:
        (self.library.home / "tasks").mkdir(exist_ok=True)
        for name, text in work.tasks.items():
            (self.library.home / "tasks" / name).write_text(text, "utf-8")
        for left in self.library.documents():  # of a batch that broke off
            self.library.remove(left.name)
        batch = self._batch = _Batch(work, put)
        for parcel in given:
            batch.sent[parcel.document.id] = parcels.unpack(self.library, parcel)
            batch.documents.append(parcel.document)
        try:
            results = self._train(batch) if work.verb == "train" else self._synth(batch)
            self._tell()
            for document in batch.documents:
                last = parcels.pack(self.library, document, batch.sent[document.id])
                put(Ended(document.id, results[document.id], last))
        finally:
            self._batch = None
        for document in batch.documents:
            self.library.remove(document.name)

    def _train(self, batch: _Batch) -> dict[str, Trained | Synthesised | KmError]:
        work, house = batch.work, self.house
        again = work.force or work.restart
        group = Group(house, self._loader, work.force, house.processes())
        try:
            for document in batch.documents:
                with group.failing(document):
                    base = self._base(work)
                    given = (house, document, base, work.wanted, work.options, work.restart)
                    # nothing is left where a worker was lost that had done all but say so
                    group.write(due.task_of(*given, again) or due.anew(*given))
            group.train()
        finally:
            group.close()
        failed = {one.source: one.error for one in group.failed}
        results: dict[str, Trained | Synthesised | KmError]
        results = {one.id: failed[one.name] for one in batch.documents if one.name in failed}
        return results | {one.document.id: one for one in group.trained if one.document.id not in results}

    def _synth(self, batch: _Batch) -> dict[str, Trained | Synthesised | KmError]:
        work, house = batch.work, self.house
        results: dict[str, Trained | Synthesised | KmError] = {}
        with open_writer(house, self._loader, self._base(work), work.wanted) as writer:
            for document in batch.documents:
                self._report(Standing("synth", document=document.name, state="writing"))
                try:
                    results[document.id] = write_missing(house, document, writer, work.wanted, work.force)
                except KmError as error:
                    results[document.id] = error
        return results

    def _base(self, work: Work) -> Base:
        base = bases.find(work.wanted.model, self._report, work.wanted.revision)
        if base.revision != work.wanted.revision:
            raise ResourceError(
                f"a worker has another version of {work.wanted.model} than this machine.",
                "Put the same base and the same km on all machines.",
            )
        return base

    # --- telling ---

    def _report(self, event: Event) -> None:
        batch = self._batch
        if batch is None:
            return
        now = time.monotonic()
        standing = batch.follower.about(event)
        if standing is not None:
            if standing.state not in ENDED:  # the driver alone says that, having kept it
                batch.latest[standing.document] = standing
        elif event.message:
            batch.latest[f"\0{event.message}"] = event
        if now - batch.told >= TELL_EVERY:
            self._tell()
        if isinstance(event, Standing) or now - batch.kept >= batch.work.keep_every:
            batch.kept = now
            for document in batch.documents:
                parcel = parcels.pack(self.library, document, batch.sent[document.id])
                if parcel:
                    batch.put(Kept(parcel))

    def _tell(self) -> None:
        batch = self._batch
        if batch and batch.latest:
            batch.put(Told(list(batch.latest.values())))
            batch.latest = {}
            batch.told = time.monotonic()


def _scratch() -> Path:
    """A new folder among the machine's temporary files, locked while this process lives. Those of workers that were killed
    are deleted."""
    top = Path(tempfile.gettempdir())
    for old in top.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            lock = os.open(old, _OWN)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
        lock = os.open(folder, _OWN)
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the process ends
        if folder.exists():
            break
        os.close(lock)  # another worker took it for one that was left, in between
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
