"""Where a training begins that does not begin afresh: at another Knowledge Module, or at the mean of the
library's, or of those that a tag stands for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli import adapters
from kmcli.errors import KmError, UsageError
from kmcli.types import Document, Event, KnowledgeModule, Recipe
from kmcli.workflows.house import House, untrained
from kmcli.workflows.naming import MARK, tagged

if TYPE_CHECKING:
    from kmcli.adapters.start import Start

LIBRARY = "library"
AFRESH = "Leave --init out to begin afresh"


def modules(house: House, recipe: Recipe, document: Document | None = None) -> list[KnowledgeModule]:
    """The modules that a recipe begins from, in an order that is always the same.

    document: that is trained; its own module is no part of the library's mean.
    Raises NotFoundError where there is no such document or it has no module, UsageError where none fits.
    """
    library = house.library
    several = recipe.init == LIBRARY or recipe.init.startswith(MARK)
    if not several:
        other = library.find(recipe.init)
        module = library.module(other)
        if module is None:
            raise untrained(other)
        if (module.recipe.model, module.recipe.revision) != (recipe.model, recipe.revision):
            raise UsageError(
                f"the Knowledge Module of {other.name} fits another base ({module.recipe.model}).",
                f"{AFRESH}, or train on that base: --model {module.recipe.model}",
            )
        adapters.require(module, other.name, "init")
        if module.recipe.rank != recipe.rank:
            raise UsageError(
                f"the Knowledge Module of {other.name} has rank {module.recipe.rank}, and this recipe {recipe.rank}.",
                f"{AFRESH}, or train with that rank: --set rank={module.recipe.rank}",
            )
        return [module]
    found = []
    for other in library.documents() if recipe.init == LIBRARY else tagged(library, recipe.init):
        if document is None or other.id != document.id:
            try:
                module = library.module(other)
            except KmError:  # of a newer km
                continue
            if module and _fits(module.recipe, recipe):
                found.append(module)
    if not found:
        carrying = "" if recipe.init == LIBRARY else f" with the tag {recipe.init.removeprefix(MARK)!r}"
        raise UsageError(
            f"no other document{carrying} has a Knowledge Module of rank {recipe.rank} on {recipe.model} to begin from.",
            f"{AFRESH}: with the first ones the library can help the next.",
        )
    return sorted(found, key=lambda module: module.id)


def _fits(one: Recipe, other: Recipe) -> bool:
    return (one.adapter, one.model, one.revision, one.rank) == (other.adapter, other.model, other.revision, other.rank)


def outranked(workspace: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    from kmcli.training.checkpoint import CHECKPOINT

    return (workspace / CHECKPOINT).exists()


def begin(house: House, document: Document, recipe: Recipe) -> tuple[Recipe, Start]:
    """The recipe with what it begins from pinned, and the weights. Raises as `modules` does, and KmError where a module is
    damaged."""
    from kmcli.adapters.start import start

    found = modules(house, recipe, document)
    whose = f"the Knowledge Module of {recipe.init}"
    if recipe.init == LIBRARY or recipe.init.startswith(MARK):
        whose = f"the mean of {len(found)} Knowledge Module{'s' if len(found) > 1 else ''}"
    house.report(Event("train", f"{document.name} begins from {whose}"))
    ids = "\n".join(module.id for module in found)
    revision = found[0].id if len(found) == 1 else hashlib.sha256(ids.encode()).hexdigest()[:16]
    return replace(recipe, init_revision=revision), start([module.path for module in found], recipe)


def of_module(module: KnowledgeModule) -> Start:
    """The weights of a module, to go on from. Raises KmError where it is damaged."""
    from kmcli.adapters.start import start

    return start([module.path], module.recipe)
