"""Without Ray, and parcels, which need none."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_cases import Km
from cluster_cases import write_documents
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library, parcels
from kmcli.types import Recipe
from workflow_cases import files_below, km

__all__ = ["km"]


def test_without_ray(km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    for words in (("train", "--all"), ("synth", "lamp01")):
        run = km(*words, "--ray", "auto")
        assert (run.code, run.out) == (4, "")
        assert run.err == "km: there is no Ray in this environment. Install it with: pip install 'kmcli[ray]'\n"


def module_in(library: Library, document: Any, weights: bytes) -> None:
    staging = library.staging(document)
    (staging / "adapter_model.safetensors").write_bytes(weights)
    library.commit_module(document, staging, Recipe(model="tiny", revision="0"), {"steps": 3})


def test_a_parcel_there_and_back(km: Km, km_home: Path, tmp_path: Path) -> None:
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    with Library.open(km_home) as home, Library.open(tmp_path / "elsewhere") as elsewhere:
        (document,) = home.documents()
        module_in(home, document, b"old")
        home.begin_training(document, b'{"recipe": 1}')
        whole = parcels.pack(home, document, {}, text=True)
        assert whole is not None
        sent = parcels.unpack(elsewhere, whole)
        assert elsewhere.documents() == [document]
        assert elsewhere.text(document) == home.text(document)
        assert elsewhere.state(document) == "interrupted"
        assert elsewhere.module(document).id == home.module(document).id
        assert parcels.pack(elsewhere, document, sent) is None

        workspace = elsewhere.workspace(document)
        (workspace / "checkpoint.safetensors").write_bytes(b"half")
        (workspace / "targets.bin").write_bytes(b"heavy")
        (workspace / "round-1").mkdir()
        (workspace / "round-1" / "trained.json").write_text("{}")
        elsewhere.append_work(document, [{"chunk": "c", "task": "qa", "maker": "m", "counts": {}}])
        half = parcels.pack(elsewhere, document, sent)
        assert half is not None
        names = {"training/checkpoint.safetensors", "training/round-1/trained.json", "written.jsonl"}
        assert half.files.keys() == names
        with home.lock(document, "train"):
            parcels.take(home, half)
        assert files_below(home.workspace(document)) == {
            "run.json": b'{"recipe": 1}',
            "checkpoint.safetensors": b"half",
            "round-1/trained.json": b"{}",
        }
        assert home.work_log(document) == elsewhere.work_log(document)

        module_in(elsewhere, document, b"new")
        new = elsewhere.module(document)
        done = parcels.pack(elsewhere, document, sent)
        assert done is not None
        with home.lock(document, "train"):
            parcels.take(home, done)
        assert home.state(document) == "fresh"
        assert home.module(document).id == new.id
        assert (home.module(document).path / "adapter_model.safetensors").read_bytes() == b"new"
        assert [folder.name for folder in km_home.glob("modules/*")] == [new.id]
        assert not home.check()

        (new.path / "exam.jsonl").write_text("{}\n")
        later = parcels.pack(elsewhere, document, sent)
        assert later is not None
        with home.lock(document, "train"):
            parcels.take(home, later)
        assert (home.module(document).path / "exam.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    "name",
    [
        "training/../../../out.txt",
        "/tmp/out.txt",
        "module/m1/..",
        "training/./out",
        "training//out",
        "training/a\0b",
        "",
    ],
)
def test_a_parcel_leads_nowhere_else(km: Km, km_home: Path, tmp_path: Path, name: str) -> None:
    """It comes from another machine: what it names must be the document's own."""
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    before = files_below(tmp_path)
    with Library.open(km_home) as home, Library.open(tmp_path / "elsewhere") as elsewhere:
        (document,) = home.documents()
        whole = parcels.pack(home, document, {}, text=True)
        assert whole is not None
        bad = replace(whole, files={**whole.files, name: b"mine"}, names=whole.names | {name})
        with home.lock(document, "train"), pytest.raises(KmError, match=r"files of .* that are not among its own"):
            parcels.take(home, bad)
        with pytest.raises(KmError, match=r"files of .* that are not among its own"):
            parcels.unpack(elsewhere, bad)
        assert not elsewhere.documents()
    after = files_below(tmp_path)
    assert b"mine" not in after.values()
    assert before.items() <= after.items()


def test_a_parcels_module_is_no_path(km: Km, km_home: Path, tmp_path: Path) -> None:
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    with Library.open(km_home) as home:
        (document,) = home.documents()
        module_in(home, document, b"weights")
        whole = parcels.pack(home, document, {})
        assert whole is not None
        assert whole.module is not None
        for odd in ("../../out", "..", "a/b", ""):
            with home.lock(document, "train"), pytest.raises(KmError, match="not among its own"):
                parcels.take(home, replace(whole, module=replace(whole.module, id=odd)))
        assert home.module(document).id == whole.module.id


def test_what_others_put_among_temporary_files_is_not_waited_for_nor_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which every user of the machine can make one."""
    from kmcli.workflows import cluster_worker

    monkeypatch.setattr(cluster_worker.tempfile, "tempdir", str(tmp_path))
    os.mkfifo(tmp_path / f"{cluster_worker.SCRATCH}pipe")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear Ann")
    (tmp_path / f"{cluster_worker.SCRATCH}link").symlink_to(tmp_path / "mine")
    (tmp_path / f"{cluster_worker.SCRATCH}left").mkdir()
    made = within(20, cluster_worker._scratch)
    assert made.is_dir()
    assert (tmp_path / "mine" / "letter").read_text() == "dear Ann"
    assert not (tmp_path / f"{cluster_worker.SCRATCH}left").exists()


def test_a_folder_that_another_worker_took_for_a_left_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmcli.workflows import cluster_worker

    real, taken = cluster_worker.fcntl.flock, []

    def flock(lock: int, how: int) -> None:
        if not taken:  # between its making and its lock
            (new,) = tmp_path.glob(f"{cluster_worker.SCRATCH}*")
            new.rmdir()
            taken.append(new)
        real(lock, how)

    monkeypatch.setattr(cluster_worker.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cluster_worker.fcntl, "flock", flock)
    made = cluster_worker._scratch()
    assert made.is_dir()
    assert made not in taken


def within(seconds: int, call: Callable[[], Any]) -> Any:
    """What a call returns, if it does so in time."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return call()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("version", "begins"), [("2.58.1", False), ("2.59.0", True), ("3.0.0rc1", True), ("x", False)])
def test_a_ray_that_lets_everybody_in_is_not_begun(monkeypatch: pytest.MonkeyPatch, version: str, begins: bool) -> None:
    """Where no cluster is found km begins one on this machine, whose ports the network sees."""
    from kmcli.workflows import cluster_connection

    asked: list[str] = []

    def init(address: str, **_: Any) -> None:
        asked.append(address)
        if address == "auto":
            raise ConnectionError("there is none")

    errors = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
    ray = SimpleNamespace(__version__=version, init=init, shutdown=lambda: None, exceptions=errors)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster_connection, "check", lambda: None)
    if begins:
        with cluster_connection.connected("auto"):
            assert asked == ["auto", "local"]
        return
    with pytest.raises(ResourceError) as caught, cluster_connection.connected("auto"):
        pass
    assert caught.value.message == f"this Ray ({version}) begins clusters that everybody in the network can use."
    assert asked == ["auto"]
