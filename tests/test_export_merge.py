"""Adapters merged without PEFT must give PEFT's own weights; what is not plain LoRA is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from export_cases import make_adapter, make_base
from kmcli import bases
from kmcli.bases import Base
from kmcli.errors import KmError
from kmcli.export.merge import Weights, read_adapter

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"layers.0.self_attn.k_proj": 32, "q_proj": 1},
    },
    "patterns, rank-stabilised": {"use_rslora": True, "rank_pattern": {"down_proj": 1}, "alpha_pattern": {"o_proj": 3}},
    "some layers": {"layers_to_transform": [1]},
    "output layer": {"target_modules": ["lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"), num_key_value_heads=2, tie_word_embeddings=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_merged_weights_are_pefts(base: Base, tmp_path: Path, name: str) -> None:
    folder = make_adapter(base, tmp_path / "adapter", **SETTINGS[name])
    before = (base.path / "model.safetensors").read_bytes()
    expected = PeftModel.from_pretrained(bases.load(base, "cpu").model, str(folder)).merge_and_unload().state_dict()
    weights = Weights(base.path)
    adapter = read_adapter(folder)
    adapter.fit(weights.shapes, tied=False)
    changed = 0
    for weight_name in weights.shapes:
        original = weights.read(weight_name)
        merged = original.clone()
        if weight_name in adapter.scales:
            adapter.add_to(merged, weight_name)
            changed += not torch.equal(merged, original)
        torch.testing.assert_close(merged, expected[weight_name], rtol=1e-5, atol=1e-6)
    assert changed == len(adapter.scales) > 0
    assert (base.path / "model.safetensors").read_bytes() == before


def test_weights_are_read_as_fp32_in_memory_of_their_own(base: Base) -> None:
    weights = Weights(base.path)
    first = weights.read("model.norm.weight")
    kept = first.clone()
    first.zero_()
    assert first.dtype == torch.float32
    assert torch.equal(weights.read("model.norm.weight"), kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ],
)
def test_other_adapters_are_refused(base: Base, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = make_adapter(base, tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(KmError, match=said) as caught:
        read_adapter(folder)
    assert caught.value.hint


def test_a_real_dora_adapter_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(KmError, match="DoRA"):
        read_adapter(make_adapter(base, tmp_path / "adapter", use_dora=True))


def test_magnitudes_are_noticed_even_where_the_settings_hide_them(base: Base, tmp_path: Path) -> None:
    folder = make_adapter(base, tmp_path / "adapter", use_dora=True)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_dora": False}))
    with pytest.raises(KmError, match="lora_magnitude_vector"):
        read_adapter(folder)


def test_an_adapted_embedding_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(KmError, match="lora_embedding"):
        read_adapter(make_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"]))


def test_an_adapter_of_another_base_is_refused(base: Base, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=96)
    adapter = read_adapter(make_adapter(other, tmp_path / "adapter"))
    with pytest.raises(KmError, match="does not fit the base"):
        adapter.fit(Weights(base.path).shapes, tied=False)


def test_a_deeper_bases_adapter_is_refused(base: Base, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", num_hidden_layers=3, num_key_value_heads=2)
    adapter = read_adapter(make_adapter(other, tmp_path / "adapter"))
    with pytest.raises(KmError, match=r"model\.layers\.2"):
        adapter.fit(Weights(base.path).shapes, tied=False)


def test_an_adapted_output_layer_that_is_shared_is_refused(base: Base, tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(base, tmp_path / "adapter", target_modules=["lm_head"]))
    with pytest.raises(KmError, match="shares with its embedding"):
        adapter.fit(Weights(base.path).shapes, tied=True)


@pytest.mark.parametrize("damage", ["no config", "bad config", "no weights", "cut weights", "half a pair"])
def test_a_damaged_adapter_is_one_sentence(base: Base, tmp_path: Path, damage: str) -> None:
    folder = make_adapter(base, tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    if damage == "no config":
        (folder / "adapter_config.json").unlink()
    elif damage == "bad config":
        (folder / "adapter_config.json").write_text("{")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        tensors = load_file(weights)
        tensors.pop(next(key for key in tensors if "lora_B" in key))
        save_file(tensors, weights)
    with pytest.raises(KmError, match="adapter") as caught:
        read_adapter(folder)
    assert caught.value.hint
