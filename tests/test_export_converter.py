"""Other families by llama.cpp's converter: here a script of the same command line."""

from __future__ import annotations

import collections
from pathlib import Path

import gguf
import pytest

from cli_cases import Km
from export_cases import QUESTION, make_adapter, make_base
from kmcli.errors import KmError, NotFoundError, ResourceError
from kmcli.export import check_gguf, export_converted, place
from kmcli.export.converter import SCRIPT
from kmcli.types import Event, silent
from share_cases import adapters, km, left, modules

__all__ = ["adapters", "km", "modules"]

FAKE = """
import argparse, os, sys
from pathlib import Path
from kmcli import bases
from kmcli.export import export_gguf
from kmcli.types import silent

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile", type=Path, required=True)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
parser.add_argument("--model-name")
args = parser.parse_args()
assert os.environ["HF_HUB_OFFLINE"] == "1"
base = bases.describe("merged", args.model)
export_gguf(base, None, args.outfile, args.outtype.upper(), {"name": args.model_name}, silent)
"""

LIGHT = """
import argparse
from pathlib import Path
import gguf, numpy

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile", type=Path, required=True)
parser.add_argument("--outtype", choices=["f16"])
parser.add_argument("--model-name")
args = parser.parse_args()
assert (args.model / "model.safetensors").stat().st_size > 1_000_000
assert all((args.model / name).is_file() for name in ("config.json", "tokenizer.json"))
writer = gguf.GGUFWriter(args.outfile, "llama")
writer.add_name(args.model_name)
writer.add_tensor("token_embd.weight", numpy.zeros((2, 32), numpy.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
"""Without torch and transformers, which take seconds to import."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / SCRIPT).write_text(FAKE)
    return folder


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
def test_the_merged_model_is_converted(tmp_path: Path, checkout: Path, quant: str) -> None:
    if quant == "Q4_K_M":
        pytest.importorskip("llama_cpp")
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    metadata = {"name": "notes", "document_sha256": "abc", "recipe": '{"rank": 4}'}
    exported = export_converted(base, adapter, out, quant, metadata, checkout, silent)  # type: ignore[arg-type]
    assert left(out.parent) == ["m.gguf"]
    reader = gguf.GGUFReader(out)
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert (said["general.name"], said["general.base_model.0.name"]) == ("notes", base.portable_name)
    assert (said["km.document_sha256"], said["km.recipe"]) == ("abc", '{"rank": 4}')
    assert said["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert said["llama.rope.freq_base"] == 10000.0
    assert (exported.bytes, exported.tensors) == (out.stat().st_size, len(reader.tensors))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_up.weight"] == ("Q5_0" if quant == "Q4_K_M" else quant)
    assert exported.others.get("Q5_0", 0) == (0 if quant != "Q4_K_M" else list(kinds.values()).count("Q5_0"))
    pytest.importorskip("llama_cpp")
    if quant == "F16":
        assert check_gguf(out, base, adapter, "F16", [QUESTION], silent).passed
        assert not check_gguf(out, base, None, "F16", [QUESTION], silent).passed


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('Model FooForCausalLM is not supported.')", "failed: Model FooForCausalLM is not supported"),
        ("import nothing_of_this_name", "failed: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("", "failed: it wrote no file and does not say why"),
    ],
)
def test_a_converter_that_fails_is_one_sentence(tmp_path: Path, checkout: Path, script: str, said: str) -> None:
    (checkout / SCRIPT).write_text(script)
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    with pytest.raises(KmError, match=rf"{SCRIPT} {said}") as caught:
        export_converted(make_base(tmp_path / "base"), None, out, "F16", {}, checkout / SCRIPT, silent)
    assert caught.value.hint
    assert left(out.parent) == []


def test_room_for_the_folder_and_the_file_is_asked_for_first(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base")
    merged = sum(file.stat().st_size for file in base.path.glob("*.safetensors"))
    folder = tmp_path / "out"
    folder.mkdir()
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(
        place.shutil, "disk_usage", lambda path: usage(10**9, 0, int(1.4 * merged))
    )  # in F32 and in F16
    events: list[Event] = []
    with pytest.raises(ResourceError, match=r"m\.gguf needs 0\.\d\d MB, but"):
        export_converted(base, None, folder / "m.gguf", "F16", {}, checkout, events.append)
    assert (events, left(folder)) == ([], [])


def test_no_converter_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no converter"):
        export_converted(make_base(tmp_path / "base"), None, tmp_path / "m.gguf", "F16", {}, tmp_path / "no", silent)


def test_by_the_command_line(km: Km, modules: object, tmp_path: Path, checkout: Path) -> None:
    target = tmp_path / "own.gguf"
    (checkout / SCRIPT).write_text(LIGHT)
    run = km("export", "one", "--converter", str(checkout), "-o", str(target), "--no-check")
    assert run.code == 0, run.err
    assert gguf.GGUFReader(target).fields["general.name"].contents() == "one"
    run = km("export", "one", "--converter", str(checkout), "-o", str(target), "--no-check")
    assert run.code == 0, run.err  # what km has exported may be replaced
    run = km("export", "one", "--converter", str(checkout), "--format", "peft", "-o", str(tmp_path / "p"))
    assert run.code == 2
    assert "--converter goes with the formats gguf and ollama. Leave it out." in run.err
    run = km(
        "export", "one", "--converter", str(checkout), "--format", "ollama", "-o", str(tmp_path / "o"), "--no-check"
    )
    assert run.code == 0, run.err
    assert left(tmp_path / "o") == ["Modelfile", "km.json", "one.gguf"]
    assert gguf.GGUFReader(tmp_path / "o" / "one.gguf").fields["general.name"].contents() == "one"
