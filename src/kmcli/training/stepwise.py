"""A training by steps of what is made once for many documents: an extractor, a compressor.

Its schedule, clipping, early stopping by the held-out loss, checkpoints and Ctrl-C; what a step's gradients are, each says
itself. Everything is decided by the step count, as in `loop`, which trains documents, several of them side by side.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from kmcli.errors import InterruptedRun, KmError
from kmcli.training import checkpoint, figures
from kmcli.training.loop import CHECKPOINT_EVERY
from kmcli.training.memory import kept_memory
from kmcli.training.schedule import evaluate_every, learning_rate_factor, stalled
from kmcli.types import Event, Recipe, Reporter


class Steps(Protocol):
    """What a recipe says of them."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def early_stopping(self) -> bool: ...


class Stepwise(ABC):
    """A checkpoint in `folder` is continued."""

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimiser: torch.optim.AdamW,
        recipe: Steps,
        schedule: Recipe,
        steps: int,
        folder: Path,
        report: Reporter,
    ) -> None:
        """optimiser: of these parameters; "times" of a group multiplies its learning rate. schedule: its warm-up and decay.

        Raises KmError where the checkpoint is damaged.
        """
        self.parameters, self.optimiser, self.steps = parameters, optimiser, steps
        self._rates, self._schedule, self.folder, self._report = recipe, schedule, folder, report
        self.progress, self.best = checkpoint.restore(folder, parameters, optimiser)
        self._before = self.progress.tokens, self.progress.seconds
        self._every = evaluate_every(steps)

    @abstractmethod
    def gradients(self) -> float:
        """Leave the next step's gradients in the parameters, and count its tokens; its loss."""

    @abstractmethod
    def held_out_loss(self) -> float | None:
        """None where nothing is held out."""

    def run(self) -> None:
        """Take the steps that are left; afterwards the parameters are the best ones.

        Raises InterruptedRun after Ctrl-C, KmError where training diverges, ResourceError where the disk is full.
        """
        with kept_memory(), checkpoint.deferred_interrupt() as interrupted:
            while self.progress.step < self.steps and not self._stalled:
                started = time.monotonic()
                self._step()
                self.progress.seconds += time.monotonic() - started
                stop = interrupted()
                self._keep(stop)
                if stop:
                    message = f"stopped at step {self.progress.step} of {self.steps}; nothing is lost."
                    raise InterruptedRun(message, "The same command goes on from there.")
        if self.best:
            checkpoint.bring_back(self.parameters, self.best)

    def metrics(self, device: torch.device, more: Mapping[str, Any]) -> dict[str, Any]:
        """How it went. more: what is known of this kind of training alone."""
        progress = self.progress
        return {
            "steps": progress.step,
            "planned_steps": self.steps,
            "best_step": progress.best_step or None,
            "train_loss": progress.curve[-1]["loss"] if progress.curve else None,
            "held_out_loss": progress.best,
            **more,
            **figures.work(progress, device),
            "curve": figures.thinned(progress.curve),
        }

    def _step(self) -> None:
        progress, rates = self.progress, self._rates
        loss = self.gradients()
        length = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), rates.clip))
        if not math.isfinite(loss + length):
            raise KmError(
                f"training diverged at step {progress.step + 1}: the loss is not a number.",
                f"Try a lower learning rate: --restart --set learning_rate={rates.learning_rate / 3:.1g}",
            )
        rate = rates.learning_rate * learning_rate_factor(progress.step, self.steps, self._schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("times", 1.0)
        self.optimiser.step()
        progress.step += 1
        progress.curve.append({"step": progress.step, "loss": loss})
        if progress.step % self._every and progress.step != self.steps:
            return
        found = self.held_out_loss()
        if found is None:
            return
        progress.last = progress.curve[-1]["held_out"] = found
        if progress.best is None or found < progress.best:
            progress.best, progress.best_step = found, progress.step
            self.best = checkpoint.copy(self.parameters)

    @property
    def _stalled(self) -> bool:
        return self._rates.early_stopping and stalled(self.progress, self._every)

    def _keep(self, stop: bool) -> None:
        progress = self.progress
        if stop or progress.step % CHECKPOINT_EVERY == 0:
            checkpoint.save(self.folder, self.parameters, self.optimiser, progress, self.best)
        tokens, seconds = self._before
        numbers = {"loss": progress.curve[-1]["loss"]}
        shown = figures.live(numbers, progress, progress.tokens - tokens, progress.seconds - seconds)
        self._report(Event("train", "", progress.step, self.steps, shown))


def split(names: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """What is trained on, and what is held out whole, a share of it: none of fewer than four."""
    random = torch.Generator().manual_seed(seed)
    order = [sorted(names)[place] for place in torch.randperm(len(names), generator=random).tolist()]
    count = max(1, round(share * len(order))) if share and len(order) >= 4 else 0
    return order[count:], order[:count]
