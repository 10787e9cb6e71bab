"""From the lines of a PDF's pages to prose: paragraphs whole, running headers, footers and page numbers gone.

Knows nothing of PDF files: a `Line` is a text with a place and a size. Every rule is a guess from typography, ordered
from the surest to the vaguest; where none speaks, two lines belong to one paragraph.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Line:
    """x: where it starts; y: its baseline, growing upwards; size: its type size; all in points."""

    text: str
    x: float
    y: float
    size: float


Page = list[Line]

_EDGE = 3
"""Lines at the top and at the bottom of a page among which running headers and footers are looked for."""
_SAME_ROW = 2.0
"""Points between the baselines of what still stands side by side."""
_NUMBER_ONLY = re.compile(
    r"\W*(?:page|p\.|pg\.|seite|página|pagina)?\s*\d+(?:\s*(?:/|of|von|de|di|sur)\s*\d+)?\W*", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?:…][\"'”’»)\]]*$")
_MARKER = re.compile(r"(?:[•‣▪◦●○■–*-]|\(?(?:\d{1,3}|[a-z]|[ivx]{1,4})[.)]|\[\d{1,3}\])(?:\s|$)")
_LEADER = re.compile(r"(?: ?\.){5,} ?")
"""The dots of a table of contents."""
_HYPHEN_END = re.compile(r"(\w+)[-\u2010]$")
_WORD = re.compile(r"\w+(?:-\w+)*")


def prose(pages: list[Page]) -> list[str]:
    """The text of each page: paragraphs separated by blank lines, list items and table rows on lines of their own."""
    pages = without_running_lines(pages)
    lines = [line for page in pages for line in page]
    style = _Style.of(pages)
    words = {word for line in lines for word in _WORD.findall(line.text.lower())}
    return [_flow(page, style, words) for page in pages]


def without_running_lines(pages: list[Page]) -> list[Page]:
    """Drop what stands at the edge of most pages, or of most left or right ones; needs three pages or more."""
    if len(pages) < 3:
        return pages
    body = _body_size(pages)
    repeated: dict[tuple[str, int], set[int]] = {}  # a line's text and size -> the pages that have it at an edge
    numbered: dict[int, set[int]] = {}  # how far a number at an edge is from the page's count -> pages
    for count, page in enumerate(pages):
        for line in _edges(page):
            repeated.setdefault(_key(line), set()).add(count)
            for number in _page_numbers(line, page, body):
                numbered.setdefault(number - count, set()).add(count)
    running = {key for key, at in repeated.items() if _mostly(at, len(pages))}
    offsets = {offset for offset, at in numbered.items() if _mostly(at, len(pages))}
    kept: list[Page] = []
    for count, page in enumerate(pages):
        numbers = {count + offset for offset in offsets}
        suspects = [line for line in _edges(page) if _key(line) in running or numbers & _page_numbers(line, page, body)]
        # Running lines stand outside the text: a suspect with text both above and below it is text too.
        text = [line.y for line in page if line not in suspects]
        low, high = min(text, default=0.0) + _SAME_ROW, max(text, default=0.0) - _SAME_ROW
        kept.append([line for line in page if line not in suspects or low < line.y < high])
    return kept if any(kept) else pages  # the same on every page: then that is the text


def _edges(page: Page) -> list[Line]:
    """The highest and the lowest lines of a page, from top to bottom."""
    downwards = sorted(page, key=lambda line: -line.y)
    return downwards[:_EDGE] + downwards[_EDGE:][-_EDGE:]


def _key(line: Line) -> tuple[str, int]:
    return line.text.casefold(), round(line.size)


def _page_numbers(line: Line, page: Page, body: float) -> set[int]:
    """The numbers at a line's ends, either of which may be its page's; none where the line looks like text.

    "Step 3" may open the third page, so a line must be the lowest of its page, smaller than the text, or only a number.
    """
    is_lowest = line.y == min(other.y for other in page)
    if not (is_lowest or line.size < 0.95 * body or _NUMBER_ONLY.fullmatch(line.text)):
        return set()
    found = re.findall(r"^\W*(\d{1,6})\b|\b(\d{1,6})(?=\W*$|\s*(?:/|of|von|de|di|sur)\s*\d+\W*$)", line.text)
    return {int(digits) for groups in found for digits in groups if digits}


def _mostly(at: set[int], pages: int) -> bool:
    pools = (range(pages), range(0, pages, 2), range(1, pages, 2))
    return any(len(common := at & set(pool)) >= 3 and 2 * len(common) > len(pool) for pool in pools)


@dataclass(frozen=True, slots=True)
class _Style:
    """leading: usual distance of baselines by rounded type size. measure: a full line in characters times points."""

    leading: dict[int, float]
    measure: float

    @classmethod
    def of(cls, pages: list[Page]) -> _Style:
        drops: dict[int, Counter[float]] = {}
        for page in pages:
            for a, b in pairwise(page):
                drop = round(2 * (a.y - b.y)) / 2
                if round(a.size) == round(b.size) and 0.8 * a.size < drop < 3 * a.size:
                    drops.setdefault(round(a.size), Counter())[drop] += 1
        # The smallest distance that is no accident: gaps between short paragraphs can be just as frequent.
        leading = {
            size: min(drop for drop, times in found.items() if 10 * times >= found.total())
            for size, found in drops.items()
        }
        body = _body_size(pages)
        lengths = sorted(len(line.text) for page in pages for line in page if round(line.size) == round(body))
        return cls(leading, lengths[len(lengths) * 4 // 5] * body if lengths else 0.0)

    def usual_drop(self, size: float) -> float:
        return self.leading.get(round(size), 1.4 * size)

    def fullness(self, line: Line) -> float:
        """A line's length as a share of a full line of its size."""
        return len(line.text) * line.size / self.measure if self.measure else 1.0


def _body_size(pages: list[Page]) -> float:
    """The type size that most characters have; 0 where there are none."""
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page:
            sizes[line.size] += len(line.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _flow(page: Page, style: _Style, words: set[str]) -> str:
    text = ""
    for index, line in enumerate(page):
        if not index:
            text = line.text
            continue
        after = page[index + 1] if index + 1 < len(page) else None
        gap = _gap(page[index - 1], line, after, style)
        text = _join(text, line.text, words) if gap == " " else text + gap + line.text
    return _LEADER.sub(" … ", text)


def _gap(a: Line, b: Line, after: Line | None, style: _Style) -> str:
    """What stands between two lines: an empty line between paragraphs, a new line between items, else a space."""
    drop = a.y - b.y
    size = max(a.size, b.size)
    ended = _SENTENCE_END.search(a.text) is not None
    if abs(drop) < 0.4 * size:  # the same line, in pieces
        return " "
    if abs(a.size - b.size) > 0.1 * size:  # a heading begins or ends
        return "\n\n"
    if drop < 0 or drop > 10 * size:  # the next column
        return "\n\n" if ended else " "
    if drop > 1.3 * style.usual_drop(b.size):
        return "\n\n"
    if _LEADER.search(a.text):
        return "\n"
    if _MARKER.match(b.text) and (ended or _MARKER.match(a.text) or style.fullness(a) < 0.8):
        return "\n"
    step = b.x - a.x
    returns = after is None or after.x < b.x - 0.5 * size
    if ended and 0.8 * size < step < 5 * size and returns and not _MARKER.match(a.text):  # a first line is indented
        return "\n\n"
    if ended and style.fullness(a) < 0.75:
        return "\n\n"
    return "\n" if style.fullness(a) < 0.5 else " "


def _join(text: str, more: str, words: set[str]) -> str:
    """Two lines of a paragraph as one; a word that was divided at the line's end is whole again."""
    if text.endswith("\u00ad"):
        return text[:-1] + more
    divided = _HYPHEN_END.search(text[-80:])
    rest = re.match(r"\w+", more)
    if not divided or not rest:
        return f"{text} {more}"
    if rest[0] in ("and", "or", "to", "und", "oder"):  # "pre- and post-war"
        return f"{text} {more}"
    whole = divided[1] + rest[0]
    compound = f"{divided[1]}-{rest[0]}"
    is_compound = compound.lower() in words and whole.lower() not in words
    if is_compound or not rest[0][0].islower() or divided[1][-1].isdigit():
        return text + more
    return text[:-1] + more
