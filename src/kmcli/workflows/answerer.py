"""Documents and what answers questions about them, opened once and asked any number of times: for ask and for chat."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kmcli.bases import Base
from kmcli.chunking import join_pages
from kmcli.engines import Chat, Sampling
from kmcli.errors import KmError, UsageError
from kmcli.evaluation.methods import build_chat, fit
from kmcli.library.extractors import Extractor
from kmcli.retrieval import Index
from kmcli.routing import support
from kmcli.routing.confidence import Calibration
from kmcli.routing.gate import NAMED
from kmcli.types import Answer, Document, KnowledgeModule, Method, Passage
from kmcli.workflows import extracting
from kmcli.workflows.answering import Answering, Member, Weighed, open_answering, open_weighed
from kmcli.workflows.auto import Auto, Choice, calibration_of, open_auto
from kmcli.workflows.house import House, untrained
from kmcli.workflows.passages import shares

SAMPLING = Sampling(max_tokens=128)
ASKABLE: tuple[Method, ...] = ("auto", "km", "rag", "full", "bare")
PRONOUNS = frozenset(("it", "its", "he", "him", "his", "she", "her", "hers", "they", "them", "their", "theirs"))
"""What stands for something that was named before."""

History = Sequence[tuple[str, str]]
"""Earlier questions and their answers, oldest first."""


@dataclass(slots=True)
class Answerer:
    """notes: what to know about all of its answers, such as that they are found by retrieval for want of a module.
    passages: that `rag` reads. weights: of several modules that are added up, one each. weighed: where each question weighs
    them anew, by what part each document has in it."""

    house: House
    documents: tuple[Document, ...]
    base: Base
    answering: Answering
    method: Method
    notes: tuple[str, ...]
    passages: int
    weights: tuple[float, ...] = ()
    weighed: Weighed | None = None
    auto: Auto | None = None
    """What chooses who answers, where that is the method."""
    choice: Choice | None = None
    """How it answered the last question."""
    _weighed_by: str = ""
    """The question."""
    _index: Index | None = None

    def answer(
        self, question: str, on_text: Callable[[str], None], history: History = ()
    ) -> tuple[Answer, tuple[str, ...]]:
        """An answer, handed over as it is written, and what to know about it.

        Its evidence is what the model read; where it read no passages, and says something, the passage that supports it
        best, looked up afterwards. history: as many of the latest turns are read as the base's context has room for. What
        on_text raises stops the answer and nothing else. Raises KmError where the question or the text does not fit.
        """
        if self.auto:
            return self._choose(self.auto, question, on_text, history), ()
        if self.weighed:
            self._weigh(question, self.weighed)
        engine, notes = self.answering.engine, []
        found: list[Passage] = []
        if self.method == "rag":
            asked = f"{history[-1][0]} {question}" if history else question  # "it" means what was asked about before
            found = self._search(asked, self.passages)
            if not found:
                what = "the document" if len(self.documents) == 1 else "the documents"
                notes.append(f"no passage of {what} has a word of the question in common with it")
        texts = [self.house.library.text(document) for document in self.documents] if self.method == "full" else []
        text = "\n\n".join(map(join_pages, texts))
        fitted = fit(self.method, engine, question, self.base.prompts, SAMPLING, text=text, passages=found)
        if fitted is None:
            raise too_long(self.documents, self.base, self.method)
        chat, evidence = fitted
        chat = self._after(history, question, chat, text)
        began = time.perf_counter()
        made = engine.stream(chat, SAMPLING, on_text)
        seconds = time.perf_counter() - began
        if not made.text:
            notes.append(f"{self.base.name} wrote nothing in answer")
        if self.method in ("km", "full") and not self.base.prompts.refuses(made.text):
            evidence = tuple(self._search(f"{question} {made.text}", 1))
        return Answer(made.text, self.method, made.prompt_tokens, made.tokens, seconds, evidence), tuple(notes)

    def _choose(self, auto: Auto, question: str, on_text: Callable[[str], None], history: History) -> Answer:
        """Nothing can be handed over before it is known who answers."""
        if fit("km", auto.pair.km, question, self.base.prompts, SAMPLING) is None:
            raise too_long(self.documents, self.base, "km")
        began = time.perf_counter()
        about = history[-1][0] if history else ""
        (choice,) = auto.ask([question], about, lambda asked, chat: self._after(history, asked, chat, ""))
        seconds = time.perf_counter() - began
        on_text(choice.text)
        self.choice = choice
        return choice.answer(seconds)

    def _weigh(self, question: str, weighed: Weighed) -> None:
        """The last question's weights stay where this one goes on about the same: no document has a word of it, or it says
        "it"."""
        goes_on = self._weighed_by and not PRONOUNS.isdisjoint(re.findall(r"\w+", question.lower()))
        if goes_on or not (found := shares(self.house, question, self.documents)):
            return
        self._weighed_by = question
        if (weights := tuple(found)) != self.weights:
            self.answering, self.weights = weighed(weights), weights

    def _after(self, history: History, question: str, chat: Chat, text: str) -> Chat:
        """The chat with as many of the latest turns in front of it as fit. text: of `full`; it comes before all of them,
        where it stays, so that an engine that remembers reads it once."""
        engine, prompts = self.answering.engine, self.base.prompts

        def whole(start: int) -> Chat:
            told = history[start:]
            if not told:
                return chat
            turns = [turn for asked, answer in told for turn in (self._alone(asked), ("assistant", answer))]
            if not text:
                return [*turns, *chat]
            first = build_chat("full", told[0][0], prompts, text=text)
            return [*first, *turns[1:], self._alone(question)]

        room = engine.context - SAMPLING.max_tokens
        return whole(bisect_left(range(len(history)), True, key=lambda start: engine.count(whole(start)) <= room))

    def _alone(self, question: str) -> tuple[str, str]:
        """A question as the method puts it, without what it is to be answered from."""
        return build_chat("full" if self.method == "full" else "bare", question, self.base.prompts)[0]

    def _search(self, query: str, k: int) -> list[Passage]:
        """The best passages of all the documents."""
        if self._index is None:
            self._index = index_of(self.house, self.documents, self.base, self.answering)
        return self._index.search(query, k)


def index_of(house: House, documents: Sequence[Document], base: Base, answering: Answering) -> Index:
    """The passages of several documents, to be searched together."""
    first, *more = [(one.name, house.passages(one, base, answering.count)) for one in documents]
    return Index(*first, more)


def too_long(documents: Sequence[Document], base: Base, method: Method) -> KmError:
    limit = f"in the {base.context:,} tokens that {base.name} reads at once"
    if method == "full":
        names = " and ".join(document.name for document in documents)
        return KmError(
            f"{names} {'does' if len(documents) == 1 else 'do'} not fit {limit}.",
            "Ask by --method rag, or by its Knowledge Module: --method km",
        )
    return KmError(f"the question does not fit {limit}.", "Ask a shorter one.")


def confidence_in(base: Base, question: str, answer: Answer) -> float | None:
    """How likely an answer's evidence bears it out; None for an empty answer, and for one that says it is not known."""
    if not answer.text or answer.method == "auto" or base.prompts.refuses(answer.text):
        return None
    return support.confidence(question, answer.text, answer.evidence)


def open_answerer(
    house: House, documents: Sequence[Document], method: str | None, weights: Sequence[float] = ()
) -> Answerer:
    """Open what answers from these documents. method None, and `auto`: of one document whose Knowledge Module was examined
    each question decides who answers; else their modules, or retrieval where one has none yet.

    Where an extractor was asked for, its way of answering is the method.

    weights: what the modules' changes of the base are multiplied by before they are added up, one each; none: of several
    modules, NAMED at most, each question decides.

    Raises UsageError for what is no method and for modules of different bases, NotFoundError where the method is `km` and a
    document has no module, and what open_answering raises.
    """
    modules = {document: house.library.module(document) for document in documents}
    missing = [document for document, module in modules.items() if module is None]
    chosen: Method = check_method(method) or ("km" if weights or not missing else "rag")
    if method in (None, "auto") and not weights and not house.extractor and len(modules) == 1:
        ((document, module),) = modules.items()
        if module and (calibration := calibration_of(house, module)):
            return _choosing(house, document, module, calibration)
    if chosen == "auto":
        chosen, method = "km" if not missing else "rag", None
    _check_weights(weights, documents, chosen)
    if extractor := extracting.chosen(house):
        return _extracted(house, modules, method, extractor)
    if chosen != "km":
        base = house.base()
        house.announce(base)
        notes = (untrained_note(missing),) if method is None and missing else ()
        return Answerer(house, tuple(documents), base, open_answering(house, base), chosen, notes, base.passages)
    if missing:
        raise untrained(missing[0])
    found = [(document, module) for document, module in modules.items() if module]
    known = tuple(weights) or (1.0 / len(found),) * len(found)
    if not weights and len(found) > NAMED:
        raise UsageError(
            f"{len(found)} Knowledge Modules are too many to answer as one.",
            f"Name {NAMED} documents at most, or ask by --method rag.",
        )
    members = [Member(*one, weight) for one, weight in zip(found, known, strict=True)]
    base = house.common_base(found, "cannot be added up", "Ask them one by one, or by --method rag.")
    if weights or len(members) == 1:
        answering = open_answering(house, base, members)
        return Answerer(house, tuple(documents), base, answering, "km", (), base.passages, tuple(weights))
    weighed = open_weighed(house, base, members)
    return Answerer(house, tuple(documents), base, weighed(known), "km", (), base.passages, known, weighed)


def _choosing(house: House, document: Document, module: KnowledgeModule, calibration: Calibration) -> Answerer:
    base = house.base_of(document, module)
    auto = open_auto(house, document, module, calibration, base)
    answering = Answering(auto.pair.km, auto.pair.count)
    return Answerer(house, (document,), base, answering, "auto", (), base.passages, auto=auto)


def _extracted(
    house: House, modules: Mapping[Document, KnowledgeModule | None], method: str | None, extractor: Extractor
) -> Answerer:
    """What answers from one document with an extractor, as that was trained to be used."""
    if len(modules) != 1:
        raise UsageError("--extractor is for one document at a time.", "Name one, or leave --extractor out.")
    ((document, module),) = modules.items()
    reads = extractor.recipe.passages
    wanted: Method = "rag" if reads else "km"
    if method not in (None, wanted):
        raise UsageError(
            f"the extractor {extractor.name} was trained {f'with {reads} passages' if reads else 'without passages'}.",
            f"Leave --method out, or ask with --method {wanted}.",
        )
    if not extractor.recipe.modules:
        used, base = extracting.alone(house, extractor), extracting.base_of(house, extractor)
    elif module is None:
        raise untrained(document)
    else:
        used, base = extracting.baked(house, document, module, extractor), house.base_of(document, module)
    answering = open_answering(house, base, [Member(document, used)])
    return Answerer(house, (document,), base, answering, wanted, (), reads)


def _check_weights(weights: Sequence[float], documents: Sequence[Document], method: Method) -> None:
    if weights and method != "km":
        raise UsageError("--weight is for Knowledge Modules.", f"Leave it out: --method {method} uses none.")
    if weights and len(weights) != len(documents):
        raise UsageError(
            f"--weight takes a number for each document, {len(documents)} here, and got {len(weights)}.",
            "For example: --weight " + ",".join(["1"] * len(documents)),
        )


def untrained_note(missing: Sequence[Document]) -> str:
    names = " ".join(document.name for document in missing) if len(missing) <= NAMED else "--all"
    if len(missing) == 1:
        return f"no Knowledge Module yet: answered by retrieval. km train {names} makes one."
    return f"no Knowledge Modules yet: answered by retrieval. km train {names} makes them."


def check_method(wanted: str | None) -> Method | None:
    """The method of this name. Raises UsageError where there is none."""
    if wanted is None:
        return None
    for known in ASKABLE:
        if wanted == known:
            return known
    raise UsageError(f"there is no method {wanted!r}.", "Choose one of " + ", ".join(ASKABLE) + ".")
