"""Where each of several documents is on its way, told as it changes: what a table of them is made of."""

from __future__ import annotations

from dataclasses import dataclass

from kmcli.types import Event

STATES = ("waiting", "writing", "training", "exam", "done", "failed", "skipped")
ENDED = ("done", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Standing(Event):
    """A document is in a state. done, total: of the stage of work that it is in; words: it has, when it begins to wait."""

    document: str = ""
    state: str = "waiting"
    words: int = 0


class Follower:
    """Says which document an event is about: several train side by side, and one at a time does anything else."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._current = ""

    def about(self, event: Event) -> Standing | None:
        """The event as its document's; None where it is about none that has been heard of."""
        if isinstance(event, Standing):
            self._states[event.document] = event.state
            self._current = event.document
            return event
        if event.warning or (event.done is None and event.total is None):
            return None
        name = event.stage.removeprefix("train ") if event.stage.startswith("train ") else self._current
        if name not in self._states:
            return None
        return Standing(
            event.stage, "", event.done, event.total, event.numbers, document=name, state=self._states[name]
        )
