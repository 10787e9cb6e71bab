"""What training optimises: a view (who reads what, which tokens are scored) times a loss.

| objective | teacher reads           | student reads   | scored                       | loss                     |
|-----------|-------------------------|-----------------|------------------------------|--------------------------|
| `dcd`     | chunk, prompt, response | prompt, response| the response and its end     | KL + hidden states       |

To add one: a function in `views` that makes a View of a sample, a row in OBJECTIVES, its name in `types.ObjectiveName`.
"""

from __future__ import annotations

from collections.abc import Callable

from kmcli.bases import Loaded
from kmcli.objectives.views import chunk_in_context
from kmcli.types import ObjectiveName, Sample, View

OBJECTIVES: dict[ObjectiveName, Callable[[Sample, str, Loaded], View]] = {
    "dcd": chunk_in_context,
}
