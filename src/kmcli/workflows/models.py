"""Base models: which are on this disk, which suit this machine, and fetching one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kmcli import bases
from kmcli.bases import folder, hub
from kmcli.errors import UsageError
from kmcli.workflows.house import House
from kmcli.workflows.machine import Machine, look

Kind = Literal["here", "recommended", "gguf"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model. bytes: of its weights. title, version: by its card, "" where it does not say. memory: bytes that training
    it takes on this machine, reckoned; 0 where nobody reckoned.

    kind: "here", a base on this disk, or the one in use; "recommended", to be downloaded; "gguf", a file of another
    program.
    """

    name: str
    path: Path | None
    bytes: int
    note: str
    in_use: bool
    title: str = ""
    version: str = ""
    kind: Kind = "here"
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Recommended:
    """A base on the hub. bytes: to download."""

    name: str
    parameters: int
    bytes: int
    note: str


RECOMMENDATIONS = (
    Recommended(
        "Qwen/Qwen2.5-0.5B-Instruct", 494_000_000, 988_000_000, "the smallest; also on a processor, with patience"
    ),
    Recommended("Qwen/Qwen2.5-1.5B-Instruct", 1_540_000_000, 3_090_000_000, "needs a GPU to be practical"),
    Recommended("Qwen/Qwen3-4B-Instruct-2507", 4_020_000_000, 8_050_000_000, "needs a GPU"),
    Recommended("Qwen/Qwen3-8B", 8_190_000_000, 16_400_000_000, "needs a large GPU"),
)
"""By size. All are of families that `km export` knows. What they answer has not been measured."""

TRAINING = 1.5
"""What training takes, as a multiple of the weights: a rule of thumb, not measured."""
SPARE = 0.9
"""Of the memory there is, so much may be taken."""


def memory_of(parameters: int, machine: Machine) -> int:
    """Bytes that training a base takes: 2 for a weight on a GPU, 4 on a processor, and half as much again."""
    return int(parameters * (2 if machine.gpu else 4) * TRAINING)


def suits(machine: Machine) -> str:
    """The base for real work here: the largest that fits into the GPU; on a processor, which is slow, the smallest."""
    room = SPARE * (machine.gpu.bytes if machine.gpu else machine.bytes)
    choice = RECOMMENDATIONS if machine.gpu else RECOMMENDATIONS[:1]
    fitting = [one.name for one in choice if memory_of(one.parameters, machine) <= room]
    return fitting[-1] if fitting else bases.EMBEDDED


def models(house: House) -> list[ModelEntry]:
    """The bases on this disk: the embedded one, those in the hub's cache, and the one in use. Then those that may be worth
    downloading, by size, and then what Ollama and LM Studio keep."""
    used = house.settings["model"].value
    entries = [_entry(bases.EMBEDDED, bases.EMBEDDED_FOLDER, "for trying km, works offline", used)]
    entries += [_entry(name, path, "downloaded from the hub", used) for name, path in hub.cached()]
    if not any(entry.in_use for entry in entries):
        local = Path(used).expanduser()
        if local.is_dir():
            entries.append(_entry(used, local.absolute(), "local folder", used))
        else:
            entries.append(ModelEntry(used, None, 0, "not downloaded yet: the first use does it", True))
    machine = look()
    best, known = suits(machine), {entry.name for entry in entries}
    for one in RECOMMENDATIONS:
        if one.name not in known:
            note = "suits this machine" if one.name == best else one.note
            memory = memory_of(one.parameters, machine)
            entries.append(ModelEntry(one.name, None, one.bytes, note, False, kind="recommended", memory=memory))
    return entries + sorted(_others(), key=lambda entry: entry.name)


def _entry(name: str, path: Path, note: str, used: str) -> ModelEntry:
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return ModelEntry(name, path, size, note, name == used, *folder.read_title(path))


def _others() -> Iterator[ModelEntry]:
    """GGUF files of other programs. They can write study material (--teacher), and be no base: km trains safetensors."""
    for top in ollama_folders():
        yield from _of_ollama(top)
    for top in lm_studio_folders():
        for file in sorted(top.glob("*/*/*.gguf")):
            if not file.name.startswith("mmproj"):  # what lets a model see, without its words
                name = file.relative_to(top).as_posix()
                yield ModelEntry(name, file, file.stat().st_size, "LM Studio's: --teacher PATH", False, kind="gguf")


def ollama_folders() -> list[Path]:
    """Where Ollama keeps models: $OLLAMA_MODELS, a person's own, a service's on Linux."""
    given = os.environ.get("OLLAMA_MODELS")
    places = [Path(given)] if given else [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return [place for place in places if os.access(place / "manifests", os.R_OK | os.X_OK)]


def lm_studio_folders() -> list[Path]:
    """Where LM Studio keeps models, now and formerly."""
    places = [Path.home() / ".lmstudio/models", Path.home() / ".cache/lm-studio/models"]
    return [place for place in places if place.is_dir()]


def _of_ollama(top: Path) -> Iterator[ModelEntry]:
    """A manifest, manifests/HOST/NAMESPACE/MODEL/TAG, lists the layers of a model; the file of one is named by its hash."""
    for manifest in (top / "manifests").glob("*/*/*/*"):
        found: dict[str, Any] = (folder.read_json(manifest) if manifest.is_file() else None) or {}
        for layer in found.get("layers") or []:
            if not isinstance(layer, dict) or layer.get("mediaType") != "application/vnd.ollama.image.model":
                continue
            blob = top / "blobs" / str(layer.get("digest", "")).replace(":", "-")
            namespace, model, tag = manifest.parts[-3:]
            name = f"{'' if namespace == 'library' else namespace + '/'}{model}:{tag}"
            if blob.is_file():
                yield ModelEntry(
                    name,
                    blob,
                    blob.stat().st_size,
                    "Ollama's: link it to a name in .gguf, then --teacher",
                    False,
                    kind="gguf",
                )


@dataclass(frozen=True, slots=True)
class Pulled:
    """A base that is on this disk now. downloaded: it was not, or not whole, before. bytes: of its weights."""

    name: str
    path: Path
    revision: str
    bytes: int
    downloaded: bool


def pull(house: House, name: str) -> Pulled:
    """Fetch a base from the hub into its cache; what is there already is not asked for again.

    Raises UsageError for what is no hub model's name, ResourceError where it cannot be had, as `bases.find` says.
    """
    if name == bases.EMBEDDED or Path(name).expanduser().is_dir():
        raise UsageError(f"{name} is on this disk: there is nothing to pull.", "Use it: km config set model " + name)
    there = name in dict(hub.cached())
    base = bases.find(name, house.report)
    size = sum(file.stat().st_size for file in folder.weight_files(base.path))
    return Pulled(base.name, base.path, base.revision, size, not there)
