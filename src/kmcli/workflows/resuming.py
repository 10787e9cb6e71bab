"""Whether what was interrupted goes on: only where it would become the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmcli.library import files, workspaces
from kmcli.library.layout import RUN
from kmcli.types import Event
from kmcli.workflows.house import House


def take_up(
    house: House, workspace: Path, recipe: Mapping[str, Any], inputs: Any, names: tuple[str, str], restart: bool
) -> bool:
    """Whether the training that a workspace holds is gone on with: one by the same recipe on the same inputs. Any other is
    dropped, and this one noted.

    inputs: whatever JSON can hold. names: of what may differ, and of the training.
    """
    differing, training = names
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    run = json.dumps({"recipe": recipe, "inputs_sha256": digest}, indent=2)
    file = workspace / RUN
    begun = workspaces.begun(workspace)
    if begun and not restart and file.exists() and file.read_text("utf-8") == run:
        house.report(Event("train", f"going on with the unfinished {training}"))
        return True
    if begun and not restart:
        house.warn(f"{differing} or recipe differ from the unfinished {training}: starting anew")
    workspaces.emptied(workspace)
    with files.explained(workspace):
        files.write(file, run.encode())
    return False
