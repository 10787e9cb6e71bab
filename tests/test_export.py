"""Exporting the embedded base, alone and with adapters: the file, what it says, and the check of a bad one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel

from export_cases import QUESTION, embedded, fields, make_adapter, make_base
from kmcli import bases
from kmcli.bases import Base
from kmcli.errors import KmError, ResourceError
from kmcli.export import ask_gguf, check_gguf, export_gguf, families, runtime
from kmcli.export.check import TOLERANCES
from kmcli.types import Quant, silent

QUESTIONS = [
    [("user", "Who wrote Hamlet?")],
    [("user", "Alice met Bob in Paris in 1984.\n\nWhere did Alice meet Bob?")],
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(embedded(), tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def rslora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rslora")
    return make_adapter(embedded(), folder, use_rslora=True, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def small(tmp_path: Path) -> Base:
    return make_base(tmp_path / "base")


# --- the same model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("which", [None, "adapter", "rslora"])
def test_the_file_is_the_model(tmp_path: Path, request: pytest.FixtureRequest, which: str | None, quant: Quant) -> None:
    pytest.importorskip("llama_cpp")
    folder = request.getfixturevalue(which) if which else None
    out = tmp_path / "m.gguf"
    export_gguf(embedded(), folder, out, quant, {}, silent)
    checked = check_gguf(out, embedded(), folder, quant, QUESTIONS, silent)
    assert checked.skipped == ""
    assert checked.passed, checked.details
    assert [question for question, _ in checked.answers] == [chat[-1][1] for chat in QUESTIONS]
    assert checked.answers[1][1] == ask_gguf(out, QUESTIONS[1], 48)


def test_logits_are_pefts_own(tmp_path: Path, adapter: Path) -> None:
    pytest.importorskip("llama_cpp")
    out = tmp_path / "m.gguf"
    export_gguf(embedded(), adapter, out, "F16", {}, silent)
    loaded = bases.load(embedded(), "cpu")
    ids = loaded.chat_ids(QUESTIONS[1])
    with torch.inference_mode():
        without = loaded.model(input_ids=torch.tensor([ids])).logits[0].numpy()
        model = PeftModel.from_pretrained(loaded.model, str(adapter)).eval()
        expected = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    with runtime.GgufModel(out, len(ids)) as opened:
        found = opened.logits(ids)
    assert np.abs(found - expected).max() < 0.05 * np.abs(without - expected).max()
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_check_notices_a_missing_adapter(tmp_path: Path, adapter: Path, quant: Quant) -> None:
    pytest.importorskip("llama_cpp")
    out = tmp_path / "m.gguf"
    export_gguf(embedded(), None, out, quant, {}, silent)
    checked = check_gguf(out, embedded(), adapter, quant, QUESTIONS, silent)
    assert not checked.passed
    assert str(out) in checked.details[-1]
    assert "suspect" in checked.details[-1]


def test_stored_values_read_back(tmp_path: Path, adapter: Path) -> None:
    """Without llama.cpp: the file's q_proj, rows back in transformers' order, is the merged weight rounded to F16."""
    out = tmp_path / "m.gguf"
    exported = export_gguf(embedded(), adapter, out, "F16", {}, silent)
    model = PeftModel.from_pretrained(bases.load(embedded(), "cpu").model, str(adapter))
    merged = model.merge_and_unload().state_dict()
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(out).tensors}
    assert exported.tensors == len(tensors) == 74
    assert exported.bytes == out.stat().st_size
    heads, width = 4, 64
    rows = [head * width + half * width // 2 + i for head in range(heads) for i in range(width // 2) for half in (0, 1)]
    queries = merged["model.layers.3.self_attn.q_proj.weight"].numpy()[rows]
    np.testing.assert_allclose(tensors["blk.3.attn_q.weight"], queries, rtol=1e-3, atol=1e-6)
    values = merged["model.layers.3.self_attn.v_proj.weight"].numpy()
    np.testing.assert_allclose(tensors["blk.3.attn_v.weight"], values, rtol=1e-3, atol=1e-6)
    assert "output.weight" not in tensors


# --- what the file says ---------------------------------------------------------------------------------------------


def test_metadata_reads_back(tmp_path: Path) -> None:
    shape = json.loads((embedded().path / "config.json").read_text("utf-8"))
    base = embedded()
    metadata = {"name": "report", "document_sha256": "abc", "recipe": '{"rank": 16}', "empty": ""}
    export_gguf(base, None, tmp_path / "m.gguf", "Q8_0", metadata, silent)
    said = fields(tmp_path / "m.gguf")
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "report",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "km.document_sha256": "abc",
        "km.recipe": '{"rank": 16}',
        "llama.context_length": base.context,
        "llama.vocab_size": 8192,
        "llama.block_count": 8,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": shape["intermediate_size"],
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": (base.path / "chat_template.jinja").read_text("utf-8"),
    }
    assert {key: said.get(key) for key in expected} == expected
    assert not {"general.author", "general.license", "km.empty", "km.name"} & said.keys()
    assert said["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert len(said["tokenizer.ggml.tokens"]) == 8192
    assert said["tokenizer.ggml.merges"][0] == "h e"


def test_a_licence_named_below_the_cards_front_matter_is_prose(tmp_path: Path, small: Base) -> None:
    (small.path / "README.md").write_text("---\ntags: x\n---\nlicense: mit\n", "utf-8")
    export_gguf(small, None, tmp_path / "m.gguf", "F16", {}, silent)
    assert "general.license" not in fields(tmp_path / "m.gguf")


def test_the_bases_name_and_licence_are_kept(tmp_path: Path, small: Base) -> None:
    (small.path / "README.md").write_text("---\ntags:\n- x\nlicense: apache-2.0\n---\n# Small\n", "utf-8")
    export_gguf(small, None, tmp_path / "m.gguf", "F16", {}, silent)
    said = fields(tmp_path / "m.gguf")
    assert said["general.license"] == "apache-2.0"
    assert said["general.name"] == "base"
    assert said["general.file_type"] == 1


def test_tables_hold_every_member() -> None:
    assert set(TOLERANCES) == set(get_args(Quant))
    assert all(f"| `{name}` " in str(families.__doc__) for name in families.FAMILIES)


# --- the check of a bad file, and without llama.cpp -----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["half", "head", "garbage", "empty", "missing", "weights", "template"])
def test_a_damaged_file_fails_the_check(tmp_path: Path, small: Base, damage: str) -> None:
    pytest.importorskip("llama_cpp")
    out = tmp_path / "m.gguf"
    export_gguf(small, None, out, "F16", {}, silent)
    data = bytearray(out.read_bytes())
    if damage == "half":
        del data[len(data) // 2 :]
    elif damage == "head":
        data[30:60] = b"\xff" * 30
    elif damage == "garbage":
        data = bytearray(b"not a model at all" * 100)
    elif damage == "empty":
        data.clear()
    elif damage == "weights":
        data[-40_000:-20_000] = b"\x3c" * 20_000
    elif damage == "template":
        data = data.replace(b"{% for m in messages %}", b"{% for m in messages #}")
    out.write_bytes(data)
    if damage == "missing":
        out.unlink()
    checked = check_gguf(out, small, None, "F16", [QUESTION], silent)
    assert checked.skipped == ""
    assert not checked.passed
    assert checked.details[-1] == f"{out} is suspect: do not rely on it; export it again."
    if damage != "weights":
        said = "the file's chat template does not accept this chat" if damage == "template" else "llama.cpp cannot open"
        assert said in checked.details[0]
        with pytest.raises(KmError, match=re.escape(said)):
            ask_gguf(out, QUESTION, 4)


def test_a_file_of_another_base_fails_the_check(tmp_path: Path, small: Base) -> None:
    pytest.importorskip("llama_cpp")
    export_gguf(embedded(), None, tmp_path / "m.gguf", "F16", {}, silent)
    checked = check_gguf(tmp_path / "m.gguf", small, None, "F16", [QUESTION], silent)
    assert not checked.passed
    assert "8192 tokens" in checked.details[0]


def test_without_llama_cpp_the_check_is_skipped(tmp_path: Path, small: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    runtime.library.cache_clear()
    checked = check_gguf(tmp_path / "m.gguf", small, None, "F16", [], silent)
    assert not checked.passed
    assert "llama-cpp-python is not installed" in checked.skipped
    assert "pip install 'kmcli[gguf]'" in checked.skipped
    with pytest.raises(ResourceError, match="not installed"):
        ask_gguf(tmp_path / "m.gguf", QUESTION, 4)


def test_nothing_is_printed(tmp_path: Path, small: Base) -> None:
    """In a process of its own, because C writes to the file descriptors."""
    pytest.importorskip("llama_cpp")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(500))
    program = f"""
from pathlib import Path
from kmcli import bases
from kmcli.errors import KmError
from kmcli.export import ask_gguf, check_gguf, export_gguf
from kmcli.types import silent
base = bases.describe("x", Path({str(small.path)!r}))
out = Path({str(tmp_path / "m.gguf")!r})
export_gguf(base, None, out, "Q8_0", {{}}, silent)
assert check_gguf(out, base, None, "Q8_0", [], silent).passed
assert not check_gguf(Path({str(tmp_path / "bad.gguf")!r}), base, None, "F16", [], silent).passed
assert ask_gguf(out, {QUESTION!r}, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_room_is_light() -> None:
    heavy = {"torch", "llama_cpp", "gguf", "transformers", "peft"}
    program = f"import sys, kmcli.export; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
