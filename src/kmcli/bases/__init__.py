"""Base models: find one by name, read what it is without loading it, and load its weights for torch.

The embedded base ships inside the package and is the default; every other name is a local folder or a hub name.
Nothing here imports torch or transformers until weights are loaded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.bases.prompts import STYLES, Prompts, StyleName
from kmcli.errors import ResourceError
from kmcli.types import Reporter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "base"
EMBEDDED_NOTICE = "embedded base: for trying km; for real work see km models"


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this disk. context and chunk_tokens are in tokens; revision identifies the exact weights."""

    name: str
    path: Path
    revision: str
    family: str
    """transformers' model_type: "llama", "qwen3", ..."""
    context: int
    chunk_tokens: int
    style: StyleName

    @property
    def prompts(self) -> Prompts:
        return STYLES[self.style]

    @property
    def embedded(self) -> bool:
        return self.name == EMBEDDED


@dataclass(frozen=True, slots=True)
class Loaded:
    """A base with its weights in memory."""

    base: Base
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    def chat_ids(self, turns: list[tuple[str, str]]) -> list[int]:
        """Token ids of a conversation of (role, content) turns, up to where the assistant starts to write."""
        return chat_ids(self.tokenizer, turns)

    @property
    def end_ids(self) -> list[int]:
        """The token that ends an assistant's turn."""
        return [int(self.tokenizer.eos_token_id)]


def chat_ids(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> list[int]:
    """See Loaded.chat_ids. A tokenizer without a chat template gets plain text, a turn a paragraph."""
    if tokenizer.chat_template:
        messages = [{"role": role, "content": content} for role, content in turns]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    text = "\n\n".join(content for _, content in turns) + "\n"
    return list(tokenizer(text)["input_ids"])


def find(name: str, report: Reporter) -> Base:
    """The base called `name`: "embedded", a local folder, or a hub name (downloaded when it is not in the hub's cache).

    Raises ResourceError where it cannot be had.
    """
    if name == EMBEDDED:
        return describe(EMBEDDED, EMBEDDED_FOLDER)
    local = Path(name).expanduser()
    if local.is_dir():
        return describe(str(local.absolute()), local.absolute())
    from kmcli.bases.hub import fetch

    return describe(name, fetch(name, report))


@cache
def describe(name: str, path: Path) -> Base:
    """What the model in a folder is, from its config.json and, where there is one, card.json."""
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise ResourceError(
            f"{path} holds no model: its config.json is missing or damaged.",
            "Give a folder in Hugging Face format, or a hub name such as Qwen/Qwen3-0.6B.",
        ) from None
    card_file = path / "card.json"
    card: dict[str, Any] = json.loads(card_file.read_text("utf-8")) if card_file.exists() else {}
    context = int(card.get("context") or config.get("max_position_embeddings") or 2048)
    return Base(
        name=name,
        path=path,
        revision=_revision(path),
        family=str(config.get("model_type", "")),
        context=context,
        chunk_tokens=int(card.get("chunk_tokens") or min(2048, context // 2)),
        style=card.get("prompts", "general"),
    )


def _revision(path: Path) -> str:
    """Identifies the weights: the hub's commit where the folder is a hub snapshot, else a hash over the weight files."""
    if path.parent.name == "snapshots":
        return path.name
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ResourceError(
            f"{path} holds no safetensors weights.", "Only safetensors are loaded: pickled weights can run code."
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The base's tokenizer. Imports transformers, not torch's weights."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path)


def load(base: Base, device: str = "auto") -> Loaded:
    """Load the weights: bf16 on an accelerator, fp32 on a processor. Raises ResourceError where they do not fit or load."""
    import torch
    from transformers import AutoModelForCausalLM

    where = pick_device(device)
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
        )
        model = model.to(where)
    except (MemoryError, torch.OutOfMemoryError):
        raise ResourceError(
            f"the base {base.name} does not fit in memory.", "Choose a smaller one with --model (see km models)."
        ) from None
    except (OSError, ValueError) as error:
        raise ResourceError(f"the base {base.name} cannot be loaded: {str(error).splitlines()[0]}", "Is the folder complete?") from None
    model.eval()
    model.requires_grad_(False)
    return Loaded(base, model, load_tokenizer(base), where)


def pick_device(device: str) -> torch.device:
    """The torch device for a setting ("auto", "cpu", "cuda", "mps"): the first accelerator there is, for "auto"."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("there is no CUDA device here.", "Use --device cpu, or leave it to auto.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("there is no Apple MPS device here.", "Use --device cpu, or leave it to auto.")
    return torch.device(device)
