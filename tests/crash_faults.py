"""What a disk may refuse, and a library that is taken away: see crash_verbs.py."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[str, Path], None]
"""What befalls a step, given what it is and the root."""


def full(what: str, root: Path) -> None:
    if what.startswith("sqlite"):
        raise sqlite3.OperationalError("database or disk is full")
    if not what.startswith(("remove", "rmdir", "truncate")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(what: str, root: Path) -> None:
    if what.startswith("sqlite"):
        raise sqlite3.OperationalError("attempt to write a readonly database")
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def not_permitted(what: str, root: Path) -> None:
    if what.startswith("sqlite"):
        raise sqlite3.OperationalError("unable to open database file")
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def broken(what: str, root: Path) -> None:
    if what.startswith("sqlite"):
        raise sqlite3.OperationalError("disk I/O error")
    if what.startswith("fsync"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def gone(what: str, root: Path) -> None:
    """The library's folder is moved away; what comes after meets that by itself."""
    if (root / "home").is_dir() and not (root / "away").exists():
        (root / "home").rename(root / "away")


FAULTS: tuple[Fault, ...] = (full, read_only, not_permitted, broken, gone)
