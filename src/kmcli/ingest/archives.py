"""Opening zipped formats without trusting them: bombs, passwords, damage and hostile XML."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kmcli.errors import KmError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_EXPANDED = 200_000_000
MAX_RATIO = 200
"""Expanded bytes per byte of file. Office's XML reaches 20 to 30; a bomb of one level reaches 1000."""
_RATIO_FROM = 10_000_000
"""Expanded size from which the ratio counts: below it no archive does harm."""


@contextmanager
def opened(data: bytes, name: str) -> Iterator[zipfile.ZipFile]:
    """The archive in `data`. Within the block, everything that a damaged archive does wrong is a KmError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # The directory's sizes bind: zipfile reads no more of an entry than its directory says.
            expanded = sum(entry.file_size for entry in archive.infolist())
            if expanded > MAX_EXPANDED or (expanded > _RATIO_FROM and expanded > MAX_RATIO * len(data)):
                raise KmError(
                    f"{name} would unpack to {expanded // 1_000_000} MB, far more than a document holds.",
                    "If you trust it, save its text as a smaller file and add that.",
                )
            if any(entry.flag_bits & 1 for entry in archive.infolist()):
                raise KmError(f"{name} is encrypted.", "Save a copy without a password.")
            yield archive
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, NotImplementedError, ValueError):
        raise damaged(name) from None


def xml(data: bytes, name: str) -> Element:
    """The root of an XML part. Entities and document types, which neither DOCX nor EPUB needs there, are refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        return fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise damaged(name) from None


def damaged(name: str) -> KmError:
    return KmError(f"{name} is damaged.", "Fetch it again, or open it elsewhere and save it again.")
