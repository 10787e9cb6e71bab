"""Events of work in progress to bars (in a terminal) or lines (anywhere else). Knows words and numbers, no meanings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.screen import Screen, columns
from kmcli.types import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kmcli.cli.standings import Standings

LINE_EVERY = 10.0
"""Seconds between the lines of a stage where there are no bars."""

BYTE_STAGES = ("download",)
"""Stages that count bytes."""


@dataclass(slots=True)
class Stage:
    """One run of one stage. began, shown: when it began and when a line was last printed, in seconds of the clock.
    first: what was done before it began."""

    name: str
    began: float
    shown: float
    first: float
    done: float = 0
    total: float | None = None
    message: str = ""
    messages: int = 0
    numbers: dict[str, float] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        self.done = event.done or 0
        self.total = event.total
        others = {name: value for name, value in self.numbers.items() if name not in event.numbers}
        self.numbers = {**event.numbers, **others}
        if event.message and event.message != self.message:
            self.message = event.message
            self.messages += 1

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    def amount(self) -> str:
        parts = [value for value in (self.done, self.total) if value is not None]
        return "/".join(
            render.size(int(value)) if self.name in BYTE_STAGES else render.number(int(value)) for value in parts
        )

    def figures(self) -> str:
        return "  ".join(f"{name} {render.number(value)}" for name, value in self.numbers.items())

    def began_line(self) -> str:
        return _joined(self.name, self.message or self.amount())

    def line(self, ending: str) -> str:
        return _joined(self.name, self.amount(), self.message, self.figures(), ending)

    def last_line(self, seconds: float) -> str:
        """What stays on the screen. A message that changed along the way was about a step, not about the stage."""
        message = self.message if self.messages == 1 else ""
        return _joined(self.name, self.amount(), message, self.figures(), f"in {render.duration(seconds)}")


class Reporter:
    """Takes events (it is a types.Reporter) and shows them. A context manager: leaving it clears the bars.

    A finished stage leaves one line, in a terminal as elsewhere, so that bars exist only for what is under way.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._stages: dict[str, Stage] = {}
        self._ended: Event | None = None
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._table: Standings | None = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def __call__(self, event: Event) -> None:
        if self._for_table(event):
            return
        if event.warning or (event.done is None and event.total is None):
            self._message(event)
            return
        if self._screen.quiet or self._repeats_the_end(event):
            return
        now = self._clock()
        stage = self._stages.get(event.stage)
        if stage is not None and (event.done or 0) < stage.done:
            self._finish(stage, now)  # the same stage began again, for the next document
            stage = None
        new = stage is None
        if stage is None:
            stage = self._stages[event.stage] = Stage(event.stage, now, now, event.done or 0)
        stage.take(event)
        if stage.finished:
            self._ended = event
            self._finish(stage, now)
        elif self._screen.animated:
            self._draw(stage)
        elif new:
            self._screen.remark(stage.began_line())
        elif now - stage.shown >= LINE_EVERY:
            stage.shown = now
            self._screen.remark(stage.line(_remaining(stage, now)))

    def stop(self) -> None:
        """Clear the bars; stages under way leave the line of where they stopped. Safe to call twice."""
        now = self._clock()
        for stage in list(self._stages.values()):
            self._finish(stage, now)
        if self._table is not None:
            self._table.stop()
        self._bars_off()

    def _for_table(self, event: Event) -> bool:
        """Whether a table of documents has shown it: there is one once a document is said to wait, or to be skipped."""
        if self._table is None and getattr(event, "state", "") in ("waiting", "skipped"):
            from kmcli.cli.standings import Standings

            self._bars_off()
            self._table = Standings(self._screen, self._clock)
        return self._table is not None and self._table.take(event)

    def _bars_off(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _message(self, event: Event) -> None:
        if not event.message:
            return
        self._screen.messages.append(event.message)
        if event.warning or not self._screen.quiet:
            text = f"warning: {event.message}" if event.warning else event.message
            self._line(render.wrapped(text, columns(sys.stderr)))

    def _finish(self, stage: Stage, now: float) -> None:
        del self._stages[stage.name]
        if self._bars is not None and stage.name in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage.name))
        if stage.total is None or stage.total > 1:  # of a single step its beginning was enough
            self._line(_folded(stage.last_line(now - stage.began), columns(sys.stderr)))

    def _repeats_the_end(self, event: Event) -> bool:
        """Some work tells its end twice: once as its last step, once as done."""
        last = self._ended
        return (
            last is not None
            and (last.stage, last.done, last.total) == (event.stage, event.done, event.total)
            and (event.message in ("", last.message))
        )

    def _line(self, text: str) -> None:
        if self._table is not None and self._table.line(text):
            return
        if self._bars is None:
            self._screen.remark(text)
        else:
            self._bars.console.print(render.clean(text), markup=False, highlight=False, soft_wrap=True)

    def _draw(self, stage: Stage) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if stage.name not in self._tasks:
            self._tasks[stage.name] = self._bars.add_task(render.one_line(stage.name), amount="", figures="")
        self._bars.update(
            self._tasks[stage.name],
            completed=stage.done,
            total=stage.total,
            amount=stage.amount(),
            figures=render.one_line(stage.figures() or stage.message),
        )


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _folded(line: str, width: int | None) -> str:
    """A joined line broken between its parts, where the terminal is too narrow for it."""
    folded = ""
    for part in line.split("  "):
        begun = len(folded) - folded.rfind("\n") - 1  # columns of the last line so far
        apart = "  " if width is None or begun + 2 + len(part) < width else "\n  "
        folded += apart + part if folded else part
    return folded


def _remaining(stage: Stage, now: float) -> str:
    done = stage.done - stage.first
    if not done or stage.total is None:
        return ""
    return f"about {render.duration((now - stage.began) * (stage.total - stage.done) / done)} left"


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(TextColumn):
        """Cut off where the terminal is too narrow, before bar, amount and time go."""

        def render(self, task: Task) -> Text:
            text = super().render(task)
            text.no_wrap, text.overflow = True, "ellipsis"
            return text

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20 if (columns(sys.stderr) or 0) >= 100 else 8),  # a narrow terminal's room is for figures
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
        Figures("{task.fields[figures]}", markup=False, style="dim", table_column=Column(no_wrap=False)),
        console=Console(file=sys.stderr, force_terminal=True, force_jupyter=False),
        transient=True,
    )
