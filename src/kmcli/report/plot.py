"""Accuracy against tokens read, as a drawing: the figure 1 of Caccia et al. 2025, for one document.

Rows that differ in how many passages they read (rag@1, rag@3, ...) are a line of points, every other row is a point. Rows
are told apart by shape as well as by colour, and named in the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Comparison, Row
from kmcli.report.html import Html, el, join
from kmcli.report.numbers import count, interval, percent
from kmcli.types import Score

COLOURS = 11
"""s0 to s10 in style.css."""
_SHAPES = ("circle", "square", "triangle", "diamond", "drop", "cross", "hexagon", "slab", "saltire", "star", "post")
_DASHES = {"dense": "7 4", "hybrid": "2 4"}
_CHARACTER = 0.6
"""Width of one, in sizes of the letters."""


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one kind, by tokens. style: number of its colour and its shape."""

    name: str
    rows: tuple[Row, ...]
    style: int

    @property
    def dashes(self) -> str | None:
        return _DASHES.get(self.rows[0].retriever or "")


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def over(self, other: _Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)


def style_of(row: Row) -> int:
    return list(METHODS).index(row.method)


def measured(row: Row, measure: str) -> Score | None:
    score: Score | None = row.exact_match if measure == "exact_match" else row.f1
    return score


def series(comparison: Comparison) -> list[Series]:
    """The rows that were asked, those that differ in k alone together."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in comparison.rows:
        if row.fits and row.prompt_tokens is not None and measured(row, comparison.measure):
            alone = row.key if row.k is None else None
            groups.setdefault((row.method, row.retriever, alone), []).append(row)
    found = []
    for rows in groups.values():
        first = rows[0]
        name = first.key
        if len(rows) > 1:
            name = first.method + (f":{first.retriever}" if first.retriever not in (None, "bm25") else "")
        ordered = tuple(sorted(rows, key=lambda row: row.k or 0))
        found.append(Series(name, ordered, style_of(first)))
    return found


def plot(comparison: Comparison, width: int, height: int, class_: str) -> Html:
    """The drawing in so many units, which are pixels where the page is that wide. "" where nothing was asked."""
    shown = series(comparison)
    if not shown:
        return Html("")
    return _Drawing(comparison, shown, width, height).svg(class_)


def marker(style: int, x: float, y: float, size: float = 5.5) -> Html:
    """A shape at a place, in the colour of its style."""
    return el("path", class_=f"mark s{style % COLOURS}", d=_shape(_SHAPES[style % len(_SHAPES)], x, y, size))


class _Drawing:
    def __init__(self, comparison: Comparison, shown: Sequence[Series], width: int, height: int) -> None:
        self.comparison, self.shown = comparison, shown
        self.measure = comparison.measure
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 46.0, width - 14.0, 14.0, height - 44.0
        tokens = [max(1.0, row.prompt_tokens or 1.0) for one in shown for row in one.rows]
        self.least, self.most = min(tokens) / 1.35, max(tokens) * 1.35
        highest = max(score.high for _, score in self._points())
        self.ceiling = min(1.0, max(0.1, math.ceil(highest * 10 + 0.3) / 10))
        self.taken: list[_Box] = []
        self.told: set[tuple[int | None, ...]] = set()

    def x(self, tokens: float) -> float:
        share = math.log(max(1.0, tokens) / self.least) / math.log(self.most / self.least)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - value / self.ceiling * (self.bottom - self.top)

    def place(self, row: Row) -> tuple[float, float]:
        score = measured(row, self.measure)
        assert score is not None
        assert row.prompt_tokens is not None
        return self.x(row.prompt_tokens), self.y(score.mean)

    def svg(self, class_: str) -> Html:
        drawn = [self._axes(), self._ends()]
        for row, _ in self._points():
            x, y = self.place(row)
            self.taken.append(_Box(x - 6, y - 6, x + 6, y + 6))
        for one in self.shown:
            drawn.append(self._bars(one))
        for one in self.shown:
            drawn.append(self._line(one))
        labels = [label for one in self.shown for label in self._labels(one)]
        return el(
            "svg",
            *drawn,
            *labels,
            viewBox=f"0 0 {self.width} {self.height}",
            class_=f"plot {class_}",
            role="img",
            aria_label=self._said(),
        )

    def _points(self) -> Iterator[tuple[Row, Score]]:
        for one in self.shown:
            for row in one.rows:
                score = measured(row, self.measure)
                if score is not None:
                    yield row, score

    def _said(self) -> str:
        """The drawing for who cannot see it."""
        told = [f"{row.key} {percent(score.mean)} at {count(row.prompt_tokens or 0)}" for row, score in self._points()]
        return "Accuracy against tokens read per question: " + "; ".join(told)

    def _axes(self) -> Html:
        parts: list[Html] = []
        step = 0.2 if self.ceiling > 0.5 else 0.1 if self.ceiling > 0.2 else 0.05
        for number in range(round(self.ceiling / step) + 1):
            y = self.y(number * step)
            if y >= self.top - 1:
                parts.append(el("line", class_="grid", x1=self.left, x2=self.right, y1=y, y2=y))
                parts.append(
                    el("text", percent(number * step), class_="tick", x=self.left - 7, y=y + 4, text_anchor="end")
                )
        for tokens in self._ticks():
            x = self.x(tokens)
            parts.append(el("line", class_="grid", x1=x, x2=x, y1=self.top, y2=self.bottom))
            parts.append(el("text", f"{tokens:,}", class_="tick", x=x, y=self.bottom + 17, text_anchor="middle"))
        middle = (self.left + self.right) / 2
        title = "tokens read per question (logarithmic)"
        parts.append(el("text", title, class_="axis", x=middle, y=self.height - 8.0, text_anchor="middle"))
        return el("g", *parts, aria_hidden="true")

    def _ticks(self) -> list[int]:
        """Of 1, 2 and 5 in each decade, as many as there is room for."""
        for leading in ((1, 2, 5), (1, 3), (1,)):
            ticks = [lead * 10**power for power in range(8) for lead in leading]
            ticks = [tick for tick in ticks if self.least <= tick <= self.most]
            places = [self.x(tick) for tick in ticks]
            if all(b - a >= 44 for a, b in pairwise(places)):
                break
        return ticks

    def _ends(self) -> Html | None:
        """What the gap is measured between, as lines across."""
        keys = ("bare", self.comparison.reference)
        ends = [row for row, _ in self._points() if row.key in keys]
        if len(ends) < 2:
            return None
        lines = [self.place(row)[1] for row in ends]
        return join(el("line", class_="end", x1=self.left, x2=self.right, y1=y, y2=y) for y in lines)

    def _bars(self, one: Series) -> Html:
        """The intervals."""
        bars = []
        for row in one.rows:
            score = measured(row, self.measure)
            assert score is not None
            x, _ = self.place(row)
            low, high = self.y(score.low), self.y(score.high)
            bars.append(el("line", class_=f"bar s{one.style % COLOURS}", x1=x, x2=x, y1=low, y2=high))
        return join(bars)

    def _line(self, one: Series) -> Html:
        places = [self.place(row) for row in one.rows]
        parts: list[Html] = []
        if len(places) > 1:
            path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(el("path", class_=f"line s{one.style % COLOURS}", d=path, stroke_dasharray=one.dashes))
        for row, (x, y) in zip(one.rows, places, strict=True):
            score = measured(row, self.measure)
            assert score is not None
            told = f"{row.key}: {percent(score.mean)} ({interval(score)}), {count(row.prompt_tokens or 0)} tokens"
            parts.append(el("g", el("title", told), marker(one.style, x, y)))
        return join(parts)

    def _labels(self, one: Series) -> Iterator[Html | None]:
        colour = f"s{one.style % COLOURS}"
        if len(one.rows) == 1:
            yield self._label(one.name, self.place(one.rows[0]), f"name {colour}", 13)
            return
        yield self._label(one.name, self.place(one.rows[-1]), f"name {colour}", 13)
        ks = tuple(row.k for row in one.rows)
        if ks in self.told:  # another line has points at the same places, nearly
            return
        self.told.add(ks)
        for row in one.rows:
            needed = row in (one.rows[0], one.rows[-1])
            yield self._label(f"k={row.k}" if row is one.rows[0] else str(row.k), self.place(row), "k", 11, needed)

    def _label(self, said: str, place: tuple[float, float], class_: str, size: int, needed: bool = True) -> Html | None:
        """Where it covers least of what is there: beside its point, above or below. None where it would cover something
        and is not needed."""
        x, y = place
        wide, high = len(said) * size * _CHARACTER, size * 1.1
        tried = [
            (x + dx, y + dy, anchor)
            for dx, dy, anchor in (
                (10, 4, "start"),
                (-10, 4, "end"),
                (0, -11, "middle"),
                (0, 20, "middle"),
                (9, -9, "start"),
                (9, 17, "start"),
                (-9, -9, "end"),
                (-9, 17, "end"),
                (0, -24, "middle"),
                (0, 34, "middle"),
            )
        ]
        boxes = []
        for left, base, anchor in tried:
            start = left - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            boxes.append(_Box(start, base - high, start + wide, base + 2))
        page = _Box(self.left, self.top, self.right + 10, self.bottom)
        inside = [wide * (high + 2) - box.over(page) for box in boxes]
        costs = [3 * out + sum(box.over(other) for other in self.taken) for box, out in zip(boxes, inside, strict=True)]
        best = costs.index(min(costs))
        if costs[best] > 0 and not needed:
            return None
        self.taken.append(boxes[best])
        left, base, anchor = tried[best]
        return el("text", said, class_=class_, x=left, y=base, text_anchor=anchor, aria_hidden="true")


def _shape(kind: str, x: float, y: float, size: float) -> str:
    """A path of about the same area whichever it is."""
    if kind == "circle":
        return f"M{x - size:.1f} {y:.1f} a{size} {size} 0 1 0 {2 * size} 0 a{size} {size} 0 1 0 {-2 * size} 0 Z"
    if kind in ("cross", "saltire"):
        arm = size * 0.45
        corners = [(arm, size), (arm, arm), (size, arm), (size, -arm), (arm, -arm), (arm, -size)]
        corners += [(-a, -b) for a, b in corners]
        if kind == "saltire":
            corners = [((a - b) * 0.75, (a + b) * 0.75) for a, b in corners]
    elif kind in ("slab", "post"):
        wide, high = (1.2 * size, 0.6 * size) if kind == "slab" else (0.6 * size, 1.2 * size)
        corners = [(wide, high), (wide, -high), (-wide, -high), (-wide, high)]
    elif kind == "star":
        angles = [math.radians(36 * point - 90) for point in range(10)]
        lengths = [size * (1.4 if point % 2 == 0 else 0.62) for point in range(10)]
        corners = [(math.cos(angle) * far, math.sin(angle) * far) for angle, far in zip(angles, lengths, strict=True)]
    else:
        sides, turn, scale = {
            "square": (4, 45, 1.25),
            "diamond": (4, 0, 1.3),
            "triangle": (3, -90, 1.35),
            "drop": (3, 90, 1.35),
            "hexagon": (6, 0, 1.1),
        }[kind]
        angles = [math.radians(turn + 360 * side / sides) for side in range(sides)]
        corners = [(math.cos(angle) * size * scale, math.sin(angle) * size * scale) for angle in angles]
    return "M" + " L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + " Z"
