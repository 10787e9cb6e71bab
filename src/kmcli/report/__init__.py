"""A comparison as one page to open in a browser and to send to others.

Everything is in the file: no script, nothing that is fetched. Its parts, from the top: the headline (`page`), `table`,
`plot`, `exam`, `answers`. Whatever comes from a document, a model or a person is text to `html`, which escapes it; besides,
the page's own policy forbids scripts and requests.

To add a part: a function that makes Html of a Comparison, and a section in `page`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources

from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Comparison, Costs, Forgetting, Row
from kmcli.report.adapters import adapters
from kmcli.report.answers import answers, failures
from kmcli.report.exam import strip
from kmcli.report.html import Html, Part, el, join
from kmcli.report.numbers import count, percent, plural, points, probability, seconds, size, span
from kmcli.report.plot import marker, measured, plot, series
from kmcli.report.table import kinds, table
from kmcli.types import Recipe

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
WIDE, NARROW = (760, 430), (360, 380)
"""Of the drawing, in pixels."""


def page(
    comparison: Comparison,
    made: str,
    versions: Mapping[str, str],
    recipe: Recipe | None = None,
) -> str:
    """The page. made: when, for people. versions: of the programs that took part. recipe: the Knowledge Module's."""
    sections = [
        _section("Every row", table(comparison)),
        _section("Accuracy against tokens read", _drawing(comparison)),
        _section("What it costs", _costs(comparison)) if comparison.costs else None,
        _section("Elsewhere", _elsewhere(comparison.forgetting)) if comparison.forgetting else None,
        _section("What the Knowledge Module knows", strip(comparison.exam)) if comparison.exam else None,
        _section("By kind of question", kinds(comparison)),
        _section("Where it goes wrong", failures(comparison)),
        _section("Answers side by side", answers(comparison)) if comparison.answers else None,
        _section("How it was made", _provenance(comparison, made, versions, recipe)),
    ]
    style = resources.files(__name__).joinpath("style.css").read_text("utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{comparison.document}: compared by km"),
        el("style", Html(style)),
    )
    about = f"{plural(len(comparison.questions), 'question')}, {comparison.base}, {made}"
    header = el(
        "header", el("p", "km compare", class_="brand"), el("h1", comparison.document, dir="auto"), el("p", about)
    )
    body = el("body", header, el("main", _headline(comparison), *sections))
    return "<!DOCTYPE html>\n" + el("html", head, body, lang="en") + "\n"


def _section(title: str, inside: Html | None) -> Html | None:
    return el("section", el("h2", title), inside) if inside else None


def _row(comparison: Comparison, key: str | None) -> Row | None:
    return next((row for row in comparison.rows if row.key == key and measured(row, comparison.measure)), None)


def _mean(comparison: Comparison, row: Row) -> float:
    score = measured(row, comparison.measure)
    assert score is not None
    return score.mean


def _headline(comparison: Comparison) -> Html:
    closed = comparison.gap_closed if comparison.measure == "exact_match" else comparison.gap_closed_f1
    bare, km, best = (_row(comparison, key) for key in ("bare", "km", comparison.reference))
    if closed is not None and bare and km and best:
        number = percent(max(0.0, closed))
        said = f"of the gap between {METHODS['bare'].label} and {METHODS[best.method].label} is closed by the KM"
        parts: list[Part] = [
            el("p", el("b", number), el("span", said), class_="headline"),
            _gap(comparison, bare, km, best),
        ]
    else:
        asked = [row for row in comparison.rows if measured(row, comparison.measure) and row.method != "gold"]
        row = km or max(asked, key=lambda one: _mean(comparison, one), default=None)
        parts = []
        if row:
            said = "right" if comparison.measure == "exact_match" else "F1"
            said += f" by {METHODS[row.method].label}" + ("" if row.key == row.method else f" ({row.key})")
            parts = [el("p", el("b", percent(_mean(comparison, row))), el("span", said), class_="headline")]
    return el("section", *parts, el("p", comparison.verdict, class_="verdict"), class_="top")


def _gap(comparison: Comparison, bare: Row, km: Row, best: Row) -> Html:
    """The gap as a bar: its ends, and how far the KM comes."""
    low, mean, high = (_mean(comparison, row) for row in (bare, km, best))
    share = min(1.0, max(0.0, (mean - low) / (high - low)))
    return el(
        "div",
        el(
            "p", el("b", percent(mean)), f" {METHODS[km.method].label}", class_="here", style=f"--at:{100 * share:.1f}%"
        ),
        el("div", el("span", class_="filled", style=f"width:{100 * share:.1f}%"), class_="track"),
        el(
            "div",
            el("span", el("b", percent(low)), f" {METHODS[bare.method].label}"),
            el("span", el("b", percent(high)), f" {METHODS[best.method].label}"),
            class_="ends",
        ),
        class_="gap",
        role="img",
        aria_label=f"From {percent(low)} to {percent(high)}; the KM has {percent(mean)}",
    )


def _drawing(comparison: Comparison) -> Html | None:
    shown = series(comparison)
    if not shown:
        return None
    legend = []
    for one in shown:
        shape = el("svg", marker(one.style, 8, 8, 5), viewBox="0 0 16 16", class_="key", aria_hidden="true")
        said = METHODS[one.rows[0].method].label
        if len(one.rows) > 1:
            said += ", k = " + span([row.k for row in one.rows if row.k is not None])
        legend.append(el("li", shape, el("b", one.name), f" {said}"))
    return el(
        "figure",
        plot(comparison, *WIDE, "at-wide"),
        plot(comparison, *NARROW, "at-narrow"),
        el(
            "figcaption",
            el("ul", *legend, class_="legend"),
            el(
                "p",
                "Bars: 95% intervals. Higher is better, and further left is cheaper. k: passages read.",
                class_="soft",
            ),
        ),
    )


def _costs(comparison: Comparison) -> Html:
    costs = comparison.costs
    assert costs is not None
    tiles = [
        _tile(size(costs.text_kv_bytes), f"of memory for the whole text in context ({count(costs.text_tokens)} tokens)")
    ]
    if costs.adapter_bytes is not None:
        tiles.append(_tile(size(costs.adapter_bytes), "on disk for the Knowledge Module"))
    if costs.training_seconds is not None:
        tiles.append(_tile(seconds(costs.training_seconds), "to train it, once"))
    tiles += _paid(costs)
    return join([el("div", *tiles, class_="tiles"), adapters(comparison)])


def _paid(costs: Costs) -> list[Html]:
    if costs.training_seconds is None or costs.rival is None:
        return []
    if costs.break_even is None:
        return [_tile("never", f"does training pay in time against {costs.rival}: a question takes the KM no less")]
    return [_tile(f"{costs.break_even:,}", f"questions until training has paid in time, against {costs.rival}")]


def _tile(number: str, said: str) -> Html:
    return el("p", el("b", number), el("span", said), class_="tile")


def _elsewhere(found: Forgetting) -> Html:
    change = 100 * found.difference.mean
    tiles = [
        _tile(percent(found.without.mean), f"of {plural(found.without.n, 'question')} read right without the KM"),
        _tile(percent(found.with_km.mean), "read right with it on"),
        _tile(
            f"{change:+.1f} points".replace("-", "−"),
            f"95% interval {points(found.difference)}, p {probability(found.p)}",
        ),
    ]
    told = (
        f"How well the base reads {found.document}, which this KM was not trained on, with the passage "
        "that holds the answer in front of each question."
    )
    left = (
        f" {plural(found.left_out, 'question')} left out, whose passage is not known or too long."
        if found.left_out
        else ""
    )
    return join([el("p", told + left), el("div", *tiles, class_="tiles")])


def _provenance(comparison: Comparison, made: str, versions: Mapping[str, str], recipe: Recipe | None) -> Html:
    lines = {
        "document": comparison.document,
        "questions": f"{len(comparison.questions):,}",
        "base": comparison.base,
        "made": made,
    }
    if judge := comparison.judge:
        lines["judge"] = f"{judge.model} ({judge.revision[:12]}), by {judge.engine}"
    parts: list[Part] = [_list({**lines, **versions})]
    if recipe is not None:
        fields = {key: _value(value) for key, value in recipe.as_json().items() if value not in ("", None)}
        parts.append(
            el("details", el("summary", el("b", "Recipe of the Knowledge Module")), _list(fields), class_="recipe")
        )
    return join(parts)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list(values: Mapping[str, str]) -> Html:
    pairs = [el("div", el("dt", key), el("dd", value, dir="auto")) for key, value in values.items()]
    return el("dl", *pairs, class_="facts")
