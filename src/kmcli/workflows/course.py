"""A document in the rounds after its exam: what each round came to, which adapter is the best, and when it is over."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from kmcli.adapters import ADAPTERS
from kmcli.bases import Base
from kmcli.library import exams, files
from kmcli.library.exams import Exam, Head
from kmcli.training import Stretch
from kmcli.types import Document, KnowledgeModule, Recipe
from kmcli.workflows import card, exam
from kmcli.workflows.house import House

ENOUGH = 0.95
"""The share of facts from which nothing more is studied."""
VAIN, GAIN = 2, 0.01
"""So many rounds in a row, each of which brought less than this share of the facts, are the last."""
STEPS = 0.25
"""Of the training's steps: a round's."""
ROUND = "round.json"


@dataclass(frozen=True, slots=True)
class Round:
    """A round that is over. known: facts; questions: answered rightly; tokens: that were scored; samples: it trained on,
    each as often as it stood there; written: of these new ones."""

    known: int
    questions: int
    steps: int
    tokens: int
    samples: int
    written: int
    seconds: float


def rounds_of(recipe: Recipe, update: bool) -> int:
    """How many rounds there may be. None after an update, which a round would let forget what stands, nor on what no
    training can go on from."""
    possible = exam.wanted(recipe) and not update and "init" in ADAPTERS[recipe.adapter].ABLE
    return recipe.exam_rounds if possible else 0


def stretch_of(rounds: int, number: int = 0) -> Stretch:
    """Of the schedule that a training and so many rounds share: a round's, by its number, or the training's own. Were that
    decayed to nothing, a round would have to rise anew, and is too short to make that good."""
    if number == 0:
        return Stretch(after=STEPS * rounds)
    return Stretch(before=1 / STEPS + number - 1, after=rounds - number)


@dataclass(slots=True)
class Course:
    """A document on its way through the rounds. first: its exam before them; module: what was examined then.

    best, where: the exam of the adapter that knows most, and its folder. planned: the rounds that the schedule has room for.
    seconds: of the round that is under way.
    """

    document: Document
    base: Base
    recipe: Recipe
    module: KnowledgeModule
    first: Exam
    workspace: Path
    best: Exam
    where: Path
    planned: int
    rounds: list[Round] = field(default_factory=list)
    seconds: float = 0.0
    written: int = 0

    @property
    def folder(self) -> Path:
        """Of the round that is under way."""
        return folder_of(self.workspace, len(self.rounds) + 1)

    @property
    def over(self) -> bool:
        share = self.best.head.share
        if share is None or share >= ENOUGH or len(self.rounds) >= self.recipe.exam_rounds:
            return True
        known, asked, vain = self.first.head.known, self.first.head.asked, 0
        for one in self.rounds:
            vain = vain + 1 if one.known - known < GAIN * asked else 0
            known = max(known, one.known)
        return vain >= VAIN

    def keep(self, one: Round) -> None:
        """Note what the round under way came to, which ends it."""
        files.write(self.folder / ROUND, json.dumps(asdict(one)).encode())
        self._take(one)

    def _take(self, one: Round) -> None:
        folder = self.folder
        found = exams.read(folder / "module")
        if found and rank(found) >= rank(self.best):  # as much by the few that are asked, and it has studied more
            self.best, self.where = found, folder / "module"
        self.rounds.append(one)
        self.seconds, self.written = 0.0, 0

    def go_on(self) -> None:
        """Take in the rounds that earlier runs have ended."""
        while (file := self.folder / ROUND).exists():
            self._take(Round(**json.loads(file.read_text("utf-8"))))


def begun(house: House, document: Document, base: Base, recipe: Recipe, module: KnowledgeModule) -> Course | None:
    """Where a document that was examined stands; None where it was not. What an earlier run has finished counts. There are
    no more rounds than the training left room for."""
    first = house.library.exams.of(module)
    if first is None:
        return None
    planned = int(module.metrics.get("planned_rounds", 0))
    recipe = replace(recipe, exam_rounds=min(recipe.exam_rounds, planned))
    workspace = house.library.workspace(document)
    course = Course(document, base, recipe, module, first, workspace, first, module.path, planned)
    course.go_on()
    return course


def finish(house: House, course: Course) -> tuple[KnowledgeModule, Head]:
    """Make the best adapter the document's module, with its exam; the workspace is cleared."""
    first, rounds, library = course.first, course.rounds, house.library
    head = course.best.head
    if rounds:
        seconds = round(sum(one.seconds for one in rounds), 3)
        head = replace(
            head,
            rounds=len(rounds),
            round_seconds=seconds,
            round_steps=sum(one.steps for one in rounds),
            round_tokens=sum(one.tokens for one in rounds),
            known_before=first.head.known,
        )
    found = Exam(head, course.best.passages)
    module, document = course.module, course.document
    if course.where == module.path:
        if rounds:
            library.exams.keep(module, found)
        library.clear_workspace(document)
        return module, head
    metrics = {**module.metrics, "rounds": [asdict(one) for one in rounds]}
    with files.explained(library.home):
        (course.where / "card.md").write_text(card.written(document, course.recipe, metrics), "utf-8")
        exams.write(course.where, found)
    return library.commit_module(document, course.where, course.recipe, metrics, library.cut(module)), head


def rank(found: Exam) -> tuple[int, int]:
    """What says which of two exams went better: facts, then questions."""
    return found.head.known, sum(one.known for passage in found.passages for one in passage.questions)


def folder_of(workspace: Path, number: int) -> Path:
    return workspace / f"round-{number}"
