"""Comparing: many questions about a document, put by every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from kmcli import adapters
from kmcli.bases import Base, Loaded
from kmcli.chunking import join_pages
from kmcli.compare import Comparison, Facts
from kmcli.compare import compare as compare_ways
from kmcli.engines import Engine, Sampling
from kmcli.errors import KmError, NotFoundError, UsageError, did_you_mean
from kmcli.evaluation import METHODS, How, ways
from kmcli.evaluation.comparison import Retriever, Way
from kmcli.evaluation.costs import kv_bytes
from kmcli.evaluation.methods import build_chat
from kmcli.evaluation.questions import read_about
from kmcli.library import names
from kmcli.retrieval import Index, Searcher
from kmcli.types import Chunk, Document, Event, KnowledgeModule, Method, Question
from kmcli.workflows import extracting, held_out
from kmcli.workflows.auto import Auto, AutoEngine, calibration_of, reader_of, unexamined
from kmcli.workflows.elsewhere import find, measured
from kmcli.workflows.house import House, counter, untrained
from kmcli.workflows.naming import find_one
from kmcli.workflows.pair import Pair

if TYPE_CHECKING:
    from kmcli.retrieval.dense import Dense

Word = TypeVar("Word", bound=str)

ALL = "all"
"""In place of methods: every one that there is what it needs for."""
DEFAULT: tuple[Method, ...] = ("bare", "km", "auto", "rag", "km+rag", "rag+ke", "km+ke", "rag+km+ke", "full", "gold")
"""Of these, those that there is what they need for."""
KEPT = (0.5,)

Baked = Callable[[KnowledgeModule | None], Path]
"""Of a Knowledge Extractor: the folder of a plain LoRA that is it and a module, or it alone."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to compare, as a person says it. Nothing said: what suits the base. ks: passages to read. kept: shares of the
    full text's keys and values."""

    methods: Sequence[str] = ()
    retrievers: Sequence[str] = ()
    ks: Sequence[int] = ()
    kept: Sequence[float] = ()


def compare(
    house: House,
    name: str,
    questions: Path | None,
    wishes: Wishes | None = None,
    other: str | None = None,
) -> Comparison:
    """Every way that is wished for on the questions of a file, or on held-out study material where none is given.

    Methods with `ke` use the extractor that was asked for. other: a document on which forgetting is measured. Raises
    UsageError for wishes that make no sense, and for questions that are all about other documents, NotFoundError where a
    Knowledge Module or the other document's study material is missing, ResourceError where the embedder is.
    """
    document = find_one(house.library, name)
    module = house.library.module(document)
    if module is None and questions is None:
        raise NotFoundError(
            f"{document.name} has no held-out questions, because it has no Knowledge Module yet.",
            f"Train it (km train {document.name}), or give questions: --questions FILE",
        )
    asked = _of_file(house, document, questions) if questions else []
    base = house.base_of(document, module) if module else house.base()
    baked = extracting.baker(house, document, base, questions is None)
    calibration = calibration_of(house, module) if module else None
    chosen = _ways(wishes or Wishes(), base, document, module, baked is not None, calibration is not None)
    ends = [Way("bare"), Way("km")] if other else []
    if other and module is None:
        raise untrained(document)
    elsewhere = find(house, other, document) if other else None
    house.announce(base)
    loaded = house.load(base)
    if module and not asked:
        asked = held_out.questions(house, document, module, loaded)
        if not asked:
            raise KmError(
                f"{document.name} has too little study material to hold questions out.", "Give some: --questions FILE"
            )
    text, count = house.library.text(document), counter(loaded)
    passages = house.passages(document, base, count)
    searchers = _searchers(house, document, passages, [one.question for one in asked], chosen)
    whole = join_pages(text)
    chooses = Way("auto") in chosen
    opened = list(dict.fromkeys([*chosen, *ends, *([Way("bare")] if chooses else [])]))
    engines = _engines(loaded, opened, _folders(opened, module, baked), whole)
    if chooses and module and calibration:
        pair = Pair(engines[Way("auto")], engines[Way("bare")], count)
        reader = reader_of(house, document, module, base, count)
        engines[Way("auto")] = AutoEngine(Auto(pair, reader, calibration))
    stored = module.metrics.get("total_seconds") if module else None
    examined = house.library.exams.of(module) if module else None
    again = examined.head.round_seconds if examined else 0.0
    comparison = compare_ways(
        {way: engines[way] for way in chosen},
        document,
        base.label or base.name,
        text,
        house.chunks(document, loaded, base.chunk_tokens),
        asked,
        base.prompts,
        house.report,
        searchers=searchers,
        facts=Facts(
            lambda tokens: kv_bytes(loaded.model.config, tokens, str(loaded.model.dtype)),
            count(whole),
            adapters.size_of(module.path) if module else None,
            float(stored) + again if stored is not None else None,
        ),
    )
    comparison = replace(comparison, exam=examined)
    if not elsewhere:
        return comparison
    return replace(comparison, forgetting=measured(house, *elsewhere, loaded, *(engines[way] for way in ends)))


# --- what is wished for


def _ways(
    wishes: Wishes,
    base: Base,
    document: Document,
    module: KnowledgeModule | None,
    extractor: bool,
    calibrated: bool,
) -> list[Way]:
    methods = _methods(wishes.methods, document, module, extractor, calibrated)
    retrievers = _known(wishes.retrievers, get_args(Retriever), "retriever", "retrievers") or ["bm25"]
    if wrong := [k for k in wishes.ks if k < 1]:
        raise UsageError(f"{wrong[0]} passages cannot be read.", "For example: --k 1,3,5,10")
    if odd := [share for share in wishes.kept if not 0 < share <= 1]:
        raise UsageError(f"a share of {odd[0]:g} cannot be kept.", "For example: --kept 0.5,0.25")
    return ways(
        methods,
        list(dict.fromkeys(retrievers)),
        sorted(set(wishes.ks)) or [base.passages],
        sorted(set(wishes.kept), reverse=True) or KEPT,
    )


def _methods(
    wanted: Sequence[str], document: Document, module: KnowledgeModule | None, extractor: bool, calibrated: bool
) -> Sequence[Method]:
    if not wanted or ALL in wanted:
        able = tuple(METHODS) if wanted else DEFAULT
        able = tuple(method for method in able if calibrated or method != "auto")
        return [method for method in able if _able(METHODS[method], module is not None, extractor)]
    methods = _known(wanted, tuple(METHODS), "method", "methods")
    for method in methods:
        if METHODS[method].km and module is None:
            raise untrained(document)
        if method == "auto" and not calibrated:
            raise unexamined(document)
        if METHODS[method].ke and not extractor:
            raise UsageError(f"{method} needs a Knowledge Extractor.", "Name one: --extractor NAME")
    return methods


def _able(how: How, module: bool, extractor: bool) -> bool:
    return (module or not how.km) and (extractor or not how.ke)


def _known(wanted: Sequence[str], known: Sequence[Word], one: str, several: str) -> list[Word]:
    table = {str(word): word for word in known}
    for word in wanted:
        if word not in table:
            raise UsageError(
                f"there is no {one} {word!r}.", did_you_mean(word, known, f"Known {several}: " + ", ".join(known) + ".")
            )
    return [table[word] for word in wanted]


# --- what is asked


def _of_file(house: House, document: Document, path: Path) -> list[Question]:
    """The questions of a file about a document: those that do not say what they are about, too."""
    found = read_about(path)
    asked = [one for _, name, one in found if not name or names.key(name) == names.key(document.name)]
    if not asked:
        raise UsageError(
            f"{path} has no question about {document.name}: all are about other documents.",
            "Compare one of those, or give another file.",
        )
    if left := len(found) - len(asked):
        house.warn(f"questions about other documents, left out: {left:,}")
    return asked


# --- what answers


def _searchers(
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


Changes = tuple[bool, bool]
"""Whether a Knowledge Module and whether an extractor change the base."""


def _folders(chosen: Sequence[Way], module: KnowledgeModule | None, baked: Baked | None) -> dict[Changes, Path]:
    """Of what changes the base in the chosen ways, the folder of an adapter that does it."""
    folders: dict[Changes, Path] = {}
    for way in chosen:
        how = METHODS[way.method]
        if how.ke and baked:
            folders[how.km, True] = baked(module if how.km else None)
        elif how.km and module:
            folders[True, False] = module.path
    return folders


def _engines(loaded: Loaded, chosen: Sequence[Way], folders: Mapping[Changes, Path], text: str) -> dict[Way, Engine]:
    """An engine for each way, over one copy of the base."""
    from kmcli.engines.compressed import CompressedEngine
    from kmcli.engines.hf import HfEngine

    names = {
        changes: "-".join(word for word, on in zip(("km", "ke"), changes, strict=True) if on) for changes in folders
    }
    model: Any = None
    if folders:
        model = adapters.load_side_by_side(loaded, {names[changes]: folder for changes, folder in folders.items()})
    plain = HfEngine(loaded, model, adapter=model is None)
    able: dict[Changes, Engine] = {(False, False): plain}
    able |= {changes: HfEngine(loaded, model, adapter=name) for changes, name in names.items()}
    engines: dict[Way, Engine] = {}
    for way in chosen:
        how = METHODS[way.method]
        if how.compressed:
            opening = build_chat(way.method, "", loaded.base.prompts, text=text)
            engines[way] = CompressedEngine(loaded, opening, way.kept or 1.0, model, adapter=model is None)
        else:
            engines[way] = able[how.km, how.ke]
    # The first forward pass takes longer than any after it, and would count against the first method.
    plain.generate([[("user", "?")]], Sampling(max_tokens=1))
    return engines
