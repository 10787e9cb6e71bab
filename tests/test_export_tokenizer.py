"""Vocabularies in GGUF: llama.cpp must give transformers' token ids, on text that tokenizers split differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from export_cases import QUESTION, fields, gpt2_split, make_base, make_tokenizer
from kmcli.bases import Base
from kmcli.errors import KmError, ResourceError
from kmcli.export import ask_gguf, check_gguf, export_gguf
from kmcli.export.check import TEXTS
from kmcli.export.runtime import GgufModel
from kmcli.export.tokenizer import APPROXIMATE, GPT4O_SPLIT, LLAMA3_SPLIT, QWEN2_SPLIT, TEKKEN_SPLIT, pre_tokenizer
from kmcli.types import silent


def by_regex(regex: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_split()])


SPLITS: dict[str, tuple[pre_tokenizers.PreTokenizer, bool]] = {
    "gpt-2": (gpt2_split(), False),
    "smollm": (digits(), False),
    "llama-bpe": (by_regex(LLAMA3_SPLIT), True),
    "smaug-bpe": (by_regex(LLAMA3_SPLIT), False),
    "qwen2": (by_regex(QWEN2_SPLIT), False),
    "tekken": (by_regex(TEKKEN_SPLIT), True),
    "gpt-4o": (by_regex(GPT4O_SPLIT), False),
}

MARKED = TEXTS[7]
"""The text with combining marks."""


def export(tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[Base, Path]:
    base = make_base(folder / "base", tokenizer, num_hidden_layers=1)
    export_gguf(base, None, folder / "m.gguf", "F16", {}, silent)
    return base, folder / "m.gguf"


@pytest.mark.parametrize("name", SPLITS)
def test_token_ids_are_equal(tmp_path: Path, name: str) -> None:
    pytest.importorskip("llama_cpp")
    split, ignore_merges = SPLITS[name]
    tokenizer = make_tokenizer(split, ignore_merges)
    _, file = export(tokenizer, tmp_path)
    assert fields(file)["tokenizer.ggml.pre"] == name
    with GgufModel(file, 1, vocabulary_only=True) as model:
        for text in (*TEXTS, "", "a", " ", "\n", "12", *tokenizer.all_special_tokens):
            same = model.ids(text) == tokenizer(text)["input_ids"]
            assert same is not (name in APPROXIMATE and text == MARKED), text


def test_the_check_knows_what_is_approximate(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    base, file = export(make_tokenizer(*SPLITS["tekken"]), tmp_path)
    checked = check_gguf(file, base, None, "F16", [], silent)
    assert checked.passed, checked.details
    assert "combining marks" in checked.details[0]


def test_the_splits_differ_on_the_texts() -> None:
    """Otherwise the test above could not tell one name from another."""
    made = [make_tokenizer(*SPLITS[name]) for name in ("gpt-2", "smollm", "llama-bpe", "qwen2")]
    splits = [[t.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for text in TEXTS] for t in made]
    assert all(a != b for i, a in enumerate(splits) for b in splits[i + 1 :])


def test_a_wrong_name_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr("kmcli.export.tokenizer.pre_tokenizer", lambda rules: "qwen2")
    base, file = export(make_tokenizer(), tmp_path)
    checked = check_gguf(file, base, None, "F16", [], silent)
    assert not checked.passed
    assert "not for" in checked.details[0]


@pytest.mark.parametrize("bos", [True, False])
def test_a_first_token_is_added_exactly_where_transformers_adds_it(tmp_path: Path, bos: bool) -> None:
    base, file = export(make_tokenizer(bos=bos), tmp_path)
    written = fields(file)
    assert written["tokenizer.ggml.add_bos_token"] is bos
    assert written["tokenizer.ggml.add_eos_token"] is False
    pytest.importorskip("llama_cpp")
    assert check_gguf(file, base, None, "F16", [], silent).passed


def test_without_a_chat_template(tmp_path: Path) -> None:
    base, file = export(make_tokenizer(bos=True, chat_template=None), tmp_path)
    assert "tokenizer.chat_template" not in fields(file)
    pytest.importorskip("llama_cpp")
    assert check_gguf(file, base, None, "F16", [QUESTION], silent).passed


def test_the_token_that_ends_a_turn_ends_an_answer(tmp_path: Path) -> None:
    """A base that keeps its eos_token for the end of a document."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    _, file = export(tokenizer, tmp_path)
    written = fields(file)
    assert written["tokenizer.ggml.eos_token_id"] == 0
    assert written["tokenizer.ggml.eot_token_id"] == 2


def test_added_words_that_are_not_special(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["[note]"])
    _, file = export(tokenizer, tmp_path)
    written = fields(file)
    assert written["tokenizer.ggml.tokens"][-1] == "[note]"
    assert written["tokenizer.ggml.token_type"][-1] == gguf.TokenType.USER_DEFINED
    pytest.importorskip("llama_cpp")
    with GgufModel(file, 1, vocabulary_only=True) as model:
        assert model.ids("a[note]b") == tokenizer("a[note]b")["input_ids"]


def test_composed_text_is_compared_where_the_tokenizer_composes(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(by_regex(QWEN2_SPLIT))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    base, file = export(tokenizer, tmp_path)
    pytest.importorskip("llama_cpp")
    assert check_gguf(file, base, None, "F16", [], silent).passed


def test_a_chat_that_the_template_refuses_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    refusing = "{{ raise_exception('roles must alternate') if messages|length > 1 }}{{ messages[0]['content'] }}"
    _, file = export(make_tokenizer(chat_template=refusing), tmp_path)
    with pytest.raises(KmError, match="roles must alternate"):
        ask_gguf(file, [("user", "a"), ("user", "b")], 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "in a way of its own"),
        ({"pre_tokenizer": None}, "in a way of its own"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "in a way of its own"),
        ({"normalizer": {"type": "Lowercase"}}, "normalises"),
        ({"model": {"type": "Unigram"}}, "not byte-level BPE"),
        ({"model": {"type": "BPE", "continuing_subword_prefix": "##"}}, "not byte-level BPE"),
        ({"model": {"type": "BPE", "ignore_merges": True}}, "in a way of its own"),
    ],
)
def test_other_tokenizers_are_refused(change: dict[str, Any], said: str) -> None:
    rules = {**json.loads(make_tokenizer().backend_tokenizer.to_str()), **change}
    with pytest.raises(ResourceError, match=said) as caught:
        pre_tokenizer(rules)
    assert "Supported:" in caught.value.hint


def test_more_tokens_than_the_embedding_has_are_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    base = make_base(tmp_path / "base", tokenizer, vocab_size=len(tokenizer) - 1)
    with pytest.raises(ResourceError, match=f"{len(tokenizer)} tokens, but the embedding only {len(tokenizer) - 1}"):
        export_gguf(base, None, tmp_path / "m.gguf", "F16", {}, silent)
