"""Text that whatever shows it only shows, and never obeys."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Control characters (C0 without newline and tab, DEL, C1), direction overrides and marks, and line separators that a
# terminal may act on; lone surrogates, which no encoding can write.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text with halves of characters (lone surrogates, which JSON can write) as U+FFFD: no tokenizer reads them."""
    return _SURROGATE.sub("\ufffd", text)


def apart(text: str, names: Iterable[str]) -> str:
    """The text with a blank within each of these names. For special tokens: a text that has their names would else end a
    turn, and begin another in somebody's name."""
    for name in names:
        if len(name) > 1 and name in text:
            text = text.replace(name, f"{name[0]} {name[1:]}")
    return text


def clean(text: str) -> str:
    """The text with control characters as escapes, such as \\x1b."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text.replace("\r\n", "\n"))
