"""Markdown and plain text, as they are; and how bytes become text for every reader that is text underneath."""

from __future__ import annotations

import codecs
import re

from kmcli.errors import KmError
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import Reporter

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x7f\x80-\x9f\ufffd]")
_MOST_CONTROLS = 0.02
"""Share of characters that no text has: above it the bytes are not text."""


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    return Extract(clean(decode(data, name)))


def decode(data: bytes, name: str) -> str:
    """By byte order mark, else UTF-8, else Windows-1252, which is what text without either nearly always is.

    Raises KmError where it is no text.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            break
    else:
        text = _decode(data)
    if "\0" in text or len(_CONTROL.findall(text)) > _MOST_CONTROLS * len(text):
        raise KmError(
            f"{name} is a binary file, not text.", "Add a PDF, DOCX, EPUB, HTML, Markdown, LaTeX or text file."
        )
    return text


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
