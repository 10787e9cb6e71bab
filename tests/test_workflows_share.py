"""km export in every format, of one module and of several; what it says when the check fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cli_cases import Km
from kmcli import bases
from kmcli.adapters import lora
from kmcli.errors import ResourceError
from kmcli.export import check
from share_cases import QUESTION, adapters, km, left, modules
from workflow_cases import entry, sentences

__all__ = ["adapters", "km", "modules"]

FORMATS = {"gguf": ".gguf", "gguf-lora": "-lora.gguf", "hf": "-hf", "peft": "-peft", "ollama": "-ollama"}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_passes_its_check(
    km: Km, modules: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    if format not in ("hf", "peft"):
        pytest.importorskip("llama_cpp")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for names, title in ((["one"], "one"), (["one", "two"], "one+two")):
        run = km("export", *names, "--format", format)
        assert run.code == 0, run.err
        lines = run.out.splitlines()
        assert lines[0] == title + FORMATS[format]
        assert lines[-1] == "check passed"
        found = ["token ids", "prompts", "logits", "next token", "answers"]
        assert [line.split("  ")[0] for line in lines[2:-1]] == found
    data = km("export", "one", "--format", format, "--json", "--no-check").envelope["data"]
    assert data["format"] == format
    assert [document["name"] for document in data["documents"]] == ["one"]
    path = Path("one" + FORMATS[format])
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
    assert data["exported"]["bytes"] == size
    assert left(tmp_path / "out") == sorted(f"{title}{FORMATS[format]}" for title in ("one", "one+two"))
    if format == "gguf-lora":
        assert size < 1_000_000


def test_several_are_the_sum(km: Km, modules: dict[str, Path], tmp_path: Path) -> None:
    loaded = bases.load(bases.find("embedded", lambda event: None), "cpu")
    ids = torch.tensor([loaded.chat_ids([("user", QUESTION)])])
    assert km("export", "one", "two", "--format", "hf", "--no-check", "-o", str(tmp_path / "hf")).code == 0
    assert km("export", "two", "one", "--format", "peft", "--no-check", "-o", str(tmp_path / "peft")).code == 0
    with torch.inference_mode():
        merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
        found = merged(input_ids=ids).logits.numpy()
        alone = lora.load(bases.load(loaded.base, "cpu"), tmp_path / "peft")(input_ids=ids).logits.numpy()
        summed: Any = lora.load_sum(loaded, [(modules["one"], 1.0), (modules["two"], 1.0)])
        expected = summed(input_ids=ids).logits.numpy()
    np.testing.assert_allclose(alone, expected, atol=3e-5 * np.abs(expected).max())
    assert np.sqrt(np.square(found - expected).mean()) < 0.03 * expected.std()  # merged weights are in bf16


def test_the_files_say_what_they_are(km: Km, modules: object, tmp_path: Path) -> None:
    for format in ("gguf", "gguf-lora"):
        file = tmp_path / f"{format}.gguf"
        assert km("export", "one", "two", "--format", format, "--no-check", "-o", str(file)).code == 0
        said = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
        base = bases.find("embedded", lambda event: None)
        assert said["general.name"] == "one+two"
        assert said["general.base_model.count"] == 1
        assert said["general.base_model.0.name"] == "km-base"
        assert said["general.base_model.0.version"] == base.revision
        assert said["general.tags"] == ["knowledge-module"]
        assert said["km.document"] == "one, two"
        hashes = [entry(km, name)["sha256"] for name in ("one", "two")]
        assert said["km.document_sha256"] == ", ".join(hashes)
        assert said["km.prompt"] == "{question}"
        assert [recipe["rank"] for recipe in json.loads(said["km.recipe"])] == [4, 2]
        assert ("tokenizer.chat_template" in said) == (format == "gguf")
        assert str(tmp_path) not in str(said)
    assert said["general.type"] == "adapter"


def test_a_failed_check_keeps_the_file_and_names_it(
    km: Km, modules: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmcli import export
    from kmcli.export import export_peft

    def wrong(base: Any, _: Any, out: Path, metadata: Any) -> Any:
        return export_peft(base, [modules["two"]], out, metadata)

    monkeypatch.setattr(export, "export_peft", wrong)
    out = tmp_path / "out"
    run = km("export", "one", "--format", "peft", "-o", str(out))
    assert run.code == 1
    assert "CHECK FAILED" in run.out
    assert f"{out} is suspect: do not rely on it; export it again." in run.out
    assert sentences(run.err) == [
        f"km: {out} does not answer as the Knowledge Module does. Do not use it; see km doctor."
    ]
    assert (out / "adapter_model.safetensors").exists()


def test_a_base_that_does_not_fit_in_memory_is_not_checked(
    km: Km, modules: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")

    def too_large(*_: object) -> None:
        raise ResourceError("the base needs 99 GB.", "Take a smaller one.")

    monkeypatch.setattr(check, "load", too_large)
    run = km("export", "one", "-o", str(tmp_path / "m.gguf"), "-q")
    assert (run.code, run.err) == (0, "NOT CHECKED: the base needs 99 GB. Take a smaller one.\n")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["general.name"].contents() == "one"
    assert "check passed" not in run.out


def test_ctrl_c_while_it_is_checked_says_that_the_file_is_there(
    km: Km, modules: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "load", stop)
    monkeypatch.setattr(check, "library", lambda: None)
    out = tmp_path / "m.gguf"
    run = km("export", "one", "-o", str(out), "-q")
    assert (run.code, run.err) == (130, f"warning: {out} is written, but not checked\n\nkm: stopped.\n")
    assert out.exists()


def test_material_that_cannot_be_read_makes_no_export_fail(
    km: Km, modules: object, km_home: Path, tmp_path: Path
) -> None:
    (folder,) = km_home.glob(f"documents/{entry(km, 'one')['id']}")
    (folder / "samples.jsonl").write_text("{no line of it}\n" * 3)
    run = km("export", "one", "--format", "peft", "-o", str(tmp_path / "out"))
    assert run.code == 0, run.err
    assert "NOT CHECKED: " in run.err
    assert "damaged" in run.err
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--gguf", "--format", "hf"], 2, "--gguf and --format hf are two formats. Leave one of them out."),
        (["--format", "peft", "--quant", "Q8_0"], 2, "--quant goes with the formats gguf and ollama. Leave it out."),
        (["--format", "zip"], 2, "invalid value for '--format': 'zip' is not one of"),
        (["-o", "-"], 2, "an export cannot be written to standard output. Name a file or folder with --out."),
        (["-o", "/nowhere/x"], 3, "there is no folder /nowhere. Create it first"),
        (["-o", "/dev/null"], 2, "/dev/null is no regular file."),
        (["-o", "/"], 2, "/ is a folder. Give the name of a file"),
        (["--format", "hf", "-o", "/usr"], 2, "/usr is a folder that km has not made. Choose another name with --out."),
    ],
)
def test_what_makes_no_sense(km: Km, modules: object, words: list[str], code: int, sentence: str) -> None:
    run = km("export", "one", *words)
    assert run.code == code
    assert len(sentences(run.err)) == 1
    assert sentence in run.err


def test_modules_of_different_bases(km: Km, modules: object, tmp_path: Path) -> None:
    from export_cases import make_adapter, make_base

    adapter = make_adapter(make_base(tmp_path / "small"), tmp_path / "three")
    assert km("import", str(adapter)).code == 0
    run = km("export", "one", "three", "-o", str(tmp_path / "x.gguf"))
    assert run.code == 2
    assert "one was trained on embedded and three on " in run.err
    assert "so they cannot be one. Export them one by one." in run.err


def test_a_stale_module_is_said(km: Km, modules: object, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("Another text.")
    assert km("add", str(tmp_path / "two.txt")).code == 0
    run = km("export", "one", "two", "--format", "peft", "--no-check", "-o", str(tmp_path / "x"))
    assert run.code == 0
    assert "two has changed since its Knowledge Module was trained: km train two" in run.err
