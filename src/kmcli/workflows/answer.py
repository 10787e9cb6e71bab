"""Asking: one question to documents by one method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmcli.errors import UsageError
from kmcli.routing import support
from kmcli.types import Answer, Document
from kmcli.workflows.answerer import confidence_in, open_answerer
from kmcli.workflows.auto import Choice, calibration_of
from kmcli.workflows.house import House
from kmcli.workflows.naming import find_all


@dataclass(frozen=True, slots=True)
class Asked:
    """documents: those that were asked; the bare base reads none of them. engine: what ran the base.

    confidence: how likely the evidence bears the answer out, from 0 to 1; None where nobody looked. notes: what to know
    about the answer, such as that it was found by retrieval for want of a Knowledge Module. weights: of the documents'
    modules, where several answered as one. choice: who was to answer, where the question decided.
    """

    answer: Answer
    documents: tuple[Document, ...]
    engine: str
    confidence: float | None
    notes: tuple[str, ...]
    weights: tuple[float, ...] = ()
    choice: Choice | None = None

    @property
    def supported(self) -> bool | None:
        return support.enough(self.confidence)


def ask(
    house: House,
    names: Sequence[str],
    question: str,
    method: str | None,
    on_text: Callable[[str], None],
    weights: Sequence[float] = (),
) -> Asked:
    """Answer a question from the named documents, handing over the text as it is written.

    method None: as the question decides where there is one document whose module was examined (`workflows.auto`); else
    their Knowledge Modules, or retrieval where one has none yet. Several modules answer as one: their changes
    of the base are added up, each times its weight; where none are given, by what part its document has in the question.
    The evidence is what the model read; where it read no passages, the passage that supports the answer best, looked
    up afterwards.
    """
    if not question.strip():
        raise UsageError("the question is empty.", f'For example: km ask {" ".join(names)} "Who wrote it?"')
    documents = tuple(find_all(house.library, names))
    answerer = open_answerer(house, documents, method, weights)
    answer, notes = answerer.answer(question, on_text)
    confidence = confidence_in(answerer.base, question, answer) if answerer.method != "bare" else None
    engine = answerer.answering.engine.name
    return Asked(answer, documents, engine, confidence, answerer.notes + notes, answerer.weights, answerer.choice)


def chooses(house: House, names: Sequence[str], method: str | None) -> bool:
    """Whether each question to these documents decides who answers it: see open_answerer."""
    documents = find_all(house.library, names)
    if method not in (None, "auto") or len(documents) != 1 or house.extractor:
        return False
    module = house.library.module(documents[0])
    return module is not None and calibration_of(house, module) is not None
