"""bases.hub against a hub on 127.0.0.1: downloads, cuts, the cache, and every way to be refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakehub import COMMIT, FakeHub, closed_port
from kmcli import bases
from kmcli.bases import hub as hub_module
from kmcli.bases import transfer
from kmcli.bases.hub import fetch
from kmcli.errors import ResourceError, UsageError
from kmcli.types import Event, silent

NAME = "tiny/llama"
TOKEN = "hf_secretsecretsecret"
NEEDED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def save_model(folder: Path, shard: str = "5GB") -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((bases.EMBEDDED_FOLDER / file).read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    save_model(folder)
    return folder


@pytest.fixture
def files(original: Path) -> dict[str, bytes]:
    unwanted = {
        "README.md": b"#",
        "pytorch_model.bin": b"pickle",
        "model.gguf": b"GGUF",
        "consolidated.safetensors": b"x",
    }
    return contents(original) | unwanted


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[FakeHub]:
    with FakeHub({NAME: files}) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """huggingface_hub reads its variables when it is imported, so here its constants are set."""
    from huggingface_hub import close_session, constants

    for variable in list(os.environ):
        if variable.startswith(("HF_", "HUGGING")) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    cache = tmp_path / "hub"
    for constant, value in {
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": False,
    }.items():
        monkeypatch.setattr(constants, constant, value)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    point_at(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    yield cache
    close_session()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def online(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    point_at(monkeypatch, server.url)
    return server


def failure(name: str = NAME, revision: str | None = None) -> ResourceError:
    with pytest.raises(ResourceError) as caught:
        fetch(name, silent, revision)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return caught.value


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


# --- refusals -------------------------------------------------------------------------------------------------------

GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access is restricted for {TOKEN}"}


@pytest.mark.parametrize(
    ("status", "headers", "message", "hint"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "there is no model tiny/llama on the hub", "spelling"),
        (401, {"X-Error-Code": "RepoNotFound"}, "there is no model tiny/llama on the hub", "spelling"),
        (401, {}, "does not accept the token", "Renew HF_TOKEN"),
        (403, GATED, "only to people who accepted its licence", "/tiny/llama, then set HF_TOKEN"),
        (403, {}, "does not give tiny/llama to everybody", "set HF_TOKEN"),
        (429, {}, "too many requests", "Wait a few minutes"),
        (500, {}, "failed (status 500) when asked for tiny/llama", "run the same command again"),
        (503, {"X-Error-Message": TOKEN}, "failed (status 503)", "run the same command again"),
    ],
)
def test_refused(
    online: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], message: str, hint: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    online.refuse = (status, headers)
    error = failure()
    assert online.requests[-1].authorization == f"Bearer {TOKEN}"
    assert message in error.message
    assert hint in error.hint
    assert TOKEN not in str(error)


def test_a_private_model_without_a_token(online: FakeHub) -> None:
    online.refuse = (401, {})
    assert "set HF_TOKEN" in failure().hint


def test_gated_only_when_its_files_are_asked_for(online: FakeHub) -> None:
    online.refuse_files = (403, GATED)
    assert "licence" in failure().message


def test_unknown_revision(online: FakeHub) -> None:
    error = failure(revision="v9")
    assert error.message == "tiny/llama has no revision 'v9'."


def test_nobody_answers() -> None:
    error = failure()
    assert error.message.startswith("cannot reach the model hub at http://127.0.0.1:")
    assert "--model embedded" in error.hint


def test_a_hub_that_never_answers(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    online.silence = 0.6
    assert "cannot reach the model hub" in failure().message


def test_offline_by_choice(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in failure().message
    assert online.requests == []


def test_no_connection_but_everything_is_there(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch(NAME, silent)
    point_at(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    assert fetch(NAME, silent) == first


def test_a_page_that_is_no_hub(online: FakeHub) -> None:
    online.body = b"<html>Please log in to this network</html>"
    error = failure()
    assert "does not answer like a model hub" in error.message
    assert "HF_ENDPOINT" in error.hint


@pytest.mark.parametrize("address", ["", "nonsense", "http://[bad", "http://127.0.0.1:port", f"ftp://me:{TOKEN}@there"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UsageError, match="HF_ENDPOINT is set to something that is no address") as caught:
        fetch(NAME, silent)
    assert TOKEN not in str(caught.value)


def test_a_token_that_is_none(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    error = failure()
    assert "characters that no token has" in error.message
    assert TOKEN not in str(error)


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, f"http://me:{TOKEN}@127.0.0.1:{closed_port()}")
    assert TOKEN not in str(failure())


def test_the_token_stays_with_the_hub(
    online: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub({NAME: files}) as online.elsewhere:
        online.elsewhere.cuts["model.safetensors"] = [50_000]
        folder = fetch(NAME, silent)
        there = online.elsewhere.gets("model.safetensors")
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert [request.range for request in there] == [None, "bytes=50000-"]
    assert {request.authorization for request in there} == {None}
    asked = [request for request in online.requests if NAME in request.path]
    assert {request.authorization for request in asked} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("without", "extra", "message"),
    [
        ({"model.safetensors"}, {}, "has no safetensors weights"),
        ({"model.safetensors"}, {"model.Q4.gguf": b"GGUF"}, "holds GGUF files"),
        ({"config.json"}, {"adapter_config.json": b"{}"}, "is an adapter and no base"),
        ({"config.json"}, {}, "has no config.json"),
        (set(), {"config.json": b'{"architectures": ["BertForMaskedLM"]}'}, "BertForMaskedLM is not a causal"),
    ],
)
def test_not_a_base(
    original: Path, monkeypatch: pytest.MonkeyPatch, without: set[str], extra: dict[str, bytes], message: str
) -> None:
    files = {name: data for name, data in contents(original).items() if name not in without} | extra
    with FakeHub({NAME: files}) as server:
        point_at(monkeypatch, server.url)
        assert message in failure().message
        assert server.gets("model.safetensors") == []  # gigabytes, in earnest


def test_too_large_for_the_disk(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    error = failure()
    assert "needs 0.0 GB and only 0.0 GB are free" in error.message
    assert "HF_HOME" in error.hint
    assert online.gets("model.safetensors") == []


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot be stored in")]
)
def test_a_disk_that_fails(online: FakeHub, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transfer, "_stream", fail)
    error = failure()
    assert message in error.message
    assert "HF_HOME" in error.hint


def test_xet_switched_off_is_plain_http(
    online: FakeHub, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    online.xet = True
    assert (fetch(NAME, silent) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_xet_that_fails_gives_way_to_plain_http(
    online: FakeHub, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    pytest.importorskip("hf_xet")
    tried: list[str] = []

    def fail(*, displayed_filename: str, **_: object) -> None:  # after two minutes and a half, in earnest
        tried.append(displayed_filename)
        raise RuntimeError("Task error: CAS Client Error: error sending request for url")

    monkeypatch.setattr("huggingface_hub.file_download.xet_get", fail)
    online.xet = True
    events: list[Event] = []
    folder = fetch(NAME, events.append)
    assert tried == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert [event.message for event in events if event.warning] == [
        "the hub's own transfer failed: going on over plain HTTP"
    ]


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "./here", "/no/such/folder", "~/none", "-x", "a--b", "a/..", "a b", "x.git"]
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="neither a folder on this machine nor the name of a hub model") as caught:
        fetch(name, silent)
    assert caught.value.exit_code == 2


def test_a_misspelt_embedded() -> None:
    with pytest.raises(UsageError) as caught:
        fetch("embeded-", silent)
    assert caught.value.hint == "Did you mean embedded?"


def test_a_revision_never_leaves_the_cache() -> None:
    with pytest.raises(UsageError, match="no revision"):
        fetch(NAME, silent, "../../../etc/passwd")


@given(st.text(max_size=40))
def test_any_name_is_refused_or_one_folder(name: str) -> None:
    try:
        hub_module._check_name(name, None)
    except UsageError:
        return
    folder = f"models--{name.replace('/', '--')}"
    assert Path(folder).name == folder
    assert name.count("/") <= 1
    assert ".." not in name


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
