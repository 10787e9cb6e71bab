"""bases.hub against a hub on 127.0.0.1: downloads, the cache, and connections that are cut."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fakehub import COMMIT, FakeHub
from hub_cases import (
    NAME,
    NEEDED,
    TOKEN,
    cache,
    contents,
    failure,
    files,
    online,
    original,
    point_at,
    save_model,
    server,
)
from kmcli import bases
from kmcli.bases import transfer
from kmcli.bases.hub import fetch
from kmcli.errors import ResourceError
from kmcli.types import Event, silent

# --- downloading ----------------------------------------------------------------------------------------------------


def test_a_downloaded_model_is_the_original(online: FakeHub, original: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = bases.find(NAME, silent)
    assert (base.name, base.revision, base.family, base.context) == (NAME, COMMIT, "llama", 512)
    assert {file.name for file in base.path.iterdir()} == NEEDED | {"model.safetensors"}
    loaded = bases.load(base, "cpu")
    ids = torch.tensor([loaded.chat_ids([("user", "What is the capital?")])])
    reference = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, reference(ids).logits, rtol=0, atol=0)


def test_only_the_needed_files_are_asked_for(online: FakeHub) -> None:
    fetch(NAME, silent)
    asked = {request.path.rsplit("/", 1)[1] for request in online.requests if "/resolve/" in request.path}
    assert asked == NEEDED | {"model.safetensors"}


def test_a_sharded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "sharded", shard="100KB")
    files = contents(tmp_path / "sharded")
    shards = sorted(name for name in files if name.startswith("model-"))
    assert len(shards) >= 2
    with FakeHub({NAME: files}) as server:
        point_at(monkeypatch, server.url)
        base = bases.find(NAME, silent)
        assert {file.name for file in base.path.iterdir()} == NEEDED | {"model.safetensors.index.json", *shards}
        assert (base.path / shards[0]).read_bytes() == files[shards[0]]
        assert bases.load(base, "cpu").model.num_parameters() == bases.folder.count_parameters(
            [base.path / shard for shard in shards]
        )


def test_a_shard_that_the_hub_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "sharded", shard="100KB")
    files = contents(tmp_path / "sharded")
    last = max(name for name in files if name.startswith("model-"))
    del files[last]
    with FakeHub({NAME: files}) as server:
        point_at(monkeypatch, server.url)
        assert failure().message == f"tiny/llama is incomplete on the hub: {last} is missing there."


def test_progress_grows_and_ends_at_the_total(online: FakeHub, files: dict[str, bytes]) -> None:
    events: list[Event] = []
    fetch(NAME, events.append)
    done = [event.done for event in events if event.done is not None]
    total = sum(len(files[name]) for name in NEEDED | {"model.safetensors"})
    assert done == sorted(done)
    assert len(done) > 5
    assert done[-1] == total
    assert {(event.stage, event.message, event.total) for event in events} == {("download", NAME, total)}


def test_a_complete_snapshot_needs_no_request(online: FakeHub) -> None:
    first = fetch(NAME, silent)
    online.requests.clear()
    assert fetch(NAME, silent) == first
    assert fetch(NAME, silent, COMMIT) == first
    assert fetch(NAME, silent, "main") == first
    assert online.requests == []


def test_a_snapshot_with_a_hole_is_completed(online: FakeHub) -> None:
    first = fetch(NAME, silent)
    (first / "tokenizer.json").unlink()
    online.requests.clear()
    assert fetch(NAME, silent) == first
    assert (first / "tokenizer.json").is_file()
    assert online.gets("model.safetensors") == []


def test_a_revision_by_its_commit(online: FakeHub, cache: Path) -> None:
    assert fetch(NAME, silent, COMMIT).name == COMMIT
    assert not (cache / "models--tiny--llama" / "refs").exists()


def test_two_at_once_download_once(online: FakeHub, files: dict[str, bytes]) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(NAME, silent))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert len(online.gets("model.safetensors")) == 1
    assert (folders[0] / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_cache_without_links_holds_the_weights_once(
    online: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    folder = fetch(NAME, silent)
    assert not any(file.is_symlink() for file in folder.iterdir())
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert sum(file.stat().st_size > 1_000_000 for file in cache.rglob("*") if file.is_file()) == 1


# --- cut connections ------------------------------------------------------------------------------------------------


def test_a_cut_download_is_continued_by_the_next_run(online: FakeHub, cache: Path, files: dict[str, bytes]) -> None:
    weights = files["model.safetensors"]
    online.cuts["model.safetensors"] = [300_000] + [0] * transfer.RETRIES + [0]
    events: list[Event] = []
    with pytest.raises(ResourceError, match="connection was cut") as caught:
        fetch(NAME, events.append)
    assert caught.value.hint == "What was downloaded is kept: run the same command again."
    assert sum(event.warning for event in events) == transfer.RETRIES
    (partial,) = (cache / "models--tiny--llama" / "blobs").glob("*.km-partial")
    assert partial.read_bytes() == weights[:300_000]

    online.requests.clear()
    events.clear()
    folder = fetch(NAME, events.append)
    (request,) = online.gets("model.safetensors")
    assert request.range == "bytes=300000-"
    assert request.sent == len(weights) - 300_000
    assert (folder / "model.safetensors").read_bytes() == weights
    assert events[-1].done == events[-1].total
    assert not partial.exists()


def test_one_cut_goes_unnoticed(online: FakeHub, files: dict[str, bytes]) -> None:
    online.cuts["model.safetensors"] = [100_000, 200_000]
    folder = fetch(NAME, silent)
    assert [request.range for request in online.gets("model.safetensors")] == [None, "bytes=100000-", "bytes=300000-"]
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_server_without_ranges_starts_again(online: FakeHub, files: dict[str, bytes]) -> None:
    online.ranges = False
    online.cuts["model.safetensors"] = [100_000]
    events: list[Event] = []
    folder = fetch(NAME, events.append)
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    done = [event.done for event in events if event.done is not None]
    assert done == sorted(done)


def test_damaged_bytes_are_thrown_away(online: FakeHub, cache: Path, files: dict[str, bytes]) -> None:
    online.corrupt.add("model.safetensors")
    assert "arrived damaged" in failure().message
    assert list((cache / "models--tiny--llama" / "blobs").glob("*.km-partial")) == []
    online.corrupt.clear()
    assert (fetch(NAME, silent) / "model.safetensors").read_bytes() == files["model.safetensors"]


# --- as a person has it: variables set before anything is imported --------------------------------------------------


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "KM_HOME") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | variables, capture_output=True, text=True, timeout=60
    )


FETCH = f"""
import json, sys
from kmcli.bases.hub import fetch
from kmcli.errors import KmError
events = []
try:
    print(fetch({NAME!r}, events.append))
except KmError as error:
    print(type(error).__name__, error)
print(json.dumps([events[-1].done == events[-1].total if events else None, "torch" in sys.modules]))
"""


def test_the_hub_variables_are_respected(server: FakeHub, tmp_path: Path, files: dict[str, bytes]) -> None:
    home = tmp_path / "hf"
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    done = run(FETCH, **variables)
    assert done.stderr == ""
    folder, status = done.stdout.splitlines()
    assert Path(folder) == (home / "hub/models--tiny--llama/snapshots" / COMMIT).resolve()
    assert json.loads(status) == [True, False]
    stored = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()
    assert stored == hashlib.sha256(files["model.safetensors"]).hexdigest()
    asked = [request for request in server.requests if NAME in request.path]
    assert {request.authorization for request in asked} == {f"Bearer {TOKEN}"}

    server.requests.clear()
    again = run(FETCH, **variables, HF_HUB_OFFLINE="1")
    assert (again.stdout.splitlines()[0], again.stderr) == (folder, "")
    assert server.requests == []

    elsewhere = run(FETCH, **variables | {"HF_HOME": str(tmp_path / "empty")}, HF_HUB_OFFLINE="1")
    assert elsewhere.stdout.startswith("ResourceError tiny/llama is not completely on this machine, and HF_HUB_OFFLINE")
    assert elsewhere.stderr == ""
    assert server.requests == []
