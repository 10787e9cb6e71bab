"""Documents by name, tag, hash and change: what is asked of all of them at once, without reading them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmcli.errors import NotFoundError, did_you_mean
from kmcli.library import names
from kmcli.library.database import Database
from kmcli.types import Document

NEAR = 500
"""Names on either side in the alphabet among which one is looked for that was meant: in a small library, all."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has happened to texts since a mark. changed: documents that are new or have another text. gone: ids of those that
    were removed. mark: to ask from the next time."""

    changed: tuple[Document, ...]
    gone: tuple[str, ...]
    mark: str


class Catalogue:
    def __init__(self, database: Database) -> None:
        self._database = database

    def documents(self, tag: str | None = None, limit: int | None = None) -> list[Document]:
        """By name; of those with a tag, or of all, the first so many."""
        rest, values = self._having(tag)
        return self._database.documents(f"{rest} ORDER BY name_key LIMIT ?", *values, -1 if limit is None else limit)

    def count(self, tag: str | None = None) -> int:
        rest, values = self._having(tag)
        return int(self._database.rows(f"SELECT count(*) FROM documents {rest}", *values)[0][0])

    def of_id(self, document_id: str) -> Document | None:
        return self._database.document("id", document_id)

    def of_source(self, source: str) -> Document | None:
        """The document that was read from this file or URL."""
        return self._database.document("source", source)

    def of_bytes(self, sha256: str) -> Document | None:
        """A document that was read from these bytes."""
        return self._database.document("sha256", sha256)

    def below(self, folder: str) -> list[Document]:
        """Those that were read from files of a folder, and of folders in it, by path; the folder with its last slash."""
        return self._database.documents(
            "WHERE source >= ? AND source < ? ORDER BY source", folder, folder[:-1] + chr(ord(folder[-1]) + 1)
        )

    def named(self, name: str) -> Document | None:
        """The document of that name, whatever its case."""
        return self._database.document("name_key", names.key(name))

    def find(self, name: str) -> Document:
        """The same. Raises NotFoundError, with the names that come near."""
        found = self.named(name)
        if found:
            return found
        known = self._near(name)
        if not known:
            raise NotFoundError(f"there is no document {name!r}: the library is empty.", "Add one with: km add FILE")
        raise NotFoundError(
            f"there is no document {name!r}.", did_you_mean(name, known, "Add it with: km add FILE (km ls shows all).")
        )

    def tags(self) -> dict[str, int]:
        """Every tag, by name, and how many documents have it."""
        rows = self._database.rows("SELECT min(tag), count(*) FROM tags GROUP BY tag_key ORDER BY 1")
        return dict(tuple(row) for row in rows)

    def carried(self, tag: str) -> bool:
        """Whether any document has a tag, spelled just so."""
        return bool(
            self._database.rows("SELECT 1 FROM tags WHERE tag_key = ? AND tag = ? LIMIT 1", names.key(tag), tag)
        )

    def published(self) -> list[str]:
        """What completes: names, and tags with their mark."""
        found = [row["name"] for row in self._database.rows("SELECT name FROM documents ORDER BY name_key")]
        return found + [f"@{row['tag']}" for row in self._database.rows("SELECT DISTINCT tag FROM tags ORDER BY tag")]

    def free_name(self, suggested: str) -> str:
        """A friendly name that no document has: where it is taken the next number behind it.

        Of ever so many documents that are called the same a few are looked at: the number is doubled until it is free, and
        then halved back.
        """
        name = names.friendly(suggested)
        if self.named(name) is None:
            return name
        taken, free = 1, 2
        while self.named(names.numbered(name, free)):
            taken, free = free, free * 2
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if self.named(names.numbered(name, middle)) else (taken, middle)
        return names.numbered(name, free)

    def unmade(self) -> Document | None:
        """The first document by name that has no Knowledge Module."""
        rest = "WHERE NOT EXISTS (SELECT 1 FROM modules WHERE document_id = documents.id) ORDER BY name_key LIMIT 1"
        return next(iter(self._database.documents(rest)), None)

    def changes(self, mark: str) -> Changes | None:
        """What has changed since a mark; None where this library never gave it out: then everything may have."""
        number = int(mark.partition(":")[0] or 0)
        if number and self._marks("WHERE number = ?", number) != [mark]:
            return None
        rows = self._database.rows("SELECT DISTINCT document_id FROM changes WHERE number > ? ORDER BY number", number)
        now = {row["document_id"]: self.of_id(row["document_id"]) for row in rows}
        there = tuple(document for document in now.values() if document)
        return Changes(there, tuple(key for key, document in now.items() if document is None), self.mark() or mark)

    def mark(self) -> str:
        """Where the changes are now; empty where there were none yet."""
        return next(iter(self._marks("ORDER BY number DESC LIMIT 1")), "")

    def _marks(self, rest: str, *values: int) -> list[str]:
        rows = self._database.rows(f"SELECT number, document_id, text_sha256 FROM changes {rest}", *values)
        return [f"{row['number']}:{row['document_id']}:{row['text_sha256'][:12]}" for row in rows]

    def _having(self, tag: str | None) -> tuple[str, Sequence[str]]:
        if tag is None:
            return "", ()
        wanted = names.key(tag.removeprefix("@"))
        return "JOIN tags ON document_id = documents.id WHERE tag_key = ?", (wanted,)

    def _near(self, name: str) -> list[str]:
        """The names on either side of one in the alphabet."""
        key = names.key(name)
        before = self._database.documents("WHERE name_key < ? ORDER BY name_key DESC LIMIT ?", key, NEAR)
        after = self._database.documents("WHERE name_key >= ? ORDER BY name_key LIMIT ?", key, NEAR)
        return [document.name for document in (*reversed(before), *after)]
