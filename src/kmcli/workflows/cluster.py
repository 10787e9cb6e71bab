"""Training and writing on a Ray cluster: documents go out in batches, as data, and come back to be kept here.

This process, the driver, holds the library: it alone locks, writes and commits. A task of Ray is a batch of documents
(`cluster_worker.work_on`) and streams what it makes: parcels to go on from, then results. All of it is taken into the
library when it comes, so there is no other state: a lost worker's documents go on from there on another one, and after a
lost driver the same command does. A document that failed is tried again, by itself, up to three times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import kmcli
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.library import parcels
from kmcli.synthesis import custom
from kmcli.types import Document, Event, Recipe
from kmcli.workflows.cluster_connection import connected, reason
from kmcli.workflows.cluster_worker import Kept, Message, Told, Work, work_on
from kmcli.workflows.group import TOGETHER
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import RecipeOptions, Synthesised
from kmcli.workflows.standing import Standing
from kmcli.workflows.task import Trained

KEEP_EVERY = 30.0
"""Seconds after which a lost worker's work is safe here, at the latest."""
TRIES = 3
"""Of a document, before it is reported as failed."""
LOOK = 0.5
"""Seconds to wait for news, before looking whether there is room for more."""


@dataclass(slots=True)
class Report:
    """What came of the documents. interrupted: Ctrl-C ended it, and the same command goes on."""

    finished: list[Trained | Synthesised]
    failed: list[Failure]
    interrupted: InterruptedRun | None = None


def run(
    house: House,
    verb: str,
    documents: Sequence[Document],
    wanted: Recipe,
    options: RecipeOptions,
    address: str,
    force: bool = False,
    restart: bool = False,
    prepare: Callable[[Document], None] | None = None,
) -> Report:
    """Train the documents, or write their study material, on the cluster at an address; "auto": the one that is found from
    here or, where there is none, this machine.

    prepare: is called with each document when it is locked. Raises ResourceError where Ray is not installed or no cluster
    answers, UsageError for what cannot be done there.
    """
    if wanted.init:
        raise UsageError("--init needs the library, and workers have a document each.", "Leave out --init or --ray.")
    names = {folder.name: folder.read_text("utf-8") for folder in sorted(custom.folder().glob("*.toml"))}
    settings = dict(house.settings)
    work = Work(verb, wanted, options, settings, force, restart, names, KEEP_EVERY, kmcli.__version__)
    with connected(address) as ray:
        return _Fleet(house, ray, work, prepare).run(documents)


@dataclass(eq=False, slots=True)
class _Out:
    """A document that is locked, and with a worker or about to be. tries: that failed."""

    document: Document
    lock: AbstractContextManager[Document]
    tries: int = 0
    error: KmError | None = None


class _Fleet:
    """The documents on their way, and the batches that are out."""

    def __init__(self, house: House, ray: Any, work: Work, prepare: Callable[[Document], None] | None) -> None:
        self._house, self._ray, self._work, self._prepare = house, ray, work, prepare
        self._waiting: deque[Document] = deque()
        self._again: deque[_Out] = deque()
        self._batches: dict[Any, dict[str, _Out]] = {}
        self._told: set[str] = set()
        self._report = Report([], [])
        gpus = self._gpus()
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "num_returns": "streaming"}
        self._task = ray.remote(work_on).options(name=f"km {work.verb}", **options)
        self._need = gpus

    def run(self, documents: Sequence[Document]) -> Report:
        self._waiting.extend(documents)
        try:
            self._send()
            while self._batches:
                ready, _ = self._ray.wait(list(self._batches), num_returns=1, timeout=LOOK)
                for batch in ready:
                    self._hear(batch)
                self._send()
        except KeyboardInterrupt:
            message = "stopped; nothing that was finished is lost."
            self._report.interrupted = InterruptedRun(message, "The same command goes on from there.")
        finally:
            for batch, out in self._batches.items():
                self._ray.cancel(batch, force=True)
                for one in out.values():
                    self._free(one)
            for one in self._again:
                self._free(one)
        return self._report

    def _gpus(self) -> int:
        """That a task needs."""
        device = self._house.settings["device"].value
        here = self._ray.cluster_resources()
        if device not in ("auto", "cuda") or (device == "auto" and not here.get("GPU")):
            gpus = 0
        else:
            gpus = int(self._house.settings["processes"].value)
        if gpus and not here.get("GPU"):
            self._house.warn("the cluster has no GPU yet: the documents wait for one")
        machines = sum(name.startswith("node:") and "__" not in name for name in here)
        room = ", ".join(f"{here[kind]:,.0f} {kind}s" for kind in ("CPU", "GPU") if here.get(kind))
        what = f"Ray: {machines:,} machine{'' if machines == 1 else 's'} with {room}"
        self._house.report(Event("ray", what))
        return gpus

    # --- sending out ---

    def _send(self) -> None:
        """Keep as many batches out as the cluster can work on, and as many again: they are what it grows by."""
        resources = self._ray.cluster_resources() if self._waiting or self._again else {}
        room = max(1, int(resources.get("GPU", 0) / self._need if self._need else resources.get("CPU", 0)))
        while (self._waiting or self._again) and len(self._batches) < 2 * room + 1:
            if self._again:
                batch = [self._again.popleft()]  # by itself: it may be what workers die of
            else:
                size = min(TOGETHER, max(1, len(self._waiting) // (2 * room)))
                some = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
                batch = [out for out in map(self._locked, some) if out]
            self._send_out(batch)

    def _locked(self, document: Document) -> _Out | None:
        lock = self._house.library.lock(document, self._work.verb)
        try:
            current = lock.__enter__()
        except KmError as error:
            self._fail(document, error)
            return None
        out = _Out(current, lock)
        try:
            if self._prepare:
                self._prepare(current)
        except KmError as error:
            self._free(out)
            self._fail(document, error)
            return None
        return out

    def _send_out(self, batch: Sequence[_Out]) -> None:
        packed: dict[str, _Out] = {}
        given = []
        for out in batch:
            try:
                given.append(parcels.pack(self._house.library, out.document, {}, text=True))
            except KmError as error:
                self._free(out)
                self._fail(out.document, error)
            else:
                packed[out.document.id] = out
        if packed:
            self._batches[self._task.remote(self._work, given)] = packed

    # --- hearing back ---

    def _hear(self, batch: Any) -> None:
        """The next message of a batch, or its end."""
        out = self._batches[batch]
        try:
            message: Message = self._ray.get(next(batch))
        except StopIteration:
            error = KmError("its worker ended without a word.")
        except self._ray.exceptions.RayError as lost:
            error = reason(lost)
        else:
            self._take(out, message)
            return
        del self._batches[batch]
        for one in out.values():
            self._failed(one, error)

    def _take(self, out: dict[str, _Out], message: Message) -> None:
        if isinstance(message, Told):
            for event in message.events:
                self._pass_on(event)
            return
        document_id = message.parcel.document.id if isinstance(message, Kept) else message.document_id
        one = out.get(document_id)
        if one is None:  # which this worker was not given, or has ended with
            return
        if isinstance(message, Kept):
            parcels.take(self._house.library, replace(message.parcel, document=one.document))
            return
        del out[document_id]
        try:
            if message.parcel:
                parcels.take(self._house.library, replace(message.parcel, document=one.document))
            if isinstance(message.result, KmError):
                self._failed(one, message.result)
                return
            result = replace(message.result, document=one.document)
            if isinstance(result, Trained):
                module = self._house.library.module(one.document)
                assert module is not None
                result = replace(result, module=module)
        except KmError as error:  # the disk here is full, or the library is gone
            self._free(one)
            self._fail(one.document, error)
            return
        self._free(one)
        self._report.finished.append(result)
        self._house.report(Standing(self._work.verb, document=one.document.name, state="done"))

    def _pass_on(self, event: Event) -> None:
        """What a worker tells. What several say is said once."""
        if not isinstance(event, Standing):
            if event.message in self._told or not (event.warning or event.stage == "base"):
                return
            self._told.add(event.message)
        self._house.report(event)

    def _failed(self, out: _Out, error: KmError) -> None:
        """Try again by itself, unless that was the last time."""
        out.tries += 1
        if out.tries < TRIES:
            self._again.append(out)
            self._house.report(Standing(self._work.verb, document=out.document.name, state="waiting"))
            return
        self._free(out)
        self._fail(out.document, error)

    def _fail(self, document: Document, error: KmError) -> None:
        self._report.failed.append(Failure(document.name, error))
        self._house.report(Standing(self._work.verb, document=document.name, state="failed"))

    @staticmethod
    def _free(out: _Out) -> None:
        out.lock.__exit__(None, None, None)
