"""A document that has changed since it was trained: only what changed is studied anew, from the Knowledge Module it has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmcli import adapters
from kmcli.bases import Base, Loaded
from kmcli.errors import KmError, NotFoundError
from kmcli.library.exams import Exam
from kmcli.metrics import normalise
from kmcli.objectives.views import Reads
from kmcli.synthesis.judge import good_enough
from kmcli.training.mixture import study_tasks
from kmcli.types import IMPORTED, Document, Event, KnowledgeModule, Question, Recipe, Sample, silent, text_hash
from kmcli.workflows.held_out import asking_of
from kmcli.workflows.house import House, untrained, usable
from kmcli.workflows.naming import find_one

CHANGES = "changes.json"
"""In a module's folder: what it answers differently from the one before it."""
MOST = 0.5
"""Share of the chunks that may have changed: beyond it training begins from nothing."""
LEAST_STEPS = 16
RATE = 0.33
"""Of the recipe's learning rate."""
ASKED = 100
"""Questions at most about what has changed, and about what has not, that are put to the old module and to the new one."""


@dataclass(frozen=True, slots=True)
class Redline:
    """module: what the training begins from. changed: hashes of the chunks that its text did not have. gone: of those that
    the text no longer has. chunks: how many it has."""

    module: KnowledgeModule
    changed: frozenset[str]
    gone: frozenset[str]
    chunks: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A question that the Knowledge Module answers differently from the one before it. changed: whether it is about text
    that has changed."""

    question: str
    before: str
    now: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """changed: chunks of `chunks`. asked: questions put to both modules. known: by the new module's exam, how many facts it
    knows of how many: of the chunks that changed, and of the others; None where there was no exam."""

    document: Document
    changed: int
    chunks: int
    asked: int
    differences: tuple[Difference, ...]
    known: tuple[tuple[int, int], tuple[int, int]] | None


def begins_from(house: House, document: Document, wanted: Recipe, given: bool) -> KnowledgeModule | None:
    """The module to begin from, whose own recipe then counts; None where all of the document has to be studied.

    given: whether the command line says what the recipe is; it has to be the module's then. Otherwise the base has.
    """
    try:
        module = house.library.module(document)
    except KmError:  # of a newer km
        return None
    if module is None or module.text_sha256 == document.text_sha256:
        return None
    if not adapters.able(module, "init"):
        return None
    recipe = replace(recipe_of(module, wanted, given), init_revision="")
    alike = recipe == wanted if given else (recipe.model, recipe.revision) == (wanted.model, wanted.revision)
    if not alike or not study_tasks(recipe):
        return None
    if not house.library.cut(module):  # of an older km
        unknown = "which text its Knowledge Module was trained on is not known"
        house.report(Event("train", f"{document.name}: {unknown}, so all of it is studied anew"))
        return None
    return module


def recipe_of(module: KnowledgeModule, wanted: Recipe, given: bool) -> Recipe:
    """The recipe of a training that begins from a module: its own, with an exam where the command line wants one."""
    return replace(module.recipe, exam=wanted.exam) if given else module.recipe


def compare(house: House, document: Document, reads: Reads, module: KnowledgeModule) -> Redline | None:
    """What has changed, which is said; None where it is too much."""
    before = {chunk.sha256 for chunk in house.library.cut(module)}
    now = {chunk.sha256 for chunk in house.study_chunks(document, reads, module.recipe)}
    found = Redline(module, frozenset(now - before), frozenset(before - now), len(now))
    said = f"{document.name}: {len(found.changed):,} of {found.chunks:,} chunks changed"
    if not now or len(found.changed) > MOST * len(now):
        house.report(Event("train", f"{said}, so all of it is studied anew"))
        return None
    how = "only these are studied, on top of what its Knowledge Module knows (all of it: --restart)"
    house.report(Event("train", f"{said}: {how}"))
    return found


def narrowed(
    redline: Redline, samples: Sequence[Sample], chunks: Mapping[str, str], recipe: Recipe, document: Document
) -> tuple[list[Sample], list[Sample], Recipe]:
    """The samples to train on, those to be answered as before, and the recipe, with as many steps as it would have on the
    former alone.

    Raises as `good_enough` does.
    """
    every = good_enough(samples, chunks, replace(recipe, tasks=study_tasks(recipe)), silent)
    new = [sample for sample in every if sample.chunk_sha256 in redline.changed]
    kept = _shuffled([sample for sample in every if sample.chunk_sha256 not in redline.changed], recipe.seed)
    epochs = recipe.steps * recipe.batch / max(1, len(every)) if recipe.steps else recipe.epochs
    full = recipe.steps or math.ceil(epochs * len(every) / recipe.batch)
    steps = min(full, max(LEAST_STEPS, math.ceil(epochs * math.ceil(len(new) / recipe.batch))))
    # the few held-out samples of so short a training cannot decide where it ends
    short = replace(
        recipe,
        steps=steps,
        init=document.name,
        init_revision=redline.module.id,
        early_stopping=False,
        hidden_weight=0.0,  # a distance that never ends would go on moving what stands after the new is known
        learning_rate=RATE * recipe.learning_rate,
    )
    return new or kept, kept if new else [], short


def questions(
    house: House, document: Document, redline: Redline, samples: Sequence[Sample], recipe: Recipe, base: Base
) -> dict[str, bool]:
    """Questions of the study material, and whether they are about text that has changed, the old one or the new one.

    samples: those about the text as it is.
    """
    names = asking_of(recipe)
    gone = [one for one in usable(house.library.samples(document), recipe) if one.chunk_sha256 in redline.gone]
    found: dict[str, bool] = {}
    counts = {True: 0, False: 0}
    for sample in _shuffled([*gone, *samples], recipe.seed):
        about = sample.chunk_sha256 in redline.changed | redline.gone
        question = base.prompts.question_of(sample.prompt)
        if (sample.task in names or sample.engine == IMPORTED) and question not in found and counts[about] < ASKED:
            counts[about] += 1
            found[question] = about
    return found


def keep_differences(loaded: Loaded, asked: Mapping[str, bool], redline: Redline, new: Path) -> None:
    """Leave in a new module's folder what it answers differently from the one before it, as `changes` reads it."""
    from kmcli.engines.hf import HfEngine
    from kmcli.evaluation.methods import answer_all

    said: list[list[str]] = []
    for folder in (redline.module.path, new):
        model = adapters.load(loaded, folder)
        try:
            put = [Question(question, ()) for question in asked]
            answers = answer_all("km", HfEngine(loaded, model), put, loaded.base.prompts) or ()
        finally:
            model.unload().eval()
        said.append([answer.text for answer in answers])
    found = [
        {"question": question, "before": before, "now": now, "changed": changed}
        for (question, changed), before, now in zip(asked.items(), *said, strict=True)
        if normalise(before) != normalise(now)
    ]
    kept = {"asked": len(asked), "changed": sorted(redline.changed), "differences": found}
    (new / CHANGES).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")


def as_metrics(redline: Redline) -> dict[str, Any]:
    return {"from": redline.module.id, "changed": len(redline.changed), "chunks": redline.chunks}


def changes(house: House, name: str) -> Changes:
    """What the Knowledge Module of a document answers differently from the one that it was made from.

    Raises NotFoundError where it was not made from another one of the document's.
    """
    document = find_one(house.library, name)
    module = house.library.module(document)
    if module is None:
        raise untrained(document)
    try:
        update = module.metrics["update"]
        found = json.loads((module.path / CHANGES).read_text("utf-8"))
        rows = tuple(Difference(**row) for row in found["differences"])
        known = _known(house.library.exams.of(module), set(found["changed"]))
        return Changes(document, int(update["changed"]), int(update["chunks"]), int(found["asked"]), rows, known)
    except (OSError, ValueError, TypeError, KeyError):
        raise NotFoundError(
            f"there is nothing to compare the Knowledge Module of {document.name} with.",
            "Changes are kept where km train goes on from a module whose document has changed.",
        ) from None


def _known(exam: Exam | None, changed: set[str]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if exam is None:
        return None
    new = [one for one in exam.passages if one.chunk_sha256 in changed]
    old = [one for one in exam.passages if one.chunk_sha256 not in changed]
    first, second = ((sum(one.known for one in some), sum(len(one.facts) for one in some)) for some in (new, old))
    return first, second


def _shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """In an order that is always the same, and has nothing to do with the text's."""
    return sorted(samples, key=lambda sample: text_hash(f"{seed}\0{sample.id}"))
