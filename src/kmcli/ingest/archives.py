"""Opening zipped formats without trusting them: bombs, passwords, damage and hostile XML."""

from __future__ import annotations

import copy
import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kmcli.errors import KmError
from kmcli.ingest.limits import Limits

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""All that DOCX and EPUB allow. Of the others zipfile unpacks a whole entry at once, whatever comes of it."""
_BLOCK = 1 << 16
_AGAIN = "Fetch it again, or open it elsewhere and save it again."


@contextmanager
def opened(data: bytes, name: str, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """The archive in `data`, all of which has been unpacked once, a block at a time, and is what its directory says.

    Within the block, everything that a damaged archive does wrong is a KmError.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            limits.check_expanded(sum(entry.file_size for entry in archive.infolist()), len(data), name)
            if any(entry.flag_bits & 1 for entry in archive.infolist()):
                raise KmError(f"{name} is encrypted.", "Save a copy without a password.")
            _unpack(archive, name)
            yield archive
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, NotImplementedError, ValueError):
        raise damaged(name) from None


def _unpack(archive: zipfile.ZipFile, name: str) -> None:
    """Raises KmError where an entry has more or less in it than the directory says: zipfile, asked for all of an entry,
    unpacks it whole before it looks at that."""
    for entry in archive.infolist():
        if entry.compress_type not in _METHODS:
            raise damaged(name)
        unbound = copy.copy(entry)
        unbound.file_size = sys.maxsize  # or reading ends where the directory says, and not where the entry does
        found = 0
        with archive.open(unbound) as stream:
            while block := stream.read(_BLOCK):
                found += len(block)
                if found > entry.file_size:
                    raise KmError(f"{name} unpacks to more than it says, as no document does.", _AGAIN)
        if found < entry.file_size:
            raise damaged(name)


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
    return KmError(f"{name} is damaged.", _AGAIN)
