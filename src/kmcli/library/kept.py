"""Modules that are kept beside the one that a document answers by."""

from __future__ import annotations

import sqlite3

from kmcli.library import modules
from kmcli.library.material import Material
from kmcli.types import Document, KnowledgeModule


class Kept(Material):
    """Of the Library: modules that other kinds of adapter have replaced, one of each kind, until the document has another
    text and is trained again."""

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
