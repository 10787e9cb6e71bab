"""HTML to Markdown: headings, lists, tables and code stay, what only a browser needs goes."""

from __future__ import annotations

import codecs
import re
import warnings
from typing import TYPE_CHECKING

from kmcli.errors import KmError
from kmcli.ingest import plain
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import Reporter

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

_SUBSET = re.compile(r"(<!doctype\s[^>\[]*)\[.*?\]\s*>", re.IGNORECASE | re.DOTALL)
"""A document type with declarations in it, the end of which the parser takes for text."""
_OPENING = 1 << 16
_NOT_TEXT = ("script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "button", "select", "head")


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    return from_markup(decode(data, name))


def decode(data: bytes, name: str, charset: str = "") -> str:
    """By the server's charset, else the one the markup declares, else as any text. A byte order mark beats them all."""
    from bs4.dammit import EncodingDetector

    declared = charset or EncodingDetector.find_declared_encoding(data, is_html=True) or ""
    if declared and not data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode(declared)
        except (LookupError, ValueError):  # an encoding nobody knows, or not the one that was used
            pass
    return plain.decode(data, name)


def from_markup(markup: str) -> Extract:
    """Markdown of a page or of a fragment, and the page's title."""
    from markdownify import MarkdownConverter

    soup = _parse(markup)
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for element in soup(_NOT_TEXT):
        element.decompose()
    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    try:
        text = converter.convert_soup(soup)
    except RecursionError:  # elements nested a thousand deep: the words without their structure
        text = soup.get_text("\n")
    return Extract(clean(text), title=clean(title))


def _parse(markup: str) -> BeautifulSoup:
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    markup = _SUBSET.sub(r"\1>", markup[:_OPENING], count=1) + markup[_OPENING:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that EPUB chapters look like XML, that a line looks like a file name
        try:
            return BeautifulSoup(markup, "lxml")
        except ParserRejectedMarkup:
            raise KmError("the HTML is too damaged to be read.", "Open it in a browser and save it again.") from None
