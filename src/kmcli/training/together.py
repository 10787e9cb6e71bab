"""From jobs to the students of one model, and from what they have learnt to adapters on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kmcli.adapters import ADAPTERS, start
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.training import Done, Job, checkpoint, forward, many, mixture, targets
from kmcli.training.loop import Student
from kmcli.training.predictions import before
from kmcli.training.team import Team
from kmcli.types import Reporter


class Together:
    """The training of several documents in one process: see `train_together`, which has the same arguments."""

    def __init__(self, loaded: Loaded, jobs: Sequence[Job], report: Reporter, done: Done, processes: int) -> None:
        self._loaded, self._jobs, self._report, self._done = loaded, jobs, report, done
        self._team = Team(loaded, processes, report, jobs[0].text, jobs[0].shelf) if processes > 1 else None
        self._budget = 0 if self._team else targets.MEMORY_BYTES // len(jobs)  # helpers read the file
        self._model: Any = None
        self._students: dict[Student, dict[str, Job]] = {}
        """With the jobs that each does, by their adapters."""
        self._group: dict[str, tuple[Job, mixture.Mixture]] = {}

    def run(self) -> None:
        """Raises InterruptedRun after Ctrl-C."""
        for number, job in enumerate(self._jobs):
            try:
                self._begin(job, f"document{number}")
            except KmError as error:
                self._done(job, error)
        if self._group:
            self._begin_group()
        if self._students:
            many.run(self._model, self._loaded, list(self._students), self._report, self._finished, self._team)

    def close(self) -> None:
        """Give back what is held; the base is what it was before."""
        if self._team:
            self._team.close()
        for student in self._students:
            student.close()
        if self._model is not None:
            self._model.unload().eval()

    def _begin(self, job: Job, adapter: str) -> None:
        loaded, report = self._loaded, self._report
        mix = mixture.mix(loaded, job.samples, job.chunks, job.text, job.recipe, report, job.other, job.kept)
        self._add(job, adapter)
        forward.require_room(self._model, loaded, mix.views)
        if job.recipe.group:
            self._group[adapter] = job, mix
            return
        if mix.as_before:
            with closing(before(loaded, mix, job.recipe, job.workspace)) as predictions:
                predictions.compute(loaded, report, self._model)
        name = job.name if len(self._jobs) > 1 else ""
        self._students[self._student(job, mix, adapter, name)] = {adapter: job}

    def _begin_group(self) -> None:
        """One student for all of them, who takes them by turns, with a checkpoint in the first one's workspace."""
        of_all = mixture.by_turns({adapter: mix for adapter, (_, mix) in self._group.items()})
        first, (job, _) = next(iter(self._group.items()))
        jobs = {adapter: one for adapter, (one, _) in self._group.items()}
        self._students[self._student(job, of_all, first, "")] = jobs

    def _add(self, job: Job, adapter: str) -> None:
        """An adapter in the model, which begins as the job says, and is the active one."""
        kind = ADAPTERS[job.recipe.adapter]
        if self._model is None:
            self._model = kind.build(self._loaded, job.recipe, adapter, job.text, job.shelf)
        else:
            kind.add(self._model, self._loaded, job.recipe, adapter, job.text, job.shelf)
        kind.activate(self._model, [adapter])
        if job.start is not None:
            start.fill(kind.trainable(self._model), job.start)

    def _student(self, job: Job, mix: mixture.Mixture, adapter: str, name: str) -> Student:
        model, loaded, folder = self._model, self._loaded, job.workspace
        return Student(model, loaded, mix, job.recipe, folder, self._report, adapter, name, self._budget, job.stretch)

    def _finished(self, student: Student, result: dict[str, Any] | KmError) -> None:
        for adapter, job in self._students[student].items():
            self._done(job, result if isinstance(result, KmError) else self._saved(job, adapter, dict(result)))

    def _saved(self, job: Job, adapter: str, metrics: dict[str, Any]) -> dict[str, Any] | KmError:
        try:
            with checkpoint.storing(job.out):
                ADAPTERS[job.recipe.adapter].save(self._model, job.out, adapter)
        except KmError as error:
            return error
        return metrics
