"""One document's training, step by step: its batches, loss, clipping, optimiser, schedule and end. Draws nothing.

`many.run` takes the steps, of one document or several. Everything is decided by the step count, never by the clock, so that
a resumed run does what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kmcli.adapters import ADAPTERS
from kmcli.adapters.folder import FIRST
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.objectives import AS_BEFORE
from kmcli.objectives.losses import kept_layers
from kmcli.training import WHOLE, Stretch, figures, targets
from kmcli.training.checkpoint import bring_back, copy, restore, save
from kmcli.training.forward import SHORT_OF_MEMORY, layers_of, logits, out_of_memory, scored_states, too_large
from kmcli.training.mixture import Mixture, Part
from kmcli.training.predictions import Predictions, before
from kmcli.training.schedule import batch_of, evaluate_every, learning_rate_factor, planned_steps, stalled
from kmcli.training.skd import Renewal
from kmcli.training.summaries import Summaries, worth_it
from kmcli.training.teacher import Teacher
from kmcli.types import Event, Recipe, Reporter, View

if TYPE_CHECKING:
    from kmcli.objectives.losses import Taught

CHECKPOINT_EVERY = 50
DIVERGED, HARMLESS = 3.0, 1.0
"""A training has gone wrong whose held-out loss is so many times the loss it began with, and its best; below this, never."""


class Student:
    """One document's training. Its adapter is one of the model's; a checkpoint in `folder` is continued."""

    def __init__(
        self,
        model: Any,
        loaded: Loaded,
        mixture: Mixture,
        recipe: Recipe,
        folder: Path,
        report: Reporter,
        adapter: str = FIRST,
        name: str = "",
        budget: int = targets.MEMORY_BYTES,
        stretch: Stretch = WHOLE,
    ) -> None:
        """name: of the document, where several train side by side. budget: bytes of memory for the teacher's targets.
        stretch: of the schedule.

        Raises KmError where a checkpoint is damaged.
        """
        self.model, self.loaded, self.mixture, self.recipe = model, loaded, mixture, recipe
        self.folder, self.report, self.adapter, self.name = folder, report, adapter, name
        self.stretch, self.kind = stretch, ADAPTERS[recipe.adapter]
        self.kind.activate(model, [adapter])
        self.parameters = self.kind.trainable(model)
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.steps = planned_steps(mixture, recipe)
        self.every = evaluate_every(self.steps)
        self.progress, self.best = restore(folder, self.parameters, self.optimiser)
        self.before = self.progress.tokens, self.progress.seconds  # of earlier runs
        self.views = mixture.views  # some may be renewed: they are read anew at each step
        self.teacher: Teacher | Predictions
        kept = mixture.as_before
        self.before_it = before(loaded, mixture, recipe, folder) if kept else None
        if recipe.distil_from == "teacher":
            self.teacher = Predictions(loaded, self.views, recipe, folder, range(kept.start))
        else:
            self.teacher = Teacher(model, loaded, self.views, budget, folder, kept_layers(recipe, layers_of(model)))
        self.renewal = Renewal(model, loaded, mixture, self.teacher, recipe)
        self.taught: Callable[[Sequence[int]], Taught] = self.teacher.targets
        summed = not self.renewal.indices and worth_it(model, mixture, recipe, self.steps)
        if isinstance(self.teacher, Teacher) and summed:
            self.taught = Summaries(model, self.teacher, self.views[: kept.start]).targets
        self.stops_early = recipe.early_stopping and mixture.tells
        self.diverged = False
        self.current: list[tuple[Part, list[int]]] = []

    def prepare(self) -> None:
        """Let the teacher read."""
        self.teacher.precompute(self.report, later={*self.renewal.indices, *self.mixture.as_before})
        self.renewal.restore(self.progress.written)

    def close(self) -> None:
        for teacher in (self.teacher, self.before_it):
            if teacher:
                teacher.close()

    # --- a step ---

    @property
    def seed(self) -> int:
        """Of the next step's dropout."""
        return self.recipe.seed * 1_000_003 + self.progress.step

    @property
    def finished(self) -> bool:
        return self.diverged or self.progress.step >= self.steps or self._stalled

    def begin(self) -> None:
        """What a step needs before its gradients."""
        if self.renewal.indices and self.progress.step % self.recipe.skd_every == 0:
            self.kind.activate(self.model, [self.adapter])
            soon = range(self.progress.step, min(self.steps, self.progress.step + self.recipe.skd_every))
            read = (batch for at in soon for _, batch in self.batches(at))
            self.progress.written = self.renewal.renew(self.progress.step, read)

    def batches(self, step: int | None = None) -> list[tuple[Part, list[int]]]:
        """A batch of each part, in the order of the views as they were before anything was renewed. None: the next."""
        found = []
        at, turns = self.progress.step if step is None else step, self.mixture.turns
        for part in self.mixture.parts:
            if part.turn != at % turns:
                continue
            first = self.renewal.first[part.training.start : part.training.stop]
            places = batch_of(at // turns, first, part.batch, self.recipe.seed)
            found.append((part, [part.training[place] for place in places]))
        if step is None:
            self.current = found
        return found

    def row(self, index: int) -> tuple[list[int], list[bool]]:
        """What the student reads of a view, and which tokens are scored: the last one is only predicted."""
        return self.views[index].student_ids[:-1], self.views[index].student_mask

    def loss(
        self, part: Part, indices: Sequence[int], student_LND: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A part's loss on some of its views, by the student's states, and its terms by name."""
        head = partial(logits, self.model)
        taught = self.before_it.targets if part.objective == AS_BEFORE and self.before_it else self.taught
        return self.mixture.loss(part, indices, student_LND, taught, head, self.recipe)

    def adapter_of(self, part: Part) -> str:
        """Which one is on for it."""
        return part.adapter or self.adapter

    def clip(self) -> torch.Tensor:
        """The length of the gradient, which is clipped."""
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)

    def step(self, numbers: dict[str, float], length: float) -> None:
        """Move by the gradients, and evaluate where that is due."""
        progress = self.progress
        if not math.isfinite(numbers["loss"] + length):
            self._diverge(progress.step + 1, "the loss is not a number")
            return
        factor = learning_rate_factor(progress.step, self.steps, self.recipe, self.stretch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * factor
        self.optimiser.step()
        progress.step += 1
        progress.tokens += sum(sum(self.views[i].student_mask) for _, batch in self.current for i in batch)
        progress.curve.append({"step": progress.step, **numbers})
        if self.mixture.held_out and (progress.step % self.every == 0 or progress.step == self.steps):
            found = []
            for part in self.mixture.parts:
                if part.held_out:
                    self.kind.activate(self.model, [self.adapter_of(part)])
                    read = partial(self._read, part)
                    found.append(_evaluate(self.model, read, self.views, part.held_out, self.recipe))
            progress.last = sum(found) / self.mixture.turns
            if why := self._gone_wrong(progress.last):
                self._diverge(progress.step, why)
                return
            progress.curve[-1]["held_out"] = progress.last
            if progress.best is None or progress.last < progress.best:
                progress.best, progress.best_step = progress.last, progress.step
                self.best = copy(self.parameters)

    def _read(self, part: Part, indices: Sequence[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.loss(part, indices, scored_states(self.model, self.loaded, [self.row(i) for i in indices]))

    @property
    def _stalled(self) -> bool:
        return self.stops_early and stalled(self.progress, self.every)

    def _gone_wrong(self, held_out: float) -> str:
        """What is wrong with a held-out loss; "" where nothing is. An adapter that begins as another one's may know the
        first batch already, so that its first measure has nothing to be held against."""
        if not math.isfinite(held_out):
            return "the held-out loss is not a number"
        best, first = self.progress.best, self.progress.curve[0]["loss"]
        before = max(first, best or 0.0)
        if held_out <= max(HARMLESS, DIVERGED * before) or (self.recipe.init and best is None):
            return ""
        return f"the held-out loss is {held_out:.3g}, and before it was {before:.3g}"

    def _diverge(self, step: int, why: str) -> None:
        """Say that training diverged, and which adapter is kept. Raises KmError where none was measured before."""
        self.diverged = True
        who = f"the training of {self.name}" if self.name else "training"
        message = f"{who} diverged at step {step}: {why}."
        hint = f"Try a lower learning rate: --restart --set learning_rate={self.recipe.learning_rate / 3:.1g}"
        if self.progress.best is None:
            raise KmError(message, hint)
        kept = f"The adapter of step {self.progress.best_step} is kept."
        self.report(Event("train", f"{message} {kept} {hint}", warning=True))

    # --- around it ---

    def keep(self, tokens: int, stop: bool) -> None:
        """After a step: write a checkpoint where one is due, and tell. tokens: of a pass. stop: there is no next step.

        Raises ResourceError where the disk is full.
        """
        if self.diverged:
            return
        if stop or self.progress.step % CHECKPOINT_EVERY == 0:
            self.progress.micro_tokens = tokens
            save(self.folder, self.parameters, self.optimiser, self.progress, self.best)
        progress = self.progress
        numbers = {name: value for name, value in progress.curve[-1].items() if name not in ("step", "held_out")}
        tokens_before, seconds_before = self.before
        shown = figures.live(numbers, progress, progress.tokens - tokens_before, progress.seconds - seconds_before)
        stage = f"train {self.name}" if self.name else "train"
        self.report(Event(stage, "", self.progress.step, self.steps, shown))

    def finish(self) -> dict[str, Any]:
        """Leave the adapter as it is to be kept; returns its metrics."""
        progress = self.progress
        chosen = self.stops_early or self.diverged
        if self.best and chosen:
            bring_back(self.parameters, self.best)
        return {
            "steps": progress.step,
            "planned_steps": self.steps,
            "stopped_early": progress.step < self.steps,
            "diverged": self.diverged,
            "train_loss": progress.curve[-1]["loss"] if progress.curve else None,
            "held_out_loss": progress.best if chosen else progress.last,
            **figures.work(progress, self.loaded.device),
            "training_samples": self.mixture.training,
            "held_out_samples": self.mixture.held_out,
            "best_step": progress.best_step or None,
            "curve": figures.thinned(progress.curve),
        }


def _evaluate(model: Any, loss_of: Any, views: Sequence[View], validation: range, recipe: Recipe) -> float:
    """The loss on held-out views, each batch weighted by its scored tokens."""
    model.eval()
    total = tokens = 0.0
    try:
        with torch.no_grad():
            for start in range(0, len(validation), recipe.batch):
                for value, scored in _losses(loss_of, views, validation[start : start + recipe.batch]):
                    total += value * scored
                    tokens += scored
    finally:
        model.train()
    return total / tokens


def _losses(loss_of: Any, views: Sequence[View], batch: Sequence[int]) -> list[tuple[float, int]]:
    """A batch's loss and its scored tokens; those of its halves where memory is short.

    Raises ResourceError where it does not suffice for one view.
    """
    try:
        return [(float(loss_of(batch)[0]), sum(sum(views[i].student_mask) for i in batch))]
    except SHORT_OF_MEMORY as error:
        if not out_of_memory(error):
            raise
    if len(batch) == 1:
        raise too_large(len(views[batch[0]].student_ids))
    middle = len(batch) // 2
    return _losses(loss_of, views, batch[:middle]) + _losses(loss_of, views, batch[middle:])
