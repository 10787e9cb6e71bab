"""Parsing in a child process: what a hostile or broken file does to its parser, it does there, and no longer than it may.

The parent sends a file's bytes; the child answers with what there is to report, and at last with the text or why there is
none. Both speak JSON with bytes behind it: nothing that a child says is run or unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from types import TracebackType
from typing import IO, Any

from kmcli import errors, ingest
from kmcli.errors import KmError
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Parsed, Task
from kmcli.ingest.text import Extract
from kmcli.types import Event, Reporter

_HEAD = struct.Struct(">IQ")
"""Length of the JSON, and of the bytes behind it."""
_LONGEST_HEAD, _LONGEST_BODY = 1 << 24, 1 << 33
_START = "import sys; sys.path[:] = sys.argv[1:]; from kmcli.ingest import worker; worker.main()"
_ELSEWHERE = "Open it elsewhere and save it again, or save its text and add that."


class Worker:
    """Parses, by a child that is begun when it is first needed, and anew after it had to be ended.

    everything: plain text too, which this process otherwise reads itself.
    """

    def __init__(self, everything: bool = False) -> None:
        self._everything = everything
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    _close(stream)

    def parse(self, task: Task, data: bytes, report: Reporter) -> Parsed:
        """As `ingest.parse`. Raises KmError too where the child takes longer or more memory than it may, or ends."""
        if not self._everything and ingest.is_plain(task, data):
            return ingest.parse(task, data, report)
        child = self._child = self._child or _start()
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(task.limits.max_seconds, end)
        timer.daemon = True
        timer.start()
        try:
            header, body = _exchange(child, task, data, report)
        except _Gone:
            self.close()
            if late.is_set() or child.returncode == -signal.SIGXCPU:
                task.limits.too_slow(task.name)
            raise KmError(
                f"{task.name} ended the process that read it.", "Is there enough memory? Else convert it elsewhere."
            ) from None
        except BaseException:  # Ctrl-C, or an error of whoever is reported to: the child is at work still
            self.close()
            raise
        finally:
            timer.cancel()
        if header.get("ended") or late.is_set():
            self.close()
        return _result(header, body, task)


class _Gone(Exception):
    """The other end is not there any more, or makes no sense."""


def _exchange(
    child: subprocess.Popen[bytes], task: Task, data: bytes, report: Reporter
) -> tuple[dict[str, Any], bytes]:
    assert child.stdin is not None
    assert child.stdout is not None
    _send(child.stdin, dataclasses.asdict(task), data)
    while True:
        header, body = _receive(child.stdout, task.limits.max_memory * 1_000_000)
        if "event" not in header:
            return header, body
        report(_event(header["event"]))


def _event(given: Any) -> Event:
    match given:
        case {"stage": str(stage), "message": str(message), "done": done, "total": total, "numbers": {}, **others}:
            counted = all(one is None or isinstance(one, int | float) for one in (done, total))
            if counted and others.keys() <= {"warning"}:
                return Event(stage, message, done, total, warning=bool(others.get("warning")))
    raise _Gone


def _start() -> subprocess.Popen[bytes]:
    # Isolated, and with this process's own paths: neither the folder km stands in nor the environment adds a module.
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _START, *filter(None, map(os.path.abspath, filter(None, sys.path)))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for km, which then ends it
    )


def _result(header: dict[str, Any], body: bytes, task: Task) -> Parsed:
    match header:
        case {"kind": str(kind), "pages": int() | None as pages, "title": str(title)} if kind in ingest.READERS:
            return kind, Extract(body.decode("utf-8", "replace"), pages, title)
        case {"memory": True}:
            task.limits.too_hungry(task.name)
        case {"error": str(error), "message": str(message), "hint": str(hint)}:
            raise _ERRORS.get(error, KmError)(message, hint)
    raise KmError(f"{task.name} cannot be read: its parser fails ({header.get('fault')}).", _ELSEWHERE)


_ERRORS: dict[str, type[KmError]] = {
    one.__name__: one for one in (KmError, errors.UsageError, errors.NotFoundError, errors.ResourceError)
}


def _send(stream: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    head = json.dumps(header).encode("ascii")
    try:
        stream.write(_HEAD.pack(len(head), len(body)) + head)
        stream.write(body)
        stream.flush()
    except OSError:
        raise _Gone from None


def _receive(stream: IO[bytes], most: int = _LONGEST_BODY) -> tuple[dict[str, Any], bytes]:
    """most: bytes of a body; who sends more than that makes no sense."""
    try:
        head, body = _HEAD.unpack(stream.read(_HEAD.size))
        if head > _LONGEST_HEAD or body > most:
            raise _Gone
        header, data = json.loads(stream.read(head)), stream.read(body)
    except (OSError, ValueError, RecursionError, struct.error):
        raise _Gone from None
    if not isinstance(header, dict) or len(data) < body:
        raise _Gone
    return header, data


def _close(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet
        stream.close()


# --- in the child -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Parse what comes from standard input until it ends; libraries that print find nobody who reads it."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    try:
        while _one(source, target):
            pass
    except _Gone:  # km has ended, or has no more
        os._exit(0)  # and not by way of closing a pipe that nobody reads


def _one(source: IO[bytes], target: IO[bytes]) -> bool:
    """Parse one file; whether this process is fit for another."""
    given, data = _receive(source)
    task = Task(**{**given, "limits": Limits(**given["limits"])})
    _confine(task.limits)

    def report(event: Event) -> None:
        _send(target, {"event": dataclasses.asdict(event)})

    try:
        kind, extract = ingest.parse(task, data, report)
    except KmError as error:
        _send(target, {"error": type(error).__name__, "message": error.message, "hint": error.hint})
    except MemoryError:
        _send(target, {"memory": True, "ended": True})
        return False
    except _Gone:
        raise
    except Exception as error:  # noqa: BLE001  (a parser that a file has brought down: said in a sentence, by the parent)
        _send(target, {"fault": type(error).__name__, "ended": True})
        return False
    else:
        _send(target, {"kind": kind, "pages": extract.pages, "title": extract.title}, extract.text.encode("utf-8"))
    return True


def _confine(limits: Limits) -> None:
    """What the system itself keeps this process to. Time and memory count for the file that is next."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    # km ends it earlier, unless it is gone itself.
    seconds = int(used.ru_utime + used.ru_stime) + limits.max_seconds * (os.cpu_count() or 1)
    for what, most in (
        (resource.RLIMIT_DATA, limits.max_memory * 1_000_000),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # a parser has nothing to write
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
