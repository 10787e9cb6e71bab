"""A training's schedule: how many steps, at which rate, on which samples, when the held-out loss is measured, and when that
ends it. All of it by the step count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kmcli.training import WHOLE, Stretch
from kmcli.training.checkpoint import Progress
from kmcli.training.mixture import Mixture
from kmcli.types import Recipe, View

EVALUATE_EVERY = 25
EVALUATIONS = 24
"""Held-out evaluations of a run at most, never more often than EVALUATE_EVERY steps: a long run may stand still longer."""
PATIENCE = 4
"""Evaluations without a better held-out loss before training stops early."""
WORDINGS = 3
"""A fact that is asked about in fewer words counts as so many samples: it is read as often as others before a run ends."""


def planned_steps(mixture: Mixture, recipe: Recipe) -> int:
    """Steps of a document's training, where nothing ends it early."""
    largest = max(max(len(part.training), WORDINGS * part.facts) for part in mixture.parts)
    return mixture.turns * (recipe.steps or math.ceil(recipe.epochs * largest / recipe.batch))


def evaluate_every(steps: int) -> int:
    """After how many steps the held-out loss is measured, in a run of so many."""
    return max(EVALUATE_EVERY, steps // EVALUATIONS)


def stalled(progress: Progress, every: int) -> bool:
    """Whether the held-out loss, measured after `every` steps, has not become better for too long."""
    return progress.best is not None and progress.step - progress.best_step >= PATIENCE * every


def learning_rate_factor(step: int, steps: int, recipe: Recipe, stretch: Stretch = WHOLE) -> float:
    """Linear warm-up over recipe.warmup of the steps, then cosine or linear decay to zero. step counts from 0.

    A stretch has its part of the whole schedule's decay, and a warm-up of its own, for its optimiser is new.
    """
    warm = max(1, round(recipe.warmup * steps))
    before, whole = stretch.before * steps, (stretch.before + 1 + stretch.after) * steps
    along = max(0.0, before + step - warm) / max(1, whole - warm)
    decayed = 0.5 * (1 + math.cos(math.pi * along)) if recipe.schedule == "cosine" else 1 - along
    return decayed * min(1.0, (step + 1) / warm)


def batch_of(step: int, training: Sequence[View], batch: int, seed: int) -> list[int]:
    """Which samples a step trains on: each epoch a new order, like lengths side by side to save padding."""
    per_epoch = math.ceil(len(training) / batch)
    epoch, position = divmod(step, per_epoch)
    random = torch.Generator().manual_seed(seed * 7919 + epoch)
    order = torch.randperm(len(training), generator=random).tolist()
    window = batch * 8
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        some = sorted(order[start : start + window], key=lambda i: len(training[i].student_ids))
        batches += [some[i : i + batch] for i in range(0, len(some), batch)]
    return batches[torch.randperm(len(batches), generator=random).tolist()[position]]
