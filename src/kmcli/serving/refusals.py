"""What a client is told instead of an answer: a sentence, in OpenAI's JSON, with the status that its clients act on."""

from __future__ import annotations

import logging
import re
from typing import Any

from kmcli.errors import KmError
from kmcli.visible import clean

_PATH = re.compile(r"(?:^|[\s('\"=])(?:~?[/\\]|[A-Za-z]:[/\\])")
"""Where a path of this machine begins, which clients are not told."""

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(KmError):
    """param: the part of the request that is at fault. headers: what the response has besides."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}
        self.args = (status, code, message, hint, param, headers)

    def as_json(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def from_error(error: KmError) -> Refused:
    """A KmError of the rooms below as a client is told it."""
    return error if isinstance(error, Refused) else Refused(503, "unavailable", *told(error))


def told(error: KmError) -> tuple[str, str]:
    """Message and hint for a client. Those with a path of this machine are for standard error alone."""
    if not _PATH.search(str(error)):
        return error.message, error.hint
    logging.getLogger(__name__).warning("%s", clean(str(error)))
    return "this model cannot be loaded.", "The server's standard error says more."


def busy() -> Refused:
    return Refused(
        429,
        "too_many_requests",
        "too many requests are waiting already.",
        "Try again in a moment.",
        headers={"Retry-After": "1"},
    )


def too_slow(seconds: float) -> Refused:
    return Refused(504, "timeout", f"the answer was not finished within {seconds:g} seconds.", "Ask for fewer tokens.")


def ending() -> Refused:
    return Refused(503, "shutting_down", "the server is shutting down.", "Ask again when it is back.")


def gone() -> Refused:
    """Nobody reads it; its status, which is nginx's for this, is counted."""
    return Refused(499, "gone", "the client left.")


def broken() -> Refused:
    return Refused(500, "internal_error", "this is a bug in km.", "The server's standard error says more.")
