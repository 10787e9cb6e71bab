"""The file of the library's index: what is read of each document, put in and taken out."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from kmcli.chunking import chunk
from kmcli.routing.words import stems
from kmcli.types import Document

PASSAGE_WORDS = 80
"""Size of a passage: words and not tokens, so that the index serves every base."""

TOGETHER = 64
"""Documents that are written at once."""

BLOCK = 256
"""Passages whose vectors are kept together."""

BUSY_SECONDS = 60.0
"""How long another process's transaction is waited for."""

_VERSION = 2
"""Of the file's tables and of how texts are cut: a file of another version is made anew."""

_SCHEMA = (
    # A document's passages are those from first to last. Of a word, passages and documents say how many have it.
    "CREATE TABLE documents (id TEXT PRIMARY KEY, text_sha256 TEXT NOT NULL, first INTEGER, last INTEGER)",
    "CREATE UNIQUE INDEX documents_by_passage ON documents (first)",
    "CREATE TABLE passages (row INTEGER PRIMARY KEY, page INTEGER, length INTEGER NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE words (word INTEGER PRIMARY KEY, stem TEXT NOT NULL UNIQUE, passages INTEGER, documents INTEGER)",
    "CREATE TABLE places (word INTEGER, row INTEGER, times INTEGER, length INTEGER, PRIMARY KEY (word, row)) WITHOUT ROWID",
    "CREATE TABLE encoders (encoder TEXT PRIMARY KEY, mark TEXT NOT NULL)",
    "CREATE TABLE encoded (document TEXT, encoder TEXT, PRIMARY KEY (document, encoder)) WITHOUT ROWID",
    "CREATE TABLE vectors (encoder TEXT, block INTEGER, data BLOB NOT NULL, PRIMARY KEY (encoder, block))",
    "CREATE TABLE totals (documents INTEGER, passages INTEGER, length INTEGER, mark TEXT)",
    "INSERT INTO totals VALUES (0, 0, 0, '')",
)

_SIZES = (
    "SELECT encoder, (SELECT length(data) FROM vectors WHERE vectors.encoder = encoded.encoder LIMIT 1) / "
    f"{BLOCK} FROM encoded WHERE document = ?"
)
"""Of a document's vectors: which encoders made them, and how many bytes one has."""

_DAMAGED = ("file is not a database", "malformed", "another version")

Opened = TypeVar("Opened", bound="Store")


@dataclass(frozen=True, slots=True)
class Span:
    """The passages of a document's text, from first to last."""

    document: str
    """Its id."""
    text_sha256: str
    first: int
    last: int

    @property
    def passages(self) -> int:
        return self.last - self.first + 1


class Store:
    """A file that may be deleted at any time; close it, or use it in a `with` statement. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError as error:
            if not damaged(error):
                raise  # in use for long, or the disk is full
            # nothing is lost that cannot be made again
            for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                file.unlink(missing_ok=True)
            self._database = _opened(path)

    def close(self) -> None:
        self._database.close()

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def mark(self) -> str:
        """What `noted` was last told; empty at first."""
        return str(self._rows("SELECT mark FROM totals")[0][0])

    def noted(self, mark: str) -> None:
        """Remember how far the library has been read."""
        self._database.execute("UPDATE totals SET mark = ?", (mark,))

    def update(
        self,
        documents: Sequence[Document],
        text: Callable[[Document], str],
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Make the index hold these documents as they are now, and no others. Only texts that are new or have changed are
        read.

        text: gives a document's text. progress is called with how many of them were read, and of how many.
        Returns how many were read.
        """
        known = {document.id for document in documents}
        self.forget([one for (one,) in self._rows("SELECT id FROM documents ORDER BY id") if one not in known])
        return self.put(documents, text, progress)

    def put(
        self,
        documents: Sequence[Document],
        text: Callable[[Document], str],
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """The same, and what else is in the index stays."""
        changed = [one for one in documents if self._held(one.id) != one.text_sha256]
        for done in range(0, len(changed), TOGETHER):  # what was read before Ctrl-C stays
            read = []
            for place, document in enumerate(changed[done : done + TOGETHER], done):
                if progress:
                    progress(place, len(changed))
                pieces = chunk(text(document), PASSAGE_WORDS, 0.0, lambda words: len(words.split()))
                read.append([(piece.first_page, piece.text, Counter(stems(piece.text))) for piece in pieces])
            with self._transaction():
                for document, passages in zip(changed[done:], read, strict=False):
                    self._drop(document.id)
                    self._insert(document, passages)
        if progress and changed:
            progress(len(changed), len(changed))
        return len(changed)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove documents, so that nothing of their words stays in the file."""
        held = [one for one in ids if self._held(one) is not None]
        if held:
            with self._transaction():
                for document in held:
                    self._drop(document)
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # --- vectors

    def texts(self, span: Span) -> list[str]:
        """Of its passages; other ones where the document has changed since."""
        statement = "SELECT text FROM passages WHERE row BETWEEN ? AND ?"
        return [text for (text,) in self._rows(statement, span.first, span.last)]

    def without_vectors(self, encoder: str) -> list[Span]:
        """Of each document whose passages have no vectors by this encoder."""
        if self._rows("SELECT 1 FROM encoders WHERE encoder = ? AND mark = ?", encoder, self.mark):
            return []
        rows = self._rows(
            "SELECT id, text_sha256, first, last FROM documents WHERE first IS NOT NULL AND NOT EXISTS "
            "(SELECT 1 FROM encoded WHERE encoder = ? AND document = id) ORDER BY first",
            encoder,
        )
        return [Span(*row) for row in rows]

    def all_have_vectors(self, encoder: str, mark: str) -> None:
        """Remember that it was so at this mark."""
        self._database.execute("INSERT OR REPLACE INTO encoders VALUES (?, ?)", (encoder, mark))

    def keep_vectors(self, encoder: str, found: Sequence[tuple[Span, bytes]]) -> int:
        """The bytes of documents' vectors, one after the other. Returns of how many passages they were kept: not of those
        that another process has changed or removed since."""
        kept = 0
        with self._transaction():
            for span, data in found:
                now = self._rows("SELECT id, text_sha256, first, last FROM documents WHERE id = ?", span.document)
                if now and Span(*now[0]) == span:
                    self._write_vectors(encoder, span.first, span.last, data)
                    self._database.execute("INSERT OR REPLACE INTO encoded VALUES (?, ?)", (span.document, encoder))
                    kept += span.passages
        return kept

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within it the file is read as it was at the first look, whatever other processes write."""
        self._database.execute("BEGIN")
        try:
            yield
        finally:
            self._database.execute("COMMIT")

    def vectors(self, encoder: str) -> tuple[list[int], list[bytes]]:
        """The blocks of vectors that there are: the passage that each begins with, and its bytes, all 0 where a passage has
        none."""
        rows = self._rows("SELECT block, data FROM vectors WHERE encoder = ? ORDER BY block", encoder)
        return [block * BLOCK for block, _ in rows], [data for _, data in rows]

    def _write_vectors(self, encoder: str, first: int, last: int, data: bytes) -> None:
        size = len(data) // (last - first + 1)
        for block in range(first // BLOCK, last // BLOCK + 1):
            rows = self._rows("SELECT data FROM vectors WHERE encoder = ? AND block = ?", encoder, block)
            held = bytearray(rows[0][0] if rows else BLOCK * size)
            begin, end = max(first, block * BLOCK), min(last + 1, (block + 1) * BLOCK)
            at = (begin - block * BLOCK) * size
            held[at : at + (end - begin) * size] = data[(begin - first) * size : (end - first) * size]
            self._database.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", (encoder, block, bytes(held)))

    # --- within

    def _held(self, document: str) -> str | None:
        rows = self._rows("SELECT text_sha256 FROM documents WHERE id = ?", document)
        return str(rows[0][0]) if rows else None

    def _insert(self, document: Document, read: Sequence[tuple[int | None, str, Counter[str]]]) -> None:
        first = self._rows("SELECT coalesce(max(row), 0) + 1 FROM passages")[0][0]
        own: Counter[str] = Counter()  # in how many of the document's passages a word is
        for row, (page, text, words) in enumerate(read, first):
            length = words.total()
            self._database.execute("INSERT INTO passages VALUES (?, ?, ?, ?)", (row, page, length, text))
            own.update(words.keys())
        statement = (
            "INSERT INTO words (stem, passages, documents) VALUES (?, ?, 1) ON CONFLICT (stem) DO UPDATE SET "
            "passages = passages + excluded.passages, documents = documents + 1"
        )
        self._database.executemany(statement, own.items())
        numbers = {stem: self._rows("SELECT word FROM words WHERE stem = ?", stem)[0][0] for stem in own}
        for row, (_, _, words) in enumerate(read, first):
            values = [(numbers[stem], row, times, words.total()) for stem, times in words.items()]
            self._database.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", values)
        ends = (first, first + len(read) - 1) if read else (None, None)
        own_row = (document.id, document.text_sha256, *ends)
        self._database.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", own_row)
        self._count(1, len(read), sum(words.total() for _, _, words in read))

    def _drop(self, document: str) -> None:
        for first, last in self._rows("SELECT first, last FROM documents WHERE id = ?", document):
            self._database.execute("DELETE FROM documents WHERE id = ?", (document,))
            for encoder, size in self._rows(_SIZES, document):
                self._write_vectors(encoder, first, last, bytes((last - first + 1) * size))
            self._database.execute("DELETE FROM encoded WHERE document = ?", (document,))
            rows = self._rows("SELECT row, text, length FROM passages WHERE row BETWEEN ? AND ?", first, last)
            own: Counter[str] = Counter()
            for row, text, _ in rows:
                there = set(stems(text))
                own.update(there)
                numbers = [(self._rows("SELECT word FROM words WHERE stem = ?", stem)[0][0], row) for stem in there]
                self._database.executemany("DELETE FROM places WHERE word = ? AND row = ?", numbers)
            self._database.executemany(
                "UPDATE words SET passages = passages - ?, documents = documents - 1 WHERE stem = ?",
                [(times, stem) for stem, times in own.items()],
            )
            unused = [(stem,) for stem in own]
            self._database.executemany("DELETE FROM words WHERE stem = ? AND documents = 0", unused)
            self._database.execute("DELETE FROM passages WHERE row BETWEEN ? AND ?", (first, last))
            self._count(-1, -len(rows), -sum(length for _, _, length in rows))

    def _count(self, documents: int, passages: int, length: int) -> None:
        statement = "UPDATE totals SET documents = documents + ?, passages = passages + ?, length = length + ?"
        self._database.execute(statement, (documents, passages, length))

    def _rows(self, statement: str, *values: str | float | None) -> list[tuple[Any, ...]]:
        return self._database.execute(statement, values).fetchall()

    def _transaction(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database  # as a context manager it commits, or rolls back


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault, and not another process or the disk."""
    return any(words in str(error) for words in _DAMAGED)


def _opened(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError for what is no index, or one of another version."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA secure_delete = ON")
        database.execute("BEGIN IMMEDIATE")
        with database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise sqlite3.DatabaseError("another version")
    except BaseException:
        database.close()
        raise
    return database
