"""The library's SQLite file: one connection, transactions that never collide, and what its errors mean to people."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from kmcli.errors import ResourceError
from kmcli.library import files
from kmcli.library.names import key
from kmcli.migrations import check, migrate
from kmcli.types import Document

BUSY_SECONDS = 60.0
"""How long a writer waits for another process's transaction before it gives up."""

# What SQLite says -> what to do about it. Any other error is a bug in km.
HINTS = {
    "database is locked": "Another km is writing to it; try again when that has finished.",
    "database or disk is full": "Free some space and try again.",
    "attempt to write a readonly database": "Check its permissions.",
    "unable to open database file": "Check its permissions.",
    "disk I/O error": "Check the disk.",
    "file is not a database": "Restore it from a backup, or move it away and add the documents again.",
    "database disk image is malformed": "Restore it from a backup, or move it away and add the documents again.",
}


class Database:
    """Open, migrated, in write-ahead mode. For one thread."""

    def __init__(self, path: Path, lock_file: Path) -> None:
        """Create or open the file. Raises ResourceError where that fails, KmError for a newer km's database."""
        self.path = path
        with self._explained():
            # SQLite gives its own files beside this one the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, files.FILE_MODE))
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._connection.execute("PRAGMA synchronous = FULL")
                migrate(self._connection, lock_file)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        self._connection.close()

    def rows(self, statement: str, *values: str | int | None) -> list[sqlite3.Row]:
        """Run one statement."""
        with self._explained():
            return self._connection.execute(statement, [_storable(value) for value in values]).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes true at the end, or nothing of it. Not to be nested."""
        with self._explained():
            # Taking the write lock at once is what lets SQLite wait for others instead of failing half-way.
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            check(self._connection)  # a newer km may have come since: what it keeps, this one would not
            yield
            with self._explained():
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def document(self, column: Literal["id", "name_key", "sha256", "source"], value: str) -> Document | None:
        rows = self.rows(f"SELECT * FROM documents WHERE {column} = ?", value)
        return self._document(rows[0]) if rows else None

    def documents(self, rest: str = "ORDER BY name_key", *values: str | int) -> list[Document]:
        """All of them, by name; or what the rest of the statement says, after SELECT documents.* FROM documents."""
        return [self._document(row) for row in self.rows(f"SELECT documents.* FROM documents {rest}", *values)]

    def trained(self) -> Iterator[Document]:
        """Those with a module, the last trained first."""
        with self._explained():
            yield from map(
                self._document,
                self._connection.execute(
                    "SELECT documents.* FROM documents JOIN modules ON document_id = documents.id ORDER BY number DESC"
                ),
            )

    def save(self, document: Document) -> None:
        """Insert or update by id; in a transaction, because tags are in a table of their own as well."""
        values = dataclasses.asdict(document)
        values |= {"name_key": key(document.name), "tags": json.dumps(document.tags)}
        self.rows(
            f"INSERT INTO documents ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
            f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in values)}",
            *values.values(),
        )
        self.rows("DELETE FROM tags WHERE document_id = ?", document.id)
        for tag in document.tags:
            self.rows("INSERT OR IGNORE INTO tags VALUES (?, ?, ?)", key(tag), document.id, tag)

    def _document(self, row: sqlite3.Row) -> Document:
        try:
            return _document(row)
        except IndexError:  # a column is missing
            check(self._connection)
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            hint = HINTS.get(str(error))
            if hint is None:
                check(self._connection)  # whose tables are others
                raise
            raise ResourceError(f"the library's database {self.path} cannot be used: {error}.", hint) from error


def _document(row: sqlite3.Row) -> Document:
    """The Document in a row of the table documents."""
    source = row["source"]
    return Document(
        id=row["id"],
        name=row["name"],
        source=source.decode("utf-8", "surrogatepass") if isinstance(source, bytes) else source,
        kind=row["kind"],
        sha256=row["sha256"],
        text_sha256=row["text_sha256"],
        pages=row["pages"],
        words=row["words"],
        added=row["added"],
        updated=row["updated"],
        tags=tuple(json.loads(row["tags"])),
    )


def _storable(value: str | int | None) -> str | bytes | int | None:
    """SQLite refuses lone surrogates, which Python puts into paths that are not UTF-8: such a text is kept as bytes."""
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        return value.encode("utf-8", "surrogatepass")
    return value
