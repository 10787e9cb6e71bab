"""Without Ray, and parcels, which need none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from cluster_cases import write_documents
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
