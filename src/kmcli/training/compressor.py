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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters.compressor import Learning
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.objectives.losses import distillation, next_token
from kmcli.training import checkpoint
from kmcli.training.compressor_recipe import CompressorRecipe
from kmcli.training.forward import causal, check_head, decoder, logits, scored_states
from kmcli.training.kernels import fast_layers
from kmcli.training.segments import Drawn, Example, Text, usable_text
from kmcli.training.stepwise import Stepwise
from kmcli.types import Recipe, Reporter


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


class _Run(Stepwise):
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
        self.learning, self.recipe = learning, recipe
        self.model, self.loaded = learning.model, learning.loaded
        optimiser = torch.optim.AdamW(learning.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0)
        schedule = Recipe(schedule="cosine", warmup=recipe.warmup)
        super().__init__(learning.parameters, optimiser, recipe, schedule, recipe.steps, folder, report)
        self.drawn = Drawn(self.loaded, texts, recipe)
        self.held_out = self.drawn.held_out(held_out)

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
        means = self.held_out_loss(pooled=True)
        self.run()
        more = {"means_loss": means, "texts": len(self.drawn.texts), "held_out_examples": len(self.held_out)}
        return self.metrics(self.loaded.device, more)

    def gradients(self) -> float:
        examples = self.drawn.batch(self.progress.step)
        self.model.train()
        self.optimiser.zero_grad()
        loss = torch.stack(self.losses(examples)).mean()
        loss.backward()
        self.progress.tokens += sum(sum(one.view.student_mask) for one in examples)
        return float(loss.detach())

    @torch.no_grad()
    def held_out_loss(self, pooled: bool = False) -> float | None:
        if not self.held_out:
            return None
        self.model.eval()
        found = [
            float(loss)
            for start in range(0, len(self.held_out), self.recipe.batch)
            for loss in self.losses(self.held_out[start : start + self.recipe.batch], pooled)
        ]
        return sum(found) / len(found)
