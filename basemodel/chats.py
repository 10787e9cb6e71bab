"""Conversations to train on: a text and what is asked about it, from three sources, by the one prompt table of km.

    world      documents of the template world (world.py): any number of them
    authored   documents written by hand, filled with values (slots.py)
    natural    passages and questions that people wrote, from data files (openly licensed; not part of the repository)

A conversation is a list of turns (role, content). Its first turn holds the text, or several passages of which one matters,
or, rarely, no text at all: then the honest answer is that one does not know.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from basemodel import slots, values, world
from kmcli.bases.prompts import STYLES

PROMPTS = STYLES["embedded"]
NOT_STATED, NOT_KNOWN = "The text does not say.", "I don't know."
HELD_OUT_KINDS = ("museum", "logbook", "legend")
"""Kinds of authored documents that no training sees."""
HELD_OUT_SHARE = 0.06
"""Of the other kinds, this share of the documents is held out too, drawn by name: more documents never move old ones."""

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Material:
    """A text and what is known about it. questions: (question, answer); unknown: questions that it does not answer."""

    text: str
    questions: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    summary: str


def from_world(r: random.Random, things: int, facts: int, evaluation: bool = False) -> Material:
    """A document of the template world; its summary says most facts again, in other words."""
    made = world.make(r, things, facts, evaluation)
    told = [fact for fact in made.facts if r.random() < 0.85] or list(made.facts[:1])
    return Material(
        made.text,
        tuple((r.choice(fact.asked), fact.value) for fact in made.facts),
        made.unknown,
        " ".join(r.choice(fact.said) for fact in told),
    )


def from_authored(document: slots.Authored, r: random.Random, evaluation: bool = False) -> Material:
    made = slots.fill(document, r, evaluation)
    known = tuple((question, answers[0]) for question, answers in made.questions if answers[0] != "NOT STATED")
    unknown = tuple(question for question, answers in made.questions if answers[0] == "NOT STATED")
    return Material(made.text, known, unknown, " ".join(made.summary))


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
            kept = tuple((question, answer) for question, answer in pairs if 0 < len(answer) < 160)
            if kept:
                found.append(Material(row["passage"], kept, (), ""))
    return found


def conversation(material: Material, others: Sequence[Material], r: random.Random) -> list[Turn]:
    """A conversation about a text: several questions, sometimes the writing of pairs or of a summary.

    others: texts to choose wrong passages from, as retrieval brings them.
    """
    if r.random() < 0.04:
        asked = r.sample(material.questions, k=min(3, len(material.questions)))
        return [turn for question, _ in asked for turn in (("user", question), ("assistant", NOT_KNOWN))]
    text = material.text
    if others and r.random() < 0.2:
        passages = [text, *(other.text for other in r.sample(list(others), k=min(len(others), r.randint(1, 4))))]
        r.shuffle(passages)
        text = "\n\n".join(passages)
    exchanges = [_exchange(material, r) for _ in range(r.choice((1, 3, 4, 5, 6, 8)))]
    turns: list[Turn] = []
    for prompt, answer in dict(exchanges).items():  # nothing is asked twice
        content = prompt if turns else PROMPTS.under_text.format(text=text, question=prompt)
        turns += [("user", content), ("assistant", answer)]
    return turns


def _exchange(material: Material, r: random.Random) -> tuple[str, str]:
    way = r.random()
    if way < 0.14 and len(material.questions) > 2:
        chosen = sorted(r.sample(range(len(material.questions)), k=min(len(material.questions), r.randint(3, 8))))
        pairs = [material.questions[index] for index in chosen]  # in the text's own order: easier for a small model
        return PROMPTS.write_qa, "\n".join(f"Q: {question}\nA: {answer}" for question, answer in pairs)
    if way < 0.24 and material.summary:
        return PROMPTS.summarise, material.summary
    if way < 0.32 and material.unknown:
        return r.choice(material.unknown), NOT_STATED
    return r.choice(material.questions)


class Mixture:
    """An endless stream of conversations. shares: of world, authored and natural, in this order; easy: short texts only."""

    def __init__(self, seed: int, shares: tuple[float, float, float], natural_rows: Iterable[Material] = ()) -> None:
        self.random = random.Random(seed)
        self.shares = shares
        self.authored = authored(held_out=False)
        self.natural = list(natural_rows)

    def next(self, easy: bool) -> list[Turn]:
        r = self.random
        source = r.choices(("world", "authored", "natural"), self.shares)[0]
        if source == "natural" and self.natural:
            return conversation(r.choice(self.natural), r.sample(self.natural, k=min(4, len(self.natural))), r)
        if source == "authored":
            return conversation(from_authored(r.choice(self.authored), r), self._some_world(), r)
        things, facts = (
            (r.choice((1, 1, 2)), r.choice((2, 3, 4))) if easy else (r.choice((1, 2, 2, 3, 3, 4, 6)), r.randint(2, 8))
        )
        return conversation(from_world(r, things, facts), self._some_world(), r)

    def _some_world(self) -> list[Material]:
        return [from_world(self.random, self.random.randint(1, 2), self.random.randint(2, 5)) for _ in range(2)]
