"""compare: the methods of answering side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from kmcli.cli.app import Device, Model, Name, UseExtractor, opened, verb
from kmcli.cli.compare_table import tell
from kmcli.cli.screen import Screen
from kmcli.errors import KmError, PartlyDone, UsageError

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
    tell(screen, comparison)
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
