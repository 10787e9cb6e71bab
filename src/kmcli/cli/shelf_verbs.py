"""tag, mv, rm: what documents are called, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import render
from kmcli.cli.app import opened, verb
from kmcli.cli.library_verbs import GROUP, document_data
from kmcli.cli.screen import Screen
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.workflows.documents import Entry

NAMED = 8
"""So many documents are named in a question; of more, the first ones."""


@verb(GROUP, "km tag report handbook --add contracts", "km tag @contracts --add 2024 --remove draft", "km tag")
def tag(
    screen: Screen,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Documents, or @TAG for all with a tag.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option("--add", metavar="TAG", help="Add a tag; may be repeated.")] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="TAG", help="Take a tag away; may be repeated.")
    ] = None,
) -> object:
    """Add and remove tags; alone, list them.

    Wherever several documents can be named, @TAG stands for all that have the tag.
    """
    from kmcli.workflows import documents

    if not names and not add and not remove:
        with opened(screen) as house:
            counts = documents.tags(house)
        if counts:
            screen.table([[tag, render.count(number, "document")] for tag, number in counts.items()])
        else:
            screen.note("There are no tags. Next: km tag NAME --add TAG")
        return counts
    if not names or not (add or remove):
        raise UsageError("say which documents, and what to do.", "For example: km tag report --add contracts")
    with opened(screen) as house:
        changed = documents.tag(house, names, add or (), remove or ())
    screen.table([[document.name, ", ".join(document.tags) or "no tags"] for document in changed], flex=(1, 0))
    return [document_data(document) for document in changed]


@verb(GROUP, "km mv report annual-report")
def mv(
    screen: Screen,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The name it has.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name it gets.")],
) -> object:
    """Rename a document."""
    from kmcli.workflows import documents

    with opened(screen) as house:
        document = documents.mv(house, old, new)
    screen.write(f"{old} is now {document.name}")
    return document_data(document)


@verb(GROUP, "km rm report", "km rm --yes draft-1 draft-2")
def rm(
    screen: Screen,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Documents, or @TAG for all with a tag.")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> object:
    """Remove documents and their Knowledge Modules.

    Their study material goes too. The files that they were read from stay where they are.
    """
    from kmcli.workflows import documents

    with opened(screen) as house:
        if not yes:
            entries = documents.entries(house, names)
            if not _confirmed(screen, entries):
                screen.note("Nothing was removed.")
                return []
            names = [entry.document.name for entry in entries]  # a tag may have been given to others meanwhile
        removed = documents.rm(house, names)
    for document in removed:
        screen.write(f"removed {document.name}")
    return [document_data(document) for document in removed]


def _confirmed(screen: Screen, entries: list[Entry]) -> bool:
    named = ", ".join(entry.document.name for entry in entries[:NAMED])
    if len(entries) > NAMED:
        named += f" and {render.count(len(entries) - NAMED, 'other document')}"
    if not screen.interactive:
        raise UsageError(f"nobody can be asked here whether to remove {named}.", "Add --yes.")
    trained = sum(entry.module is not None for entry in entries)
    what = f" and {render.count(trained, 'Knowledge Module')}" if trained else ""
    return screen.confirm(f"Remove {named}{what}?")
