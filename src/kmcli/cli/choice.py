"""Who was to answer a question, and why: beside the answer, by --explain and in --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmcli.cli import render
from kmcli.cli.screen import Screen

if TYPE_CHECKING:
    from kmcli.workflows.auto import Choice


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
    mark = "doubtful: " if choice.answered and choice.doubtful else ""
    return f"{mark}{choice.confidence:.0%} sure; {choice.because}"


def show(screen: Screen, choice: Choice) -> None:
    known = f"{choice.known} of {render.count(choice.asked, 'fact')} known" if choice.asked else "not asked about"
    by = {"km": "the Knowledge Module", "rag": "the base with a passage"}.get(choice.by, "nobody")
    screen.table(
        [
            ("answered by", by),
            ("because", choice.because),
            ("confidence", f"{choice.confidence:.0%}"),
            ("the document says", f"{choice.answerable:.0%}"),
            ("its passage, by the exam", known),
            ("a passage was read", "yes" if choice.read else "no"),
        ],
        flex=1,
    )
