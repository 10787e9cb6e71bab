"""Library: every document, its study material and its Knowledge Module. The one object that workflows hold.

The order of every change: files first, under names nobody reads yet; then one database transaction, which makes them
true; then the deletion of what they replace. A crash in between leaves files that belong to nothing, for `check`.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kmcli.errors import NotFoundError, ResourceError, did_you_mean
from kmcli.library import contents, files, modules, names
from kmcli.library import samples as study
from kmcli.library.beside import Beside
from kmcli.library.check import Finding, inspect
from kmcli.library.contents import Added
from kmcli.library.conversations import Conversations
from kmcli.library.database import Database
from kmcli.library.exams import Exams
from kmcli.library.extractors import Extractors
from kmcli.library.layout import Layout, has_weights
from kmcli.library.locks import Locks
from kmcli.types import Document, Ingested, KnowledgeModule, Recipe, Sample, State


class Library:
    """A folder with everything that km keeps. For one thread; any number of processes may have it open.

    A method that changes a document takes the document's lock if `lock` does not hold it already, and raises KmError
    where another process holds it. Whatever the disk refuses is a ResourceError.
    """

    def __init__(self, layout: Layout, database: Database) -> None:
        self._layout = layout
        self._database = database
        self._locks = Locks(layout.locks)
        self.conversations = Conversations(layout.conversations, self._locks)
        self.extractors = Extractors(layout, database, self._locks)
        self.exams = Exams(layout)
        self.beside = Beside(layout)

    @classmethod
    def open(cls, home: Path) -> Library:
        """Open the library in a folder, creating and migrating it as needed.

        Raises ResourceError where the folder cannot be used, KmError where a newer km has written it.
        """
        layout = Layout(home.absolute())
        try:
            layout.home.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
            for folder in layout.folders:
                files.make_folder(folder)
            return cls(layout, Database(layout.database, layout.home / "km.lock"))
        except OSError as error:
            raise ResourceError(
                f"the library in {layout.home} cannot be opened: {files.reason(error)}.",
                "Check its permissions, or name another folder with KM_HOME.",
            ) from error

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def home(self) -> Path:
        return self._layout.home

    @property
    def cache(self) -> Path:
        """For what can be computed again. What belongs to one document has the document's id in front of its name."""
        return self._layout.cache

    # --- documents ------------------------------------------------------------------------------------------------

    def documents(self) -> list[Document]:
        """All documents, by name."""
        return self._database.documents()

    def find(self, name: str) -> Document:
        """The document of that name, whatever its case. Raises NotFoundError."""
        found = self._database.document("name_key", names.key(name))
        if found:
            return found
        known = [document.name for document in self.documents()]
        if not known:
            raise NotFoundError(f"there is no document {name!r}: the library is empty.", "Add one with: km add FILE")
        raise NotFoundError(
            f"there is no document {name!r}.", did_you_mean(name, known, "Add it with: km add FILE (km ls shows all).")
        )

    def has(self, name: str) -> bool:
        """Whether a document is called so, whatever its case."""
        return self._database.document("name_key", names.key(name)) is not None

    def add(self, ingested: Ingested, name: str | None = None, tags: Sequence[str] = ()) -> Added:
        """Take a document in, or notice that it is here.

        The same bytes are "unchanged" (only new tags are added), whatever they are called; where their copy here was
        damaged it is written anew ("updated"). Other bytes from the same file or URL are "updated": id, name and study
        material stay. Raises UsageError for a name or tag that is not allowed, or a name that is taken.
        """
        wanted = names.checked(name) if name is not None else None
        with ExitStack() as held, files.explained(self.home):
            with self._database.transaction():
                same = self._database.document("sha256", ingested.sha256)
                from_source = self._database.document("source", ingested.source) if ingested.source != "-" else None
                known = same or from_source
                if wanted:
                    self._refuse_taken(wanted, known)
                changed = same is None or bool(contents.damage(self._layout, same))
                document = known or contents.new_document(wanted or self._free_name(ingested), ingested)
                if known and changed:
                    held.enter_context(self.lock(known, "add"))
                    document = contents.with_contents(known, ingested)
                if changed:
                    contents.write(self._layout, document, ingested)
                document = contents.with_tags(document, tags)
                self._database.save(document)
            if known is None or known.tags != document.tags:
                self._publish_names()
            if known is None:
                return Added(document, "added", False)
            trained = self._trained(document) is not None
            if not changed:
                return Added(document, "unchanged", trained)
            contents.clear(self._layout, document)
            other_text = document.text_sha256 != known.text_sha256
            unfinished_of_old = other_text and self.state(document) == "interrupted"
            if other_text:
                files.delete(self._layout.workspace(document))
            return Added(document, "updated", trained, unfinished_of_old)

    def rename(self, old: str, new: str) -> Document:
        """Raises NotFoundError for `old`, UsageError where `new` is not allowed or taken."""
        wanted = names.checked(new)
        with self._database.transaction():
            document = self.find(old)
            self._refuse_taken(wanted, document)
            document = dataclasses.replace(document, name=wanted)
            self._database.save(document)
        self._publish_names()
        return document

    def retag(self, document: Document, add: Sequence[str], remove: Sequence[str]) -> Document:
        """Give a document tags and take some away. Raises UsageError for one to add that is not allowed."""
        with self._database.transaction():
            current = self._database.document("id", document.id)
            if current is None:
                raise NotFoundError(f"{document.name} has been removed meanwhile.", "km ls shows what is there.")
            document = contents.with_tags(current, add, remove)
            self._database.save(document)
        if document.tags != current.tags:
            self._publish_names()
        return document

    def remove(self, name: str) -> Document:
        """Forget a document: its text, study material, module and cache. The file it came from is not touched."""
        document = self.find(name)
        with self.lock(document, "rm"), files.explained(self.home):
            module = self._trained(document)
            with self._database.transaction():
                self._database.rows("DELETE FROM documents WHERE id = ?", document.id)
            files.delete(self._layout.document(document))
            if module:
                files.delete(self._layout.module(module["id"]))
            for path in sorted(self.cache.rglob(f"{document.id}*")):
                files.delete(path)
            self._locks.forget(document.id)
        self._publish_names()
        return document

    def text(self, document: Document) -> str:
        """The document's text. Raises KmError where the file is missing or no longer what was added."""
        return contents.text(self._layout, document)

    def source_file(self, document: Document) -> Path:
        """The copy of the bytes as given."""
        return self._layout.source(document)

    # --- study material -------------------------------------------------------------------------------------------

    def samples(self, document: Document) -> list[Sample]:
        """Raises KmError where a line other than a torn last one is damaged."""
        found = study.samples(self._layout.samples(document), document.name)
        return study.scored(found, self._layout.scores(document))

    def append_samples(self, document: Document, samples: Iterable[Sample]) -> None:
        """Add samples; they are safe on the disk when this returns."""
        with self.lock(document, "synth"), files.explained(self.home):
            study.append(self._layout.samples(document), samples)

    def chunk_texts(self, document: Document) -> dict[str, str]:
        """By hash, the chunks that study material was written about: also those of other sizes, or of an older text."""
        return study.texts(self._layout.chunks(document))

    def keep_chunks(self, document: Document, texts: Iterable[str]) -> None:
        """Keep the chunks that are not kept yet; to be called before samples about them are appended."""
        with self.lock(document, "synth"), files.explained(self.home):
            study.keep_texts(self._layout.chunks(document), texts)

    def append_scores(self, document: Document, samples: Iterable[Sample]) -> None:
        """Note the scores of samples that were appended without one; safe on the disk when this returns."""
        with self.lock(document, "synth"), files.explained(self.home):
            study.append_scores(self._layout.scores(document), samples)

    def drop_samples(self, document: Document) -> None:
        with self.lock(document, "synth"), files.explained(self.home):
            # the log first: it must not promise samples that are gone
            kept = self._layout
            for path in (kept.work_log, kept.samples, kept.chunks, kept.scores, kept.exam_questions):
                path(document).unlink(missing_ok=True)
            files.sync(self._layout.document(document))

    def work_log(self, document: Document) -> list[dict[str, Any]]:
        """What has been written of the study material, as append_work was given it: its samples are all there."""
        return study.work(self._layout.work_log(document))

    def append_work(self, document: Document, group: Iterable[Mapping[str, Any]]) -> None:
        """Note finished work, after its samples were appended; safe on the disk when this returns.

        A group is one line: all of it is noted or, after a crash, nothing, and then the same group is written again.
        """
        with self.lock(document, "synth"), files.explained(self.home):
            study.append_objects(self._layout.work_log(document), [list(group)])

    # --- modules --------------------------------------------------------------------------------------------------

    def state(self, document: Document) -> State:
        """interrupted: there is an unfinished training; stale: the module was trained on another text than this one."""
        return modules.state(self._layout, document, self._trained(document))

    def workspace(self, document: Document) -> Path:
        """The folder for checkpoints and other unfinished files of the document's training; made if it is not there."""
        with files.explained(self.home):
            folder = self._layout.workspace(document)
            files.make_folder(folder)
            return folder

    def clear_workspace(self, document: Document) -> None:
        with self.lock(document, "train"), files.explained(self.home):
            files.delete(self._layout.workspace(document))

    def staging(self, document: Document) -> Path:
        """An empty folder in the workspace, in which to write a module for commit_module."""
        with self.lock(document, "train"), files.explained(self.home):
            folder = self.workspace(document) / "module"
            files.delete(folder)
            files.make_folder(folder)
            return folder

    def commit_module(
        self, document: Document, folder: Path, recipe: Recipe, metrics: Mapping[str, Any]
    ) -> KnowledgeModule:
        """Make the finished files in a staging folder the document's module, in place of the one before.

        metrics: anything that JSON can hold. The module counts as trained on `document`'s text_sha256.
        Raises ValueError where the folder holds no weights in safetensors.
        """
        if not has_weights(folder):
            raise ValueError(f"{folder} holds no safetensors weights")
        with self.lock(document, "train"), files.explained(self.home):
            modules.commit(self._layout, self._database, document, folder, recipe, metrics)
            files.delete(self._layout.workspace(document))
        module = self.module(document)
        assert module is not None
        return module

    def module(self, document: Document) -> KnowledgeModule | None:
        """The document's module, fresh or stale; None where there is none or its files are gone.

        Raises KmError where it was trained by a newer km.
        """
        row = self._trained(document)
        return modules.as_value(self._layout, document, row) if row else None

    def last_trained(self) -> Document | None:
        """The document whose module was committed last."""
        return next(filter(self._trained, self._database.trained()), None)

    # --- locks and damage -----------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, document: Document, verb: str, wait: float = 0.0) -> Iterator[Document]:
        """Keep other processes from changing the document; they are told that `km verb` of this process is at it.

        Gives the document as it is now, which may not be as it was listed. Waits up to `wait` seconds, then raises
        KmError saying who holds it. Raises NotFoundError where the document was removed meanwhile. Taking it again while
        holding it does nothing.
        """
        if self._locks.holds(document.id):
            yield self._database.document("id", document.id) or document
            return
        with self._locks.hold(document.id, document.name, verb, wait):
            current = self._database.document("id", document.id)
            if current is None:
                self._locks.forget(document.id)
                raise NotFoundError(f"{document.name} has been removed meanwhile.", "km ls shows what is there.")
            yield current

    def check(self, repair: bool = False) -> list[Finding]:
        """What is damaged or left over; `repair` mends what can be mended without guessing."""
        with files.explained(self.home):
            return inspect(self._layout, self._database, repair)

    # --- within ---------------------------------------------------------------------------------------------------

    def _publish_names(self) -> None:
        """Names and then tags, a line each, where a shell completes them from without starting Python."""
        documents = self.documents()
        tags = sorted({f"@{tag}" for document in documents for tag in document.tags})
        with files.explained(self.home):
            files.write(
                self._layout.names, "".join(f"{one}\n" for one in [*(d.name for d in documents), *tags]).encode()
            )

    def _trained(self, document: Document) -> sqlite3.Row | None:
        return modules.row_of(self._layout, self._database, document)

    def _refuse_taken(self, name: str, allowed: Document | None) -> None:
        owner = self._database.document("name_key", names.key(name))
        if owner and (allowed is None or owner.id != allowed.id):
            raise names.taken(owner.name)

    def _free_name(self, ingested: Ingested) -> str:
        taken = {names.key(document.name) for document in self.documents()}
        return names.unique(names.friendly(ingested.suggested_name), taken)
