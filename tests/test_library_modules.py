"""Modules, states and locks: what a training leaves behind, whole or cut short, alone or beside another process."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmcli.errors import KmError, ResourceError
from kmcli.library import Library, files
from kmcli.types import Document, Recipe
from library_material import age, contents, ingested, train

HOLD = """
import sys
from pathlib import Path
from kmcli.library import Library
with Library.open(Path(sys.argv[1])) as library:
    with library.lock(library.find("heron"), "train"):
        print("held", flush=True)
        sys.stdin.readline()
print("released", flush=True)
"""


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


@pytest.fixture
def document(library: Library) -> Document:
    return library.add(ingested()).document


# --- states -------------------------------------------------------------------------------------------------------


def test_states_from_untrained_to_fresh_to_stale_and_back(library: Library, document: Document) -> None:
    assert library.state(document) == "untrained"
    workspace = library.workspace(document)
    assert workspace == library.workspace(document)
    assert library.state(document) == "untrained"  # an empty workspace is no training
    library.begin_training(document, b"{}")
    assert library.state(document) == "interrupted"
    train(library, document)
    assert library.state(document) == "fresh"
    assert not workspace.exists()
    library.begin_training(document, b"a second training")
    assert library.state(document) == "interrupted"
    library.clear_workspace(document)
    assert library.state(document) == "fresh"
    changed = library.add(ingested("The heron flies.")).document
    assert library.state(changed) == "stale"
    train(library, changed)
    assert library.state(changed) == "fresh"
    assert library.state(library.add(ingested("The heron waits.")).document) == "stale"


def test_a_workspace_that_was_not_cleared_in_time_is_no_interruption(library: Library, document: Document) -> None:
    checkpoint = library.workspace(document) / "checkpoint"
    train(library, document)
    library.workspace(document)
    checkpoint.write_text("of the training that is finished")
    age(checkpoint, seconds=60)
    age(library.workspace(document), seconds=60)
    assert library.state(document) == "fresh"


def test_a_module_whose_folder_is_gone_is_no_module(library: Library, document: Document) -> None:
    shutil.rmtree(train(library, document).path)
    assert library.module(document) is None
    assert library.state(document) == "untrained"
    assert library.last_trained() is None
    assert train(library, document).path.is_dir()


# --- committing ---------------------------------------------------------------------------------------------------


def test_a_module_is_recorded_with_recipe_and_metrics(library: Library, document: Document) -> None:
    assert library.module(document) is None
    module = train(library, document, rank=4, seed=7)
    assert module == library.module(document)
    assert module.recipe == Recipe(rank=4, seed=7)
    assert (module.metrics, module.text_sha256, module.document_id) == (
        {"loss": 0.25},
        document.text_sha256,
        document.id,
    )
    assert module.path == library.home / "modules" / module.id
    assert Recipe.from_json(json.loads((module.path / "recipe.json").read_text())) == module.recipe
    assert json.loads((module.path / "metrics.json").read_text()) == {"loss": 0.25}
    assert not (library.home / "documents" / document.id / "training").exists()


def test_a_new_module_replaces_the_old_one(library: Library, document: Document) -> None:
    first = train(library, document, b"first")
    second = train(library, document, b"second")
    assert first.id != second.id
    assert not first.path.exists()
    assert (library.module(document).path / "adapter_model.safetensors").read_bytes() == b"second"
    assert library.check() == []


def test_a_module_without_weights_is_refused(library: Library, document: Document) -> None:
    folder = library.staging(document)
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        library.commit_module(document, folder, Recipe(), {})
    assert library.module(document) is None


@pytest.mark.parametrize("trained", [False, True])
def test_what_has_no_note_is_no_training(library: Library, document: Document, trained: bool) -> None:
    """A crash while a workspace is cleared leaves some of it, in folders that have been changed just now."""
    state = train(library, document) and "fresh" if trained else "untrained"
    workspace = library.workspace(document)
    (workspace / "before").mkdir()
    (workspace / "before" / "targets.bin").touch()
    (workspace / "checkpoint.safetensors").touch()
    assert library.state(document) == state
    library.begin_training(document, b"{}")
    assert [file.name for file in workspace.iterdir()] == ["run.json"]
    assert library.state(document) == "interrupted"
    (workspace / "checkpoint.safetensors").touch()
    library.begin_training(document, b"{}")
    assert len(list(workspace.iterdir())) == 2


def test_a_workspace_is_cleared_note_first(
    library: Library, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(library, document)
    library.begin_training(document, b"{}")

    def cut(path: Path) -> None:
        assert path == library.workspace(document)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "delete", cut)
    with pytest.raises(KeyboardInterrupt):
        library.clear_workspace(document)
    assert library.state(document) == "fresh"


@pytest.mark.parametrize("step", ["write", "rename", "after rename", "database"])
def test_a_commit_that_fails_leaves_the_old_module(
    library: Library, document: Document, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = train(library, document, b"old")
    library.begin_training(document, b"{}")
    checkpoint = library.workspace(document) / "checkpoint"
    checkpoint.write_text("resume from here")
    before = contents(old.path)
    real_rows = library._database.rows

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    def rows(statement: str, *values: object) -> list[sqlite3.Row]:
        if statement.startswith("INSERT INTO modules"):
            fail()
        return real_rows(statement, *values)

    if step == "write":
        monkeypatch.setattr(files, "seal", fail)
    elif step == "rename":
        monkeypatch.setattr(os, "rename", fail)
    elif step == "after rename":
        real = os.rename
        monkeypatch.setattr(os, "rename", lambda *paths: (real(*paths), fail()))
    else:
        monkeypatch.setattr(library._database, "rows", rows)
    with pytest.raises(ResourceError, match="cannot be written to: input/output error"):
        train(library, document, b"new")
    monkeypatch.undo()
    assert library.module(document) == old
    assert contents(old.path) == before
    assert checkpoint.read_text() == "resume from here"
    assert library.state(document) == "interrupted"
    with Library.open(library.home) as again:
        assert again.module(document) == old
        # What was not moved into place belongs to the unfinished training.
        assert len(again.check(repair=True)) == (0 if step in ("write", "rename") else 1)
        assert again.check() == []
    train(library, document, b"new")
    assert (library.module(document).path / "adapter_model.safetensors").read_bytes() == b"new"


def test_a_recipe_of_a_newer_km_is_refused(library: Library, document: Document) -> None:
    train(library, document)
    library._database.rows("UPDATE modules SET recipe = ?", '{"model": "embedded", "telepathy": true}')
    with pytest.raises(KmError, match="the Knowledge Module of heron was trained by a newer km"):
        library.module(document)


def test_last_trained_follows_the_order_of_training(library: Library, document: Document) -> None:
    other = library.add(ingested("other", "/other", "other")).document
    assert library.last_trained() is None
    train(library, document)
    train(library, other)
    assert library.last_trained() == other
    train(library, document)
    assert library.last_trained() == document
    library.remove("heron")
    assert library.last_trained() == other


# --- locks --------------------------------------------------------------------------------------------------------


def test_two_processes_contend_for_a_document(library: Library, document: Document) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(library.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        busy = f"heron is in use by km train (process {holder.pid})."
        with pytest.raises(KmError) as refused, library.lock(document, "synth"):
            pass
        assert refused.value.message == busy
        assert refused.value.hint == "Wait until that has finished, or stop it; then try again."
        for change in (
            lambda: library.remove("heron"),
            lambda: library.add(ingested("The heron flies.")),
            lambda: library.append_samples(document, []),
            lambda: library.append_scores(document, []),
            lambda: library.drop_samples(document),
            lambda: library.clear_workspace(document),
            lambda: train(library, document),
        ):
            with pytest.raises(KmError, match="in use by km train"):
                change()
        assert library.text(document) == "The heron waits."
        assert [(found.message, found.unchecked, found.repaired) for found in library.check(repair=True)] == [
            (f"{busy.rstrip('.')} and was not checked.", True, False)
        ]
        assert library.is_training(document)
        started = time.monotonic()
        holder.stdin.write("\n")
        holder.stdin.flush()
        with library.lock(document, "rm", wait=20):
            assert time.monotonic() - started < 20
            assert not library.is_training(document)
        assert holder.stdout.readline() == "released\n"
    finally:
        holder.kill()
        holder.communicate()


def test_a_process_that_is_killed_frees_its_lock(library: Library, document: Document) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(library.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    assert list(library.home.rglob(f"{document.id}.json"))  # the note of the dead one
    assert not library.is_training(document)
    with library.lock(document, "train"):
        assert library.is_training(document)
    assert not library.is_training(document)
    assert library.check() == []


def test_a_process_on_another_machine_is_named_with_it(
    library: Library, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = 2**22 + 1  # more than a Linux has: here no such process runs
    with library.lock(document, "train"):
        note = next(library.home.rglob(f"{document.id}.json"))
        note.write_text(json.dumps({"verb": "train", "pid": nobody, "host": "otherwhere"}))
        assert library.is_training(document)
        with (
            Library.open(library.home) as other,
            pytest.raises(KmError, match=rf"km train \(process {nobody} on otherwhere\)"),
            other.lock(document, "rm"),
        ):
            pass
        monkeypatch.setattr("socket.gethostname", lambda: "otherwhere")
        assert not library.is_training(document)


def test_a_lock_can_be_taken_again_by_its_holder(library: Library, document: Document) -> None:
    with Library.open(library.home) as other:
        with library.lock(document, "train"):
            with library.lock(document, "synth"):
                pass
            with pytest.raises(KmError, match=rf"km train \(process {os.getpid()}\)"), other.lock(document, "rm"):
                pass
        with other.lock(document, "rm"):
            pass


def test_documents_are_locked_one_by_one(library: Library, document: Document) -> None:
    second = library.add(ingested("other", "/other", "other")).document
    with Library.open(library.home) as other, library.lock(document, "train"), other.lock(second, "train"):
        assert other.rename("heron", "bird").id == document.id  # a name is not part of any training
