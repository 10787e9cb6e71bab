"""Knowledge Extractors in use: baked with a document's Knowledge Module into one plain LoRA, kept in the cache, which then
stands wherever the module would."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path

from kmcli import adapters, bases
from kmcli.bases import Base
from kmcli.errors import ResourceError, UsageError
from kmcli.library.extractors import Extractor, ExtractorRecipe
from kmcli.library.files import delete, explained, make_folder, move, seal
from kmcli.types import Document, KnowledgeModule, Method, Recipe
from kmcli.workflows.house import House

ALONE = "extractor"
"""In place of a document's id: an extractor that is used without a Knowledge Module."""


def chosen(house: House) -> Extractor | None:
    """The extractor that was asked for by --extractor. Raises NotFoundError."""
    return house.library.extractors.find(house.extractor) if house.extractor else None


def chosen_for_modules(house: House) -> Extractor | None:
    """The same. Raises UsageError where it reads passages, where none are looked up."""
    extractor = chosen(house)
    if extractor and method_of(extractor) != "km+ke":
        raise UsageError(
            f"the extractor {extractor.name} reads passages, and none are looked up here.",
            "Use one that was trained without --passages.",
        )
    return extractor


def module_of(house: House, document: Document) -> KnowledgeModule | None:
    """What answers from a document: its Knowledge Module, with the extractor baked in that was asked for; None where it
    has no module. Raises what `baked` and `chosen_for_modules` raise."""
    module = house.library.module(document)
    extractor = chosen_for_modules(house)
    return baked(house, document, module, extractor) if module and extractor else module


def method_of(extractor: Extractor) -> Method:
    """How it was trained to be used."""
    if not extractor.recipe.passages:
        return "km+ke"
    return "rag+km+ke" if extractor.recipe.modules else "rag+ke"


def baked(house: House, document: Document, module: KnowledgeModule, extractor: Extractor) -> KnowledgeModule:
    """A Knowledge Module and an extractor as one module, written where it is missing.

    Raises UsageError where they are of different bases, or the module takes no extractor, KmError where one is damaged.
    """
    adapters.require(module, document.name, "extractor")
    recipe = extractor.recipe
    if module.recipe.revision != recipe.revision:
        raise UsageError(
            f"the extractor {extractor.name} fits {_label(recipe)}, and the Knowledge Module of {document.name} "
            f"fits {_label(module.recipe)}.",
            f"Train both on one base: km train {document.name} --model {recipe.model}",
        )
    folder = house.library.cache_of(document.id) / f"baked-{module.id}-{extractor.id}"
    if not folder.is_dir():
        for old in folder.parent.glob("baked-*"):
            if not old.name.startswith(f"baked-{module.id}-"):  # of the document's earlier modules
                delete(old)
        _bake(extractor, module, folder)
    rank = dataclasses.replace(module.recipe, rank=module.recipe.rank + recipe.rank)
    return dataclasses.replace(module, id=baked_id(module, extractor), path=folder, recipe=rank)


def baked_id(module: KnowledgeModule, extractor: Extractor) -> str:
    """Of the two baked into one."""
    return f"{module.id}-{extractor.id}"


def alone(house: House, extractor: Extractor) -> KnowledgeModule:
    """An extractor by itself as a module, for reading passages, written where it is missing. Raises KmError where it is
    damaged."""
    folder = house.library.cache_of(ALONE) / f"{ALONE}-{extractor.id}"
    if not folder.is_dir():
        _bake(extractor, None, folder)
    recipe = Recipe(model=extractor.recipe.model, revision=extractor.recipe.revision, rank=extractor.recipe.rank)
    return KnowledgeModule(extractor.id, ALONE, folder, recipe, extractor.metrics, "", extractor.created)


def baker(
    house: House, document: Document, base: Base, held_out: bool
) -> Callable[[KnowledgeModule | None], Path] | None:
    """What makes the folder of a plain LoRA of the extractor that was asked for and a module of the document, or of the
    extractor alone; None where none was asked for.

    held_out: questions of the document's study material are to be asked. Raises UsageError where the extractor was trained
    on those, or on another base.
    """
    extractor = chosen(house)
    if extractor is None:
        return None
    require_base(extractor, base)
    if document.id in extractor.documents:
        taught = f"the extractor {extractor.name} was trained on questions about {document.name}"
        if held_out:
            raise UsageError(f"{taught}.", "Compare another document, or give other questions: --questions FILE")
        house.warn(f"{taught}: if these are among them, what it scores says nothing about others")

    def folder(module: KnowledgeModule | None) -> Path:
        return (baked(house, document, module, extractor) if module else alone(house, extractor)).path

    return folder


def base_of(house: House, extractor: Extractor) -> Base:
    """The base that an extractor was trained on. Raises ResourceError where only another version of it is here."""
    recipe = extractor.recipe
    base = bases.find(recipe.model, house.report, recipe.revision)
    if base.revision != recipe.revision:
        raise ResourceError(
            f"the extractor {extractor.name} was trained on another version of {recipe.base_label or recipe.model}.",
            f"Train it on the one that is here: km extractor train {extractor.name}",
        )
    return base


def require_base(extractor: Extractor | None, base: Base) -> None:
    """Raises UsageError where an extractor is of another base."""
    if extractor and extractor.recipe.revision != base.revision:
        raise UsageError(
            f"the extractor {extractor.name} fits {_label(extractor.recipe)}, and not {base.label or base.name}.",
            f"Use that base: --model {extractor.recipe.model}",
        )


def served_name(house: House, document: Document, module: KnowledgeModule) -> str | None:
    """What `km serve` calls this very module; None where it has no name there."""
    if module.document_id == ALONE:
        return None
    return f"{document.name}{f'+{house.extractor}' if house.extractor else ''}@{module.id}"


def _label(recipe: Recipe | ExtractorRecipe) -> str:
    return recipe.base_label or recipe.model


def _bake(extractor: Extractor, module: KnowledgeModule | None, folder: Path) -> None:
    from kmcli.adapters.extractor import bake

    making = folder.with_name(f".{secrets.token_hex(4)}.tmp")
    with explained(folder):
        make_folder(folder.parent)
        make_folder(making)
        try:
            bake(extractor.path, module.path if module else None, making)
            seal(making)
            if not folder.is_dir():  # another process may have been first
                move(making, folder)
        finally:
            delete(making)
