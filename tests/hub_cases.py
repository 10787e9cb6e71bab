"""A tiny model, a hub that serves it, and a cache of huggingface_hub for each test.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakehub import FakeHub, closed_port
from kmcli import bases
from kmcli.bases import transfer
from kmcli.bases.hub import fetch
from kmcli.errors import ResourceError
from kmcli.types import silent

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
