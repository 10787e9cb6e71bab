"""What is to be done about a document that `km train` is asked for: its unfinished training, a new one, or nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kmcli import bases
from kmcli.bases import Base
from kmcli.errors import KmError, UsageError
from kmcli.library.layout import RUN
from kmcli.types import Document, Recipe
from kmcli.workflows import calibrating, keeping, redline
from kmcli.workflows.house import House
from kmcli.workflows.material import RecipeOptions
from kmcli.workflows.task import Task


def task_of(
    house: House,
    document: Document,
    base: Base,
    wanted: Recipe,
    options: RecipeOptions,
    restart: bool = False,
    again: bool = False,
    everything: bool = False,
) -> Task | None:
    """What is to be done about a document: its unfinished training, the calibration that a stop has left out, or a new
    training, on what has changed or on all of it; None where nothing is left.

    base: of the recipe `wanted`. again: it is trained again where nothing is left. Raises UsageError where the command line
    asks for another base or recipe than the unfinished training has.
    """
    task = _unfinished(house, document, wanted, options)
    if task is not None:
        return task
    if not again and as_wished(house, document, wanted, options, everything):
        return _calibration(house, document) if _uncalibrated(house, document, wanted, options) else None
    return anew(house, document, base, wanted, options, restart)


def anew(
    house: House, document: Document, base: Base, wanted: Recipe, options: RecipeOptions, restart: bool = False
) -> Task:
    """A new training, on what has changed or on all of it."""
    old = None if restart else redline.begins_from(house, document, wanted, options.given)
    recipe = redline.recipe_of(old, wanted, options.given) if old else wanted
    return Task(document, base, recipe, False, update=old)


def met(house: House, document: Document, wanted: Recipe, options: RecipeOptions, everything: bool) -> bool:
    """Whether nothing is left to do: the document is trained as wished, and nothing stopped km between exam and end."""
    return as_wished(house, document, wanted, options, everything) and not _uncalibrated(
        house, document, wanted, options
    )


def _uncalibrated(house: House, document: Document, wanted: Recipe, options: RecipeOptions) -> bool:
    """Whether the module was examined, and nobody knows yet how sure its answers are."""
    module = house.library.module(document)
    wished = wanted.exam or not options.given
    return module is not None and wished and calibrating.missing(house, module)


def _calibration(house: House, document: Document) -> Task:
    """What is left to do for a module that is as wished, but for that."""
    module = house.library.module(document)
    assert module is not None
    return Task(document, house.base_of(document, module), replace(module.recipe, exam_rounds=0), True, module)


def as_wished(house: House, document: Document, wanted: Recipe, options: RecipeOptions, everything: bool) -> bool:
    """Whether the document is fresh, and trained as wished, as far as a wish was spoken.

    A document that is named is trained on the base of the settings; --all leaves alone what is fresh on another, unless
    --model names the base.
    """
    module = house.library.module(document)
    if module is None or house.state(document) != "fresh":
        return False
    if options.given:
        return keeping.as_wished(module.recipe, wanted)
    if everything and house.settings["model"].origin != "flag":
        return True
    return _base_name(module.recipe) == _base_name(wanted)


def _base_name(recipe: Recipe) -> tuple[str, str]:
    return recipe.model, recipe.revision


def _unfinished(house: House, document: Document, wanted: Recipe, options: RecipeOptions) -> Task | None:
    """The document's unfinished training, whatever the settings say, of which only the exam may be left; None where nothing
    can go on.

    Raises UsageError where the command line asks for another base or recipe.
    """
    run = _run(house, document)
    if run is None:
        return None
    try:
        recipe, text_sha256 = Recipe.from_json(run["recipe"]), run["text_sha256"]
        trained, begun_from = run.get("module"), run.get("update")
    except (KeyError, TypeError):
        raise _damaged(document) from None
    module = house.library.module(document) if trained or begun_from else None
    if trained and module and module.id != trained:
        house.library.clear_workspace(document)
        return None
    if begun_from and (module is None or module.id != begun_from):
        _start_anew(house, document, "the Knowledge Module")
        return None
    if text_sha256 != document.text_sha256:
        _start_anew(house, document, "the document")
        return None
    if recipe.group and recipe.group != wanted.group:
        raise UsageError(
            f"{document.name} has an unfinished training in a group ({recipe.group}).",
            "Go on with it by naming all of them, with --group, or start over with --restart.",
        )
    if options.given:
        recipe = replace(recipe, exam=wanted.exam, exam_rounds=wanted.exam_rounds)
    other_base = house.settings["model"].origin == "flag" and recipe.model != wanted.model
    here = replace(
        recipe,
        revision=wanted.revision,
        base_label=wanted.base_label,
        teacher_revision=wanted.teacher_revision,
        init_revision="",
    )
    other_recipe = options.given and here != wanted
    if other_base or other_recipe:
        raise UsageError(
            f"{document.name} has an unfinished training by another recipe (base {recipe.model}).",
            "Go on with it by leaving the options out, or start over with --restart.",
        )
    base = bases.find(recipe.model, house.report, recipe.revision)
    if base.revision != recipe.revision:
        _start_anew(house, document, "the base")
        return None
    return Task(document, base, recipe, True, module if trained else None, None if trained else module)


def _run(house: House, document: Document) -> dict[str, Any] | None:
    """What was noted of the document's unfinished training; None where there is none."""
    if house.library.state(document) != "interrupted":
        return None
    try:
        return dict(json.loads((house.library.workspace(document) / RUN).read_text("utf-8")))
    except (ValueError, TypeError):
        raise _damaged(document) from None


def _damaged(document: Document) -> KmError:
    return KmError(
        f"the unfinished training of {document.name} is damaged, or was begun by a newer km.",
        "Start over with --restart.",
    )


def let_off(house: House, document: Document) -> None:
    """Where only the exam is left of a training, end it without."""
    with suppress(KmError):
        if (_run(house, document) or {}).get("module"):
            house.library.clear_workspace(document)


def _start_anew(house: House, document: Document, changed: str) -> None:
    house.warn(f"{changed} has changed since the unfinished training of {document.name}: starting anew")
    house.library.clear_workspace(document)
