"""Teacher targets: the states of the base with the chunk in context, computed once per sample and kept in memory.

The teacher is fixed and reads the same tokens every epoch, so computing it again would give the same numbers. What does
not fit the budget is computed when it is needed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import torch

from kmcli.bases import Loaded
from kmcli.training.forward import scored_states
from kmcli.types import Event, Reporter, View

BUDGET_BYTES = 2 << 30
TOKENS_PER_BATCH = 4096


class Teacher:
    """Targets (L, n, D) per view, on the training device when asked for."""

    def __init__(self, model: Any, loaded: Loaded, views: Sequence[View], budget: int = BUDGET_BYTES) -> None:
        """model: the student; its adapter is switched off while the teacher reads."""
        self.model, self.loaded, self.views, self.budget = model, loaded, list(views), budget
        self.kept: dict[int, torch.Tensor] = {}

    def precompute(self, report: Reporter, later: Container[int] = ()) -> None:
        """Compute the targets of every view that has a teacher and that the budget reaches, longest rows last.

        later: views that `put` brings targets for.
        """
        taught = [i for i, view in enumerate(self.views) if view.teacher_ids is not None and i not in later]
        if not taught:
            return
        spent = done = 0
        report(Event("teacher", "reading the document as the teacher", 0, len(taught)))
        for batch in self._batches(taught):
            if spent >= self.budget:
                break
            for index, target in self._compute(batch):
                self.kept[index] = target.cpu()
                spent += target.numel() * target.element_size()
            done += len(batch)
            report(Event("teacher", "", done, len(taught)))
        report(Event("teacher", "", len(taught), len(taught)))

    def put(self, index: int, view: View, target: torch.Tensor | None) -> None:
        """Another view in the place of one, and its targets (L, n, D) where they are known; whatever the budget."""
        self.views[index] = view
        self.kept.pop(index, None)
        if target is not None:
            self.kept[index] = target.cpu()

    def targets(self, indices: Sequence[int]) -> torch.Tensor:
        """States (L, N, D) of several views, their scored tokens one after the other."""
        found = {i: self.kept[i].to(self.loaded.device) for i in indices if i in self.kept}
        for batch in self._batches([i for i in indices if i not in found]):
            found.update(self._compute(batch))
        return torch.cat([found[i] for i in indices], dim=1)

    def _compute(self, indices: Sequence[int]) -> list[tuple[int, torch.Tensor]]:
        rows = [self._row(i) for i in indices]
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.model.disable_adapter():
            states = scored_states(self.model, self.loaded, rows)
        self.model.train(training)
        return list(zip(indices, states.split([sum(mask) for _, mask in rows], dim=1), strict=True))

    def _row(self, index: int) -> tuple[list[int], list[bool]]:
        view = self.views[index]
        if view.teacher_ids is None or view.teacher_mask is None:
            raise ValueError("this objective's views have no teacher")
        return view.teacher_ids, view.teacher_mask

    def _batches(self, indices: Iterable[int]) -> Iterator[list[int]]:
        """The views in groups of at most TOKENS_PER_BATCH tokens with padding, shortest rows first."""
        batch: list[int] = []
        for index in sorted(indices, key=lambda i: len(self._row(i)[0])):
            if batch and len(self._row(index)[0]) * (len(batch) + 1) > TOKENS_PER_BATCH:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch
