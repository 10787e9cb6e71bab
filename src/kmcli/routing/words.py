"""Words of a text as the library's index keeps them: without case, accents and endings."""

from __future__ import annotations

import functools
import re
import unicodedata

from kmcli.stemming import stem

_WORD = re.compile(r"[^\W_]+")
_stem = functools.lru_cache(maxsize=50_000)(stem)


def stems(text: str) -> list[str]:
    """In the order of the text. English endings go; words of other languages mostly stay as they are."""
    if text.isascii():
        plain = text.lower()
    else:
        apart = unicodedata.normalize("NFKD", text.lower())
        plain = "".join(char for char in apart if not unicodedata.combining(char))
    return [_stem(word) for word in _WORD.findall(plain)]
