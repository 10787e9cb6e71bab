"""Where a document says two things: one question, written about two passages, that each of them answers otherwise.

Mostly one of the two has superseded the other; which one, nobody here knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.evaluation.exam import agrees
from kmcli.metrics import normalise
from kmcli.routing import support
from kmcli.synthesis import TASKS
from kmcli.synthesis.custom import SHORT_ANSWERS
from kmcli.types import IMPORTED, Chunk, Sample

_WAYS = (
    "much many long old far often high deep large big wide tall heavy fast time year years month date day days name kind "
    "must may should would more most other one"
)
FORM = frozenset(_WAYS.split())
"""Words that say how something is asked. All others must stand in the passage: a small base asks about names that it has
mixed up from several, and those are answered otherwise by every passage."""
STEM = 5
"""Letters by which forms of a word are taken for one."""
MOST = 50


@dataclass(frozen=True, slots=True)
class Said:
    """What a passage answers. passage: its number, from 1; start: where it begins in the text."""

    answer: str
    passage: int
    start: int
    page: int | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """sayings: in the document's order."""

    question: str
    sayings: tuple[Said, ...]


def conflicts(samples: Iterable[Sample], chunks: Sequence[Chunk], prompts: Prompts) -> list[Conflict]:
    """What the study material and the exam's questions about these chunks contradict each other in, in the document's
    order. Each sample's answer was confirmed by the base with the chunk in front of it."""
    places = {chunk.sha256: (number, chunk) for number, chunk in enumerate(chunks, 1)}
    short = {name for name, task in TASKS.items() if task.parser in SHORT_ANSWERS} | {IMPORTED}
    asked: dict[tuple[str, ...], tuple[str, list[Sample]]] = {}
    for one in samples:
        if one.chunk_sha256 not in places or one.task not in short or prompts.refuses(one.response):
            continue
        question = prompts.question_of(one.prompt)
        about = [word for word in support.words(question) if word not in FORM]
        if about and support.share(about, support.words(places[one.chunk_sha256][1].text), exact=False) == 1:
            key = tuple(sorted(word[:STEM] for word in about))
            asked.setdefault(key, (question, []))[1].append(one)
    found = []
    for question, some in asked.values():
        sayings = _different(sorted(some, key=lambda one: places[one.chunk_sha256][0]), places)
        if len(sayings) > 1:
            found.append(Conflict(question, tuple(sayings)))
    return sorted(found, key=lambda one: one.sayings[0].start)[:MOST]


def _different(some: Sequence[Sample], places: dict[str, tuple[int, Chunk]]) -> list[Said]:
    """The answers that differ, each from the first passage that gives it. One passage that answers in two ways says
    nothing: the base was unsure of it. Nor do two passages that share the answers."""
    answers: dict[str, set[str]] = {}
    for one in some:
        answers.setdefault(one.chunk_sha256, set()).add(normalise(one.response))
    sayings: list[Said] = []
    for one in some:
        number, chunk = places[one.chunk_sha256]
        alone = len(answers[one.chunk_sha256]) == 1
        # what overlaps says the same, and what stands in the other passage too is no other value there
        if alone and not any(_same(one.response, chunk.text, said, places) for said in sayings):
            sayings.append(Said(one.response, number, chunk.start, chunk.first_page))
    return sayings


def _same(answer: str, text: str, said: Said, places: dict[str, tuple[int, Chunk]]) -> bool:
    there = next(chunk.text for number, chunk in places.values() if number == said.passage)
    mine, other = normalise(answer), normalise(said.answer)
    inside = f" {mine} " in f" {other} " or f" {other} " in f" {mine} "
    shared = f" {mine} " in f" {normalise(there)} " or f" {other} " in f" {normalise(text)} "
    return inside or shared or agrees(answer, said.answer)
