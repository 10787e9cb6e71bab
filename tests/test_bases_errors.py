"""bases: one sentence for everything that can be wrong with a model's folder."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base_cases import HIDDEN, load, model, pristine, rewrite
from kmcli import bases
from kmcli.bases import folder
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.types import silent

Spoil = Callable[[Path], None]


def shard(model: Path, *names: str) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    weight_map = {f"tensor{i}": name for i, name in enumerate(names)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def cut(file: str, left: int) -> Spoil:
    def spoil(model: Path) -> None:
        (model / file).write_bytes((model / file).read_bytes()[:left])

    return spoil


def config(**changes: Any) -> Spoil:
    return lambda model: rewrite(model / "config.json", **changes)


def write(file: str, text: str) -> Spoil:
    def spoil(model: Path) -> None:
        (model / file).write_text(text)

    return spoil


def remove(*files: str) -> Spoil:
    def spoil(model: Path) -> None:
        for file in files:
            (model / file).unlink()

    return spoil


def drop_a_tensor(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


CODE = {"model_type": "homemade", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "holds no model: its config.json is missing."),
        (write("config.json", "{"), "holds no model: its config.json is damaged."),
        (write("config.json", "[]"), "holds no model: its config.json is damaged."),
        (write("card.json", "{"), "card.json is damaged, or made for another km."),
        (write("card.json", '{"prompts": ["x"]}'), "card.json is damaged, or made for another km."),
        (remove("model.safetensors"), "holds no weights: there is no model.safetensors in it."),
        (pickled, "holds only pickled weights (pytorch_model.bin), which could run code when they are opened."),
        (
            lambda model: shard(model, "model-00001-of-00002.safetensors", "b.safetensors"),
            "b.safetensors is missing (1 of 2",
        ),
        (lambda model: shard(model, "../x.safetensors"), "model.safetensors.index.json is damaged."),
        (lambda model: shard(model), "model.safetensors.index.json is damaged."),
        (cut("model.safetensors", 100_000), "model.safetensors is damaged: it has 100000 bytes instead of"),
        (cut("model.safetensors", 40), "model.safetensors is damaged."),
        (cut("model.safetensors", 0), "model.safetensors is damaged."),
        (drop_a_tensor, "do not fit its config.json: model.norm.weight is missing or has another shape."),
        (config(hidden_size=32), "do not fit its config.json: "),
        (config(architectures=["BertForMaskedLM"]), "BertForMaskedLM is not a causal language model."),
        (config(architectures=["BartForCausalLM"], is_encoder_decoder=True), "BartForCausalLM is not a causal"),
        (config(architectures=None, model_type="vit"), "vit is not a causal language model."),
        (config(model_type="nobodyknows"), "does not know the architecture of "),
        (config(model_type=None), "(no model_type)."),
        (config(**CODE), "needs program code that comes with the model, and km never runs such code."),
        (remove("tokenizer.json", "tokenizer_config.json"), "has no tokenizer."),
        (write("tokenizer.json", "{}"), "is damaged, or of a kind that transformers does not know."),
        (write("tokenizer.json", "{"), "is damaged, or of a kind that transformers does not know."),
        (
            write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
            "needs program code that comes with the model, and km never runs such code.",
        ),
    ],
)
def test_one_sentence_for_everything_wrong(model: Path, spoil: Spoil, message: str) -> None:
    (model / "evil.py").write_text(f"open({str(model / 'evil.ran')!r}, 'w')")
    spoil(model)
    with pytest.raises(ResourceError) as caught:
        load(model)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    assert not (model / "evil.ran").exists()


def test_weights_larger_than_the_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.find(str(model), silent)
    monkeypatch.setattr(bases.os, "sysconf", lambda name: 700)
    assert folder.count_parameters([model / "model.safetensors"]) * 4 > 700 * 700
    with pytest.raises(ResourceError, match="does not fit in memory"):
        bases.load(base, "cpu")


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "does not fit in memory.", "smaller"),
        (MemoryError(), "does not fit in memory.", "smaller"),
        (ImportError("Loading a GPTQ model requires gptqmodel.\nMore."), "requires gptqmodel.", "Install"),
        (OSError("Input/output error"), "cannot be loaded: Input/output error.", "again"),
    ],
)
def test_what_fails_while_loading(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, hint: str
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ResourceError) as caught:
        load(model)
    assert caught.value.message.endswith(message)
    assert hint in caught.value.hint


def test_parameters_are_counted_from_the_header(model: Path) -> None:
    attention, mlp, norms = 4 * HIDDEN * HIDDEN, 3 * HIDDEN * 32, 3 * HIDDEN
    assert folder.count_parameters([model / "model.safetensors"]) == 8192 * HIDDEN + attention + mlp + norms


@given(st.binary(max_size=200))
def test_any_bytes_are_weights_or_damaged(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(data)
    with pytest.raises(ResourceError, match="is damaged"):
        folder.count_parameters([file])


def test_a_file_is_no_base(model: Path) -> None:
    with pytest.raises(UsageError, match="is a file, and a base is a folder"):
        bases.find(str(model / "model.safetensors"), silent)


@pytest.mark.parametrize("name", ["/no/such/folder", "~nobody/x", "a\0b", "x" * 5000, "embeddd "])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(KmError) as caught:
        bases.find(name, silent)
    assert caught.value.exit_code == 2
