"""Comparing: many questions about a document, put by every method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, get_args

from kmcli.bases import Base, Loaded
from kmcli.chunking import join_pages
from kmcli.compare import Comparison
from kmcli.compare import compare as compare_ways
from kmcli.engines import Engine
from kmcli.errors import KmError, NotFoundError, UsageError, did_you_mean
from kmcli.evaluation import METHODS, How, ways
from kmcli.evaluation.comparison import Retriever, Way
from kmcli.evaluation.questions import read_about
from kmcli.library import names
from kmcli.types import Document, KnowledgeModule, Method, Question
from kmcli.workflows import extracting, held_out
from kmcli.workflows.auto import Auto, AutoEngine, calibration_of, reader_of, unexamined
from kmcli.workflows.compared import engines_for, facts_of, folder_for, modules_of, searchers
from kmcli.workflows.elsewhere import find, measured
from kmcli.workflows.house import House, counter, untrained
from kmcli.workflows.naming import find_one
from kmcli.workflows.pair import Pair

Word = TypeVar("Word", bound=str)

ALL = "all"
"""In place of methods: every one that there is what it needs for."""
DEFAULT: tuple[Method, ...] = ("bare", "km", "auto", "rag", "km+rag", "rag+ke", "km+ke", "rag+km+ke", "full", "gold")
"""Of these, those that there is what they need for."""
KEPT = (0.5,)


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
    modules = modules_of(house, document, module, Way("km") in chosen)
    ends = [Way("bare"), Way("km")] if other else []
    if other and module is None:
        raise untrained(document)
    elsewhere = find(house, other, document) if other else None
    house.announce(base)
    loaded = house.load(base)
    if not asked:
        asked = _held_out(house, document, modules.values(), loaded)
    text, count = house.library.text(document), counter(loaded)
    passages = house.passages(document, base, count)
    found = searchers(house, document, passages, [one.question for one in asked], chosen)
    whole = join_pages(text)
    chosen += [way for way in modules if way.adapter]
    chooses = Way("auto") in chosen
    opened = list(dict.fromkeys([*chosen, *ends, *([Way("bare")] if chooses else [])]))
    held = engines_for(loaded, {way: folder_for(way, modules, baked) for way in opened}, whole)
    engines: dict[Way, Engine] = {**held}
    if chooses and module and calibration:
        pair = Pair(held[Way("auto")], held[Way("bare")], count)
        reader = reader_of(house, document, module, base, count)
        engines[Way("auto")] = AutoEngine(Auto(pair, reader, calibration))
    comparison = compare_ways(
        {way: engines[way] for way in chosen},
        document,
        base.label or base.name,
        text,
        house.chunks(document, loaded, base.chunk_tokens),
        asked,
        base.prompts,
        house.report,
        searchers=found,
        facts=facts_of(house, loaded, count(whole), modules, held),
    )
    comparison = replace(comparison, exam=house.library.exams.of(module) if module else None)
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


def _held_out(house: House, document: Document, modules: Iterable[KnowledgeModule], loaded: Loaded) -> list[Question]:
    """Questions that none of these was trained on. Raises KmError where there are none."""
    first, *others = (held_out.questions(house, document, module, loaded) for module in modules)
    unseen = [{one.question for one in some} for some in others]
    asked = [one for one in first if all(one.question in some for some in unseen)]
    if not asked:
        raise KmError(
            f"{document.name} has too little study material to hold questions out.", "Give some: --questions FILE"
        )
    return asked


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
