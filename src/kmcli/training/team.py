"""One document's training shared by several processes of this machine, each with the base on a device of its own.

The process that trains decides everything, as it would alone: batches, schedule, held-out loss, checkpoints, the end. Its
helpers (`helper`) know none of that. At each step they are given the adapter, compute the gradients of their share of the
batch, and these are added to the first process's own. What they have is never the only copy of anything, so that
losing them loses nothing.

Tensors go by torch.distributed: NCCL between GPUs, gloo otherwise. Whether a helper is still there is seen by its pipe,
before anybody waits for it in a sum: NCCL would wait for minutes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.bases import Loaded
from kmcli.engines.vllm_process import end, how_it_ended, sentence
from kmcli.errors import InterruptedRun, KmError
from kmcli.training.gradients import Gradients, Numbers
from kmcli.training.loop import Student
from kmcli.training.mixture import Mixture
from kmcli.types import Event, Recipe, Reporter

WAIT = timedelta(minutes=5)
"""For another process in a sum, after which torch gives up."""
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True, slots=True)
class Place:
    """A process's in the team. rank: 0 trains. meeting: a file by which they find each other."""

    rank: int
    processes: int
    device: str
    meeting: Path
    threads: int

    @property
    def mine(self) -> slice:
        """Its samples of a batch, which is sorted by length: all get alike."""
        return slice(self.rank, None, self.processes)

    def take(self) -> None:
        """Compute here from now on."""
        torch.set_num_threads(self.threads)
        if self.device == "cuda":
            torch.cuda.set_device(self.rank)

    def meet(self) -> None:
        """Wait for the others. Only this machine's own network is used."""
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, _LOOPBACK)
        dist.init_process_group(
            "nccl" if self.device == "cuda" else "gloo",
            store=dist.FileStore(str(self.meeting), self.processes),
            rank=self.rank,
            world_size=self.processes,
            timeout=WAIT,
            device_id=torch.device("cuda", self.rank) if self.device == "cuda" else None,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What a helper is to train. folder: where the teacher's targets are. text: the document's."""

    mixture: Mixture
    recipe: Recipe
    folder: Path
    tokens: int
    """Of a pass, to begin with."""
    text: str = ""
    shelf: Shelf = EMPTY


@dataclass(frozen=True, slots=True)
class Step:
    """A step's number, and what was written for it (`skd`), where that has changed."""

    number: int
    written: dict[str, list[int]] | None


@dataclass(frozen=True, slots=True)
class Share:
    """A helper's answer: its share of the step's numbers, and which parameters have gradients."""

    numbers: dict[str, float]
    touched: list[bool]


class Helper:
    """A process that helps, and the pipe to it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.pipe, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kmcli.training.helper", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                env=_QUIET | dict(os.environ),
                text=True,
                start_new_session=True,  # Ctrl-C is for the process that trains, which then ends it
            )

    def receive(self, report: Reporter) -> Any:
        """Its next message; what it tells the person is passed on. Raises EOFError where there will be none, KmError where
        it failed of that."""
        while isinstance(message := self.pipe.recv(), Event):
            report(message)
        if isinstance(message, KmError):
            raise message
        return message

    def close(self, seconds: float) -> None:
        """seconds: that it has to leave by itself, for its pipe is closed already."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        end(self.process)
        self.log.close()


class Team:
    """The helpers of one training, from their start to `close`."""

    def __init__(self, loaded: Loaded, processes: int, report: Reporter, text: str = "", shelf: Shelf = EMPTY) -> None:
        """They begin to load the base, which `meet` waits for. text: the document's."""
        self.text, self.shelf = text, shelf
        device = loaded.device.type
        self.report = report
        self.folder = tempfile.TemporaryDirectory(prefix="km-team-")
        self.threads = torch.get_num_threads()
        threads = max(1, self.threads // processes) if device == "cpu" else self.threads
        self.place = Place(0, processes, device, Path(self.folder.name) / "meeting", threads)
        self.helpers: list[Helper] = []
        report(Event("train", f"{processes} processes share each step"))
        try:
            for rank in range(1, processes):
                self.helpers.append(Helper(rank))
                self.helpers[-1].pipe.send((loaded.base, loaded.bits, replace(self.place, rank=rank)))
        except BaseException:
            self.close()
            raise

    def meet(self, student: Student, tokens: int) -> None:
        """Give the helpers their work; they wait for `Step` from now on. Raises KmError where one cannot load the base."""
        with self.watching(student, tokens):
            for helper in self.helpers:
                helper.receive(self.report)
            self.place.take()
            for helper in self.helpers:
                first = replace(student.mixture, views=list(student.renewal.first))
                helper.pipe.send(Work(first, student.recipe, student.folder, tokens, self.text, self.shelf))
            self.place.meet()

    @contextmanager
    def watching(self, student: Student, tokens: int) -> Iterator[None]:
        """Within it a helper that is gone ends the training as Ctrl-C would: with a checkpoint. tokens: of a pass.

        Raises InterruptedRun.
        """
        try:
            yield
        except (EOFError, OSError, RuntimeError):
            lost = self._lost()
            if lost is None:
                raise
            if student.progress.step:
                student.keep(tokens, stop=True)
            how = sentence(how_it_ended(lost.process, lost.log))
            raise InterruptedRun(
                f"process {lost.rank + 1} of {self.place.processes} ended ({how}); nothing is lost.",
                "The same command goes on from there; in one process with --processes 1.",
            ) from None

    def _lost(self) -> Helper | None:
        """A helper that is gone, or soon will be: a pipe may close before its process has ended."""
        for _ in range(50):
            for helper in self.helpers:
                if helper.process.poll() is not None:
                    return helper
            time.sleep(0.1)
        return None

    def close(self) -> None:
        met, whole = dist.is_initialized(), all(helper.process.poll() is None for helper in self.helpers)
        for helper in self.helpers:
            helper.pipe.close()
        if met and (whole or self.place.device != "cuda"):  # NCCL would wait for one that is gone
            dist.destroy_process_group()
        for helper in self.helpers:
            helper.close(10 if met else 0)
        torch.set_num_threads(self.threads)
        self.folder.cleanup()


class Shared:
    """A student's gradients, its samples shared with the helpers."""

    def __init__(self, team: Team, gradients: Gradients, student: Student) -> None:
        self.team, self.own = team, gradients
        self.own.mine = team.place.mine
        self.written: dict[str, list[int]] | None = None
        team.meet(student, gradients.tokens)

    @property
    def tokens(self) -> int:
        """Of a pass of the first process."""
        return self.own.tokens

    def close(self) -> None:
        self.own.close()

    def compute(self, students: Sequence[Student]) -> tuple[list[Numbers], list[tuple[Student, KmError]]]:
        """As of Gradients. Raises InterruptedRun where a helper is gone."""
        (student,) = students
        progress, helpers = student.progress, self.team.helpers
        written = progress.written if progress.written is not self.written else None
        self.written = progress.written
        with self.team.watching(student, self.tokens):
            for helper in helpers:
                helper.pipe.send(Step(progress.step, written))
            spread(student)
        numbers, failed = self.own.compute(students)
        if failed:
            return numbers, failed
        with self.team.watching(student, self.tokens):
            try:
                shares: list[Share] = [helper.receive(self.team.report) for helper in helpers]
            except KmError as error:
                return [], [(student, error)]
            sums = summed(student)
        # Where no process has a gradient there is none, as of an expert that no token chose.
        anywhere = [any(some) for some in zip(touched(student), *(share.touched for share in shares), strict=True)]
        for parameter, own, some in zip(student.parameters.values(), sums, anywhere, strict=True):
            parameter.grad = own if some else None
        for share in shares:
            for name, value in share.numbers.items():
                numbers[0][name] = numbers[0][name] + value
        return numbers, failed


def spread(student: Student) -> None:
    """Give the first process's adapter to all."""
    parameters = list(student.parameters.values())
    values = parameters_to_vector(parameters).detach()
    dist.broadcast(values, src=0)
    if dist.get_rank():
        vector_to_parameters(values, parameters)


def touched(student: Student) -> list[bool]:
    return [parameter.grad is not None for parameter in student.parameters.values()]


def summed(student: Student) -> list[torch.Tensor]:
    """All processes' gradients added up, for the first process; elsewhere they mean nothing."""
    parameters = list(student.parameters.values())
    sums = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in parameters])
    dist.reduce(sums, dst=0)
    pieces = sums.split([one.numel() for one in parameters])
    return [piece.view_as(one) for one, piece in zip(parameters, pieces, strict=True)]
