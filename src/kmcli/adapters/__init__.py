"""What training changes: a small adapter in front of, or inside, a frozen base.

| name         | what it is                                                                                |
|--------------|-------------------------------------------------------------------------------------------|
| `lora`       | low-rank updates of every linear layer (PEFT): a Knowledge Module                         |
| `cartridge`  | keys and values of tokens that stand before whatever the base reads (PEFT)                |
| `compressed` | a LoRA that reads the document's summary vectors, which stand before whatever is asked    |

To add one: a module with the members of `Kind`, a row in ADAPTERS, its name in `types.AdapterName`. Nothing outside of this
room asks which one it is.

A **carrier** is what `build` and the `load`s give: the base with adapters of one kind on it. All of them are torch modules
with `get_base_model()`, `disable_adapter()` (a context: within it the base is what it was, which is the teacher's view),
`enable_adapter_layers()` (after another carrier over the same base has switched them off) and `unload()` (gives back the
base). One whose adapter stands before the text has `before()` as well, which
`engines.attention.before` asks for: the keys and values, with gradients, that training and answering put in front of every
row. What computes those from something else (such as summary vectors that are read) needs no more than that.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kmcli.adapters import cartridge, compressed, lora
from kmcli.adapters.folder import CONFIG, FIRST, WEIGHTS, config_of, explained
from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.bases import Base, Loaded
from kmcli.errors import KmError, UsageError
from kmcli.types import AdapterName, KnowledgeModule, Recipe

if TYPE_CHECKING:
    import torch

    from kmcli.adapters.stack import Adapter

_CANNOT: dict[str, tuple[str, str]] = {
    "llamacpp": ("llama.cpp cannot load", "Use --engine hf."),
    "vllm": ("vLLM cannot load", "Use --engine hf."),
    "gguf": ("no GGUF file can hold", "Export it with --format peft."),
    "gguf-lora": ("no GGUF file can hold", "Export it with --format peft."),
    "ollama": ("no GGUF file can hold", "Export it with --format peft."),
    "merged": ("cannot be merged into a model", "Export it with --format peft."),
    "extractor": ("a Knowledge Extractor cannot be put on", "Leave --extractor out."),
    "init": ("no other training can begin from", "Leave --init out to begin afresh."),
    "sum": ("cannot be put together with others", "Export it alone."),
}
"""By what is to be done with one (`Kind.ABLE`): the end of the sentence that refuses it, and the next step."""


Join = Callable[[Base, Sequence[Path], Path], int]
"""Writes several folders as one, and one in its plainest form; returns the number of tensors."""


class Kind(Protocol):
    """What a module of this room has to have."""

    @property
    def PEFT_TYPE(self) -> str:
        """By which its folders are known."""

    @property
    def BESIDE(self) -> str:
        """The file that its folders have beside PEFT's own, which other programs are given with it; "": none."""

    @property
    def WHAT(self) -> str:
        """For people, in a sentence: "a LoRA"."""

    @property
    def ABLE(self) -> frozenset[str]:
        """Engines that load it ("hf", "llamacpp", "vllm"), formats it is exported in ("peft", "gguf", "gguf-lora", "ollama";
        "merged": any model's own), and whether it takes an "extractor", another training may begin from it ("init"), several
        are one ("sum"), and one may be trained for several documents ("group")."""

    @property
    def DEFAULTS(self) -> Mapping[str, Any]:
        """Of a recipe, what it needs others of than a card and a preset say: they speak of LoRAs."""

    @property
    def join(self) -> Join | None:
        """None: they are changes of weights, which `export.compose` adds up."""

    def build(self, loaded: Loaded, recipe: Recipe, name: str = FIRST, text: str = "", shelf: Shelf = EMPTY) -> Any:
        """A carrier with a fresh adapter, its parameters in fp32. text: the document's, where it begins from that.

        Raises UsageError and ResourceError where the base cannot carry such a one."""

    def add(self, model: Any, loaded: Loaded, recipe: Recipe, name: str, text: str = "", shelf: Shelf = EMPTY) -> None:
        """Another fresh adapter beside those of a carrier of `build`, with the numbers that it would have there."""

    def activate(self, model: Any, names: Sequence[str]) -> None:
        """Let these adapters, of all that the carrier has, be the ones that compute and learn."""

    def trainable(self, model: Any) -> dict[str, torch.nn.Parameter]:
        """The parameters of the one active adapter by name, in a fixed order: what a checkpoint keeps."""

    def save(self, model: Any, folder: Path, name: str = FIRST) -> None:
        """Write one of the carrier's adapters into an existing folder, in PEFT's format."""

    def load_side_by_side(self, loaded: Loaded, folders: Mapping[str, Path]) -> Any:
        """A carrier with several adapters by name, the first of them on; `set_adapter` chooses."""

    def load_sum(self, loaded: Loaded, weighted: Sequence[tuple[Path, float]]) -> Any:
        """A carrier with all of them on at once, each with its weight."""

    def read(self, folder: Path, device: torch.device) -> Adapter:
        """For one row of a batch whose rows carry different ones (`stack`)."""

    def described(self, recipe: Recipe) -> str:
        """In a line about the recipe: "lora of rank 16"."""

    def written(self, folder: Path) -> Mapping[str, Any]:
        """Of a recipe, what the folder says itself: an adapter from elsewhere has no other."""

    def advice(self, base: Base, shelf: Shelf) -> tuple[str, str] | None:
        """What is to be said before a training, and the next step; None: nothing."""


ADAPTERS: dict[AdapterName, Kind] = {"lora": lora, "cartridge": cartridge, "compressed": compressed}


def name_of(folder: Path) -> AdapterName:
    """Which kind a folder holds. Raises KmError where it cannot be read or is of none that km knows."""
    config = config_of(folder)
    alike: list[AdapterName] = [name for name, kind in ADAPTERS.items() if config.get("peft_type") == kind.PEFT_TYPE]
    for name in sorted(alike, key=lambda name: not ADAPTERS[name].BESIDE):
        if not ADAPTERS[name].BESIDE or (folder / ADAPTERS[name].BESIDE).exists():
            return name
    raise KmError(
        f"the adapter in {folder} is of the type {config.get('peft_type')}, which km does not know.",
        "It knows " + ", ".join(dict.fromkeys(kind.PEFT_TYPE for kind in ADAPTERS.values())) + ".",
    )


def kind_of(folder: Path) -> Kind:
    return ADAPTERS[name_of(folder)]


def _common(folders: Sequence[Path]) -> Kind:
    first, *others = [name_of(folder) for folder in folders]
    for other in others:
        if other != first:
            raise UsageError(
                f"{ADAPTERS[first].WHAT} and {ADAPTERS[other].WHAT} cannot be on the base together.",
                "Ask about them one by one.",
            )
    return ADAPTERS[first]


def load(loaded: Loaded, folder: Path) -> Any:
    """A carrier with the adapter of a folder, for answering. Raises KmError where the folder is damaged."""
    return load_side_by_side(loaded, {FIRST: folder})


def load_side_by_side(loaded: Loaded, folders: Mapping[str, Path]) -> Any:
    """A carrier with several adapters by name, the first of them on.

    Raises KmError where a folder is damaged, UsageError where they are of different kinds."""
    return _common(list(folders.values())).load_side_by_side(loaded, folders)


def load_sum(loaded: Loaded, weighted: Sequence[tuple[Path, float]]) -> Any:
    """A carrier with several adapters on at once, each with its weight. Raises as `load_side_by_side`, and UsageError where
    they take no weights."""
    return _common([folder for folder, _ in weighted]).load_sum(loaded, weighted)


def read(folder: Path, device: torch.device) -> Adapter:
    """For one row of a batch. Raises KmError where the folder is damaged, ResourceError where it cannot be batched."""
    return kind_of(folder).read(folder, device)


def able(module: KnowledgeModule, use: str) -> bool:
    """Whether something takes a Knowledge Module: see `Kind.ABLE`."""
    return use in ADAPTERS[module.recipe.adapter].ABLE


def require(module: KnowledgeModule, name: str, use: str) -> None:
    """Raises UsageError where something does not take a Knowledge Module. name: of its document."""
    if not able(module, use):
        cannot, hint = _CANNOT[use]
        what = ADAPTERS[module.recipe.adapter].WHAT
        raise UsageError(f"the Knowledge Module of {name} is {what}, which {cannot}.", hint)


def beside(folder: Path) -> Path | None:
    """What an adapter has in a file of its own, beside those of PEFT, and other programs have to be given with it."""
    file = kind_of(folder).BESIDE
    return folder / file if file else None


def without_it(folder: Path, out: Path) -> Path:
    """Write into an existing folder what PEFT makes of an adapter: it knows nothing of the file beside it."""
    for name in (CONFIG, WEIGHTS):
        with explained(folder):
            shutil.copyfile(folder / name, out / name)
    return out


def size_of(folder: Path) -> int:
    """Bytes of an adapter's weights on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
