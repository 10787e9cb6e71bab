"""A teacher other than the base: its predictions at the scored positions, computed before the base is trained. It is another
model, or the base with the adapter that training begins with.

Two models need not fit in memory, so the teacher writes what it predicts to the file of `targets`, and is closed. There
they are kept for a training that is resumed; of what is missing then, the teacher is asked again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from kmcli.bases import Loaded
from kmcli.bases.vocabulary import Reader, size
from kmcli.errors import ResourceError
from kmcli.objectives.fused import slices
from kmcli.objectives.top_k import TopK, top_k, unpacked
from kmcli.training import packed, targets
from kmcli.training.forward import check_head, decoder, layers_of, logits, scored_states
from kmcli.training.mixture import Mixture
from kmcli.training.teacher import Row, batches, row_of, together
from kmcli.types import Event, Recipe, Reporter, View


def before(loaded: Loaded, mixture: Mixture, recipe: Recipe, folder: Path) -> Predictions:
    """What the adapter that training begins with predicts where that is to stay: in a folder of its own."""
    own = folder / "before"
    own.mkdir(exist_ok=True)
    return Predictions(loaded, mixture.views, recipe, own, mixture.as_before, recipe.init_revision)


class Predictions:
    """What the recipe's teacher predicts for views, kept in a folder; for a training that takes nothing else of it."""

    def __init__(
        self,
        base: Loaded | Reader,
        views: Sequence[View],
        recipe: Recipe,
        folder: Path,
        only: range | None = None,
        revision: str = "",
    ) -> None:
        """base: the student. only: the views that it teaches; None: all. revision: of the teacher, where it is not the
        recipe's."""
        self.views, self.recipe, self.folder = views, recipe, folder
        self.vocabulary = size(base)
        self.device = base.device if isinstance(base, Loaded) else torch.device("cpu")
        whose = f"{revision or recipe.teacher_revision} {recipe.teacher_top_k} of {self.vocabulary}"
        taught = range(len(views)) if only is None else only
        self.keys = [targets.key(view, whose) if i in taught else None for i, view in enumerate(views)]
        self.store = targets.Targets(folder, memory=0)

    def missing(self) -> list[int]:
        """The views whose predictions are still to be computed, each but once."""
        keys = [(i, key) for i, key in enumerate(self.keys) if key is not None]
        return list({key: i for i, key in keys if self.store.get(key) is None}.values())

    def compute(self, teacher: Loaded, report: Reporter, adapted: Any = None) -> None:
        """Compute what is missing. adapted: the teacher with an adapter on it. Raises ResourceError where the disk has no
        room for it."""
        model = teacher.model if adapted is None else adapted
        todo = self.missing()
        rows = {i: row_of(self.views[i]) for i in todo}
        total = len({key for key in self.keys if key is not None})
        done = total - len(todo)
        what = f"reading the document as {teacher.base.name}" if adapted is None else "noting what it answers so far"
        report(Event("teacher", what, done, total))
        if todo:
            check_head(model, teacher, rows[todo[0]])

        last = [layers_of(model) - 1]

        def read(rows: Sequence[Row]) -> list[torch.Tensor]:
            states_ND = scored_states(model, teacher, rows, share=True, layers=last)[0]
            kept = self._likeliest(model, states_ND).packed()
            return list(kept.split([sum(mask) for _, mask in rows], dim=1))

        for batch in batches(rows, packed.can_pack(decoder(model))):
            for index, kept in zip(batch, together(model, [rows[i] for i in batch], read), strict=True):
                if not self.store.put(self._key(index), kept):
                    raise self._no_room(rows)
            done += len(batch)
            report(Event("teacher", "", done, total))

    def precompute(self, report: Reporter, later: Collection[int] = ()) -> None:
        """As of `Teacher`, which computes them here; these must be there. Raises ResourceError where they are not."""
        if self.missing():
            raise self._gone()

    def targets(self, indices: Sequence[int]) -> TopK:
        """Of several views, their scored tokens one after the other. Raises ResourceError where they are gone."""
        found = [self.store.get(self._key(index)) for index in indices]
        if any(one is None for one in found):
            raise self._gone()
        kept = unpacked(torch.cat([one for one in found if one is not None], dim=1))
        return TopK(kept.indices.to(self.device), kept.log_probs.to(self.device))

    def put(self, index: int, view: View, target: torch.Tensor | None) -> None:
        raise ValueError("views are not renewed under a teacher other than the base")

    def close(self) -> None:
        self.store.close()

    def _likeliest(self, model: Any, states_ND: torch.Tensor) -> TopK:
        """Among the tokens that there are: heads may be wider, and of two bases not alike."""

        def head(states: torch.Tensor) -> torch.Tensor:
            return logits(model, states)[:, : self.vocabulary]

        parts = [top_k(head(states_ND[part]).float(), self.recipe.teacher_top_k) for part, _ in slices(states_ND, head)]
        return TopK(torch.cat([one.indices for one in parts]), torch.cat([one.log_probs for one in parts]))

    def _key(self, index: int) -> bytes:
        key = self.keys[index]
        if key is None:
            raise ValueError("a view of this objective has no teacher")
        return key

    def _no_room(self, rows: dict[int, Row]) -> ResourceError:
        k = min(self.recipe.teacher_top_k, self.vocabulary)
        needed = sum(sum(mask) for _, mask in rows.values()) * (6 * k + 2)
        return ResourceError(
            f"the disk has no room for what {self.recipe.teacher} predicts: it takes {needed / 1e6:,.1f} MB, and is kept "
            f"while no more than half of the free space is used.",
            "Free some space, or keep fewer: --set teacher_top_k=16",
        )

    def _gone(self) -> ResourceError:
        return ResourceError(
            f"what {self.recipe.teacher} predicts is no longer in {self.folder / targets.FILE}.",
            "The same command computes it again, and goes on.",
        )
