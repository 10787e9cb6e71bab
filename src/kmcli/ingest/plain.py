"""Markdown and plain text, as they are; and how bytes become text for every reader that is text underneath."""

from __future__ import annotations

import codecs
import re

from kmcli.errors import KmError
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import Reporter

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x7f\x80-\x9f\ufffd]")
_MOST_CONTROLS = 0.02
"""Share of characters that no text has: above it the bytes are not text."""


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    return Extract(clean(decode(data, name)))


def decode(data: bytes, name: str) -> str:
    """By byte order mark, else UTF-16 by its zeros, else UTF-8, else Windows-1252, which is what text that is none of these
    nearly always is.

    Raises KmError where it is no text.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            break
    else:
        text = _decode(data)
    if "\0" in text or _CONTROL.subn("", text)[1] > _MOST_CONTROLS * len(text):
        raise KmError(
            f"{name} is a binary file, not text.", "Add a PDF, DOCX, EPUB, HTML, Markdown, LaTeX or text file."
        )
    return text


def _decode(data: bytes) -> str:
    if encoding := _wide(data[:4096]):
        return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _wide(sample: bytes) -> str:
    """UTF-16 without a mark, as some programs write it: zero is every second byte of most letters, and no first one. ""
    where it is not that."""
    first, second = sample[::2].count(0), sample[1::2].count(0)
    many = len(sample) // 6
    return "utf-16-le" if second > many and not first else "utf-16-be" if first > many and not second else ""
