"""Where a document says two things: one question that two passages answer, each of them otherwise.

The question was written about one of them; the other has all of its words, and was either written about too, or the base is
asked with it in front. Mostly one of the two has superseded the other; which one, nobody here knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.evaluation.exam import agrees
from kmcli.metrics import normalise, occurrences
from kmcli.routing import support
from kmcli.synthesis import TASKS
from kmcli.synthesis.custom import SHORT_ANSWERS
from kmcli.types import IMPORTED, Chunk, Passage, Sample

_WAYS = (
    "much many long old far often high deep large big wide tall heavy fast time year years month date day days name kind "
    "must may should would more most other one"
)
FORM = frozenset(_WAYS.split())
"""Words that say how something is asked. All others must stand in the passage: a small base asks about names that it has
mixed up from several, and those are answered otherwise by every passage."""
NAMED, NEAR = 1.0, 0.5
"""Of the question's names, and of its words, so many must stand in the sentence that answers it, or in the one before."""
STEM = 5
"""Letters by which forms of a word are taken for one."""
MOST = 50
MOST_ASKED = 200
"""Questions that are put to the base under another passage."""

Ask = Callable[[Sequence[tuple[str, str]]], list[str]]
"""Of questions, each with the text that it is asked under, the answers; "" where there is none."""


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


def conflicts(samples: Iterable[Sample], chunks: Sequence[Chunk], prompts: Prompts, ask: Ask) -> list[Conflict]:
    """What these chunks contradict each other in, in the document's order. samples: with a short answer, which the base has
    confirmed with the chunk in front of it."""
    places = {chunk.sha256: (number, chunk) for number, chunk in enumerate(chunks, 1)}
    words = {chunk.sha256: support.words(chunk.text) for chunk in chunks}
    short = {name for name, task in TASKS.items() if task.parser in SHORT_ANSWERS} | {IMPORTED}
    asked: dict[tuple[str, ...], tuple[str, list[tuple[str, str]]]] = {}
    for one in samples:
        if one.chunk_sha256 not in places or one.task not in short or prompts.refuses(one.response):
            continue
        question = prompts.question_of(one.prompt)
        about = _about(question)
        if about and support.share(about, words[one.chunk_sha256], exact=False) == 1:
            key = tuple(sorted(word[:STEM] for word in about))
            asked.setdefault(key, (question, []))[1].append((one.chunk_sha256, one.response))
    _ask_elsewhere(list(asked.values()), places, words, ask)
    found = []
    for question, answers in asked.values():
        plain = [one for one in answers if _plainly(question, one[1], places[one[0]][1].text)]
        sayings = _different(sorted(plain, key=lambda one: places[one[0]][0]), places)
        if len(sayings) > 1:
            found.append(Conflict(question, tuple(sayings)))
    return sorted(found, key=lambda one: one.sayings[0].start)[:MOST]


def _plainly(question: str, answer: str, text: str) -> bool:
    """Whether a sentence says it of what is asked about. A small base takes a value from the sentence beside it."""
    stands, near, named = support.features(question, answer, [Passage("", text, 0.0)], back=True)
    return stands == 1 and named >= NAMED and near >= NEAR


def _about(question: str) -> list[str]:
    return [word for word in support.words(question) if word not in FORM]


def _ask_elsewhere(
    asked: Sequence[tuple[str, list[tuple[str, str]]]],
    places: dict[str, tuple[int, Chunk]],
    words: dict[str, list[str]],
    ask: Ask,
) -> None:
    """Add what other passages with all of a question's words answer, in their own words."""
    stems = {sha256: {word[:4] for word in some} for sha256, some in words.items()}
    todo: list[tuple[str, str, list[tuple[str, str]]]] = []
    for question, answers in asked:
        about, own = _about(question), {sha256 for sha256, _ in answers}
        for sha256 in words.keys() - own:
            if (
                all(word[:4] in stems[sha256] for word in about)
                and support.share(about, words[sha256], exact=False) == 1
            ):
                todo.append((question, sha256, answers))
    todo = sorted(todo, key=lambda one: places[one[1]][0])[:MOST_ASKED]
    said = ask([(question, places[sha256][1].text) for question, sha256, _ in todo])
    for (_, sha256, answers), answer in zip(todo, said, strict=True):
        if answer:
            answers.append((sha256, answer))


def _different(some: Sequence[tuple[str, str]], places: dict[str, tuple[int, Chunk]]) -> list[Said]:
    """The answers that differ, each from the first passage that gives it. One passage that answers in two ways says
    nothing: the base was unsure of it. some: answers, by the chunk that gives them."""
    answers: dict[str, set[str]] = {}
    for sha256, answer in some:
        answers.setdefault(sha256, set()).add(normalise(answer))
    sayings: list[tuple[Said, Chunk]] = []
    for sha256, answer in some:
        number, chunk = places[sha256]
        alone = len(answers[sha256]) == 1
        # what overlaps says the same, and what stands in the other passage too is no other value there
        if alone and not any(_same(answer, chunk.text, said.answer, there.text) for said, there in sayings):
            sayings.append((Said(answer, number, chunk.start, chunk.first_page), chunk))
    return [said for said, _ in sayings]


def _same(answer: str, text: str, other: str, there: str) -> bool:
    """Whether two passages, each with its answer, answer alike."""
    inside = occurrences(answer, other) or occurrences(other, answer)
    shared = occurrences(answer, there) or occurrences(other, text)
    return bool(inside or shared) or agrees(answer, other)
