"""On what a question is answered: the one place that opens engines for answers.

| engine     | runs                                                    | `auto` takes it                         |
|------------|---------------------------------------------------------|-----------------------------------------|
| `llamacpp` | base and Knowledge Module as GGUF files in the cache    | on a processor, where llama-cpp-python  |
|            |                                                         | is and the base's family becomes GGUF   |
| `hf`       | base and adapter by torch, which takes seconds to start | elsewhere                               |
| `server`   | a `km serve` on this machine that has both in memory    | first of all, where one runs            |

That is for `km ask`; `km compare` puts many questions at once, and `hf` batches them (`workflows/comparing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kmcli import adapters
from kmcli.bases import Base, on_processor
from kmcli.engines import Engine, Scorer
from kmcli.errors import KmError, UsageError
from kmcli.library.files import FILE_MODE, explained, make_folder
from kmcli.types import Document, Event, KnowledgeModule, silent
from kmcli.workflows import warm
from kmcli.workflows.house import House, counter

ABLE = ("auto", "hf", "llamacpp")


@dataclass(frozen=True, slots=True)
class Member:
    """A Knowledge Module that takes part in an answer; weight: what its change of the base is multiplied by."""

    document: Document
    module: KnowledgeModule
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answering:
    """count: tokens of a text, as the base reads them."""

    engine: Engine
    count: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Scoring(Answering):
    """One whose engine runs here, and tells how likely an answer is."""

    engine: Scorer


def open_answering(house: House, base: Base, members: Sequence[Member] = ()) -> Answering:
    """The engine that the settings ask for, with Knowledge Modules on it, whose changes add up; none: the base alone.

    A `km serve` that has them in memory answers, unless a flag says what is to. Where `auto` finds that llama.cpp cannot do
    it, that is said and torch does it. Raises UsageError for an engine that
    does not answer, ResourceError where the base cannot be loaded, KmError where a module is damaged.
    """
    cold = partial(_open_cold, house, base, members)
    found = warm.engine_of(house, base, members, cold)
    return Answering(found, found.count_text) if found else cold()


def _open_cold(house: House, base: Base, members: Sequence[Member]) -> Scoring:
    found = _tried_llamacpp(house, base, members)
    if found:
        return found
    from kmcli.engines.hf import HfEngine

    loaded = house.load(base)
    weighted = [(member.module.path, member.weight) for member in members]
    return Scoring(HfEngine(loaded, adapters.load_sum(loaded, weighted) if members else None), counter(loaded))


def _tried_llamacpp(house: House, base: Base, members: Sequence[Member]) -> Scoring | None:
    """None where torch is to answer, or must."""
    wanted = wanted_engine(house)
    able = all(adapters.able(member.module, "llamacpp") for member in members)
    if wanted == "llamacpp" or (wanted == "auto" and able and llamacpp_can(house, base)):
        try:
            return _by_llamacpp(house, base, members)
        except KmError as error:
            if wanted == "llamacpp":
                raise
            house.warn(f"answered by torch, because llama.cpp cannot do it: {error.message}")
    return None


Weighed = Callable[[Sequence[float]], Scoring]
"""Of weights, one a member: what answers with the members so weighted, until the next call. All 0: the base alone."""


def open_weighed(house: House, base: Base, members: Sequence[Member]) -> Weighed:
    """Like open_answering, for asking with modules and then without, or with one after the other. Each is loaded once."""
    answering = _tried_llamacpp(house, base, members)  # a server does not weigh
    if answering:
        by_llamacpp, engine = answering, answering.engine

        def weighed(weights: Sequence[float]) -> Scoring:
            engine.weigh(weights)  # type: ignore[attr-defined]
            return by_llamacpp

        return weighed
    from kmcli.engines.hf import HfEngine

    loaded = house.load(base)
    held, now, count = HfEngine(loaded), [0.0] * len(members), counter(loaded)

    def loaded_anew(weights: Sequence[float]) -> Scoring:
        nonlocal held, now
        if list(weights) == now:
            return Scoring(held, count)
        if held.torch_model is not loaded.model:
            held.torch_model.unload()
        on = [(member.module.path, weight) for member, weight in zip(members, weights, strict=True) if weight]
        held, now = HfEngine(loaded, adapters.load_sum(loaded, on) if on else None), list(weights)
        return Scoring(held, count)

    return loaded_anew


def base_file(house: House, base: Base) -> Path:
    """Where the base is kept as a GGUF file. F16: as fast as smaller types for answers of a line, and exact."""
    return house.library.cache / "gguf" / f"{base.revision}.gguf"


def made_base_file(house: House, base: Base) -> Path:
    """The same, written where it is missing. Raises ResourceError without llama-cpp-python, which alone reads it."""
    from kmcli.engines.bindings import library

    library()  # before a file is written that nothing could read
    file = base_file(house, base)
    _make(house, base, file, f"{base.label or base.name} as GGUF for llama.cpp", None)
    return file


def wanted_engine(house: House) -> str:
    setting = house.settings["engine"]
    if setting.value in ABLE:
        return setting.value
    if setting.origin == "flag":
        raise UsageError(f"the engine {setting.value} does not answer questions.", "Use --engine hf or llamacpp.")
    return "auto"  # the setting is about who writes study material as well


def llamacpp_can(house: House, base: Base) -> bool:
    """Whether `auto` takes llama.cpp."""
    from kmcli.engines.bindings import installed

    if not (installed() and on_processor(house.settings["device"].value)):
        return False
    if base_file(house, base).exists():
        return True
    from kmcli.export.families import FAMILIES

    return base.family in FAMILIES


def _by_llamacpp(house: House, base: Base, members: Sequence[Member]) -> Scoring:
    from kmcli.engines.llamacpp import LlamaCppEngine

    file = made_base_file(house, base)
    engine = LlamaCppEngine(
        file,
        base.revision,
        base.context,
        house.settings["device"].value,
        adapters=[(made_module_file(house, base, one.document.name, one.module), one.weight) for one in members],
        hint=f"Delete the folder {file.parent}: km makes its files anew.",
    )
    engine.model = base.name  # the file is only what it runs from
    return Scoring(engine, engine.count_text)


def made_module_file(house: House, base: Base, name: str, module: KnowledgeModule) -> Path:
    """A module's LoRA file, written where it is missing; those of the document's earlier modules go.

    Raises UsageError where llama.cpp cannot load such a module."""
    adapters.require(module, name, "llamacpp")
    folder = house.library.cache_of(module.document_id)
    file = folder / f"{module.id}.gguf"
    if not file.exists():
        own = module.id.partition("-")[0]  # by itself, and with an extractor
        for old in folder.glob("*.gguf"):
            if not old.name.startswith(own):
                old.unlink(missing_ok=True)
    _make(house, base, file, f"the Knowledge Module of {name} as GGUF for llama.cpp", module)
    return file


def _make(house: House, base: Base, file: Path, what: str, module: KnowledgeModule | None) -> None:
    """A file of the cache, where it is missing: of a module, or of the base."""
    if file.exists():
        return
    from kmcli.export import export_gguf, export_lora

    house.report(Event("export", f"writing {what}, once"))
    with explained(file.parent):
        make_folder(file.parent)
    if module:
        export_lora(base, module.path, file)
    else:
        export_gguf(base, None, file, "F16", {"name": base.label or base.path.name}, silent)
    with explained(file.parent):
        file.chmod(FILE_MODE)  # an export is for others too
