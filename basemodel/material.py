"""Texts and what is known about them, from three sources: the template world, authored documents, natural passages."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basemodel import slots, values, world

HELD_OUT_KINDS = ("museum", "logbook", "legend")
"""Kinds of authored documents that no training sees."""
HELD_OUT_SHARE = 0.06
"""Of the other kinds, this share of the documents is held out too, drawn by name: more documents never move old ones."""
SOURCES = {"squad1.1-dev": 30, "qamr": 22, "fairytaleqa": 14, "wikitablequestions": 4, "boolq": 6, "nq-open-oracle": 5}
OTHER_SOURCES = 1.5
"""How often a natural source is drawn, beside the others; those made by template (stilted) and the long ones least."""


@dataclass(frozen=True, slots=True)
class Material:
    """A text and what is known about it.

    questions: (question, answer). unknown: questions that it does not answer. names: the names in it, in its order.
    said: sentences of a summary, each with the values that it speaks of. facts: (thing, value), of
    the template world alone. accepted: further right answers to a question.
    """

    text: str
    questions: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    said: tuple[tuple[str, tuple[str, ...]], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    source: str = ""
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return " ".join(sentence for sentence, _ in self.said)


def from_world(r: random.Random, things: int, facts: int, evaluation: bool = False) -> Material:
    """A document of the template world; its summary says most facts again, in other words."""
    made = world.make(r, things, facts, evaluation)
    told = [fact for fact in made.facts if r.random() < 0.85] or list(made.facts[:1])
    return Material(
        made.text,
        tuple((r.choice(fact.asked), fact.value) for fact in made.facts),
        made.unknown,
        _in_order([fact.subject.strip('"') for fact in made.facts], made.text),
        tuple((r.choice(fact.said), (fact.subject.strip('"'), fact.value)) for fact in told),
        tuple((fact.subject.strip('"'), fact.value) for fact in made.facts),
        "world",
    )


def from_authored(document: slots.Authored, r: random.Random, evaluation: bool = False) -> Material:
    made = slots.fill(document, r, evaluation)
    known = tuple((question, answers[0]) for question, answers in made.questions if answers[0] != "NOT STATED")
    unknown = tuple(question for question, answers in made.questions if answers[0] == "NOT STATED")
    said = tuple((sentence, tuple(v for v in made.values.values() if v in sentence)) for sentence in made.summary)
    return Material(
        made.text, known, unknown, _in_order(made.names, made.text), said, (), made.kind, dict(made.questions)
    )


def _in_order(names: Sequence[str], text: str) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name in text}, key=text.index))


def authored(held_out: bool) -> list[slots.Authored]:
    """The documents to train on, or those that are kept for evaluation."""
    return [document for document in slots.load() if _held(document) == held_out]


def _held(document: slots.Authored) -> bool:
    kind = document.name.rsplit("-", 1)[0]
    return kind in HELD_OUT_KINDS or values.share_of(document.name) < HELD_OUT_SHARE


def natural(file: Path, held_out: bool) -> list[Material]:
    """Passages with questions from an rc.jsonl.xz: {"passage", "held_out", "qa": [[question, answer or answers], ...]}."""
    found = []
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if bool(row["held_out"]) != held_out:
                continue
            pairs = [(pair[0], pair[1] if isinstance(pair[1], str) else pair[1][0]) for pair in row["qa"]]
            kept = tuple((question, answer) for question, answer in pairs if 0 < len(answer) < 120)
            if kept:
                found.append(Material(row["passage"], kept, source=row["source"]))
    return found
