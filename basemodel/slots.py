"""Authored documents with slots: read, checked, and filled with values. authored/FORMAT.md says how they are written."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from basemodel.values import NAMES, PLAIN, draw

AUTHORED = Path(__file__).parent / "authored"
KINDS_OF_SLOT = {*NAMES, *PLAIN, "number", "small", "money", "duration", "measure", "choice"}
PROPER = {*NAMES} - {"code", "phone", "substance"}
"""Types whose values are names."""
FIXED_ANSWERS = ("yes", "no", "NOT STATED")

_PART = re.compile(r"(?m)^---\s*$")
_SLOT = re.compile(r"\{(\w+)\}")
_A_AN = re.compile(r"\b([Aa])n? \{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Authored:
    """A document as written. questions: (question, answers); a NOT STATED question has the one answer "NOT STATED"."""

    name: str
    kind: str
    slots: dict[str, str]
    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    summary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filled:
    """A document with values in its slots."""

    name: str
    kind: str
    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    summary: tuple[str, ...]
    values: dict[str, str]
    names: tuple[str, ...]


def parse(name: str, source: str) -> Authored:
    """Read a document. Raises ValueError, naming the document, for anything that FORMAT.md does not allow."""
    parts = _PART.split(source)
    if len(parts) != 4:
        raise ValueError(f"{name}: {len(parts)} parts, want 4")
    head, text, questions, summary = (part.strip() for part in parts)
    slots: dict[str, str] = {}
    kind = ""
    for line in head.splitlines():
        key, _, value = (word.strip() for word in line.partition(":"))
        if key == "kind":
            kind = value
        elif value.split(" ")[0] in KINDS_OF_SLOT and re.fullmatch(r"[a-z][a-z0-9_]*", key):
            slots[key] = value
        else:
            raise ValueError(f"{name}: no slot: {line!r}")
    asked = []
    for line in filter(str.strip, questions.splitlines()):
        question, arrow, answers = line.partition("=>")
        given = tuple(answer.strip() for answer in answers.split("||") if answer.strip())
        if not arrow or not given:
            raise ValueError(f"{name}: no answer: {line!r}")
        asked.append((question.strip(), given))
    document = Authored(name, kind, slots, text, tuple(asked), tuple(filter(str.strip, summary.splitlines())))
    _check(document)
    return document


def _check(document: Authored) -> None:
    used = set(_SLOT.findall(document.text))
    if unknown := used ^ set(document.slots):
        raise ValueError(f"{document.name}: in the text or the head alone: {', '.join(sorted(unknown))}")
    rest = " ".join([*(q + " ".join(a) for q, a in document.questions), *document.summary])
    if unknown := set(_SLOT.findall(rest)) - used:
        raise ValueError(f"{document.name}: asked for but not in the text: {', '.join(sorted(unknown))}")


def load(folder: Path = AUTHORED) -> list[Authored]:
    """Every document of a folder, by name."""
    return [parse(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*-*.txt"))]


def fill(document: Authored, r: random.Random, evaluation: bool = False) -> Filled:
    """One document of the many it stands for. No two slots of a kind get one value: an answer must be unambiguous."""
    values: dict[str, str] = {}
    for slot, spec in document.slots.items():
        value = draw(spec, r, evaluation)
        for _ in range(20):
            if value not in values.values():
                break
            value = draw(spec, r, evaluation)
        values[slot] = value

    def put(template: str) -> str:
        def article(match: re.Match[str]) -> str:
            value = values[match[2]]
            return f"{match[1]}{'n' if _sounds_like_vowel(value) else ''} {value}"

        filled = _SLOT.sub(lambda match: values[match[1]], _A_AN.sub(article, template))
        return re.sub(
            r"\b([Tt]he) the\b", r"\1", filled
        )  # "the {organisation}" where the name has an article of its own

    return Filled(
        document.name,
        document.kind,
        _capitals(put(document.text)),
        tuple((_capital(put(question)), tuple(map(put, answers))) for question, answers in document.questions),
        tuple(_capital(put(sentence)) for sentence in document.summary),
        values,
        tuple(values[slot] for slot, spec in document.slots.items() if spec.split(" ")[0] in PROPER),
    )


def _sounds_like_vowel(value: str) -> bool:
    first = value.lstrip("\"'(").lower()
    if first[:1].isdigit():
        return bool(re.match(r"(8|11\b|18\b|11,|18,)", first))
    return first.startswith(tuple("aeiou")) and not first.startswith(("uni", "eu", "one", "use", "ew"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _capitals(text: str) -> str:
    """Capital letters at the starts of lines and sentences, where a value written in lower case may have ended up."""
    return re.sub(r"(?m)(^(?:#+ |[-*] |[\d.]+ )?|[.!?] )([a-z])(?=\w* )", lambda m: m[1] + m[2].upper(), text)
