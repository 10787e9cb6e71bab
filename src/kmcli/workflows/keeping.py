"""Going back to a module of another kind of adapter, which was kept: nothing is trained anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kmcli.types import Document, Event, Recipe
from kmcli.workflows.house import House


def take_up(house: House, documents: Sequence[Document], wanted: Recipe) -> None:
    """Of each document whose own module is fresh, let a kept one that is as wished answer again."""
    for document in documents:
        own = house.library.module(document)
        if own is None or own.recipe.adapter == wanted.adapter or house.library.state(document) != "fresh":
            continue
        for module in house.library.kept_modules(document):
            if as_wished(module.recipe, wanted):
                house.library.take_up(document, module)
                told = f"{document.name} answers by its {wanted.adapter} again, which was trained before"
                house.report(Event("train", told))


def as_wished(recipe: Recipe, wanted: Recipe) -> bool:
    """Whether what was trained by a recipe is what was asked for."""
    examined = recipe.exam and wanted.exam  # what is examined need not be trained again without
    fewer = min(recipe.exam_rounds, wanted.exam_rounds)  # nor with fewer rounds
    return replace(recipe, init_revision="", exam=examined, exam_rounds=fewer) == wanted
