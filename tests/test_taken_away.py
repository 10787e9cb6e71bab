"""What is taken away or changed while km is at work: the cache, the base, the library's version."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import errno
import io
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_cases import LAMP, MILL, Opened, scripted
from cli_cases import Km
from kmcli import adapters, bases
from kmcli.adapters.folder import config_of
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library, files
from kmcli.types import Document, Ingested, silent
from kmcli.workflows import group, passages
from kmcli.workflows.house import open_house
from workflow_cases import TINY, entry, files_below, is_sound, km, permits, sentences, trained_home

NEWER = "this library was last used by a newer km."


def ingested(text: str) -> Ingested:
    return Ingested(f"/books/{len(text)}", "text", "book", text.encode(), text, None)


# --- the cache


@pytest.mark.parametrize("moment", ["writes", "trains"])
def test_the_cache_goes_while_a_document_is_trained(
    km: Km, permits: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    where, name = (HfEngine, "generate") if moment == "writes" else (group, "train_together")
    real = getattr(where, name)
    gone = []

    def without(*given: Any, **more: Any) -> Any:
        gone.append(shutil.rmtree(km_home / "cache", ignore_errors=True))
        return real(*given, **more)

    monkeypatch.setattr(where, name, without)
    run = km("train", "permits", *TINY)
    assert gone
    assert run.code == 0, run.err
    assert entry(km, "permits")["state"] == "fresh"
    assert is_sound(km)


@pytest.mark.parametrize("words", [("Who built the mill?",), ("mill", "Who built it?", "--method", "rag")])
def test_the_cache_goes_while_a_question_is_answered(
    km: Km, tmp_path: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name, text in (("mill", MILL), ("lamp", LAMP)):
        (tmp_path / f"{name}.txt").write_text(text)
    assert km("add", str(tmp_path / "mill.txt"), str(tmp_path / "lamp.txt")).code == 0
    expected = km("ask", *words, "--engine", "hf")
    gone = []
    for name in ("generate", "stream"):
        real = getattr(HfEngine, name)

        def without(*given: Any, real: Any = real) -> Any:
            gone.append(shutil.rmtree(km_home / "cache", ignore_errors=True))
            return real(*given)

        monkeypatch.setattr(HfEngine, name, without)
    run = km("ask", *words, "--engine", "hf")
    assert gone
    assert (run.code, run.out) == (expected.code, expected.out), run.err
    assert is_sound(km)


def test_the_cache_goes_between_two_questions_of_a_chat(
    km: Km, tmp_path: Path, km_home: Path, scripted: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mill.txt").write_text(MILL)
    assert km("add", str(tmp_path / "mill.txt")).code == 0

    def reply(chat: object, sampling: object) -> str:
        shutil.rmtree(km_home / "cache", ignore_errors=True)
        return "Ann"

    scripted.reply = reply
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who built the mill?\nAnd when?\nWhere?\n"))
    run = km("chat", "mill", "--json")
    assert run.code == 0, run.err
    assert [turn["answer"] for turn in run.envelope["data"]["turns"]] == ["Ann"] * 3
    assert is_sound(km)


def test_the_cache_goes_between_two_searches(km_home: Path) -> None:
    with open_house({}, silent) as house:
        heron = house.library.add(ingested("The heron waits by the quay.")).document
        for _ in range(2):
            shutil.rmtree(km_home / "cache")
            assert [one.document for one in passages.search(house, "heron")] == [heron.id]
        shutil.rmtree(km_home / "cache")
        assert house.library.cache_of(heron.id).parent.is_dir()
        assert stat.S_IMODE((km_home / "cache").stat().st_mode) == 0o700


# --- the base


def test_the_base_is_deleted_under_a_module(km: Km, permits: Path, tmp_path: Path) -> None:
    own = shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own")
    assert km("train", "permits", *TINY, "--model", str(own)).code == 0
    shutil.move(own, tmp_path / "away")
    for words in (("ask", "permits", "Who?", "--method", "km"), ("export", "permits"), ("compare", "permits")):
        run = km(*words)
        assert (run.code, sentences(run.err)) == (
            4,
            [
                f"km: the base that permits was trained on is gone: {own}. "
                "Bring it back, or train on another: km train permits --model MODEL"
            ],
        )
    assert km("ls").code == km("show", "permits").code == 0
    assert is_sound(km)
    shutil.move(tmp_path / "away", own)
    assert km("ask", "permits", "Who?", "--method", "km").code == 0
    assert entry(km, "permits")["state"] == "fresh"


# --- the module


def test_a_module_goes_before_it_is_loaded(
    km: Km, trained_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = adapters.load_sum
    with Library.open(trained_home) as library:
        module = library.module(library.find("notes"))
    assert module is not None

    def without(*given: Any) -> Any:
        shutil.move(module.path, tmp_path / "away")
        return real(*given)

    monkeypatch.setattr(adapters, "load_sum", without)
    run = km("ask", "notes", "Who?", "--method", "km", "--engine", "hf")
    said = f"km: {module.path} was replaced or removed meanwhile. Try again."
    assert (run.code, sentences(run.err)) == (4, [said])


def test_the_library_goes_before_a_module_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as gone:
        config_of(tmp_path / "home" / "modules" / "1")
    again = "Bring it back (was it moved, or its disk taken away?) and try again."
    assert str(gone.value) == f"{tmp_path / 'home'} is gone. {again}"


# --- two versions of km


@pytest.fixture
def overtaken(km_home: Path) -> Callable[[Library], None]:
    """Lets a newer km change the library that another has open."""

    def overtake(library: Library) -> None:
        newer = sqlite3.connect(km_home / "km.db", isolation_level=None)
        newer.execute("PRAGMA user_version = 99")
        newer.execute("ALTER TABLE documents RENAME COLUMN words TO length")
        newer.close()

    return overtake


def test_a_newer_km_comes_while_an_older_one_is_at_work(km_home: Path, overtaken: Callable[[Library], None]) -> None:
    with Library.open(km_home) as library:
        heron = library.add(ingested("The heron waits.")).document
        overtaken(library)
        before = contents(km_home)
        for change in (*changes(library, heron), library.documents):
            with pytest.raises(KmError) as refused:
                change()
            assert (refused.value.message, refused.value.hint) == (NEWER, "Upgrade with: pip install --upgrade kmcli")
        assert contents(km_home) == before


def test_a_newer_km_whose_tables_look_alike(km_home: Path) -> None:
    """What it keeps in them an older one would not."""
    with Library.open(km_home) as library:
        heron = library.add(ingested("The heron waits.")).document
        with sqlite3.connect(km_home / "km.db") as newer:
            newer.execute("PRAGMA user_version = 99")
        before = contents(km_home)
        for change in changes(library, heron):
            with pytest.raises(KmError, match=NEWER):
                change()
        assert contents(km_home) == before


def changes(library: Library, heron: Document) -> tuple[Callable[[], object], ...]:
    return (
        lambda: library.add(ingested("Another text.")),
        lambda: library.rename("book", "tome"),
        lambda: library.retag(heron, ["birds"], []),
        lambda: library.remove("book"),
    )


def contents(home: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "km.db") as database:
        return [*database.execute("SELECT * FROM documents"), *database.execute("SELECT * FROM tags")]


def test_a_scratch_folder_is_left_where_nothing_may_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch, files.scratch(tmp_path, "some-") as folder:
        (folder / "part").write_text("x")
        for name in ("unlink", "rmdir", "remove"):
            patch.setattr(os, name, refused)
    assert folder.is_dir(), "and nothing was raised"
    with files.scratch(tmp_path, "other-") as folder:
        (folder / "part").write_text("x")
    assert not folder.exists()
