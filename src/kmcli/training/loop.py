"""The training loop: model, views, teacher and recipe in; a trained adapter and its metrics out. Draws nothing.

Everything is decided by the step count, never by the clock, so that a resumed run does what an uninterrupted one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.training.checkpoint import Progress, bring_back, copy, deferred_interrupt, restore, save
from kmcli.training.forward import check_head, logits, scored_states
from kmcli.training.mixture import Mixture, Part
from kmcli.training.skd import Renewal
from kmcli.training.teacher import Teacher
from kmcli.types import Event, Recipe, Reporter, View

CHECKPOINT_EVERY = 50
EVALUATE_EVERY = 25
EVALUATIONS = 24
"""Held-out evaluations of a run at most, never more often than EVALUATE_EVERY steps: a long run may stand still longer."""
PATIENCE = 4
"""Evaluations without a better held-out loss before training stops early."""

Loss = Callable[[Sequence[int]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""The objective on some of the views, by their indices: the loss, and its terms by name."""


def run(
    model: Any,
    loaded: Loaded,
    mixture: Mixture,
    recipe: Recipe,
    folder: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Train the adapter in place; with early stopping leave it at its best. Returns metrics.

    folder: where the checkpoint goes; one found there is continued. Raises InterruptedRun after Ctrl-C, KmError where the
    loss is no longer a number.
    """
    parameters = lora.trainable(model)
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    largest = max(len(part.training) for part in mixture.parts)
    steps = recipe.steps or math.ceil(recipe.epochs * largest / recipe.batch)
    every = max(EVALUATE_EVERY, steps // EVALUATIONS)
    progress, best = restore(folder, parameters, optimiser)
    views = mixture.views
    check_head(model, loaded, (views[0].student_ids, views[0].student_mask))
    teacher = Teacher(model, loaded, views)
    renewal = Renewal(model, loaded, mixture, teacher, recipe)
    teacher.precompute(report, later=renewal.indices)
    renewal.restore(progress.written)
    head = partial(logits, model)

    def loss_of(part: Part, indices: Sequence[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student_LND = scored_states(model, loaded, [(views[i].student_ids, views[i].student_mask) for i in indices])
        return mixture.loss(part, indices, student_LND, teacher.targets, head, recipe)

    def batch(part: Part, step: int) -> list[int]:
        own = renewal.first[part.training.start : part.training.stop]
        return [part.training[place] for place in batch_of(step, own, recipe)]

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of a batch of every part."""
        losses, terms = zip(*(loss_of(part, batch(part, step)) for part in mixture.parts), strict=True)
        return sum(losses[1:], losses[0]), {name: term for named in terms for name, term in named.items()}

    started, first_step = time.monotonic(), progress.step
    model.train()
    with deferred_interrupt() as interrupted:
        while progress.step < steps and not _stalled(progress, recipe, every):
            if renewal.indices and progress.step % recipe.skd_every == 0:
                soon = range(progress.step, min(steps, progress.step + recipe.skd_every))
                coming = (batch(part, step) for step in soon for part in mixture.parts)
                progress.written = renewal.renew(progress.step, coming)
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(progress.step, steps, recipe)
            torch.manual_seed(recipe.seed * 1_000_003 + progress.step)  # dropout, the same after a resume
            loss, terms = loss_at(progress.step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), recipe.clip)
            # All numbers in one transfer: an accelerator stands still for each.
            value, length, *parts = torch.stack([loss, norm, *terms.values()]).tolist()
            if not math.isfinite(value + length):
                raise _diverged(progress.step + 1, recipe)
            optimiser.step()
            progress.step += 1
            progress.curve.append({"step": progress.step, "loss": value, **dict(zip(terms, parts, strict=True))})
            if mixture.held_out and (progress.step % every == 0 or progress.step == steps):
                progress.last = sum(
                    _evaluate(model, partial(loss_of, part), views, part.held_out, recipe)
                    for part in mixture.parts
                    if part.held_out
                )
                if not math.isfinite(progress.last):
                    raise _diverged(progress.step, recipe)
                if progress.best is None or progress.last < progress.best:
                    progress.best, progress.best_step = progress.last, progress.step
                    best = copy(parameters)
            stop = interrupted()
            if stop or progress.step % CHECKPOINT_EVERY == 0:
                save(folder, parameters, optimiser, progress, best)
            shown = {"loss": value} | ({"held out": progress.last} if progress.last is not None else {})
            report(Event("train", "", progress.step, steps, shown))
            if stop:
                raise InterruptedRun(
                    f"stopped at step {progress.step} of {steps}; nothing is lost.",
                    "The same command goes on from there.",
                )
    if recipe.early_stopping and best:
        bring_back(parameters, best)
    model.eval()
    seconds = time.monotonic() - started
    return {
        "steps": progress.step,
        "planned_steps": steps,
        "stopped_early": progress.step < steps,
        "train_loss": progress.curve[-1]["loss"] if progress.curve else None,
        "held_out_loss": progress.best if recipe.early_stopping else progress.last,
        "seconds": round(seconds, 3),
        "steps_per_second": round((progress.step - first_step) / seconds, 3) if seconds else None,
        "training_samples": mixture.training,
        "held_out_samples": mixture.held_out,
        "curve": progress.curve[:: max(1, len(progress.curve) // 200)],
    }


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up over recipe.warmup of the steps, then cosine or linear decay to zero. step counts from 0."""
    warm = max(1, round(recipe.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * along)) if recipe.schedule == "cosine" else 1 - along


def batch_of(step: int, training: Sequence[View], recipe: Recipe) -> list[int]:
    """Which samples a step trains on: each epoch a new order, like lengths side by side to save padding."""
    per_epoch = math.ceil(len(training) / recipe.batch)
    epoch, position = divmod(step, per_epoch)
    random = torch.Generator().manual_seed(recipe.seed * 7919 + epoch)
    order = torch.randperm(len(training), generator=random).tolist()
    window = recipe.batch * 8
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        some = sorted(order[start : start + window], key=lambda i: len(training[i].student_ids))
        batches += [some[i : i + recipe.batch] for i in range(0, len(some), recipe.batch)]
    return batches[torch.randperm(len(batches), generator=random).tolist()[position]]


def _evaluate(model: Any, loss_of: Loss, views: Sequence[View], validation: range, recipe: Recipe) -> float:
    """The loss on held-out views, each batch weighted by its scored tokens."""
    model.eval()
    total = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(validation), recipe.batch):
            batch = validation[start : start + recipe.batch]
            scored = sum(sum(views[i].student_mask) for i in batch)
            total += float(loss_of(batch)[0]) * scored
            tokens += scored
    model.train()
    return total / tokens


def _stalled(progress: Progress, recipe: Recipe, every: int) -> bool:
    if not recipe.early_stopping or progress.best is None:
        return False
    return progress.step - progress.best_step >= PATIENCE * every


def _diverged(step: int, recipe: Recipe) -> KmError:
    return KmError(
        f"training diverged at step {step}: the loss is not a number.",
        f"Try a lower learning rate: --restart --set learning_rate={recipe.learning_rate / 3:.1g}",
    )
