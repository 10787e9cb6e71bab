"""SentencePiece vocabularies in GGUF: token ids as transformers', scores, blanks in front of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from export_cases import fields, make_base
from family_cases import INSTRUCT, gemma_tokenizer, phi3_tokenizer, sentencepiece, write_sentencepiece_model
from kmcli.bases import Base, load_tokenizer
from kmcli.errors import ResourceError
from kmcli.export import export_gguf
from kmcli.export.check import TEXTS
from kmcli.export.runtime import GgufModel
from kmcli.export.sentencepiece import BYTES, UNREACHED, prefix, read_pieces
from kmcli.types import silent

MORE = ("", "a", " ", "   ", "\n", "\n\n\n\n", "<b>bold</b>", "a  b   c", "\x00\x01", "▁ ▁▁", "𝔘𝔫𝔦 🧪")


def export(tokenizer: Any, folder: Path, name: str = "x", rows: int | None = None) -> tuple[Base, Path]:
    base = make_base(
        folder / "base",
        tokenizer,
        num_hidden_layers=1,
        vocab_size=rows or len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    export_gguf(base, None, folder / "m.gguf", "F16", {"name": name}, silent)
    return base, folder / "m.gguf"


KINDS: dict[str, Any] = {
    "Llama 2": sentencepiece,
    "without a first token": lambda: sentencepiece(bos=False),
    "Gemma": gemma_tokenizer,
    "Phi-3": phi3_tokenizer,
}


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_equal(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("llama_cpp")
    base, file = export(KINDS[kind](), tmp_path)
    tokenizer = load_tokenizer(base)
    specials = [f"a {token} b\n{token}\n c" for token in tokenizer.all_special_tokens]
    with GgufModel(file, 1, vocabulary_only=True) as model:
        for text in (*TEXTS, *MORE, *specials):
            assert model.ids(text) == tokenizer(text)["input_ids"], text


def test_kinds_of_tokens(tmp_path: Path) -> None:
    base, file = export(gemma_tokenizer(), tmp_path)
    said = fields(file)
    kinds = dict(zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<unk>"], kinds["<s>"], kinds["</s>"], kinds["<0x0A>"]) == (2, 3, 3, 6)
    assert (kinds["<start_of_turn>"], kinds["\n\n"], kinds["<b>"], kinds["e"]) == (3, 4, 4, 1)
    assert said["tokenizer.ggml.model"] == "llama"
    assert said["tokenizer.ggml.add_space_prefix"] is False
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert len(said["tokenizer.ggml.scores"]) == len(kinds) == len(load_tokenizer(base))


def test_scores_of_the_model_file(tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    folder = tmp_path / "base"
    base = make_base(folder, tokenizer, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    rules = json.loads(load_tokenizer(base).backend_tokenizer.to_str())
    derived = read_pieces(rules, folder)
    first = rules["model"]["merges"][0]
    best = rules["model"]["vocab"]["".join(first.split(" ") if isinstance(first, str) else first)]
    assert derived.scores[best] == 0
    assert derived.scores[rules["model"]["vocab"]["<0x41>"]] == UNREACHED
    assert len(derived.bytes) == len(BYTES) == 256
    assert derived.unknown == 0
    write_sentencepiece_model(tokenizer, folder / "tokenizer.model", lambda index: -0.25 * index)
    said = read_pieces(rules, folder)
    assert said.scores == {index: -0.25 * index for index in range(len(rules["model"]["vocab"]))}
    data = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data.replace(b"<0x41>", b"<0x99>"))
    assert read_pieces(rules, folder) == derived  # of another vocabulary
    (folder / "tokenizer.model").write_bytes(data[: len(data) // 2])
    assert read_pieces(rules, folder) == derived  # half a file


def test_token_ids_are_equal_by_the_model_files_scores(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    tokenizer = sentencepiece()
    folder = tmp_path / "base"
    base = make_base(folder, tokenizer, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    write_sentencepiece_model(tokenizer, folder / "tokenizer.model", lambda index: float(-index))
    export_gguf(base, None, tmp_path / "m.gguf", "F16", {}, silent)
    assert fields(tmp_path / "m.gguf")["tokenizer.ggml.scores"][300] == -300.0
    with GgufModel(tmp_path / "m.gguf", 1, vocabulary_only=True) as model:
        for text in (*TEXTS, *MORE):
            assert model.ids(text) == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_the_blank_in_front_is_as_a_chat_needs_it(tmp_path: Path, scheme: str) -> None:
    """A template that writes blanks behind its special tokens; without one a plain text decides."""
    added = tuple(AddedToken(name, normalized=False, special=True) for name in ("[INST]", "[/INST]"))
    tokenizer = sentencepiece(scheme, added=added)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    assert prefix(tokenizer, rules, None) is (scheme != "never")
    assert prefix(tokenizer, rules, "[INST] hello [/INST]") is False
    assert prefix(tokenizer, rules, "[INST]hello[/INST]") is (scheme == "always")
    pytest.importorskip("llama_cpp")
    tokenizer.chat_template = INSTRUCT
    base, file = export(tokenizer, tmp_path)
    with GgufModel(file, 1, vocabulary_only=True) as model:
        for text in TEXTS:
            chat = [("user", text)]
            ids = load_tokenizer(base).apply_chat_template(
                [{"role": "user", "content": text}], return_dict=False, add_generation_prompt=True
            )
            if "<s>" not in text:  # llama.cpp has one rule for a text behind any special token
                assert model.chat_ids(chat) == ids, text


def test_names_that_change_how_llama_cpp_reads(tmp_path: Path) -> None:
    """A model called phi-3 has the blanks behind special tokens dropped, or cannot be opened at all."""
    pytest.importorskip("llama_cpp")
    (tmp_path / "other").mkdir()
    _, file = export(sentencepiece(), tmp_path / "other", "Notes on PHI-3 and phi3")
    assert fields(file)["general.name"] == "Notes on Phi 3 and Phi 3"
    with GgufModel(file, 1, vocabulary_only=True) as model:
        assert model.ids("a")[0] == 1
    _, file = export(phi3_tokenizer(), tmp_path, "report")
    assert fields(file)["general.name"] == "report (Phi-3)"


def test_a_token_without_a_row_is_left_out(tmp_path: Path) -> None:
    tokenizer = gemma_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    _, file = export(tokenizer, tmp_path, rows=len(tokenizer) - 1)
    assert "<image>" not in fields(file)["tokenizer.ggml.tokens"]


@pytest.mark.parametrize("damage", ["fewer ways", "a byte", "normaliser", "split", "strip", "Unigram"])
def test_what_llama_cpp_would_read_otherwise_is_refused(tmp_path: Path, damage: str) -> None:
    tokenizer = sentencepiece(added=(AddedToken("<|x|>", special=True, lstrip=True),) if damage == "strip" else ())
    base = make_base(tmp_path / "base", tokenizer, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    file = base.path / "tokenizer.json"
    rules = json.loads(file.read_text())
    if damage == "fewer ways":
        merges = rules["model"]["merges"]
        made = ["".join(merge) for merge in merges]
        again = next(i for i in range(len(made)) if made.count(made[i]) > 1)
        del merges[again]
    elif damage == "a byte":
        rules["model"]["vocab"]["<0xZZ>"] = rules["model"]["vocab"].pop("<0x41>")
    elif damage == "normaliser":
        rules["normalizer"] = {"type": "Lowercase"}
    elif damage == "split":
        rules["normalizer"] = None
        rules["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    elif damage == "Unigram":
        pieces = [[text, -1.0] for text in rules["model"]["vocab"]]
        rules["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": True}
    file.write_text(json.dumps(rules))
    with pytest.raises(ResourceError, match="tokenizer cannot be written as GGUF: it") as caught:
        export_gguf(base, None, tmp_path / "m.gguf", "F16", {}, silent)
    assert "Supported:" in caught.value.hint
