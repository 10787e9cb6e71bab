"""A Knowledge Module as a LoRA file of llama.cpp: base and file together are what PEFT computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file, save_file

from export_cases import QUESTION, make_adapter, make_base
from kmcli import bases
from kmcli.bases import Base
from kmcli.engines.gguf import GgufFile
from kmcli.errors import KmError, ResourceError
from kmcli.export import export_gguf, export_lora
from kmcli.export.runtime import GgufModel
from kmcli.types import silent

HINT = "Make it again."
WEIGHTS = "adapter_model.safetensors"


class _Model(GgufModel):
    """A base's GGUF with LoRA files on it."""

    def __init__(self, path: Path, *adapters: tuple[Path, float]) -> None:
        GgufFile.__init__(self, path, 512, HINT, adapters=adapters)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """With fewer heads for keys than for queries, so that each must be reordered by its own number."""
    return make_base(tmp_path / "base", num_key_value_heads=2)


def logits(base: Base, *adapters: Path) -> tuple[list[int], np.ndarray]:
    """The prompt's ids and PEFT's logits after each."""
    loaded = bases.load(base, "cpu")
    ids = loaded.chat_ids(QUESTION)
    model: Any = loaded.model
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.inference_mode():
        return ids, model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square difference in standard deviations, as in export.check."""
    return float(np.sqrt(np.square(found - expected).mean() / expected.var()))


def in_bf16(adapter: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, adapter / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "k_proj"]},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}, "alpha_pattern": {"k_proj": 32}},
        {"bf16": True},
    ],
    ids=["plain", "rslora", "queries and keys", "patterns", "bf16"],
)
def test_base_and_file_are_what_peft_computes(tmp_path: Path, base: Base, settings: dict[str, Any]) -> None:
    pytest.importorskip("llama_cpp")
    bf16 = settings.pop("bf16", False)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    if bf16:
        in_bf16(adapter)
    export_gguf(base, None, tmp_path / "base.gguf", "F16", {}, silent)
    export_lora(base, adapter, tmp_path / "km.gguf")
    ids, expected = logits(base, adapter)
    _, bare = logits(base)
    with _Model(tmp_path / "base.gguf", (tmp_path / "km.gguf", 1.0)) as model:
        assert apart(model.logits(ids), expected) < 0.01
        assert apart(bare, expected) > 0.1
    with _Model(tmp_path / "base.gguf") as model:
        assert apart(model.logits(ids), bare) < 0.01


def test_scales_multiply_and_files_add_up(tmp_path: Path, base: Base) -> None:
    pytest.importorskip("llama_cpp")
    adapter = make_adapter(base, tmp_path / "adapter")
    export_gguf(base, None, tmp_path / "base.gguf", "F16", {}, silent)
    export_lora(base, adapter, tmp_path / "km.gguf")
    (tmp_path / "copy.gguf").write_bytes((tmp_path / "km.gguf").read_bytes())
    ids, expected = logits(base, adapter)
    halves = [(tmp_path / "km.gguf", 0.25), (tmp_path / "copy.gguf", 0.75)]
    with _Model(tmp_path / "base.gguf", *halves) as model:
        assert apart(model.logits(ids), expected) < 0.01
    with _Model(tmp_path / "base.gguf", halves[0]) as model:
        assert apart(model.logits(ids), expected) > 0.1


def test_the_file_says_what_it_is(tmp_path: Path, base: Base) -> None:
    export_lora(base, make_adapter(base, tmp_path / "adapter", r=2, lora_alpha=3), tmp_path / "km.gguf")
    reader = GGUFReader(tmp_path / "km.gguf")
    said = {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 3.0,
    }
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    assert len(shapes) == 2 * 2 * 7
    assert shapes["blk.1.attn_k.weight.lora_a"] == (64, 2)
    assert shapes["blk.1.attn_k.weight.lora_b"] == (2, 32)


# --- what goes wrong ---


def test_an_adapter_that_cannot_be_written_leaves_nothing(tmp_path: Path, base: Base) -> None:
    out = tmp_path / "km.gguf"
    with pytest.raises(KmError, match="DoRA"):
        export_lora(base, make_adapter(base, tmp_path / "dora", use_dora=True), out)
    with pytest.raises(KmError, match="does not fit the base"):
        export_lora(make_base(tmp_path / "wide", hidden_size=128), make_adapter(base, tmp_path / "plain"), out)
    strange = make_base(tmp_path / "strange")
    config = json.loads((strange.path / "config.json").read_text())
    (strange.path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ResourceError, match="family 'gpt2'"):
        export_lora(bases.describe("strange", strange.path), tmp_path / "plain", out)
    assert not list(tmp_path.glob("*km.gguf*"))


@pytest.mark.parametrize("damage", ["half", "missing", "another base"])
def test_a_bad_file_is_one_sentence(tmp_path: Path, base: Base, damage: str) -> None:
    pytest.importorskip("llama_cpp")
    adapter = make_adapter(base, tmp_path / "adapter")
    out = tmp_path / "km.gguf"
    export_lora(base, adapter, out)
    if damage == "half":
        out.write_bytes(out.read_bytes()[:3000])
    elif damage == "missing":
        out.unlink()
    else:
        base = make_base(tmp_path / "wide", hidden_size=128)
    export_gguf(base, None, tmp_path / "base.gguf", "F16", {}, silent)
    with pytest.raises(KmError, match=r"llama\.cpp cannot open .*km\.gguf: \S+") as caught:
        _Model(tmp_path / "base.gguf", (out, 1.0))
    assert caught.value.hint == HINT


def test_it_is_written_without_torch(tmp_path: Path, base: Base) -> None:
    make_adapter(base, tmp_path / "adapter")
    program = f"""
import sys
from pathlib import Path
from kmcli import bases
from kmcli.export import export_lora
folder = Path({str(tmp_path)!r})
export_lora(bases.describe("base", folder / "base"), folder / "adapter", folder / "km.gguf")
sys.exit(" ".join(sorted({{"torch", "transformers", "peft"}} & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "km.gguf").exists()


def test_the_engine_keeps_it_on_when_memory_grows(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    from kmcli.engines import Sampling
    from kmcli.engines.llamacpp import LlamaCppEngine

    export_gguf(base, None, tmp_path / "base.gguf", "F16", {}, silent)
    export_lora(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "km.gguf")
    with_it = [(tmp_path / "km.gguf", 1.0)]
    for sampling in (Sampling(max_tokens=12), Sampling(max_tokens=12, temperature=1.0, seed=3)):
        whole = LlamaCppEngine(tmp_path / "base.gguf", "", adapters=with_it).generate([QUESTION], sampling)
        bare = LlamaCppEngine(tmp_path / "base.gguf", "").generate([QUESTION], sampling)
        with monkeypatch.context() as patch:
            patch.setattr("kmcli.engines.llamacpp.RESERVED", 16)
            small = LlamaCppEngine(tmp_path / "base.gguf", "", adapters=with_it)
            assert small.count(QUESTION) > 16
            pieces: list[str] = []
            assert small.stream(QUESTION, sampling, pieces.append) == whole[0]
        assert "".join(pieces) == whole[0].text != bare[0].text
        small.close()
        small.close()
