"""Prompts of compressed documents for an engine that takes input embeddings: the document's vectors, then the prompt's own.

The base's table of embeddings is read when the first such document is asked, and the rest of its weights is let go again.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmcli import adapters, bases
from kmcli.bases import Base
from kmcli.errors import KmError
from kmcli.serving import Entry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """A Knowledge Module and what stands before its prompts (V, H); None where nothing does."""

    entry: Entry
    vectors_VH: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.vectors_VH is None else len(self.vectors_VH)


def reading(entry: Entry, able: bool) -> Reading:
    """able: whether what answers takes vectors. Raises KmError where it does not, and where the folder is damaged."""
    import torch

    if adapters.beside(entry.module.path) is None:
        return Reading(entry)
    if not able:
        raise KmError(
            f"vLLM was started before {entry.name} was compressed, and takes no vectors.",
            "Stop km serve and start it again.",
        )
    return Reading(entry, adapters.read(entry.module.path, torch.device("cpu")).vectors)


class Embeddings:
    """For any thread."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._table: Any = None
        self._guard = threading.Lock()

    def prompt(self, vectors_VH: torch.Tensor, ids: Sequence[int]) -> str:
        """As vLLM's API takes it: a tensor as torch saves it, in base64."""
        import torch

        with self._guard:
            if self._table is None:
                self._table = bases.load(self._base, "cpu").model.get_input_embeddings()
        with torch.inference_mode():
            own: torch.Tensor = self._table(torch.tensor(list(ids)))
        file = io.BytesIO()
        torch.save(torch.cat([vectors_VH.to(own.dtype), own]), file)
        return base64.b64encode(file.getvalue()).decode()
