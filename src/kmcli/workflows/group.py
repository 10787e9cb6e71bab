"""A group of documents on the way to their Knowledge Modules: material for each, then all of them trained side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmcli.bases import Base, Loaded
from kmcli.bases.vocabulary import reader
from kmcli.chunking import join_pages
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.library.exams import Head
from kmcli.training import Job, train_together
from kmcli.training.mixture import study_tasks
from kmcli.types import Document, Event, KnowledgeModule, Recipe, Sample
from kmcli.workflows import calibrating, exam, imported, starts
from kmcli.workflows.batch import Loader
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import Synthesised, write_missing
from kmcli.workflows.teaching import compute_predictions
from kmcli.workflows.writer import Writer

RUN = "run.json"
TOGETHER = 8
"""Documents that train side by side. Each has its adapter and its optimiser in memory."""
WRITING_SECONDS = 60.0
"""For which exam questions may be written at least; beyond that, for as long as the study material took."""
SMALL = 1_000_000_000
"""Parameters of a base that more than one document trains on at a time: a larger one is busy with one."""


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

    module: what is trained, and only to be examined.
    """

    document: Document
    base: Base
    recipe: Recipe
    resumed: bool
    module: KnowledgeModule | None = None
    material: Synthesised | None = None
    seconds: float = 0.0
    writing_exam: float = 0.0


class Group:
    """Documents whose study material is written one after the other, and that are then trained side by side."""

    def __init__(self, house: House, loader: Loader, force: bool, processes: int) -> None:
        """processes: that share a training. They train one document after the other."""
        self.trained: list[Trained] = []
        self.failed: list[Failure] = []
        self._house, self._loader, self._force, self._processes = house, loader, force, processes
        self._tasks: list[Task] = []
        self._writer: Writer | None = None

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

    def write(self, task: Task) -> None:
        """Write what is missing of a document's material; `train` trains on it."""
        started = time.monotonic()
        house, document, recipe = self._house, task.document, task.recipe
        if task.module:
            house.report(Event("exam", f"going on with the exam of {document.name}"))
        else:
            _remember(house.library.workspace(document), recipe, document)
            if task.resumed:
                house.report(Event("train", f"going on with the unfinished training of {document.name}"))
            with self._refusing(task):
                tasks = study_tasks(recipe)
                if tasks:
                    writer = self._writer_of(task)
                    task.material = write_missing(house, document, writer, replace(recipe, tasks=tasks), self._force)
            task.seconds = time.monotonic() - started
        if exam.wanted(recipe):
            with self._examining(task):
                exam.write_questions(house, document, self._writer_of(task), recipe, max(WRITING_SECONDS, task.seconds))
            task.writing_exam = time.monotonic() - started - task.seconds
        self._tasks.append(task)

    def train(self) -> None:
        """Train the documents that were written about since the last call."""
        self.close()  # what writes needs memory
        tasks, self._tasks = self._tasks, []
        for base, bits in dict.fromkeys((task.base, task.recipe.base_bits) for task in tasks):
            mine = [task for task in tasks if (task.base, task.recipe.base_bits) == (base, bits)]
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
            for start in range(0, len(jobs), size):
                self._train(loaded, dict(list(jobs.items())[start : start + size]))
            for task in mine:
                self._examine(loaded, task)

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
            with self.failing(task.document), self._refusing(task):
                jobs[self._job(task)] = task
            task.seconds += time.monotonic() - started
        return jobs

    def _train(self, loaded: Loaded, todo: dict[Job, Task]) -> None:
        started, count = time.monotonic(), len(todo)

        def done(job: Job, result: dict[str, Any] | KmError) -> None:
            task = todo.pop(job)
            task.seconds += (time.monotonic() - started) / count
            with self.failing(task.document), self._refusing(task):
                if isinstance(result, KmError):
                    raise result
                self._commit(task, job, result)

        try:
            train_together(loaded, list(todo), self._house.report, done, self._processes)
        except InterruptedRun:
            raise
        except KmError as error:  # not of one document
            for task in todo.values():
                with self.failing(task.document), self._refusing(task):
                    raise error from None

    def _job(self, task: Task) -> Job:
        house, document = self._house, task.document
        workspace = house.library.workspace(document)
        start = None
        if task.recipe.init and not starts.outranked(workspace):
            task.recipe, start = starts.begin(house, document, task.recipe)
            _remember(workspace, task.recipe, document)
        recipe = task.recipe
        reads = reader(task.base, self._loader.tokenizer(task.base))
        chunks = house.study_chunks(document, reads, recipe)
        samples: list[Sample] = []
        if task.material:
            attached = imported.attach(house, document, reads, recipe, chunks)
            imported.tell(house, document, attached)
            samples = attached.samples
            if not samples:
                raise KmError(
                    f"the base wrote nothing about {document.name} that it confirmed itself.",
                    "Choose a larger base with --model (see km models).",
                )
        texts = {chunk.sha256: chunk.text for chunk in chunks}
        text = join_pages(house.library.text(document))
        other = compute_predictions(house, self._loader, reads, recipe, samples, texts, text, workspace)
        out = house.library.staging(document)
        return Job(document.name, samples, texts, recipe, workspace, out, text, other, start)

    def _commit(self, task: Task, job: Job, metrics: dict[str, Any]) -> None:
        document, material = task.document, task.material
        metrics["chunks"] = len(job.chunks)
        metrics["total_seconds"] = round(task.seconds, 3)  # with the writing, of this run
        if material:
            metrics["confirmed_share"] = round(material.confirmed, 4)
        (job.out / "card.md").write_text(_card(document, task.recipe, metrics), "utf-8")
        library = self._house.library
        module = library.commit_module(document, job.out, task.recipe, metrics)
        counts = (material.kept, material.written, material.samples) if material else (0, 0, 0)
        self.trained.append(Trained(document, module, task.resumed, task.seconds, *counts))
        if exam.wanted(task.recipe):
            task.module = module
            _remember(library.workspace(document), task.recipe, document, module)

    def _examine(self, loaded: Loaded, task: Task) -> None:
        """Question what was trained. It can be used meanwhile; until the exam is over its training counts as unfinished."""
        house, document, module = self._house, task.document, task.module
        if module is None:
            return
        with self._examining(task):
            took = max(float(module.metrics.get(name, 0.0)) for name in ("total_seconds", "seconds"))
            head = exam.examine(house, document, module, loaded, task.writing_exam, took).head
            calibrating.calibrate(house, document, module, loaded)
            known = [one for one in self.trained if one.module.id == module.id]
            studied = module.metrics.get("training_samples", 0) + module.metrics.get("held_out_samples", 0)
            one = known[0] if known else Trained(document, module, True, took, 0, 0, studied)
            self.trained = [other for other in self.trained if other not in known] + [replace(one, exam=head)]
        house.library.clear_workspace(document)

    @contextmanager
    def _examining(self, task: Task) -> Iterator[None]:
        """A failure within it costs the exam, and not the training."""
        try:
            yield
        except InterruptedRun:
            raise
        except KmError as error:
            self._house.warn(f"the exam of {task.document.name} is left out: {error.message}")

    @contextmanager
    def _refusing(self, task: Task) -> Iterator[None]:
        """A failure within it that comes before there is anything to go on with leaves no unfinished training."""
        library = self._house.library
        try:
            yield
        except (InterruptedRun, ResourceError):
            raise
        except KmError:
            if not any(library.workspace(task.document).glob("checkpoint*")):
                library.clear_workspace(task.document)
            raise

    def _writer_of(self, task: Task) -> Writer:
        """The writer of the document before, where the recipe is the same: starting one may take a minute."""
        if self._writer is None or (self._writer.base, self._writer.recipe) != (task.base, task.recipe):
            self.close()
            self._writer = Writer(self._house, self._loader, task.base, task.recipe)
        return self._writer


def _remember(workspace: Path, recipe: Recipe, document: Document, module: KnowledgeModule | None = None) -> None:
    """module: what is trained; only its exam is still to come."""
    temporary = workspace / "run.tmp"
    run = {"recipe": recipe.as_json(), "text_sha256": document.text_sha256, "module": module.id if module else ""}
    temporary.write_text(json.dumps(run, indent=2), "utf-8")
    temporary.replace(workspace / RUN)


def _card(document: Document, recipe: Recipe, metrics: dict[str, Any]) -> str:
    loss = metrics.get("held_out_loss")
    lines = [
        f"# Knowledge Module of {document.name}",
        "",
        f"A LoRA adapter (PEFT format) that answers from one document of {document.words:,} words "
        f"(SHA-256 of its text: {document.text_sha256}).",
        "",
        f"- Base: {recipe.base_label or recipe.model}, revision {recipe.revision}. It fits no other weights.",
        *([f"- The base was read with its linear layers in {recipe.base_bits} bits."] if recipe.base_bits else []),
        f"- Made by: {recipe.objective} on {metrics['training_samples']} samples in {metrics['steps']} steps.",
        f"- Loss on held-out study material: {'not measured' if loss is None else format(loss, '.3f')}.",
        "- It contains what the document says: share it as you would share the document.",
    ]
    if recipe.init:
        whose = f"those of {recipe.init}" if recipe.init != starts.LIBRARY else "the mean of other documents' modules"
        lines.append(f"- It began from {whose}, and may contain what those say as well.")
    return "\n".join(lines) + "\n"
