"""A step's gradients: its samples in micro-batches whose losses add up, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.training import packed
from kmcli.training.forward import SHORT_OF_MEMORY, causal, decoder, out_of_memory, scored_states, too_large
from kmcli.training.kernels import NotStackedError, Stacked
from kmcli.training.mixture import Part
from kmcli.types import Event, Reporter, View

if TYPE_CHECKING:
    from kmcli.training.loop import Student

MICRO_TOKENS = {"cpu": 1024}
OTHERWISE = 8192
"""Student tokens of one forward pass. On a processor more take more memory and hardly less time."""


ALL = slice(None)


def micro_batches(
    batch: Sequence[int], views: Sequence[View], tokens: int, mine: slice = ALL
) -> Iterator[tuple[float, list[int]]]:
    """Pieces of a batch of at most `tokens` student tokens, a sample at least; each with its share of the batch's loss,
    which is its share of the scored tokens. mine: which of the batch's samples."""
    scored = sum(sum(views[i].student_mask) for i in batch)
    piece: list[int] = []
    used = 0
    for index in batch[mine]:
        size = len(views[index].student_ids)
        if piece and used + size > tokens:
            yield _share(piece, views, scored), piece
            piece, used = [], 0
        piece.append(index)
        used += size
    if piece:
        yield _share(piece, views, scored), piece


def _share(piece: Sequence[int], views: Sequence[View], scored: int) -> float:
    return sum(sum(views[i].student_mask) for i in piece) / scored if scored else 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of one student and one part of its objective, read at once. share: of the part's loss."""

    student: Student
    part: Part
    indices: list[int]
    share: float

    @property
    def tokens(self) -> int:
        return sum(len(self.student.views[i].student_ids) for i in self.indices)


Numbers = dict[str, torch.Tensor]
"""Of a step, on the device: the loss, and its terms by name."""


class _StudentError(Exception):
    """What one student failed of, in a pass that others may share."""

    def __init__(self, student: Student, error: KmError) -> None:
        super().__init__(str(error))
        self.student, self.error = student, error


class Gradients:
    """Of several students at once, whose samples share forward passes where that can be.

    tokens: of a pass; it is halved when memory runs out, and belongs in the checkpoints: another number rounds in another
    way. together: whether the model can compute several adapters side by side. mine: which samples of every batch are
    computed here (`team`).
    """

    mine = ALL

    def __init__(
        self, model: Any, loaded: Loaded, stacked: Stacked, tokens: int, together: bool, report: Reporter
    ) -> None:
        self.model, self.loaded, self.stacked = model, loaded, stacked
        self.tokens, self.together, self.report = tokens, together, report

    def compute(self, students: Sequence[Student]) -> tuple[list[Numbers], list[tuple[Student, KmError]]]:
        """Leave in the students' parameters the gradients of their next steps. Returns the numbers of each, in their
        order, and the students that failed, as where not even one sample fits in memory: those have none.
        """
        students = list(students)
        failed: list[tuple[Student, KmError]] = []
        while True:
            numbers = {id(student): Numbers() for student in students}
            for student in students:
                for parameter in student.parameters.values():
                    parameter.grad = None
            try:
                stuck = self._try(students, numbers)
            except _StudentError as one:
                failed.append((one.student, one.error))
                students.remove(one.student)
                continue
            if stuck is None:
                return [numbers[id(student)] for student in students], failed
            if len(stuck) == 1 and len(stuck[0].indices) == 1:
                if not self._save_states():
                    failed.append((stuck[0].student, too_large(stuck[0].tokens)))
                    students.remove(stuck[0].student)
                continue
            self.tokens = max(1, min(self.tokens, sum(piece.tokens for piece in stuck)) // 2)
            message = f"memory is short: going on with at most {self.tokens:,} tokens at a time"
            self.report(Event("train", message, warning=True))

    def _save_states(self) -> bool:
        """Keep of a forward pass each layer's result alone, where that can be, and compute the rest again for the gradients:
        the same numbers, in a third more time. Says whether anything is gained by it that was not before."""
        base = causal(self.model)
        if base.is_gradient_checkpointing or not base.supports_gradient_checkpointing:
            return False
        base.gradient_checkpointing_enable({"use_reentrant": False})
        self.report(
            Event("train", "memory is short: each step is computed twice, which takes a third longer", warning=True)
        )
        return True

    def close(self) -> None:
        """Give the model back as it was."""
        base = causal(self.model)
        if base.is_gradient_checkpointing:
            base.gradient_checkpointing_disable()

    def _try(self, students: Sequence[Student], numbers: Mapping[int, Numbers]) -> list[Piece] | None:
        """The pieces of the pass for which memory does not suffice; None where all is done."""
        pieces = [
            Piece(student, part, indices, share)
            for student in students
            for part, batch in student.batches()
            for share, indices in micro_batches(batch, student.views, self.tokens, self.mine)
        ]
        seeded = None
        for some in self._passes(pieces):
            if some[0].student is not seeded:
                seeded = some[0].student
                torch.manual_seed(seeded.seed)  # of dropout; whoever has any reads alone
            try:
                self._pass(some, numbers)
            except NotStackedError:
                self.together = False
                for piece in some:
                    self._pass([piece], numbers)
            except SHORT_OF_MEMORY as error:
                if not out_of_memory(error):
                    raise
                return some
        return None

    def _passes(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Pieces that are read in one forward pass, those of a student one after the other."""
        some: list[Piece] = []
        for piece in pieces:
            fits = sum(one.tokens for one in (*some, piece)) <= self.tokens
            if some and not (fits and self._may_join(some[-1].student, piece.student)):
                yield some
                some = []
            some.append(piece)
        if some:
            yield some

    def _may_join(self, one: Student, other: Student) -> bool:
        alike = one.recipe.rank == other.recipe.rank and not one.recipe.dropout + other.recipe.dropout
        return self.together and alike and one is not other

    def _pass(self, pieces: Sequence[Piece], numbers: Mapping[int, Numbers]) -> None:
        rows = [[piece.student.row(i) for i in piece.indices] for piece in pieces]
        pieces[0].student.kind.activate(self.model, [piece.student.adapter_of(piece.part) for piece in pieces])
        if len(pieces) > 1:
            self.stacked.set([sum(len(ids) for ids, _ in some) for some in rows])
        states_LND = scored_states(
            self.model, self.loaded, [row for some in rows for row in some], documents=[len(some) for some in rows]
        )
        counts = [sum(sum(mask) for _, mask in some) for some in rows]
        losses = []
        for piece, own_LND in zip(pieces, states_LND.split(counts, dim=1), strict=True):
            try:
                loss, terms = piece.student.loss(piece.part, piece.indices, own_LND)
            except KmError as error:  # its teacher's predictions are gone
                if out_of_memory(error):
                    raise
                raise _StudentError(piece.student, error) from None
            losses.append(piece.share * loss)
            sums = numbers[id(piece.student)]
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + piece.share * value.detach()
        base = decoder(self.model)
        with packed.attending(base) if packed.can_pack(base) else nullcontext():
            torch.stack(losses).sum().backward()
