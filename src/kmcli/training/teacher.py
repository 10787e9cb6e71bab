"""Teacher targets: the states of the base with the chunk in context, computed once per sample.

The teacher is fixed and reads the same tokens every epoch, so computing it again would give the same numbers. A chunk is
read once for all of its samples. What the budget of `targets` does not reach is computed when it is needed.

Another teacher than the base stands in `predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from kmcli.bases import Loaded
from kmcli.engines import prefixes
from kmcli.training import packed, targets
from kmcli.training.forward import SHORT_OF_MEMORY, decoder, layers_of, out_of_memory, scored_states, too_large
from kmcli.types import Event, Reporter, View

TOKENS_PER_BATCH = 4096
"""Read together, a shared chunk counted once; four rows where they are longer than that."""

Row = tuple[list[int], list[bool]]
"""Ids, and which of them are scored."""

Given = TypeVar("Given", Row, tuple[list[int], list[int], int])
Found = TypeVar("Found")


class Teacher:
    """Targets (K, n, D) per view, of the K layers that are wanted, on the training device and in the base's numbers when
    asked for."""

    def __init__(
        self,
        model: Any,
        loaded: Loaded,
        views: Sequence[View],
        budget: int = targets.MEMORY_BYTES,
        folder: Path | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        """model: the student; its adapter is switched off while the teacher reads. folder: for what memory does not hold.
        layers: whose states are wanted, counted from 0; None: all layers'."""
        self.model, self.loaded, self.views = model, loaded, views
        self.layers = list(range(layers_of(model))) if layers is None else list(layers)
        self.keys = [self._new_key(view) for view in views]
        self.store = targets.Targets(folder, budget)
        self.replaced: dict[int, View] = {}

    def precompute(self, report: Reporter, later: Collection[int] = ()) -> None:
        """Compute the targets of every view that has a teacher, as far as there is room to keep them.

        later: views that `put` brings targets for.
        """
        keys = [(i, key) for i, key in enumerate(self.keys) if key is not None and i not in later]
        if not keys:
            return
        todo = list({key: i for i, key in keys if self.store.get(key) is None}.values())  # in a mix views may be alike
        report(Event("teacher", "reading the document as the teacher", 0, len(keys)))
        done = len(keys) - len(todo)
        for batch in self._batches(todo):
            room = [self.store.put(self._key(index), target) for index, target in self._compute(batch)]
            done += len(batch)
            report(Event("teacher", "", done, len(keys)))
            if not any(room):
                break
        report(Event("teacher", "", len(keys), len(keys)))

    def put(self, index: int, view: View, target: torch.Tensor | None) -> None:
        """Another view in the place of one, with targets of all layers; None: they are computed when they are needed."""
        before = self._key(index)
        self.replaced[index] = view
        self.keys[index] = self._new_key(view)
        if before not in self.keys:  # else another part of a mix has the same view
            self.store.forget(before)
        if target is not None and self.store.get(self._key(index)) is None:
            self.store.put(self._key(index), target[self.layers])

    def targets(self, indices: Sequence[int]) -> torch.Tensor:
        """States (K, N, D) of several views, their scored tokens one after the other."""
        where: dict[str, Any] = {"device": self.loaded.device, "dtype": self.loaded.model.dtype}
        found = {i: kept.to(**where) for i in indices if (kept := self.store.get(self._key(i))) is not None}
        for batch in self._batches([i for i in dict.fromkeys(indices) if i not in found]):
            # In the numbers that are kept, so that it makes no difference which samples the budget reached.
            found.update((i, targets.half(target).to(**where)) for i, target in self._compute(batch))
        return torch.cat([found[i] for i in indices], dim=1)

    def close(self) -> None:
        self.store.close()

    def _compute(self, indices: Sequence[int]) -> list[tuple[int, torch.Tensor]]:
        """Targets of some views, read together."""

        def read(rows: Sequence[Row]) -> list[torch.Tensor]:
            with self.model.disable_adapter():
                states = scored_states(self.model, self.loaded, rows, share=True, layers=self.layers)
            return list(states.split([sum(mask) for _, mask in rows], dim=1))

        return list(zip(indices, together(self.model, [self._row(i) for i in indices], read), strict=True))

    def _row(self, index: int) -> Row:
        return row_of(self.replaced.get(index, self.views[index]))

    def _new_key(self, view: View) -> bytes | None:
        bits = f" {self.loaded.bits} bits" if self.loaded.bits else ""
        return targets.key(view, f"{self.loaded.base.revision} {self.layers}{bits}")

    def _key(self, index: int) -> bytes:
        key = self.keys[index]
        if key is None:
            raise ValueError("a view of this objective has no teacher")
        return key

    def _batches(self, indices: Iterable[int]) -> Iterator[list[int]]:
        rows = {i: self._row(i) for i in indices}
        yield from batches(rows, packed.can_pack(decoder(self.model)))


def row_of(view: View) -> Row:
    """What the teacher reads."""
    if view.teacher_ids is None or view.teacher_mask is None:
        raise ValueError("a view of this objective has no teacher")
    return view.teacher_ids, view.teacher_mask


def batches(rows: Mapping[int, Row], share: bool) -> Iterator[list[int]]:
    """The rows, by their numbers, in groups of at most TOKENS_PER_BATCH tokens, those of one chunk together.

    share: what they have in common is read once.
    """
    if not rows:
        return
    answers = {i: len(ids) - mask.index(True) + 1 if any(mask) else 1 for i, (ids, mask) in rows.items()}
    heads = {i: ids[: len(ids) - answers[i] + 1] for i, (ids, _) in rows.items()}
    budget = max(TOKENS_PER_BATCH, 4 * max(len(ids) for ids, _ in rows.values()))
    found = [heads.get(i, []) for i in range(max(rows) + 1)]
    for batch in prefixes.plan(found, list(rows), max(answers.values()), budget, share):
        yield [i for group in batch for i in group.rows]


def together(model: Any, rows: Sequence[Given], read: Callable[[Sequence[Given]], list[Found]]) -> list[Found]:
    """What `read` makes of each row, without gradients and dropout; of half of them at a time where memory is short.

    A row begins with what is read. Raises ResourceError where memory does not suffice for one.
    """
    training = model.training
    model.eval()
    found = None
    try:
        with torch.no_grad():
            found = read(rows)
    except SHORT_OF_MEMORY as error:
        if not out_of_memory(error):
            raise
    finally:
        model.train(training)
    if found is None:
        if len(rows) == 1:
            raise too_large(len(rows[0][0]))
        middle = len(rows) // 2
        return together(model, rows[:middle], read) + together(model, rows[middle:], read)
    return found
