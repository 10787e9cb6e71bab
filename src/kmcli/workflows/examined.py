"""A document's training, as far as its exam goes: its questions, the exam, and what the rounds after it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.library.exams import Head
from kmcli.types import KnowledgeModule
from kmcli.workflows import calibrating, exam
from kmcli.workflows.batch import Loader
from kmcli.workflows.course import Course, begun, finish
from kmcli.workflows.house import House
from kmcli.workflows.task import Task, took
from kmcli.workflows.writer import Writer

WRITING_SECONDS = 60.0
"""For which exam questions may be written at least; beyond that, for as long as the study material took."""


def write(house: House, task: Task, writer_of: Callable[[Task], Writer]) -> None:
    """Write the questions that are missing, where an exam is still to come."""
    if not exam.wanted(task.recipe) or (task.module and house.library.exams.head(task.module)):
        return
    started = time.monotonic()
    with _sparing(house, f"the exam of {task.document.name} is left out"):
        exam.write_questions(house, task.document, writer_of(task), task.recipe, max(WRITING_SECONDS, task.seconds))
    task.writing_exam = time.monotonic() - started


def examine(house: House, loaded: Loaded, task: Task) -> None:
    """Question what was trained. It can be used meanwhile; until the rounds after the exam are over its training counts
    as unfinished."""
    document, module = task.document, task.module
    if module is None:
        return
    if house.library.exams.head(module) is None:
        with _sparing(house, f"the exam of {document.name} is left out"):
            exam.examine(house, document, module, loaded, task.writing_exam, took(module))
    task.course = begun(house, document, task.base, task.recipe, module)
    if task.course is None:
        house.library.clear_workspace(document)


def keep(house: House, loader: Loader, course: Course) -> tuple[KnowledgeModule, Head]:
    """Keep what knows most after the rounds, and find out how far its answers can be trusted."""
    module, head = finish(house, course)
    with _sparing(house, f"how sure {course.document.name} is of its answers is not known"):
        loaded = loader.load(course.base, course.recipe.base_bits)
        calibrating.calibrate(house, course.document, module, loaded)
    return module, head


@contextmanager
def _sparing(house: House, failed: str) -> Iterator[None]:
    """A failure within it is told, and costs the training nothing."""
    try:
        yield
    except InterruptedRun:
        raise
    except KmError as error:
        house.warn(f"{failed}: {error.message}")
