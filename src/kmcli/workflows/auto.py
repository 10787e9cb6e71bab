"""Answers by whoever is likely right: a Knowledge Module alone, the base with a passage beside it, or nobody.

The module answers first, closed book. Where it is likely wrong, the base reads the likeliest passage without the module, and
the two answers are weighed against each other (`routing.confidence`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kmcli.bases import Base
from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Generation, Sampling
from kmcli.errors import UsageError
from kmcli.evaluation.methods import build_chat, fit
from kmcli.library.exams import Exam
from kmcli.metrics import exact_match
from kmcli.retrieval import Index
from kmcli.routing import confidence
from kmcli.routing.confidence import Calibration, Closed, Opened, Verdict
from kmcli.routing.support import Mentions
from kmcli.types import Answer, Chunk, Document, KnowledgeModule, Method, Passage
from kmcli.workflows.answering import Member
from kmcli.workflows.house import House
from kmcli.workflows.pair import Pair, open_pair

SAMPLING = Sampling(max_tokens=128, logprobs=1)
NOT_SAID = "The document does not say."
NOT_KNOWN = "Not known."

Around = Callable[[str, Chat], Chat]
"""What the model reads, of a question and what it would read without a conversation before it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a question was answered, and why.

    by: the module alone, or after a reading ("rag": the base with a passage), or nobody. confidence: that the answer is
    right; where none is given, that the document does not say, or that the best answer would have been right. answerable:
    that the document says. read: whether a passage was read. known, asked: facts of the answer's passage, by the exam;
    0 of 0 where that asked for none. because: the reason, as a sentence.
    """

    by: Literal["km", "rag", ""]
    text: str
    confidence: float
    answerable: float
    read: bool
    known: int
    asked: int
    because: str
    prompt_tokens: int
    output_tokens: int
    evidence: tuple[Passage, ...] = ()

    @property
    def answered(self) -> bool:
        return bool(self.by)

    @property
    def doubtful(self) -> bool:
        return self.answered and self.confidence < confidence.DOUBTFUL

    def answer(self, seconds: float) -> Answer:
        """seconds: that it took. Its method is `auto` where nobody answers."""
        by: Method = self.by or "auto"
        return Answer(self.text, by, self.prompt_tokens, self.output_tokens, seconds, self.evidence)


def calibration_of(house: House, module: KnowledgeModule) -> Calibration | None:
    """What its exam was made into; None where there was none, or another km made it."""
    try:
        return Calibration.from_json(house.library.beside.of(module, "confidence"))
    except (TypeError, KeyError, ValueError):
        return None


class Known:
    """What the exam found of which passage, by places in the document's text."""

    def __init__(self, exam: Exam | None) -> None:
        self._passages = sorted(exam.passages, key=lambda one: one.start) if exam else []
        self._starts = [one.start for one in self._passages]
        self._share = exam.head.share if exam else None

    def at(self, start: int) -> tuple[int, int]:
        """Facts known and asked for, of the passage that holds this place."""
        place = bisect_right(self._starts, start) - 1
        if place < 0:
            return 0, 0
        passage = self._passages[place]
        return passage.known, len(passage.facts)

    def share(self, known: int, asked: int) -> float | None:
        return None if self._share is None else confidence.shrunk(known, asked, self._share)


class Reader:
    """Looks at questions about one document. Nothing that it gives depends on the calibration."""

    def __init__(self, document: Document, text: str, passages: Sequence[Chunk], exam: Exam | None, base: Base) -> None:
        self.index = Index(document.name, passages)
        self.known = Known(exam)
        self._middle = {one.text: one.start + len(one.text) // 2 for one in passages}
        self._mentions = Mentions.of(text)
        self.prompts: Prompts = base.prompts

    def facts(self, evidence: Sequence[Passage]) -> tuple[int, int]:
        """Of the first passage, those that the exam found known and those that it asked for."""
        return self.known.at(self._middle[evidence[0].text]) if evidence else (0, 0)

    def closed(
        self, question: str, made: Generation | tuple[str, float], facts: tuple[int, int] | None = None
    ) -> tuple[Closed, tuple[Passage, ...]]:
        """And the passage that bears the answer out best. facts: to take in place of the passage's."""
        said = made[0] if isinstance(made, tuple) else made.text
        refused = not said or self.prompts.refuses(said)
        evidence = tuple(self.index.search(question if refused else f"{question} {said}", 1))
        share = self.known.share(*(self.facts(evidence) if facts is None else facts))
        return confidence.closed(question, made, evidence, self._mentions, refused, share), evidence

    def opened(self, question: str, made: Generation, shown: Sequence[Passage]) -> Opened:
        refused = not made.text or self.prompts.refuses(made.text)
        return confidence.opened(question, made, shown, refused)

    def to_read(self, engine: Engine, question: str, about: str = "") -> tuple[Chat, tuple[Passage, ...]] | None:
        """The likeliest passage under the question; None where none fits. about: what was asked before."""
        found = self.index.search(f"{about} {question}", 1)
        fitted = fit("rag", engine, question, self.prompts, SAMPLING, passages=found)
        return fitted if fitted and fitted[1] else None


class Auto:
    """Answers questions about one document."""

    def __init__(self, pair: Pair, reader: Reader, calibration: Calibration) -> None:
        self.pair, self.reader, self.calibration = pair, reader, calibration

    def ask(
        self, questions: Sequence[str], about: str = "", around: Around = lambda question, chat: chat
    ) -> list[Choice]:
        """Each question's answer; what can be asked together is. Those that do not fit in the base's context by themselves
        are for the caller to refuse."""
        reader, by = self.reader, self.calibration
        chats = [around(one, build_chat("km", one, reader.prompts)) for one in questions]
        made = self.pair.km.generate(chats, SAMPLING) if chats else []
        looked = [reader.closed(question, one) for question, one in zip(questions, made, strict=True)]
        verdicts = [by.before(closed) for closed, _ in looked]
        places: list[int] = []
        to_read: list[tuple[Chat, tuple[Passage, ...]]] = []
        for place, question in enumerate(questions):
            found = reader.to_read(self.pair.plain, question, about) if verdicts[place] is None else None
            if found:
                places.append(place)
                to_read.append((around(question, found[0]), found[1]))
        read = self.pair.plain.generate([chat for chat, _ in to_read], SAMPLING) if places else []
        opened = {
            place: (one, shown, reader.opened(questions[place], one, shown))
            for place, (_, shown), one in zip(places, to_read, read, strict=True)
        }
        choices = []
        for place, (first, (closed, evidence)) in enumerate(zip(made, looked, strict=True)):
            verdict, second = verdicts[place], opened.get(place)
            if verdict is None:
                verdict = by.after(closed, second[2] if second else confidence.NOTHING)
            choices.append(self._choice(verdict, closed, first, evidence, second))
        return choices

    def _choice(
        self,
        verdict: Verdict,
        closed: Closed,
        first: Generation,
        evidence: tuple[Passage, ...],
        second: tuple[Generation, tuple[Passage, ...], Opened] | None,
    ) -> Choice:
        text = first.text if verdict.by == "km" else NOT_SAID if verdict.silent else NOT_KNOWN
        if second and verdict.by != "km":
            evidence = second[1]
            text = second[0].text if verdict.by == "rag" else text
        known, asked = self.reader.facts(evidence)
        return Choice(
            verdict.by,
            text,
            verdict.confidence,
            verdict.says,
            second is not None,
            known,
            asked,
            _because(verdict, closed, second[2] if second else None),
            first.prompt_tokens + (second[0].prompt_tokens if second else 0),
            first.tokens + (second[0].tokens if second else 0),
            evidence if verdict.by else (),
        )


def _because(verdict: Verdict, closed: Closed, opened: Opened | None) -> str:
    if opened is None:
        if verdict.by:
            return "the Knowledge Module is sure enough"
        return "the question is not about what is in the document"
    if not verdict.by:
        if verdict.silent and opened.refused:
            return "the likeliest passage does not say it"
        return "the document does not bear out what was found" if verdict.silent else "no answer is likely enough"
    if exact_match(closed.said, [opened.said]):
        return "the Knowledge Module was not sure enough, and the likeliest passage says the same"
    if verdict.by == "rag":
        return "the Knowledge Module was not sure enough: the likeliest passage was read"
    if opened.refused:
        return "the Knowledge Module answers what the likeliest passage does not say"
    return "the Knowledge Module is likelier right than the base with the likeliest passage"


def open_auto(house: House, document: Document, module: KnowledgeModule, calibration: Calibration, base: Base) -> Auto:
    """Raises what `answering.open_answering` raises."""
    pair = open_pair(house, base, Member(document, module))
    return Auto(pair, reader_of(house, document, module, base, pair.count), calibration)


def reader_of(
    house: House, document: Document, module: KnowledgeModule, base: Base, count: Callable[[str], int]
) -> Reader:
    text = house.library.text(document)
    return Reader(document, text, house.passages(document, base, count), house.library.exams.of(module), base)


class AutoEngine:
    """`auto` as an engine, for who compares methods: it takes the bare question, and says in the base's own words where
    there is no answer."""

    name = "auto"

    def __init__(self, auto: Auto) -> None:
        self._auto = auto
        km = auto.pair.km
        self.model, self.revision, self.context = km.model, km.revision, km.context

    def count(self, chat: Chat) -> int:
        return self._auto.pair.km.count(chat)

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        prompts = self._auto.reader.prompts
        choices = self._auto.ask([prompts.question_of(chat[-1][1]) for chat in chats])
        if progress:
            progress(len(choices))
        return [
            Generation(one.text if one.answered else prompts.not_stated, one.prompt_tokens, one.output_tokens, True)
            for one in choices
        ]

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        (made,) = self.generate([chat], sampling)
        on_text(made.text)
        return made


def unexamined(document: Document) -> UsageError:
    return UsageError(
        f"the Knowledge Module of {document.name} was not examined, so there is nothing to choose by.",
        f"Train it again, with an exam: km train {document.name} --force",
    )
