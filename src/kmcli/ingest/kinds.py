"""What a file is, by its first bytes: the kind of reader it needs, or why none can read it."""

from __future__ import annotations

import io
import re
import zipfile

from kmcli.errors import KmError
from kmcli.ingest import plain

SUFFIX_OF_TYPE: dict[str, str] = {
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/epub+zip": ".epub",
    "application/xhtml+xml": ".xhtml",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/x-tex": ".tex",
    "application/x-tex": ".tex",
}
"""For URLs whose path has no telling suffix."""

_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_SIGNED = {"pdf": "PDF", "docx": "DOCX", "epub": "EPUB"}
"""Kinds whose files always open with their signature, and what people call them."""

_HTML = re.compile(r"<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
_BEFORE_HTML = re.compile(r"\s+|<\?xml[^>]*\?>|<!--.*?-->", re.DOTALL)
_LATEX = re.compile(r"\\document(?:class|style)\b")
_BEFORE_LATEX = re.compile(r"\s+|%[^\n]*\n")
_OPENING = 1 << 16
"""Characters within which a text says what it is."""


def sniff(data: bytes, name: str, by_suffix: str) -> str:
    """The kind that the content shows, or "" where it is text of some kind.

    Raises KmError for content that no reader takes: images, other archives, old Office files, damaged or binary files.
    """
    start = data[:1024].lstrip()
    if start.startswith(b"%PDF-") or (by_suffix == "pdf" and b"%PDF-" in start):
        return "pdf"
    if data.startswith(_IMAGES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        other = f", not a {_SIGNED[by_suffix]}" if by_suffix in _SIGNED else ""
        raise KmError(
            f"{name} is an image{other}.", "Make it a PDF with a text layer first, for example with ocrmypdf."
        )
    if data.startswith(b"PK\x03\x04"):
        return _sniff_zip(data, name)
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise KmError(
            f"{name} is an old or password-protected Office file.", "Save it as .docx or PDF, without a password."
        )
    if start.startswith(b"{\\rtf"):
        raise KmError(f"{name} is RTF, which km does not read.", "Save it as .docx or PDF.")
    if by_suffix in _SIGNED:
        kind = _SIGNED[by_suffix]
        raise KmError(f"{name} is damaged, or no {kind} at all.", "Open it elsewhere and save it again.")
    opening = plain.decode(data, name)[:_OPENING]  # refuses binary content
    if _opens(_HTML, _BEFORE_HTML, opening):
        return "html"
    return "latex" if not by_suffix and _opens(_LATEX, _BEFORE_LATEX, opening) else ""


def may_be_plain(data: bytes) -> bool:
    """Whether `sniff` would look at no more than the text: not so for what has to be unpacked first."""
    return not data[:1024].lstrip().startswith((b"%PDF-", b"PK\x03\x04"))


def _opens(what: re.Pattern[str], before: re.Pattern[str], text: str) -> bool:
    """Whether a text begins so, but for what may stand before. One by one: as one pattern it would take exponential time."""
    at = 0
    while found := before.match(text, at):
        at = found.end()
    return bool(what.match(text, at))


def _sniff_zip(data: bytes, name: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise KmError(f"{name} is a damaged archive.", "Fetch or save it again.") from None
    if "word/document.xml" in names:
        return "docx"
    if "META-INF/container.xml" in names:
        return "epub"
    what = "an archive, and neither DOCX nor EPUB"
    if any(entry.startswith("xl/") for entry in names):
        what = "a spreadsheet, which km does not read"
    elif any(entry.startswith("ppt/") for entry in names):
        what = "a presentation, which km does not read"
    raise KmError(f"{name} is {what}.", "Save what is in it as PDF, DOCX or text, and add that.")
