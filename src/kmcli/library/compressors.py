"""Compressors: a folder for each base, by its revision, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmcli.errors import NotFoundError
from kmcli.library import files, workspaces
from kmcli.library.contents import now
from kmcli.library.layout import UNFINISHED, Layout, has_weights
from kmcli.library.locks import Locks
from kmcli.types import text_hash

_ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A compressor. base: what it is called; revision: of its weights, which identify it."""

    base: str
    revision: str
    path: Path
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]
    created: str


class Compressors:
    """Those of a library."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._folder, self._home, self._locks = layout.compressors, layout.home, locks
        self._database = layout.database

    def all(self) -> list[Kept]:
        """By base. What is damaged, or unfinished, is left out."""
        if not self._folder.is_dir():
            return []
        found = [_read(folder) for folder in sorted(self._folder.iterdir()) if not folder.name.startswith(UNFINISHED)]
        return sorted((one for one in found if one), key=lambda one: (one.base, one.revision))

    def of(self, revision: str) -> Path | None:
        """The folder of the compressor for a base's weights; None where there is none."""
        folder = self._folder / _key(revision)
        return folder if folder.is_dir() and has_weights(folder) else None

    @contextmanager
    def training(self, base: str, revision: str) -> Iterator[Path]:
        """The folder of what is unfinished, while no other process trains one for the base; without a checkpoint it goes.

        Raises KmError where another process has it.
        """
        key = _key(revision)
        with files.explained(self._home):
            files.make_folder(self._folder)
        folder = self._folder / f"{UNFINISHED}{key}"
        with workspaces.held(
            self._locks, f"compressor-{key}", f"the compressor for {base}", "compressor train", folder
        ):
            yield folder

    def staging(self, workspace: Path) -> Path:
        """An empty folder in a workspace, in which to write one for `commit`."""
        return workspaces.emptied(workspace / "compressor")

    def commit(
        self, base: str, revision: str, workspace: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any]
    ) -> Kept:
        """Make the finished files in the staging folder the base's compressor, in place of the one before."""
        folder, target = workspace / "compressor", self._folder / _key(revision)
        if not self._database.exists():  # and whoever saved the files has made the folders anew
            raise files.gone(self._home)
        about = {"base": base, "revision": revision, "recipe": recipe, "metrics": metrics, "created": now()}
        with files.explained(self._home):
            files.write(folder / _ABOUT, (json.dumps(about, indent=2) + "\n").encode())
            files.seal(folder)
            if target.exists() and files.exchange(folder, target):  # the old one goes with the workspace
                files.sync(target.parent)
            else:
                files.delete(target)
                files.move(folder, target)
            files.delete(workspace)
        found = _read(target)
        if found is None:  # taken away since it was moved there
            raise files.gone(self._home)
        return found

    def remove(self, base: str, revision: str) -> Kept:
        """Raises NotFoundError, KmError while it is trained."""
        found = _read(self._folder / _key(revision))
        if found is None:
            raise NotFoundError(f"there is no compressor for {base}.", "Train one: km compressor train")
        with self.training(base, revision) as workspace, files.explained(self._home):
            files.delete(found.path)
            files.delete(workspace)
        return found


def _key(revision: str) -> str:
    return text_hash(revision)[:16]


def _read(folder: Path) -> Kept | None:
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
        return Kept(about["base"], about["revision"], folder, about["recipe"], about["metrics"], about["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
