"""search: passages of the whole library."""

from __future__ import annotations

import sys
from typing import Annotated, get_args

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, opened, verb
from kmcli.cli.screen import Screen, columns
from kmcli.errors import UsageError


@verb("Use", 'km search "notice period"', 'km search "when does it end" --retriever dense')
def search(
    screen: Screen,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Words, or with --retriever dense a sentence.")],
    k: Annotated[int, typer.Option("-k", "--passages", metavar="N", min=1, max=100, help="Passages to show.")] = 10,
    retriever: Annotated[
        str, typer.Option("--retriever", metavar="NAME", help="By words (bm25), by meaning (dense), or both (hybrid).")
    ] = "bm25",
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", metavar="NAME", help="Model for dense: minilm, a sentence-transformers name, a folder."
        ),
    ] = None,
    device: Device = None,
) -> object:
    """Find passages in all documents.

    No model answers here: it shows what the documents say, with the page.
    """
    from kmcli.evaluation.comparison import Retriever
    from kmcli.workflows import searching

    if retriever not in get_args(Retriever):
        raise UsageError(f"there is no retriever {retriever!r}.", f"It is one of: {', '.join(get_args(Retriever))}")
    with opened(screen, embedder=embedder, device=device) as house:
        found = searching.search(house, query, k, retriever)  # type: ignore[arg-type]
    for passage in found:
        page = "" if passage.page is None else f", page {passage.page}"
        screen.write(f"{render.one_line(passage.document)}{page}", bold=True)
        screen.write(render.wrapped(passage.text, columns(sys.stdout), indent=2))
    if not found:
        screen.note("No document has any of these words.")
    return found
