"""What can be damaged in a library, and mending what can be mended without guessing.

A repair deletes only unfinished work. What belongs to no document is moved to the folder lost/, because a library whose
database was lost looks exactly like one that is full of leftovers.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kmcli.errors import ResourceError
from kmcli.library import contents, files
from kmcli.library import samples as study
from kmcli.library.database import Database
from kmcli.library.layout import UNFINISHED, Layout, has_weights, unfinished
from kmcli.library.locks import Busy, Locks
from kmcli.library.published import Published
from kmcli.types import Document

REPAIR = "km doctor --repair mends this."
BACKUP = "Restore the library from a backup, or move it away and add the documents again."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or was: `repaired` says that it has been mended just now. hint: what to do about it.
    unchecked: nothing is known to be wrong, because a process is at work on it."""

    message: str
    hint: str
    repaired: bool
    unchecked: bool = False


def inspect(layout: Layout, database: Database, published: Published, repair: bool) -> list[Finding]:
    """Look at everything; documents that another process is working on are reported as not checked."""
    inspection = _Inspection(layout, database, repair)
    try:
        inspection.integrity()
        # Locks of its own, so that work under way in this very process counts as under way too.
        locks = Locks(layout.locks)
        for listed in database.documents():
            try:
                with locks.hold(listed.id, listed.name, "doctor", wait=0.0):
                    document = database.document("id", listed.id)
                    if document is None:
                        locks.forget(listed.id)  # removed since it was listed
                    else:
                        inspection.document(document)
            except Busy as busy:
                message = f"{busy.message.rstrip('.')} and was not checked."
                inspection.findings.append(Finding(message, busy.hint, repaired=False, unchecked=True))
        inspection.extractors()
        inspection.orphans()
        inspection.published(published)
    except ResourceError as error:
        inspection.found(error.message, error.hint)
    return inspection.findings


class _Inspection:
    def __init__(self, layout: Layout, database: Database, repair: bool) -> None:
        self.layout = layout
        self.database = database
        self.repair = repair
        self.findings: list[Finding] = []

    def found(self, message: str, hint: str, mend: Callable[[], object] | None = None) -> None:
        """Note a finding, and mend it where that is possible and asked for."""
        if self.repair and mend:
            mend()
            self.findings.append(Finding(message, "", repaired=True))
        else:
            self.findings.append(Finding(message, hint, repaired=False))

    def integrity(self) -> None:
        problems = [str(row[0]) for row in self.database.rows("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            self.found(f"the database {self.layout.database} is damaged: {problems[0]}.", BACKUP)

    def document(self, document: Document) -> None:
        """One document; its lock is held."""
        damage = contents.damage(self.layout, document)
        if damage:
            self.found(damage, contents.add_again(document))
        leftovers = self.layout.leftovers(document)
        if leftovers:
            message = f"{document.name} has files left over from an update that was cut short."
            self.found(message, REPAIR, lambda: contents.clear(self.layout, document))
        self._samples(document)
        self._module(document)

    def _samples(self, document: Document) -> None:
        path = self.layout.samples(document)
        found = study.read(path)
        if found.damaged:
            message = f"the study material of {document.name} is damaged in {len(found.damaged)} of its lines."
            self.found(message, REPAIR, lambda: files.write(path, b"".join(line + b"\n" for line in found.lines)))
        elif found.torn:
            message = f"the last line of the study material of {document.name} was torn by a crash."
            self.found(message, REPAIR, lambda: study.cut(path))

    def _module(self, document: Document) -> None:
        for row in self.database.rows("SELECT * FROM kept WHERE document_id = ?", document.id):
            self._files_of(document, row, "kept", f"the kept {row['adapter']} of {document.name}")
        rows = self.database.rows("SELECT * FROM modules WHERE document_id = ?", document.id)
        if rows and not self._files_of(document, rows[0], "modules", f"the Knowledge Module of {document.name}"):
            return
        workspace = self.layout.workspace(document)
        if any(workspace.glob("*")) and not unfinished(workspace, rows[0]["finished"] if rows else None):
            message = f"{document.name} has files left over from a training that is over."
            self.found(message, REPAIR, partial(files.delete, workspace))

    def _files_of(self, document: Document, row: sqlite3.Row, table: str, what: str) -> bool:
        """Whether a module has its weights. table: where its row is."""
        folder, module_id = self.layout.module(row["id"]), row["id"]
        if not has_weights(folder):
            hint = f"km doctor --repair forgets it; then train it again with: km train {document.name}"
            forget = partial(self.database.rows, f"DELETE FROM {table} WHERE id = ?", module_id)
            self.found(f"{what} has lost its weights.", hint, forget)
            return False
        for name in ("recipe.json", "metrics.json"):
            file, wanted = folder / name, row[name.removesuffix(".json")].encode()
            if not file.exists() or file.read_bytes() != wanted:
                message = f"{name} of {what} is missing or has been changed."
                self.found(message, REPAIR, partial(files.write, file, wanted))
        return True

    def extractors(self) -> None:
        for row in self.database.rows("SELECT id, name FROM extractors ORDER BY name_key"):
            if not has_weights(self.layout.extractor(row["id"])):
                message = f"the Knowledge Extractor {row['name']} has lost its weights."
                hint = "km doctor --repair forgets it; then train it again with: km extractor train"
                forget = partial(self.database.rows, "DELETE FROM extractors WHERE id = ?", row["id"])
                self.found(message, hint, forget)

    def orphans(self) -> None:
        """What belongs to no document. In a transaction, so that no other process is half-way through adding one."""
        with self.database.transaction():
            documents = {row["id"] for row in self.database.rows("SELECT id FROM documents")}
            modules = {row["id"] for row in self.database.rows("SELECT id FROM modules UNION SELECT id FROM kept")}
            extractors = {row["id"] for row in self.database.rows("SELECT id FROM extractors")}
            extractors |= {path.name for path in self.layout.extractors.glob(f"{UNFINISHED}*")}
            folders = (self.layout.documents, self.layout.modules, self.layout.extractors)
            for parent, known in zip(folders, (documents, modules, extractors), strict=True):
                for orphan in sorted(path for path in parent.iterdir() if path.name not in known):
                    message = f"{orphan} belongs to no {'extractor' if known is extractors else 'document'}."
                    hint = f"km doctor --repair moves it to {self.layout.lost}, where you may delete it."
                    self.found(message, hint, partial(self._set_aside, orphan))

    def published(self, published: Published) -> None:
        with self.database.transaction():
            if not published.right():
                self.found("the names that a shell completes are not those of the documents.", REPAIR, published.anew)

    def _set_aside(self, orphan: Path) -> None:
        files.make_folder(self.layout.lost)
        files.move(orphan, self.layout.lost / f"{orphan.parent.name}-{orphan.name}-{secrets.token_hex(2)}")
