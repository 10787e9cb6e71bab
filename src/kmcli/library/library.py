"""Library: every document, its study material and its Knowledge Module. The one object that workflows hold.

The order of every change: files first, under names nobody reads yet; then one database transaction, which makes them
true; then the deletion of what they replace. A crash in between leaves files that belong to nothing, for `check`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kmcli.errors import KmError, ResourceError
from kmcli.library import aged, contents, files, names
from kmcli.library.beside import Beside
from kmcli.library.catalogue import Catalogue
from kmcli.library.check import Finding, inspect
from kmcli.library.compressors import Compressors
from kmcli.library.contents import Added
from kmcli.library.conversations import Conversations
from kmcli.library.database import Database
from kmcli.library.exams import Exams
from kmcli.library.extractors import Extractors
from kmcli.library.layout import Layout
from kmcli.library.material import removed
from kmcli.library.published import Published
from kmcli.library.trained import Trained
from kmcli.types import Document, Ingested


class Library(Trained):
    """A folder with everything that km keeps. For one thread; any number of processes may have it open.

    A method that changes a document takes the document's lock if `lock` does not hold it already, and raises KmError
    where another process holds it. Whatever the disk refuses is a ResourceError.
    """

    def __init__(self, layout: Layout, database: Database) -> None:
        super().__init__(layout, database)
        self.catalogue = Catalogue(database)
        self._published = Published(layout.names, self.catalogue.published)
        self.conversations = Conversations(layout.conversations, self._locks)
        self.extractors = Extractors(layout, database, self._locks)
        self.compressors = Compressors(layout, self._locks)
        self.exams = Exams(layout)
        self.beside = Beside(layout)

    @classmethod
    def open(cls, home: Path) -> Library:
        """Open the library in a folder, creating and migrating it as needed.

        Raises ResourceError where the folder cannot be used, KmError where a newer km has written it.
        """
        layout = Layout(home.absolute())
        try:
            files.make_root(layout.home)
            if not layout.document_caches.is_dir():
                aged.clear_cache(layout)
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
        """For what can be computed again. What belongs to one document is in `cache_of` it."""
        self._make_cache()
        return self._layout.cache

    def cache_of(self, document_id: str) -> Path:
        """The folder for what can be computed again of a document, and is deleted with it; it may not be there yet."""
        self._make_cache()
        return self._layout.document_cache(document_id)

    # --- documents ------------------------------------------------------------------------------------------------

    def documents(self) -> list[Document]:
        """All documents, by name."""
        return self.catalogue.documents()

    def find(self, name: str) -> Document:
        """The document of that name, whatever its case. Raises NotFoundError."""
        return self.catalogue.find(name)

    def has(self, name: str) -> bool:
        """Whether a document is called so, whatever its case."""
        return self.catalogue.named(name) is not None

    def known(self, ingested: Ingested) -> Document | None:
        """The document that has the same bytes or, else, came from the same source."""
        same = self.catalogue.of_bytes(ingested.sha256)
        return same or (self.catalogue.of_source(ingested.source) if ingested.source != "-" else None)

    def add(
        self, ingested: Ingested, name: str | None = None, tags: Sequence[str] = (), update: Document | None = None
    ) -> Added:
        """Take a document in, or notice that it is here.

        update: a document whose contents, and source, these become. Without one, the same bytes are "unchanged" (only new
        tags are added), whatever they are called; where their copy here was damaged it is written anew ("updated"). Other
        bytes from the same file or URL are "updated": id, name and study material stay. Raises UsageError for a name or tag
        that is not allowed, a name that is taken, or an update by what is another document.
        """
        wanted = names.checked(name) if name is not None else None
        with ExitStack() as held, files.explained(self.home):
            with self._database.transaction():
                known = self.known(ingested)
                same = known if known and known.sha256 == ingested.sha256 else None
                if update:
                    if known and known.id != update.id:
                        raise names.elsewhere(known.name, update.name)
                    known = self.find(update.name)
                if wanted:
                    self._refuse_taken(wanted, known)
                changed = same is None or bool(contents.damage(self._layout, same))
                document = known or contents.new_document(
                    wanted or self.catalogue.free_name(ingested.suggested_name), ingested
                )
                if known and changed:
                    held.enter_context(self.lock(known, "add"))
                    document = contents.with_contents(known, ingested)
                if update and ingested.source != "-":
                    document = dataclasses.replace(document, source=ingested.source)
                if changed:
                    contents.write(self._layout, document, ingested)
                document = contents.with_tags(document, tags)
                self._save(document, known)
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

    def add_new(self, batch: Sequence[Ingested], tags: Sequence[str] = ()) -> list[Added | None]:
        """Take many documents in at once, which costs little more than one. None for each that `add` has to look at,
        because the library has its bytes or its source already. Raises UsageError for a tag that is not allowed."""
        made: list[Added | None] = []
        folders: list[Path] = []
        try:
            with files.explained(self.home), self._database.transaction():
                for ingested in batch:
                    if self.known(ingested):
                        made.append(None)
                        continue
                    name = self.catalogue.free_name(ingested.suggested_name)
                    document = contents.with_tags(contents.new_document(name, ingested), tags)
                    folders.append(self._layout.document(document))
                    contents.write(self._layout, document, ingested, synced=False)
                    self._database.save(document)
                    made.append(Added(document, "added", False))
                files.sync_all(path for folder in folders for path in (*folder.iterdir(), folder))
                files.sync(self._layout.documents)
                new = [added.document for added in made if added]
                lines = [one.name for one in new] + [f"@{tag}" for one in new[:1] for tag in one.tags]
                self._published.change((), lines)
        except BaseException:
            for folder in folders:
                files.delete(folder)
            raise
        return made

    def rename(self, old: str, new: str) -> Document:
        """Raises NotFoundError for `old`, UsageError where `new` is not allowed or taken."""
        wanted = names.checked(new)
        with self._database.transaction():
            before = self.find(old)
            self._refuse_taken(wanted, before)
            document = dataclasses.replace(before, name=wanted)
            self._save(document, before)
        return document

    def adopt(self, document: Document) -> Path:
        """Record a document of another library as it is there; returns the folder that is to hold its files."""
        folder = self._layout.document(document)
        with files.explained(self.home), self._database.transaction():
            files.make_folder(folder)
            self._save(document, None)
        return folder

    def found_at(self, document: Document, source: str) -> Document:
        """Note that the file a document was read from lies elsewhere now, so that a change of it there is an update."""
        with self._database.transaction():
            current = self._there(document)
            moved = dataclasses.replace(current, source=source)
            self._save(moved, current)
        return moved

    def retag(self, document: Document, add: Sequence[str], remove: Sequence[str]) -> Document:
        """Give a document tags and take some away. Raises UsageError for one to add that is not allowed."""
        with self._database.transaction():
            current = self._there(document)
            document = contents.with_tags(current, add, remove)
            self._save(document, current)
        return document

    def remove(self, name: str) -> Document:
        """Forget a document: its text, study material, module and cache. The file it came from is not touched."""
        document = self.find(name)
        with self.lock(document, "rm"), files.explained(self.home):
            trained = self._all_modules(document)
            with self._database.transaction():
                self._database.rows("DELETE FROM documents WHERE id = ?", document.id)
                self._publish(document, None)
            files.delete(self._layout.document(document))
            for module in trained:
                files.delete(self._layout.module(module["id"]))
            files.delete(self.cache_of(document.id))
            self._locks.forget(document.id)
        return document

    def text(self, document: Document) -> str:
        """The document's text. Raises KmError where the file is missing or no longer what was added, NotFoundError where
        another process has removed the document since it was looked up."""
        try:
            return contents.text(self._layout, document)
        except KmError:
            current = self._there(document)
            if current.text_sha256 != document.text_sha256:
                raise KmError(f"{document.name} has been changed meanwhile.", "Try again.") from None
            raise

    def source_file(self, document: Document) -> Path:
        """The copy of the bytes as given."""
        return self._layout.source(document)

    # --- damage -----------------------------------------------------------------------------------------------------

    def check(self, repair: bool = False) -> list[Finding]:
        """What is damaged or left over; `repair` mends what can be mended without guessing."""
        with files.explained(self.home):
            return inspect(self._layout, self._database, self._published, repair)

    def _make_cache(self) -> None:
        """Where somebody has deleted it since the library was opened."""
        with files.explained(self.home):
            for folder in (self._layout.cache, self._layout.document_caches):
                if not folder.is_dir():
                    files.make_folder(folder)

    # --- within ---------------------------------------------------------------------------------------------------

    def _save(self, document: Document, before: Document | None) -> None:
        """Within a transaction."""
        self._database.save(document)
        self._publish(before, document)

    def _publish(self, before: Document | None, document: Document | None) -> None:
        """What a shell completes, now that a document has come, changed or gone. Within its transaction, which keeps other
        processes from the file."""
        old, new = ((one.name, *(f"@{tag}" for tag in one.tags)) if one else () for one in (before, document))
        gone = [one for one in old if one not in new and not (one[0] == "@" and self.catalogue.carried(one[1:]))]
        come = [one for one in new if one not in old]
        if gone or come:
            with files.explained(self.home):
                self._published.change(gone, come)

    def _there(self, document: Document) -> Document:
        """The document as it is now. Raises NotFoundError where it was removed."""
        current = self.catalogue.of_id(document.id)
        if current is None:
            raise removed(document)
        return current

    def _refuse_taken(self, name: str, allowed: Document | None) -> None:
        owner = self._database.document("name_key", names.key(name))
        if owner and (allowed is None or owner.id != allowed.id):
            raise names.taken(owner.name)
