"""The Knowledge Module as a LoRA on every linear layer of the base (Caccia et al. 2025, section 3), by PEFT.

The folder that `save` writes is PEFT's own format, so any other tool can load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.adapters.folder import CONFIG, FIRST, config_of, explained, require_weights
from kmcli.adapters.folder import WEIGHTS as WEIGHTS
from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.bases import Base, Loaded
from kmcli.types import Recipe

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel

    from kmcli.adapters.stack import Adapter

PEFT_TYPE = "LORA"
BESIDE = ""
WHAT = "a LoRA"
ABLE = frozenset(
    {"hf", "llamacpp", "vllm", "gguf", "gguf-lora", "merged", "peft", "ollama", "extractor", "init", "sum"}
)
DEFAULTS: Mapping[str, Any] = {}
join = None


def build(loaded: Loaded, recipe: Recipe, name: str = FIRST, text: str = "", shelf: Shelf = EMPTY) -> PeftModel:
    """A fresh adapter over the loaded base, its parameters in fp32: B is zero, so it changes nothing yet."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(recipe.seed)
    config = _config(recipe)
    model = get_peft_model(loaded.model, config, adapter_name=name, autocast_adapter_dtype=True)
    _belongs_to(config, loaded)
    return model


def add(model: Any, loaded: Loaded, recipe: Recipe, name: str, text: str = "", shelf: Shelf = EMPTY) -> None:
    """Another fresh adapter beside those of a model of `build`, with the numbers that it would have there."""
    import torch

    torch.manual_seed(recipe.seed)
    config = _config(recipe)
    model.add_adapter(name, config)
    _belongs_to(config, loaded)


def activate(model: Any, names: Sequence[str]) -> None:
    """Let these adapters, of all that the model has, be the ones that compute and learn."""
    if model.base_model.active_adapters != list(names):
        model.base_model.set_adapter(list(names))


def _config(recipe: Recipe) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _belongs_to(config: LoraConfig, loaded: Loaded) -> None:
    config.base_model_name_or_path = loaded.base.portable_name  # PEFT fills in the path on this machine
    config.revision = loaded.base.revision


def load(loaded: Loaded, folder: Path) -> PeftModel:
    """The base with the adapter of a folder on it, for answering. Raises KmError where the folder is damaged."""
    from peft import PeftModel

    with explained(folder):
        require_weights(folder)
        model = PeftModel.from_pretrained(loaded.model, folder, is_trainable=False)
    model.eval()
    return model


def load_side_by_side(loaded: Loaded, folders: Mapping[str, Path]) -> PeftModel:
    """The base with several adapters by name, the first of them on. Raises KmError where a folder is damaged."""
    (first, folder), *more = folders.items()
    from peft import PeftModel

    with explained(folder):
        require_weights(folder)
        model = PeftModel.from_pretrained(loaded.model, folder, adapter_name=first, is_trainable=False)
    for name, other in more:
        with explained(other):
            require_weights(other)
            model.load_adapter(other, name, is_trainable=False)
    model.eval()
    return model


def load_sum(loaded: Loaded, weighted: Sequence[tuple[Path, float]]) -> PeftModel:
    """The base with the changes of several adapters added up, each times its weight. Exact: their ranks side by side.

    Raises KmError where a folder is damaged.
    """
    first, *_ = weighted
    model = load(loaded, first[0])
    if list(weighted) == [(first[0], 1.0)]:
        return model
    names = ["default"]
    for number, (folder, _) in enumerate(weighted[1:], 1):
        names.append(f"member{number}")
        with explained(folder):
            require_weights(folder)
            model.load_adapter(folder, names[-1], is_trainable=False)
    settings: Any = model.peft_config[names[0]]
    settings.use_rslora = False  # the sum takes these, and its A has the scales by then
    model.add_weighted_adapter(names, [weight for _, weight in weighted], "sum", combination_type="cat")
    model.set_adapter("sum")
    model.eval()
    return model


def save(model: Any, folder: Path, name: str = FIRST) -> None:
    """Write adapter_model.safetensors and adapter_config.json of one of the model's adapters into an existing folder."""
    # Without embeddings: "auto" would ask the hub whether the vocabulary has changed.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, selected_adapters=[name])
    if name != FIRST:  # PEFT makes a folder of its name
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        (folder / name).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; the library writes a card that says something
    file = folder / CONFIG
    config = json.loads(file.read_text("utf-8"))
    config["inference_mode"] = True
    config["target_modules"].sort()  # from a set: in another order every time
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters of the one active adapter by name, in a fixed order. The adapter's own name is no part of theirs."""
    (own,) = model.base_model.active_adapters
    return {
        name.replace(f".{own}.", f".{FIRST}."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def read(folder: Path, device: torch.device) -> Adapter:
    from kmcli.adapters import stack

    return stack.read(folder, device)


def described(recipe: Recipe) -> str:
    return f"lora of rank {recipe.rank}"


def written(folder: Path) -> Mapping[str, Any]:
    config = config_of(folder)
    return {"rank": int(config["r"]), "alpha": round(config["lora_alpha"])}


def advice(base: Base, shelf: Shelf) -> tuple[str, str] | None:
    return None
