"""Asking: ask puts one question by one method, compare puts many by every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmcli import bases
from kmcli.bases import Base, Loaded
from kmcli.chunking import join_pages
from kmcli.compare import Comparison
from kmcli.compare import compare as compare_methods
from kmcli.engines import Engine, Sampling
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.evaluation.methods import build_chat
from kmcli.evaluation.questions import read_questions
from kmcli.retrieval import PASSAGE_TOKENS, Index
from kmcli.training import split
from kmcli.types import Answer, Chunk, Document, KnowledgeModule, Method, Passage, Question
from kmcli.workflows.house import House, usable

ANSWER_TOKENS = 128
ASKABLE: tuple[Method, ...] = ("km", "rag", "full", "bare")


@dataclass(frozen=True, slots=True)
class Asked:
    """notes: what to know about the answer, such as that the Knowledge Module is stale."""

    answer: Answer
    document: Document
    notes: tuple[str, ...]


def ask(house: House, name: str, question: str, method: str | None, on_text: Callable[[str], None]) -> Asked:
    """Answer a question from one document, handing over the text as it is written.

    method None: the Knowledge Module, or retrieval where there is none yet. The passages that support an answer of the
    module are looked up after it, so they cost the model nothing.
    """
    if not question.strip():
        raise UsageError("the question is empty.", f'For example: km ask {name} "Who wrote it?"')
    document = house.library.find(name)
    module = house.library.module(document)
    chosen, notes = _choose(document, module, method)
    if chosen == "km" and house.library.state(document) == "stale":
        notes.append(f"the document has changed since its Knowledge Module was trained: km train {document.name}")
    base = base_of(house, document, module) if chosen == "km" else house.base()
    engine, chunks = _engine(house, document, base, module if chosen == "km" else None)
    index = Index(document.name, chunks)
    passages: Sequence[Passage] = ()
    text = ""
    if chosen == "rag":
        passages = index.search(question, base.passages)
        if not passages:
            notes.append("no passage of the document has a word of the question in common with it")
    elif chosen == "full":
        text = join_pages(house.library.text(document))
    chat = build_chat(chosen, question, base.prompts, text=text, passages=passages)
    room = engine.context - ANSWER_TOKENS
    while engine.count(chat) > room and len(passages) > 1:
        passages = passages[:-1]
        chat = build_chat(chosen, question, base.prompts, passages=passages)
    if engine.count(chat) > room:
        raise KmError(
            f"{document.name} does not fit in the {engine.context:,} tokens that {base.name} can read at once.",
            "Ask by --method rag, or train it: km train " + document.name,
        )
    began = time.perf_counter()
    made = engine.stream(chat, Sampling(max_tokens=ANSWER_TOKENS), on_text)
    seconds = time.perf_counter() - began
    evidence = tuple(passages) or tuple(index.search(f"{question} {made.text}", 1)) if chosen != "bare" else ()
    return Asked(Answer(made.text, chosen, made.prompt_tokens, made.tokens, seconds, evidence), document, tuple(notes))


def compare(house: House, name: str, questions: Path | None, rag_k: int | None = None) -> Comparison:
    """Every method on the questions of a file, or on held-out study material where none is given."""
    document = house.library.find(name)
    module = house.library.module(document)
    base = base_of(house, document, module) if module else house.base()
    loaded = house.load(base)
    chunks = house.chunks(document, loaded, base.chunk_tokens)
    asked = read_questions(questions) if questions else _held_out(house, document, module, loaded)
    engines = _engines(loaded, module)
    return compare_methods(
        engines,
        document,
        house.library.text(document),
        chunks,
        asked,
        base.prompts,
        house.report,
        rag_k=rag_k or base.passages,
        rag_chunks=house.chunks(document, loaded, min(PASSAGE_TOKENS, base.chunk_tokens)),
    )


def _choose(document: Document, module: KnowledgeModule | None, method: str | None) -> tuple[Method, list[str]]:
    if method is None:
        if module is not None:
            return "km", []
        return "rag", [f"no Knowledge Module yet: answered by retrieval. km train {document.name} makes one."]
    for known in ASKABLE:
        if method == known:
            if known == "km" and module is None:
                raise NotFoundError(
                    f"{document.name} has no Knowledge Module yet.", f"Make one: km train {document.name}"
                )
            return known, []
    raise UsageError(f"there is no method {method!r}.", "Choose one of " + ", ".join(ASKABLE) + ".")


def base_of(house: House, document: Document, module: KnowledgeModule | None) -> Base:
    """The base that the module was trained on, whatever the settings say: its weights fit no other."""
    if module is None:
        raise NotFoundError(f"{document.name} has no Knowledge Module yet.", f"Make one: km train {document.name}")
    recipe = module.recipe
    base = bases.find(recipe.model, house.report)
    if base.revision != recipe.revision:
        raise KmError(
            f"the Knowledge Module of {document.name} was trained on another version of {recipe.model}.",
            f"Train it on the one that is here: km train {document.name}",
        )
    return base


def _engine(house: House, document: Document, base: Base, module: KnowledgeModule | None) -> tuple[Engine, list[Chunk]]:
    from kmcli.adapters import lora
    from kmcli.engines.hf import HfEngine

    loaded = house.load(base)
    model = lora.load(loaded, module.path) if module else None
    return HfEngine(loaded, model), house.chunks(document, loaded, min(PASSAGE_TOKENS, base.chunk_tokens))


def _engines(loaded: Loaded, module: KnowledgeModule | None) -> dict[Method, Engine]:
    """An engine per method over one copy of the base: the adapter is on for `km` only."""
    from kmcli.adapters import lora
    from kmcli.engines.hf import HfEngine

    if module is None:
        plain = HfEngine(loaded)
        return {"bare": plain, "rag": plain, "full": plain, "gold": plain}
    model = lora.load(loaded, module.path)
    off = HfEngine(loaded, model, adapter=False)
    return {"bare": off, "km": HfEngine(loaded, model), "rag": off, "full": off, "gold": off}


def _held_out(house: House, document: Document, module: KnowledgeModule | None, loaded: Loaded) -> list[Question]:
    """Questions of the study material that training never saw."""
    if module is None:
        raise NotFoundError(
            f"{document.name} has no held-out questions, because it has no Knowledge Module yet.",
            f"Train it (km train {document.name}), or give questions: --questions FILE",
        )
    made = usable(house.library.samples(document), loaded.base)
    texts = {chunk.sha256: chunk.text for chunk in house.study_chunks(document, loaded, module.recipe)}
    _, held = split([sample for sample in made if sample.chunk_sha256 in texts], module.recipe)
    if not held:
        raise KmError(
            f"{document.name} has too little study material to hold questions out.", "Give some: --questions FILE"
        )
    return [
        Question(
            loaded.base.prompts.question_of(sample.prompt), (sample.response,), "held out", texts[sample.chunk_sha256]
        )
        for sample in held
    ]
