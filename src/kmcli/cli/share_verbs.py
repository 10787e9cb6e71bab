"""export and import: Knowledge Modules for other programs, and from them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import render
from kmcli.cli.app import Model, opened, verb
from kmcli.cli.library_verbs import document_data, module_data
from kmcli.cli.screen import Screen
from kmcli.errors import KmError, UsageError
from kmcli.types import ExportFormat, Quant

if TYPE_CHECKING:
    from kmcli.workflows.share import ExportReport


@verb(
    "Share",
    "km export --gguf",
    "km export report --gguf --quant Q8_0 -o report.gguf",
    "km export report handbook --format peft",
)
def export(
    screen: Screen,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Trained documents, or @TAG; left out: the last one trained."),
    ] = None,
    gguf: Annotated[bool, typer.Option("--gguf", help="One merged GGUF file, which is the default.")] = False,
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="gguf; gguf-lora or peft: the module alone; hf: a merged folder; ollama: with a Modelfile.",
        ),
    ] = None,
    quant: Annotated[
        Quant | None,
        typer.Option(
            "--quant",
            metavar="TYPE",
            case_sensitive=False,
            help="Of a merged file's weights: f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q3_k_m or q2_k; "
            "left out: f16.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="PATH", help="Where to; left out: NAME.gguf and the like, here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also in place of a file that km has not made.")] = False,
    converter: Annotated[
        Path | None,
        typer.Option(
            "--converter", metavar="PATH", help="llama.cpp's checkout, for a base that km cannot write itself."
        ),
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not load it and compare its answers.")] = False,
    extractor: Annotated[
        str | None, typer.Option("--extractor", metavar="EXTRACTOR", help="With this Knowledge Extractor in it.")
    ] = None,
) -> object:
    """Export Knowledge Modules: llama.cpp, Ollama, transformers, PEFT.

    Several become one that knows all of them: the sum of their changes. The result is loaded and its answers are compared
    before it counts as done. What km has exported to the same place before is replaced.
    """
    from kmcli.workflows import share

    if gguf and format not in (None, "gguf"):
        raise UsageError(f"--gguf and --format {format} are two formats.", "Leave one of them out.")
    with opened(screen, extractor=extractor) as house:
        report = share.export(
            house, names or [], share.Wish(format or "gguf", quant, out, force, not no_check, converter)
        )
    _tell_export(screen, report)
    if report.checked is not None and not report.checked.skipped and not report.checked.passed:
        error = KmError(
            f"{report.exported.path} does not answer as the Knowledge Module does.", "Do not use it; see km doctor."
        )
        screen.fail(error)
        screen.exit_code = error.exit_code
    return {
        "documents": [document_data(document) for document in report.documents],
        "chosen": report.chosen,
        "format": report.format,
        "exported": render.as_data(report.exported),
        "checked": render.as_data(report.checked),
        "beside": str(report.beside) if report.beside else None,
    }


def _tell_export(screen: Screen, report: ExportReport) -> None:
    exported, checked = report.exported, report.checked
    if report.chosen:
        screen.note(f"No name was given: this is {report.documents[0].name}, the last one trained.")
    screen.write(str(exported.path))
    screen.write(f"{render.size(exported.bytes)}, {exported.quant}, {render.count(exported.tensors, 'tensor')}")
    if checked is None:
        screen.warn("NOT CHECKED: --no-check was given.")
    elif checked.skipped:
        screen.warn(f"NOT CHECKED: {checked.skipped}")
    else:
        suspect = () if checked.passed else checked.details[-1:]
        found = checked.details[: len(checked.details) - len(suspect)]
        rows = [line.partition(": ") for line in found]
        facts = [(what, how) if how else ("file", what) for what, _, how in rows]
        screen.facts(facts + [("", render.one_line(f"{question} {answer}")) for question, answer in checked.answers])
        screen.write("check passed" if checked.passed else "CHECK FAILED")
        for line in suspect:
            screen.paragraph(line)
    if report.beside:
        screen.write(str(report.beside))
        screen.warn(
            f"It knows its document only with {report.beside.name} before the question, as input embeddings: transformers "
            "can be given these, llama.cpp and Ollama cannot."
        )
    if report.format == "ollama":
        where = shlex.quote(str(exported.path / "Modelfile"))
        screen.note(f"Next: ollama create {report.documents[0].name} -f {where}")


@verb("Share", "km import adapter/", "km import adapter/ --document report.pdf --name report", name="import")
def import_(
    screen: Screen,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A LoRA adapter in PEFT's format.")],
    document: Annotated[
        str | None,
        typer.Option("--document", metavar="NAME", help="What it answers from: a document, or a file to add as one."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the document, where it is new.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also in place of the Knowledge Module it has.")] = False,
    model: Model = None,
) -> object:
    """Take a LoRA adapter in PEFT's format as a Knowledge Module.

    Its adapter_config.json says which base it fits; --model does where that name is not known here. Without --document its
    model card is taken for one: it can be asked then, but no passage supports its answers.
    """
    from kmcli.adapters import ADAPTERS
    from kmcli.workflows import importing

    with opened(screen, model=model) as house:
        report = importing.import_module(house, folder, document, name, force)
    module, name = report.module, report.document.name
    screen.write(f"{name}: Knowledge Module imported", bold=True)
    screen.facts(
        [
            ("base", ", ".join(filter(None, (module.recipe.model, module.recipe.base_label, module.recipe.revision)))),
            ("adapter", ADAPTERS[module.recipe.adapter].described(module.recipe)),
            ("document", "its model card" if report.card else "added" if report.added else "was here"),
        ],
        indent="  ",
    )
    screen.note(f'Next: km ask {name} "question"')
    return {
        "document": document_data(report.document),
        "module": module_data(module),
        "added": report.added,
        "card": report.card,
    }
