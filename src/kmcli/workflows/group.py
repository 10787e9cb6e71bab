"""A group of documents on the way to their Knowledge Modules: material for each, then all of them trained side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kmcli.adapters import ADAPTERS
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Base, Loaded
from kmcli.bases.vocabulary import reader
from kmcli.chunking import join_pages
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.library import workspaces
from kmcli.library.files import explained
from kmcli.training import Job, train_together
from kmcli.training.mixture import study_tasks
from kmcli.types import Document, Event, Sample
from kmcli.workflows import card, exam, examined, imported, redline, rounds, starts
from kmcli.workflows.batch import Loader
from kmcli.workflows.course import Course, stretch_of
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import nothing_kept, trainable, write_missing
from kmcli.workflows.standing import Standing
from kmcli.workflows.task import Task, Trained, remember, took
from kmcli.workflows.teaching import compute_predictions
from kmcli.workflows.writer import Writer

TOGETHER = 8
"""Documents that train side by side. Each has its adapter and its optimiser in memory."""
SMALL = 1_000_000_000
"""Parameters of a base that more than one document trains on at a time: a larger one is busy with one."""


class Group:
    """Documents whose study material is written one after the other, and that are then trained side by side."""

    def __init__(self, house: House, loader: Loader, force: bool, processes: int) -> None:
        """processes: that share a training. They train one document after the other."""
        self.trained: list[Trained] = []
        self.failed: list[Failure] = []
        self._house, self._loader, self._force, self._processes = house, loader, force, processes
        self._tasks: list[Task] = []
        self._writer: Writer | None = None
        self._advised: list[tuple[str, str]] = []

    @contextmanager
    def failing(self, document: Document) -> Iterator[None]:
        """Within it a failure is the document's, and stops no other."""
        try:
            yield
        except InterruptedRun:
            raise
        except KmError as error:
            self._fail(document, error)

    def _fail(self, document: Document, error: KmError) -> None:
        self.failed.append(Failure(document.name, error))
        self._stand(document, "failed")

    def _stand(self, document: Document, state: str) -> None:
        self._house.report(Standing("train", document=document.name, state=state))

    def write(self, task: Task) -> None:
        """Write what is missing of a document's material; `train` trains on it."""
        started = time.monotonic()
        house, document, recipe = self._house, task.document, task.recipe
        self._stand(document, "writing")
        if task.module:
            house.report(Event("exam", f"going on with the exam of {document.name}"))
        else:
            remember(house, recipe, document, update=task.update)
            if task.resumed:
                house.report(Event("train", f"going on with the unfinished training of {document.name}"))
            with self._refusing(task):
                if task.update:
                    reads = reader(task.base, self._loader.tokenizer(task.base))
                    task.redline = redline.compare(house, document, reads, task.update)
                tasks = study_tasks(recipe)
                if tasks:
                    writer = self._writer_of(task)
                    task.material = write_missing(house, document, writer, replace(recipe, tasks=tasks), self._force)
            task.seconds = time.monotonic() - started
        examined.write(house, task, self._writer_of)
        self._tasks.append(task)

    def train(self) -> None:
        """Train the documents that were written about since the last call."""
        self.close()  # what writes needs memory
        tasks, self._tasks = self._tasks, []
        for alike in dict.fromkeys(map(_alike, tasks)):
            mine = [task for task in tasks if _alike(task) == alike]
            base, bits, _, group = alike
            jobs = self._jobs([task for task in mine if not task.module])
            try:
                loaded = self._loader.load(base, bits)
            except KmError as error:
                for task in (*jobs.values(), *(task for task in mine if task.module)):
                    self._fail(task.document, error)
                continue
            size = TOGETHER if loaded.model.num_parameters() <= SMALL and self._processes == 1 else 1
            if self._processes > 1 and len(jobs) > 1:
                message = f"{self._processes} processes share one document at a time: they train one after the other"
                self._house.report(Event("train", message))
            for start in range(0, len(jobs), max(1, len(jobs)) if group else size):
                self._train(loaded, dict(list(jobs.items())[start : start + size]))
            for task in mine:
                if task.module:
                    self._stand(task.document, "exam")
                examined.examine(self._house, loaded, task)
                if task.course and task.course.over:
                    self._keep(task, task.course)
            del loaded  # another model may write
            self._study_again(mine, size)
        failed = {failure.source for failure in self.failed}
        for task in tasks:
            if task.document.name not in failed:
                self._stand(task.document, "done")

    def close(self) -> None:
        """End what writes."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _jobs(self, tasks: Sequence[Task]) -> dict[Job, Task]:
        """What there is to train, before the base takes memory: another teacher may need it first."""
        jobs: dict[Job, Task] = {}
        for task in tasks:
            started = time.monotonic()
            self._stand(task.document, "training")
            with self.failing(task.document), self._refusing(task):
                jobs[self._job(task)] = task
            task.seconds += time.monotonic() - started
        return jobs

    def _train(self, loaded: Loaded, todo: dict[Job, Task]) -> None:
        started, count = time.monotonic(), len(todo)
        updated: list[tuple[Task, Job, dict[str, Any]]] = []

        def done(job: Job, result: dict[str, Any] | KmError) -> None:
            task = todo.pop(job)
            task.seconds += (time.monotonic() - started) / count
            with self.failing(task.document), self._refusing(task):
                if isinstance(result, KmError):
                    raise result
                if task.redline:
                    updated.append((task, job, result))  # for what it changes the base has to be free
                else:
                    self._commit(task, job, result)

        try:
            train_together(loaded, list(todo), self._house.report, done, self._processes)
        except InterruptedRun:
            raise
        except KmError as error:  # not of one document
            for task in todo.values():
                with self.failing(task.document), self._refusing(task):
                    raise error from None
        finally:
            for task, job, result in updated:
                with self.failing(task.document), self._refusing(task):
                    self._commit_update(loaded, task, job, result)

    def _job(self, task: Task) -> Job:
        house, document = self._house, task.document
        workspace = house.library.workspace(document)
        start = None
        if task.redline:
            start = starts.of_module(task.redline.module)
        elif task.recipe.init and not starts.outranked(workspace):
            task.recipe, start = starts.begin(house, document, task.recipe)
            remember(house, task.recipe, document)
        recipe = task.recipe
        reads = reader(task.base, self._loader.tokenizer(task.base))
        task.chunks = chunks = house.study_chunks(document, reads, recipe)
        texts = {chunk.sha256: chunk.text for chunk in chunks}
        samples: list[Sample] = []
        if task.material:
            attached = imported.attach(house, document, reads, recipe, chunks)
            imported.tell(house, document, attached)
            samples = attached.samples
            if not trainable(samples, texts, recipe):
                raise nothing_kept(document, task.material.written, task.material.reasons, recipe)
        kept: list[Sample] = []
        if task.redline:
            task.asked = redline.questions(house, document, task.redline, samples, recipe, task.base)
            samples, kept, recipe = redline.narrowed(task.redline, samples, texts, recipe, document)
        text = join_pages(house.library.text(document))
        other = compute_predictions(house, self._loader, reads, recipe, samples, texts, text, workspace)
        shelf = house.shelf(document, task.base)
        self._advise(task, shelf)
        out = house.library.staging(document)
        stretch = stretch_of(task.planned_rounds)
        return Job(document.name, samples, texts, recipe, workspace, out, text, other, start, kept, shelf, stretch)

    def _advise(self, task: Task, shelf: Shelf) -> None:
        advice = ADAPTERS[task.recipe.adapter].advice(task.base, shelf)
        if (
            advice
            and advice not in self._advised
            and not starts.outranked(self._house.library.workspace(task.document))
        ):
            self._advised.append(advice)
            self._house.report(Event("train", " ".join((advice[0] + ".", advice[1])), warning=True))

    def _commit_update(self, loaded: Loaded, task: Task, job: Job, metrics: dict[str, Any]) -> None:
        """Keep, with the module, what it answers differently from the one that it replaces."""
        assert task.redline is not None
        started = time.monotonic()
        redline.keep_differences(loaded, task.asked, task.redline, job.out)
        metrics["update"] = redline.as_metrics(task.redline)
        task.seconds += time.monotonic() - started
        self._commit(task, job, metrics)

    def _commit(self, task: Task, job: Job, metrics: dict[str, Any]) -> None:
        document, material = task.document, task.material
        metrics["chunks"] = len(job.chunks)
        metrics["planned_rounds"] = task.planned_rounds
        metrics["total_seconds"] = round(task.seconds, 3)  # with the writing, of this run
        if material:
            metrics["confirmed_share"] = round(material.confirmed, 4)
        library = self._house.library
        with explained(library.home):
            (job.out / "card.md").write_text(card.written(document, task.recipe, metrics), "utf-8")
        module = library.commit_module(document, job.out, task.recipe, metrics, task.chunks)
        counts = (material.kept, material.written, material.samples) if material else (0, 0, 0)
        self.trained.append(Trained(document, module, task.resumed, task.seconds, *counts))
        if exam.wanted(task.recipe):
            task.module = module
            remember(self._house, task.recipe, document, module)

    def _study_again(self, tasks: Sequence[Task], size: int) -> None:
        """Take the documents that were examined through their rounds, and keep what came of them."""
        going = {task.document.id: task for task in tasks if task.course and not task.course.over}
        courses = [task.course for task in going.values() if task.course]

        def writer_of(course: Course) -> Writer:
            return self._writer_of(going[course.document.id])

        rounds.study_again(self._house, self._loader, courses, writer_of, self.close, size, self._processes)
        for task, course in zip(going.values(), courses, strict=True):
            self._keep(task, course)

    def _keep(self, task: Task, course: Course) -> None:
        with self.failing(task.document):
            module, head = examined.keep(self._house, self._loader, course)
            known = [one for one in self.trained if one.document.id == task.document.id]
            studied = module.metrics.get("training_samples", 0) + module.metrics.get("held_out_samples", 0)
            one = known[0] if known else Trained(task.document, module, True, took(module), 0, 0, studied)
            others = [other for other in self.trained if other not in known]
            self.trained = [*others, replace(one, module=module, exam=head)]

    @contextmanager
    def _refusing(self, task: Task) -> Iterator[None]:
        """A failure within it that comes before there is anything to go on with leaves no unfinished training."""
        library = self._house.library
        try:
            yield
        except (InterruptedRun, ResourceError):
            raise
        except KmError:
            if not workspaces.begun(library.workspace(task.document)):
                library.clear_workspace(task.document)
            raise

    def _writer_of(self, task: Task) -> Writer:
        """The writer of the document before, where the recipe is the same: starting one may take a minute."""
        if self._writer is None or (self._writer.base, self._writer.recipe) != (task.base, task.recipe):
            self.close()
            self._writer = Writer(self._house, self._loader, task.base, task.recipe)
        return self._writer


def _alike(task: Task) -> tuple[Base, int, str, str]:
    """Tasks may train together where this is the same."""
    return task.base, task.recipe.base_bits, task.recipe.adapter, task.recipe.group
