"""What reading one file may cost. Each is a setting; what goes beyond it is refused, with the command that allows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NoReturn

from kmcli.config import SETTINGS
from kmcli.errors import KmError, ResourceError


@dataclass(frozen=True, slots=True)
class Limits:
    """max_megabytes: of a file, and of what an archive unpacks to. max_ratio: of the latter to the former. max_seconds,
    max_memory (megabytes): of the process that reads it."""

    max_megabytes: int = int(SETTINGS["max_megabytes"].default)
    max_pages: int = int(SETTINGS["max_pages"].default)
    max_ratio: int = int(SETTINGS["max_ratio"].default)
    max_seconds: int = int(SETTINGS["max_seconds"].default)
    max_memory: int = int(SETTINGS["max_memory"].default)

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Limits:
        """settings: all of km's, by name; their values are whole numbers (`config` sees to it)."""
        return cls(**{one.name: int(settings[one.name]) for one in fields(cls)})

    @property
    def bytes(self) -> int:
        return self.max_megabytes * 1_000_000

    def check_size(self, size: int, name: str) -> None:
        if size > self.bytes:
            raise KmError(
                f"{name} is larger than {self.max_megabytes:,} MB.",
                f"Split it, or allow more: {_allow('max_megabytes', -(-size // 1_000_000))}",
            )

    def check_pages(self, pages: int, name: str) -> None:
        if pages > self.max_pages:
            raise KmError(
                f"{name} has {pages:,} pages, and km reads {self.max_pages:,} of a file.",
                f"Split it, or allow more: {_allow('max_pages', pages)}",
            )

    def check_expanded(self, expanded: int, size: int, name: str) -> None:
        """Of an archive: how many bytes it unpacks to, or so many at least, and how many it has."""
        if expanded > self.bytes:
            raise KmError(
                f"{name} would unpack to more than {self.max_megabytes:,} MB.",
                f"If you trust it, allow more: {_allow('max_megabytes', -(-expanded // 1_000_000))}",
            )
        if expanded > _RATIO_FROM and expanded > self.max_ratio * size:
            raise KmError(
                f"{name} would unpack to more than {self.max_ratio} times its size, as no document does.",
                f"If you trust it, allow more: {_allow('max_ratio', -(-expanded // size))}",
            )

    def too_slow(self, name: str) -> NoReturn:
        raise KmError(
            f"{name} takes longer to read than {self.max_seconds:,} seconds.",
            f"Split it, or allow more: {_allow('max_seconds', 4 * self.max_seconds)}",
        )

    def too_hungry(self, name: str) -> NoReturn:
        raise ResourceError(
            f"{name} takes more memory to read than {self.max_memory:,} MB.",
            f"Split it, or allow more: {_allow('max_memory', 4 * self.max_memory)}",
        )


_RATIO_FROM = 10_000_000
"""Bytes from which on the ratio counts: below it no archive does harm."""


def _allow(key: str, enough: int) -> str:
    return f"km config set {key} {enough}"
