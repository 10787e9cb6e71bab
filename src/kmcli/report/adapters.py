"""A document's modules side by side, where it has more than one."""

from __future__ import annotations

from kmcli.evaluation.comparison import Adapter, Comparison
from kmcli.report.html import Html, el, join, wide_table
from kmcli.report.numbers import count, interval, percent, seconds, size
from kmcli.report.plot import measured

_HEADS = ("Adapter", "Row", "Score and 95% interval", "Tokens read", "Stand before", "On disk", "Trained in")


def adapters(comparison: Comparison) -> Html | None:
    """None where there is one module or none."""
    found = comparison.costs.adapters if comparison.costs else ()
    if not found:
        return None
    heads = [el("th", name, scope="col", class_="number" if place > 1 else None) for place, name in enumerate(_HEADS)]
    rows = [_line(comparison, one) for one in found]
    return join(
        [
            el("p", "Its modules side by side. Stand before: tokens in memory before every question.", class_="soft"),
            wide_table("kinds", "The document's modules side by side", heads, rows),
        ]
    )


def _line(comparison: Comparison, one: Adapter) -> Html:
    row = next(row for row in comparison.rows if row.key == one.key)
    score = measured(row, comparison.measure)
    took = "–" if one.training_seconds is None else seconds(one.training_seconds)
    return el(
        "tr",
        el("th", one.name, scope="row"),
        el("td", one.key),
        _number("–" if score is None else f"{percent(score.mean)} {interval(score)}"),
        *(_number(said) for said in (count(row.prompt_tokens or 0), f"{one.tokens:,}", size(one.size), took)),
    )


def _number(said: str) -> Html:
    return el("td", said, class_="number")
