"""What every reader hands back, and the cleaning that every text goes through."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extract:
    """text: clean (see `clean`), pages joined with PAGE_BREAK. pages: None where there are none. title: may be ""."""

    text: str
    pages: int | None = None
    title: str = ""


_NEWLINES = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, byte order marks and lone surrogates carry no text; bidi overrides, isolates and tags (letters that nobody
# sees) show people other text than a model reads; soft hyphens split words for every search.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_BLANK_RUN = re.compile(r"\n(?:[ \t]*\n){3,}")


def clean(text: str) -> str:
    """NFC text without control characters (other than newline and tab), bidi overrides, page breaks and wide gaps."""
    text = _NEWLINES.sub("\n", text)
    text = _UNWANTED.sub("", text)
    # After the removal: taking out a character can bring a letter and its accent together.
    text = unicodedata.normalize("NFC", text)
    return _BLANK_RUN.sub("\n\n", text).strip("\n")
