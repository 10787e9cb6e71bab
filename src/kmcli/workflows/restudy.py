"""What is studied again after an exam: which facts were missed, what to write about them, and how often it is read.

Nothing of the exam itself is studied, neither its questions nor what was held out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from kmcli import training
from kmcli.chunking import chunk
from kmcli.evaluation.exam import agrees
from kmcli.library.exams import Exam
from kmcli.metrics import normalise
from kmcli.types import Chunk, Recipe, Sample

PIECE = 1 / 3
"""Of a chunk: what the writer reads at a time, so that it writes about the missed fact and not about what it always does."""
OVERLAP = 0.3
MOST, FEWEST = 1 / 4, 8
"""Of a document's chunks: so many pieces a round writes about at most, the worst passages first. What was written about the
others before is repeated all the same."""
TIMES, SHARE = 3, 1 / 3
"""How many times more than the rest a question about a missed fact is read in a round: once, and more often, up to so many
times, as long as that adds no more than this share. Else what is known is read too seldom, and forgotten."""


@dataclass(frozen=True, slots=True)
class Missed:
    """What a passage says and the Knowledge Module does not know: the answers."""

    chunk_sha256: str
    answers: tuple[str, ...]

    def has(self, response: str) -> bool:
        return any(agrees(response, answer) for answer in self.answers)


def missed(exam: Exam) -> dict[str, Missed]:
    """By chunk, the least known first; chunks of which everything is known are not there."""
    asked = [passage for passage in exam.passages if passage.known < len(passage.facts)]
    asked.sort(key=lambda passage: passage.known / len(passage.facts))
    return {
        passage.chunk_sha256: Missed(
            passage.chunk_sha256, tuple(fact.questions[0].reference for fact in passage.facts if not fact.known)
        )
        for passage in asked
    }


def pieces(
    unknown: Mapping[str, Missed], chunks: Sequence[Chunk], tokens: int, count: Callable[[str], int]
) -> dict[str, tuple[Chunk, str]]:
    """What a round writes about, by hash: pieces of these chunks that say what is not known, each with its chunk's hash;
    the whole chunk where no piece does. tokens: of a chunk."""
    by_hash = {one.sha256: one for one in chunks}
    most = max(FEWEST, round(MOST * len(by_hash)))
    found: dict[str, tuple[Chunk, str]] = {}
    for sha256, facts in unknown.items():
        whole = by_hash.get(sha256)
        if whole is None or len(found) >= most:
            continue
        answers = [normalise(answer) for answer in facts.answers]
        parts = chunk(whole.text, max(1, round(PIECE * tokens)), OVERLAP, count)
        saying = [part for part in parts if any(answer in normalise(part.text) for answer in answers)]
        for part in saying or [whole]:
            found.setdefault(part.sha256, (part, sha256))
    return found


def allowed(
    samples: Sequence[Sample], recipe: Recipe, secret: Collection[str], studied: Sequence[Sample]
) -> list[Sample]:
    """Of samples those that are to be studied: none that the recipe holds out, none with a prompt that is `secret`
    (normalised), and none that was studied or stands there already."""
    taught, _ = training.split(samples, recipe)
    seen = {_said(one) for one in studied}
    found: list[Sample] = []
    for one in taught:
        if normalise(one.prompt) not in secret and _said(one) not in seen:
            seen.add(_said(one))
            found.append(one)
    return found


def _said(sample: Sample) -> tuple[str, str]:
    return normalise(sample.prompt), normalise(sample.response)


def chosen(studied: Sequence[Sample], unknown: Mapping[str, Missed], whose: Mapping[str, str]) -> list[Sample]:
    """The material of a round: all that is studied, and what asks for missed facts several times.

    whose: the chunk of a piece, by hash.
    """
    about: list[Sample] = []
    for one in studied:
        fact = unknown.get(whose.get(one.chunk_sha256, one.chunk_sha256))
        if fact and fact.has(one.response):
            about.append(one)
    more = min(TIMES, max(1, int(SHARE * len(studied) / len(about)))) if about else 0
    return [*studied, *about * more]
