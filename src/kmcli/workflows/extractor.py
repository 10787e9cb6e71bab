"""Knowledge Extractors: train, list, show and remove them. How they are used stands in `extracting`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli import adapters
from kmcli.errors import NotFoundError, UsageError
from kmcli.library import files
from kmcli.library.extractors import Extractor, ExtractorRecipe
from kmcli.types import Document, KnowledgeModule, Question
from kmcli.workflows.house import House, untrained
from kmcli.workflows.naming import find_all
from kmcli.workflows.resuming import take_up

if TYPE_CHECKING:
    from kmcli.training.extractor import Example


@dataclass(frozen=True, slots=True)
class ExtractorOptions:
    """What the command line asks of a training. settings: key=value of the recipe."""

    modules: bool = True
    passages: int = 0
    settings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TrainedExtractor:
    """documents, held_out: how many were trained on, and held out. left_out: questions too long for the base."""

    extractor: Extractor
    documents: int
    held_out: int
    left_out: int
    resumed: bool
    seconds: float


def train(
    house: House,
    name: str,
    given: Sequence[str],
    questions: Path | None,
    options: ExtractorOptions,
    restart: bool = False,
) -> TrainedExtractor:
    """Train an extractor on questions about documents that are named or tagged: those of a file, or without one the held-out
    ones of their study material. The same command goes on with what was interrupted.

    Raises UsageError for what makes no sense, NotFoundError for documents without modules, InterruptedRun after Ctrl-C.
    """
    started = time.monotonic()
    documents = find_all(house.library, given) if given else []
    if not documents and questions is None:
        raise UsageError(
            "say what it is to be trained on.", f"For example: km extractor train {name} --docs @contracts"
        )
    from kmcli.training import extractor as training
    from kmcli.training.extractor_recipe import resolve
    from kmcli.training.stepwise import split
    from kmcli.workflows import extractor_questions

    with house.library.extractors.training(name) as workspace:
        asked = extractor_questions.of_file(house, questions, documents) if questions else {}
        if questions:
            there = {document.id: document for document in house.library.documents()}
            _tell_silent(house, documents, asked)
            documents = [there[about] for about in asked]
        if not documents:
            raise UsageError(f"{questions} has no question about these documents.", "Name those that it is about.")
        modules = _modules(house, documents, options.modules or not questions)
        if options.modules:
            pairs = [(document, modules[document.id]) for document in documents]
            for document, module in pairs:
                adapters.require(module, document.name, "extractor")
            base = house.common_base(pairs, "an extractor is for one", "Leave those of the other base out.")
        else:
            base = house.base()
        recipe = resolve(base, options.settings, options.modules, options.passages)
        house.announce(base)
        loaded = house.load(base)
        asked = asked or extractor_questions.held_out(house, loaded, documents, modules)
        found = {
            document.id: extractor_questions.examples(house, loaded, document, asked[document.id], recipe)
            for document in documents
            if document.id in asked
        }
        left_out = sum(len(asked[about]) - len(some) for about, some in found.items())
        found = {about: some for about, some in found.items() if some}
        if not found:
            raise UsageError(
                f"no question fits in the {base.context:,} tokens that {base.name} reads at once.",
                "Let it read fewer passages, or give shorter questions: --questions FILE",
            )
        taught, held = split(list(found), recipe.held_out, recipe.seed)
        inputs, what = _inputs(recipe, modules, found), ("documents, questions", f"training of {name}")
        resumed = take_up(house, workspace, recipe.as_json(), inputs, what, restart)

        out = house.library.extractors.staging(workspace)
        metrics = training.train(
            loaded,
            [one for about in taught for one in found[about]],
            [one for about in held for one in found[about]],
            lambda about: adapters.read(modules[about].path, loaded.device) if recipe.modules else None,
            recipe,
            workspace,
            out,
            house.report,
        )
        metrics |= {"documents": len(taught), "held_out_documents": len(held)}
        with files.explained(out):
            (out / "card.md").write_text(_card(name, recipe, metrics), "utf-8")
        extractor = house.library.extractors.commit(name, workspace, out, recipe, metrics, list(found))
    return TrainedExtractor(extractor, len(taught), len(held), left_out, resumed, time.monotonic() - started)


def ls(house: House) -> list[Extractor]:
    return house.library.extractors.all()


def show(house: House, name: str) -> Extractor:
    return house.library.extractors.find(name)


def rm(house: House, name: str) -> Extractor:
    return house.library.extractors.remove(name)


def _tell_silent(house: House, documents: Sequence[Document], asked: Mapping[str, Sequence[Question]]) -> None:
    silent = [document.name for document in documents if document.id not in asked]
    if silent:
        house.warn(f"documents left out, about which the file has no question: {', '.join(silent)}")


def _modules(house: House, documents: Sequence[Document], needed: bool) -> dict[str, KnowledgeModule]:
    """By document. Raises NotFoundError where one that is needed is missing."""
    found = {document.id: (document, house.library.module(document)) for document in documents}
    missing = [document for document, module in found.values() if module is None]
    if needed and missing:
        if len(missing) == 1:
            raise untrained(missing[0])
        raise NotFoundError(
            f"{len(missing)} of these documents have no Knowledge Module yet: {missing[0].name} and others.",
            "Make them: km train " + " ".join(document.name for document in missing[:5]),
        )
    return {about: module for about, (_, module) in found.items() if module}


def _inputs(
    recipe: ExtractorRecipe, modules: Mapping[str, KnowledgeModule], found: Mapping[str, Sequence[Example]]
) -> object:
    """What identifies the questions, and the modules that they are read with."""
    tokens = [[about, one.prompt, one.answers, one.right] for about, some in found.items() for one in some]
    return [tokens, [module.id for module in modules.values()] if recipe.modules else []]


def _card(name: str, recipe: ExtractorRecipe, metrics: Mapping[str, object]) -> str:
    reads = "Knowledge Modules" if recipe.modules else "passages"
    if recipe.modules and recipe.passages:
        reads += " and passages"
    lines = [
        f"# Knowledge Extractor {name}",
        "",
        f"A LoRA adapter (PEFT format) shared by documents: with it the base makes more of their {reads}. Beside it, in "
        "mixing.safetensors, are the weights of both, a pair a layer.",
        "",
        f"- Base: {recipe.base_label or recipe.model}, revision {recipe.revision}. It fits no other weights.",
        f"- Made with {metrics['training_questions']} questions about {metrics['documents']} documents in "
        f"{metrics['steps']} steps.",
    ]
    if metrics["held_out_loss"] is not None:
        alone, loss = metrics["module_loss"], metrics["held_out_loss"]
        others = f"{metrics['held_out_documents']} other documents"
        lines.append(f"- Loss on the questions of {others}: {loss:.3f} (without it {alone:.3f}).")
    return "\n".join(lines) + "\n"
