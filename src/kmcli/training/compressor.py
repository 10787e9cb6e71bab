"""Training a compressor, once for a base, on whatever texts there are: see `adapters.summary` for what it is.

An example are segments that are summarised one after the other, and a view that is read behind their vectors. The teacher
reads the segments themselves. There are two kinds:

| kind     | the segments     | what is read behind them                         | loss                            |
|----------|------------------|--------------------------------------------------|---------------------------------|
| windows  | two of a text    | the one that follows                             | next token, and as for material |
| material | those of a chunk | a prompt of its study material, and the response | distillation (`losses`)         |

What reads the vectors is the base alone, so that they are input that it understands as it is; the gradient goes through both
segments. Of every text the same number of examples is drawn for its tokens, how many tokens a vector stands for is drawn
anew for each, and all of that by the step's number, as in `loop`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters.compressor import Learning
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.objectives.losses import distillation, next_token
from kmcli.training import checkpoint, figures
from kmcli.training.compressor_recipe import CompressorRecipe
from kmcli.training.forward import causal, check_head, decoder, logits, scored_states
from kmcli.training.kernels import fast_layers
from kmcli.training.loop import CHECKPOINT_EVERY, EVALUATE_EVERY, EVALUATIONS, PATIENCE, learning_rate_factor
from kmcli.training.memory import kept_memory
from kmcli.training.segments import Drawn, Example, Text, usable_text
from kmcli.types import Event, Recipe, Reporter


def train(
    loaded: Loaded,
    texts: Sequence[Text],
    held_out: Sequence[Text],
    recipe: CompressorRecipe,
    workspace: Path,
    out: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Train a compressor on texts and save it into `out`; a checkpoint in the workspace is continued. Returns its metrics.

    Raises InterruptedRun after Ctrl-C, KmError where there is nothing to train on or training diverges, ResourceError where
    km does not know the base's head.
    """
    usable = [text for text in texts if usable_text(text)]
    if not usable:
        raise KmError("the library has too little text to train a compressor on.", "Add documents: km add FILE")
    learning = Learning(loaded, recipe.rank, recipe.alpha, recipe.seed)
    model = learning.model
    try:
        run = _Run(learning, usable, held_out, recipe, workspace, report)
        with fast_layers(model, causal(model).get_output_embeddings()):
            metrics = run.train()
        with checkpoint.storing(out):
            learning.save(out, dataclasses.asdict(recipe))
    finally:
        model.unload().eval()
    return metrics


class _Run:
    """Shapes: as in `adapters.summary`; L layers, N scored tokens."""

    def __init__(
        self,
        learning: Learning,
        texts: Sequence[Text],
        held_out: Sequence[Text],
        recipe: CompressorRecipe,
        folder: Path,
        report: Reporter,
    ) -> None:
        self.learning, self.recipe, self.folder, self.report = learning, recipe, folder, report
        self.model, self.loaded, self.parameters = learning.model, learning.loaded, learning.parameters
        self.optimiser = torch.optim.AdamW(self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0)
        self.progress, self.best = checkpoint.restore(folder, self.parameters, self.optimiser)
        self.before = self.progress.tokens, self.progress.seconds
        self.drawn = Drawn(self.loaded, texts, recipe)
        self.held_out = self.drawn.held_out(held_out)
        self.every = max(EVALUATE_EVERY, recipe.steps // EVALUATIONS)
        self.schedule = Recipe(schedule="cosine", warmup=recipe.warmup)

    # --- a step

    def losses(self, examples: Sequence[Example], pooled: bool = False) -> list[torch.Tensor]:
        """Of each example, one after the other: no two have the same before what they read. pooled: with the means of token
        embeddings in the place of what the compressor makes."""
        with torch.no_grad(), self.model.disable_adapter():
            rows = [(one.view.teacher_ids or [], one.view.teacher_mask or []) for one in examples]
            taught_LND = scored_states(self.model, self.loaded, rows)
            counts = [sum(one.view.student_mask) for one in examples]
        head = partial(logits, self.model)
        return [
            self._loss(one, part_LND, head, pooled)
            for one, part_LND in zip(examples, taught_LND.split(counts, dim=1), strict=True)
        ]

    def _loss(self, one: Example, taught_LND: torch.Tensor, head: Any, pooled: bool) -> torch.Tensor:
        places = [index - 1 for index, on in enumerate(one.view.student_mask) if on]
        if not places:
            return self.parameters["projection"].sum() * 0.0
        vectors_VH = self.learning.vectors(one.segments, one.ratio, pooled)
        ids = torch.tensor([one.view.student_ids[place + 1] for place in places], device=self.loaded.device)
        index = torch.tensor(places, device=self.loaded.device) + len(vectors_VH)
        base = decoder(self.model)
        rows = torch.cat([vectors_VH, self.learning.embedded(one.view.student_ids)]).to(base.dtype)
        with self.model.disable_adapter():
            output = base(inputs_embeds=rows[None], use_cache=False, output_hidden_states=True)
            read_LND = torch.stack([state[0].index_select(0, index) for state in output.hidden_states[1:]])
            loss, _ = distillation(taught_LND, read_LND, ids, head, Recipe())
            if one.follows and self.recipe.next_weight:
                loss = loss + self.recipe.next_weight * next_token(None, read_LND, ids, head, Recipe())[0]
        return loss

    def train(self) -> dict[str, Any]:
        first = self.drawn.batch(0)[0].view
        check_head(self.model, self.loaded, (first.student_ids[:-1], first.student_mask))
        means = self._evaluate(pooled=True) if self.held_out else None
        with kept_memory(), checkpoint.deferred_interrupt() as interrupted:
            while self.progress.step < self.recipe.steps and not self._stalled:
                started = time.monotonic()
                self._step()
                self.progress.seconds += time.monotonic() - started
                stop = interrupted()
                self._keep(stop)
                if stop:
                    message = f"stopped at step {self.progress.step} of {self.recipe.steps}; nothing is lost."
                    raise InterruptedRun(message, "The same command goes on from there.")
        if self.best:
            checkpoint.bring_back(self.parameters, self.best)
        return self._metrics(means)

    def _step(self) -> None:
        progress, recipe = self.progress, self.recipe
        examples = self.drawn.batch(progress.step)
        self.optimiser.zero_grad()
        self.model.train()
        loss = torch.stack(self.losses(examples)).mean()
        loss.backward()
        value = float(loss.detach())
        length = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip))
        if not math.isfinite(value + length):
            raise KmError(
                f"training diverged at step {progress.step + 1}: the loss is not a number.",
                f"Try a lower learning rate: --restart --set learning_rate={recipe.learning_rate / 3:.1g}",
            )
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(progress.step, recipe.steps, self.schedule)
        self.optimiser.step()
        progress.step += 1
        progress.tokens += sum(sum(one.view.student_mask) for one in examples)
        progress.curve.append({"step": progress.step, "loss": value})
        if self.held_out and (progress.step % self.every == 0 or progress.step == recipe.steps):
            progress.last = progress.curve[-1]["held_out"] = self._evaluate()
            if progress.best is None or progress.last < progress.best:
                progress.best, progress.best_step = progress.last, progress.step
                self.best = checkpoint.copy(self.parameters)

    @torch.no_grad()
    def _evaluate(self, pooled: bool = False) -> float:
        self.model.eval()
        found = [
            float(loss)
            for start in range(0, len(self.held_out), self.recipe.batch)
            for loss in self.losses(self.held_out[start : start + self.recipe.batch], pooled)
        ]
        return sum(found) / len(found)

    @property
    def _stalled(self) -> bool:
        progress = self.progress
        if not self.recipe.early_stopping or progress.best is None:
            return False
        return progress.step - progress.best_step >= PATIENCE * self.every

    def _keep(self, stop: bool) -> None:
        progress = self.progress
        if stop or progress.step % CHECKPOINT_EVERY == 0:
            checkpoint.save(self.folder, self.parameters, self.optimiser, progress, self.best)
        tokens, seconds = self.before
        shown = figures.live(
            {"loss": progress.curve[-1]["loss"]}, progress, progress.tokens - tokens, progress.seconds - seconds
        )
        self.report(Event("train", "", progress.step, self.recipe.steps, shown))

    def _metrics(self, means: float | None) -> dict[str, Any]:
        progress = self.progress
        return {
            "steps": progress.step,
            "planned_steps": self.recipe.steps,
            "best_step": progress.best_step or None,
            "train_loss": progress.curve[-1]["loss"] if progress.curve else None,
            "held_out_loss": progress.best,
            "means_loss": means,
            "texts": len(self.drawn.texts),
            "held_out_examples": len(self.held_out),
            **figures.work(progress, self.loaded.device),
            "curve": figures.thinned(progress.curve),
        }


def split(names: Sequence[str], recipe: CompressorRecipe) -> tuple[list[str], list[str]]:
    """Texts to train on, and held out: none of fewer than four."""
    random = torch.Generator().manual_seed(recipe.seed)
    order = [sorted(names)[place] for place in torch.randperm(len(names), generator=random).tolist()]
    count = max(1, round(recipe.held_out * len(order))) if recipe.held_out and len(order) >= 4 else 0
    return order[count:], order[:count]
