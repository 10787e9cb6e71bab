"""Small models, tokenizers and adapters for the tests of export: random, but strong enough that every part matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kmcli import bases
from kmcli.bases import Base
from kmcli.export.check import TEXTS
from kmcli.types import silent

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
torch.set_num_threads(1)  # threads that wait for each other cost these small models ten times the work itself
QUESTION = [("user", "Who wrote the report of 1984, and in which town?")]


def embedded() -> Base:
    return bases.find("embedded", silent)


def gpt2_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def make_tokenizer(
    split: pre_tokenizers.PreTokenizer | None = None,
    ignore_merges: bool = False,
    bos: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from the check's own difficult text, so that where words end changes the ids."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = split or gpt2_split()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text for text in TEXTS if "<|" not in text] * 3, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_base(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **settings: Any) -> Base:
    """A random Llama of two layers. Its weights are large, so that attention and positions decide the logits."""
    tokenizer = tokenizer or make_tokenizer()
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**{**config, **settings}))
    for name, parameter in model.named_parameters():
        if name.endswith((".bias", "norm.weight")):
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return bases.describe(str(folder), folder)


def make_adapter(base: Base, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter whose B is random as well, so that it changes the base."""
    loaded = bases.load(base, "cpu")
    torch.manual_seed(3)
    model = get_peft_model(
        loaded.model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, **settings})
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def fields(file: Path) -> dict[str, Any]:
    """What a GGUF file says of itself."""
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
