"""bases.chat: what a base reads of a conversation, by value, and where its answers end."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from typing import Any

import pytest

from base_cases import embedded
from kmcli import bases
from kmcli.bases.chat import end_ids
from kmcli.errors import ResourceError


def test_chat_ids_by_value(embedded: bases.Loaded) -> None:
    turns = [("user", "Who wrote it?"), ("assistant", "Ada."), ("user", "When?")]
    text = (
        "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\nAda.<|im_end|>\n"
        "<|im_start|>user\nWhen?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = embedded.chat_ids(turns)
    assert embedded.tokenizer.decode(ids) == text
    assert ids == embedded.tokenizer(text, add_special_tokens=False)["input_ids"]
    vocabulary = embedded.tokenizer.get_vocab()
    assert ids[0] == vocabulary["<|im_start|>"]
    assert ids.count(vocabulary["<|im_end|>"]) == 3
    assert embedded.end_ids == [vocabulary["<|im_end|>"]]


def test_a_template_that_writes_bos_is_not_given_another(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id  # this tokenizer adds it by itself, too
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    ids = bases.chat_ids(tokenizer, [("user", "a")])
    assert ids == tokenizer("<|endoftext|>a", add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def with_bos(original: Any, after: bool = False) -> Any:
    """The embedded base's tokenizer, adding a special token to every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(original.name_or_path)
    token, number = ("<|im_end|>", tokenizer.eos_token_id) if after else ("<|endoftext|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {token}" if after else f"{token} $A", special_tokens=[(token, number)]
    )
    return tokenizer


def test_without_a_template_turns_are_paragraphs(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = None
    ids = bases.chat_ids(tokenizer, [("system", "Be brief."), ("user", "When?")])
    assert tokenizer.decode(ids) == "<|endoftext|>Be brief.\n\nWhen?\n"


def test_without_a_template_nothing_closes_the_text(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer, after=True)
    tokenizer.chat_template = None
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    ids = bases.chat_ids(tokenizer, [("user", "When?")])
    assert tokenizer.decode(ids) == "When?\n"


def test_models_that_think_aloud_are_asked_not_to(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = "{{ 'quiet' if enable_thinking is false else 'aloud' }}"
    assert tokenizer.decode(bases.chat_ids(tokenizer, [("user", "a")])) == "quiet"


def test_a_template_that_refuses(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported.') }}"
    with pytest.raises(ResourceError, match=r"does not allow this conversation: System role not supported\. "):
        bases.chat_ids(tokenizer, [("system", "a")])
    assert end_ids(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("template", "eos", "named", "expected"),
    [
        ("{{ messages[1].content }}<|im_end|>\n<|endoftext|>", "<|endoftext|>", None, ["<|im_end|>", "<|endoftext|>"]),
        ("{{ messages[1].content }}\n", "<|endoftext|>", None, ["<|endoftext|>"]),
        ("{{ messages[0].content }}", "<|endoftext|>", None, ["<|endoftext|>"]),
        (None, "<|endoftext|>", ["<|endoftext|>", "<|im_start|>"], ["<|endoftext|>", "<|im_start|>"]),
        (None, None, "<|im_start|>", ["<|im_start|>"]),
    ],
)
def test_where_an_answer_ends(embedded: bases.Loaded, template: str, eos: str, named: Any, expected: list[str]) -> None:
    from transformers import GenerationConfig

    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    numbers = tokenizer.convert_tokens_to_ids(named) if named else None
    found = end_ids(tokenizer, GenerationConfig(eos_token_id=numbers))
    assert tokenizer.convert_ids_to_tokens(found) == expected


def test_a_base_without_an_end(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = tokenizer.eos_token = None
    with pytest.raises(ResourceError, match="no token that ends an answer"):
        end_ids(tokenizer)
