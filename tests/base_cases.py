"""A tiny model in a folder, to be spoilt; and the embedded base.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kmcli import bases
from kmcli.types import silent

HIDDEN = 16
SMALL: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("pristine")
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / file).write_bytes((bases.EMBEDDED_FOLDER / file).read_bytes())
    return path


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture(scope="module")
def embedded() -> bases.Loaded:
    return bases.load(bases.find("embedded", silent), "cpu")


def rewrite(file: Path, **changes: Any) -> None:
    data = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), "utf-8")


def load(path: Path) -> bases.Loaded:
    return bases.load(bases.find(str(path), silent), "cpu")
