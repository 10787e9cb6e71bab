"""When the next request may be sent: what a service says about its limits, and backing off where it says nothing."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FIRST = 0.5
LONGEST = 60.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Pace:
    """Shared by the requests of an engine: a limit that one of them meets holds all of them.

    first: seconds of the first backing off; each further one of a request is twice as long, up to `longest`. All waits
    are drawn a little at random, so that requests that were refused together do not come back together.
    """

    def __init__(
        self,
        first: float = FIRST,
        longest: float = LONGEST,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first, self.longest = first, longest
        self._sleep, self._clock = sleep, clock
        self._open_at = -math.inf

    async def turn(self) -> None:
        """Wait until requests may be sent."""
        while (wait := self._open_at - self._clock()) > 0:
            await self._sleep(wait + random.uniform(0, self.first))

    def hold(self, seconds: float) -> None:
        """No request for that long."""
        self._open_at = max(self._open_at, self._clock() + seconds)

    async def back_off(self, failures: int) -> None:
        await self._sleep(self.delay(failures))

    def delay(self, failures: int) -> float:
        """Seconds to back off after so many failures, between half and all of the doubled time."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)


def asked_wait(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds until the service wants another request, as its headers say; None where they say nothing of use.

    headers: any case that the mapping finds; Retry-After (seconds or a date), retry-after-ms, and the x-ratelimit
    family, of which only limits count that are used up.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    after = headers.get("retry-after")
    seconds = _number(after)
    if seconds is not None:
        return seconds
    if after:
        try:
            date = parsedate_to_datetime(after)
        except ValueError:
            return exhausted_wait(headers)
        if date.tzinfo is None:  # "-0000": no zone said, UTC by the standard of HTTP
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - (now or datetime.now(timezone.utc))).total_seconds())
    return exhausted_wait(headers)


def exhausted_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until the last of the used-up limits is fresh again; None where none is used up."""
    waits = [
        wait
        for what in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{what}")) == 0
        and (wait := span(headers.get(f"x-ratelimit-reset-{what}"))) is not None
    ]
    return max(waits, default=None)


def span(text: str | None) -> float | None:
    """Seconds of "6m0s", "120ms", "1h2m3.5s" or plain seconds; None for anything else, as for a time of day."""
    number = _number(text)
    if number is not None or not text:
        return number if number is not None and number < 1e9 else None
    parts = _SPAN.findall(text.strip())
    if "".join(value + unit for value, unit in parts) != text.strip():
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
