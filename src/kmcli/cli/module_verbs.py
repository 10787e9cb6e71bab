"""train and synth: making Knowledge Modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, opened, verb
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.library_verbs import document_data, module_data
from kmcli.cli.screen import Screen

if TYPE_CHECKING:
    from kmcli.workflows.study import Trained

Preset = Annotated[
    str | None, typer.Option("--preset", metavar="PRESET", help="How thoroughly: quick, standard or paper.")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe in TOML.")]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="OBJECTIVE",
        help="What it optimises: dcd, sdcd, ddcd, lm, pit or skd; or a mix: dcd,lm:0.1.",
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value of the recipe; may be repeated.")
]


@verb(
    "Knowledge Modules",
    "km train report",
    "km train --all --preset quick",
    "km train report --set steps=100 --set rank=8",
    aliases=("distill",),
)
def train(
    screen: Screen,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Documents, as km ls shows them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every document that is not fresh.")] = False,
    preset: Preset = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    objective: Objective = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it is fresh already, or the base cannot read the document.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what an interrupted training left, and begin again.")
    ] = False,
    model: Model = None,
    device: Device = None,
) -> object:
    """Write study material, then distil it into a Knowledge Module.

    Another objective is for experiments: lm and ddcd read the document itself and need no study material.
    Ctrl-C saves what is done; the same command goes on from there.
    """
    from kmcli.workflows import study
    from kmcli.workflows.material import RecipeOptions

    chosen = [*(settings or ()), *([f"objective={objective}"] if objective is not None else [])]
    options = RecipeOptions(preset, recipe, chosen)
    with opened(screen, model=model, device=device, preset=preset) as house:
        report = study.train(house, names or [], everything, options, force, restart)
    for trained in report.trained:
        _tell_trained(screen, trained)
    if report.skipped:
        fresh = [document.name for document in report.skipped]
        which = f"{fresh[0]} is" if len(fresh) == 1 else f"{len(fresh)} documents are"
        screen.note(f"{which} trained already. To train again, add --force.")
    finished = len(report.trained) + len(report.skipped)
    screen.exit_code = batch_exit_code(screen, report.failed, finished, report.interrupted)
    if report.trained:
        screen.note(f'Next: km ask {report.trained[0].document.name} "question"')
    return {
        "trained": [
            {
                "document": document_data(trained.document),
                "module": module_data(trained.module),
                "resumed": trained.resumed,
                "seconds": trained.seconds,
                "kept": trained.kept,
                "written": trained.written,
                "samples": trained.samples,
            }
            for trained in report.trained
        ],
        "skipped": [document.name for document in report.skipped],
    }


def _tell_trained(screen: Screen, trained: Trained) -> None:
    metrics = trained.module.metrics
    speed = metrics.get("tokens_per_second")
    losses = [
        f"{render.number(metrics[key])} {words}"
        for key, words in (("train_loss", "in training"), ("held_out_loss", "held out"))
        if metrics.get(key) is not None
    ]
    parts = [
        f"{words} {render.number(metrics[key])}"
        for key, words in (("kl", "KL"), ("hidden", "hidden"))
        if key in metrics
    ]
    screen.write(f"{trained.document.name}: Knowledge Module {'finished' if trained.resumed else 'trained'}", bold=True)
    screen.facts(
        [
            (
                "study material",
                study_material(trained.written, trained.kept, trained.samples) if trained.samples else "none needed",
            ),
            ("steps", f"{metrics['steps']:,}" if "steps" in metrics else ""),
            ("loss", ", ".join(losses) + (f" ({', '.join(parts)})" if losses and parts else "")),
            ("time", render.duration(trained.seconds) + (f", {speed:,.0f} tokens/s" if speed else "")),
        ],
        indent="  ",
    )


def study_material(written: int, kept: int, samples: int) -> str:
    """How much was written in this run, and how much there is."""
    if not written:
        return f"{render.count(samples, 'sample')}, written earlier"
    earlier = "" if samples == kept else f"; {samples:,} altogether"
    return f"{kept:,} of {render.count(written, 'sample')} kept{earlier}"


@verb("Research", "km synth report", "km synth report --set generations=4", aliases=("synthesize",))
def synth(
    screen: Screen,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Documents, as km ls shows them.")],
    preset: Preset = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the base cannot read the document.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop the study material there is, and begin again.")
    ] = False,
    model: Model = None,
    device: Device = None,
) -> object:
    """Write study material only, without training on it."""
    from kmcli.workflows import material

    options = material.RecipeOptions(preset, recipe, settings or ())
    with opened(screen, model=model, device=device, preset=preset) as house:
        report = material.synth(house, names, options, force, restart)
    rows: Sequence[Sequence[str]] = [
        [one.document.name, study_material(one.written, one.kept, one.samples), f"in {render.duration(one.seconds)}"]
        for one in report.written
    ]
    screen.table(rows)
    screen.exit_code = batch_exit_code(screen, report.failed, len(report.written), report.interrupted)
    if report.written:
        screen.note(f"Next: km train {report.written[0].document.name}")
    return [{**render.as_data(one), "document": document_data(one.document)} for one in report.written]
