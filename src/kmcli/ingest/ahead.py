"""Many files read by several processes, ahead of who takes them in, and handed out in order."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType

from kmcli import ingest
from kmcli.errors import KmError
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

    def __init__(self, sources: Sequence[str], report: Reporter, processes: int) -> None:
        self._report = report
        self._processes = processes
        self._todo = deque(sources)
        self._under_way: deque[tuple[str, Future[Read]]] = deque()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def read(self) -> Ingested | KmError:
        """The next file, as `ingest.read` reads it, or why it cannot be read."""
        self._submit()
        source, future = self._under_way[0]
        try:
            found, events = future.result()
        except BrokenProcessPool:  # by this file, or by one that another process was reading
            self._end()
            found, events = self._alone(source)
            waiting = [source for source, _ in self._under_way]
            self._under_way.clear()
            self._todo.extendleft(reversed(waiting))
            self._todo.popleft()
        else:
            self._under_way.popleft()
        for event in events:
            self._report(event)
        return found

    def _submit(self) -> None:
        self._pool = self._pool or _pool(self._processes)
        while self._todo and len(self._under_way) < AHEAD * self._processes:
            source = self._todo.popleft()
            self._under_way.append((source, self._pool.submit(_read, source)))

    def _alone(self, source: str) -> Read:
        with _pool(1) as pool:
            try:
                return pool.submit(_read, source).result()
            except BrokenProcessPool:
                error = KmError(
                    f"{source} ended the process that read it.", "Is there enough memory? Else convert it elsewhere."
                )
                return error, []

    def _end(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def processes_for(sources: Sequence[str]) -> int:
    """How many processes so many files are worth; 0: none, they are read one after the other."""
    count = min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return count if len(sources) >= WORTH and count > 1 else 0


def _pool(processes: int) -> ProcessPoolExecutor:
    # Begun afresh and not forked: nobody knows what threads there are.
    return ProcessPoolExecutor(processes, get_context("spawn"), _leave_ctrl_c_to_the_parent)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(source: str) -> Read:
    events: list[Event] = []
    try:
        return ingest.read(source, report=events.append), events
    except KmError as error:
        return error, events
