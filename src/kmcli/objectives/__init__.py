"""What training optimises: a view (who reads what, which tokens are scored) times a loss.

| objective | teacher reads           | student reads   | scored                       | loss                     |
|-----------|-------------------------|-----------------|------------------------------|--------------------------|
| `dcd`     | chunk, prompt, response | prompt, response| the response and its end     | KL + hidden states       |

To add one: a function in `views` that makes a View of a sample, a loss in `losses` unless one fits, a row in OBJECTIVES,
its name in `types.ObjectiveName`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmcli.bases import Loaded
from kmcli.objectives.losses import distillation
from kmcli.objectives.views import chunk_in_context
from kmcli.types import ObjectiveName, Sample, View

if TYPE_CHECKING:
    from kmcli.objectives.losses import Loss


@dataclass(frozen=True, slots=True)
class Objective:
    """view: of a sample and its chunk's text. loss: see `losses.distillation`."""

    view: Callable[[Sample, str, Loaded], View]
    loss: Loss


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "dcd": Objective(chunk_in_context, distillation),
}
