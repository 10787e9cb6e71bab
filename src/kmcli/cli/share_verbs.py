"""export: a Knowledge Module for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import render
from kmcli.cli.app import opened, verb
from kmcli.cli.library_verbs import document_data
from kmcli.cli.screen import Screen
from kmcli.errors import KmError
from kmcli.types import Quant

if TYPE_CHECKING:
    from kmcli.workflows.share import ExportReport


@verb("Share", "km export --gguf", "km export report --gguf --quant Q8_0 -o report.gguf")
def export(
    screen: Screen,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A trained document; left out: the last one trained.")
    ] = None,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="One merged GGUF file: the only format so far, so it may be left out.")
    ] = False,
    quant: Annotated[Quant, typer.Option("--quant", case_sensitive=False, help="Precision of the weights.")] = "F16",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to; left out: NAME.gguf in this folder.")
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not load the file and compare its answers.")] = False,
) -> object:
    """Export a Knowledge Module with its base as one GGUF file.

    llama.cpp, Ollama and LM Studio open it. The file is loaded and its answers are compared before it counts as done.
    """
    from kmcli.workflows import share

    with opened(screen) as house:
        report = share.export(house, name, quant, out, not no_check)
    _tell_export(screen, report)
    if report.checked is not None and not report.checked.skipped and not report.checked.passed:
        error = KmError(
            "the exported file does not answer as the Knowledge Module does.", "Do not use it; see km doctor."
        )
        screen.fail(error)
        screen.exit_code = error.exit_code
    return {
        "document": document_data(report.document),
        "chosen": report.chosen,
        "exported": render.as_data(report.exported),
        "checked": render.as_data(report.checked),
    }


def _tell_export(screen: Screen, report: ExportReport) -> None:
    exported, checked = report.exported, report.checked
    if report.chosen:
        screen.note(f"No name was given: this is {report.document.name}, the last one trained.")
    screen.write(str(exported.path))
    screen.write(f"{render.size(exported.bytes)}, {exported.quant}, {exported.tensors:,} tensors")
    if checked is None:
        screen.warn("NOT CHECKED: --no-check was given.")
    elif checked.skipped:
        screen.warn(f"NOT CHECKED: {checked.skipped}")
    else:
        for detail in checked.details:
            screen.write(f"check: {detail}")
        screen.write("check passed" if checked.passed else "CHECK FAILED")
