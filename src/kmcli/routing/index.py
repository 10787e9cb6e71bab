"""Every passage of the library in one file, so that a question finds its documents without any text being read again.

What a search costs does not grow with the library: a question's rare words say which passages are looked at, as many as
LOOKED_AT altogether, and words that more passages have than that only order those.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kmcli.chunking import chunk
from kmcli.retrieval import terms
from kmcli.routing.words import stems
from kmcli.types import Document, Passage

PASSAGE_WORDS = 80
"""Size of a passage: words and not tokens, so that the index serves every base."""

SEARCHED = 50
"""Passages that are looked at for a question; what other documents have to say ranks below them."""

LOOKED_AT = 500
"""Passages that rare words may propose."""

SKIMMED = 20 * LOOKED_AT
"""Where even the rarest word has more: of so many that have it, those that have the second rarest as well."""

ORDERED = 100
"""Of these, how many the common words order."""

_VERSION = 2
"""Of the file's tables and of how texts are cut: a file of another version is made anew."""

_SCORE = "? * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length * ?))"
"""BM25, with the constants of SQLite's FTS5: of a word's rarity, and what lengths are multiplied by to be in mean ones."""

_SCHEMA = (
    # A document's passages are those from first to last; words: how many they have together.
    "CREATE TABLE documents (id TEXT PRIMARY KEY, text_sha256 TEXT NOT NULL, first INTEGER, last INTEGER)",
    "CREATE UNIQUE INDEX documents_by_passage ON documents (first)",
    "CREATE TABLE passages (row INTEGER PRIMARY KEY, page INTEGER, length INTEGER NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE words (word INTEGER PRIMARY KEY, stem TEXT NOT NULL UNIQUE, passages INTEGER, documents INTEGER)",
    "CREATE TABLE places (word INTEGER, row INTEGER, times INTEGER, length INTEGER, PRIMARY KEY (word, row)) WITHOUT ROWID",
    "CREATE TABLE totals (documents INTEGER, passages INTEGER, length INTEGER, mark TEXT)",
    "INSERT INTO totals VALUES (0, 0, 0, '')",
)


@dataclass(frozen=True, slots=True)
class Found:
    """A document that may answer a question.

    score: BM25 of its best passage over the whole library. covered: how much of the question's words is in the document,
    from 0 to 1; a word counts the more, the fewer documents have it, and most where none has it.
    """

    document: str
    """Its id."""
    score: float
    covered: float
    passage: Passage


@dataclass(frozen=True, slots=True)
class _Word:
    """Of a question. number: None where no passage has it."""

    number: int | None
    passages: int
    documents: int
    weight: float


class LibraryIndex:
    """An index in a file that may be deleted at any time; close it, or use it in a `with` statement. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError:  # damaged: nothing is lost that cannot be made again
            for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                file.unlink(missing_ok=True)
            self._database = _opened(path)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> LibraryIndex:
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
        for done, document in enumerate(changed):  # a transaction each: what was read before Ctrl-C stays
            if progress:
                progress(done, len(changed))
            pieces = chunk(text(document), PASSAGE_WORDS, 0.0, lambda words: len(words.split()))
            read = [(piece.first_page, piece.text, Counter(stems(piece.text))) for piece in pieces]
            with self._transaction():
                self._drop(document.id)
                self._insert(document, read)
        return len(changed)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove documents, so that nothing of their words stays in the file."""
        held = [one for one in ids if self._held(one) is not None]
        if held:
            with self._transaction():
                for document in held:
                    self._drop(document)
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def search(self, question: str, k: int, names: Callable[[str], str]) -> list[Found]:
        """The k documents that most likely answer a question, the likeliest first. names: a document's name, by its id."""
        words = self._words(question)
        best: dict[str, tuple[float, int, int, int]] = {}
        for row, score in self._best(words, SEARCHED):
            document, first, last = self._rows(
                "SELECT id, first, last FROM documents WHERE first <= ? ORDER BY first DESC LIMIT 1", row
            )[0]
            best.setdefault(document, (score, row, first, last))
        total = sum(word.weight for word in words)
        found = []
        for document, (score, row, first, last) in list(best.items())[: max(0, k)]:
            has = sum(word.weight for word in words if self._has(word, first, last))
            page, text = self._rows("SELECT page, text FROM passages WHERE row = ?", row)[0]
            found.append(Found(document, score, has / total, Passage(names(document), text, score, page)))
        return found

    # --- within

    def _held(self, document: str) -> str | None:
        rows = self._rows("SELECT text_sha256 FROM documents WHERE id = ?", document)
        return str(rows[0][0]) if rows else None

    def _words(self, question: str) -> list[_Word]:
        """Of the question, each once; a word counts the more, the fewer documents have it, and most where none has it."""
        total = self._rows("SELECT documents FROM totals")[0][0]
        found = []
        for stem in dict.fromkeys(stem for term in terms(question) for stem in stems(term)):
            rows = self._rows("SELECT word, passages, documents FROM words WHERE stem = ?", stem)
            number, passages, documents = rows[0] if rows else (None, 0, 0)
            found.append(_Word(number, passages, documents, math.log(1 + total / max(0.5, documents))))
        return found

    def _best(self, words: Sequence[_Word], k: int) -> list[tuple[int, float]]:
        """The k best passages and their BM25, the best first; equals in the order in which they were read."""
        rare: list[_Word] = []
        there = sorted((word for word in words if word.number is not None), key=lambda word: word.passages)
        for word in there:
            if rare and sum(one.passages for one in rare) + word.passages > LOOKED_AT:
                break
            rare.append(word)
        if not rare:
            return []
        passages, length = self._rows("SELECT passages, length FROM totals")[0]
        common = there[len(rare) :]
        proposed: list[str] = []
        values: list[str | float | None] = []
        for word in rare:
            statement, given = self._proposed(word, common)
            proposed.append(f"SELECT row, {_SCORE} score FROM ({statement})")
            values += [_rarity(word.passages, passages), passages / length, *given]
        summed = f"SELECT row, sum(score) FROM ({' UNION ALL '.join(proposed)}) GROUP BY row ORDER BY 2 DESC, 1 LIMIT ?"
        best = dict(self._rows(summed, *values, ORDERED if common else k))
        for word in common:
            among = f"SELECT * FROM places WHERE word = ? AND row IN ({', '.join('?' * len(best))})"
            rarity = _rarity(word.passages, passages)
            for row, score in self._rows(
                f"SELECT row, {_SCORE} FROM ({among})", rarity, passages / length, word.number, *best
            ):
                best[row] += score
        return sorted(best.items(), key=lambda one: (-one[1], one[0]))[:k]

    def _proposed(self, word: _Word, others: Sequence[_Word]) -> tuple[str, list[int | None]]:
        """A statement that gives the places to look at of a word, and its values."""
        every = "SELECT * FROM places WHERE word = ? LIMIT ?"
        if word.passages > LOOKED_AT and others:
            both = f"SELECT one.* FROM ({every}) one JOIN places two USING (row) WHERE two.word = ? LIMIT ?"
            values = [word.number, SKIMMED, others[0].number, LOOKED_AT]
            if self._rows(both, *values):
                return both, values
        return every, [word.number, LOOKED_AT]

    def _has(self, word: _Word, first: int, last: int) -> bool:
        """Whether a document has a word."""
        statement = "SELECT 1 FROM places WHERE word = ? AND row BETWEEN ? AND ? LIMIT 1"
        return word.number is not None and bool(self._rows(statement, word.number, first, last))

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


def _rarity(having: int, passages: int) -> float:
    """What a word counts that so many passages have."""
    return max(1e-6, math.log((passages - having + 0.5) / (having + 0.5)))


def _opened(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError for what is no index, or one of another version."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=60.0, isolation_level=None)
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
