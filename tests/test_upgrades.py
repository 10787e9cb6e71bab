"""A library that an older km wrote opens in today's, and one that a newer km wrote is left alone.

`fixtures/library-first.tar.gz` was written by the first km that could add, train and ask (`km add`, `km train` with rank 1,
one interruption between), at database version 2. Only the paths of that machine were exchanged afterwards.
"""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from cli_cases import Km
from kmcli.library import Library
from kmcli.migrations import MIGRATIONS
from workflow_cases import PERMITS, TINY, entry, files_below, is_sound, km, sentences

ARCHIVE = Path(__file__).parent / "fixtures" / "library-first.tar.gz"
QUESTION = "How much does Lumrick 40 cost?"


@pytest.fixture
def first(km_home: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(km_home, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(km_home)
    assert version(km_home) == 2
    return km_home


def material(home: Path) -> list[str]:
    with Library.open(home) as library:
        return [one.id for one in library.samples(library.find("notes"))]


def version(home: Path) -> int:
    database = sqlite3.connect(home / "km.db")
    try:
        return int(database.execute("PRAGMA user_version").fetchone()[0])
    finally:
        database.close()


def test_it_opens_and_nothing_of_it_is_lost(km: Km, first: Path) -> None:
    before = {name: data for name, data in files_below(first).items() if name.startswith(("documents", "modules"))}
    (listed,) = km("ls", "--json").envelope["data"]
    assert (listed["name"], listed["state"]) == ("notes", "fresh")
    assert version(first) == len(MIGRATIONS)
    assert is_sound(km)
    shown = km("show", "notes")
    assert shown.code == 0
    assert "50 qa, 12 summary" in shown.out
    assert "held-out loss   0.305" in shown.out
    assert "costs $185" in km("search", "Lumrick cost").out
    after = files_below(first)
    assert {name: after.get(name) for name in before} == before


def test_its_module_answers(km: Km, first: Path) -> None:
    """What it answered when it was made, right or not."""
    for engine in ("hf", "auto"):
        run = km("ask", "notes", QUESTION, "--engine", engine, "--json")
        assert run.code == 0
        answer = run.envelope["data"]
        assert (answer["method"], answer["answer"]) == ("km", "$75")
    assert is_sound(km)


def test_its_material_is_studied_again(km: Km, first: Path) -> None:
    before = material(first)
    run = km("train", "notes", "--force", *TINY, "--set", "chunk_tokens=64", "--set", "generations=1", "--json")
    assert run.code == 0
    assert len(before) == 62
    assert material(first)[:62] == before
    assert run.envelope["data"]["trained"][0]["samples"] >= 62
    shown = entry(km, "notes")
    assert shown["state"] == "fresh"
    assert is_sound(km)


def test_its_document_changes_and_others_come(km: Km, first: Path, tmp_path: Path) -> None:
    changed = tmp_path / "new.txt"
    changed.write_text(PERMITS)
    assert km("add", "--update", "notes", str(changed)).code == 0
    assert entry(km, "notes")["state"] == "stale"
    assert km("mv", "notes", "permits").code == 0
    assert km("tag", "permits", "--add", "port").code == 0
    assert "port" in km("show", "permits").out
    assert km("rm", "permits", "--yes").code == 0
    assert is_sound(km)


def test_a_library_of_a_newer_km_is_refused_and_left_as_it_is(km: Km, first: Path) -> None:
    database = sqlite3.connect(first / "km.db")
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.commit()
    database.close()
    before = hashlib.sha256((first / "km.db").read_bytes()).hexdigest()
    for words in (
        ("ls",),
        ("ask", "notes", QUESTION),
        ("train", "notes"),
        ("add", str(ARCHIVE)),
        ("rm", "notes", "--yes"),
    ):
        run = km(*words)
        assert run.code == 1, words
        assert "this library was last used by a newer km. Upgrade with: pip install --upgrade kmcli" in run.err
        assert len(sentences(run.err)) == 1
    assert hashlib.sha256((first / "km.db").read_bytes()).hexdigest() == before
