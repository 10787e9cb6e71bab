"""What a comparison needs besides its questions: the document's modules, engines and searchers for its ways, and what they
cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli import adapters
from kmcli.bases import Loaded
from kmcli.compare import Facts
from kmcli.engines import Sampling
from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Adapter, Retriever, Way
from kmcli.evaluation.costs import kv_bytes
from kmcli.evaluation.methods import build_chat
from kmcli.retrieval import Index, Searcher
from kmcli.types import AdapterName, Chunk, Document, Event, KnowledgeModule
from kmcli.workflows.house import House

if TYPE_CHECKING:
    from kmcli.engines.hf import HfEngine
    from kmcli.retrieval.dense import Dense

Baked = Callable[[KnowledgeModule | None], Path]
"""Of a Knowledge Extractor: the folder of a plain LoRA that is it and a module, or it alone."""


def modules_of(
    house: House, document: Document, module: KnowledgeModule | None, kept: bool
) -> dict[Way, KnowledgeModule]:
    """The document's own module, and those that are kept beside it, by the row of each that answers alone.

    kept: whether these are wanted. One of another base is left out, which is said.
    """
    if module is None:
        return {}
    found = {Way("km"): module}
    for one in house.library.kept_modules(document) if kept else ():
        if one.recipe.revision == module.recipe.revision:
            found[Way("km", adapter=one.recipe.adapter)] = one
        else:
            house.warn(f"the {one.recipe.adapter} of {document.name} is of another base, and is left out.")
    return found


def facts_of(
    house: House,
    loaded: Loaded,
    text_tokens: int,
    modules: Mapping[Way, KnowledgeModule],
    engines: Mapping[Way, HfEngine],
) -> Facts:
    """What the modules and the text cost. text_tokens: of the whole document."""
    costs = {way: (adapters.size_of(one.path), _training_seconds(house, one)) for way, one in modules.items()}
    beside = modules if len(modules) > 1 else {}
    size, seconds = costs.get(Way("km"), (None, None))
    return Facts(
        lambda tokens: kv_bytes(loaded.model.config, tokens, str(loaded.model.dtype)),
        text_tokens,
        size,
        seconds,
        tuple(Adapter(way.key, one.recipe.adapter, engines[way].standing, *costs[way]) for way, one in beside.items()),
    )


def _training_seconds(house: House, module: KnowledgeModule) -> float | None:
    """With the rounds after its exam; None where it is not known."""
    stored, examined = module.metrics.get("total_seconds"), house.library.exams.of(module)
    if stored is None:
        return None
    return float(stored) + (examined.head.round_seconds if examined else 0.0)


def searchers(
    house: House, document: Document, passages: Sequence[Chunk], questions: Sequence[str], chosen: Sequence[Way]
) -> dict[Retriever, Searcher]:
    wanted = {way.retriever for way in chosen if way.retriever}
    found: dict[Retriever, Searcher] = {}
    if wanted & {"bm25", "hybrid"}:
        found["bm25"] = Index(document.name, passages)
    if wanted & {"dense", "hybrid"}:
        dense = _dense(house, document, passages)
        dense.prepare(questions)
        found["dense"] = dense
    if "hybrid" in wanted:
        from kmcli.retrieval.hybrid import Hybrid

        found["hybrid"] = Hybrid([found["bm25"], found["dense"]])
    return found


def _dense(house: House, document: Document, passages: Sequence[Chunk]) -> Dense:
    from kmcli.retrieval import embedder
    from kmcli.retrieval.dense import Dense, kept_vectors

    report = house.report
    path = embedder.find(house.settings["embedder"].value, report)
    encoder = embedder.Embedder(path, house.settings["device"].value, report)

    def progress(done: int) -> None:
        report(Event("read", "making vectors of the passages, once", done, len(passages)))

    folder = house.library.cache_of(document.id)
    return Dense(document.name, passages, kept_vectors(folder, passages, encoder, progress), encoder)


def folder_for(way: Way, modules: Mapping[Way, KnowledgeModule], baked: Baked | None) -> Path | None:
    """Of what changes the base in a way, the folder of an adapter that does it; None where nothing does."""
    how, own = METHODS[way.method], modules.get(Way("km"))
    if how.ke and baked:
        return baked(own if how.km else None)
    module = modules.get(way, own) if how.km else None
    return module.path if module else None


def engines_for(loaded: Loaded, chosen: Mapping[Way, Path | None], text: str) -> dict[Way, HfEngine]:
    """An engine for each way, over one copy of the base, with the adapter of a folder on it."""
    from kmcli.engines.compressed import CompressedEngine
    from kmcli.engines.hf import HfEngine

    names = {folder: f"adapter{number}" for number, folder in enumerate(dict.fromkeys(filter(None, chosen.values())))}
    of_kind: dict[AdapterName, dict[str, Path]] = {}
    for folder, name in names.items():
        of_kind.setdefault(adapters.name_of(folder), {})[name] = folder
    carriers = [adapters.load_side_by_side(loaded, folders) for folders in of_kind.values()]
    first, *rest = carriers or [None]
    plain = HfEngine(loaded, first, adapter=first is None, others=rest)
    able: dict[Path | None, HfEngine] = {None: plain}
    for carrier, folders in zip(carriers, of_kind.values(), strict=True):
        others = [one for one in carriers if one is not carrier]
        able |= {folder: HfEngine(loaded, carrier, name, others) for name, folder in folders.items()}
    engines: dict[Way, HfEngine] = {}
    for way, wanted in chosen.items():
        if METHODS[way.method].compressed:
            opening = build_chat(way.method, "", loaded.base.prompts, text=text)
            engines[way] = CompressedEngine(loaded, opening, way.kept or 1.0, first, adapter=first is None, others=rest)
        else:
            engines[way] = able[wanted]
    # The first forward pass takes longer than any after it, and would count against the first method.
    plain.generate([[("user", "?")]], Sampling(max_tokens=1))
    return engines
