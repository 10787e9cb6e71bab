"""One lock per document across processes, and a note of who holds it.

The operating system frees the lock of a process that dies, so a lock is never stale; only the note can be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kmcli.errors import KmError
from kmcli.library import files, processes


class Busy(KmError):
    """Another process holds the document's lock."""


class Locks:
    """The locks in one folder. Taking one again that this object already holds does nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[str] = set()

    def holds(self, key: str) -> bool:
        return key in self._held

    @contextmanager
    def hold(self, key: str, name: str, verb: str, wait: float) -> Iterator[None]:
        """Hold the lock `key`, after at most `wait` seconds. Raises Busy naming the holder, with `name` for people."""
        if key in self._held:
            yield
            return
        from filelock import FileLock, Timeout

        lock = FileLock(self._folder / f"{key}.lock", mode=files.FILE_MODE, thread_local=False)
        note = self._folder / f"{key}.json"
        try:
            with files.explained(self._folder):
                lock.acquire(timeout=wait)
        except Timeout:
            if not self._folder.is_dir():  # which filelock takes for being in use
                raise files.gone(self._folder) from None
            raise Busy(
                f"{name} is in use by {_holder(note)}.", "Wait until that has finished, or stop it; then try again."
            ) from None
        try:
            with files.explained(self._folder):
                files.write(note, json.dumps({**processes.this(), "verb": verb}).encode(), synced=False)
            self._held.add(key)
            yield
        finally:
            self._held.discard(key)
            with suppress(OSError):  # a note that stays is overwritten by the next holder
                note.unlink(missing_ok=True)
            lock.release()

    def holder(self, key: str) -> str:
        """The verb of the living process that holds the lock, by its note; "" where there is none. Takes no lock, which
        another process might want at that moment. Of another machine's processes only the note is known."""
        noted = _noted(self._folder / f"{key}.json")
        return noted["verb"] if noted and (not processes.here(noted) or processes.lives(noted["pid"])) else ""

    def forget(self, key: str) -> None:
        """Delete the lock file of a document that is gone; call it while holding the lock."""
        (self._folder / f"{key}.lock").unlink(missing_ok=True)


def _holder(note: Path) -> str:
    noted = _noted(note)
    if not noted:
        return "another km"  # which is about to write its note, or about to go
    where = "" if processes.here(noted) else f" on {noted['host']}"
    return f"km {noted['verb']} (process {noted['pid']}{where})"


def _noted(note: Path) -> dict[str, Any] | None:
    """What a note says: `verb`, `pid` and, except by an older km, `host`. None where it cannot be read."""
    try:
        holder: dict[str, Any] = json.loads(note.read_bytes())
        return {**holder, "verb": str(holder["verb"]), "pid": int(holder["pid"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
