"""Knowledge Extractors: each a row in the database and a folder, which come and go together."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kmcli.errors import KmError, NotFoundError, UsageError, did_you_mean
from kmcli.library import files, names, workspaces
from kmcli.library.contents import now
from kmcli.library.database import Database
from kmcli.library.layout import Layout, has_weights
from kmcli.library.locks import Locks


@dataclass(frozen=True, slots=True)
class ExtractorRecipe:
    """Everything that decides what a Knowledge Extractor becomes. Saved beside its weights."""

    model: str = "embedded"
    revision: str = ""
    base_label: str = ""
    modules: bool = True
    """Whether the documents' Knowledge Modules are on."""
    passages: int = 0
    """Of its document, so many retrieved ones stand in front of a question."""
    rank: int = 16
    alpha: int = 16
    learning_rate: float = 1e-4
    weights_rate: float = 10.0
    """What it is multiplied by for the layers' pairs of weights."""
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 0.06
    """Share of the steps."""
    weight_decay: float = 0.0
    clip: float = 1.0
    steps: int = 0
    """0: as many as `epochs` over the questions take."""
    epochs: float = 12.0
    batch: int = 16
    """Questions a step."""
    held_out: float = 0.125
    """Share of the documents whose questions are never trained on; decides early stopping."""
    early_stopping: bool = True
    seed: int = 0
    format: int = 1

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExtractorRecipe:
        """Unknown keys are an error (TypeError), as in a Recipe."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Extractor:
    """A Knowledge Extractor on disk: what several documents' Knowledge Modules are read with (PEFT's format, and the weights
    of both). documents: ids of those whose questions it was made with."""

    id: str
    name: str
    path: Path
    recipe: ExtractorRecipe
    metrics: Mapping[str, Any]
    documents: tuple[str, ...]
    created: str


class Extractors:
    """Those of a library, by name, whatever its case."""

    def __init__(self, layout: Layout, database: Database, locks: Locks) -> None:
        self._layout, self._database, self._locks = layout, database, locks

    def all(self) -> list[Extractor]:
        """By name. Those whose folder is gone are left out."""
        rows = self._database.rows("SELECT * FROM extractors ORDER BY name_key")
        return [self._value(row) for row in rows if self._layout.extractor(row["id"]).is_dir()]

    def find(self, name: str) -> Extractor:
        """Raises NotFoundError, and KmError where a newer km has trained it."""
        found = self.get(name)
        if found:
            return found
        known = [row["name"] for row in self._database.rows("SELECT name FROM extractors ORDER BY name_key")]
        otherwise = f"There are {', '.join(known)}." if known else "Train one with: km extractor train NAME --docs ..."
        raise NotFoundError(f"there is no extractor {name!r}.", did_you_mean(name, known, otherwise))

    def get(self, name: str) -> Extractor | None:
        """None where there is none of that name."""
        rows = self._database.rows("SELECT * FROM extractors WHERE name_key = ?", names.key(name))
        return self._value(rows[0]) if rows and self._layout.extractor(rows[0]["id"]).is_dir() else None

    @contextmanager
    def training(self, name: str) -> Iterator[Path]:
        """The folder of what is unfinished of an extractor, while no other process trains it; without a checkpoint it goes.

        Raises UsageError for a name that is not allowed, KmError where another process has it.
        """
        folder = self._layout.extractor_workspace(names.key(checked(name)))
        with workspaces.held(self._locks, folder.name, f"the extractor {name}", "extractor train", folder):
            yield folder

    def staging(self, workspace: Path) -> Path:
        """An empty folder in a workspace, in which to write an extractor for `commit`."""
        return workspaces.emptied(workspace / "extractor")

    def commit(
        self,
        name: str,
        workspace: Path,
        folder: Path,
        recipe: ExtractorRecipe,
        metrics: Mapping[str, Any],
        documents: Sequence[str],
    ) -> Extractor:
        """Make the finished files in a staging folder the extractor of that name, in place of the one before.

        Raises ValueError where the folder holds no weights in safetensors.
        """
        if not has_weights(folder):
            raise ValueError(f"{folder} holds no safetensors weights")
        new, key = secrets.token_hex(8), names.key(name)
        texts = {"recipe": recipe.as_json(), "metrics": dict(metrics), "documents": list(documents)}
        written = {what: json.dumps(value, indent=2) + "\n" for what, value in texts.items()}
        with files.explained(folder):
            for what, text in written.items():
                files.write(folder / f"{what}.json", text.encode())
            files.seal(folder)
            with self._database.transaction():
                old = self._database.rows("SELECT id FROM extractors WHERE name_key = ?", key)
                files.move(folder, self._layout.extractor(new))
                self._database.rows("DELETE FROM extractors WHERE name_key = ?", key)
                self._database.rows(
                    "INSERT INTO extractors (id, name, name_key, recipe, metrics, documents, created)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    *(new, name, key, *written.values(), now()),
                )
            for row in old:
                self._delete(row["id"])
            files.delete(workspace)
        return self.find(name)

    def remove(self, name: str) -> Extractor:
        """Forget an extractor, and what was made with it. Raises NotFoundError, KmError while it is trained."""
        extractor = self.find(name)
        with self.training(extractor.name) as workspace:
            self._database.rows("DELETE FROM extractors WHERE id = ?", extractor.id)
            with files.explained(workspace):
                self._delete(extractor.id)
                files.delete(workspace)
            self._locks.forget(workspace.name)
        return extractor

    def _delete(self, extractor_id: str) -> None:
        files.delete(self._layout.extractor(extractor_id))
        for made in sorted(self._layout.cache.rglob(f"*{extractor_id}*")):
            files.delete(made)

    def _value(self, row: sqlite3.Row) -> Extractor:
        try:
            recipe = ExtractorRecipe.from_json(json.loads(row["recipe"]))
        except TypeError:
            raise KmError(
                f"the extractor {row['name']} was trained by a newer km.", "Upgrade with: pip install --upgrade kmcli"
            ) from None
        return Extractor(
            id=row["id"],
            name=row["name"],
            path=self._layout.extractor(row["id"]),
            recipe=recipe,
            metrics=json.loads(row["metrics"]),
            documents=tuple(json.loads(row["documents"])),
            created=row["created"],
        )


def checked(name: str) -> str:
    """A name for an extractor, by the rules of documents' names. Raises UsageError where it breaks them."""
    try:
        return names.checked(name)
    except UsageError as error:
        raise UsageError(f"{name!r} cannot be the name of an extractor.", error.hint) from None
