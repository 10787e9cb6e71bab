"""Several documents in training: a live table of where each is, with one remaining time; plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.screen import Screen, terminal_size
from kmcli.types import Event
from kmcli.workflows.standing import ENDED, Follower, Standing

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

AT_WORK = {"writing": 0.4, "training": 0.5, "exam": 0.1}
"""States in their order, and which part of a document's work each is taken for."""
MOST = 16
"""Documents in the table; the others are counted."""
AROUND = 4
"""Lines of the terminal that are left for what stands above the table, and below."""
WIDE = 100
"""Columns from which on a document's figures are shown, and not the first alone."""
ORDER = {state: place for place, state in enumerate(AT_WORK)}
OTHERS = ("failed", "exam", "training", "writing", "waiting", "skipped")
LINE_EVERY = 60.0
"""Seconds after which a plain line says how it goes, if nothing has ended since."""


@dataclass(slots=True)
class Row:
    """A document. fraction: of its state's work that is done, None where nothing is known; first: what was done of it by an
    earlier run; began, ended: seconds of the clock."""

    name: str
    words: int
    state: str
    doing: str = ""
    figures: tuple[str, ...] = ()
    fraction: float | None = None
    first: float = 0.0
    began: float | None = None
    ended: float | None = None

    def take(self, event: Standing, now: float) -> None:
        if event.state != self.state:
            self.state, self.doing, self.figures, self.fraction, self.first = event.state, "", (), None, 0.0
            if event.state in AT_WORK:
                self.began = now if self.began is None else self.began
            elif event.state in ENDED:
                self.ended = now
            else:
                self.began = None  # it has failed, and is tried again
        if event.total and event.done is not None and self.state in AT_WORK:
            fraction = min(1.0, event.done / event.total)
            if self.fraction is None and self.state == "training":
                self.first = fraction
            self.fraction = max(self.fraction or 0.0, fraction)
            self.doing = f"{event.done:,.0f}/{event.total:,.0f}"
            self.figures = tuple(f"{name} {render.number(value)}" for name, value in event.numbers.items())


class Standings:
    """Takes the events of a training of several documents. Leaving the table is `stop`."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._began = self._said = clock()
        self._rows: dict[str, Row] = {}
        self._follower = Follower()
        self._also = ""
        self._spoken: Counter[tuple[str, bool]] = Counter()
        """How often a state was left that had told how far it is, and how often one that had not."""
        self._live: Live | None = None
        self._told = False

    def take(self, event: Event) -> bool:
        """Whether this was an event for the table: progress is, and what is to be said at length is not."""
        now = self._clock()
        standing = self._follower.about(event)
        if standing is None:
            if event.warning or (event.done is None and event.total is None):
                if not event.warning and event.stage != "base" and self._screen.animated and event.message:
                    self._screen.messages.append(event.message)
                    return True
                return not event.message
            of = f"/{event.total:,.0f}" if event.total else ""
            over = event.total is not None and (event.done or 0) >= event.total
            self._also = "" if over else f"{event.stage} {event.done or 0:,.0f}{of}"
            return self._screen.animated
        row = self._rows.get(standing.document)
        if row is None:
            row = self._rows[standing.document] = Row(standing.document, max(1, standing.words), standing.state)
        before = row.state
        if standing.state != before and standing.state not in ("waiting", "failed"):
            self._spoken[before, row.fraction is not None] += 1
        row.take(standing, now)
        if self._screen.animated:
            if row.state in AT_WORK:
                self._draw()
        elif not self._screen.quiet:
            self._tell(row, before, now)
        return True

    def line(self, text: str) -> bool:
        """Print a line above the table; False where there is none."""
        if self._live is None:
            return False
        self._live.console.print(render.clean(text), markup=False, highlight=False, soft_wrap=True)
        return True

    def stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # --- what it says ---

    def lines(self, wide: int, high: int) -> list[str]:
        """The table for a terminal of so many columns and lines."""
        now = self._clock()
        shown = [self._cells(row, now, wide) for row in self._window(max(1, min(MOST, high - AROUND)))]
        left = [*([self._also] if self._also else []), *self.summary(now)]
        return [*render.table(shown, width=wide - 1, flex=0), *(render.shorten(line, wide - 1) for line in left)]

    def summary(self, now: float) -> list[str]:
        """How much is done, and when all will be; then how many are where."""
        counts = Counter(row.state for row in self._rows.values())
        rest = [f"{counts[state]:,} {state}" for state in OTHERS if counts[state]]
        left = self.remaining(now)
        time_left = "" if left is None else f", about {render.duration(left)} left"
        done = f"{counts['done']:,} of {render.count(len(self._rows), 'document')} done{time_left}"
        return [done, *([", ".join(rest)] if rest else [])]

    def remaining(self, now: float) -> float | None:
        """Seconds until all are done, by what has been done since the beginning; None where that is too little to say."""
        parts = {state: 0.0 if self._is_empty(state) else part for state, part in AT_WORK.items()}
        whole = sum(parts.values()) or 1.0
        todo = done = 0.0
        for row in self._rows.values():
            if row.state == "skipped":
                continue
            share = 1.0 if row.state in ENDED else 0.0
            if row.state in AT_WORK:
                passed = sum(part for state, part in parts.items() if ORDER[state] < ORDER[row.state])
                share = (passed + parts[row.state] * (row.fraction or 0.0)) / whole
            earlier = parts.get(row.state, 0.0) * row.first / whole
            todo += row.words * (1.0 - earlier)
            done += row.words * (share - earlier)
        if done <= 0.01 * todo or done >= todo:
            return None
        return (now - self._began) * (todo - done) / done

    def _is_empty(self, state: str) -> bool:
        """Whether it mostly has nothing to do: all is written, or nothing is needed."""
        return self._spoken[state, False] > self._spoken[state, True]

    def _window(self, room: int) -> list[Row]:
        """Those at work first, then those that ended last, then those that wait; in the order in which they were given."""
        rows = list(self._rows.values())
        if len(rows) > room:
            busy = [row for row in rows if row.state in AT_WORK]
            over = sorted((row for row in rows if row.ended is not None), key=lambda row: -(row.ended or 0.0))
            next_ones = [row for row in rows if row.state == "waiting"]
            chosen = [*busy[:room], *over[: room // 4], *next_ones, *over[room // 4 :]][:room]
            names = {row.name for row in chosen}
            rows = [row for row in rows if row.name in names]
        return rows

    def _cells(self, row: Row, now: float, wide: int) -> tuple[str, str, str, str]:
        figures = ", ".join(row.figures if wide >= WIDE else row.figures[:1])
        return row.name, row.state, row.doing if row.state in AT_WORK else _took(row, now), figures

    def _draw(self) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=sys.stderr, force_terminal=True, force_jupyter=False)
            self._live = Live(
                console=console,
                get_renderable=self._renderable,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()

    def _renderable(self) -> Text:
        from rich.text import Text

        size = terminal_size()
        return Text("\n".join(self.lines(size.columns, size.lines)), no_wrap=True)

    def _tell(self, row: Row, before: str, now: float) -> None:
        """A line for each document that is done or failed, and now and then one of how it goes."""
        if not self._told:
            if row.state not in AT_WORK:
                return
            self._told, self._said = True, now
            self._screen.remark("; ".join(self.summary(now)))
        ended = row.state != before and row.state in ("done", "failed")
        if ended:
            self._screen.remark(f"{row.name}  {row.state}  {_took(row, now)}".rstrip())
        if (ended and now - self._said >= LINE_EVERY / 6) or now - self._said >= LINE_EVERY:
            self._said = now
            self._screen.remark("; ".join(self.summary(now)))


def _took(row: Row, now: float) -> str:
    return "" if row.began is None else render.duration((row.ended or now) - row.began)
