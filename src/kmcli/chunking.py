"""A document's text -> chunks of a token size, cut where paragraphs end, then sentences, then words.

Knows nothing of models: tokens are whatever `count` says they are.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kmcli.errors import UsageError
from kmcli.types import PAGE_BREAK, Chunk

_GAP = re.compile(rf"(?<!\s)\s*{PAGE_BREAK}\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENDS = ".!?:…\"'”’»)]。！？"
_BULLETS = "-*•–—|#>"
_SPACELESS = "\u2e80"
"""From here on stand Chinese and Japanese, whose words and sentences have no space between them."""


def chunk(text: str, size: int, overlap: float, count: Callable[[str], int]) -> list[Chunk]:
    """Cut a document's text into chunks of at most `size` tokens as `count` counts them.

    overlap: share of `size` (0 up to, not including, 1) that a chunk may repeat of the one before it. Page breaks are
    taken out as in `join_pages`. Together the chunks hold every character but white space. A chunk is larger than
    `size` only where a single character is. Raises UsageError for a size or overlap out of range.
    """
    flow, *pages = _flow(text)
    return _described(text, _cut(flow, size, overlap, count), pages, count)


def rechunk(text: str, size: int, overlap: float, count: Callable[[str], int], before: Sequence[str]) -> list[Chunk]:
    """As `chunk`, but what stands unchanged of an older text's chunks stays a chunk, so that a change moves no border but
    its neighbours'.

    before: the older chunks, in their order, of the same size and overlap. What is smaller than a quarter of a chunk
    joins a chunk beside it: a sentence alone does not say what it is about.
    """
    flow, *pages = _flow(text)
    pieces = _standing(flow, before, overlap > 0)
    found: list[tuple[int, str]] = []
    at = 0  # up to where the text is in a chunk
    for start, piece in [*pieces, (len(flow), "")]:
        if gap := flow[at:start].strip():
            left, right = at, start
            if count(gap) * 4 < size and found:
                left = found.pop()[0]
            elif count(gap) * 4 < size and piece:
                right = start + len(piece)
            elif overlap and found:
                left = _sentence(flow, found[-1][0], at, int(size * overlap), count)
            cut = _cut(flow[left:right], size, overlap, count)
            found += [(left + place, one) for place, one in cut]
            if right > start:
                at = right
                continue
        if piece:
            found.append((start, piece))
        at = max(at, start + len(piece))
    return _described(text, found, pages, count)


def _cut(flow: str, size: int, overlap: float, count: Callable[[str], int]) -> list[tuple[int, str]]:
    """Pieces of a joined text, and where they begin in it. Raises UsageError for a size or overlap out of range."""
    if size < 1:
        raise UsageError(f"a chunk of {size} tokens holds nothing.", "Give a chunk size of at least 1 token.")
    if not 0 <= overlap < 1:
        raise UsageError(
            f"chunks cannot overlap by a share of {overlap:g}.", "Give a share from 0 to below 1, such as 0.1."
        )
    from semantic_text_splitter import TextSplitter

    return TextSplitter.from_callback(count, size, overlap=int(size * overlap)).chunk_indices(flow)


def _described(
    text: str, pieces: Iterable[tuple[int, str]], pages: Sequence[list[int]], count: Callable[[str], int]
) -> list[Chunk]:
    """Chunks of pieces of the joined text. pages: offsets as `_flow` gives them."""
    breaks = _breaks(text)
    chunks: list[Chunk] = []
    for at, piece in pieces:
        start = _source(at, *pages)
        on = _pages(start, _source(at + len(piece) - 1, *pages), breaks)
        chunks.append(Chunk(len(chunks), piece, count(piece), start, *(on or (None, None))))
    return chunks


def _standing(flow: str, pieces: Sequence[str], overlapping: bool) -> list[tuple[int, str]]:
    """Where pieces stand in a joined text, by place; wherever they stood before. Of pieces that would share text the first
    is taken, unless they may overlap: then none is within another."""
    places: list[tuple[int, str]] = []
    after = 0
    for piece in filter(None, pieces):
        at = _find(flow, piece, after)
        if at < 0:
            at = _find(flow, piece, 0)
        if at >= 0:
            places.append((at, piece))
            after = at + 1 if overlapping else at + len(piece)
    found: list[tuple[int, str]] = []
    last = end = 0
    for at, piece in sorted(places, key=lambda place: (place[0], -len(place[1]))):
        apart = at > last or not found if overlapping else at >= end
        if apart and at + len(piece) > end:
            found.append((at, piece))
            last, end = at, at + len(piece)
    return found


def _find(flow: str, piece: str, start: int) -> int:
    """As `str.find`, but not within a word or number: the price of $18 does not stand in $185, nor $18. in $18.50"""
    while (at := flow.find(piece, start)) >= 0:
        if not (_joined(flow, at) or _joined(flow, at + len(piece))):
            return at
        start = at + 1
    return -1


def _joined(flow: str, at: int) -> bool:
    """Whether what stands on both sides of a place belongs together, as far as scripts with spaces go."""
    around = flow[max(0, at - 1) : at + 1]
    return 0 < at < len(flow) and not any(one.isspace() or one >= _SPACELESS for one in around)


def _sentence(flow: str, start: int, end: int, size: int, count: Callable[[str], int]) -> int:
    """Where the first sentence within a stretch begins from which on it has at most so many tokens; its end where none
    does."""
    begins = (found.end() for found in re.finditer(r"[.!?]\s+", flow[start:end]))
    return next((start + at for at in begins if count(flow[start + at : end]) <= size), end)


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
