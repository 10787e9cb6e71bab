"""Every passage of the library in one file, so that a question finds its documents without any text being read again.

What a search costs does not grow with the library: a question's rare words say which passages are looked at, as many as
LOOKED_AT altogether, and words that more passages have than that only order those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

from kmcli.retrieval import terms
from kmcli.routing.store import Store
from kmcli.routing.words import stems
from kmcli.types import Passage

SEARCHED = 50
"""Passages that are looked at for a question; what other documents have to say ranks below them."""

LOOKED_AT = 400
"""Passages that rare words may propose."""

SKIMMED = 20 * LOOKED_AT
"""Where even the rarest word has more: of so many that have it, those that have the second rarest as well."""

BLOCK = 32
"""Of the passages that rare words propose, so many are looked at together for the common ones."""

_MOST = 2.2
"""Times its rarity: more than a word can score in any passage."""

_SCORE = "? * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length * ?))"
"""BM25, with the constants of SQLite's FTS5: of a word's rarity, and what lengths are multiplied by to be in mean ones."""


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
class Hit:
    """A passage that was found. document: its id."""

    document: str
    text: str
    page: int | None
    score: float


@dataclass(frozen=True, slots=True)
class _Word:
    """Of a question. number: None where no passage has it. scored: the two values that _SCORE has of it."""

    number: int | None
    passages: int
    weight: float
    scored: tuple[float, float]


class LibraryIndex(Store):
    """Every passage of the library, to be searched."""

    def search(self, question: str, k: int, names: Callable[[str], str]) -> list[Found]:
        """The k documents that most likely answer a question, the likeliest first. names: a document's name, by its id."""
        with self.snapshot():
            words = self._words(question)
            best: dict[str, tuple[float, int, int, int]] = {}
            for row, score in islice(self._best(words), SEARCHED):
                document, first, last = self._document(row)
                best.setdefault(document, (score, row, first, last))
                if len(best) == k:
                    break
            total = sum(word.weight for word in words)
            found = []
            for document, (score, row, first, last) in best.items() if k > 0 else ():
                has = sum(word.weight for word in words if self._has(word, first, last))
                page, text = self._rows("SELECT page, text FROM passages WHERE row = ?", row)[0]
                found.append(Found(document, score, has / total, Passage(names(document), text, score, page)))
        return found

    # --- passages

    def passages(self, query: str, k: int) -> list[Hit]:
        """The k passages that have most of a query's words, rare ones above all; the best first."""
        with self.snapshot():
            return [self.hit(row, score) for row, score in islice(self._best(self._words(query)), k)]

    def hit(self, row: int, score: float) -> Hit:
        """A passage of the index by its number."""
        page, text = self._rows("SELECT page, text FROM passages WHERE row = ?", row)[0]
        return Hit(self._document(row)[0], text, page, score)

    # --- within

    def _document(self, row: int) -> tuple[str, int, int]:
        """Of a passage: the document, and its first and last."""
        statement = "SELECT id, first, last FROM documents WHERE first <= ? ORDER BY first DESC LIMIT 1"
        document, first, last = self._rows(statement, row)[0]
        return document, first, last

    def _words(self, question: str) -> list[_Word]:
        """Of the question, each once; a word counts the more, the fewer documents have it, and most where none has it."""
        total, all_passages, length = self._rows("SELECT documents, passages, length FROM totals")[0]
        found = []
        for stem in dict.fromkeys(stem for term in terms(question) for stem in stems(term)):
            rows = self._rows("SELECT word, passages, documents FROM words WHERE stem = ?", stem)
            number, passages, documents = rows[0] if rows else (None, 0, 0)
            scored = _rarity(passages, all_passages), all_passages / max(1, length)
            found.append(_Word(number, passages, math.log(1 + total / max(0.5, documents)), scored))
        return found

    def _best(self, words: Sequence[_Word]) -> Iterator[tuple[int, float]]:
        """Passages and their BM25, the best first; equals in the order in which they were read.

        Common words are looked up as far as passages are asked for: what they can add has a bound, so most of what the rare
        words propose never comes that far.
        """
        rare: list[_Word] = []
        there = sorted((word for word in words if word.number is not None), key=lambda word: word.passages)
        for word in there:
            if rare and sum(one.passages for one in rare) + word.passages > LOOKED_AT:
                break
            rare.append(word)
        if not rare:
            return
        common = there[len(rare) :]
        proposed = self._by(rare, common)
        bound = sum(_MOST * word.scored[0] for word in common)
        waiting: list[tuple[float, int]] = []
        for start in range(0, len(proposed), BLOCK):
            some = dict(proposed[start : start + BLOCK])
            for word in common:
                for row, score in self._scores(word, some):
                    some[row] += score
            for row, score in some.items():
                heappush(waiting, (-score, row))
            left = proposed[start + BLOCK :]
            while waiting and (not left or -waiting[0][0] > left[0][1] + bound):
                score, row = heappop(waiting)
                yield row, -score

    def _by(self, rare: Sequence[_Word], common: Sequence[_Word]) -> list[tuple[int, float]]:
        """The passages that rare words propose, and what these words score in them, the best first."""
        proposed: list[str] = []
        values: list[str | float | None] = []
        for word in rare:
            statement, given = self._proposed(word, common)
            proposed.append(f"SELECT row, {_SCORE} score FROM ({statement})")
            values += [*word.scored, *given]
        summed = f"SELECT row, sum(score) FROM ({' UNION ALL '.join(proposed)}) GROUP BY row ORDER BY 2 DESC, 1"
        return self._rows(summed, *values)

    def _scores(self, word: _Word, among: Iterable[int]) -> list[tuple[int, float]]:
        """What a word scores in those of some passages that have it."""
        rows = [*among]
        found = f"SELECT * FROM places WHERE word = ? AND row IN ({', '.join('?' * len(rows))})"
        return self._rows(f"SELECT row, {_SCORE} FROM ({found})", *word.scored, word.number, *rows)

    def _proposed(self, word: _Word, others: Sequence[_Word]) -> tuple[str, list[int | None]]:
        """A statement that gives the places to look at of a word, and its values.

        CROSS JOIN: SQLite then goes through the first word's places as far as it must, and does not copy them all before.
        """
        every = "SELECT * FROM places WHERE word = ? LIMIT ?"
        if word.passages > LOOKED_AT and others:
            both = f"SELECT one.* FROM ({every}) one CROSS JOIN places two USING (row) WHERE two.word = ? LIMIT ?"
            values = [word.number, SKIMMED, others[0].number]
            if self._rows(both, *values, 1):
                return both, [*values, LOOKED_AT]
        return every, [word.number, LOOKED_AT]

    def _has(self, word: _Word, first: int, last: int) -> bool:
        """Whether a document has a word."""
        statement = "SELECT 1 FROM places WHERE word = ? AND row BETWEEN ? AND ? LIMIT 1"
        return word.number is not None and bool(self._rows(statement, word.number, first, last))


def _rarity(having: int, passages: int) -> float:
    """What a word counts that so many passages have."""
    return max(1e-6, math.log((passages - having + 0.5) / (having + 0.5)))
