"""Generated documents of 2,000 to 8,000 words with questions, for bench/results.py.

    python -m bench.corpus FOLDER [--documents N] [--questions N] [--words LEAST MOST] [--seed SEED] [--read]
                           [--wordings N]

Documents of the template world (basemodel/world.py), a section after the other until they have their words. All names in
them are of those that the embedded base's training never draws, and no two things of a document have one name, so every
question has one answer. Other seeds make other documents: an extractor is trained on those of another seed.

    FOLDER/documents/NAME.md            the document
    FOLDER/questions/NAME.jsonl         its questions: for `km compare NAME --questions`
    FOLDER/questions.jsonl              all of them with their document: for `km extractor train --questions`
    FOLDER/material/NAME.jsonl          study material that the world writes: for `km synth NAME --import`
    FOLDER/further.jsonl                questions in ways (wordings.toml) that neither studies nor asks, about all that is
                                        read: more for an extractor to learn from than the documents' own questions

A question is about a fact of any part of the document, its evidence the words in which it stands there; one of ten asks
what the document does not say of a thing that it names. Everything follows from the seed. 100 documents have 2,500
questions. The material asks about the same facts in other words: no question of it is one of the document's questions.

--read: the documents stay as they are, but asked and studied is only what the embedded base can read (READ below), so that
what a Knowledge Module adds is not hidden by what the base could not have found in the text itself.

--wordings: the material asks for each such fact in N more ways (wordings.toml, up to 6 of 8), which the world does not know:
as a writer would who asks for everything several times. Documents and questions stay as they are.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from basemodel import world

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNKNOWN = 0.1
"""Share of the questions whose answer the document does not say."""
NOT_SAID = "The text does not say."
KINDS = {
    "who": ("person", "first", "surname"),
    "when": ("year", "date", "fulldate", "weekday", "month", "hour"),
    "how many": ("number", "small", "money", "duration", "measure", "percent"),
    "where": ("town", "street", "region", "river", "hill", "room"),
}
"""Kinds of questions, by the type of the value that is asked for; the others ask what."""
READ = {
    "product": ("weight", "runs", "release"),
    "species": ("age", "size", "food", "habitat"),
    "ship": ("length", "launched"),
    "project": ("due", "begun"),
    "event": ("day",),
    "company": ("staff",),
    "book": ("published",),
    "town": ("year", "people"),
    "substance": ("melts",),
}
"""Facts by kind of thing which version 0 of the embedded base answers rightly in at least 60% of cases with the evidence in
front of it. Measured on 2,500 facts of other seeds, of 85 sorts, without any Knowledge Module; it reads 36% of all."""
SECTION = (4, 10)
"""Things of a section."""
STUDIED = 6
"""Of the ways in wordings.toml: the others are never studied."""


@dataclass(frozen=True)
class Generated:
    name: str
    text: str
    questions: list[dict[str, Any]]
    material: list[dict[str, str]]
    further: list[dict[str, Any]]


def document(seed: str, number: int, words: tuple[int, int], asked: int, read: bool, ways: int = 0) -> Generated:
    r = random.Random(f"{seed} {number}")
    wanted = r.randint(*words)
    name = f"{seed}-{number:03}"
    sections: list[str] = []
    known: list[tuple[world.Fact, str, tuple[world.Fact, ...]]] = []
    unknown: list[tuple[str, str]] = []
    subjects: set[str] = set()
    length = 0
    while length < wanted:
        made = world.make(r, r.randint(*SECTION), 4, evaluation=True)
        mine = {fact.subject.casefold() for fact in made.facts}
        if mine & subjects or mine & {fact.value.casefold() for fact in made.facts}:
            continue
        if sections and length + len(made.text.split()) > words[1] - 20:
            break
        subjects |= mine
        text = re.sub(r"^#* ?(?:" + "|".join(world.HEADINGS) + r")\n\n", "", made.text)
        sections.append(f"## {len(sections) + 1}. {r.choice(world.HEADINGS)}\n\n{text}")
        length += len(sections[-1].split())
        known += [(fact, text, made.facts) for fact in made.facts if not read or can_read(fact)]
        unknown += [(one, text) for one in made.unknown]
    refused = round(asked * UNKNOWN)
    chosen = r.sample(known, min(asked - refused, len(known)))
    questions = [question(fact, r.choice(fact.asked), text, others) for fact, text, others in chosen]
    none = r.sample(unknown, min(refused, len(unknown)))
    questions += [{"question": one, "answers": [], "kind": "unanswerable"} for one, _ in none]
    taken = {one["question"] for one in questions}
    material = [(one, fact.value, text) for fact, text, _ in known for one in (*fact.asked, *further(fact)[:ways])]
    material += [
        (one, NOT_SAID, text) for one, text in r.sample(unknown, min(len(unknown), round(len(known) * UNKNOWN)))
    ]
    lines = [{"prompt": one, "response": said, "context": text} for one, said, text in material if one not in taken]
    left = [question(fact, one, text, others) for fact, text, others in known for one in further(fact)[STUDIED:]]
    title = f"# {name.capitalize()}"
    return Generated(name, "\n\n".join([title, *sections]) + "\n", questions, lines, left)


def can_read(fact: world.Fact) -> bool:
    return fact.key in READ.get(fact.kind, ()) and len(fact.asked) > 1


def further(fact: world.Fact) -> list[str]:
    """Ways to ask for a fact that the world does not know; none for a fact that is not in READ."""
    return [one.format(S=fact.subject) for one in wordings().get(fact.kind, {}).get(fact.key, ())]


@cache
def wordings() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(Path(__file__).with_name("wordings.toml").read_text("utf-8"))


def question(fact: world.Fact, asked: str, text: str, facts: Sequence[world.Fact]) -> dict[str, Any]:
    found = evidence(fact, text, facts)
    return {"question": asked, "answers": [fact.value], "kind": kind(fact), "about": fact.subject, "evidence": found}


def kind(fact: world.Fact) -> str:
    """By the type of its value."""
    of = str(world.kinds()[fact.kind]["facts"][fact.key]["value"]).split()[0]
    return next((name for name, types in KINDS.items() if of in types), "what")


def evidence(fact: world.Fact, text: str, facts: Sequence[world.Fact]) -> str:
    """From where the thing is named first to the end of the sentence that has the value: what is said between them is about
    it. The value alone where the sentence is not found."""
    lowered = text.casefold()
    start = lowered.find(fact.subject.casefold())
    others = [lowered.find(other.subject.casefold(), start) for other in facts if other.subject != fact.subject]
    end = min((place for place in others if place > start), default=len(text))
    place = lowered.find(fact.value.casefold(), start, end)
    if start < 0 or place < 0:
        return fact.value
    stop = re.compile(r"[.;](\s|$)").search(text, place + len(fact.value))
    return " ".join(text[start : stop.start() + 1 if stop else end].split())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--questions", type=int, default=25)
    parser.add_argument("--words", type=int, nargs=2, default=(2000, 8000), metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", default="generated")
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--wordings", type=int, default=0, choices=range(STUDIED + 1), metavar="N")
    given = parser.parse_args(arguments)
    for part in ("documents", "questions", "material"):
        (given.folder / part).mkdir(parents=True, exist_ok=True)
    words = questions = 0
    lines: dict[str, list[str]] = {"questions": [], "further": []}
    for number in range(given.documents):
        made = document(given.seed, number, tuple(given.words), given.questions, given.read, given.wordings)
        (given.folder / "documents" / f"{made.name}.md").write_text(made.text, "utf-8")
        for part, records in (("questions", made.questions), ("material", made.material)):
            mine = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
            (given.folder / part / f"{made.name}.jsonl").write_text(mine, "utf-8")
        for part, asked in (("questions", made.questions), ("further", made.further)):
            lines[part] += [json.dumps({"document": made.name, **one}, ensure_ascii=False) + "\n" for one in asked]
        words += len(made.text.split())
        questions += len(made.questions)
    for part, written in lines.items():
        (given.folder / f"{part}.jsonl").write_text("".join(written), "utf-8")
    print(f"{given.documents:,} documents, {words:,} words, {questions:,} questions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
