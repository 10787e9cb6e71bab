"""Friendly names of documents: made from a title, checked when a person gives one, unique without regard to case.

A name is what a person types. It is never used as a path. So are tags, which any number of documents may share.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection, Sequence

from kmcli.errors import UsageError
from kmcli.types import Document

LONGEST = 60
UNNAMED = "document"
# Letters and marks by Unicode's table that show nothing: two names must not look alike because of them.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def key(name: str) -> str:
    """What two names share when they differ in case or in how Unicode spells them."""
    return _plain(_plain(name).casefold())


def friendly(suggested: str) -> str:
    """A name from any text: lower case; letters of any script, digits, '-' and '.'; 1 to 60 characters."""
    lowered = _plain(suggested).lower()
    dashed = "".join("-" if char.isspace() or char == "_" else char for char in lowered)
    kept = _plain("".join(char for char in dashed if _allowed(char)))
    single = re.sub("-{2,}", "-", kept)
    start = next((index for index, char in enumerate(single) if _starts(char)), len(single))
    return single[start : start + LONGEST].rstrip("-.") or UNNAMED


def checked(name: str) -> str:
    """A name that a person gave, in lower case. Raises UsageError, with an example, where it breaks the rules."""
    lowered = _plain(_plain(name).lower())
    if not 1 <= len(lowered) <= LONGEST or not _starts(lowered[0]) or not all(map(_allowed, lowered)):
        raise UsageError(
            f"{name!r} cannot be the name of a document.",
            f"Use letters, digits, '-' and '.', {LONGEST} at most, a letter or digit first, such as {friendly(name)}",
        )
    return lowered


def tag(given: str) -> str:
    """A tag that a person gave, in lower case and without an "@" before it. Raises UsageError where it breaks the rules."""
    lowered = _plain(_plain(given).lower()).strip().removeprefix("@")
    if not 1 <= len(lowered) <= LONGEST or "@" in lowered or not all(map(_shown, lowered)):
        raise UsageError(
            f"{given!r} cannot be a tag.",
            f"Use any characters but '@' and white space, {LONGEST} at most, such as {friendly(given)}",
        )
    return lowered


def unique(name: str, taken: Collection[str]) -> str:
    """`name`, or name-2, name-3, ...: the first whose key is not in `taken`."""
    if key(name) not in taken:
        return name
    candidates = (name[: LONGEST - len(f"-{n}")].rstrip("-.") + f"-{n}" for n in itertools.count(2))
    return next(candidate for candidate in candidates if key(candidate) not in taken)


def listed(documents: Sequence[Document]) -> bytes:
    """Names and then tags, a line each, as a shell completes them without starting Python."""
    tags = sorted({f"@{tag}" for document in documents for tag in document.tags})
    return "".join(f"{one}\n" for one in [*(document.name for document in documents), *tags]).encode()


def taken(name: str) -> UsageError:
    """For a name that another document has."""
    return UsageError(
        f"the name {name} is taken by another document.",
        f"Choose another name, or rename that one with: km mv {name} NEW",
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _starts(char: str) -> bool:
    category = unicodedata.category(char)
    return (category[0] == "L" or category == "Nd") and not _INVISIBLE.match(char)


def _shown(char: str) -> bool:
    return char.isprintable() and not char.isspace() and not _INVISIBLE.match(char)


def _allowed(char: str) -> bool:
    """Marks are allowed too: without them many scripts cannot be read."""
    return char in "-." or _starts(char) or (unicodedata.category(char)[0] == "M" and not _INVISIBLE.match(char))
