"""Searching the whole library: by words in a library of many documents, by vectors, and from the command line."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_cases import Km, document, runner
from kmcli.retrieval import bm25
from kmcli.routing import index as indexing
from kmcli.routing import store, vectors
from kmcli.routing.index import LibraryIndex
from kmcli.routing.store import BLOCK
from kmcli.types import Chunk, Document, text_hash
from kmcli.workflows import searching


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def index(tmp_path: Path) -> LibraryIndex:
    with LibraryIndex(tmp_path / "passages.db") as opened:
        yield opened


def fill(index: LibraryIndex, *texts: str) -> list[Document]:
    found = [document(str(place), id=f"d{place}", text_sha256=text_hash(text)) for place, text in enumerate(texts)]
    index.update(found, lambda one: texts[int(one.name)])
    return found


def ids(found: Sequence[indexing.Found]) -> list[str]:
    return [one.document for one in found]


# --- by words


def test_scores_are_those_of_sqlites_own_index(index: LibraryIndex) -> None:
    drawn = random.Random(0)
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(drawn.choices(words, k=drawn.randint(3, 30))) for _ in range(40)]
    fill(index, *texts)
    for _ in range(20):
        query = " ".join(drawn.sample([*words, "never"], 3))
        expected = bm25("d", [Chunk(place, text, 0, None, None) for place, text in enumerate(texts)], query, 10)
        found = index.passages(query, 10)
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-5)


def test_rare_words_propose_and_common_words_order(index: LibraryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one is the same as from rare words alone, where these have all that is best."""
    texts = [f"The mill of place{number} is {'red' if number % 2 else 'blue'} and old." for number in range(60)]
    texts += ["A boat of Anna is blue.", "A boat of Anna is red.", "A cart of Anna."]
    fill(index, *texts)
    query = "Which red boat of Anna is old?"
    whole = index.search(query, 3, str)
    assert ids(whole)[:2] == ["d61", "d60"]
    monkeypatch.setattr(indexing, "LOOKED_AT", 6)
    few = index.search(query, 3, str)
    assert ids(few) == ids(whole)
    assert [one.score for one in few] == pytest.approx([one.score for one in whole])
    assert [one.covered for one in few] == pytest.approx([one.covered for one in whole])


@pytest.mark.parametrize("block", [1, 3, 100])
def test_what_common_words_cannot_change_is_left_out_and_the_rest_is_as_when_all_is_looked_up(
    index: LibraryIndex, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(indexing, "BLOCK", block)
    drawn = random.Random(1)
    common, names = [f"w{number}" for number in range(4)], [f"n{number}" for number in range(12)]
    texts = [
        " ".join([drawn.choice(names), *drawn.choices(common, k=drawn.randint(1, 12)), *["end"] * drawn.randint(0, 3)])
        for _ in range(150)
    ]
    fill(index, *texts)
    for _ in range(25):
        asked = [*drawn.sample(names, 2), *drawn.sample([*common, "end"], 2)]
        monkeypatch.setattr(indexing, "LOOKED_AT", 1000)  # all words propose
        having = {text for text in texts if {*asked[:2]} & {*text.split()}}
        expected = [one for one in index.passages(" ".join(asked), 1000) if one.text in having]
        monkeypatch.setattr(indexing, "LOOKED_AT", 50)  # the names propose
        found = index.passages(" ".join(asked), 1000)
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected])
        assert [one.text for one in index.passages(" ".join(asked), 3)] == [one.text for one in expected[:3]]


def test_words_that_are_all_common_are_looked_for_together(
    index: LibraryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "LOOKED_AT", 5)
    monkeypatch.setattr(indexing, "SKIMMED", 100)
    texts = ["The mill is red."] * 20 + ["The ferry is blue."] * 20 + ["The ferry is red."] + ["The cart is red."] * 20
    fill(index, *texts)
    assert ids(index.search("red ferry", 1, str)) == ["d40"]
    assert len(index.search("red", 50, str)) == 5  # one word alone: as many as are looked at


def test_a_question_may_be_as_long_as_a_document(index: LibraryIndex) -> None:
    words = [f"word{number}" for number in range(3000)]
    fill(index, *(" ".join(words[begin : begin + 30]) for begin in range(0, 3000, 30)))
    found = index.search(" ".join(words), 100, str)
    assert [one.document for one in found] == [f"d{number}" for number in range(14)]  # 400 words, 30 a passage
    assert index.passages(" ".join(words[:30]), 1)[0].document == "d0"


def test_looking_costs_the_same_in_a_library_of_any_size(index: LibraryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rows that are read for a question whose words all documents have, but one."""
    monkeypatch.setattr(indexing, "LOOKED_AT", 10)
    rows: list[int] = []
    every: Callable[..., list[tuple[object, ...]]] = LibraryIndex._rows

    def counted(self: LibraryIndex, statement: str, *values: str | float | None) -> list[tuple[object, ...]]:
        found = every(self, statement, *values)
        rows.append(len(found))
        return found

    read = []
    for size in (20, 200):
        fill(index, *(f"The mill of place{number} is red." for number in range(size)))
        with monkeypatch.context() as patched:
            patched.setattr(LibraryIndex, "_rows", counted)
            rows.clear()
            assert ids(index.search("Is the mill of place7 red?", 3, str)) == ["d7"]
        read.append((len(rows), sum(rows)))
    assert read[0] == read[1]


# --- by vectors


class Letters:
    """How often each letter is in a text."""

    revision = "letters"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(
        self, texts: Sequence[str], *, questions: bool, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.calls.append(len(texts))
        counts = [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        made = np.array(counts, np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_the_nearest_passages_and_their_cosines(index: LibraryIndex) -> None:
    drawn = random.Random(1)
    texts = ["".join(drawn.choices("abcdefghijklmnop", k=20)) for _ in range(2 * BLOCK + 30)]
    fill(index, *texts)
    encoder = Letters()
    seen: list[tuple[int, int]] = []
    assert vectors.update(index, encoder, lambda done, total: seen.append((done, total))) == len(texts)
    assert seen == [(0, len(texts)), (256, len(texts)), (512, len(texts))]
    (asked,) = encoder.encode(["abba"], questions=True)
    exact = encoder.encode(texts, questions=False) @ asked
    found = vectors.search(index, encoder, "abba", 20)
    assert [one.score for one in found] == pytest.approx(sorted(exact.tolist(), reverse=True)[:20], abs=0.01)
    by_text = dict(zip(texts, exact.tolist(), strict=True))
    assert [one.score for one in found] == pytest.approx([by_text[one.text] for one in found], abs=0.01)
    assert all(one.text == texts[int(one.document[1:])] for one in found)
    assert vectors.search(index, encoder, "abba", 0) == []
    assert len(vectors.search(index, encoder, "abba", 10_000)) == len(texts)


def test_only_vectors_that_are_missing_are_made_and_those_of_the_gone_go(index: LibraryIndex) -> None:
    encoder = Letters()
    assert vectors.search(index, encoder, "a", 3) == []
    fill(index, "aaaa", "bbbb", "cccc")
    vectors.update(index, encoder)
    assert vectors.update(index, encoder) == 0
    index.noted("1")
    fill(index, "aaaa", "dddd", "cccc")
    encoder.calls.clear()
    assert vectors.update(index, encoder) == 1
    assert encoder.calls == [1]
    assert [one.text for one in vectors.search(index, encoder, "d", 1)] == ["dddd"]
    index.forget(["d0"])
    found = vectors.search(index, encoder, "a", 3)
    assert sorted(one.text for one in found) == ["cccc", "dddd"]
    index.forget(["d1", "d2"])
    (data,) = index.vectors("letters")[1]
    assert set(data) == {0}


class Interrupted(Letters):
    """While it encodes, something else happens to the index."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self.happens = happens

    def encode(self, *given: Any, **more: Any) -> np.ndarray:
        self.happens()
        self.happens = lambda: None
        return super().encode(*given, **more)


def test_what_another_process_changes_while_vectors_are_made(index: LibraryIndex) -> None:
    """A document goes, is another, or comes: of all others they are kept, and the next search makes up for the rest."""
    long = " ".join(["bbbb"] * 200)  # three passages
    for texts in (["aaaa", long, "cccc"], ["aaaa", "dd dd", "cccc"], ["aaaa"], ["aaaa", long, "cccc", "eeee"]):
        index.forget(["d0", "d1", "d2", "d3"])
        index.noted(f"before {texts}")
        fill(index, "aaaa", "bbbb", "cccc")
        with LibraryIndex(index._path) as other:

            def change(other: LibraryIndex = other, texts: Sequence[str] = texts) -> None:
                fill(other, *texts)
                other.noted(f"after {texts}")

            vectors.update(index, Interrupted(change))
        vectors.update(index, Letters())
        assert index.without_vectors("letters") == []
        found = vectors.search(index, Letters(), "abcde", 10)
        assert sorted({one.document for one in found}) == [f"d{number}" for number in range(len(texts))]
        assert {one.text for one in found} >= {text for text in texts if len(text) < 10}


def test_a_search_sees_one_state(index: LibraryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten between two of its statements is still there for it."""
    fill(index, "The mill is red.", "The ferry is blue.", "The mill is blue.")
    vectors.update(index, Letters())
    plain = LibraryIndex._document

    def document_of(self: LibraryIndex, row: int) -> tuple[str, int, int]:
        with LibraryIndex(index._path) as other:
            other.forget(["d0", "d2"])
        return plain(self, row)

    monkeypatch.setattr(LibraryIndex, "_document", document_of)
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)  # so long it waits to empty the log, which this search holds
    assert ids(index.search("mill", 3, str)) == ["d0", "d2"]
    assert ids(index.search("mill", 3, str)) == []
    fill(index, "The mill is red.", "The ferry is blue.", "The mill is blue.")
    assert [one.document for one in index.passages("mill", 3)] == ["d0", "d2"]
    fill(index, "The mill is red.", "The ferry is blue.", "The mill is blue.")
    index.noted("again")
    vectors.update(index, Letters())
    assert sorted(one.document for one in vectors.search(index, Letters(), "mill", 3)) == ["d0", "d1", "d2"]


def test_packed_vectors_are_what_they_were_within_a_hundredth_of_the_largest() -> None:
    made = np.random.default_rng(0).standard_normal((50, 384)).astype(np.float32)
    made[7] = 0
    packed = vectors.pack(made)
    assert packed.shape == (50, 388)
    scale = np.ascontiguousarray(packed[:, :4]).view(np.float32)
    again = packed[:, 4:].view(np.int8).astype(np.float32) * scale
    assert np.abs(again - made).max() <= np.abs(made).max() / 254 + 1e-6
    assert scale[7] == 1


# --- km search


@pytest.fixture
def library(km: Km, tmp_path: Path) -> None:
    for name, text in (("heron", "The heron waits in the reeds."), ("mill", "The mill stands by the river.")):
        (tmp_path / f"{name}.md").write_text(text)
        assert km("add", str(tmp_path / f"{name}.md")).code == 0


def test_km_search(km: Km, library: None, tmp_path: Path) -> None:
    assert km("search", "where are herons waiting").out == "heron\n  The heron waits in the reeds.\n"
    run = km("search", "stands", "--json")
    assert [(one["document"], one["page"]) for one in run.envelope["data"]] == [("mill", None)]
    assert (km("search", "unheard").code, km("search", "unheard").err) == (0, "No document has any of these words.\n")
    (tmp_path / "heron.md").write_text("The heron flies away.")
    km("add", str(tmp_path / "heron.md"))
    assert km("search", "reeds").out == ""
    assert km("search", "flies").out == "heron\n  The heron flies away.\n"
    km("mv", "heron", "bird")
    assert km("search", "flies").out.startswith("bird\n")
    km("rm", "--yes", "bird")
    assert km("search", "flies").out == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((" ",), 2, "km: there is nothing to search for."),
        (("x", "--retriever", "bm52"), 2, "km: there is no retriever 'bm52'. It is one of: bm25, dense, hybrid"),
    ],
)
def test_what_cannot_be_searched(km: Km, library: None, words: tuple[str, ...], code: int, said: str) -> None:
    run = km("search", *words)
    assert (run.code, run.err.startswith(said)) == (code, True)


def test_an_empty_library_cannot_be_searched(km: Km) -> None:
    assert km("search", "x").err == "km: the library is empty. Add a document with: km add FILE\n"


def test_dense_and_hybrid_ask_the_encoder(km: Km, library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmcli.retrieval import embedder

    monkeypatch.setattr(embedder, "find", lambda name, report: Path(name))
    monkeypatch.setattr(embedder, "Embedder", lambda path, device, report: Letters())
    dense = km("search", "r r r v", "-k", "1", "--retriever", "dense", "--json").envelope["data"]
    assert [one["document"] for one in dense] == ["mill"]
    hybrid = km("search", "heron", "--retriever", "hybrid", "--json").envelope["data"]
    assert {one["document"] for one in hybrid} == {"heron", "mill"}
    assert hybrid[0]["score"] <= 2 / 61
    assert searching.Retriever
