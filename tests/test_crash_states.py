"""Every step of a verb, cut: what the disk may hold then opens, is mended, and the same command completes it.

A sample of the states of each verb; `make reliability` looks at all of them.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_cases import command, environment
from crash_disk import Disk
from crash_faults import FAULTS, Fault, full, gone
from crash_verbs import SET, VERBS, Loss, Place, Recording, sampled
from kmcli import config
from kmcli.bases import folder as folder_of_base
from kmcli.export import place as export_place
from kmcli.library import Library, check, compressors, conversations, files, layout, modules
from kmcli.library import samples as study
from kmcli.types import silent
from kmcli.workflows import extracting
from memory_cases import MEMORY
from workflow_cases import sentences

BY_NAME = {verb.name: verb for verb in VERBS}
STATES = 4
"""Of each verb, and some after its end."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is such a place: what is checked here is what was flushed, not the flushing."""
    made = tempfile.mkdtemp(prefix="km-crash-", dir=MEMORY)
    yield Path(made)
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def made(folder: Path) -> Place:
    return Place(folder)


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    with made.ready():
        yield made


@pytest.fixture(scope="module")
def known() -> dict[str, Recording]:
    return {}


@pytest.fixture
def recorded(place: Place, known: dict[str, Recording]) -> Callable[[str], Recording]:
    """A verb's recording, made once."""

    def record(name: str) -> Recording:
        if name not in known:
            known[name] = place.record(BY_NAME[name])
        return known[name]

    return record


# --- the disk


def left(root: Path, change: Callable[[], object]) -> list[dict[str, bytes]]:
    """What a cut may leave after a change."""
    disk = Disk(root)
    with disk.watched():
        change()
    return [{path: disk.data(file[0]) for path, file in state if file} for state in disk.after]


def test_what_was_not_flushed_may_be_gone_or_torn(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"before")
    may_be = left(tmp_path, lambda: (tmp_path / "old").write_bytes(b"after that"))
    assert {state["old"] for state in may_be} >= {b"before", b"after that", b"after", b"\0\0\0\0\0 that"}
    may_be = left(tmp_path, lambda: (tmp_path / "new").write_bytes(b"words"))
    assert {state.get("new") for state in may_be} == {None, b"", b"wo", b"\0\0rds", b"words"}


def test_a_rename_that_is_not_flushed_may_be_undone_or_come_before_the_data(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"old")

    def replace() -> None:
        (tmp_path / "new").write_bytes(b"words")
        (tmp_path / "new").replace(tmp_path / "name")

    found = {state.get("name") for state in left(tmp_path, replace)}
    assert found >= {b"old", b"", b"words"}


def test_what_was_flushed_stays(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"old")
    (may_be,) = left(tmp_path, lambda: files.write(tmp_path / "name", b"words"))
    assert may_be == {"name": b"words"}


@pytest.mark.parametrize("rest", [b"", b"\0" * 16, b"0123"])
def test_a_revision_that_a_cut_has_torn_is_made_anew(
    tmp_path: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(folder_of_base, "_WORTH_REMEMBERING", 1)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    Library.open(km_home).close()

    def revision() -> str:
        return folder_of_base.files_revision(tmp_path, [tmp_path / "model.safetensors"], silent)

    first = revision()
    (memo,) = (km_home / "cache" / "revisions").iterdir()
    memo.write_bytes(rest)
    assert revision() == first == memo.read_text()
    assert (memo.parent.stat().st_mode & 0o777, memo.stat().st_mode & 0o777) == (0o700, 0o600)


def test_what_a_repair_sets_aside_is_still_there(tmp_path: Path) -> None:
    """It may be all that is left of a library whose database was lost."""
    home = tmp_path / "home"
    Library.open(home).close()
    (home / "documents" / "stray").mkdir()
    (home / "documents" / "stray" / "text-1.md").write_text("the heron")

    def repair() -> None:
        with Library.open(home) as library:
            assert [finding.repaired for finding in library.check(repair=True)] == [True]

    may_be = left(tmp_path, repair)
    assert [state for state in may_be if b"the heron" not in state.values()] == []
    assert any(path.startswith("home/lost/") for path in may_be[0])


def test_what_an_extractor_was_baked_into_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bake(extractor: Path, module: Path | None, folder: Path) -> None:
        (folder / "weights").write_bytes(b"words")

    monkeypatch.setattr("kmcli.adapters.extractor.bake", bake)
    extractor: Any = SimpleNamespace(path=tmp_path)
    may_be = left(tmp_path, lambda: extracting._bake(extractor, None, tmp_path / "baked" / "one"))
    assert {state.get("baked/one/weights") for state in may_be} <= {None, b"words"}


# --- the verbs


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "retrain"])
def test_cut_at_any_step(recorded: Callable[[str], Recording], name: str) -> None:
    recording = recorded(name)
    assert len(recording.disk.cuts) > 5
    assert recording.losses(sampled(recording, STATES)) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_step_fails(recorded: Callable[[str], Recording], fault: Fault) -> None:
    for name, count in (("add", 3), ("train", 5), ("compressor", 6)):
        recording = recorded(name)
        steps = len(recording.disk.cuts)
        for step in range(2, steps, steps // count):
            assert recording.faulted(fault, step, once=step % 2 == 0) is None


# --- the guards: without any one of them something is lost


def without(module: Any, name: str) -> SimpleNamespace:
    """A module one of whose functions does nothing."""
    return SimpleNamespace(**{**vars(module), name: lambda *_: None})


def plainly(path: Path, data: bytes, synced: bool = True, changed: int = 0) -> None:
    path.with_name("new.tmp").write_bytes(data)
    path.with_name("new.tmp").replace(path)


def begin_plainly(library: Library, document: Any, run: bytes) -> None:
    plainly(library.workspace(document) / layout.RUN, run)


def nothing(*_: object) -> None:
    pass


UNFLUSHED = SimpleNamespace(**{**vars(files), "make_folder": lambda folder: folder.mkdir(exist_ok=True)})
GUARDS: dict[str, tuple[str, object, str, Any]] = {
    "a file is flushed before it gets its name": ("again", files, "write", plainly),
    "a folder is flushed after a file in it got its name": ("add", files, "sync", nothing),
    "a new library's folder is flushed": (
        "first",
        files,
        "make_root",
        lambda folder: folder.mkdir(parents=True, exist_ok=True),
    ),
    "study material is flushed": ("synth", study, "os", without(os, "fsync")),
    "a module is flushed before it is true": ("train", files, "seal", nothing),
    "the names of documents are looked at by doctor": ("mv", check._Inspection, "published", nothing),
    "the note of a training is flushed": ("train", Library, "begin_training", begin_plainly),
    "settings are flushed": ("config", config, "os", without(os, "fsync")),
    "a new folder of conversations is flushed": ("chat", conversations, "files", UNFLUSHED),
    "a new folder of compressors is flushed": ("compressor", compressors, "files", UNFLUSHED),
    "an exported file is flushed": ("gguf", export_place, "sync", nothing),
    "an exported folder changes places with the old one": ("peft", export_place, "exchange", lambda *_: False),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_without_its_guard_something_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    name, owner, what, instead = GUARDS[guard]
    monkeypatch.setattr(owner, what, instead)
    recording = place.record(BY_NAME[name])
    assert first_loss(recording) is not None


def first_loss(recording: Recording) -> Loss | None:
    for state in (*recording.disk.after, *reversed(recording.disk.states)):
        if found := recording.losses([state]):
            return found[0]
    return None


def test_without_its_guard_a_full_disk_is_a_traceback(
    recorded: Callable[[str], Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recorded("add")
    steps = range(8, len(recording.disk.cuts))
    monkeypatch.setattr(files, "_REFUSED", (errno.EACCES,))
    assert any(recording.faulted(full, step) for step in steps)
    monkeypatch.undo()
    monkeypatch.setattr(files, "_GONE", ())
    monkeypatch.setattr(Library, "is_there", True)
    assert any(recording.faulted(gone, step) for step in steps)


def test_an_update_whose_workspace_is_still_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes after the new module is true, while its workspace is deleted: the folders in it have changed since."""
    root = place.prepared(BY_NAME["redline"])
    real = files.delete

    def half(path: Path) -> None:
        before = path / "before"
        if not before.exists():
            return real(path)
        real(before / "targets.bin")
        later = time.time_ns() + 10**9
        os.utime(before, ns=(later, later))
        return None

    monkeypatch.setattr(files, "delete", half)
    assert place.run(root, ("train", "works")).code == 0
    monkeypatch.undo()
    with Library.open(root / "home") as library:
        works = library.find("works")
        assert sorted(file.name for file in library.workspace(works).iterdir()) == [
            "before",
            "checkpoint.safetensors",
            "run.json",
        ]
        new = library.module(works)
        assert new is not None
        assert library.state(works) == "fresh"
    ran = place.run(root, ("train", "works"))
    assert (ran.code, "starting anew" in ran.err) == (0, False)
    other = place.run(root, ("train", "works", *SET, "--set", "steps=1"))
    assert (other.code, "going on" in other.err) == (0, False), "of the old workspace nothing is taken up"
    with Library.open(root / "home") as library:
        module = library.module(library.find("works"))
        assert module is not None
        assert (module.id != new.id, module.metrics["steps"], library.check()) == (True, 1, [])


def test_a_clock_that_was_put_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that begins before the one that it replaces, by the clock, is unfinished all the same."""
    verb = BY_NAME["retrain"]
    root = place.prepared(verb)
    with Library.open(root / "home") as library:
        works = library.find("works")
        later = library.workspace(works).stat().st_mtime_ns + 10**15
        library._database.rows("UPDATE modules SET finished = ?", later)
        library.begin_training(works, b"{}")
        assert library.state(works) == "interrupted"
        assert library.check(repair=True) == []
        staging = library.staging(works)
        (staging / "adapter_model.safetensors").write_bytes(b"weights")
        monkeypatch.setattr(files, "delete", nothing)  # as where the power goes before the workspace is cleared
        module = library.module(works)
        assert module is not None
        library.commit_module(works, staging, module.recipe, {})
        monkeypatch.undo()
        assert library.state(works) == "fresh"
    assert modules.RUN == layout.RUN


def test_a_file_that_may_not_grow(km_home: Path, tmp_path: Path) -> None:
    """The system's own refusal, not a made one."""
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("The heron waits.")
    large.write_text("The heron waits. " * 20_000)
    limit = 200_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ran = subprocess.run(
        command("add", str(small), str(large)), capture_output=True, text=True, preexec_fn=limited, env=environment()
    )
    assert ran.returncode == 6
    (sentence,) = sentences(ran.stderr)
    assert sentence == (f"km: {large}: {km_home} cannot be written to: file too large. Free some space and try again.")
    with Library.open(km_home) as library:
        assert [document.name for document in library.documents()] == ["small"]
        assert library.check() == []
