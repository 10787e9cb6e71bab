"""A document's Knowledge Module: its row in the database and its folder, which come and go together.

A module that another kind of adapter replaces is kept, one of each kind, as long as the document's text is the one that it
was trained on: a row of the table `kept`.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kmcli.errors import KmError
from kmcli.library import files
from kmcli.library.contents import now
from kmcli.library.database import Database
from kmcli.library.layout import RUN, Layout, unfinished
from kmcli.types import Chunk, Document, KnowledgeModule, Recipe, State

CHUNKS = "chunks.json"
_COLUMNS = "id, document_id, text_sha256, recipe, metrics, created, finished"


def row_of(layout: Layout, database: Database, document: Document) -> sqlite3.Row | None:
    """The document's row in the table modules; None where there is none or its folder is gone."""
    rows = database.rows("SELECT * FROM modules WHERE document_id = ?", document.id)
    return rows[0] if rows and layout.module(rows[0]["id"]).is_dir() else None


def kept(layout: Layout, database: Database, document: Document) -> list[sqlite3.Row]:
    """The rows of the document's kept modules whose folders are there, of the text as it is."""
    rows = database.rows(
        "SELECT * FROM kept WHERE document_id = ? AND text_sha256 = ? ORDER BY adapter",
        document.id,
        document.text_sha256,
    )
    return [row for row in rows if layout.module(row["id"]).is_dir()]


def state(layout: Layout, document: Document, row: sqlite3.Row | None) -> State:
    """How the training of a document stands, with the row of its module."""
    if unfinished(layout.workspace(document), row["finished"] if row else None):
        return "interrupted"
    if row is None:
        return "untrained"
    return "fresh" if row["text_sha256"] == document.text_sha256 else "stale"


def as_value(layout: Layout, document: Document, row: sqlite3.Row) -> KnowledgeModule:
    """Raises KmError where a newer km has trained it."""
    try:
        recipe = Recipe.from_json(json.loads(row["recipe"]))
    except TypeError:
        raise KmError(
            f"the Knowledge Module of {document.name} was trained by a newer km.",
            f"Upgrade with: pip install --upgrade kmcli; or train it again with: km train {document.name}",
        ) from None
    return KnowledgeModule(
        id=row["id"],
        document_id=document.id,
        path=layout.module(row["id"]),
        recipe=recipe,
        metrics=json.loads(row["metrics"]),
        text_sha256=row["text_sha256"],
        created=row["created"],
    )


def commit(
    layout: Layout,
    database: Database,
    document: Document,
    folder: Path,
    recipe: Recipe,
    metrics: Mapping[str, Any],
    cut: Sequence[Chunk],
    module_id: str = "",
) -> None:
    """Move a finished folder into place, record it, and only then delete what it replaces: the module of its kind, and kept
    ones of another text than the document's.

    document: with the hash of the text that the module was trained on, which need not be the document's own now.
    """
    module_id = module_id or secrets.token_hex(8)
    recipe_json, metrics_json = _as_json(recipe.as_json()), _as_json(dict(metrics))
    if cut:
        files.write(folder / CHUNKS, json.dumps([dataclasses.asdict(chunk) for chunk in cut]).encode())
    files.write(folder / "recipe.json", recipe_json.encode())
    files.write(folder / "metrics.json", metrics_json.encode())
    files.seal(folder)
    finished = (folder / "metrics.json").stat().st_mtime_ns
    with suppress(FileNotFoundError):  # after what the training began with, also where the clock was put back since
        finished = max(finished, (layout.workspace(document) / RUN).stat().st_mtime_ns + 1)
    with database.transaction():
        files.move(folder, layout.module(module_id))
        _set_aside(database, document)
        now_read = "(SELECT text_sha256 FROM documents WHERE id = document_id)"
        old = f"document_id = ? AND (adapter = ? OR text_sha256 <> {now_read})", document.id, recipe.adapter
        replaced = database.rows(f"SELECT id FROM kept WHERE {old[0]}", *old[1:])
        database.rows(f"DELETE FROM kept WHERE {old[0]}", *old[1:])
        database.rows(
            f"INSERT INTO modules ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(module_id, document.id, document.text_sha256, recipe_json, metrics_json, now(), finished),
        )
    for row in replaced:
        files.delete(layout.module(row["id"]))


def take_up(database: Database, document: Document, module_id: str) -> None:
    """Make a kept module the document's own, and keep what was that."""
    with database.transaction():
        if not database.rows("SELECT 1 FROM kept WHERE id = ?", module_id):
            raise ValueError(f"{module_id} is not kept")
        _set_aside(database, document)
        database.rows(f"INSERT INTO modules ({_COLUMNS}) SELECT {_COLUMNS} FROM kept WHERE id = ?", module_id)
        database.rows("DELETE FROM kept WHERE id = ?", module_id)


def _set_aside(database: Database, document: Document) -> None:
    """Keep the document's module, in place of one of its kind. Within a transaction."""
    for row in database.rows("SELECT * FROM modules WHERE document_id = ?", document.id):
        database.rows("DELETE FROM modules WHERE id = ?", row["id"])
        database.rows(
            f"INSERT INTO kept (adapter, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            json.loads(row["recipe"]).get("adapter", "lora"),
            *(row[column] for column in _COLUMNS.split(", ")),
        )


def chunks(folder: Path) -> list[Chunk]:
    """How the text was cut that a module was trained on; [] where that is not known."""
    with suppress(OSError, ValueError, TypeError):
        return [Chunk(**one) for one in json.loads((folder / CHUNKS).read_text("utf-8"))]
    return []


def _as_json(value: Any) -> str:
    """The same text goes into the file and into the database, so that they can be compared."""
    return json.dumps(value, indent=2) + "\n"
