"""Migrations: from nothing, from an older schema, never from a newer one, and never half-way."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kmcli import migrations
from kmcli.errors import KmError
from kmcli.library import Library

ROW = ("d1", "heron", "heron", "/books/heron.txt", "text", "aa", "bb", None, 3, "2026-01-01", "2026-01-01", "[]")


@pytest.fixture
def db(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "km.db", isolation_level=None)
    yield connection
    connection.close()


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def tables(db: sqlite3.Connection) -> set[str]:
    return {
        row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    }


def test_an_empty_database_gets_every_table(db: sqlite3.Connection, tmp_path: Path) -> None:
    migrations.migrate(db, tmp_path / "km.lock")
    assert tables(db) == {"changes", "documents", "extractors", "kept", "modules", "tags"}
    assert version(db) == len(migrations.MIGRATIONS) == 5
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_version_1_is_migrated_and_keeps_its_documents(km_home: Path) -> None:
    km_home.mkdir()
    old = sqlite3.connect(km_home / "km.db", isolation_level=None)
    migrations.m001_documents(old)
    old.execute("PRAGMA user_version = 1")
    old.execute(f"INSERT INTO documents VALUES ({', '.join('?' * len(ROW))})", ROW)
    assert tables(old) == {"documents"}
    old.close()
    with Library.open(km_home) as library:
        document = library.find("Heron")
        assert (document.id, document.words, document.pages, document.tags) == ("d1", 3, None, ())
        assert library.module(document) is None
        assert library.state(document) == "untrained"
    again = sqlite3.connect(km_home / "km.db")
    assert version(again) == 5
    again.close()


def test_a_migration_that_fails_leaves_the_version_before_it(
    db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def m002_broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half_done (x)")
        raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "MIGRATIONS", [migrations.m001_documents, m002_broken])
    with pytest.raises(RuntimeError, match="power cut"):
        migrations.migrate(db, tmp_path / "km.lock")
    assert version(db) == 1
    assert tables(db) == {"documents"}
    monkeypatch.undo()
    migrations.migrate(db, tmp_path / "km.lock")
    assert (version(db), tables(db)) == (5, {"changes", "documents", "extractors", "kept", "modules", "tags"})


def test_a_newer_database_is_refused_and_left_alone(km_home: Path) -> None:
    Library.open(km_home).close()
    newer = sqlite3.connect(km_home / "km.db", isolation_level=None)
    newer.execute("PRAGMA user_version = 99")
    with pytest.raises(KmError) as refused:
        Library.open(km_home)
    assert refused.value.message == "this library was last used by a newer km."
    assert refused.value.hint == "Upgrade with: pip install --upgrade kmcli"
    assert version(newer) == 99
    newer.close()


def test_an_older_kms_library_keeps_its_tags_and_loses_what_its_cache_had_of_documents(km_home: Path) -> None:
    cache = km_home / "cache"
    base, vectors, baked = cache / "gguf" / "ba5e.gguf", cache / "vectors" / "d1-e-c.npy", cache / "baked" / "d1-m1-e1"
    for file in (base, cache / "gguf" / "d1-m1.gguf", vectors, baked / "adapter_model.safetensors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"km")
    old = sqlite3.connect(km_home / "km.db", isolation_level=None)
    for number, migration in enumerate(migrations.MIGRATIONS[:3], 1):
        migration(old)
        old.execute(f"PRAGMA user_version = {number}")
    old.execute(f"INSERT INTO documents VALUES ({', '.join('?' * len(ROW))})", (*ROW[:-1], '["Birds", "Lakes"]'))
    old.close()
    with Library.open(km_home) as library:
        assert [document.name for document in library.catalogue.documents("birds")] == ["heron"]
        changes = library.catalogue.changes("")
        assert changes
        assert [document.name for document in changes.changed] == ["heron"]
        assert {path for path in cache.rglob("*") if path.is_file()} == {base}
        kept = library.cache_of("d1") / "m1.gguf"
        kept.parent.mkdir()
        kept.write_bytes(b"km")
    with Library.open(km_home):
        assert kept.exists()


def test_another_process_that_keeps_migrating_is_named(
    db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / "km.lock"), pytest.raises(KmError, match="another km has been upgrading the library"):
        migrations.migrate(db, tmp_path / "km.lock")
    assert version(db) == 0


def test_processes_that_open_a_new_library_at_once_do_not_collide(km_home: Path) -> None:
    script = f"""
from pathlib import Path
from kmcli.library import Library
from kmcli.types import Ingested
import os
for n in range(3):
    with Library.open(Path({str(km_home)!r})) as library:
        data = f"{{os.getpid()}} {{n}}".encode()
        library.add(Ingested(f"/{{os.getpid()}}/{{n}}", "text", "same name", data, data.decode(), None))
"""
    running = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in running] == [b""] * 4
    with Library.open(km_home) as library:
        names = {document.name for document in library.documents()}
        assert names == {"same-name"} | {f"same-name-{n}" for n in range(2, 13)}
        assert library.check() == []
