"""`km` alone: the next step to take. And `km --version`."""

from __future__ import annotations

from typing import Annotated

import typer

from kmcli.cli.app import app, opened
from kmcli.cli.screen import Screen

LOOKED_AT = 200
"""Documents whose state is looked up; of those that come after them only whether they are trained."""


def _version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from kmcli import __version__

        context.obj.write(f"km {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Each document gets a Knowledge Module: an adapter with which a model answers without reading it. km alone says what
    is next, km COMMAND --help more.
    """
    if context.invoked_subcommand is None:
        screen: Screen = context.obj
        command, why = next_step(screen)
        screen.paragraph(why)
        screen.write(f"\n  {command}\n", bold=True)
        screen.write("All commands: km --help")


def next_step(screen: Screen) -> tuple[str, str]:
    """The command that a person would run now, and one sentence on why."""
    from kmcli.workflows import documents

    with opened(screen) as house:
        entries = documents.ls(house, limit=LOOKED_AT)
        unmade, newest, total = documents.next_ones(house)
    if not entries:
        return "km add FILE", "The library is empty. Add a PDF, Word, HTML, EPUB or text file, a folder, or a URL."
    for state, why in (
        ("interrupted", "The training of {} was interrupted. The same command goes on where it stopped."),
        ("untrained", "{} has no Knowledge Module yet."),
        ("stale", "{} or the embedded base has changed since its Knowledge Module was trained."),
        ("training", "{} is being trained, by another km."),
    ):
        for entry in entries:
            if entry.state == state:
                name = entry.document.name
                return "km ls" if state == "training" else f"km train {name}", why.format(name)
    if unmade:
        return f"km train {unmade.name}", f"{unmade.name} has no Knowledge Module yet."
    assert newest
    return f'km ask {newest.name} "question"', f"Every document is trained ({total:,}). Ask one something."
