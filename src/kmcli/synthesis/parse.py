"""From what a model wrote to drafts of samples: tolerant of form, strict in what is accepted."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_QUESTION_CHARACTERS = 400
MOST_ANSWER_CHARACTERS = 600

_LABEL = re.compile(
    r"^[\s*•#>-]*(?:\d+\s*[.):][\s*]*)?(q|question|a|answer)\s*\d*\**\s*[.:)]\**\s*(.*)$", re.IGNORECASE
)
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+")
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair as written: prompt is what will be asked without the text, response what is to be learnt."""

    prompt: str
    response: str


def pairs(text: str, finished: bool) -> list[Draft]:
    """Question-answer pairs in "Q: ... A: ..." form; numbering, bullets, headings and bold allowed, prose between skipped.

    An answer ends with its line. The last pair is dropped where the text was cut off (finished is False); empty, overlong
    and repeated pairs are dropped always.
    """
    drafts: list[Draft] = []
    question = ""
    open_end = False
    for line in text.splitlines():
        match = _LABEL.match(line)
        if not match:
            open_end = open_end and not line.strip()
            continue
        label, content = match.group(1)[0].lower(), _clean(match.group(2))
        if label == "q":
            question, open_end = content, False
        elif question:
            drafts.append(Draft(question, content))
            question, open_end = "", True
    if drafts and open_end and not finished:
        drafts.pop()
    return list(dict.fromkeys(draft for draft in drafts if _acceptable(draft)))


def summary(text: str, finished: bool) -> str:
    """The summary, white space collapsed; "" where it was cut off, or is too short to say anything."""
    cleaned = _clean(text)
    return cleaned if finished and len(cleaned) >= 20 else ""


def grounded(question: str, text: str) -> bool:
    """Whether every name and number of a question stands in the text: capitalised words but the first, and digits.

    What is joined by an apostrophe or a hyphen counts as several words: "Ann's" is about Ann. A small base misspells names
    that it copies, and a question about something that does not exist teaches an invention.
    """
    known = {word.casefold() for word in _WORD.findall(text)}
    words = _WORD.findall(question)
    return all(
        word.casefold() in known
        for position, word in enumerate(words)
        if any(c.isdigit() for c in word) or (position > 0 and word[0].isupper())
    )


def _clean(text: str) -> str:
    return _BOLD.sub(r"\1", _SPACE.sub(" ", text)).strip("* ")


def _acceptable(draft: Draft) -> bool:
    return (
        0 < len(draft.prompt) <= MOST_QUESTION_CHARACTERS
        and 0 < len(draft.response) <= MOST_ANSWER_CHARACTERS
        and any(character.isalnum() for character in draft.response)
        and draft.prompt.endswith(("?", "？", "؟"))
    )
