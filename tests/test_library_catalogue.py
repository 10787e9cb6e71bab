"""What is looked up in a library and not looked for: names, tags, changes, and the file that shells complete from."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from kmcli.errors import NotFoundError
from kmcli.library import Library, catalogue
from kmcli.library import published as publishing
from kmcli.library.catalogue import Changes
from library_material import ingested, train


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


def add(library: Library, name: str, text: str = "", tags: tuple[str, ...] = ()) -> str:
    """Its id."""
    return library.add(ingested(text or f"About {name}.", f"/books/{name}.txt", name), tags=tags).document.id


def published(library: Library) -> list[str]:
    return (library.home / "names").read_text("utf-8").split()


# --- names


def test_documents_that_are_called_the_same_are_numbered(library: Library) -> None:
    for number in range(1, 8):
        added = library.add(ingested(f"Text {number}.", f"/{number}/readme.txt", "ReadMe")).document
        assert added.name == ("readme" if number == 1 else f"readme-{number}")
    library.remove("readme-7")
    assert library.catalogue.free_name("readme") == "readme-7"
    assert library.catalogue.free_name("heron") == "heron"


def test_a_free_name_is_found_by_a_few_looks(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"readme", *(f"readme-{number}" for number in range(2, 10_001))}
    asked: list[str] = []

    def named(name: str) -> bool | None:
        asked.append(name)
        return True if name in taken else None

    monkeypatch.setattr(library.catalogue, "named", named)
    assert library.catalogue.free_name("readme") == "readme-10001"
    assert len(asked) < 40


def test_a_name_that_was_meant_is_looked_for_near_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heron", "herald", "zebra"):
        add(library, name)
    with pytest.raises(NotFoundError) as missing:
        library.find("hero")
    assert missing.value.hint == "Did you mean heron or herald?"
    monkeypatch.setattr(catalogue, "NEAR", 1)
    with pytest.raises(NotFoundError) as missing:
        library.find("yebra")  # on either side of it in the alphabet
    assert missing.value.hint == "Did you mean zebra?"
    with pytest.raises(NotFoundError) as missing:
        library.find("azebra")
    assert missing.value.hint == "Add it with: km add FILE (km ls shows all)."


def test_documents_by_tag_and_the_first_of_them(library: Library) -> None:
    for name in ("d", "b", "c", "a"):
        add(library, name, tags=("Straße",) if name in "bd" else ())
    listed = library.catalogue.documents
    assert [one.name for one in listed()] == ["a", "b", "c", "d"]
    assert [one.name for one in listed(limit=3)] == ["a", "b", "c"]
    assert [one.name for one in listed("@STRASSE")] == ["b", "d"]
    assert [one.name for one in listed("strasse", 1)] == ["b"]
    assert listed("none") == []
    count = library.catalogue.count
    assert (count(), count("strasse"), count("none")) == (4, 2, 0)
    assert library.catalogue.tags() == {"straße": 2}
    library.remove("d")
    library.retag(library.find("b"), ["new"], ["strasse"])
    assert library.catalogue.tags() == {"new": 1}


def test_the_first_that_has_no_module(library: Library) -> None:
    assert library.catalogue.unmade() is None
    for name in ("b", "a"):
        add(library, name)
    train(library, library.find("a"))
    unmade = library.catalogue.unmade()
    assert unmade is not None
    assert unmade.name == "b"


# --- changes


def seen(changes: Changes | None) -> tuple[list[str], tuple[str, ...]]:
    assert changes is not None
    return [document.name for document in changes.changed], changes.gone


def test_what_has_changed_since_a_mark(library: Library) -> None:
    kept = library.catalogue
    assert kept.mark() == ""
    assert seen(kept.changes("")) == ([], ())
    add(library, "a")
    b = add(library, "b")
    first = kept.mark()
    assert seen(kept.changes("")) == (["a", "b"], ())
    assert seen(kept.changes(first)) == ([], ())
    library.rename("a", "aa")
    library.retag(library.find("aa"), ["tag"], [])
    train(library, library.find("aa"))
    assert kept.mark() == first  # the texts are the same
    library.add(ingested("Another text.", "/books/a.txt"))
    c = add(library, "c")
    library.remove("b")
    library.remove("c")
    changes = kept.changes(first)
    assert seen(changes) == (["aa"], (c, b))
    assert changes is not None
    assert changes.mark == kept.mark() != first
    assert seen(kept.changes(changes.mark)) == ([], ())


def test_a_mark_of_another_past_is_not_known(library: Library) -> None:
    add(library, "a")
    backup = sqlite3.connect(":memory:")
    with sqlite3.connect(library.home / "km.db") as now:
        now.backup(backup)
    now.close()
    add(library, "b")
    mark = library.catalogue.mark()
    library.close()
    with sqlite3.connect(library.home / "km.db") as now:
        backup.backup(now)
    now.close()
    with Library.open(library.home) as again:
        assert again.catalogue.changes(mark) is None
        add(again, "c")
        assert again.catalogue.mark().startswith("2:")
        assert again.catalogue.changes(mark) is None


# --- the file of names


def test_the_file_of_names_follows_every_change(library: Library) -> None:
    add(library, "heron", tags=("birds", "wet"))
    add(library, "finch", tags=("birds",))
    assert published(library) == ["heron", "@birds", "@wet", "finch"]
    library.rename("heron", "grey-heron")
    library.retag(library.find("finch"), ["small"], ["birds"])
    assert sorted(published(library)) == ["@birds", "@small", "@wet", "finch", "grey-heron"]
    library.remove("grey-heron")
    assert published(library) == ["finch", "@small"]
    add(library, "finch-2")  # begins as another does
    library.remove("finch")
    assert published(library) == ["finch-2"]
    assert library.check() == []


def test_of_a_file_that_is_mostly_empty_a_new_one_is_made(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SMALL", 0)
    for name in ("one", "two", "three", "four"):
        add(library, name)
    library.remove("three")
    library.remove("four")
    assert (library.home / "names").read_bytes() == b"one\ntwo\n" + b"\n" * 11
    library.remove("two")
    assert (library.home / "names").read_bytes() == b"one\n"


def test_a_file_of_names_that_is_wrong_is_found_and_mended(library: Library) -> None:
    for name in ("one", "two"):
        add(library, name)
    file = library.home / "names"
    file.write_text("one\nthree\n")
    (finding,) = library.check()
    assert (finding.message, finding.repaired) == (
        "the names that a shell completes are not those of the documents.",
        False,
    )
    assert [one.repaired for one in library.check(repair=True)] == [True]
    assert published(library) == ["one", "two"]
    file.write_text("one\n")
    library.remove("two")  # is not in it: all is written anew
    assert published(library) == ["one"]
    file.unlink()
    add(library, "three")
    assert published(library) == ["one", "three"]


def _add_and_remove(home: Path, number: int) -> None:
    with Library.open(home) as library:
        for turn in range(8):
            add(library, f"d{number}-{turn}")
            if turn % 2:
                library.remove(f"d{number}-{turn}")


def test_processes_keep_one_file_of_names(library: Library) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_and_remove, args=(library.home, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(published(library)) == [f"d{number}-{turn}" for number in range(3) for turn in range(0, 8, 2)]
    assert library.check() == []
