"""How far a group of units is, while its chats are being finished.

How many chats the checks take is known only once the drafts are there, and drafts take longer than short answers. So a
group's drafts are its first part and its checks the rest, as large as they were in time in the groups before.
"""

from __future__ import annotations

from kmcli.engines.metered import Metered

FIRST_PART = 0.7
"""What the drafts are of the first group's time, before anything was measured."""
CHECKS_PER_DRAFT = 2.0
"""Of the first group."""
ALMOST = 0.99
"""A group is done when it is handed over, and not before."""


class Pace:
    def __init__(self, meter: Metered) -> None:
        """meter: counts what the groups take, and nothing else."""
        self._meter = meter
        self._part, self._checks_per_draft = FIRST_PART, CHECKS_PER_DRAFT
        self._drafts = self._drafts_before = self._chats_before = 0
        self._drafting, self._seconds_before = 0.0, 0.0

    def begin(self, drafts: int) -> None:
        """A group with so many drafts to write begins. What the ones before took is what it is expected to take."""
        if self._drafts and self._meter.seconds:
            self._checks_per_draft = self._meter.chats / self._drafts - 1
            self._part = self._drafting / self._meter.seconds
        self._drafts_before, self._drafts = self._drafts, self._drafts + drafts
        self._chats_before, self._seconds_before = self._meter.chats, self._meter.seconds

    def drafted(self) -> None:
        """The group's drafts are there."""
        self._drafting += self._meter.seconds - self._seconds_before

    def share(self) -> float:
        """What is done of the group, below 1."""
        drafts, finished = self._drafts - self._drafts_before, self._meter.chats - self._chats_before
        if finished <= drafts:
            return min(ALMOST, self._part * finished / max(1, drafts))
        checked = (finished - drafts) / max(1.0, self._checks_per_draft * drafts)
        return min(ALMOST, self._part + (1 - self._part) * checked)
