"""train and synth: making Knowledge Modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import estimates, exam, render
from kmcli.cli.app import Device, Model, Processes, opened, verb
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.library_verbs import document_data, module_data
from kmcli.cli.recipe_flags import (
    Adapter,
    ChunkTokens,
    DistilFrom,
    Engine,
    Frozen,
    Generations,
    Init,
    Judge,
    MaxTokens,
    MinScore,
    Objective,
    OfGroup,
    Overlap,
    Preset,
    Ratio,
    Ray,
    RecipeFile,
    Refine,
    Set,
    Teacher,
    Temperature,
    Tokens,
    recipe_options,
)
from kmcli.cli.screen import Screen
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.workflows.task import Trained


@verb(
    "Knowledge Modules",
    "km train report",
    "km train --all --preset quick",
    "km train report --set rank=8 --estimate",
    aliases=("distill",),
)
def train(
    screen: Screen,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Documents, or @TAG for all with a tag.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every document that is not fresh.")] = False,
    preset: Preset = None,
    settings: Set = None,
    recipe: RecipeFile = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it would take, by a short trial.")
    ] = False,
    no_exam: Annotated[
        bool, typer.Option("--no-exam", help="Do not question the Knowledge Module at the end.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what is fresh, or what the base cannot read.")] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="From nothing, whatever an earlier training left."),
    ] = False,
    objective: Objective = None,
    engine: Engine = None,
    teacher: Teacher = None,
    distil_from: DistilFrom = None,
    adapter: Adapter = None,
    tokens: Tokens = None,
    frozen: Frozen = None,
    ratio: Ratio = None,
    refine: Refine = False,
    group: OfGroup = False,
    init: Init = None,
    chunk_tokens: ChunkTokens = None,
    overlap: Overlap = None,
    generations: Generations = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    judge: Judge = False,
    min_score: MinScore = None,
    model: Model = None,
    device: Device = None,
    processes: Processes = None,
    ray: Ray = None,
) -> object:
    """Write study material, then distil it into a Knowledge Module.

    Ctrl-C saves what is done; the same command goes on from there. Of a changed document it studies only what changed
    (km show --changes).
    """
    from kmcli.workflows import study

    options = recipe_options(
        preset,
        recipe,
        settings,
        objective=objective,
        adapter=adapter,
        cartridge_tokens=tokens,
        cartridge_frozen=frozen,
        summary_ratio=ratio,
        summary_refined="true" if refine else None,
        teacher=teacher,
        distil_from=distil_from,
        init=init,
        chunk_tokens=chunk_tokens,
        chunk_overlap=overlap,
        generations=generations,
        max_tokens=max_tokens,
        temperature=temperature,
        judge="true" if judge else None,
        min_score=min_score,
        exam="false" if no_exam else None,
    )
    flags = {"model": model, "device": device, "processes": processes, "preset": preset, "engine": engine}
    with opened(screen, **flags) as house:
        if estimate and group:
            raise UsageError(
                "what a group takes is not estimated.", "Leave --group out: it takes about as much as they do."
            )
        if estimate:
            return estimates.of_train(screen, house, names or [], everything, options, force or restart, ray)
        report = study.train(house, names or [], everything, options, force, restart, group, ray)
    for trained in report.trained:
        _tell_trained(screen, trained)
    estimates.tell_skipped(screen, report.skipped)
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
                "exam": exam.head_data(trained.exam),
            }
            for trained in report.trained
        ],
        "skipped": [document.name for document in report.skipped],
    }


def _tell_trained(screen: Screen, trained: Trained) -> None:
    from kmcli.cli import curve

    screen.write(f"{trained.document.name}: Knowledge Module {'finished' if trained.resumed else 'trained'}", bold=True)
    screen.facts(
        [
            (
                "study material",
                study_material(trained.written, trained.kept, trained.samples) if trained.samples else "none needed",
            ),
            *curve.facts(trained.module.metrics),
            ("time", render.duration(trained.seconds)),
            ("exam", exam.sentence(trained.exam)),
            ("update", _update(trained)),
        ],
        indent="  ",
    )


def _update(trained: Trained) -> str:
    """What a training on top of another module changed; "" where it began from nothing."""
    update = trained.module.metrics.get("update")
    if not update:
        return ""
    changed = f"{update['changed']:,} of {render.count(update['chunks'], 'chunk')}"
    return f"{changed} had changed; what is answered differently: km show {trained.document.name} --changes"


def study_material(written: int, kept: int, samples: int) -> str:
    """How much was written in this run, and how much there is."""
    if not written:
        return f"{render.count(samples, 'sample')}, written earlier"
    earlier = "" if samples == kept else f"; {samples:,} altogether"
    return f"{kept:,} of {render.count(written, 'sample')} kept{earlier}"


@verb(
    "Research",
    "km synth report",
    "km synth report --show --task qa",
    "km synth report --estimate",
    aliases=("synthesize",),
)
def synth(
    screen: Screen,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Documents, or @TAG for all with a tag.")],
    preset: Preset = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    engine: Engine = None,
    teacher: Teacher = None,
    chunk_tokens: ChunkTokens = None,
    overlap: Overlap = None,
    generations: Generations = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    judge: Judge = False,
    min_score: MinScore = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the base cannot read the document.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop the study material there is, and begin again.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Write nothing: show the study material of a document.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write nothing: save it as JSONL; - for stdout.")
    ] = None,
    import_: Annotated[
        str | None, typer.Option("--import", metavar="FILE", help="Write nothing: add samples from JSONL; - for stdin.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="With --show and --export: of this task alone.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it would take, by a short trial.")
    ] = False,
    model: Model = None,
    device: Device = None,
    ray: Ray = None,
) -> object:
    """Write study material only, without training on it.

    Material of another tool can be studied too: --import takes lines with a prompt, a response and, where it is known, the
    chunk they are about (see km synth --export for the form). The recipe's tasks are written beside it, unless they are
    just the task import.
    """
    from kmcli.cli import synth_files
    from kmcli.workflows import material

    options = recipe_options(
        preset,
        recipe,
        settings,
        teacher=teacher,
        chunk_tokens=chunk_tokens,
        chunk_overlap=overlap,
        generations=generations,
        max_tokens=max_tokens,
        temperature=temperature,
        judge="true" if judge else None,
        min_score=min_score,
    )
    asked = [option for option, given in (("--show", show), ("--export", export), ("--import", import_)) if given]
    if task is not None and asked not in (["--show"], ["--export"]):
        raise UsageError("--task goes with --show or --export.", "To write one task alone: --set tasks=qa")
    if asked:
        writing = (("--restart", restart), ("--force", force), ("--estimate", estimate), ("--ray", ray))
        if wrong := [option for option, given in writing if given]:
            raise UsageError(f"{wrong[0]} is for writing, and {asked[0]} writes nothing.", "Leave one of them out.")
        if len(asked) > 1 or len(names) > 1:
            what = " and ".join(asked)
            raise UsageError(f"{what} needs one document and no other of these options.", f"km synth NAME {asked[0]}")
        if show:
            return synth_files.show(screen, names[0], task)
        if export is not None:
            return synth_files.export(screen, names[0], export, task)
        return synth_files.import_(screen, names[0], str(import_), options, model)
    with opened(screen, model=model, device=device, preset=preset, engine=engine) as house:
        if estimate:
            return estimates.of_synth(screen, house, names, options, restart, ray)
        report = material.synth(house, names, options, force, restart, ray)
    rows: Sequence[Sequence[str]] = [
        [one.document.name, study_material(one.written, one.kept, one.samples), f"in {render.duration(one.seconds)}"]
        for one in report.written
    ]
    screen.table(rows)
    screen.exit_code = batch_exit_code(screen, report.failed, len(report.written), report.interrupted)
    if report.written:
        screen.note(
            f"Next: km train {report.written[0].document.name}{' (with the same options)' if options.given else ''}"
        )
    return [{**render.as_data(one), "document": document_data(one.document)} for one in report.written]
