"""What a disk holds, and what half-written files look like: see crash_disk.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crash_disk import Disk

PAGE = 4096


File = tuple[str, int, int]
"""Hash of the bytes, mode, and the time of the last change in ns."""
State = tuple[tuple[str, File | None], ...]
"""By path below the root; None is a folder."""
Names = dict[int, dict[str, int]]
"""By the number of a folder, the numbers of what is in it."""


@dataclass(frozen=True)
class Cut:
    """A step before which the power may go."""

    number: int
    what: str


@dataclass(slots=True)
class Seen:
    """A file or folder as it was seen last, and as it is safe: None where it never was."""

    folder: bool
    now: File
    safe: File | None = None


def safe(disk: Disk, seen: Seen) -> File:
    return seen.safe or (disk.keep(b""), seen.now[1], seen.now[2])


def now(disk: Disk, seen: Seen) -> File:
    return seen.now


def torn(disk: Disk, seen: Seen) -> File:
    """With half of what is new."""
    start, new = _news(disk, seen)
    return disk.keep(disk.data(seen.now[0])[:start] + new[: len(new) // 2]), *seen.now[1:]


def holes(disk: Disk, seen: Seen) -> File:
    """With zeros for the first half of what is new."""
    start, new = _news(disk, seen)
    half = len(new) // 2
    return disk.keep(disk.data(seen.now[0])[:start] + bytes(half) + new[half:]), *seen.now[1:]


def _news(disk: Disk, seen: Seen) -> tuple[int, bytes]:
    kept, written = disk.data(safe(disk, seen)[0]), disk.data(seen.now[0])
    start = _common(kept, written)
    return start, written[start:]


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    end = min(len(one), len(other))
    return next((index for index in range(end) if one[index] != other[index]), end) if one[:end] != other[:end] else end


def between(before: tuple[bytes | None, ...], now: tuple[bytes | None, ...]) -> list[tuple[bytes | None, ...]]:
    """SQLite's file and log on the way from one commit to the next, but for both ends."""
    (old, old_log), (new, new_log) = before, now
    if old != new and old_log and old and new:  # the log is copied into the file, page by page
        size = max(len(old), len(new))
        mixed = b"".join(
            (new if page % 2 else old)[page * PAGE : (page + 1) * PAGE] for page in range((size + PAGE - 1) // PAGE)
        )
        log = new_log if new_log and new_log.startswith(old_log) else old_log
        return [(mixed, log), (new, log)]
    if new_log and new_log != old_log:
        start = _common(old_log or b"", new_log)
        half = start + (len(new_log) - start) // 2
        rubbish = bytes(255 - byte for byte in new_log[half:])
        return [(old, new_log[:half]), (old, new_log[:half] + rubbish), (old, new_log[: start + 16])]
    return []


def assign(inside: dict[str, int], name: str, number: int | None) -> None:
    if number is None:
        inside.pop(name, None)
    else:
        inside[name] = number


def key_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
