from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.retrieval import Index, bm25
from kmcli.types import Chunk

TEXTS = [
    "The lighthouse was built in 1871 by Agnes Moore.",
    "Ferries cross the strait twice a day in summer.",
    "Who would have thought that the keeper's cat lived for twenty years?",
    "The lighthouse keeper wrote letters about ships, storms and the lighthouse lamp.",
    "Café Zoë serves the harbour's only decent coffee.",
]
CHUNKS = [Chunk(i, text, len(text.split()), 0, first_page=i + 1, last_page=i + 1) for i, text in enumerate(TEXTS)]


def found(query: str, k: int = 5) -> list[int]:
    return [TEXTS.index(passage.text) for passage in bm25("island", CHUNKS, query, k)]


def test_the_best_passage_comes_first_with_its_document_page_and_score() -> None:
    passages = bm25("island", CHUNKS, "Who built the lighthouse?", 2)
    assert [TEXTS.index(passage.text) for passage in passages] == [0, 3]
    assert [(passage.document, passage.page) for passage in passages] == [("island", 1), ("island", 4)]
    assert passages[0].score > passages[1].score > 0


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("ferry crossing", 1),  # stemmed
        ("cafe zoe", 4),  # accents
        ("KEEPER LETTER", 3),
        ("1871", 0),
    ],
)
def test_words_match_without_case_accents_and_endings(query: str, best: int) -> None:
    assert found(query)[0] == best


def test_stop_words_do_not_decide_unless_they_are_all_there_is() -> None:
    assert found("who would have the ferries") == [1]
    assert found("who") == [2]


@pytest.mark.parametrize("query", ["", "   ", "?!", '"', "xylophone", "\x00", "'; DROP TABLE passages; --"])
def test_no_match_is_an_empty_list(query: str) -> None:
    assert found(query) == []


@pytest.mark.parametrize(
    "query", ['lighthouse"', "lighthouse AND NOT", "text:lighthouse*", "NEAR(lighthouse", "^lighthouse -ferry", "(("]
)
def test_query_syntax_is_only_words(query: str) -> None:
    assert set(found(query)) == ({0, 1, 3} if "ferry" in query else set() if query == "((" else {0, 3})


@settings(max_examples=100)
@given(query=st.text(max_size=60), k=st.integers(-1, 4))
def test_any_text_is_a_query(query: str, k: int) -> None:
    with Index("island", CHUNKS) as index:
        passages = index.search(query, k)
    assert len(passages) <= max(0, k)
    assert [passage.score for passage in passages] == sorted((passage.score for passage in passages), reverse=True)


def test_a_long_query_is_no_problem() -> None:
    assert found(" ".join(f"word{number}" for number in range(3000)) + " ferries") == [1]


def test_equals_come_in_the_documents_order_and_k_limits() -> None:
    same = [Chunk(index, "same words here", 3, 0) for index in range(4)] + [Chunk(4, "other", 1, 0)]
    with Index("doc", same) as index:
        assert len(index.search("words", 3)) == 3
        assert [passage.page for passage in index.search("words", 9)] == [None] * 4
        assert index.search("words", 0) == []


def test_an_index_of_nothing_finds_nothing() -> None:
    assert bm25("empty", [], "anything", 3) == []


def test_a_closed_index_is_closed() -> None:
    with Index("island", CHUNKS) as index:
        assert len(index.search("lighthouse", 9)) == 2
    with pytest.raises(sqlite3.ProgrammingError):
        index.search("lighthouse", 9)
