"""What a teacher's predictions come to, computed once: then no step makes its logits, which are a sixth of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from kmcli.objectives.predicted import Predicted, summary
from kmcli.training.forward import causal, logits
from kmcli.training.mixture import Mixture
from kmcli.training.teacher import Teacher
from kmcli.types import Recipe, View

BYTES = 256 << 20
"""Of memory, at most; where it does not suffice for all views, no summaries are made: what a view's loss rounds to must not
depend on which of them came first."""
TOGETHER = 16
"""Views of a group."""


class Summaries:
    """`Teacher.targets` with the summaries of views, all of them made when the first are asked for: in an order and in
    groups that are the same for a resumed training, which then rounds alike."""

    def __init__(self, model: Any, teacher: Teacher, views: Sequence[View]) -> None:
        self._head = partial(logits, model)
        self._teacher, self._views = teacher, views
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def targets(self, indices: Sequence[int]) -> Predicted:
        if not self._kept:
            taught = [index for index, view in enumerate(self._views) if view.teacher_ids is not None]
            for start in range(0, len(taught), TOGETHER):
                self._make(taught[start : start + TOGETHER])
        means, sizes = zip(*(self._kept[i] for i in indices), strict=True)
        return Predicted(self._teacher.targets(indices), torch.cat(means), torch.cat(sizes))

    def _make(self, indices: Sequence[int]) -> None:
        counts = [sum(self._views[i].student_mask) for i in indices]
        mean_ND, size_N = summary(self._teacher.targets(indices)[-1], self._head)
        parts = zip(mean_ND.split(counts), size_N.split(counts), strict=True)
        self._kept.update(zip(indices, parts, strict=True))


def worth_it(model: Any, mixture: Mixture, recipe: Recipe, steps: int) -> bool:
    """Whether a training gains by summaries, and may have them: the base has a linear head in fp32, on a processor, the
    divergence is the forward one, and views are read twice at least."""
    base = causal(model)
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    if (
        recipe.divergence != "forward"
        or type(head) is not torch.nn.Linear
        or head.weight.dtype != torch.float32
        or head.weight.device.type != "cpu"
        or getattr(config, "final_logit_softcapping", None)
    ):
        return False
    read = min((steps * part.batch / max(1, len(part.training)) for part in mixture.parts), default=0.0)
    scored = sum(sum(view.student_mask) for view in mixture.views)
    return read >= 2 and 4 * (head.in_features + 1) * scored <= BYTES
