"""How the loss fell in a training: as lines of text, and the figures beside it. Metrics may be another program's."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kmcli.cli import render
from kmcli.cli.library_verbs import module_data
from kmcli.cli.screen import Screen, columns

if TYPE_CHECKING:
    from kmcli.workflows.documents import Entry

ROWS = 12
WIDTH = 79
"""Columns where there is no terminal to fill."""
NARROWEST = 16
"""Columns of the canvas at least."""
UNICODE, ASCII = tuple("·●│└─"), tuple(".o|+-")
"""Marks of the training loss and of the held-out loss, which covers the other; the axes."""


def show_curve(screen: Screen, entry: Entry) -> object:
    """What `km show --curve` prints, and its data: the module with the points."""
    from kmcli.workflows.house import untrained

    module = entry.module
    if module is None:
        raise untrained(entry.document)
    metrics = module.metrics
    kept = metrics.get("curve")
    curve = [point for point in kept if isinstance(point, Mapping)] if isinstance(kept, list) else []
    lines = drawn(curve, columns(sys.stdout), sys.stdout.encoding)
    screen.write(entry.document.name, bold=True)
    for line in lines:
        screen.write(line)
    if not lines:
        screen.note("How the loss of this Knowledge Module fell was not recorded.")
    screen.facts(facts(metrics), indent="  ")
    return {**module_data(module), "curve": curve}


def drawn(curve: list[Mapping[str, Any]], width: int | None, encoding: str | None) -> list[str]:
    """The curve of `loss` and `held_out` in lines of less than `width` columns (None: as wide as is usual).

    encoding: of where it is written; in ASCII where that lacks the other marks. [] where there is nothing to draw.
    """
    loss, held_out = _points(curve, "loss"), _points(curve, "held_out")
    if not loss:
        return []
    training, held, side, corner, floor = UNICODE if _can_write("".join(UNICODE), encoding) else ASCII
    low, high = (pick(value for _, value in (*loss, *held_out)) for pick in (min, max))
    form = _form(max(abs(low), abs(high)))
    labels = [f"{high - (high - low) * row / (ROWS - 1):{form}}" for row in range(ROWS)]
    margin = max(map(len, labels))
    across = max(NARROWEST, (width or WIDTH) - 1 - margin - 2)
    first, last = (pick(step for step, _ in (*loss, *held_out)) for pick in (min, max))

    def column(step: float) -> int:
        return round((step - first) / (last - first) * (across - 1)) if last > first else 0

    def row(value: float) -> int:
        return round((high - value) / (high - low) * (ROWS - 1)) if high > low else ROWS - 1

    canvas = [[" "] * across for _ in range(ROWS)]
    by_column: dict[int, list[float]] = {}
    for step, value in loss:
        by_column.setdefault(column(step), []).append(value)
    for place, values in by_column.items():
        canvas[row(fmean(values))][place] = training
    for step, value in held_out:
        canvas[row(value)][column(step)] = held
    lines = [
        f"{label if number % 3 == 0 or number == ROWS - 1 else '':>{margin}} {side}{''.join(cells)}".rstrip()
        for number, (label, cells) in enumerate(zip(labels, canvas, strict=True))
    ]
    begin, end = f"step {first:,.0f}", f"{last:,.0f}"
    blank = " " * (margin + 2)
    return [
        *lines,
        " " * (margin + 1) + corner + floor * across,
        blank + begin + end.rjust(across - len(begin)),
        blank + f"{training} training" + (f"   {held} held out" if held_out else ""),
    ]


def _form(largest: float) -> str:
    """How an axis up to `largest` is written: as many decimals for each value as give the largest three digits."""
    if largest == 0:
        return ".0f"
    return f".{max(0, 2 - math.floor(math.log10(largest)))}f" if 1e-3 <= largest < 1e7 else ".3g"


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What matters of a training's metrics, as far as they are known: modules of before have fewer."""
    known = {name: value for name, value in metrics.items() if _is_number(value)}
    losses = [
        f"{render.number(known[name])} {words}"
        for name, words in (("train_loss", "in training"), ("held_out_loss", "held out"))
        if name in known
    ]
    if losses and known.get("best_step") and metrics.get("stopped_early"):
        losses[-1] += f", the best, of step {known['best_step']:,}"
    speed = [f"{known['tokens_per_second']:,.0f} scored tokens a second"] if "tokens_per_second" in known else []
    if "seconds" in known:
        speed.append(f"{render.duration(known['seconds'])} in all steps")
    return [
        ("steps", _steps(metrics, known)),
        ("loss", ", ".join(losses)),
        ("speed", ", ".join(speed)),
        ("peak memory", render.size(known["peak_memory"]) if "peak_memory" in known else ""),
    ]


def _steps(metrics: Mapping[str, Any], known: Mapping[str, float]) -> str:
    if "steps" not in known:
        return ""
    steps = f"{known['steps']:,}"
    if known.get("planned_steps", 0) > known["steps"]:
        steps += f" of {known['planned_steps']:,}"
    if metrics.get("diverged"):
        return f"{steps}: it diverged"
    return f"{steps}: the held-out loss fell no further" if metrics.get("stopped_early") else steps


def _points(curve: list[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The (step, value) pairs of the points that have a value of this name."""
    return [
        (point["step"], point[name]) for point in curve if all(_is_number(point.get(key)) for key in ("step", name))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _can_write(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
