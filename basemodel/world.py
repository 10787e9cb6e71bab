"""The template world: documents about things that do not exist, with every fact known, from world.toml.

Where authored documents teach natural English, these teach to find: any number of things and facts, in many arrangements.
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from basemodel.values import draw

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ABOUT = ("name", "article", "suffix", "quoted", "nouns", "pronoun")
FILLERS = (
    "The figures were checked twice.",
    "Little else is known about this.",
    "Opinions on the matter differ.",
    "This has not changed for years.",
    "It was a quiet season for everyone.",
    "More is said about it further on.",
    "Several people have confirmed this.",
    "Nobody had expected as much.",
    "The records are kept in the archive.",
    "There was some discussion about it.",
)
HEADINGS = (
    "Report",
    "Notes",
    "Overview",
    "Summary of the records",
    "Handbook",
    "Annual review",
    "Background",
    "What we know",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a document. asked: ways to ask; said: ways to say it that name the thing."""

    subject: str
    kind: str
    key: str
    value: str
    asked: tuple[str, ...]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A document. unknown: questions about its things whose answer it does not give."""

    text: str
    facts: tuple[Fact, ...]
    unknown: tuple[str, ...]


@cache
def kinds() -> dict[str, dict[str, Any]]:
    """world.toml: per kind of thing what it is called, and its facts under "facts"."""
    raw = tomllib.loads(Path(__file__).with_name("world.toml").read_text("utf-8"))
    return {
        kind: {key: entry[key] for key in _ABOUT if key in entry}
        | {"facts": {key: value for key, value in entry.items() if key not in _ABOUT}}
        for kind, entry in raw.items()
    }


def make(r: random.Random, things: int, facts: int, evaluation: bool = False) -> Made:
    """A document of `things` things with up to `facts` facts each."""
    chosen = r.choices(list(kinds()), k=things)
    if r.random() < 0.4:
        chosen = [chosen[0]] * things  # many of a kind: told apart only by their names
    names: set[str] = set()
    paragraphs: list[str] = []
    known: list[Fact] = []
    unknown: list[str] = []
    for kind in chosen:
        about = kinds()[kind]
        name = _name(about, r, evaluation)
        if name in names:
            continue
        names.add(name)
        keys = r.sample(list(about["facts"]), k=min(facts, len(about["facts"])))
        told = [_fact(kind, key, name, r, evaluation) for key in keys]
        known += told
        paragraphs.append(_paragraph(about, told, r))
        missing = [key for key in about["facts"] if key not in keys]
        unknown += [r.choice(about["facts"][key]["ask"]).format(S=name) for key in missing[:2]]
    text = r.choice(("\n\n", "\n\n", "\n", " ")).join(paragraphs)
    if r.random() < 0.3:
        text = f"{r.choice(('# ', '## ', ''))}{r.choice(HEADINGS)}\n\n{text}"
    return Made(text, tuple(known), tuple(unknown))


def _name(about: dict[str, Any], r: random.Random, evaluation: bool) -> str:
    name = draw(about["name"], r, evaluation) + r.choice(about.get("suffix", [""]))
    return f'"{name}"' if about.get("quoted") else about.get("article", "") + name


def _fact(kind: str, key: str, name: str, r: random.Random, evaluation: bool) -> Fact:
    entry = kinds()[kind]["facts"][key]
    value = draw(entry["value"], r, evaluation)
    said = [*entry["say"], *("{S} " + predicate + "." for predicate in entry["does"])]
    return Fact(
        name,
        kind,
        key,
        value,
        tuple(question.format(S=name) for question in entry["ask"]),
        tuple(capital(sentence.format(S=name, v=value)) for sentence in said),
    )


def _paragraph(about: dict[str, Any], facts: list[Fact], r: random.Random) -> str:
    """Sentences of one fact, or of two, with the thing named, described or referred to."""
    pronoun = r.choice(about["pronoun"].split("|"))
    sentences: list[str] = []
    rest = list(facts)
    while rest:
        fact = rest.pop(0)
        subject = fact.subject
        if sentences and r.random() < 0.55:
            subject = f"the {r.choice(about['nouns'])}" if about["nouns"] and r.random() < 0.35 else pronoun
        first = _predicate(about, fact, r)
        way = r.random()
        if rest and way < 0.22:
            second = _predicate(about, rest.pop(0), r)
            joint = r.choice((f"{first} and {second}", f"{first}, and it {second}", f"{first}; it also {second}"))
            sentences.append(f"{subject} {joint.replace(' it ', f' {pronoun} ')}.")
        elif rest and way < 0.3 and subject == fact.subject and about["nouns"]:
            sentences.append(f"{subject}, which {first}, {_predicate(about, rest.pop(0), r)}.")
        elif way < 0.5 or subject != fact.subject:
            sentences.append(f"{subject} {first}.")
        else:
            sentences.append(r.choice(fact.said))
        if r.random() < 0.07:
            sentences.append(r.choice(FILLERS))
    return " ".join(map(capital, sentences))


def _predicate(about: dict[str, Any], fact: Fact, r: random.Random) -> str:
    return str(r.choice(about["facts"][fact.key]["does"]).format(v=fact.value))


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return re.sub(r"^[\"']?\w", lambda match: match[0].upper(), text)
