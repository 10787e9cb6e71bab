"""The library database's schema: numbered changes, one function each.

To add one: append a function to MIGRATIONS. Functions that were released are never edited, because databases in the
field have already run them. `PRAGMA user_version` holds how many of them a database has run.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Callable
from pathlib import Path

from kmcli.errors import KmError

LOCK_SECONDS = 60.0


def m001_documents(db: sqlite3.Connection) -> None:
    db.execute(
        """
        CREATE TABLE documents (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            name_key TEXT NOT NULL UNIQUE,  -- the name without its case
            source TEXT NOT NULL,
            kind TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            text_sha256 TEXT NOT NULL,
            pages INTEGER,
            words INTEGER NOT NULL,
            added TEXT NOT NULL,
            updated TEXT NOT NULL,
            tags TEXT NOT NULL  -- JSON list
        )
        """
    )
    db.execute("CREATE INDEX documents_by_sha256 ON documents (sha256)")
    db.execute("CREATE INDEX documents_by_source ON documents (source)")


def m002_modules(db: sqlite3.Connection) -> None:
    db.execute(
        """
        CREATE TABLE modules (
            number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of training, whatever the clock says
            id TEXT NOT NULL UNIQUE,
            document_id TEXT NOT NULL UNIQUE REFERENCES documents (id) ON DELETE CASCADE,
            text_sha256 TEXT NOT NULL,
            recipe TEXT NOT NULL,  -- JSON; so is metrics
            metrics TEXT NOT NULL,
            created TEXT NOT NULL,
            finished INTEGER NOT NULL  -- nanoseconds on the clock of the file system
        )
        """
    )


def m003_extractors(db: sqlite3.Connection) -> None:
    db.execute(
        """
        CREATE TABLE extractors (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            name_key TEXT NOT NULL UNIQUE,  -- the name without its case
            recipe TEXT NOT NULL,  -- JSON; so are metrics and documents, a list of ids
            metrics TEXT NOT NULL,
            documents TEXT NOT NULL,
            created TEXT NOT NULL
        )
        """
    )


def m004_tags_and_changes(db: sqlite3.Connection) -> None:
    """So that what is asked of a large library is looked up, and not looked for."""
    db.execute(
        """
        CREATE TABLE tags (  -- what documents.tags says, the other way round
            tag_key TEXT NOT NULL,  -- the tag without its case
            document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
            tag TEXT NOT NULL,
            PRIMARY KEY (tag_key, document_id)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX tags_by_document ON tags (document_id)")
    for document, listed in db.execute("SELECT id, tags FROM documents").fetchall():
        for tag in json.loads(listed):
            plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).casefold())
            db.execute("INSERT OR IGNORE INTO tags VALUES (?, ?, ?)", (plain, document, tag))
    db.execute(
        """
        CREATE TABLE changes (  -- every change of a document's text
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            document_id TEXT NOT NULL,
            text_sha256 TEXT NOT NULL  -- of the text that it has since; empty: it was removed
        )
        """
    )
    db.execute("INSERT INTO changes (document_id, text_sha256) SELECT id, text_sha256 FROM documents ORDER BY rowid")
    for event, row, text in (
        ("INSERT", "new", "new.text_sha256"),
        ("UPDATE OF text_sha256", "new", "new.text_sha256"),
        ("DELETE", "old", "''"),
    ):
        changed = "WHEN old.text_sha256 <> new.text_sha256 " if event.startswith("UPDATE") else ""
        db.execute(
            f"CREATE TRIGGER changed_by_{event.split()[0].lower()} AFTER {event} ON documents {changed}BEGIN "
            f"INSERT INTO changes (document_id, text_sha256) VALUES ({row}.id, {text}); END"
        )


def m005_kept_modules(db: sqlite3.Connection) -> None:
    db.execute(
        """
        CREATE TABLE kept (  -- modules of other kinds of adapter than the document's own, of the same text
            id TEXT PRIMARY KEY,
            document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
            adapter TEXT NOT NULL,
            text_sha256 TEXT NOT NULL,
            recipe TEXT NOT NULL,
            metrics TEXT NOT NULL,
            created TEXT NOT NULL,
            finished INTEGER NOT NULL,
            UNIQUE (document_id, adapter)
        )
        """
    )


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [
    m001_documents,
    m002_modules,
    m003_extractors,
    m004_tags_and_changes,
    m005_kept_modules,
]


def migrate(db: sqlite3.Connection, lock_file: Path) -> None:
    """Bring a database up to date, one transaction per migration, in one process at a time.

    `db` must be in autocommit mode (isolation_level None). Raises KmError where the database belongs to a newer km, or
    where another process keeps the lock too long.
    """
    if _version(db) == len(MIGRATIONS):
        return
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock_file, timeout=LOCK_SECONDS, mode=0o600):
            # Write-ahead logging is a property of the file; switching to it needs the file to oneself.
            db.execute("PRAGMA journal_mode = WAL")
            for number, migration in enumerate(MIGRATIONS[_version(db) :], _version(db) + 1):
                db.execute("BEGIN IMMEDIATE")
                try:
                    migration(db)
                    db.execute(f"PRAGMA user_version = {number}")
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
    except Timeout:
        raise KmError(
            f"another km has been upgrading the library for more than {LOCK_SECONDS:.0f} seconds.",
            f"Wait until it has finished; {lock_file} is its lock.",
        ) from None


def check(db: sqlite3.Connection) -> None:
    """Raises KmError where a newer km has changed the database since it was opened."""
    _version(db)


def _version(db: sqlite3.Connection) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise KmError("this library was last used by a newer km.", "Upgrade with: pip install --upgrade kmcli")
    return version
