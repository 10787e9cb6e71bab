"""add, ls, show: the library."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kmcli.cli import exam as exams
from kmcli.cli import render
from kmcli.cli.app import Model, Name, opened, verb
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.screen import Screen, columns
from kmcli.errors import UsageError
from kmcli.types import IMPORTED

if TYPE_CHECKING:
    from kmcli.types import Document, KnowledgeModule
    from kmcli.workflows.documents import AddReport, Entry

GROUP = "Library"
Tag = Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only documents with this tag.")]
PAGE = 50
"""Documents that `ls` shows unless it is asked for all."""
SUMMED = 20
"""More documents that `add` took than these are counted at the end as well."""


@verb(
    GROUP,
    "km add report.pdf papers/ --tag thesis",
    "km add --update report report-2027.pdf",
    "pdftotext book.pdf - | km add - --name book",
)
def add(
    screen: Screen,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, folders, URLs, or - for stdin.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What to call the document.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; may be repeated.")] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="COLUMN", help="Where a line of JSONL has its text.")
    ] = None,
    update: Annotated[
        str | None, typer.Option("--update", metavar="NAME", help="The document whose text the one file is now.")
    ] = None,
    model: Model = None,
) -> object:
    """Add documents: files, folders, URLs, or standard input.

    Reads PDF, DOCX, HTML, EPUB, Markdown, LaTeX and plain text. A JSONL file is a document a line, and so are those of a
    dataset on the Hugging Face hub, hf://datasets/OWNER/NAME. What is in the library already is skipped, a file that
    has changed updates its document (--update NAME: also from another place), and a bad file does not stop the others.
    """
    from kmcli.workflows import documents

    with opened(screen, model=model) as house:
        report = documents.add(house, sources, name, tag or (), column, update)
    screen.table([[added.action, *_described(added.document)] for added in report.added], right=(3, 4), flex=1)
    screen.exit_code = batch_exit_code(screen, report.failed, finished=len(report.added))
    if len(report.added) > SUMMED:
        kinds = Counter(added.action for added in report.added) + Counter(failed=len(report.failed))
        screen.note(", ".join(f"{count:,} {kind}" for kind, count in kinds.items()))
    _tell_next(screen, report)
    return [
        {
            **document_data(added.document),
            "action": added.action,
            "was_trained": added.was_trained,
            "was_unfinished": added.was_unfinished,
        }
        for added in report.added
    ]


def _tell_next(screen: Screen, report: AddReport) -> None:
    new: list[str] = []
    for added in report.added:
        name = added.document.name
        if added.action == "updated" and added.was_trained:
            screen.note(f"{name} has changed: its Knowledge Module is stale until km train {name}.")
        elif added.action == "added" or added.was_unfinished:
            new.append(name)
        if added.was_unfinished:
            screen.note(f"{name} has changed: its unfinished training was of the old text, and will start anew.")
    if new:
        screen.note(f"Next: km train {new[0] if len(new) == 1 else '--all'}")


def _described(document: Document) -> list[str]:
    pages = "" if document.pages is None else render.count(document.pages, "page")
    return [document.name, document.kind, pages, render.count(document.words, "word")]


@verb(GROUP, "km ls", "km ls --tag thesis --json")
def ls(
    screen: Screen,
    tag: Tag = None,
    everything: Annotated[bool, typer.Option("--all", help=f"All of them, and not only the first {PAGE}.")] = False,
) -> object:
    """List the documents and how their training stands."""
    from kmcli.workflows import documents

    with opened(screen) as house:
        entries = documents.ls(house, tag, None if everything else PAGE)
        total = documents.count(house, tag) if len(entries) == PAGE else len(entries)
    if entries:
        headers = ["NAME", "STATE", "PAGES", "WORDS", "TRAINED", "SIZE"]
        rows = [_row(entry) for entry in entries]
        if any(entry.exam for entry in entries):
            headers.append("KNOWN")
            rows = [
                [*row, exams.bar(entry.exam, sys.stdout.encoding)] for row, entry in zip(rows, entries, strict=True)
            ]
        if any(entry.document.tags for entry in entries):
            headers.append("TAGS")
            rows = [[*row, ", ".join(entry.document.tags)] for row, entry in zip(rows, entries, strict=True)]
        _list(screen, headers, rows)
        if total > len(entries):
            named = "" if tag is None else f"--tag {tag} "
            screen.note(f"These are the first {len(entries)} of {total:,} documents. All of them: km ls {named}--all")
    else:
        screen.note("The library is empty. Next: km add FILE" if tag is None else f"No document has the tag {tag}.")
    return [entry_data(entry) for entry in entries]


def _list(screen: Screen, headers: list[str], rows: list[list[str]]) -> None:
    """The table, in a narrow terminal without the columns that matter least. Long names and tags can be cut instead."""
    width = columns(sys.stdout)
    table = [headers, *rows]
    for least in [name for name in ("SIZE", "PAGES", "WORDS", "KNOWN", "TAGS") if name in headers]:
        widest = [max(map(len, column)) for column in zip(*table, strict=True)]
        needed = [
            min(wide, {"NAME": 16, "TAGS": 8}.get(name, wide)) for name, wide in zip(table[0], widest, strict=True)
        ]
        if width is None or sum(needed) + 2 * len(needed) - 2 <= width:
            break
        place = table[0].index(least)
        table = [[*row[:place], *row[place + 1 :]] for row in table]
    headers = table[0]
    flex = (headers.index("TAGS"), 0) if "TAGS" in headers else (0,)
    right = [place for place, name in enumerate(headers) if name in ("PAGES", "WORDS", "SIZE")]
    screen.table(table[1:], headers, right=right, flex=flex)


def _row(entry: Entry) -> list[str]:
    document, module = entry.document, entry.module
    return [
        document.name,
        entry.state,
        "-" if document.pages is None else f"{document.pages:,}",
        f"{document.words:,}",
        render.when(module.created) if module else "-",
        render.size(entry.bytes) if module else "-",
    ]


@verb(GROUP, "km show report", "km show report --exam", "km show report --changes")
def show(
    screen: Screen,
    name: Name,
    curve: Annotated[
        bool, typer.Option("--curve", help="How the loss of its Knowledge Module fell in training, drawn.")
    ] = False,
    exam: Annotated[
        bool, typer.Option("--exam", help="What its Knowledge Module knows of which page, by its exam, drawn.")
    ] = False,
    changes: Annotated[
        bool, typer.Option("--changes", help="What it answers differently since the document changed.")
    ] = False,
) -> object:
    """Show one document and its Knowledge Module."""
    from kmcli.cli.changes import show_changes
    from kmcli.cli.curve import show_curve
    from kmcli.workflows import documents

    if curve + exam + changes > 1:
        raise UsageError("--curve, --exam and --changes show different things.", "Ask for one of them.")
    with opened(screen) as house:
        if changes:
            return show_changes(screen, house, name)
        shown = documents.show(house, name, exam)
    if curve:
        return show_curve(screen, shown.entry)
    if exam:
        return exams.show_exam(screen, shown)
    document, module = shown.entry.document, shown.entry.module
    screen.write(document.name, bold=True)
    screen.facts(
        [
            ("state", shown.entry.state),
            ("source", "standard input" if document.source == "-" else document.source),
            ("kind", document.kind),
            ("pages", "" if document.pages is None else f"{document.pages:,}"),
            ("words", f"{document.words:,}"),
            ("tags", ", ".join(document.tags)),
            ("added", render.when(document.added)),
            ("updated", render.when(document.updated) if document.updated != document.added else ""),
            ("study material", _samples(shown.samples)),
        ],
        indent="  ",
    )
    if module is not None:
        from kmcli.adapters import ADAPTERS  # which no other verb of these needs

        screen.write("Knowledge Module", bold=True)
        facts = [*_module_facts(module, shown.entry.bytes), ("exam", exams.sentence(shown.entry.exam))]
        facts.append(("beside it", ", ".join(ADAPTERS[one.recipe.adapter].described(one.recipe) for one in shown.kept)))
        screen.facts(facts, indent="  ")
    return {**entry_data(shown.entry), "samples": dict(shown.samples), "kept": [module_data(one) for one in shown.kept]}


def _samples(samples: Mapping[str, int]) -> str:
    return ", ".join(f"{amount:,} {task}" for task, amount in samples.items()) or "none yet"


def _module_facts(module: KnowledgeModule, size: int) -> list[tuple[str, str]]:
    from kmcli.adapters import ADAPTERS

    recipe, metrics = module.recipe, module.metrics
    held_out = metrics.get("held_out_loss")
    described = ADAPTERS[recipe.adapter].described(recipe)
    return [
        ("trained", render.when(module.created)),
        ("base", ", ".join(filter(None, (recipe.model, recipe.base_label, recipe.revision)))),
        (
            "recipe",
            f"imported, {described}"
            if recipe.objective == IMPORTED
            else f"{recipe.objective}, {described}, learning rate {recipe.learning_rate:g}",
        ),
        ("steps", f"{metrics['steps']:,}" if "steps" in metrics else ""),
        ("update", _update(metrics.get("update"))),
        ("held-out loss", "" if held_out is None else render.number(held_out)),
        ("size", render.size(size)),
        ("folder", str(module.path)),
    ]


def _update(update: Any) -> str:
    if not update:
        return ""
    return (
        f"of the one before: {update['changed']:,} of {render.count(update['chunks'], 'chunk')} had changed (--changes)"
    )


def document_data(document: Document) -> dict[str, Any]:
    """A document in the envelope's data."""
    return dict(render.as_data(document))


def entry_data(entry: Entry) -> dict[str, Any]:
    """A document with its state and Knowledge Module in the envelope's data."""
    return {
        **document_data(entry.document),
        "state": entry.state,
        "module": None if entry.module is None else module_data(entry.module),
        "bytes": entry.bytes,
        "exam": exams.head_data(entry.exam),
    }


def module_data(module: KnowledgeModule) -> dict[str, Any]:
    """A Knowledge Module in the envelope's data, without its loss curve, which metrics.json keeps."""
    return render.without_curve(module)
