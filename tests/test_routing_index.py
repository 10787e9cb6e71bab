"""The library's index of passages: what it finds, what it reads again, and what it forgets."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from cli_cases import document
from kmcli.routing import store
from kmcli.routing.index import Found, LibraryIndex
from kmcli.types import Document, text_hash

TEXTS = {
    "harbour": "The harbour of Taldrin was founded in 1743. Clara Stalmor is its mayor.",
    "ship": "The Kelvand carries timber.\f"
    + "It sails to many towns. " * 40
    + "Its captain is Emil Dorsak of Taldrin.",
    "lamp": "Lumrick 40 costs $185. It was designed by Yara Kestrim.",
}


def documents(**texts: str) -> list[Document]:
    return [document(name, id=f"id-{name}", text_sha256=text_hash(text)) for name, text in texts.items()]


class Library:
    def __init__(self) -> None:
        self.read: list[str] = []

    def text(self, one: Document) -> str:
        self.read.append(one.name)
        return {**TEXTS, "longer": "word " * 400}[one.name]


def names(document_id: str) -> str:
    return document_id.removeprefix("id-")


def search(index: LibraryIndex, question: str, k: int = 3) -> list[str]:
    return [found.passage.document for found in index.search(question, k, names)]


@pytest.fixture
def index(tmp_path: Path) -> LibraryIndex:
    made = LibraryIndex(tmp_path / "passages.db")
    assert made.update(documents(**TEXTS), Library().text) == 3
    return made


def test_the_likeliest_document_comes_first(index: LibraryIndex) -> None:
    assert search(index, "Who is the captain of the Kelvand?") == ["ship"]
    assert search(index, "Who designed Lumrick 40?") == ["lamp"]
    assert search(index, "Who is the mayor of Taldrin?") == ["harbour", "ship"]
    assert search(index, "Who is the mayor of Taldrin?", 1) == ["harbour"]
    assert search(index, "Quis custodiet?") == []
    assert search(index, "??") == []


def test_a_passage_has_its_page_and_its_score(index: LibraryIndex) -> None:
    (found,) = index.search("Who is the captain?", 1, names)
    assert (found.document, found.passage.page) == ("id-ship", 2)
    assert found.passage.text.endswith("Its captain is Emil Dorsak of Taldrin.")
    assert found.score == found.passage.score > 0


def covered(found: list[Found]) -> list[tuple[str, float]]:
    return [(one.passage.document, round(one.covered, 3)) for one in found]


def test_rare_words_count_more_than_common_ones_and_absent_ones_most(index: LibraryIndex) -> None:
    """ln(1 + 3 / n) for a word that n of the three documents have, and n = 1/2 where none has it."""
    assert covered(index.search("timber of Taldrin", 3, names)) == [("ship", 1.0), ("harbour", 0.398)]
    assert covered(index.search("Lumrick Festival", 3, names)) == [("lamp", 0.416)]


def test_only_what_is_new_or_has_changed_is_read(index: LibraryIndex) -> None:
    library = Library()
    same = documents(**TEXTS)
    assert index.update(same, library.text) == 0
    changed = [same[0], dataclasses.replace(same[1], text_sha256="other"), *documents(longer="x")]
    seen: list[tuple[int, int]] = []
    assert index.update(changed, library.text, lambda done, total: seen.append((done, total))) == 2
    assert library.read == ["ship", "longer"]
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert search(index, "Lumrick") == []  # it was not among them any more
    assert search(index, "captain") == ["ship"]
    assert search(index, "word") == ["longer"]


def test_what_is_forgotten_is_gone_from_the_file(index: LibraryIndex, tmp_path: Path) -> None:
    file = tmp_path / "passages.db"
    with LibraryIndex(file):
        index.close()
    assert b"Kestrim" in file.read_bytes()
    index = LibraryIndex(file)
    index.forget(["id-lamp", "id-unknown"])
    assert search(index, "Who designed Lumrick 40?") == []
    assert search(index, "Who is the captain?") == ["ship"]
    for word in (b"Kestrim", b"kestrim", b"lumrick"):
        assert all(word not in one.read_bytes() for one in tmp_path.iterdir())
    index.close()
    assert [one.name for one in tmp_path.iterdir()] == ["passages.db"]


def test_it_is_kept_and_is_private(index: LibraryIndex, tmp_path: Path) -> None:
    index.close()
    assert (tmp_path / "passages.db").stat().st_mode & 0o777 == 0o600
    with LibraryIndex(tmp_path / "passages.db") as again:
        assert search(again, "captain") == ["ship"]


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"", None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "passages.db"
    if damage is not None:
        file.write_bytes(damage)
    with LibraryIndex(file) as index:
        assert search(index, "captain") == []
        assert index.update(documents(**TEXTS), Library().text) == 3
        assert search(index, "captain") == ["ship"]


def test_another_version_is_made_anew(index: LibraryIndex, tmp_path: Path) -> None:
    index._database.execute("PRAGMA user_version = 99")
    index.close()
    with LibraryIndex(tmp_path / "passages.db") as again:
        assert again.update(documents(**TEXTS), Library().text) == 3


def test_a_file_that_is_in_use_is_not_taken_for_damaged(
    index: LibraryIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    file = tmp_path / "passages.db"
    before = file.stat().st_ino
    index._database.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        LibraryIndex(file)
    index._database.execute("COMMIT")
    with LibraryIndex(file) as again:
        assert search(again, "captain") == ["ship"]
    assert file.stat().st_ino == before
