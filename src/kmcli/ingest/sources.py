"""The bytes of a file or of standard input, and everything that can be wrong with them before anybody looks inside."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from kmcli.errors import KmError, NotFoundError, UsageError, did_you_mean
from kmcli.ingest.limits import Limits

_BLOCK = 1 << 20


def absolute(source: str) -> Path:
    """The path as the person gave it, made absolute; symbolic links keep their own names.

    Raises UsageError for names that are not valid UTF-8, which no database or JSON could keep.
    """
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"the file name {source!a} is not valid UTF-8.", "Rename the file.") from None
    if "\0" in source:
        raise NotFoundError(f"{source!a} is not a path.", "Check how it is written.")
    return Path(os.path.abspath(os.path.expanduser(source)))


def from_file(path: Path, limits: Limits | None = None) -> bytes:
    """The content of a regular file. Raises NotFoundError, UsageError or KmError with the reason."""
    try:
        _regular(path, path.stat().st_mode)  # before it is opened: that alone can make a device do something
        # What has taken its place meanwhile is not waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            _regular(path, found.st_mode)
            (limits or Limits()).check_size(found.st_size, str(path))
            return _limited(stream, str(path), limits or Limits())
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise NotFoundError(f"{path} is a link to a file that is not there.", "Check where it leads.") from None
        raise NotFoundError(
            f"there is no file {path}.", did_you_mean(path.name, _beside(path), "Check the path.")
        ) from None
    except PermissionError:
        raise KmError(f"{path} may not be read by you.", "Check its permissions.") from None
    except OSError as error:
        raise KmError(f"{path} cannot be read: {error.strerror}.", "Check the path and the disk.") from None


def from_stdin(
    stdin: BinaryIO | None, example: str = "cat notes.txt | km add -", limits: Limits | None = None
) -> bytes:
    """All of standard input. example: how something is sent there.

    Raises UsageError where it is a terminal, KmError where nothing comes.
    """
    stream = stdin if stdin is not None else sys.stdin.buffer
    if stream.isatty():
        raise UsageError("nothing is sent to standard input.", f"For example: {example}")
    return _limited(stream, "standard input", limits or Limits())


def _regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder, not a file.", "Name the files in it.")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file.", "To read from a pipe, use - and send it to standard input.")


def _limited(stream: BinaryIO, name: str, limits: Limits) -> bytes:
    data = bytearray()
    while len(data) <= limits.bytes and (block := stream.read(_BLOCK)):  # as much as there is, not as there may be
        data += block
    if len(data) > limits.bytes:  # by how much, nobody knows
        limits.check_size(2 * limits.bytes, name)
    if not data:
        raise KmError(f"{name} is empty.", "Is it the right file, and was it written completely?")
    return bytes(data)


def _beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []
