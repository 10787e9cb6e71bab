"""What a library has besides a document that an adapter may begin from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Shelf:
    """compressor: the folder of what `km compressor train` made for the base. cache: of the document, a folder for what can
    be computed again; it may not be there yet. None: there is none."""

    compressor: Path | None = None
    cache: Path | None = None


EMPTY = Shelf()
