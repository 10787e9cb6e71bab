"""What is studied again after an exam: which facts were missed, what to write about them, and what to repeat beside it.

Nothing of the exam itself is studied, neither its questions nor what was held out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from kmcli import training
from kmcli.bases.prompts import Prompts
from kmcli.chunking import chunk
from kmcli.evaluation.exam import agrees
from kmcli.library.exams import Exam
from kmcli.metrics import normalise
from kmcli.types import Chunk, Recipe, Sample, text_hash

PIECE = 1 / 3
"""Of a chunk: what the writer reads at a time, so that it writes about the missed fact and not about what it always does."""
OVERLAP = 0.3
MOST, FEWEST = 1 / 4, 8
"""Of a document's chunks: so many pieces a round writes about at most, the worst passages first. What was written about the
others before is repeated all the same."""
TIMES = 4
"""How often a question about a missed fact stands in a round's material, each time in other words as far as there are any;
another one of its passage stands there once."""
KEPT = 1.0
"""Of what is known, as many samples as of what is not: for the rest is forgotten otherwise."""


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


def chosen(
    studied: Sequence[Sample],
    new: Sequence[Sample],
    unknown: Mapping[str, Missed],
    whose: Mapping[str, str],
    number: int,
    prompts: Prompts,
) -> list[Sample]:
    """The material of a round: what asks for missed facts several times, what else is said of their passages, and as much
    of the rest; [] where nothing speaks of those passages.

    studied: what was trained on before; new: written since. whose: the chunk of a piece, by hash. number: of the round, by
    which the rest is drawn.
    """
    about: list[Sample] = []
    near: list[Sample] = []
    rest: list[Sample] = []
    for one in (*studied, *new):
        fact = unknown.get(whose.get(one.chunk_sha256, one.chunk_sha256))
        (rest if fact is None else about if fact.has(one.response) else near).append(one)
    weak = [_reworded(one, time, prompts) for one in about for time in range(TIMES)] + near
    if not weak:
        return []
    rest.sort(key=lambda one: text_hash(f"{number} {one.id}"))
    return weak + rest[: round(KEPT * len(weak))]


def _reworded(sample: Sample, time: int, prompts: Prompts) -> Sample:
    """A question put in another way; as it is for the time 0, where there are no more ways, and where it is no question."""
    question = prompts.question_of(sample.prompt)
    if not time % (1 + len(prompts.rewordings)) or prompts.ask.format(question=question) != sample.prompt:
        return sample
    way = prompts.rewordings[time % (1 + len(prompts.rewordings)) - 1]
    return replace(sample, prompt=prompts.ask.format(question=way.format(question=question)))
