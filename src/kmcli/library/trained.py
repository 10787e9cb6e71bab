"""What the Library has of Knowledge Modules: begun, committed, looked up, and kept beside the one that answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kmcli.library import files, modules
from kmcli.library.layout import RUN, has_weights, unfinished
from kmcli.library.material import Material
from kmcli.types import Chunk, Document, KnowledgeModule, Recipe, State


class Trained(Material):
    """A document answers by one module. One that another kind of adapter has replaced is kept beside it, one of each kind,
    until the document has another text and is trained again."""

    def state(self, document: Document) -> State:
        """interrupted: there is an unfinished training; stale: the module was trained on another text than this one."""
        return modules.state(self._layout, document, self._trained(document))

    def is_training(self, document: Document) -> bool:
        """Whether a process is training it now, as far as the note of who holds the document says so."""
        return self._locks.holder(document.id) == "train"

    def begin_training(self, document: Document, run: bytes) -> None:
        """Note in the workspace what is being trained: from now on there is an unfinished training, whatever the clock
        says."""
        with self.lock(document, "train"), files.explained(self._layout.home):
            row = self._trained(document)
            finished = row["finished"] if row else None
            if not unfinished(self._layout.workspace(document), finished):  # what a crash has left there
                files.delete(self._layout.workspace(document))
            files.write(self.workspace(document) / RUN, run, changed=finished or 0)

    def commit_module(
        self,
        document: Document,
        folder: Path,
        recipe: Recipe,
        metrics: Mapping[str, Any],
        cut: Sequence[Chunk] = (),
        module_id: str = "",
    ) -> KnowledgeModule:
        """Make the finished files in a staging folder the document's module, in place of the one before.

        metrics: anything that JSON can hold. The module counts as trained on `document`'s text_sha256, in the chunks `cut`.
        module_id: where another library has given it one already.
        Raises ValueError where the folder holds no weights in safetensors.
        """
        if not has_weights(folder):
            raise ValueError(f"{folder} holds no safetensors weights")
        with self.lock(document, "train"), files.explained(self._layout.home):
            modules.commit(self._layout, self._database, document, folder, recipe, metrics, cut, module_id)
            files.delete(self._layout.workspace(document))
        module = self.module(document)
        if module is None:  # its folder was taken away since it was moved there
            raise files.gone(self._layout.home)
        return module

    def module(self, document: Document) -> KnowledgeModule | None:
        """The document's module, fresh or stale; None where there is none or its files are gone.

        Raises KmError where it was trained by a newer km.
        """
        row = self._trained(document)
        return modules.as_value(self._layout, document, row) if row else None

    def cut(self, module: KnowledgeModule) -> list[Chunk]:
        """The chunks of the text that a module was trained on; [] where they are not known."""
        return modules.chunks(module.path)

    def last_trained(self) -> Document | None:
        """The document whose module was committed last."""
        return next(filter(self._trained, self._database.trained()), None)

    def kept_modules(self, document: Document) -> list[KnowledgeModule]:
        """Of other kinds of adapter than the document's own module, those that were trained on the text as it is.

        Raises KmError where one was trained by a newer km.
        """
        rows = modules.kept(self._layout, self._database, document)
        return [modules.as_value(self._layout, document, row) for row in rows]

    def take_up(self, document: Document, module: KnowledgeModule) -> None:
        """Let a kept module be the document's own, and keep the one that was. Raises ValueError where it is not kept."""
        with self.lock(document, "train"):
            modules.take_up(self._database, document, module.id)

    def _all_modules(self, document: Document) -> list[sqlite3.Row]:
        """The rows of its own and of all that are kept, of whatever text."""
        query = "SELECT id FROM modules WHERE document_id = ? UNION SELECT id FROM kept WHERE document_id = ?"
        return self._database.rows(query, document.id, document.id)

    def _trained(self, document: Document) -> sqlite3.Row | None:
        return modules.row_of(self._layout, self._database, document)
