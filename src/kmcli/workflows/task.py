"""A document on its way to its Knowledge Module, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from kmcli.bases import Base
from kmcli.library.exams import Head
from kmcli.types import Chunk, Document, KnowledgeModule, Recipe
from kmcli.workflows import redline
from kmcli.workflows.course import Course, rounds_of
from kmcli.workflows.house import House
from kmcli.workflows.material import Synthesised


@dataclass(frozen=True, slots=True)
class Trained:
    document: Document
    module: KnowledgeModule
    resumed: bool
    seconds: float
    kept: int
    written: int
    samples: int
    """0, like `kept` and `written`, where the objective needs no study material."""
    exam: Head | None = None


@dataclass(slots=True)
class Task:
    """A document to train. seconds: what it has taken, the exam left out; writing_exam: what writing its questions took.

    module: what is trained, and only to be examined; course: where it is in the rounds after that. update: the module to
    begin from, where only what has changed is to be studied; redline: what that is. asked: what the old module and the new
    one are asked.
    """

    document: Document
    base: Base
    recipe: Recipe
    resumed: bool
    module: KnowledgeModule | None = None
    update: KnowledgeModule | None = None
    redline: redline.Redline | None = None
    material: Synthesised | None = None
    chunks: list[Chunk] = field(default_factory=list)
    asked: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    writing_exam: float = 0.0
    course: Course | None = None

    @property
    def planned_rounds(self) -> int:
        """How many rounds its schedule leaves room for."""
        return rounds_of(self.recipe, self.redline is not None)


def took(module: KnowledgeModule) -> float:
    """Seconds of its training."""
    return max(float(module.metrics.get(name, 0.0)) for name in ("total_seconds", "seconds"))


def remember(
    house: House,
    recipe: Recipe,
    document: Document,
    module: KnowledgeModule | None = None,
    update: KnowledgeModule | None = None,
) -> None:
    """module: what is trained; only its exam is still to come. update: what the training begins from, as in Task."""
    run = {"recipe": recipe.as_json(), "text_sha256": document.text_sha256}
    run |= {"module": module.id if module else "", "update": update.id if update else ""}
    house.library.begin_training(document, json.dumps(run, indent=2).encode())
