"""A document's text -> chunks of a token size, cut where paragraphs end, then sentences, then words.

Knows nothing of models: tokens are whatever `count` says they are.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kmcli.errors import UsageError
from kmcli.types import PAGE_BREAK, Chunk

_GAP = re.compile(rf"(?<!\s)\s*{PAGE_BREAK}\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENDS = ".!?:…\"'”’»)]。！？"
_BULLETS = "-*•–—|#>"


def chunk(text: str, size: int, overlap: float, count: Callable[[str], int]) -> list[Chunk]:
    """Cut a document's text into chunks of at most `size` tokens as `count` counts them.

    overlap: share of `size` (0 up to, not including, 1) that a chunk may repeat of the one before it. Page breaks are
    taken out as in `join_pages`. Together the chunks hold every character but white space. A chunk is larger than
    `size` only where a single character is. Raises UsageError for a size or overlap out of range.
    """
    if size < 1:
        raise UsageError(f"a chunk of {size} tokens holds nothing.", "Give a chunk size of at least 1 token.")
    if not 0 <= overlap < 1:
        raise UsageError(
            f"chunks cannot overlap by a share of {overlap:g}.", "Give a share from 0 to below 1, such as 0.1."
        )
    from semantic_text_splitter import TextSplitter

    flow, here, there = _flow(text)
    breaks = _breaks(text)
    splitter = TextSplitter.from_callback(count, size, overlap=int(size * overlap))
    chunks: list[Chunk] = []
    for at, piece in splitter.chunk_indices(flow):
        start = _source(at, here, there)
        pages = _pages(start, _source(at + len(piece) - 1, here, there), breaks)
        chunks.append(Chunk(len(chunks), piece, count(piece), start, *(pages or (None, None))))
    return chunks


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece of a document begins and ends in the joined text (`join_pages`), and its first and last page."""

    start: int
    end: int
    pages: tuple[int, int] | None

    def shared(self, other: Place) -> int:
        """How many characters lie in both."""
        return max(0, min(self.end, other.end) - max(self.start, other.start))


def locate(text: str, pieces: Iterable[str]) -> list[Place | None]:
    """The first place of each piece in a document's joined text; None where it does not stand there, letter by letter."""
    flow, here, there = _flow(text)
    breaks = _breaks(text)
    found: list[Place | None] = []
    for piece in pieces:
        at = flow.find(piece) if piece else -1
        if at < 0:
            found.append(None)
            continue
        end = at + len(piece)
        pages = _pages(_source(at, here, there), _source(end - 1, here, there), breaks)
        found.append(Place(at, end, pages))
    return found


def join_pages(text: str) -> str:
    """The text without page breaks: a space where a sentence runs on over the page, else a new line or paragraph.

    Halves of characters (lone surrogates, which broken PDF fonts yield) become U+FFFD: no tokenizer reads them.
    """
    return _flow(text)[0]


def _flow(text: str) -> tuple[str, list[int], list[int]]:
    """The joined text, and where its pages begin: offsets in it and, one for one, offsets in the given text."""
    text = _SURROGATE.sub("\ufffd", text)
    pieces, here, there = [], [0], [0]
    for gap in _GAP.finditer(text):
        pieces.append(text[there[-1] : gap.start()] + _joint(text, gap))
        here.append(here[-1] + len(pieces[-1]))
        there.append(gap.end())
    pieces.append(text[there[-1] :])
    return "".join(pieces), here, there


def _joint(text: str, gap: re.Match[str]) -> str:
    last, first = text[max(0, gap.start() - 1) : gap.start()], text[gap.end() : gap.end() + 1]
    paragraph = gap.group().count("\n") > 1
    runs_on = first.islower() or not (paragraph or last in _ENDS or first in _BULLETS)
    return " " if runs_on else "\n\n" if paragraph else "\n"


def _breaks(text: str) -> list[int]:
    return [found.start() for found in re.finditer(PAGE_BREAK, text)]


def _pages(start: int, last: int, breaks: list[int]) -> tuple[int, int] | None:
    """The pages of two offsets in the given text; None where it has no pages."""
    return (1 + bisect_left(breaks, start), 1 + bisect_left(breaks, last)) if breaks else None


def _source(at: int, here: list[int], there: list[int]) -> int:
    page = bisect_right(here, at) - 1
    return there[page] + at - here[page]
