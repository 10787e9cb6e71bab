"""Who was to answer a question, and why: beside the answer, by --explain and in --json; which documents were tried."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kmcli.cli import render
from kmcli.cli.screen import Screen, columns

if TYPE_CHECKING:
    from kmcli.routing.gate import Candidate
    from kmcli.workflows.answer import Asked
    from kmcli.workflows.auto import Choice
    from kmcli.workflows.routed import Routed

NARROW = 60
"""Columns of a terminal below which --explain leaves out what only counts words."""


def as_data(choice: Choice | None) -> dict[str, Any] | None:
    """Who was to answer, and why, for --json; None where no question decides that. What is in the answer is left out."""
    if choice is None:
        return None
    told = render.as_data(choice)
    for key in ("text", "evidence", "prompt_tokens", "output_tokens"):
        del told[key]
    return {**told, "by": choice.by or None, "doubtful": choice.doubtful}


def surely(choice: Choice) -> str:
    """How likely what is said is right, and why it was chosen."""
    mark = "doubtful: " if choice.doubtful else ""
    return f"{mark}{choice.confidence:.0%} sure; {choice.because}"


def show(screen: Screen, choice: Choice) -> None:
    known = f"{choice.known} of {render.count(choice.asked, 'fact')} known" if choice.asked else "not asked about"
    by = {"km": "the Knowledge Module", "rag": "the base with a passage"}.get(choice.by, "nobody")
    screen.table(
        [
            ("answered by", by),
            ("because", choice.because),
            ("confidence", f"{choice.confidence:.0%}"),
            ("the document has an answer", f"{choice.answerable:.0%}"),
            *([("its passage, by the exam", known)] if choice.answered else []),
            ("a passage was read", "yes" if choice.read else "no"),
        ],
        flex=1,
    )


def explain(screen: Screen, tried: Routed | None, asked: Asked | None) -> None:
    """The documents that were tried, or the weights of those that were added up, whether or not that is an answer."""
    summed = tried.sum if tried else asked
    if summed:
        rows = [
            (one.name, f"{weight:.2f}") for one, weight in zip(summed.documents, summed.weights or [1.0], strict=True)
        ]
        screen.table([*rows], ("DOCUMENT", "WEIGHT"), right=[1], flex=0)
        return
    candidates: Sequence[Candidate] = tried.candidates if tried else ()
    if not candidates:
        screen.paragraph("No document has a word of the question.")
        return
    shown = {
        "DOCUMENT": [one.document for one in candidates],
        "BY": [one.method for one in candidates],
        "BM25": [f"{one.retrieval:.1f}" for one in candidates],
        "WORDS": [f"{100 * one.covered:.0f}%" for one in candidates],
        "BELIEF": [f"{one.belief:+.1f}" for one in candidates],
        "SCORE": [f"{100 * one.score:.0f}%" for one in candidates],
        "ANSWER": ["-" if one.refused else one.answer for one in candidates],
    }
    if (columns(sys.stdout) or NARROW) < NARROW:
        del shown["BM25"], shown["WORDS"]
    last = len(shown) - 1
    screen.table(list(zip(*shown.values(), strict=True)), list(shown), right=range(2, last), flex=last)
