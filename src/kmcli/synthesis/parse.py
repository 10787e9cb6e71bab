"""From what a model wrote to drafts of samples: tolerant of form, strict in what is accepted.

| parser      | takes                                          | a draft                                          |
|-------------|------------------------------------------------|--------------------------------------------------|
| `pairs`     | questions, each with its answer                | a question and its answer                        |
| `questions` | questions, one a line                          | a question                                       |
| `question`  | the first of the questions                     | a question                                       |
| `names`     | names, one a line or between commas            | a name that stands in the chunk, exactly as there |
| `message`   | a question or request of any form              | the message                                      |
| `text`      | all of it                                      | what was written, as the response                |

All of them skip the prose around what was asked for, and drop what is empty, overlong, repeated or cut off.
To add one: a function here, and a row in PARSERS and above.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ParserName = Literal["pairs", "questions", "question", "names", "message", "text"]
Parser = Callable[[str, bool, str], "list[Draft]"]
"""What was written, whether the model ended it itself, and the chunk it was written about."""

MOST_QUESTION_CHARACTERS = 400
MOST_ANSWER_CHARACTERS = 600
MOST_NAME_CHARACTERS = 80
MOST_MESSAGE_CHARACTERS = 1500
FEWEST_CHARACTERS = 20
"""Of a summary or a message: less says nothing."""

_LABEL = re.compile(
    r"^[\s*•#>-]*(?:\d+\s*[.):][\s*]*)?(q|question|a|answer)\s*\d*\**\s*[.:)]\**\s*(.*)$", re.IGNORECASE
)
_MARK = re.compile(r"^\s*(?:[•#>*-]+\s+|[*_]*\(?\d+\s*[.):]\s*)+[*\s]*")
_QUESTION_MARKS = ("?", "？", "؟")
_TAGGED = re.compile(r"<(question|answer|q|a)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_OPENED = re.compile(r"<(question|answer|q|a)>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][\w-]*>")
_WRAPPED = re.compile(r"<(summary|message|request|output|response|text)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_PREAMBLE = re.compile(r"^\s*(?:sure|certainly|of course|okay|here (?:is|are)|here's)\b[^\n]*:\s*\n", re.IGNORECASE)
_MESSAGE_LABEL = re.compile(r"^\**(?:message|request|question|q)\**\s*:\**\s*", re.IGNORECASE)
_PARTS = re.compile(r"[,;:(]|\s[-–—]\s|\sand\s")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+")
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_SPACE = re.compile(r"\s+")
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A sample as written. prompt: a question, a message or a name; "" where the task's own prompt stands for it.
    response: what is to be learnt; "" where the base is still to be asked for it.
    """

    prompt: str
    response: str = ""


def pairs(text: str, finished: bool) -> list[Draft]:
    """Question-answer pairs in "Q: ... A: ..." form, or in tags; numbering, bullets, headings and bold allowed, and what
    follows a label on a line of its own.

    An answer ends with its line. The last pair is dropped where the text was cut off (finished is False).
    """
    drafts: list[Draft] = []
    question = label = ""
    open_end = False
    for line in _labelled(text).splitlines():
        match = _LABEL.match(line)
        if match:
            label, content = match.group(1)[0].lower(), _clean(match.group(2))
        elif label:  # stands on a line of its own: what it labels follows
            content = _clean(_MARK.sub("", line))
        else:
            open_end = open_end and not line.strip()
            marked = _MARK.match(line)
            content = _clean(line[marked.end() :]) if marked else ""
            label = "q" if content.endswith(_QUESTION_MARKS) else ""
        if not content:
            if match and label == "q":
                question = ""
            continue
        if label == "q":
            question, open_end = content, False
        elif label and question:
            drafts.append(Draft(question, content))
            question, open_end = "", True
        label = ""
    if drafts and open_end and not finished:
        drafts.pop()
    return list(dict.fromkeys(draft for draft in drafts if _acceptable(draft)))


def questions(text: str, finished: bool) -> list[Draft]:
    """Questions, one a line. Where some lines are numbered, bulleted or labelled, the others are prose."""
    found: list[tuple[bool, str]] = []
    last = False
    for line in _labelled(text).splitlines():
        if not line.strip():
            continue
        label, mark = _LABEL.match(line), _MARK.match(line)
        answer = label is not None and label.group(1)[0] in "aA"
        rest = label.group(2) if label else line[mark.end() :] if mark else line
        content = _unquoted(_clean(_TAG.sub(" ", rest)))
        last = not answer and _is_question(content)
        if last:
            found.append((bool(label or mark), content))
    if last and not finished:
        found.pop()
    marked = any(mark for mark, _ in found)
    return list(dict.fromkeys(Draft(content) for mark, content in found if mark or not marked))


def names(text: str, finished: bool, chunk: str) -> list[Draft]:
    """Names that stand in the chunk; what is said about them in the same line, and headings, are left out."""
    lines = [line for line in _TAG.sub("\n", text).splitlines() if line.strip()]
    if lines and not finished:
        lines.pop()
    found: list[str] = []
    for line in lines:
        mark = _MARK.match(line)
        whole = _name(line[mark.end() :] if mark else line)
        if _is_name(whole, chunk):
            found.append(whole)
        else:
            found += [part for part in map(_name, _PARTS.split(whole)) if _is_name(part, chunk)]
    return [Draft(name) for name in dict.fromkeys(found)]


def message(text: str, finished: bool) -> list[Draft]:
    """One question or request, white space collapsed."""
    cleaned = _unquoted(_clean(_MESSAGE_LABEL.sub("", _unwrapped(text).strip())))
    fits = FEWEST_CHARACTERS <= len(cleaned) <= MOST_MESSAGE_CHARACTERS
    return [Draft(cleaned)] if finished and fits and any(map(str.isalnum, cleaned)) else []


def summary(text: str, finished: bool) -> str:
    """The summary, white space collapsed; "" where it was cut off, or is too short to say anything."""
    cleaned = _clean(_unwrapped(text))
    return cleaned if finished and len(cleaned) >= FEWEST_CHARACTERS else ""


def _text(text: str, finished: bool, chunk: str) -> list[Draft]:
    written = summary(text, finished)
    return [Draft("", written)] if written else []


PARSERS: dict[ParserName, Parser] = {
    "pairs": lambda text, finished, chunk: pairs(text, finished),
    "questions": lambda text, finished, chunk: questions(text, finished),
    "question": lambda text, finished, chunk: questions(text, finished)[:1],
    "names": names,
    "message": lambda text, finished, chunk: message(text, finished),
    "text": _text,
}


def grounded(text: str, chunk: str, sentences: bool = False) -> bool:
    """Whether every name and number of a text stands in the chunk: capitalised words but the first, and digits.

    sentences: the first word of every sentence may be capitalised, not only that of the first.
    What is joined by an apostrophe or a hyphen counts as several words: "Ann's" is about Ann. A small base misspells names
    that it copies, and a question about something that does not exist teaches an invention.
    """
    known = {word.casefold() for word in _WORD.findall(chunk)}
    for position, match in enumerate(_WORD.finditer(text)):
        word = match.group()
        begins = position == 0 or (sentences and text[: match.start()].rstrip(" *\"'“(-•\t")[-1:] in ".!?:\n")
        told = any(character.isdigit() for character in word) or (word[0].isupper() and not begins)
        if told and word.casefold() not in known:
            return False
    return True


def _labelled(text: str) -> str:
    """Tags turned into labels: a line for each question and answer."""

    def label(match: re.Match[str]) -> str:
        content = _SPACE.sub(" ", match.group(2)) if match.re is _TAGGED else ""
        return f"\n{match.group(1)[0]}: {content}" + ("\n" if match.re is _TAGGED else "")

    return _OPENED.sub(label, _TAGGED.sub(label, text))


def _unwrapped(text: str) -> str:
    """What stands in a tag that says what it is, or after a line that announces it; the text itself elsewhere."""
    wrapped = _WRAPPED.search(text)
    return wrapped.group(2) if wrapped else _PREAMBLE.sub("", text)


def _clean(text: str) -> str:
    return _BOLD.sub(r"\1", _SPACE.sub(" ", text)).strip("* ")


def _unquoted(text: str) -> str:
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip("* ")
    return text


def _name(text: str) -> str:
    return _unquoted(_clean(text)).strip(" .,;:()*\"'“”")


def _is_name(text: str, chunk: str) -> bool:
    """A name has a capital, a digit, or letters that know no capitals."""
    if not 1 < len(text) <= MOST_NAME_CHARACTERS or not (text[0].isalnum() and text[-1].isalnum()):
        return False
    proper = any(c.isupper() or c.isdigit() for c in text) or not any(c.islower() for c in text)
    return proper and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", chunk) is not None


def _is_question(text: str) -> bool:
    return len(text) <= MOST_QUESTION_CHARACTERS and text.endswith(_QUESTION_MARKS) and any(c.isalnum() for c in text)


def _acceptable(draft: Draft) -> bool:
    return (
        0 < len(draft.prompt) <= MOST_QUESTION_CHARACTERS
        and 0 < len(draft.response) <= MOST_ANSWER_CHARACTERS
        and any(character.isalnum() for character in draft.response)
        and draft.prompt.endswith(_QUESTION_MARKS)
    )
