"""The file of names and tags (@TAG), a line each, from which a shell completes them without starting Python.

A line is added at its end or made empty where it stands, so that one document more or less costs the same in a library
of any size. Shells pass over empty lines; where most of the file is empty it is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kmcli.library import files

SMALL = 4096
"""Bytes below which it does not matter how much of the file is empty."""


class Published:
    """The file; call it while no other process may."""

    def __init__(self, path: Path, everything: Callable[[], Iterable[str]]) -> None:
        """everything: all that the file should hold."""
        self._path = path
        self._everything = everything

    def change(self, gone: Sequence[str], new: Sequence[str]) -> None:
        """Take lines out and put others in. What is there already stays once."""
        held = self._held()
        if held is None:
            self.anew()
            return
        places = [held.find(f"\n{one}\n".encode()) for one in gone]
        kept = [one for one in new if held.find(f"\n{one}\n".encode()) < 0]
        if -1 in places or (len(held) > SMALL and 4 * held.count(b"\n\n") > len(held)):
            self.anew()
            return
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            for one, place in zip(gone, places, strict=True):
                os.pwrite(descriptor, b"\n" * len(one.encode()), place)
            os.pwrite(descriptor, "".join(f"{one}\n" for one in kept).encode(), len(held) - 1)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _held(self) -> bytes | None:
        """Every line between two newlines; None where there is no file."""
        try:
            return b"\n" + self._path.read_bytes()
        except FileNotFoundError:
            return None

    def right(self) -> bool:
        """Whether the file holds what it should."""
        try:
            held = self._path.read_text("utf-8").split("\n") if self._path.exists() else []
        except UnicodeDecodeError:
            return False
        return sorted(filter(None, held)) == sorted(self._everything())

    def anew(self) -> None:
        files.write(self._path, "".join(f"{one}\n" for one in self._everything()).encode())
