"""The rows of a comparison as a table, and each row's score by kind of question."""

from __future__ import annotations

from collections.abc import Mapping

from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Comparison, Row
from kmcli.evaluation.metrics import among
from kmcli.report.answers import shown_rows
from kmcli.report.html import Html, Part, el, wide_table
from kmcli.report.numbers import count, interval, percent, probability, seconds, size
from kmcli.report.plot import COLOURS, marker, measured, style_of
from kmcli.types import Score

_MEASURES = {"exact_match": "Exact match", "f1": "F1"}


def table(comparison: Comparison) -> Html:
    best = _best(comparison)
    heads: list[Part] = [
        el("th", "Row", scope="col"),
        el("th", _MEASURES[comparison.measure], el("span", " and 95% interval", class_="soft"), scope="col", colspan=2),
        *(_head(name) for name in ("F1" if comparison.measure == "exact_match" else "Exact", "Rouge-L")),
        *(_head(name) for name in ("Judged", "p, judged") if comparison.judge),
        *(_head(name) for name in ("Tokens read", "Written", "Time", "Memory", "p to KM")),
    ]
    before = [None, *(row.method for row in comparison.rows)]
    p_values = among({row.key: row.p_km for row in comparison.rows})
    judged = among({row.key: row.judged_p_km for row in comparison.rows}) if comparison.judge else None
    body = [
        _line(row, comparison.measure, row.key == best, row.method == above, p_values.get(row.key), judged)
        for row, above in zip(comparison.rows, before, strict=False)
    ]
    notes = [el("li", el("b", row.key), ": ", row.note) for row in comparison.rows if row.note]
    return el(
        "div",
        wide_table("rows", "Scores and costs of every row", heads, body),
        el(
            "p",
            "Means per question. Memory: the keys and values that the base keeps of what it reads. p to KM: how likely "
            "chance alone makes such a difference to the row km, adjusted for there being so many rows (Holm). The best "
            "row that is not a reference is marked ",
            el("span", "best", class_="best"),
            "."
            if comparison.judge is None
            else f". Judged: the share that {comparison.judge.model} says is right; p, judged: as p to KM, by that.",
            class_="soft",
        ),
        el("ul", *notes, class_="notes") if notes else None,
    )


def kinds(comparison: Comparison) -> Html | None:
    """The rows that stand side by side, by kind of question; None where the questions are of one kind."""
    keys = shown_rows(comparison)
    shown = [row for row in comparison.rows if row.kinds and row.key in keys]
    names = list(dict.fromkeys(kind for row in shown for kind in row.kinds))
    if len(names) < 2:
        return None
    heads = [el("th", "Kind", scope="col"), _head("Questions")]
    heads += [el("th", row.key, scope="col", class_="number") for row in shown]
    lines = []
    for kind in names:
        cells = [_shaded(row.kinds.get(kind)) for row in shown]
        named = el("th", kind or "not said", scope="row")
        lines.append(el("tr", named, el("td", str(_asked(shown, kind)), class_="number"), *cells))
    return wide_table("kinds", "Scores by kind of question", heads, lines)


def _asked(rows: list[Row], kind: str) -> int:
    return max((row.kinds[kind].n for row in rows if kind in row.kinds), default=0)


def _best(comparison: Comparison) -> str:
    """The key of the row that does best without being told where the answer stands; of equals the one that reads least, and
    of those the first, as the verdict has it."""
    scores = {
        row.key: (score.mean, -(row.prompt_tokens or 0))
        for row in comparison.rows
        if row.method != "gold" and (score := measured(row, comparison.measure))
    }
    return max(scores, key=scores.__getitem__, default="")


def _head(name: str) -> Html:
    return el("th", name, scope="col", class_="number")


def _line(row: Row, measure: str, best: bool, more: bool, p: float | None, judged: Mapping[str, float] | None) -> Html:
    """more: of the method of the row above. p: to the row km, adjusted; judged: the same of all rows, by the judge."""
    style = style_of(row)
    shape = el("svg", marker(style, 8, 8, 5), viewBox="0 0 16 16", class_="key", aria_hidden="true")
    label = None if more else el("span", METHODS[row.method].label, class_="soft what")
    name = el("th", shape, el("b", row.key), el("span", "best", class_="best") if best else None, label, scope="row")
    score = measured(row, measure)
    class_ = "more" if more else None
    if not row.fits or score is None:
        return el(
            "tr",
            name,
            el(
                "td",
                "not asked" if row.method == "gold" else "does not fit",
                colspan=9 if judged is None else 11,
                class_="soft",
            ),
            class_=class_,
        )
    other = row.f1 if measure == "exact_match" else row.exact_match
    return el(
        "tr",
        name,
        el("td", el("b", percent(score.mean)), el("span", f" {interval(score)}", class_="soft"), class_="number"),
        el("td", _range(score, style), class_="range"),
        *(_number(percent(one.mean) if one else None) for one in (other, row.rouge_l)),
        *(_judged(row, judged.get(row.key)) if judged is not None else ()),
        *(_number(count(one) if one is not None else None) for one in (row.prompt_tokens, row.output_tokens)),
        _number(seconds(row.seconds) if row.seconds is not None else None),
        _number(size(row.kv_bytes) if row.kv_bytes is not None else None),
        _number(probability(p) if p is not None else None),
        class_=class_,
    )


def _judged(row: Row, p: float | None) -> list[Html]:
    score = row.judged
    assert score is not None
    mean = el("td", percent(score.mean), el("span", f" {interval(score)}", class_="soft"), class_="number")
    return [mean, _number(probability(p) if p is not None else None)]


def _number(said: str | None) -> Html:
    return el("td", "–" if said is None else said, class_="number")


def _range(score: Score, style: int) -> Html:
    """Where the mean and its interval lie between none and all."""
    low, mean, high = (4 + 92 * value for value in (score.low, score.mean, score.high))
    colour = f"s{style % COLOURS}"
    return el(
        "svg",
        el("line", class_="grid", x1=4, x2=96, y1=10, y2=10),
        el("line", class_=f"bar {colour}", x1=low, x2=high, y1=10, y2=10),
        marker(style, mean, 10, 4.5),
        viewBox="0 0 100 20",
        aria_hidden="true",
    )


def _shaded(score: Score | None) -> Html:
    """A cell whose bar is as long as the score is high: the number says the same."""
    if score is None:
        return el("td", "–", class_="number")
    return el("td", el("span", percent(score.mean)), class_="number share", style=f"--share:{100 * score.mean:.0f}%")
