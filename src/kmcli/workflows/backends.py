"""What writes the answers of `km serve`: the one place that opens engines for it.

| engine     | writes                                                                 | `auto` takes it                     |
|------------|------------------------------------------------------------------------|-------------------------------------|
| `hf`       | by torch, answers of all Knowledge Modules in one pass                 | elsewhere                           |
| `llamacpp` | from GGUF files, those of one Knowledge Module in one pass; no torch   | on a processor, where llama-cpp-    |
|            |                                                                        | python is and knows the family      |
| `vllm`     | vLLM's own server in a process of its own                              | with CUDA, where vLLM is            |

To add one: a `serving.backend.Backend` (or a `serving.batching.Rows`), a function here that opens it, a row in BACKENDS.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from kmcli import adapters, bases
from kmcli.adapters.folder import layers_of
from kmcli.bases import Base
from kmcli.errors import KmError, UsageError
from kmcli.serving import Entry, Limits
from kmcli.serving.backend import Backend
from kmcli.serving.counts import Counts
from kmcli.types import Event, KnowledgeModule, Recipe
from kmcli.workflows.answering import llamacpp_can, made_base_file, made_module_file
from kmcli.workflows.house import House


def open_backend(house: House, base: Base, limits: Limits, counts: Counts) -> Backend:
    """By the setting `engine`; what `auto` chose is said. Raises UsageError for an engine that does not serve,
    ResourceError where it is not here or cannot serve this base."""
    setting = house.settings["engine"]
    name = setting.value
    if name not in BACKENDS and name != "auto":
        if setting.origin == "flag":
            raise UsageError(f"the engine {name} does not serve.", f"Use --engine {' or '.join(BACKENDS)}.")
        name = "auto"  # the setting is about who writes study material as well
    if name == "auto":
        name, why = _chosen(house, base)
        house.report(Event("serve", f"engine {name}: {why}"))
    return BACKENDS[name](house, base, limits, counts)


def _chosen(house: House, base: Base) -> tuple[str, str]:
    """The engine for `auto`, and why."""
    if bases.on_processor(house.settings["device"].value):
        if llamacpp_can(house, base):
            return "llamacpp", "the fastest on a processor"
        return "hf", f"llama.cpp, which is faster on a processor, is not here or does not know {base.family}"
    if bases.pick_device(house.settings["device"].value).type != "cuda":
        return "hf", "this device is torch's"
    if house.settings["vllm_python"].value or importlib.util.find_spec("vllm"):
        return "vllm", "vLLM and CUDA are here"
    return "hf", "there is no vLLM here, which would be faster: pip install 'kmcli[vllm]'"


def _hf(house: House, base: Base, limits: Limits, counts: Counts) -> Backend:
    from kmcli.serving.batching import Batch
    from kmcli.serving.hf import HfRows

    return Batch(HfRows(house.load(base), limits, counts), limits, counts)


def _llamacpp(house: House, base: Base, limits: Limits, counts: Counts) -> Backend:
    from kmcli.serving.batching import Batch
    from kmcli.serving.llamacpp import LlamaCppRows

    def file_of(entry: Entry) -> Path:
        return made_module_file(house, base, entry.name, entry.module)

    file = made_base_file(house, base)
    rows = LlamaCppRows(file, base.context, file_of, limits, counts, house.settings["device"].value)
    return Batch(rows, limits, counts)


def _vllm(house: House, base: Base, limits: Limits, counts: Counts) -> Backend:
    from kmcli.engines.vllm import interpreter_of
    from kmcli.serving.vllm import VllmBackend
    from kmcli.serving.vllm_server import allowed_rank, command

    interpreter = interpreter_of(house.settings["vllm_python"].value or None)
    library = house.library
    modules = [one for one in map(library.module, library.documents()) if one and adapters.able(one, "vllm")]
    trained = [module.recipe.rank for module in modules]
    vectors = any(adapters.beside(module.path) for module in modules)
    targets = sorted(set().union(*map(_targets, modules))) if vectors else []
    extractors = [one.recipe.rank for one in library.extractors.all()]
    rank = allowed_rank(max([int(base.recipe.get("rank", Recipe().rank)), *trained]) + max(extractors, default=0))
    house.report(Event("serve", "starting vLLM, which takes a minute or more"))
    start = command(interpreter, base, rank, limits, targets)
    return VllmBackend(base, start, rank, limits, counts, embeddings=bool(targets))


def _targets(module: KnowledgeModule) -> set[str]:
    """The layers that it changes; none where it is damaged, which is said when it is asked."""
    with contextlib.suppress(KmError):
        return layers_of(module.path)
    return set()


BACKENDS: dict[str, Callable[[House, Base, Limits, Counts], Backend]] = {
    "hf": _hf,
    "llamacpp": _llamacpp,
    "vllm": _vllm,
}
