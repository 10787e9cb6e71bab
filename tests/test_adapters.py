"""The Knowledge Module as files: PEFT's own format, readable by others, silent about this machine."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from kmcli import bases
from kmcli.adapters import ADAPTERS, lora
from kmcli.adapters.folder import layers_of
from kmcli.bases import EMBEDDED_FOLDER, Base, Loaded
from kmcli.errors import KmError
from kmcli.types import AdapterName, Recipe
from training_cases import RECIPE, SMALL, disturb, make_tiny, one_thread, wrap

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base's folder, as a person has it."""
    path = tmp_path_factory.mktemp("somewhere") / "my-base"
    make_tiny().model.save_pretrained(path)
    return path


@pytest.fixture
def loaded(folder: Path) -> Loaded:
    return wrap(AutoModelForCausalLM.from_pretrained(folder), str(folder), folder)


@pytest.fixture
def saved(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.Tensor]:
    """An adapter that changes something, saved; and the logits with it."""

    def asked(*given: Any) -> Any:
        pytest.fail("saving asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    model = lora.build(loaded, RECIPE)
    disturb(model)
    model.eval()
    out = tmp_path / "module"
    out.mkdir()
    lora.save(model, out)
    with torch.no_grad():
        return out, model(input_ids=IDS).logits


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_the_table_holds_every_adapter() -> None:
    assert set(ADAPTERS) == set(get_args(AdapterName))


def test_plain_peft_loads_it_and_computes_the_same(saved: tuple[Path, torch.Tensor], folder: Path) -> None:
    out, expected = saved
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = logits(base)
    model = peft.PeftModel.from_pretrained(base, out)
    assert torch.equal(logits(model), expected)
    assert (expected - before).abs().max() > 0.1


def test_km_loads_it_for_answering(saved: tuple[Path, torch.Tensor], folder: Path) -> None:
    out, expected = saved
    fresh = wrap(AutoModelForCausalLM.from_pretrained(folder), str(folder), folder)
    model = lora.load(fresh, out)
    assert torch.equal(logits(model), expected)
    assert not model.training
    assert lora.trainable(model) == {}


def test_the_folder_holds_two_files_and_no_path_of_this_machine(saved: tuple[Path, torch.Tensor], folder: Path) -> None:
    out, _ = saved
    assert sorted(file.name for file in out.iterdir()) == [lora.CONFIG, lora.WEIGHTS]
    text = (out / lora.CONFIG).read_text("utf-8")
    assert str(folder) not in text
    assert str(folder.parent) not in text
    config = json.loads(text)
    assert (config["base_model_name_or_path"], config["revision"]) == ("my-base", "0")
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    linear = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"] + [f"self_attn.{x}_proj" for x in "koqv"]
    assert config["target_modules"] == [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in linear]
    assert folder.name.encode() not in (out / lora.WEIGHTS).read_bytes()


@pytest.mark.parametrize("pattern", [None, r".*\.(q_proj|v_proj)"])
def test_the_layers_that_it_changes_are_those_with_weights(
    pattern: str | None, saved: tuple[Path, torch.Tensor], folder: Path, tmp_path: Path
) -> None:
    out, _ = saved
    linear = {"down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj"}
    if pattern:  # as somebody else's adapter may have it
        out = tmp_path / "imported"
        settings = peft.LoraConfig(r=2, target_modules=pattern)
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings).save_pretrained(out)
        linear = {"q_proj", "v_proj"}
    assert layers_of(out) == linear


@pytest.mark.parametrize(
    ("name", "path", "title", "said"),
    [
        ("embedded", EMBEDDED_FOLDER, "km-base", "km-base"),
        ("Qwen/Qwen3-0.6B", Path("/cache/snapshots/abc"), "some-title", "Qwen/Qwen3-0.6B"),
        ("/home/ann/secret/my-base", Path("/home/ann/secret/my-base"), "", "my-base"),
        ("/home/ann/secret/my-base", Path("/home/ann/secret/my-base"), "km-base", "km-base"),
    ],
)
def test_the_base_has_a_portable_name(name: str, path: Path, title: str, said: str) -> None:
    base = Base(name, path, "abc", "llama", 512, 64, 2, "general", title=title, version="3")
    assert (base.portable_name, base.label) == (said, f"{title} 3".strip())


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(loaded: Loaded) -> None:
    before = logits(loaded.model)
    model = lora.build(loaded, replace(RECIPE, dropout=0.3))
    model.eval()
    assert torch.equal(logits(model), before)
    parameters = lora.trainable(model)
    assert all("lora_A" in name or "lora_B" in name for name in parameters)
    assert sum(parameter.numel() for parameter in parameters.values()) == 4 * 2 * (
        (64 + 64) * 2 + (64 + 32) * 2 + (64 + 96) * 3  # q and o, k and v, gate, up and down
    )
    for name, parameter in parameters.items():
        assert parameter.any() == ("lora_A" in name)


def test_the_seed_decides_how_it_starts(folder: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        model = lora.build(make_tiny(), Recipe(rank=4, seed=seed))
        return torch.cat([p.detach().reshape(-1) for p in lora.trainable(model).values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_over_a_base_in_half_precision_it_is_in_full() -> None:
    model = lora.build(wrap(make_tiny().model.bfloat16()), RECIPE)
    assert {parameter.dtype for parameter in lora.trainable(model).values()} == {torch.float32}
    assert model.get_base_model().lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["no weights", "torn weights", "no config", "torn config", "another size"])
def test_a_damaged_module_is_one_sentence(saved: tuple[Path, torch.Tensor], folder: Path, how: str) -> None:
    out, _ = saved
    weights, config = out / lora.WEIGHTS, out / lora.CONFIG
    fresh = wrap(AutoModelForCausalLM.from_pretrained(folder))
    if how == "no weights":
        weights.unlink()
    elif how == "torn weights":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif how == "no config":
        config.unlink()
    elif how == "torn config":
        config.write_text("{")
    else:
        fresh = make_tiny(intermediate_size=32)
    with pytest.raises(KmError) as caught:
        lora.load(fresh, out)
    assert f"the Knowledge Module in {out} cannot be loaded: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint == "Train it again with: km train NAME --restart"


@pytest.mark.parametrize("rslora", [(False, False), (True, False), (False, True), (True, True)])
def test_a_sum_of_modules_adds_up_what_each_changes(
    saved: tuple[Path, torch.Tensor], folder: Path, tmp_path: Path, rslora: tuple[bool, bool]
) -> None:
    def deltas(model: Any) -> dict[str, torch.Tensor]:
        layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
        return {name: layer.get_delta_weight(layer.active_adapters[0]) for name, layer in layers.items()}

    def fresh() -> Loaded:
        return wrap(AutoModelForCausalLM.from_pretrained(folder), str(folder), folder)

    other = lora.build(fresh(), replace(RECIPE, rank=2, alpha=6, seed=4))
    disturb(other)
    second = tmp_path / "second"
    second.mkdir()
    lora.save(other, second)
    for path, on in zip((saved[0], second), rslora, strict=True):
        config = json.loads((path / lora.CONFIG).read_text("utf-8"))
        (path / lora.CONFIG).write_text(json.dumps({**config, "use_rslora": on}), "utf-8")
    one, two = deltas(lora.load(fresh(), saved[0])), deltas(lora.load(fresh(), second))
    total = deltas(lora.load_sum(fresh(), [(saved[0], 0.5), (second, 2.0)]))
    assert total.keys() == one.keys() == two.keys()
    for name, delta in total.items():
        assert float(two[name].abs().max()) > 0
        torch.testing.assert_close(delta, 0.5 * one[name] + 2.0 * two[name])
