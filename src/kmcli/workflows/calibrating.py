"""After the exam: how far a Knowledge Module's answers can be trusted, and where its document contradicts itself.

The exam's own questions are those with an answer. Those without are taken from other documents of the library, and from
`STRANGE`; one whose names all stand in this document, or most of its words, is not taken: it may have an answer here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from kmcli import adapters
from kmcli.bases import Loaded
from kmcli.bases.prompts import Prompts
from kmcli.evaluation.exam import agrees, references
from kmcli.evaluation.methods import build_chat
from kmcli.library.exams import Exam, Graded
from kmcli.routing import confidence
from kmcli.routing.confidence import Calibration, Example
from kmcli.routing.support import Mentions
from kmcli.synthesis import TASKS
from kmcli.types import Document, Event, KnowledgeModule, Sample, text_hash
from kmcli.workflows import exam as exams
from kmcli.workflows import held_out
from kmcli.workflows.auto import SAMPLING, Reader, reader_of
from kmcli.workflows.batch import Loader
from kmcli.workflows.conflicts import Ask, conflicts
from kmcli.workflows.house import House, counter, untrained
from kmcli.workflows.writer import open_writer

LEAST, MOST = 24, 120
"""Questions without an answer, in number."""
DOCUMENTS = 40
"""Others of the library that are asked for some."""
COMMON = 0.5
"""Of the words of a question without names, so many may stand in the document."""

STRANGE = (
    "Who wrote the opera Marisella?",
    "When was the Dornfeld Observatory opened?",
    "How many pages does The Winter Ferry have?",
    "What does the grey tufted vole eat?",
    "Who is the captain of the Ostrava Queen?",
    "Where does Beatrix Halloway live?",
    "How much does a ticket for the Nimbus Fair cost?",
    "Which river flows through Kessenburg?",
    "Who founded Arlington Optics?",
    "When does the contract with Peregrine Freight end?",
    "How many people work at Tolland Mills?",
    "What is the goal of Project Halberd?",
    "Which medal did Ingrid Solvang win?",
    "How long is the Varga tunnel?",
    "Who designed the Corvid 7?",
    "What colour are the flowers of the marsh quillwort?",
    "When was Emmett Larkspur born?",
    "Where is the head office of Quorum Textiles?",
    "How high is Mount Pellander?",
    "Who leads the Institute for Salt Research?",
    "What is the penalty for late payment to Hollis & Crane?",
    "Which language is spoken in Upper Tamarin?",
    "How often is the Zephyr pump serviced?",
    "Who composed the Lantern Suite?",
    "What did Oswin Tredgold study?",
    "When did the siege of Marrowgate begin?",
    "How deep is Lake Ellimar?",
    "What is the dose of Fenoxal for children?",
    "Who refereed the Harrow Cup final?",
    "Where was the painting Blue Orchard stolen?",
    "What is the warranty of the Baxley 300?",
    "How many islands belong to the Sorrel group?",
)


def calibrate(house: House, document: Document, module: KnowledgeModule, loaded: Loaded) -> Calibration | None:
    """Fit how likely the module's answers are right, on its exam, and keep it; None without an exam. loaded: its base."""
    found = house.library.exams.of(module)
    if found is None:
        return None
    house.report(Event("exam", f"calibrating the answers of {document.name}"))
    reader = reader_of(house, document, module, loaded.base, counter(loaded))
    calibration = confidence.fit(_examples(house, document, module, loaded, reader, found))
    house.library.beside.keep(module, "confidence", calibration.as_json())
    chunks = house.study_chunks(document, loaded, module.recipe)
    samples = [*_own(house, document, module), *house.library.samples(document)]
    found_twice = conflicts(samples, chunks, loaded.base.prompts, _asking(loaded))
    house.library.beside.keep(module, "conflicts", [asdict(one) for one in found_twice])
    return calibration


def missing(house: House, module: KnowledgeModule) -> bool:
    """Whether a module was examined, and something stopped km before this was done."""
    kept = [house.library.beside.of(module, file) for file in ("confidence", "conflicts")]
    return None in kept and house.library.exams.head(module) is not None


def _asking(loaded: Loaded) -> Ask:
    """The base with a text in front of it."""
    from kmcli.engines.hf import HfEngine

    under = loaded.base.prompts.under_text

    def ask(asked: Sequence[tuple[str, str]]) -> list[str]:
        chats = [[("user", under.format(text=text, question=question))] for question, text in asked]
        return references(HfEngine(loaded), chats, loaded.base.prompts)

    return ask


def hold(house: House, document: Document, loader: Loader, seconds: float = 60.0) -> Calibration | None:
    """Examine a Knowledge Module that was trained without an exam, and calibrate it. seconds: for writing questions, and
    for asking them, at most. Raises NotFoundError without a module, and what writing raises."""
    with house.library.lock(document, "train"):
        module = house.library.module(document)
        if module is None:
            raise untrained(document)
        base = house.base_of(document, module)
        with open_writer(house, loader, base, module.recipe) as writer:
            exams.write_questions(house, document, writer, module.recipe, seconds)
        loaded = loader.load(base, module.recipe.base_bits)
        exams.examine(house, document, module, loaded, 0.0, seconds)
        return calibrate(house, document, module, loaded)


def _examples(
    house: House, document: Document, module: KnowledgeModule, loaded: Loaded, reader: Reader, exam: Exam
) -> list[Example]:
    """What the module and the base say to the exam's questions, and to such as have no answer here."""
    from kmcli.engines.hf import HfEngine

    known = [(passage, one) for passage in exam.passages for one in passage.questions]
    strange = strangers(house, document, min(MOST, max(LEAST, len(known))), reader.prompts)
    if not known:
        return []
    model = adapters.load(loaded, module.path)
    try:
        km, plain = HfEngine(loaded, model), HfEngine(loaded, model, adapter=False)
        said = km.generate([build_chat("km", one, reader.prompts) for one in strange], SAMPLING)
        asked = [*(one.question for _, one in known), *strange]
        to_read = [reader.to_read(plain, question) for question in asked]
        read = iter(plain.generate([found[0] for found in to_read if found], SAMPLING))
        opened = [
            reader.opened(question, next(read), found[1]) if found else confidence.NOTHING
            for question, found in zip(asked, to_read, strict=True)
        ]
    finally:
        model.unload().eval()
    examples: list[Example] = []
    for (passage, one), seen in zip(known, opened, strict=False):
        # the fact itself does not count: of a question that is new nobody knows how the exam would go
        others = [fact for fact in passage.facts if one not in fact.questions]
        facts = sum(fact.known for fact in others), len(others)
        closed, _ = reader.closed(one.question, (one.answer, _mean(one)), facts)
        right = agrees(seen.said, one.reference)
        examples.append(Example(passage.chunk_sha256 + one.reference, closed, seen, one.known, right, True))
    for question, made, seen in zip(strange, said, opened[len(known) :], strict=True):
        examples.append(Example(question, reader.closed(question, made)[0], seen, False, False, False))
    return examples


def _mean(one: Graded) -> float:
    """The mean log-probability of the answer's tokens."""
    if not one.tokens:
        return confidence.LEAST
    return math.log(max(1e-30, one.probability)) / one.tokens


def strangers(house: House, document: Document, number: int, prompts: Prompts) -> list[str]:
    """Questions that this document does not answer, drawn by lot, those of other documents before the general ones."""
    mentions = Mentions.of(house.library.text(document))
    others = sorted(
        (one for one in house.library.documents() if one.id != document.id),
        key=lambda one: text_hash(document.id + one.id),
    )
    found: dict[str, None] = {}
    for other in others[:DOCUMENTS]:
        for question in _asked_of(house, other, prompts):
            if not _may_answer(mentions, question):
                found[question] = None
    drawn = sorted(found, key=lambda question: text_hash(document.id + question))[: number - len(STRANGE) // 2]
    return [*drawn, *(one for one in STRANGE if not _may_answer(mentions, one))][:number]


def _asked_of(house: House, other: Document, prompts: Prompts) -> list[str]:
    """A document's own questions: of its exam, or of its study material."""
    samples = [one for _, some in house.library.exams.questions(other) for one in some]
    asking = held_out.asking(TASKS)
    samples = samples or [one for one in house.library.samples(other) if exams.asks(one, asking, prompts)]
    return [prompts.question_of(one.prompt) for one in samples[:MOST]]


def _may_answer(mentions: Mentions, question: str) -> bool:
    if named := mentions.named(question):
        return min(named) == 1
    return mentions.share(question) > COMMON


def _own(house: House, document: Document, module: KnowledgeModule) -> list[Sample]:
    """The exam's questions that this module's writer wrote."""
    written = [one for _, some in house.library.exams.questions(document) for one in some]
    return [one for one in written if (one.model, one.revision) == module.recipe.writer]
