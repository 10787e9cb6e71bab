"""PDF by pypdf: its pieces of text with their places become lines, `layout` makes prose of them."""

from __future__ import annotations

import io
import logging
import math
import zlib
from typing import TYPE_CHECKING, Any

from kmcli.errors import KmError, ResourceError
from kmcli.ingest import ocr
from kmcli.ingest.layout import Line, Page, prose
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import PAGE_BREAK, Event, Reporter

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})

# pypdf: "broken PDF files might cause other exceptions", and they do.
_BROKEN = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    OSError,
    EOFError,
    zlib.error,
)


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    """Text page by page; a page that cannot be read is reported and left empty.

    Raises KmError where the file is damaged, encrypted, or holds pictures of text only; ResourceError where its
    encryption needs a package that is missing.
    """
    from pypdf.errors import DependencyError

    try:
        return _read(data, name, report, limits)
    except DependencyError:
        raise ResourceError(
            f"{name} is encrypted with AES, which needs the package cryptography.",
            "Install it: pip install cryptography. Or save a copy without a password.",
        ) from None


def _read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    from pypdf.errors import DeprecationError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    reader = _open(data, name, limits)
    count = len(reader.pages)
    pages: list[Page] = []
    damaged: set[int] = set()
    for number in range(1, count + 1):
        try:
            pages.append(_lines(reader.pages[number - 1]))
        except (PyPdfError, DeprecationError, *_BROKEN):
            damaged.add(number)
            report(Event("read", f"page {number} of {name} is damaged and was left out", warning=True))
            pages.append([])
        report(Event("read", name, number, count))
    empty = [number for number, page in enumerate(pages, 1) if not page and number not in damaged]
    scanned = [number for number in empty if _has_picture(reader.pages[number - 1])] if len(empty) < count else empty
    if scanned and ocr.installed():
        _recognise(data, name, scanned, pages, report)
    elif scanned and len(scanned) < count:
        what = (
            f"{len(scanned)} of the {count} pages of {name} are pictures and were left out; to read them: {ocr.INSTALL}"
        )
        report(Event("read", what, warning=True))
    texts = [clean(text.translate(_LIGATURES)) for text in prose(pages)]
    if not any(texts):
        if damaged:
            raise _damaged(name)
        if ocr.installed():
            raise KmError(
                f"{name} has no text, nor any in its pictures.", "Is it the file you meant? Else scan it again."
            )
        raise KmError(f"{name} has no text: its pages are scanned images.", f"For km to read them: {ocr.INSTALL}")
    return Extract(PAGE_BREAK.join(texts), pages=len(texts))


def _has_picture(page: PageObject) -> bool:
    """Whether a page without text has a picture, so that it is not just blank."""
    from pypdf.errors import DeprecationError, PyPdfError

    try:
        drawn: Any = page["/Resources"]
        drawn = drawn.get_object()["/XObject"].get_object().values()
        return any(one.get_object().get("/Subtype") in ("/Image", "/Form") for one in drawn)
    except (PyPdfError, DeprecationError, *_BROKEN):
        return False


def _recognise(data: bytes, name: str, numbers: list[int], pages: list[Page], report: Reporter) -> None:
    """Put the text of pages that are pictures where it belongs."""
    try:
        scans = ocr.Scans(data)
        for done, number in enumerate(numbers, 1):
            pages[number - 1] = scans.lines(number)
            report(Event("ocr", name, done, len(numbers)))
    except (RuntimeError, ValueError):
        report(Event("read", f"the pictures in {name} cannot be drawn and were left out", warning=True))
        return
    what = "1 page" if len(numbers) == 1 else f"{len(numbers)} pages"
    report(
        Event(
            "read",
            f"{what} of {name} {'was' if len(numbers) == 1 else 'were'} read by OCR, which may err",
            warning=True,
        )
    )


def _open(data: bytes, name: str, limits: Limits) -> PdfReader:
    """A reader that has read the list of pages, and unlocked the file where its password is empty."""
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DeprecationError, PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise KmError(f"{name} is encrypted.", "Open it with its password and save a copy without a password.")
        limits.check_pages(_declared(reader), name)  # before each is looked up
        count = len(reader.pages)
        limits.check_pages(count, name)
    except (PyPdfError, DeprecationError, *_BROKEN):
        raise _damaged(name) from None
    if not count:
        raise KmError(f"{name} is a PDF without pages.", "Fetch it again, or open it elsewhere and save it again.")
    return reader


def _declared(reader: PdfReader) -> int:
    """How many pages the file says that it has; 0 where it says nothing sensible."""
    tree = reader.root_object.get("/Pages")
    count = tree.get_object().get("/Count") if tree is not None else None
    return count if isinstance(count, int) else 0


def _lines(page: PageObject) -> Page:
    """The page's lines in the order in which they are drawn, which is nearly always the order of reading."""
    lines: Page = []
    pieces: list[Line] = []

    def end_line() -> None:
        text = " ".join("".join(piece.text for piece in pieces).split())
        if text:
            inked = [piece for piece in pieces if piece.text.strip()]
            main = max(inked, key=lambda piece: len(piece.text))  # a footnote mark does not set a line's size
            lines.append(Line(text, inked[0].x, main.y, main.size))
        pieces.clear()

    def visit(text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        first = True
        for part in text.split("\n"):
            if not first:
                end_line()
            first = False
            if part:
                pieces.append(_piece(part, cm, tm, size))

    page.extract_text(visitor_text=visit)
    end_line()
    return lines


def _piece(text: str, cm: list[float], tm: list[float], size: float) -> Line:
    """Place and size as a reader sees them whose head is turned so that the text is upright."""
    a, b, c, d = (tm[i] * cm[j] + tm[i + 1] * cm[j + 2] for i in (0, 2) for j in (0, 1))
    e, f = (tm[4] * cm[j] + tm[5] * cm[j + 2] + cm[j + 4] for j in (0, 1))
    length = math.hypot(a, b) or 1.0
    cos, sin = a / length, b / length
    return Line(text, e * cos + f * sin, f * cos - e * sin, round(abs(size) * math.hypot(c, d), 1))


def _damaged(name: str) -> KmError:
    return KmError(f"{name} is a damaged PDF.", "Fetch it again, or open it elsewhere and print it to a new PDF.")
