"""Many files read by several processes, ahead of who takes them in, and handed out in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType

from kmcli import ingest
from kmcli.errors import KmError
from kmcli.ingest.limits import Limits
from kmcli.ingest.worker import Worker
from kmcli.types import Event, Ingested, Reporter

WORTH = 32
"""Files from which on it is worth starting processes."""

MOST = 8
"""Processes: more than these only wait for the one that writes."""

AHEAD = 4
"""Files that are read ahead, for each process: what is read waits in memory."""

Read = tuple[Ingested | KmError, list[Event]]


class Ahead:
    """Use it in a `with` statement, and ask for the files in the order in which they were given."""

    def __init__(self, sources: Sequence[str], report: Reporter, processes: int, limits: Limits) -> None:
        self._report = report
        self._limits = limits
        self._todo = deque(sources)
        self._under_way: deque[Future[Read]] = deque()
        self._most = AHEAD * processes
        self._workers = [Worker(everything=True) for _ in range(processes)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(processes)  # each waits for one worker

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for _ in range(2):  # the second time, those that were begun just then
            for worker in self._workers:
                worker.close()
            self._threads.shutdown()

    def read(self) -> Ingested | KmError:
        """The next file, as `ingest.read` reads it, or why it cannot be read."""
        while self._todo and len(self._under_way) < self._most:
            self._under_way.append(self._threads.submit(self._read, self._todo.popleft()))
        found, events = self._under_way.popleft().result()
        for event in events:
            self._report(event)
        return found

    def _read(self, source: str) -> Read:
        events: list[Event] = []
        worker = self._idle.get()
        try:
            return ingest.read(source, None, events.append, self._limits, worker.parse), events
        except KmError as error:
            return error, events
        finally:
            self._idle.put(worker)


def processes_for(sources: Sequence[str]) -> int:
    """How many processes so many files are worth; 0: none, they are read one after the other."""
    count = min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return count if len(sources) >= WORTH and count > 1 else 0
