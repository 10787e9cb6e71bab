"""A question to the whole library: the document that knows answers, or none does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from kmcli.bases import Base
from kmcli.errors import NotFoundError, ResourceError, UsageError
from kmcli.evaluation.methods import build_chat, fit
from kmcli.routing.confidence import Calibration
from kmcli.routing.gate import CANDIDATES, NAMED, Candidate
from kmcli.routing.index import SEARCHED, Found
from kmcli.types import Answer, Document, KnowledgeModule, Method, Passage
from kmcli.workflows import extracting
from kmcli.workflows.answer import Asked
from kmcli.workflows.answer import ask as ask_those
from kmcli.workflows.answerer import SAMPLING, confidence_in, index_of, too_long, untrained_note
from kmcli.workflows.answering import Member, Weighed, open_weighed
from kmcli.workflows.auto import Auto, calibration_of, reader_of
from kmcli.workflows.house import House, untrained
from kmcli.workflows.naming import find_all
from kmcli.workflows.pair import Pair, Weighted
from kmcli.workflows.passages import search

NONE = "no document in the library answers this"
UNSUPPORTED = "answered by retrieval: no passage supports what the Knowledge Module of {name} said"
ROUTED = ("km", "rag")
"""Methods that look for the document themselves."""


@dataclass(frozen=True, slots=True)
class Routed:
    """asked: None where no document answers. candidates: those that were tried, as retrieval orders them. sum: what modules
    said that were added up, whether or not that is an answer."""

    asked: Asked | None
    candidates: tuple[Candidate, ...]
    sum: Asked | None = None


def ask(
    house: House, question: str, method: str | None, on_text: Callable[[str], None], names: Sequence[str] = ()
) -> Routed:
    """Find the document that answers a question, and its answer: in the library, or among those that are named.

    method: `km` tries documents with a Knowledge Module alone, `rag` asks all by retrieval; None and `auto`: by its module,
    as `workflows.auto` does where it was examined, and by retrieval where it has none or its answer has no support.
    Where no answer has support, none is given; but of documents that are named, the best. Raises UsageError for another
    method, NotFoundError where there is nothing to ask.
    """
    if not question.strip():
        raise UsageError("the question is empty.", 'For example: km ask "Who wrote it?"')
    if method not in (None, "auto", *ROUTED):
        raise UsageError(f"--method {method} needs a document's name.", f'For example: km ask NAME "{question}"')
    if extracting.chosen_for_modules(house) and method == "rag":
        raise UsageError("--extractor is for Knowledge Modules here.", "Leave --method out, or --extractor.")
    if method == "auto":
        method = None
    library = house.library
    named = find_all(library, names)
    if not library.catalogue.count():
        raise NotFoundError("the library is empty.", "Add a document with: km add FILE")
    if method == "km":
        lacking = [document for document in named if library.module(document) is None]
        if lacking:
            raise untrained(lacking[0])
        if library.last_trained() is None:
            raise NotFoundError("no document has a Knowledge Module yet.", "Make them: km train --all")
    k = SEARCHED if named or method == "km" else CANDIDATES
    found = [
        (document, one)
        for document, one in _found(house, question, named, k)
        if method != "km" or library.module(document)
    ]
    if named:  # also those that have no word of the question
        silent = [document for document in named if document not in [one for one, _ in found]]
        found += [(one, Found(one.id, 0.0, 0.0, Passage(one.name, "", 0.0))) for one in silent]
    tried: list[tuple[Candidate, Asked]] = []
    for candidate, asked in _tried(house, question, found[: NAMED if named else CANDIDATES], method):
        tried.append((candidate, asked))
        if candidate.answers:
            break
    candidates = tuple(candidate for candidate, _ in tried)
    if named or (tried and candidates[-1].answers):
        best = max(tried, key=lambda one: (one[0].answers, one[0].score + one[0].covered))[1]
        on_text(best.answer.text)
        return Routed(best, candidates)
    return Routed(None, candidates)


def ask_together(house: House, question: str, on_text: Callable[[str], None], names: Sequence[str] = ()) -> Routed:
    """The modules of several documents answer as one, each weighed by what part its document has in the question.

    Without names they are the likeliest of the library that have modules on one base, and an answer without support is none.
    Raises UsageError for an empty question, NotFoundError where there is nothing to ask, and what answer.ask raises.
    """
    if not question.strip():
        raise UsageError("the question is empty.", 'For example: km ask "Who wrote it?"')
    named = find_all(house.library, names)
    if named and len(named) <= NAMED:
        asked = ask_those(house, names, question, "km", on_text)
        return Routed(asked, (), asked)
    trained = any(map(house.library.module, named)) if named else house.library.last_trained()
    if not trained:
        raise NotFoundError("no document has a Knowledge Module yet.", "Make them: km train --all")
    chosen: list[tuple[Document, KnowledgeModule]] = []
    for document, _ in _found(house, question, named):
        module = house.library.module(document)
        if module and not house.outdated(document, module) and _same_base(module, *(one for _, one in chosen[:1])):
            chosen.append((document, module))
    if not chosen:
        return Routed(None, ())
    likeliest = [document.name for document, _ in chosen[: NAMED if named else CANDIDATES]]
    asked = ask_those(house, likeliest, question, "km", lambda text: None)
    if not (named or asked.supported):
        return Routed(None, (), asked)
    on_text(asked.answer.text)
    return Routed(asked, (), asked)


def _found(house: House, question: str, named: Sequence[Document], k: int = SEARCHED) -> list[tuple[Document, Found]]:
    """The k likeliest documents of the library; and of these those that are named, where any are."""
    among = {document.id for document in named}
    found = [(house.library.catalogue.of_id(one.document), one) for one in search(house, question, k)]
    return [(document, one) for document, one in found if document and (not named or document.id in among)]


def _same_base(*modules: KnowledgeModule) -> bool:
    """What one changes is not in another base."""
    return len({(module.recipe.model, module.recipe.revision) for module in modules}) == 1


def _tried(
    house: House, question: str, found: Sequence[tuple[Document, Found]], method: str | None
) -> Iterator[tuple[Candidate, Asked]]:
    """Each candidate and what it answers, the likeliest first; nothing is computed for one that is not asked for."""
    sources = [_source(house, document, method) for document, _ in found]
    opened: dict[str, tuple[Weighed, list[Document]]] = {}
    for (document, one), (base, module) in zip(found, sources, strict=True):
        if base.revision not in opened:
            if not any(other for _, other in sources):
                house.announce(base)
            members = [
                Member(member, other)
                for (member, _), (its_base, other) in zip(found, sources, strict=True)
                if other and its_base.revision == base.revision
            ]
            opened[base.revision] = open_weighed(house, base, members), [member.document for member in members]
        weighed, on = opened[base.revision]
        attempt = _Attempt(house, question, document, base, weighed, tuple(float(member is document) for member in on))
        calibration = calibration_of(house, module) if method is None and module else None
        if module and calibration:
            asked = attempt.by_whoever_knows(module, calibration)
        else:
            asked = attempt.by("km" if module else "rag")
            if method is None and module is None:
                asked = dataclasses.replace(asked, notes=(untrained_note([document]),))
            elif method is None and not asked.supported:
                read = attempt.without_module().by("rag")
                if read.supported:
                    asked = dataclasses.replace(read, notes=(UNSUPPORTED.format(name=document.name),))
        yield attempt.candidate(one, asked), asked


def _source(house: House, document: Document, method: str | None) -> tuple[Base, KnowledgeModule | None]:
    """The base that answers from a document, and the module that does; None: by retrieval."""
    module = extracting.module_of(house, document) if method != "rag" else None
    if module:
        try:
            return house.base_of(document, module), module
        except ResourceError as error:
            if method == "km":
                raise
            house.warn(str(error))
    return house.base(), None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One document's go at a question. weights: of the modules that `weighed` holds, its own alone is on."""

    house: House
    question: str
    document: Document
    base: Base
    weighed: Weighed
    weights: Sequence[float]

    def without_module(self) -> _Attempt:
        return dataclasses.replace(self, weights=[0.0] * len(self.weights))

    def by_whoever_knows(self, module: KnowledgeModule, calibration: Calibration) -> Asked:
        """By whoever is likely right: the module, the base with a passage, or nobody."""
        base, question, weighed = self.base, self.question, self.weighed
        km, plain = Weighted(weighed, self.weights), Weighted(weighed, self.without_module().weights)
        count = weighed(self.weights).count
        if fit("km", km, question, base.prompts, SAMPLING) is None:
            raise too_long((self.document,), base, "km")
        began = time.perf_counter()
        reader = reader_of(self.house, self.document, module, base, count)
        (choice,) = Auto(Pair(km, plain, count), reader, calibration).ask([question])
        answer = choice.answer(time.perf_counter() - began)
        return Asked(answer, (self.document,), km.name, confidence_in(base, question, answer), (), choice=choice)

    def by(self, method: Method) -> Asked:
        """By the module or by retrieval, and whether the document's passages bear it out."""
        base, question = self.base, self.question
        answering = self.weighed(self.weights)
        with index_of(self.house, (self.document,), base, answering) as index:
            shown = index.search(question, base.passages) if method == "rag" else []
            fitted = fit(method, answering.engine, question, base.prompts, SAMPLING, passages=shown)
            if fitted is None:
                raise too_long((self.document,), base, method)
            chat, evidence = fitted
            began = time.perf_counter()
            (made,) = answering.engine.generate([chat], SAMPLING)
            seconds = time.perf_counter() - began
            if method == "km" and not base.prompts.refuses(made.text):
                evidence = tuple(index.search(f"{question} {made.text}", 1))
        answer = Answer(made.text, method, made.prompt_tokens, made.tokens, seconds, evidence)
        return Asked(answer, (self.document,), answering.engine.name, confidence_in(base, question, answer), ())

    def candidate(self, found: Found, asked: Asked) -> Candidate:
        """What it came to, weighed against what the base says by itself."""
        answer, name, prompts = asked.answer, self.document.name, self.base.prompts
        if asked.choice and not asked.choice.answered:
            return Candidate(name, "auto", found.score, found.covered, answer.text, 0.0, 0.0, True)
        alone = self.without_module().weights
        chat = build_chat("bare", self.question, prompts)
        if answer.method == "km":  # first, because the module may still be on
            after = self.weighed(self.weights).engine.score(chat, answer.text)
        else:
            shown = build_chat("rag", self.question, prompts, passages=answer.evidence)
            after = self.weighed(alone).engine.score(shown, answer.text)
        before = self.weighed(alone).engine.score(chat, answer.text)
        belief = fmean(after) - fmean(before) if before else 0.0
        score = asked.choice.confidence if asked.choice else asked.confidence or 0.0
        refused = asked.confidence is None
        return Candidate(name, answer.method, found.score, found.covered, answer.text, belief, score, refused)
