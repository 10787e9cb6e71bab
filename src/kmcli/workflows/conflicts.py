"""Where a document says two things: one question, written about two passages, that each of them answers otherwise.

Mostly one of the two has superseded the other; which one, nobody here knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.evaluation.exam import agrees
from kmcli.metrics import normalise, token_f1
from kmcli.routing import support
from kmcli.synthesis import TASKS
from kmcli.synthesis.custom import SHORT_ANSWERS
from kmcli.types import IMPORTED, Chunk, Sample

NEAR = 0.85
"""The F1 from which two questions with the same names and numbers ask the same."""
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
    asked: list[tuple[str, list[Sample]]] = []
    by_names: dict[tuple[str, ...], list[int]] = {}
    for one in samples:
        if one.chunk_sha256 not in places or one.task not in short or prompts.refuses(one.response):
            continue
        question = prompts.question_of(one.prompt)
        key = tuple(sorted(support.names(question)))
        same = next((at for at in by_names.get(key, ()) if token_f1(question, [asked[at][0]]) >= NEAR), None)
        if same is None:
            by_names.setdefault(key, []).append(len(asked))
            asked.append((question, [one]))
        else:
            asked[same][1].append(one)
    found = []
    for question, some in asked:
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
