"""compare: the methods of answering side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, Name, UseExtractor, opened, verb
from kmcli.cli.screen import Screen, columns
from kmcli.errors import KmError, PartlyDone, UsageError

if TYPE_CHECKING:
    from kmcli.compare import Comparison, Costs, Row
    from kmcli.evaluation.comparison import Forgetting
    from kmcli.types import Score

Number = TypeVar("Number", int, float)

EXPECTED = {int: "whole numbers", float: "numbers"}


@verb(
    "Use",
    "km compare report",
    "km compare report --questions questions.jsonl --methods km,rag --k 1,3,5",
    "km compare report --report compared.html --forgetting handbook",
)
def compare(
    screen: Screen,
    name: Name,
    questions: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="Questions with answers; left out: held-out study material."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="LIST", help="Such as bare,km,rag,km+rag,full,full-l2,gold; or all."),
    ] = None,
    retriever: Annotated[
        str | None,
        typer.Option("--retriever", metavar="LIST", help="What finds passages: bm25, dense, hybrid, or several."),
    ] = None,
    k: Annotated[
        str | None, typer.Option("--k", metavar="LIST", help="How many passages are read, such as 1,3,5,10.")
    ] = None,
    kept: Annotated[
        str | None,
        typer.Option("--kept", metavar="LIST", help="Share of keys and values that full-l2 keeps, such as 0.5,0.1."),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", metavar="NAME", help="Model for dense: minilm, a sentence-transformers name, a folder."
        ),
    ] = None,
    extractor: UseExtractor = None,
    forgetting: Annotated[
        str | None,
        typer.Option("--forgetting", metavar="NAME", help="Also: what the KM costs when this other document is read."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="MODEL", help="Also: which answers this model says are right (as --teacher)."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", metavar="ENGINE", help="What runs it: auto, hf, vllm, openai (any service) or llamacpp."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write it all as one web page, such as out.html.")
    ] = None,
    model: Model = None,
    device: Device = None,
) -> object:
    """Compare Knowledge Module, retrieval, full text and bare base."""
    from kmcli.workflows import comparing, judging, reporting

    if engine and not judge:
        raise UsageError("--engine says what runs a judge, and there is none.", "Name one: --judge MODEL")
    if report:
        reporting.check(report)

    wishes = comparing.Wishes(
        _words(methods),
        _words(retriever),
        _numbers("--k", k, int),
        _numbers("--kept", kept, float),
    )
    flags = {"model": model, "device": device, "embedder": embedder, "extractor": extractor, "engine": engine}
    with opened(screen, **flags) as house, judging.opened(house, judge) as judged:
        comparison = comparing.compare(house, name, questions, wishes, other=forgetting)
        try:
            comparison = judged(comparison)
        except KmError as error:  # the answers took long, and are worth seeing without
            screen.fail(error, judge or "")
            screen.exit_code = PartlyDone.exit_code
        written = reporting.write(house, comparison, report) if report else None
    _tell(screen, comparison)
    if written:
        screen.write(f"\nReport: {written}")
    return comparison


def _words(given: str | None) -> list[str]:
    return [word.strip() for word in (given or "").split(",") if word.strip()]


def _numbers(option: str, given: str | None, kind: type[Number]) -> list[Number]:
    try:
        return [kind(word) for word in _words(given)]
    except ValueError:
        raise UsageError(f"{option} takes {EXPECTED[kind]}, not {given!r}.", f"For example: {option} 1") from None


def _tell(screen: Screen, comparison: Comparison) -> None:
    screen.paragraph(f"{comparison.document}: {render.count(len(comparison.questions), 'question')}, {comparison.base}")
    layout = _layout(comparison.rows, columns(sys.stdout), comparison.judge is not None)
    screen.table(
        [_cells(row, layout) for row in comparison.rows],
        [heading for heading, _ in layout],
        right=[place for place, column in enumerate(layout) if column in _RIGHT],
    )
    told = "Means per question; READ and WRITTEN are tokens."
    if comparison.judge:
        told += f" JUDGED is the share that {comparison.judge.model} says is right."
    screen.paragraph(f"{told} In brackets the 95% interval." if _EXACT in layout else told)
    for row in comparison.rows:
        if row.note:
            screen.paragraph(f"{row.key}: {row.note}")
    _tell_significance(screen, comparison.rows)
    _tell_kinds(screen, comparison)
    if comparison.costs:
        screen.write("")
        _tell_costs(screen, comparison.costs)
    screen.write("")
    screen.paragraph(comparison.verdict)
    if comparison.forgetting:
        _tell_forgetting(screen, comparison.forgetting)


# --- the table

Column = tuple[str, Callable[["Row"], str]]


def _mean(score: Score | None) -> str:
    return "-" if score is None else f"{score.mean:.0%}"


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


_METHOD: Column = ("METHOD", lambda row: row.key)
_EXACT: Column = ("EXACT", lambda row: render.percent(row.exact_match))
_F1: Column = ("F1", lambda row: render.percent(row.f1))
_ROUGE: Column = ("ROUGE-L", lambda row: render.percent(row.rouge_l))
_READ: Column = ("READ", lambda row: _tokens(row.prompt_tokens))
_WRITTEN: Column = ("WRITTEN", lambda row: _tokens(row.output_tokens))
_SECONDS: Column = ("SECONDS", lambda row: "-" if row.seconds is None else f"{row.seconds:.2f}")
_SHORT_EXACT: Column = ("EXACT", lambda row: _mean(row.exact_match))
_SHORT_F1: Column = ("F1", lambda row: _mean(row.f1))
_SHORT_ROUGE: Column = ("ROUGE-L", lambda row: _mean(row.rouge_l))
_JUDGED: Column = ("JUDGED", lambda row: render.percent(row.judged))
_SHORT_JUDGED: Column = ("JUDGED", lambda row: _mean(row.judged))

_RIGHT = (_SHORT_ROUGE, _READ, _WRITTEN, _SECONDS)
_LAYOUTS: tuple[tuple[Column, ...], ...] = (
    (_METHOD, _EXACT, _F1, _ROUGE, _READ, _WRITTEN, _SECONDS),
    (_METHOD, _EXACT, _F1, _SHORT_ROUGE, _READ, _WRITTEN, _SECONDS),
    (_METHOD, _EXACT, _F1, _READ, _WRITTEN, _SECONDS),
    (_METHOD, _EXACT, _F1, _READ, _SECONDS),
    (_METHOD, _SHORT_EXACT, _SHORT_F1, _READ, _SECONDS),
    (_METHOD, _SHORT_EXACT, _SHORT_F1, _READ),
    (_METHOD, _SHORT_EXACT, _READ),
)
"""For ever narrower terminals; a pipe gets the first."""


def _layout(rows: Sequence[Row], width: int | None, judged: bool) -> tuple[Column, ...]:
    layouts = [_with_judge(one) for one in _LAYOUTS] if judged else _LAYOUTS
    return next((one for one in layouts if width is None or _width(rows, one) <= width), layouts[-1])


def _with_judge(layout: tuple[Column, ...]) -> tuple[Column, ...]:
    place = layout.index(_READ)
    return (*layout[:place], _JUDGED if _EXACT in layout else _SHORT_JUDGED, *layout[place:])


def _width(rows: Sequence[Row], layout: Sequence[Column]) -> int:
    cells = [[heading for heading, _ in layout], *(_cells(row, layout) for row in rows)]
    return sum(max(map(len, column)) for column in zip(*cells, strict=True)) + 2 * (len(layout) - 1)


def _cells(row: Row, layout: Sequence[Column]) -> list[str]:
    if row.fits:
        return [show(row) for _, show in layout]
    why = "not asked" if row.method == "gold" else "does not fit"
    return [row.key, why if layout[1] == _EXACT else "-", *[""] * (len(layout) - 2)]


def _tell_significance(screen: Screen, rows: Sequence[Row]) -> None:
    from kmcli.evaluation.metrics import among

    for what, tested in (
        ("Difference to km", among({row.key: row.p_km for row in rows})),
        ("By the judge", among({row.key: row.judged_p_km for row in rows})),
    ):
        if tested:
            told = ", ".join(f"{key} {p:.3f}" for key, p in tested.items())
            screen.paragraph(f"{what} (p, adjusted for so many rows): {told}.")


# --- by kind

_TELLING = ("km", "auto", "rag", "km+ke", "bare", "gold", "rag+km+ke", "km+rag", "full")
"""Methods whose rows are shown by kind where there is no room for all."""


def _tell_kinds(screen: Screen, comparison: Comparison) -> None:
    rows = [row for row in comparison.rows if row.kinds]
    kinds = list(rows[0].kinds) if rows else []
    if len(kinds) < 2:
        return
    shown = _telling(rows, columns(sys.stdout), max(map(len, kinds)))
    table = [[kind, f"{rows[0].kinds[kind].n:,}", *(_mean(row.kinds[kind]) for row in shown)] for kind in kinds]
    screen.write("")
    screen.table(table, ["KIND", "ASKED", *(row.key for row in shown)], right=range(1, 2 + len(shown)))
    screen.paragraph("Exact match by kind." if comparison.measure == "exact_match" else "F1 by kind.")


def _telling(rows: Sequence[Row], width: int | None, widest: int) -> list[Row]:
    """Those that fit, in the order of the table."""
    if width is None:
        return list(rows)
    room = width - widest - len("  ASKED")
    chosen: list[Row] = []
    for row in sorted(rows, key=lambda row: _TELLING.index(row.method) if row.method in _TELLING else len(_TELLING)):
        wide = 2 + max(len(row.key), len("100%"))
        if wide <= room:
            room -= wide
            chosen.append(row)
    return [row for row in rows if row in chosen]


# --- what it costs


def _tell_costs(screen: Screen, costs: Costs) -> None:
    read = (
        f"The document is {costs.text_tokens:,} tokens, which take {render.size(costs.text_kv_bytes)} of memory to read"
    )
    if costs.adapter_bytes is None:
        screen.paragraph(f"{read}.")
        return
    screen.paragraph(f"{read}; its Knowledge Module is {render.size(costs.adapter_bytes)} on disk.")
    if costs.training_seconds is None or costs.rival is None:
        return
    took = f"Training took {render.duration(costs.training_seconds)}"
    if costs.break_even is None:
        screen.paragraph(f"{took}; an answer takes no longer by {costs.rival}, so in time it is never paid back.")
    else:
        screen.paragraph(f"{took}: paid back in time after {costs.break_even:,} questions, beside {costs.rival}.")


def _tell_forgetting(screen: Screen, found: Forgetting) -> None:
    change, low, high = (100 * value for value in (found.difference.mean, found.difference.low, found.difference.high))
    screen.paragraph(
        f"Elsewhere: with its passage before it, {found.without.mean:.0%} of {found.without.n} questions about "
        f"{found.document} are answered right without the KM and {found.with_km.mean:.0%} with it: {change:+.1f} points "
        f"({low:+.1f} to {high:+.1f})."
    )
