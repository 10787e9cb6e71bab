"""The screen of `km ask --each`: a table, CSV or the envelope's data, and what to do about documents that did not answer."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kmcli.cli import render
from kmcli.cli.app import opened
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.screen import Screen, columns
from kmcli.cli.shelf_verbs import NAMED
from kmcli.errors import NotFoundError, PartlyDone, UsageError

if TYPE_CHECKING:
    from kmcli.types import Document
    from kmcli.workflows.each import EachReport, Row
    from kmcli.workflows.house import House

COLUMNS = ("document", "answer", "page", "supported", "refused", "passage", "error")
"""Of the CSV."""

_FORMULA = "=+-@\t\r\uff1d\uff0b\uff0d\uff20"
"""With these at its beginning a spreadsheet takes a cell for a formula, the full-width ones too."""


def ask_each(
    screen: Screen,
    words: Sequence[str],
    as_csv: bool,
    each: bool,
    method: str | None,
    understood: Callable[[House, Sequence[str]], tuple[list[str], str]],
    **flags: str | None,
) -> object:
    """words: names and tags, and the question last. understood: which of them are which."""
    if not each:
        raise UsageError("--csv is for --each.", 'For example: km ask --each @TAG "question" --csv')
    if as_csv and screen.json:
        raise UsageError("--csv and --json are two forms of one answer.", "Give one of them.")
    if method not in (None, "km"):
        raise UsageError("--each asks Knowledge Modules.", "Leave --method out, or ask one document.")
    from kmcli.workflows import each as workflow

    with opened(screen, **flags) as house:
        names, question = understood(house, words)
        report = workflow.ask_each(house, names, question)
    if as_csv:
        screen.write(_csv(report.rows), end="")
    else:
        _table(screen, report)
    _tell(screen, report)
    return {
        "question": report.question,
        "engine": report.engine,
        "seconds": report.seconds,
        "documents": report.documents,
        "answered": report.answered,
        "interrupted": report.interrupted,
        "prompt_tokens": sum(row.answer.prompt_tokens for row in report.rows if row.answer),
        "output_tokens": sum(row.answer.output_tokens for row in report.rows if row.answer),
        "rows": [_data(row) for row in report.rows],
    }


def _table(screen: Screen, report: EachReport) -> None:
    from rich.cells import cell_len

    if not report.rows:
        return
    wide = columns(sys.stdout)
    longest = max(8, wide // 3) if wide else None
    rows = [[_name(row, longest), _answer(row), _found(row)] for row in report.rows]
    screen.table(rows, ("DOCUMENT", "ANSWER", "FOUND"), flex=1)
    if wide and any(cell_len(line) > wide for line in render.table(rows)):
        screen.note("Some answers are cut to the screen: --csv and --json have all of them.")


def _name(row: Row, longest: int | None) -> str:
    """On a narrow screen the answers have the most of it."""
    name = row.document.name
    return name if longest is None else render.shorten(name, longest)


def _answer(row: Row) -> str:
    if row.answer:
        return row.answer.text or "(nothing)"
    return "(no Knowledge Module)" if isinstance(row.error, NotFoundError) else "(failed)"


def _found(row: Row) -> str:
    """Where the document says so."""
    if row.answer is None or row.refused:
        return "-"
    if not row.supported:
        return "nowhere"
    page = row.answer.evidence[0].page
    return "in text" if page is None else f"page {page}"


def _tell(screen: Screen, report: EachReport) -> None:
    from kmcli.workflows.house import Failure

    failed = [Failure(row.document.name, row.error) for row in report.rows if row.error]
    others = [failure for failure in failed if not isinstance(failure.error, NotFoundError)]
    screen.exit_code = batch_exit_code(screen, others, report.answered)
    if report.untrained:
        error = _untrained(report.untrained)
        screen.fail(error)
        screen.exit_code = PartlyDone.exit_code if report.answered else screen.exit_code or error.exit_code
    if report.interrupted:
        screen.warn(f"Stopped: {len(report.rows):,} of {render.count(report.documents, 'document')} are done.")
        screen.exit_code = 130
    elif report.answered:
        unsupported = sum(row.answer is not None and not row.supported and not row.refused for row in report.rows)
        what = f"{render.count(report.answered, 'document')} answered in {render.duration(report.seconds)}."
        screen.note(what + (f" Answers found nowhere in their document: {unsupported:,}." if unsupported else ""))


def _untrained(missing: Sequence[Document]) -> NotFoundError:
    if len(missing) == 1:
        name = missing[0].name
        return NotFoundError(f"{name} has no Knowledge Module yet.", f"Make one: km train {shlex.quote(name)}")
    names = " ".join(shlex.quote(one.name) for one in missing[:NAMED])
    train = names if len(missing) <= NAMED else "--all"
    return NotFoundError(f"{len(missing):,} documents have no Knowledge Module yet.", f"Make them: km train {train}")


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        data = _data(row)
        passage = data["passage"] or {}
        cells = (
            data["document"],
            data["answer"],
            data["page"],
            None if row.answer is None else "yes" if row.supported else "no",
            None if row.answer is None else "yes" if row.refused else "no",
            passage.get("text"),
            row.error and str(row.error),
        )
        writer.writerow(["" if cell is None else _harmless(str(cell)) for cell in cells])
    return text.getvalue()


def _harmless(cell: str) -> str:
    """What a spreadsheet takes for text, whoever wrote it. A number stays one."""
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.lstrip().startswith(tuple(_FORMULA)) or cell.startswith(("\t", "\r")) else cell
    return cell


def _data(row: Row) -> dict[str, Any]:
    """A row in the envelope. page: of the passage, where it supports the answer."""
    answer = row.answer
    passage = answer.evidence[0] if answer and answer.evidence else None
    return {
        "document": row.document.name,
        "answer": answer.text if answer else None,
        "supported": row.supported if answer else None,
        "refused": row.refused if answer else None,
        "page": passage.page if passage and row.supported else None,
        "passage": render.as_data(passage),
        "prompt_tokens": answer.prompt_tokens if answer else None,
        "output_tokens": answer.output_tokens if answer else None,
        "seconds": answer.seconds if answer else None,
        "error": render.as_data(row.error),
    }
