"""synth with --show, --export or --import: study material shown and passed on, none written."""

from __future__ import annotations

import os
import pydoc
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.app import opened
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.library_verbs import document_data
from kmcli.cli.screen import Screen, is_terminal
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.workflows.material import RecipeOptions
    from kmcli.workflows.material_files import Studied


def show(screen: Screen, name: str, task: str | None) -> object:
    """Through a pager where a person reads."""
    from kmcli.workflows import material_files

    with opened(screen) as house:
        material = material_files.show(house, name, task)
    samples = material.samples
    text = "\n\n".join(_shown(place, len(samples), one) for place, one in enumerate(samples, 1))
    if is_terminal(sys.stdout) and not screen.json:
        os.environ.setdefault("LESS", "FRX")  # what fits on the screen stays there, as with git
        pydoc.pager(render.clean(text) + "\n")
    else:
        screen.write(text)
    return {
        "document": document_data(material.document),
        "samples": [
            {**render.as_data(one.sample), "chunk": one.text or None, "pages": one.place and one.place.pages}
            for one in samples
        ],
    }


def _shown(place: int, total: int, studied: Studied) -> str:
    sample, pages = studied.sample, studied.place and studied.place.pages
    where = "" if not pages else f"page {pages[0]}" if pages[0] == pages[1] else f"pages {pages[0]}-{pages[1]}"
    head = [
        f"{place:,} of {total:,}: {sample.task}",
        where,
        "" if sample.score is None else f"score {render.number(sample.score)}",
    ]
    about = render.shorten(studied.text, 66) if studied.text else sample.chunk_sha256[:12]
    parts = [
        ", ".join(filter(None, head)),
        _labelled("chunk", about),
        _labelled("prompt", sample.prompt),
        _labelled("response", sample.response),
    ]
    return "\n".join(parts)


def _labelled(label: str, text: str) -> str:
    return f"  {label:<10}" + textwrap.indent(text.strip(), " " * 12).strip()


def export(screen: Screen, name: str, out: Path, task: str | None) -> object:
    from kmcli.workflows import material_files

    to_stdout = str(out) == "-"
    if to_stdout and screen.json:
        raise UsageError("--export - and --json both write to standard output.", "Leave one of them out.")
    with opened(screen) as house:
        material = material_files.show(house, name, task)
        if not to_stdout:
            material_files.save(material, out)
    if to_stdout:
        for line in material_files.lines(material):
            screen.write(line)
    else:
        screen.write(f"{out}: {render.count(len(material.samples), 'sample')}")
    return {"document": document_data(material.document), "path": str(out), "samples": len(material.samples)}


def import_(screen: Screen, name: str, source: str, options: RecipeOptions, model: str | None) -> object:
    from kmcli.workflows import material_files

    with opened(screen, model=model, preset=options.preset) as house:
        report = material_files.import_(house, name, source, options)
        again = " --force" if house.state(report.document) == "fresh" else ""
    screen.exit_code = batch_exit_code(screen, report.failed, finished=0)
    document = report.document
    if report.failed:
        screen.warn(f"Nothing was imported: mend {render.count(len(report.failed), 'line')} first.")
    else:
        known = f", {report.known:,} were there already" if report.known else ""
        screen.write(f"{document.name}: {render.count(report.samples, 'sample')} imported{known}")
        if report.searched:
            screen.note(f"{report.searched:,} of them named no chunk: each has the one that fits it best.")
        if report.samples:
            screen.note("A module learns what the base reads in the passage; with --objective sft, these answers.")
            screen.note(f"Next: km train {document.name}{again}")
    return {
        "document": document_data(document),
        "samples": report.samples,
        "known": report.known,
        "searched": report.searched,
    }
