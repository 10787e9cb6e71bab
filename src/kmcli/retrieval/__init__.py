"""Find the passages of a document that bear on a question.

| name     | finds                                                                                    |
|----------|------------------------------------------------------------------------------------------|
| `bm25`   | passages with the question's words, rare ones above all: SQLite's FTS5, in memory        |
| `dense`  | passages that mean the same, by the vectors of a sentence-transformers model (`dense`)   |
| `hybrid` | what stands high in both lists: reciprocal rank fusion (`hybrid`)                        |

For `bm25`, words are stemmed as English and compared without case or accents; a passage needs any one of the question's
words.

To add one: a class with `search` and a row here, its name in `evaluation.comparison.Retriever`, and how it is opened in
`workflows/compared.py`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from kmcli.types import Chunk, Passage

PASSAGE_TOKENS = 256
"""Passage size for bases whose context holds several of these; a small base needs smaller ones."""

# BM25 weighs a word by how few passages have it, which in a short document makes "who" look rare and telling.
_COMMON = (
    "a an and are as at be been by can did do does for from had has have how i in is it its of on or s t that the "
    "their there they this to was were what when where which who whom whose why will with would you your"
)
STOP_WORDS = frozenset(_COMMON.split())


class Searcher(Protocol):
    def search(self, query: str, k: int) -> list[Passage]:
        """The k best passages, best first; fewer where there are no more."""


class Index:
    """The passages of a document, built once and asked many times; close it, or use it in a `with` statement.

    more: the passages of further documents, each by its name, that are searched together with it.
    """

    def __init__(
        self, document: str, chunks: Sequence[Chunk], more: Sequence[tuple[str, Sequence[Chunk]]] = ()
    ) -> None:
        self._passages = [(name, one) for name, some in ((document, chunks), *more) for one in some]
        self._database = sqlite3.connect(":memory:")
        self._database.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize = 'porter unicode61')")
        self._database.executemany(
            "INSERT INTO passages(rowid, text) VALUES (?, ?)",
            ((row, chunk.text) for row, (_, chunk) in enumerate(self._passages)),
        )

    def search(self, query: str, k: int) -> list[Passage]:
        """The k best passages, best first, equals in the document's order; fewer, or none, where no word is found."""
        words = terms(query)
        if k < 1 or not words:
            return []
        rows = self._database.execute(
            "SELECT rowid, bm25(passages) FROM passages WHERE passages MATCH ? ORDER BY 2, 1 LIMIT ?",
            (match_any(words), k),
        )
        # FTS5 gives a negative number, lower for better.
        found = [(*self._passages[row], -score) for row, score in rows]
        return [Passage(name, chunk.text, score, chunk.first_page) for name, chunk, score in found]

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def bm25(document: str, chunks: Sequence[Chunk], query: str, k: int) -> list[Passage]:
    """`Index.search` for a single query. document: the name to put on the passages."""
    with Index(document, chunks) as index:
        return index.search(query, k)


def terms(query: str) -> list[str]:
    """The query's words, each once, without stop words unless there is nothing else. No quotes: safe inside them."""
    words = list(dict.fromkeys(re.findall(r"\w+", query.lower())))
    return [word for word in words if word not in STOP_WORDS] or words


def match_any(words: Sequence[str]) -> str:
    """What FTS5 is asked for any of these words."""
    return " OR ".join(f'"{word}"' for word in words)
