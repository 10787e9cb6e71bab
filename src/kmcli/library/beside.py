"""What else is found out about a Knowledge Module at the end of its training: a small JSON file each, in its folder.

To read one needs nothing but this module; what it means is its maker's to know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from kmcli.library import files
from kmcli.library.layout import Layout
from kmcli.types import KnowledgeModule

File = Literal["confidence", "conflicts"]


class Beside:
    """Whoever writes holds the document's lock."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def keep(self, module: KnowledgeModule, file: File, value: Any) -> None:
        """In place of what was kept before."""
        with files.explained(self._layout.home):
            files.write(self._file(module, file), (json.dumps(value, ensure_ascii=False) + "\n").encode())

    def of(self, module: KnowledgeModule, file: File) -> Any:
        """None where nothing was kept, or it is damaged."""
        try:
            return json.loads(self._file(module, file).read_bytes())
        except (OSError, ValueError):
            return None

    def _file(self, module: KnowledgeModule, file: File) -> Path:
        return self._layout.module(module.id) / f"{file}.json"
