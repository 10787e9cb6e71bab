"""A cartridge: keys and values of some tokens, trained, that stand before whatever the base reads, by PEFT (Eyuboglu et al.
2025, arXiv 2506.06266).

| begins as | from                                                                                              |
|-----------|---------------------------------------------------------------------------------------------------|
| `first`   | what the base makes of the document's first tokens                                                |
| `chunks`  | of pieces drawn from all over the document, in its order, read as one text (arXiv 2508.17032)     |
| `random`  | random numbers, as PEFT draws them                                                                |

The folder that `save` writes is PEFT's own format, and what PEFT has trained is read. PEFT itself loads none for further
training; `prefix.Prefixed` does not need it to, for it holds PEFT's encoders itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.adapters.folder import AGAIN, CONFIG, FIRST, WEIGHTS, config_of, explained
from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.bases import Base, Loaded
from kmcli.errors import KmError, UsageError
from kmcli.types import Recipe

if TYPE_CHECKING:
    import torch

    from kmcli.adapters.prefix import Prefixed
    from kmcli.adapters.stack import Adapter

PEFT_TYPE = "CARTRIDGE"
BESIDE = ""
WHAT = "a cartridge (keys and values that stand before the question)"
ABLE = frozenset({"hf", "peft", "sum"})
DEFAULTS: Mapping[str, Any] = {"learning_rate": 0.02}
"""As published: these numbers are states, which are larger than weights."""

EMBEDDINGS = "prompt_embeddings"
"""What PEFT calls the tensor (P, L * 2 * K * D)."""
PIECE = 32
"""Tokens of a piece of the document, where the cartridge begins as pieces."""


def build(loaded: Loaded, recipe: Recipe, name: str = FIRST, text: str = "", shelf: Shelf = EMPTY) -> Prefixed:
    from kmcli.adapters.prefix import Prefixed, heads_of

    model = Prefixed(loaded, heads_of(loaded))
    add(model, loaded, recipe, name, text)
    activate(model, [name])
    return model


def add(model: Any, loaded: Loaded, recipe: Recipe, name: str, text: str = "", shelf: Shelf = EMPTY) -> None:
    """Raises UsageError where it would leave too little of the base's context, or freezes all of it."""
    import torch

    from kmcli.adapters.prefix import flat_of, read_text

    wanted = recipe.cartridge_tokens or recipe.chunk_tokens or loaded.base.chunk_tokens
    if wanted > loaded.base.context // 2:
        raise UsageError(
            f"a cartridge of {wanted:,} tokens leaves too little of the {loaded.base.context:,} that "
            f"{loaded.base.name} reads at once.",
            f"Make it smaller: --tokens {loaded.base.context // 4}",
        )
    if recipe.cartridge_start == "random":
        layers, count, size = _sizes(loaded)
        flat = torch.randn(wanted, layers * 2 * count * size, generator=torch.Generator().manual_seed(recipe.seed))
    else:
        ids = opening_ids(loaded, text, recipe.cartridge_start, wanted, recipe.seed)
        flat = flat_of(read_text(loaded, ids)).float()
    if recipe.cartridge_frozen >= len(flat):
        raise UsageError(
            f"of a cartridge of {len(flat):,} tokens {recipe.cartridge_frozen:,} cannot be frozen: none would be trained.",
            "Freeze fewer: --frozen 1",
        )
    _put(model, name, flat, recipe.cartridge_frozen, train=True)


def opening_ids(loaded: Loaded, text: str, start: str, wanted: int, seed: int) -> list[int]:
    """Of a document, the tokens that a cartridge begins as: so many, or all that there are, in a chat as the base reads it.

    Raises KmError where there is no text.
    """
    ids = list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise KmError(
            "the document has no text for a cartridge to begin from.", "Is it the right file? See km show NAME"
        )
    many = wanted + PIECE  # a few more: joined, they may be fewer tokens
    ids = _pieces(ids, many, seed) if start == "chunks" and len(ids) > wanted else ids[:many]
    said = str(loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return loaded.chat_ids([("user", said)])[:wanted]


def _pieces(ids: Sequence[int], wanted: int, seed: int) -> list[int]:
    import torch

    places = list(range(0, len(ids), PIECE))
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = sorted(order[: -(-wanted // PIECE)])
    return [token for place in chosen for token in ids[places[place] : places[place] + PIECE]]


def _put(model: Any, name: str, flat: torch.Tensor, frozen: int, train: bool) -> None:
    """PEFT's own encoder under a name, with these numbers (P, L * 2 * K * D)."""
    from peft.tuners.cartridge import CartridgeConfig, CartridgeEncoder

    tokens, wide = flat.shape  # of layers and width PEFT's encoder asks for the product alone
    encoder = CartridgeEncoder(
        CartridgeConfig(
            num_virtual_tokens=tokens,
            num_frozen_tokens=frozen,
            num_layers=1,
            token_dim=wide // 2,
            inference_mode=not train,
        )
    )
    encoder.load_prompt_embeddings(flat)
    model.cartridges[name] = encoder.to(model.loaded.device)


def activate(model: Any, names: Sequence[str]) -> None:
    """One at a time."""
    (name,) = names
    model.set_adapter(name)


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    parameter = model.cartridges[model.active].trainable_embedding
    return {"cartridge": parameter} if parameter.requires_grad else {}


def save(model: Any, folder: Path, name: str = FIRST) -> None:
    encoder = model.cartridges[name]
    _write(model.loaded.base, folder, encoder.weight.detach().cpu(), encoder.num_frozen_tokens, model.heads)


def _write(base: Base, folder: Path, flat: torch.Tensor, frozen: int, heads: tuple[int, int]) -> None:
    from safetensors.torch import save as as_bytes

    count, size = heads
    config = {
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.portable_name,
        "revision": base.revision,
        "num_virtual_tokens": len(flat),
        "num_frozen_tokens": frozen,
        "num_layers": flat.shape[1] // (2 * count * size),
        "num_attention_heads": count,
        "token_dim": count * size,
        "num_transformer_submodules": 1,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    # save_file would make a file for its owner alone
    (folder / WEIGHTS).write_bytes(as_bytes({EMBEDDINGS: flat.contiguous()}, {"format": "pt"}))


def read_folder(folder: Path) -> tuple[torch.Tensor, tuple[int, int], int]:
    """A cartridge (P, L * 2 * K * D) in fp32, its K and D, and how many of its tokens are frozen.

    Raises KmError where the folder is damaged."""
    from safetensors.torch import load_file

    config = config_of(folder)
    with explained(folder):
        flat = load_file(folder / WEIGHTS)[EMBEDDINGS].float()
        count, wide = int(config["num_attention_heads"]), int(config["token_dim"])
        shape = int(config["num_virtual_tokens"]), int(config["num_layers"]) * 2 * wide
        if tuple(flat.shape) != shape or not flat.isfinite().all():
            raise ValueError(f"its numbers are damaged, or not of the size {shape[0]} x {shape[1]}")
        return flat, (count, wide // count), int(config.get("num_frozen_tokens", 0))


def load_side_by_side(loaded: Loaded, folders: Mapping[str, Path]) -> Prefixed:
    from kmcli.adapters.prefix import Prefixed, heads_of

    model = Prefixed(loaded, heads_of(loaded))
    for name, folder in folders.items():
        flat, heads, frozen = read_folder(folder)
        _require_fit(folder, flat, heads, _sizes(loaded))
        _put(model, name, flat, frozen, train=False)
    activate(model, [next(iter(folders))])
    return model.eval()


def load_sum(loaded: Loaded, weighted: Sequence[tuple[Path, float]]) -> Prefixed:
    """One after the other, each from the position on at which the one before it ends."""
    from kmcli.adapters.prefix import Prefixed, heads_of

    if any(weight != 1 for _, weight in weighted):
        raise UsageError("a cartridge takes no weight: it is there or not.", "Leave --weight out.")
    model = Prefixed(loaded, heads_of(loaded))
    flat, frozen = combined(loaded, [folder for folder, _ in weighted])
    if 4 * len(flat) > 3 * loaded.base.context:
        raise UsageError(
            f"cartridges of {len(flat):,} tokens together leave too little of the {loaded.base.context:,} that "
            f"{loaded.base.name} reads at once.",
            "Ask about fewer documents at once.",
        )
    _put(model, FIRST, flat, frozen, train=False)
    activate(model, [FIRST])
    return model.eval()


def combined(loaded: Loaded, folders: Sequence[Path]) -> tuple[torch.Tensor, int]:
    """Several cartridges as one, and how many of the first one's tokens are frozen.

    PEFT's `compose_cartridge_adapters` leaves every one at the positions that it was trained at, so that all stand at the
    same. Here those after the first are turned to where they come to stand. Raises KmError for one that does not fit.
    """
    import torch

    from kmcli.adapters.prefix import rebased

    parts: list[torch.Tensor] = []
    frozen = 0
    for folder in folders:
        flat, heads, own = read_folder(folder)
        _require_fit(folder, flat, heads, _sizes(loaded))
        frozen = frozen if parts else own
        parts.append(rebased(loaded, flat, heads, sum(map(len, parts))))
    return torch.cat(parts), frozen


def join(base: Base, folders: Sequence[Path], out: Path) -> int:
    from kmcli import bases
    from kmcli.bases.folder import read_config

    flat, heads, frozen = read_folder(folders[0])
    if len(folders) > 1:
        flat, frozen = combined(bases.load(base, "cpu"), folders)
    else:
        told = read_config(base.path)
        _require_fit(folders[0], flat, heads, _sizes_of(told.get("text_config") or told))
    _write(base, out, flat, frozen, heads)
    return 1


def read(folder: Path, device: torch.device) -> Adapter:
    from kmcli.adapters.prefix import layers
    from kmcli.adapters.stack import Adapter

    flat, heads, _ = read_folder(folder)
    return Adapter(0, {}, layers(flat.to(device), heads))


def described(recipe: Recipe) -> str:
    return f"cartridge of {recipe.cartridge_tokens or recipe.chunk_tokens} tokens"


def written(folder: Path) -> Mapping[str, Any]:
    flat, _, frozen = read_folder(folder)
    return {"cartridge_tokens": len(flat), "cartridge_frozen": frozen}


def advice(base: Base, shelf: Shelf) -> tuple[str, str] | None:
    return None


def _sizes(loaded: Loaded) -> tuple[int, int, int]:
    return _sizes_of(loaded.model.config.get_text_config().to_dict())


def _sizes_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """L, K and D of a base."""
    heads = int(config["num_attention_heads"])
    size = config.get("head_dim") or int(config["hidden_size"]) // heads
    return int(config["num_hidden_layers"]), int(config.get("num_key_value_heads") or heads), int(size)


def _require_fit(folder: Path, flat: torch.Tensor, heads: tuple[int, int], sizes: tuple[int, int, int]) -> None:
    found = flat.shape[1] // (2 * heads[0] * heads[1]), *heads
    if found != sizes:
        theirs, mine = (" x ".join(map(str, some)) for some in (found, sizes))
        raise KmError(
            f"the cartridge in {folder} does not fit the base: its layers, heads and sizes are {theirs}, the base's "
            f"{mine}.",
            AGAIN,
        )
