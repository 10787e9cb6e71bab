"""watch: a folder that is kept in the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, opened, verb
from kmcli.cli.recipe_flags import Preset, RecipeFile, Set, recipe_options
from kmcli.cli.screen import Screen
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.workflows.watching import Happened


@verb("Library", "km watch papers/", "km watch papers/ --tag thesis --train --preset quick")
def watch(
    screen: Screen,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder, with those in it.")],
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; may be repeated.")] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train its documents too, and again when they change.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often it is looked at.")
    ] = 2.0,
    preset: Preset = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    model: Model = None,
    device: Device = None,
) -> object:
    """Keep a folder in the library: add and update its files.

    A document whose file was moved is followed; one whose file was deleted stays in the library, and that is said. A file is
    taken when nobody writes to it any more. Ctrl-C ends it; nothing is lost.
    """
    from kmcli.workflows import watching

    options = recipe_options(preset, recipe, settings)
    if options.given and not train:
        raise UsageError("how to train is said, and not that it should.", "Add --train, or leave the recipe out.")
    told: list[dict[str, Any]] = []

    def tell(happened: Happened) -> None:
        if screen.json:
            told.append(_data(happened))
        _show(screen, happened)

    with opened(screen, model=model, device=device, preset=preset) as house:
        watched = watching.watch(house, folder, tell, tag or (), options if train else None, every)
    done = ", ".join(f"{count:,} {kind}" for kind, count in watched.counts.items()) or "nothing has happened"
    screen.note(f"stopped: {done}")
    if watched.interrupted:
        screen.fail(watched.interrupted)
        screen.exit_code = watched.interrupted.exit_code
    return {"happened": told, "counts": watched.counts}


def _data(happened: Happened) -> dict[str, Any]:
    return {
        "kind": happened.kind,
        "path": happened.path,
        "document": happened.document.name if happened.document else None,
        "stale": happened.stale,
        "error": None if happened.error is None else render.error_data(happened.error),
    }


def _show(screen: Screen, happened: Happened) -> None:
    if happened.error:
        screen.fail(happened.error, happened.path)
        return
    assert happened.document
    name = happened.document.name
    screen.write(f"{happened.kind:<8} {name}  {happened.path}")
    if happened.stale:
        screen.note(f"{name} has changed: its Knowledge Module is stale until km train {name}.")
    elif happened.kind == "gone":
        screen.note(f"{name} stays in the library; km rm {name} removes it.")
