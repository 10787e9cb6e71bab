"""compressor: what makes summary vectors of a document, trained once for a base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, opened, verb
from kmcli.cli.recipe_flags import Restart, Set
from kmcli.cli.screen import Screen
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.library.compressors import Kept
    from kmcli.workflows.compressor import TrainedCompressor

Action = Literal["train", "ls", "rm"]


@verb(
    "Research",
    "km compressor train",
    "km compressor train @contracts --set steps=3000",
    "km compressor ls",
)
def compressor(
    screen: Screen,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="train, ls or rm.")] = "ls",
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="With train: documents, or @TAG; left out: the whole library."),
    ] = None,
    settings: Set = None,
    restart: Restart = False,
    model: Model = None,
    device: Device = None,
) -> object:
    """Train what compressed documents begin from, once for a base.

    A compressor makes of every so many tokens of a text a vector that the base reads in their place. It is trained once for
    a base, on the library's own texts. km train NAME --adapter compressed uses it, for documents that came later as well.
    """
    from kmcli.workflows import compressor as work

    if action != "train" and (names or settings or restart):
        raise UsageError(f"km compressor {action} takes nothing more.", "See km compressor --help.")
    with opened(screen, model=model, device=device) as house:
        if action == "ls":
            return _list(screen, work.ls(house))
        if action == "rm":
            removed = work.rm(house)
            screen.write(f"removed the compressor for {removed.base}")
            return compressor_data(removed)
        trained = work.train(house, names or [], settings or (), restart)
    return _tell_trained(screen, trained)


def _tell_trained(screen: Screen, trained: TrainedCompressor) -> object:
    kept, metrics = trained.compressor, trained.compressor.metrics
    screen.write(f"compressor for {kept.base}: {'finished' if trained.resumed else 'trained'}", bold=True)
    facts = [
        ("trained on", render.count(trained.documents, "document")),
        ("steps", f"{metrics['steps']:,} of {metrics['planned_steps']:,}"),
    ]
    if metrics["held_out_loss"] is not None:
        others = render.count(trained.held_out, "other document")
        loss, means = (render.number(metrics[key]) for key in ("held_out_loss", "means_loss"))
        facts.append(("loss", f"{loss} on {others}; with means of embeddings {means}"))
    screen.facts([*facts, ("time", render.duration(trained.seconds))], indent="  ")
    screen.note("Next: km train NAME --adapter compressed")
    return {
        "compressor": compressor_data(kept),
        "documents": trained.documents,
        "held_out": trained.held_out,
        "resumed": trained.resumed,
        "seconds": trained.seconds,
    }


def _list(screen: Screen, found: list[Kept]) -> object:
    if found:
        rows = [[one.base, f"{one.metrics['documents']:,}", render.when(one.created)] for one in found]
        screen.table(rows, ["BASE", "DOCUMENTS", "TRAINED"], right=(1,), flex=0)
    else:
        screen.note("There is no compressor yet. Train the base's: km compressor train")
    return [compressor_data(one) for one in found]


def compressor_data(one: Kept) -> dict[str, Any]:
    """A compressor in the envelope's data, without its loss curve, which about.json keeps."""
    return render.without_curve(one)
