"""What `km compare` writes: the table, as wide as the terminal, and the paragraphs below it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.screen import Screen, columns

if TYPE_CHECKING:
    from kmcli.compare import Comparison, Costs, Row
    from kmcli.evaluation.comparison import Forgetting
    from kmcli.types import Score


def tell(screen: Screen, comparison: Comparison) -> None:
    """The table, and in sentences what it means and costs."""
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
        _tell_adapters(screen, comparison)
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


def _tell_adapters(screen: Screen, comparison: Comparison) -> None:
    """Side by side where the document has several."""
    if not (comparison.costs and comparison.costs.adapters):
        return
    rows = {row.key: row for row in comparison.rows}
    table = [
        [
            one.name,
            one.key,
            render.percent(rows[one.key].exact_match),
            f"{one.tokens:,}",
            render.size(one.size),
            "-" if one.training_seconds is None else render.duration(one.training_seconds),
        ]
        for one in comparison.costs.adapters
    ]
    screen.table(table, ["ADAPTER", "ROW", "EXACT", "BEFORE", "ON DISK", "TRAINED IN"], right=range(3, 6))
    screen.paragraph("BEFORE: tokens that stand in memory before every question.")
    screen.write("")


def _tell_forgetting(screen: Screen, found: Forgetting) -> None:
    change, low, high = (100 * value for value in (found.difference.mean, found.difference.low, found.difference.high))
    screen.paragraph(
        f"Elsewhere: with its passage before it, {found.without.mean:.0%} of {found.without.n} questions about "
        f"{found.document} are answered right without the KM and {found.with_km.mean:.0%} with it: {change:+.1f} points "
        f"({low:+.1f} to {high:+.1f})."
    )
