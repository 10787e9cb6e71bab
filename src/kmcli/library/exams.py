"""Exams on disk: a document's questions, which are never trained on, and what its Knowledge Module answered.

The questions are in the document's exam.jsonl, a group of finished work a line; the result is exam.jsonl in the module's
folder, its head in the first line and then a passage a line. To read a result needs nothing but this module.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmcli.library import files
from kmcli.library import samples as study
from kmcli.library.layout import Layout
from kmcli.metrics import normalise
from kmcli.types import Document, KnowledgeModule, Sample

RESULT = "exam.jsonl"


@dataclass(frozen=True, slots=True)
class Graded:
    """A question that was put to a Knowledge Module.

    reference: what the teacher answers with the passage in context, or what came with an imported question. answer: the
    module's, closed book; probability: with which it gives just these tokens (0 to 1, all of them together, without the one
    that ends them). f1: how the two agree.
    """

    question: str
    reference: str
    answer: str
    known: bool
    f1: float
    probability: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Fact:
    questions: tuple[Graded, ...]

    @property
    def known(self) -> bool:
        """Whether at least half of its questions were answered rightly."""
        return 2 * sum(one.known for one in self.questions) >= len(self.questions)


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of the document as it was trained on, and its questions; none where the chunk gave none, or there was no time.

    start: offset of its first character in the document's text. pages: its first and its last.
    """

    chunk_sha256: str
    start: int
    pages: tuple[int, int] | None
    questions: tuple[Graded, ...]

    @property
    def facts(self) -> list[Fact]:
        """Questions that have the same answer ask for one fact."""
        found: dict[str, list[Graded]] = {}
        for one in self.questions:
            found.setdefault(normalise(one.reference), []).append(one)
        return [Fact(tuple(some)) for some in found.values()]

    @property
    def known(self) -> int:
        """How many of its facts."""
        return sum(fact.known for fact in self.facts)


@dataclass(frozen=True, slots=True)
class Head:
    """What an exam came to. known, asked: facts; questions: that asked for them. seconds: the exam's, the writing of its
    questions in this run included; training_seconds: those of the training before it. late: passages that there was no
    time for. rounds: how often what was unknown has been studied again since, whether or not that was kept, in
    round_seconds, with round_steps and so many scored tokens; known_before: facts, before that."""

    known: int
    asked: int
    questions: int
    seconds: float
    training_seconds: float
    late: int = 0
    rounds: int = 0
    round_seconds: float = 0.0
    round_steps: int = 0
    round_tokens: int = 0
    known_before: int | None = None

    @property
    def share(self) -> float | None:
        """None where nothing could be asked."""
        return self.known / self.asked if self.asked else None


@dataclass(frozen=True, slots=True)
class Exam:
    """passages: all chunks of the document, in its order."""

    head: Head
    passages: tuple[Passage, ...]


class Exams:
    """Whoever writes holds the document's lock."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    # --- questions ---

    def questions(self, document: Document) -> list[tuple[dict[str, Any], list[Sample]]]:
        """The groups of finished work: what identifies it, as it was given to `append`, and its samples."""
        found = []
        for line in study.read_objects(self._layout.exam_questions(document)):
            try:
                found.append((dict(line["work"]), [Sample(**one) for one in line["samples"]]))
            except (TypeError, KeyError, ValueError):  # of a newer km, or damaged: it is written again
                continue
        return found

    def append(self, document: Document, work: dict[str, Any], samples: Iterable[Sample]) -> None:
        """Add a group, whole or not at all; safe on the disk when this returns."""
        with files.explained(self._layout.home):
            line = {"work": work, "samples": [dataclasses.asdict(sample) for sample in samples]}
            study.append_objects(self._layout.exam_questions(document), [line])

    # --- results ---

    def keep(self, module: KnowledgeModule, exam: Exam) -> None:
        """Keep what a module answered, in place of what was kept before."""
        with files.explained(self._layout.home):
            write(self._file(module).parent, exam)

    def head(self, module: KnowledgeModule) -> Head | None:
        """What the module's exam came to, without reading the answers; None where there was none, or it is damaged."""
        try:
            with self._file(module).open("rb") as stream:
                return Head(**json.loads(stream.readline()))
        except (OSError, ValueError, TypeError):
            return None

    def of(self, module: KnowledgeModule) -> Exam | None:
        """The module's exam; None where there was none, or it is damaged."""
        return read(self._file(module).parent)

    def _file(self, module: KnowledgeModule) -> Path:
        return self._layout.module(module.id) / RESULT


def write(folder: Path, exam: Exam) -> None:
    """Put an exam beside an adapter, in place of the one that is there."""
    passages = [
        {**dataclasses.asdict(passage), "questions": [dataclasses.asdict(one) for one in passage.questions]}
        for passage in exam.passages
    ]
    lines = [json.dumps(one) + "\n" for one in (dataclasses.asdict(exam.head), *passages)]
    files.write(folder / RESULT, "".join(lines).encode())


def read(folder: Path) -> Exam | None:
    """The exam beside an adapter; None where there is none, or it is damaged."""
    try:
        first, *rest = (folder / RESULT).read_bytes().splitlines()
        return Exam(Head(**json.loads(first)), tuple(map(_passage, rest)))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _passage(line: bytes) -> Passage:
    values = json.loads(line)
    pages: Sequence[int] | None = values["pages"]
    return Passage(
        values["chunk_sha256"],
        values["start"],
        (pages[0], pages[1]) if pages else None,
        tuple(Graded(**one) for one in values["questions"]),
    )
