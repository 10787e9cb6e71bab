"""The training loop: model, views, teacher and recipe in; a trained adapter and its metrics out. Draws nothing.

Everything is decided by the step count, never by the clock, so that a resumed run does what an uninterrupted one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.objectives.losses import forward_kl, hidden_distance
from kmcli.training.checkpoint import Progress, deferred_interrupt, restore, restore_best, save, save_best
from kmcli.training.forward import logits, scored_states
from kmcli.training.teacher import Teacher
from kmcli.types import Event, Recipe, Reporter, View

CHECKPOINT_EVERY = 50
EVALUATE_EVERY = 25
PATIENCE = 4
"""Evaluations without a better held-out loss before training stops early."""


def run(
    model: Any,
    loaded: Loaded,
    training: Sequence[View],
    held_out: Sequence[View],
    recipe: Recipe,
    folder: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Train the adapter in place; leave it at its best. Returns metrics.

    folder: where checkpoints go; a checkpoint found there is continued. Raises InterruptedRun after Ctrl-C, KmError where
    the loss is no longer a number.
    """
    parameters = lora.trainable(model)
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.steps or math.ceil(recipe.epochs * len(training) / recipe.batch)
    progress = restore(folder, parameters, optimiser) or Progress()
    views = [*training, *held_out]
    teacher = Teacher(model, loaded, views)
    teacher.precompute(report)
    validation = range(len(training), len(views))
    started, first_step = time.monotonic(), progress.step
    model.train()
    with deferred_interrupt() as interrupted:
        while progress.step < steps and not _stalled(progress, recipe, held_out):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(progress.step, steps, recipe)
            torch.manual_seed(recipe.seed * 1_000_003 + progress.step)  # dropout, the same after a resume
            batch = batch_of(progress.step, training, recipe)
            loss, parts = _loss(model, loaded, views, batch, teacher, recipe)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), recipe.clip)
            optimiser.step()
            progress.step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise KmError(
                    f"training diverged at step {progress.step}: the loss is not a number.",
                    f"Try a lower learning rate: --restart --set learning_rate={recipe.learning_rate / 3:.1g}",
                )
            progress.curve.append({"step": progress.step, "loss": value, **parts})
            if held_out and (progress.step % EVALUATE_EVERY == 0 or progress.step == steps):
                _evaluate(model, loaded, views, validation, teacher, recipe, progress, parameters, folder)
            if interrupted() or progress.step % CHECKPOINT_EVERY == 0:
                save(folder, parameters, optimiser, progress)
            shown = {"loss": value} | ({"held out": progress.last} if progress.last is not None else {})
            report(Event("train", "", progress.step, steps, shown))
            if interrupted():
                raise InterruptedRun(
                    f"stopped at step {progress.step} of {steps}; nothing is lost.",
                    "The same command goes on from there.",
                )
    if progress.best is not None:
        restore_best(folder, parameters)
    model.eval()
    seconds = time.monotonic() - started
    return {
        "steps": progress.step,
        "planned_steps": steps,
        "stopped_early": progress.step < steps,
        "train_loss": progress.curve[-1]["loss"] if progress.curve else None,
        "held_out_loss": progress.best,
        "seconds": round(seconds, 3),
        "steps_per_second": round((progress.step - first_step) / seconds, 3) if seconds else None,
        "training_samples": len(training),
        "held_out_samples": len(held_out),
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


def _loss(
    model: Any, loaded: Loaded, views: Sequence[View], batch: Sequence[int], teacher: Teacher, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, float]]:
    target_LND = teacher.targets(batch)
    student_LND = scored_states(model, loaded, [(views[i].student_ids, views[i].student_mask) for i in batch])
    with torch.no_grad():
        teacher_NV = logits(model, target_LND[-1])
    kl = forward_kl(teacher_NV, logits(model, student_LND[-1]))
    hidden = hidden_distance(target_LND, student_LND)
    loss = recipe.kl_weight * kl + recipe.hidden_weight * hidden
    return loss, {"kl": float(kl.detach()), "hidden": float(hidden.detach())}


def _evaluate(
    model: Any,
    loaded: Loaded,
    views: Sequence[View],
    validation: range,
    teacher: Teacher,
    recipe: Recipe,
    progress: Progress,
    parameters: dict[str, torch.nn.Parameter],
    folder: Path,
) -> None:
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(validation), recipe.batch):
            batch = validation[start : start + recipe.batch]
            scored = sum(sum(views[i].student_mask) for i in batch)
            total += float(_loss(model, loaded, views, batch, teacher, recipe)[0]) * scored
            tokens += scored
    model.train()
    progress.last = total / max(1, tokens)
    if progress.best is None or progress.last < progress.best:
        progress.best, progress.best_step = progress.last, progress.step
        save_best(folder, parameters)


def _stalled(progress: Progress, recipe: Recipe, held_out: Sequence[View]) -> bool:
    return bool(
        recipe.early_stopping
        and held_out
        and progress.best is not None
        and progress.step - progress.best_step >= PATIENCE * EVALUATE_EVERY
    )
