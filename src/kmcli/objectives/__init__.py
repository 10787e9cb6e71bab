"""What training optimises: a view (who reads what, which tokens are scored) times a loss.

| objective | made of        | teacher reads           | student reads           | scored                   | loss          |
|-----------|----------------|-------------------------|-------------------------|--------------------------|---------------|
| `dcd`     | study material | chunk, prompt, response | prompt, response        | the response and its end | distillation  |
| `sdcd`    | its summaries  | as `dcd`                | as `dcd`                | as `dcd`                 | distillation  |
| `ddcd`    | windows        | the window              | its second part         | the second part          | distillation  |
| `lm`      | windows        | -                       | the window              | the window               | cross-entropy |
| `sft`     | study material | -                       | prompt, response        | the response and its end | cross-entropy |
| `pit`     | study material | -                       | prompt, response, chunk | all after the prompt     | cross-entropy |
| `skd`     | its prompts    | as `dcd`                | as `dcd`                | as `dcd`                 | distillation  |
| `keep`    | study material | as `dcd`                | chunk, prompt, response | as `dcd`                 | distillation  |

Distillation is a divergence of the predictions plus a distance of hidden states (`losses`), or of the predictions alone
where the teacher is another model than the base (`top_k`). Windows are cut from the
document itself (`windows`), so `ddcd` and `lm` need no study material. The responses of `skd` are written anew while it
trains, by student and teacher together (`training.skd`). `keep` teaches nothing of the document: beside another objective it
keeps what the base makes of a text in front of it as it was. A recipe may mix them: see `training.mixture`.

To add one: a function in `views` that makes a View of a sample or a window, a loss in `losses` unless one fits, a row in
OBJECTIVES and above, its name in `types.ObjectiveName`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmcli.objectives.losses import distillation, next_token
from kmcli.objectives.views import (
    Reads,
    chunk_for_both,
    chunk_in_context,
    instruction_first,
    response_alone,
    second_part,
    unaided,
    whole_window,
)
from kmcli.objectives.windows import Window
from kmcli.types import ObjectiveName, Sample, View

if TYPE_CHECKING:
    from kmcli.objectives.losses import Loss


@dataclass(frozen=True, slots=True)
class OfSamples:
    """An objective on study material. view: of a sample, its chunk's text, the base, and a teacher other than it.

    tasks: whose samples; empty: all tasks'.

    renews: whether the responses are written anew during training. share: of a recipe's batch, what a step takes.
    """

    view: Callable[[Sample, str, Reads, Reads | None], View]
    loss: Loss
    tasks: tuple[str, ...] = ()
    renews: bool = False
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class OfWindows:
    """An objective on the document itself. context: share of a window that the student is not shown."""

    view: Callable[[Window, Reads, Reads | None], View]
    loss: Loss
    context: float = 0.0


Objective = OfSamples | OfWindows

OBJECTIVES: dict[ObjectiveName, Objective] = {
    "dcd": OfSamples(chunk_in_context, distillation),
    "sdcd": OfSamples(chunk_in_context, distillation, tasks=("summary",)),
    "ddcd": OfWindows(second_part, distillation, context=0.5),
    "lm": OfWindows(whole_window, next_token),
    "sft": OfSamples(response_alone, next_token),
    "pit": OfSamples(instruction_first, next_token),
    "skd": OfSamples(chunk_in_context, distillation, renews=True),
    "keep": OfSamples(chunk_for_both, distillation, share=0.25),
}
AS_BEFORE = OfSamples(unaided, distillation)
"""Of a training that goes on from a Knowledge Module, on what is to stay as it is: its teacher is that module. No recipe
names it."""
