"""What a text may be asked for: its names, numbers and dates, found by their form alone.

What is found in vain (a common word that begins a sentence) costs a question that is not confirmed, and nothing else.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 60

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"\b(?:{_DAY} (?:of )?{_MONTH}(?:,? \d{{4}})?|{_MONTH} {_DAY}(?:,? \d{{4}})?|{_MONTH} \d{{4}}"
    r"|\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{4})(?!\w)"
)
_WORD = re.compile(r"[$€£¥]?\d+(?:[.,:/–-]\d+)*[^\W_]*%?|[^\W\d_]+(?:[’'&-][^\W_]+)*")
_NUMBERING = re.compile(r"^[ \t]*\d+[.)](?=\s)", re.MULTILINE)
_SMALL_WORDS = """
a about above after all also although an and any are as at be because been before below between both but by can could
did do does during each every few first for from had has have he her here his how however i if in into is it its last
later many may more most much must near next no not now of off on one only or other our over second she should since
so some such than that the their then there these they this those three through to today two under until up upon was
we were what when where which while who whose why will with within without would yes yet you your
"""
_SMALL = frozenset(_SMALL_WORDS.split())


def values(text: str) -> list[str]:
    """Names, numbers with their unit, and dates: each once, exactly as the text has it, in its order."""
    words = {word.group() for word in _WORD.finditer(text)}
    taken = [match.span() for match in _NUMBERING.finditer(text)]
    found: list[tuple[int, int]] = []
    for match in _DATE.finditer(text):
        found.append(match.span())
    taken += found
    matches = [m for m in _WORD.finditer(text) if not any(a < m.end() and m.start() < b for a, b in taken)]
    index = 0
    while index < len(matches):
        run = _run(matches, index, text, words)
        if run:
            found.append((matches[index].start(), matches[index + run - 1].end()))
        index += max(1, run)
    unique = dict.fromkeys(text[start:end] for start, end in sorted(found))
    return [value for value in unique if len(value) <= MOST_CHARACTERS]


def _run(matches: list[re.Match[str]], index: int, text: str, words: set[str]) -> int:
    """How many words the value has that begins at this one; 0: none does."""
    first, end = matches[index].group(), index + 1
    if any(map(str.isdigit, first)):
        unit = matches[end].group() if _joined(matches, index, text) else ""
        return 2 if len(unit) > 1 and unit.islower() and unit not in _SMALL else 1
    if not first[0].isupper() or first.lower() in _SMALL:
        return 0
    while _joined(matches, end - 1, text) and (matches[end].group()[0].isupper() or matches[end].group().isdigit()):
        end += 1
    begins = text[: matches[index].start()].rstrip(" \t\"'“‘(*#>|-•")[-1:] in ("", *".!?:\n")
    return 0 if begins and end == index + 1 and first.lower() in words else end - index


def _joined(matches: list[re.Match[str]], index: int, text: str) -> bool:
    """Whether a word has a next, and nothing but a space stands between them."""
    return index + 1 < len(matches) and text[matches[index].end() : matches[index + 1].start()] == " "
