"""Eight processes at once in one library, for a few seconds; `make reliability` gives them two minutes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import races
from kmcli.errors import KmError, NotFoundError
from kmcli.library import Library
from kmcli.library.database import Database
from kmcli.library.published import Published
from kmcli.types import silent
from kmcli.workflows import documents
from kmcli.workflows.house import open_house
from library_material import ingested, train

SECONDS = 3


def test_nothing_is_lost_between_processes(tmp_path: Path) -> None:
    folder = tmp_path / "races"
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, races.__file__, folder, str(SECONDS)], check=True, timeout=600, env=quiet)
    found = json.loads((folder / "races.json").read_text())
    assert found["wrong"] == []
    done = found["done"]
    assert done["add 0"] >= races.WORKERS
    assert done["tag 0"] >= races.WORKERS
    assert sum(done.values()) >= 6 * races.WORKERS


def between(
    home: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, other: Callable[[Library], object]
) -> None:
    """When a function is called first, let another library on the same folder do something, if it is let."""
    real, threads = getattr(owner, name), []

    def act() -> None:
        with Library.open(home) as library:
            other(library)

    def paused(*given: Any) -> Any:
        result = real(*given) if owner is Published else None
        if not threads:
            threads.append(threading.Thread(target=act))
            threads[0].start()
            threads[0].join(1.0)
        return result if owner is Published else real(*given)

    monkeypatch.setattr(owner, name, paused)
    monkeypatch.setattr(Library, "finish", lambda self: threads[0].join(), raising=False)


@pytest.fixture(params=[True, False], ids=["guarded", "without"])
def guarded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Once with transactions, and once with none."""
    if not request.param:
        monkeypatch.setattr(Database, "transaction", lambda self: contextlib.nullcontext())
    return bool(request.param)


def test_a_tag_given_while_another_is_given(km_home: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    with Library.open(km_home) as library:
        heron = library.add(ingested()).document
        between(km_home, monkeypatch, Database, "save", lambda other: other.retag(heron, ["wet"], []))
        library.retag(heron, ["grey"], [])
        library.finish()
        assert (set(library.find("heron").tags) == {"grey", "wet"}) == guarded


def test_names_published_while_others_are(km_home: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    with Library.open(km_home) as library:
        library.add(ingested())
        otter = ingested("The otter swims.", "/books/otter.txt", "otter")
        between(km_home, monkeypatch, Published, "_held", lambda other: other.add(otter))
        library.rename("heron", "stork")
        library.finish()
        monkeypatch.undo()
        assert (sorted((km_home / "names").read_text().split()) == ["otter", "stork"]) == guarded
        assert (library.check() == []) == guarded


def test_a_text_that_goes_or_changes_between_two_looks(km_home: Path) -> None:
    with Library.open(km_home) as library, Library.open(km_home) as other:
        heron = library.add(ingested()).document
        other.add(ingested("The heron flies."))
        with pytest.raises(KmError, match="heron has been changed meanwhile"):
            library.text(heron)
        other.remove("heron")
        with pytest.raises(NotFoundError, match="heron has been removed meanwhile"):
            library.text(heron)


def test_a_module_that_is_replaced_while_it_is_listed(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_house({}, silent) as house:
        heron = house.library.add(ingested()).document
        old = train(house.library, heron, b"old")
        train(house.library, heron, b"new")
        assert documents.entry(house, heron).bytes > 0
        monkeypatch.setattr(Library, "module", lambda self, document: old)
        assert documents.entry(house, heron).bytes == 0
