"""What --estimate prints: of study material alone, and of a whole training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.library_verbs import document_data
from kmcli.cli.screen import Screen

if TYPE_CHECKING:
    from kmcli.synthesis.estimate import Estimate
    from kmcli.types import Document
    from kmcli.workflows.estimate_train import EstimatedTraining
    from kmcli.workflows.house import House
    from kmcli.workflows.material import RecipeOptions


HERE = (
    "This machine was measured, as if it did all: a cluster works on several documents at a time, and how fast its machines "
    "are is not asked."
)
"""With --ray."""


def of_synth(
    screen: Screen, house: House, names: Sequence[str], options: RecipeOptions, restart: bool, ray: str | None = None
) -> object:
    from kmcli.workflows.estimate import estimate_synth

    report = estimate_synth(house, names, options, restart)
    for document, one in ((each.document, each.estimate) for each in report.estimated):
        if not one.chats:
            screen.write(f"{document.name}: all its study material is written", bold=True)
            continue
        screen.write(f"{document.name}: {render.about(one.seconds, render.duration)}", bold=True)
        screen.facts(_material(one), indent="  ")
    if ray and report.estimated:
        screen.note(HERE)
    screen.exit_code = batch_exit_code(screen, report.failed, len(report.estimated), report.interrupted)
    return [{**render.as_data(one.estimate), "document": document_data(one.document)} for one in report.estimated]


def of_train(
    screen: Screen,
    house: House,
    names: Sequence[str],
    everything: bool,
    options: RecipeOptions,
    again: bool,
    ray: str | None = None,
) -> object:
    from kmcli.workflows.estimate_train import estimate_train

    report = estimate_train(house, names, everything, options, again)
    for one in report.estimated:
        screen.write(f"{one.document.name}: {render.about(one.seconds, render.duration)}", bold=True)
        screen.facts(_training(one), indent="  ")
    if ray and report.estimated:
        screen.note(HERE)
    tell_skipped(screen, report.skipped)
    finished = len(report.estimated) + len(report.skipped)
    screen.exit_code = batch_exit_code(screen, report.failed, finished, report.interrupted)
    return {
        "estimated": [{**render.as_data(one), "document": document_data(one.document)} for one in report.estimated],
        "skipped": [document.name for document in report.skipped],
    }


def tell_skipped(screen: Screen, skipped: Sequence[Document]) -> None:
    if skipped:
        which = f"{skipped[0].name} is" if len(skipped) == 1 else f"{len(skipped)} documents are"
        screen.note(f"{which} trained already. To train again, add --force.")


def _material(one: Estimate) -> list[tuple[str, str]]:
    return [
        ("to write", f"{render.count(one.units, 'unit')} of work in {render.count(one.chunks, 'chunk')}"),
        ("generations", f"{one.drafts:,} drafts, {render.about(one.chats - one.drafts)} more to check them"),
        ("tokens", f"{render.about(one.read)} read, {render.about(one.tokens)} written"),
        ("samples", render.about(one.samples)),
        ("cost", "" if one.cost is None else render.about(one.cost, "{:,.2f}".format)),
        ("measured on", f"{render.count(one.measured, 'draft')}, in {render.duration(one.measured_seconds)}"),
    ]


def _training(one: EstimatedTraining) -> list[tuple[str, str]]:
    material, training = one.material, one.training
    fewer = ", or fewer: it stops where the held-out loss falls no further" if training.early_stopping else ""
    written = "none needed"
    if material:
        written = "all written"
        if material.chats:
            time = render.about(material.seconds, render.duration)
            written = f"{render.about(material.samples)} samples, of {material.drafts:,} drafts, in {time}"
    stepping = training.seconds - training.teacher_seconds
    measured = [render.count(material.measured, "draft")] if material and material.chats else []
    measured.append(render.count(training.measured, "step"))
    spent = training.measured_seconds + (material.measured_seconds if material else 0.0)
    return [
        ("study material", written),
        ("teacher", render.about(training.teacher_seconds, render.duration) if training.teacher_seconds else ""),
        ("steps", f"{training.steps:,}, in {render.about(stepping, render.duration)}{fewer}"),
        ("tokens", f"{render.about(training.tokens)} scored"),
        ("exam", _exam(one)),
        ("peak memory", "" if training.memory is None else render.about(training.memory, _size)),
        ("disk", f"{render.about(one.disk, _size)}; {render.about(training.disk_while, _size)} more in training"),
        ("cost", "" if material is None or material.cost is None else render.about(material.cost, "{:,.2f}".format)),
        ("measured on", f"{' and '.join(measured)}, in {render.duration(spent)}"),
    ]


def _exam(one: EstimatedTraining) -> str:
    if one.exam is None:
        return ""
    again = f", with at most {render.count(one.rounds, 'round')} of further study" if one.rounds else ""
    return f"{render.about(one.exam, render.duration)}{again}"


def _size(count: float) -> str:
    return render.size(int(count))
