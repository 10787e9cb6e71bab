"""Folders of what is being made: one process at a time has one, and a checkpoint keeps it for the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmcli.library import files
from kmcli.library.locks import Locks


@contextmanager
def held(locks: Locks, lock: str, what: str, verb: str, folder: Path) -> Iterator[Path]:
    """A folder, while no other process has it; without a checkpoint it goes afterwards.

    what, verb: what is made there, and by which verb. Raises KmError where another process has it.
    """
    with locks.hold(lock, what, verb, 0.0):
        with files.explained(folder):
            files.make_folder(folder)
        try:
            yield folder
        finally:
            if not begun(folder):
                files.delete(folder)


def begun(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any(folder.glob("checkpoint*"))


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    with files.explained(folder):
        files.delete(folder)
        files.make_folder(folder)
    return folder
