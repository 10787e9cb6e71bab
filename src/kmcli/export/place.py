"""Where an export goes: room for it first, a temporary name beside it, and the final name only for the whole.

A temporary file or folder is locked by the process that writes it. So the next export to the same place knows what a
process that was killed has left behind, and deletes that; what another process is writing just now stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmcli.errors import NotFoundError, ResourceError, UsageError
from kmcli.library.files import exchange, sync

MARK = "km.json"
"""The file by which a folder is known as one that km has exported; it says what the folder holds."""

KEY = b"km.version"
"""A GGUF key by which a file is known as one that km has exported. It stands near the beginning, before the vocabulary."""

_BEGINNING = 1 << 16
_LONGEST = 240
"""Bytes of a name: nearly every file system takes 255, the 15 of a temporary name's ends among them."""
_PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)
"""A temporary name, and what it is to become."""


def require_target(out: Path, is_folder: bool, force: bool) -> None:
    """Raises unless an export may be put at `out`: nothing is there, or what km has exported there before.

    force: also in place of any other file. A folder that km has not made is never replaced.
    """
    if str(out) == "-":
        raise UsageError("an export cannot be written to standard output.", "Name a file or folder with --out.")
    if len(os.fsencode(out.name)) > _LONGEST:
        raise UsageError(f"the name {out.name} is too long for a file.", "Choose a shorter one with --out.")
    if not out.parent.is_dir():
        raise NotFoundError(f"there is no folder {out.parent}.", "Create it first, or choose another place with --out.")
    if not os.path.lexists(out):
        return
    if is_folder:
        if not out.is_dir():
            raise UsageError(f"{out} is a file, and this format is a folder.", "Choose another name with --out.")
        if out.is_symlink() or ((out / MARK).is_file() is False and any(out.iterdir())):
            raise UsageError(f"{out} is a folder that km has not made.", "Choose another name with --out.")
        return
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", f"Give the name of a file, such as {out / 'model.gguf'}")
    if not out.is_file():
        raise UsageError(f"{out} is no regular file.", "Give the name of a file, such as model.gguf.")
    if not force and not _ours(out):
        raise UsageError(f"{out} is there already, and km has not made it.", "Choose another name, or add --force.")


def _ours(file: Path) -> bool:
    with file.open("rb") as stream:
        begin = stream.read(_BEGINNING)
    return begin[:4] == b"GGUF" and KEY in begin


def require_place(out: Path, needed: int) -> None:
    """Raises unless `out` can be a file or folder in a folder that exists, with `needed` bytes free beside it."""
    if not out.parent.is_dir():
        raise NotFoundError(f"there is no folder {out.parent}.", "Create it first, or choose another place with --out.")
    _sweep(out)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise ResourceError(
            f"{out.name} needs {_size(needed)}, but {_known(out).parent} has {_size(free)} free.",
            "Make room, or choose another place with --out.",
        )


def _known(out: Path) -> Path:
    """`out` by a name that its user knows: what is in a temporary folder goes to a place beside that."""
    while _PART.fullmatch(out.parent.name):
        out = out.parent.with_name(out.name)
    return out


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A temporary name beside `out` to write a file to; renamed to `out` at the end, removed on any way out before."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Give the name of a file, such as model.gguf.")
    with temporary(out, is_folder=False) as part:
        yield part
        sync(part)
        part.replace(out)
        sync(out.parent)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """The same for a folder to write into, which replaces the one at `out`."""
    with temporary(out, is_folder=True) as part:
        yield part
        for path in (*part.rglob("*"), part):
            sync(path)
        if not out.exists():
            part.rename(out)
        else:
            old = part if exchange(part, out) else _make_way(out, part)
            sync(out.parent)
            shutil.rmtree(old)
        sync(out.parent)


def _make_way(out: Path, part: Path) -> Path:
    """Where a file system cannot exchange two folders, rename both, the one that was there first; what it is called then."""
    old = _temporary_name(out)
    out.rename(old)
    try:
        part.rename(out)
    except BaseException:
        old.rename(out)
        raise
    return old


@contextmanager
def temporary(out: Path, is_folder: bool) -> Iterator[Path]:
    """A file or folder beside `out` under a name nobody reads, deleted at the end if it is still there."""
    _sweep(out)
    part = _temporary_name(out)
    lock = -1
    try:
        if is_folder:
            part.mkdir()
        else:
            part.touch(exist_ok=False)
        lock = os.open(part, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: then nothing is swept there either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield part
    except OSError as error:
        reason = error.strerror or "not all of it could be stored"  # numpy names counts, and no cause
        raise ResourceError(
            f"{_known(out)} cannot be written: {reason}.", "Check the disk's space and permissions."
        ) from None
    finally:
        _delete(part)
        if lock >= 0:
            os.close(lock)


def _temporary_name(out: Path) -> Path:
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")


def _sweep(out: Path) -> None:
    """Delete what killed exports to the same place have left."""
    for path in out.parent.iterdir() if os.access(out.parent, os.R_OK | os.W_OK) else ():
        found = _PART.fullmatch(path.name)
        if found is None or found[1] != out.name:
            continue
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
                _delete(path)
            finally:
                os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # not there, or on a read-only file system, and then never made
            path.unlink()


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
