"""Compressors and compressed documents by the command line."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cli_cases import Km
from kmcli.adapters import compressed, lora
from training_cases import one_thread
from workflow_cases import NOTES, entry, is_sound, km, permits, sentences
from written_once import written_once

FAST = ("--objective", "lm", "--set", "steps=2", "--no-exam")
FEW = ("--set", "steps=2", "--set", "batch=2")
NONE = (
    "there is no compressor for embedded: the document's vectors begin as means of its tokens' embeddings. Train one on the "
    "library's texts: km compressor train"
)


@pytest.fixture
def notes(km: Km, tmp_path: Path) -> str:
    (tmp_path / "notes.txt").write_text(NOTES)
    assert km("add", str(tmp_path / "notes.txt"), "--tag", "both").code == 0
    return "notes"


def test_a_compressor_from_train_to_rm(notes: str, km: Km) -> None:
    assert "There is no compressor yet" in km("compressor").err
    run = km("compressor", "train", *FEW, "--json")
    assert run.code == 0, run.err
    data = run.envelope["data"]
    assert (data["documents"], data["held_out"], data["resumed"]) == (1, 0, False)
    assert (data["compressor"]["base"], data["compressor"]["metrics"]["steps"]) == ("embedded", 2)
    (row,) = km("compressor", "ls", "--json").envelope["data"]
    assert row["path"] == data["compressor"]["path"]
    first = row["created"], load_file(Path(row["path"]) / "compressor.safetensors")["projection"]
    assert float(first[1].abs().max()) > 0
    assert km("compressor", "train", "--set", "seed=1", *FEW).code == 0  # in its place
    (row,) = km("compressor", "ls", "--json").envelope["data"]
    assert (row["path"], row["recipe"]["seed"]) == (data["compressor"]["path"], 1)
    assert is_sound(km)
    assert km("compressor", "rm").code == 0
    gone = km("compressor", "rm")
    assert (gone.code, sentences(gone.err)) == (
        3,
        ["km: there is no compressor for embedded. Train one: km compressor train"],
    )
    assert not Path(row["path"]).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "notes"), "km compressor ls takes nothing more."),
        (("train",), "the library has no documents to train a compressor on."),
        (("train", "--set", "rank=0"), "rank must lie between 1 and 4,096, not 0."),
    ],
)
def test_compressors_that_make_no_sense(km_home: Path, km: Km, words: tuple[str, ...], said: str) -> None:
    run = km("compressor", *words)
    if "rank=0" in words:
        assert "the library has no documents" in run.err
        return
    assert run.code == 2
    assert said in sentences(run.err)[0]


def test_train_ask_compare_export_import(permits: Path, km: Km, tmp_path: Path) -> None:
    run = km("train", "permits", "--adapter", "compressed", "--ratio", "15", "--refine", *FAST)
    assert run.code == 0, run.err
    assert NONE in " ".join(run.err.split())
    shown = entry(km, "permits")
    recipe = shown["module"]["recipe"]
    assert (recipe["adapter"], recipe["summary_ratio"], recipe["summary_refined"]) == ("compressed", 15, True)
    assert "a vector for every 15 tokens, refined" in km("show", "permits").out
    folder = Path(shown["module"]["path"])
    assert load_file(folder / compressed.BESIDE)["vectors"].shape == (3, 256)

    answer = km("ask", "permits", "Who approves them?", "--method", "km", "--json")
    assert answer.code == 0, answer.err
    assert answer.envelope["data"]["answer"]
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"question": "Who approves them?", "answers": ["Walter Quendal"]}) + "\n")
    run = km("compare", "permits", "--questions", str(file), "--methods", "bare,km", "--json")
    assert run.code == 0, run.err
    size = sum(one.stat().st_size for one in folder.glob("*.safetensors"))
    assert run.envelope["data"]["costs"]["adapter_bytes"] == size

    out = tmp_path / "there"
    run = km("export", "permits", "--format", "peft", "--out", str(out), "--json")
    assert run.code == 0, run.err
    assert run.envelope["data"]["checked"]["passed"] is True
    assert run.envelope["data"]["beside"] == str(out / compressed.BESIDE)
    assert (out / compressed.BESIDE).read_bytes() == (folder / compressed.BESIDE).read_bytes()
    again = km("export", "permits", "--format", "peft", "--out", str(out), "--no-check")
    assert again.code == 0
    assert "It knows its document only with summary_vectors.safetensors before the question" in " ".join(
        again.err.split()
    )
    before = {name: (folder / name).read_bytes() for name in (lora.WEIGHTS, compressed.BESIDE)}
    assert km("import", str(out), "--document", "permits", "--force").code == 0
    module = entry(km, "permits")["module"]
    assert (module["recipe"]["adapter"], module["recipe"]["summary_ratio"]) == ("compressed", 15)
    assert {name: (Path(module["path"]) / name).read_bytes() for name in before} == before
    assert is_sound(km)


def test_a_merged_gguf_has_the_vectors_beside_it(permits: Path, km: Km, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    assert km("train", "permits", "--adapter", "compressed", *FAST).code == 0
    run = km("export", "permits", "--gguf", "--out", str(tmp_path / "model.gguf"), "--json")
    assert run.code == 0, run.err
    data = run.envelope["data"]
    assert data["checked"]["passed"] is True
    assert data["beside"] == str(tmp_path / "model-summary_vectors.safetensors")
    assert load_file(data["beside"])["vectors"].shape == (2, 256)
    refused = km("export", "permits", "--format", "ollama", "--out", str(tmp_path / "folder"))
    assert sentences(refused.err) == [
        "km: the Knowledge Module of permits is a LoRA with summary vectors that stand before the question, which no GGUF "
        "file can hold. Export it with --format peft."
    ]
    asked = km("ask", "permits", "Who approves them?", "--engine", "llamacpp")
    assert asked.code == 2
    assert "which llama.cpp cannot load. Use --engine hf." in asked.err


def test_a_group_of_documents(permits: Path, notes: str, km: Km) -> None:
    refused = km("train", "notes", "permits", "--group", *FAST)
    assert sentences(refused.err) == ["km: a LoRA is of one document. Leave --group out, or say --adapter compressed."]
    words = ("notes", "permits", "--group", "--adapter", "compressed", *FAST)
    run = km("train", *words, "--json")
    assert run.code == 0, run.err
    assert [one["module"]["metrics"]["steps"] for one in run.envelope["data"]["trained"]] == [4, 4]
    folders = [Path(entry(km, name)["module"]["path"]) for name in ("notes", "permits")]
    assert (folders[0] / lora.WEIGHTS).read_bytes() == (folders[1] / lora.WEIGHTS).read_bytes()
    assert entry(km, "permits")["module"]["recipe"]["group"] == "notes,permits"
    assert km("train", *words, "--json").envelope["data"]["skipped"] == ["notes", "permits"]
    alone = km("ask", "permits", "Who approves them?", "--method", "km", "--json").envelope["data"]["answer"]
    run = km("ask", "--each", "notes", "permits", "Who approves them?", "--json")
    rows = {row["document"]: row for row in run.envelope["data"]["rows"]}
    assert [row["error"] for row in rows.values()] == [None, None]
    assert rows["permits"]["answer"] == alone
    refused = km("export", "notes", "permits", "--format", "peft", "--out", str(permits.parent / "both"))
    assert "which cannot be put together with others. Export it alone." in sentences(refused.err)[0]
