"""Who is asked: one document, the one of several that knows, the one of the library, or several as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from kmcli.errors import UsageError
from kmcli.workflows import answer, routed
from kmcli.workflows.answer import Asked
from kmcli.workflows.house import House
from kmcli.workflows.routed import NONE, Routed

__all__ = ["NONE", "ask", "at_once"]

AUTO: Literal["auto"] = "auto"
"""The weights by which the question decides."""


def ask(
    house: House,
    names: Sequence[str],
    question: str,
    method: str | None,
    weights: Sequence[float] | Literal["auto"],
    on_text: Callable[[str], None],
) -> tuple[Asked | None, Routed | None]:
    """The answer, None where no document answers; and how it was looked for, None where nobody had to look.

    Raises UsageError for weights that nobody can have, and what `answer.ask` and `routed.ask` raise.
    """
    if weights == AUTO:
        if method not in (None, "auto", "km"):
            raise UsageError("--weight is for Knowledge Modules.", f"Leave it out: --method {method} uses none.")
        tried = routed.ask_together(house, question, on_text, names)
    elif at_once(names, method, weights):
        return answer.ask(house, names, question, method, on_text, weights), None
    else:
        if weights:
            raise UsageError("--weight takes numbers for documents that are named.", "Name them, or: --weight auto")
        tried = routed.ask(house, question, method, on_text, names)
    return tried.asked, tried


def at_once(names: Sequence[str], method: str | None, weights: Sequence[float] | Literal["auto"]) -> bool:
    """Whether just these documents are asked, without looking for the one that knows."""
    several = weights or method in ("rag", "full", "bare")
    return weights != AUTO and (len(names) == 1 or bool(names and several))
