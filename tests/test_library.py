"""The library: documents come in, are found, change, and go, and nothing that was reported done is lost."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.library import Library, files
from kmcli.types import Ingested
from library_material import contents, ingested, sample, train


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


# --- opening ------------------------------------------------------------------------------------------------------


def test_everything_is_private(library: Library) -> None:
    previous = os.umask(0)
    try:
        document = library.add(ingested()).document
        library.append_samples(document, [sample(1)])
        library.workspace(document)
        train(library, document)
        with library.lock(document, "train"):
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in library.home.rglob("*")}
    finally:
        os.umask(previous)
    assert stat.S_IMODE(library.home.stat().st_mode) == 0o700
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    assert {path.name for path in modes} >= {"km.db", "km.db-wal", "km.lock", "samples.jsonl", "recipe.json"}


def test_folders_that_were_there_become_private_but_home_stays_as_the_person_made_it(km_home: Path) -> None:
    (km_home / "cache").mkdir(parents=True)
    km_home.chmod(0o750)
    (km_home / "cache").chmod(0o755)
    Library.open(km_home).close()
    assert stat.S_IMODE((km_home / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(km_home.stat().st_mode) == 0o750


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError) as refused:
        Library.open(tmp_path / "file" / "home")
    assert refused.value.message == f"the library in {tmp_path / 'file' / 'home'} cannot be opened: not a directory."
    assert "KM_HOME" in refused.value.hint


def test_a_read_only_home_is_one_sentence(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Library.open(km_home).close()
    real = os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, whom no mode stops
    with pytest.raises(ResourceError, match=r"cannot be opened: permission denied\. Check its permissions"):
        Library.open(km_home)


def test_a_file_that_is_no_database_is_one_sentence(km_home: Path) -> None:
    km_home.mkdir()
    (km_home / "km.db").write_bytes(b"this is not a database, but it is long enough to look at" * 20)
    with pytest.raises(ResourceError, match=r"km\.db cannot be used: file is not a database\. Restore it"):
        Library.open(km_home)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(library.home)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"cannot be written to: no space left on device\. Free some space"):
        library.add(ingested())
    monkeypatch.undo()
    assert library.documents() == []
    assert contents(library.home) == before
    assert library.check() == []


# --- adding -------------------------------------------------------------------------------------------------------


def test_add_then_read_back(library: Library) -> None:
    given = Ingested("/books/Heron Guide.pdf", "pdf", "Heron Guide", b"%PDF-1.4", "page one\fpage two \ud800", 2)
    added = library.add(given, tags=[" Birds ", "water", "@birds"])
    document = added.document
    assert (added.action, added.was_trained) == ("added", False)
    assert (document.name, document.kind, document.pages, document.words) == ("heron-guide", "pdf", 2, 5)
    assert document.tags == ("birds", "water")
    assert document.added == document.updated
    assert library.text(document) == given.text
    assert library.source_file(document).read_bytes() == b"%PDF-1.4"
    assert library.source_file(document).suffix == ".pdf"
    with Library.open(library.home) as other:
        assert other.documents() == [document]


def test_a_source_that_is_not_utf8_is_kept_and_recognised(library: Library) -> None:
    odd = os.fsdecode(b"/books/caf\xe9.txt")
    first = library.add(ingested("one", odd)).document
    assert library.find(first.name).source == odd
    assert library.add(ingested("two", odd)).action == "updated"


@settings(max_examples=20)
@given(st.text(st.characters(exclude_categories=())), st.binary())
def test_any_text_and_bytes_come_back(text: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, Library.open(Path(folder)) as library:
        document = library.add(Ingested("-", "text", text, data, text, None)).document
        assert library.text(document) == text
        assert library.source_file(document).read_bytes() == data
        assert library.check() == []


def test_the_same_bytes_are_unchanged_whatever_they_are_called(library: Library) -> None:
    first = library.add(ingested(), tags=["birds"]).document
    again = library.add(ingested(source="/elsewhere/copy.txt", name="copy"), name="other", tags=["water"])
    assert again.action == "unchanged"
    assert again.document == dataclasses.replace(first, tags=("birds", "water"))
    assert library.documents() == [again.document]


def test_new_content_of_the_same_source_updates(library: Library) -> None:
    first = library.add(ingested("one")).document
    library.append_samples(first, [sample(1), sample(2)])
    train(library, first)
    (library.workspace(first) / "checkpoint").write_text("of the old text")
    library.rename("heron", "bird")
    updated = library.add(ingested("two words"))
    document = updated.document
    assert (updated.action, updated.was_trained) == ("updated", True)
    assert (document.id, document.name, document.words, document.added) == (first.id, "bird", 2, first.added)
    assert library.text(document) == "two words"
    assert library.samples(document) == [sample(1), sample(2)]
    assert library.state(document) == "stale"
    assert library.find("bird") == document
    assert len(list(library.source_file(document).parent.glob("*-*"))) == 2  # the old text and source are gone


def test_other_bytes_with_the_same_text_leave_the_module_fresh(library: Library) -> None:
    first = library.add(ingested("one")).document
    train(library, first)
    library.begin_training(first, b"still good")
    document = library.add(dataclasses.replace(ingested("one"), data=b"one, resaved")).document
    assert library.state(document) == "interrupted"
    library.clear_workspace(document)
    assert library.state(document) == "fresh"
    assert library.text(document) == "one"


def test_standard_input_never_updates(library: Library) -> None:
    actions = [library.add(ingested(text, "-", "stdin")).action for text in ("one", "two", "one")]
    assert actions == ["added", "added", "unchanged"]
    assert [document.name for document in library.documents()] == ["stdin", "stdin-2"]


def test_names_given_and_made(library: Library) -> None:
    assert library.add(ingested("1", "/1"), name="Field-Guide").document.name == "field-guide"
    assert library.add(ingested("2", "/2", "field guide")).document.name == "field-guide-2"
    with pytest.raises(UsageError, match="the name field-guide is taken by another document"):
        library.add(ingested("3", "/3"), name="FIELD-GUIDE")
    with pytest.raises(UsageError, match="cannot be the name of a document"):
        library.add(ingested("3", "/3"), name="field guide")
    assert library.add(ingested("1", "/1"), name="field-guide").action == "unchanged"
    assert [document.name for document in library.documents()] == ["field-guide", "field-guide-2"]


def test_an_update_cut_short_leaves_the_old_document(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    document = library.add(ingested("old")).document
    before = contents(library.home)
    monkeypatch.setattr(library._database, "save", lambda document: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        library.add(ingested("new"))
    monkeypatch.undo()
    assert library.find("heron") == document
    assert library.text(document) == "old"
    assert [finding.message for finding in library.check(repair=True)] == [
        "heron has files left over from an update that was cut short."
    ]
    assert contents(library.home) == before


def test_damaged_contents_are_restored_by_adding_again(library: Library) -> None:
    document = library.add(ingested()).document
    path = next(library.source_file(document).parent.glob("text-*"))
    path.write_text("changed by hand")
    with pytest.raises(KmError) as refused:
        library.text(document)
    assert str(refused.value) == (
        "the text of heron is missing or damaged on disk. Add it again with: km add /books/Heron.txt"
    )
    assert library.add(ingested()).action == "updated"
    assert library.text(document) == "The heron waits."


# --- finding, renaming, removing ----------------------------------------------------------------------------------


def test_find(library: Library) -> None:
    with pytest.raises(NotFoundError, match=r"the library is empty\. Add one with: km add FILE"):
        library.find("heron")
    document = library.add(ingested()).document
    assert library.find("HERON") == library.find("ｈeron") == document
    with pytest.raises(NotFoundError) as missing:
        library.find("herom")
    assert str(missing.value) == "there is no document 'herom'. Did you mean heron?"
    with pytest.raises(NotFoundError, match="Add it with: km add FILE"):
        library.find("\ud800 zzz")


def test_rename(library: Library) -> None:
    document = library.add(ingested("1", "/1", "one")).document
    library.add(ingested("2", "/2", "two"))
    renamed = library.rename("ONE", "Uno")
    assert renamed == dataclasses.replace(document, name="uno") == library.find("uno")
    assert library.rename("uno", "UNO") == renamed
    with pytest.raises(UsageError, match="the name two is taken"):
        library.rename("uno", "Two")
    with pytest.raises(UsageError, match="cannot be the name"):
        library.rename("uno", "../x")
    with pytest.raises(NotFoundError):
        library.rename("one", "eins")
    assert [document.name for document in library.documents()] == ["two", "uno"]


def test_remove_takes_everything_but_the_original(library: Library, tmp_path: Path) -> None:
    original = tmp_path / "heron.txt"
    original.write_text("The heron waits.")
    before = contents(library.home)
    document = library.add(ingested(source=str(original))).document
    library.append_samples(document, [sample(1)])
    train(library, document)
    library.staging(document)
    (library.workspace(document) / "state.json").write_text("{}")
    library.cache_of(document.id).mkdir()
    (library.cache_of(document.id) / "0.bin").write_bytes(b"x")
    (library.cache / "base.gguf").write_bytes(b"shared")
    assert library.remove("heron") == document
    assert library.documents() == []
    assert contents(library.home) == before | {"cache/base.gguf": b"shared", "names": b"\n" * len("heron\n")}
    assert original.read_text() == "The heron waits."
    assert library.check() == []
    with pytest.raises(NotFoundError, match="heron has been removed meanwhile"), library.lock(document, "train"):
        pass


def test_a_library_that_was_moved_gives_no_lock(library: Library, tmp_path: Path) -> None:
    document = library.add(ingested()).document
    library.home.rename(tmp_path / "away")
    with pytest.raises(ResourceError, match=f"^{library.home} is gone"), library.lock(document, "train"):
        pass


# --- small promises -----------------------------------------------------------------------------------------------


def test_opening_the_library_imports_nothing_heavy(km_home: Path) -> None:
    Library.open(km_home).close()
    script = (
        "import sys; from pathlib import Path; from kmcli.library import Library;"
        f"Library.open(Path({str(km_home)!r})).documents();"
        "print(sorted({'torch', 'transformers', 'filelock', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_write_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write(path, b"old")

    def refuse(self: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        files.write(path, b"new")
    assert contents(tmp_path) == {"a.json": b"old"}
