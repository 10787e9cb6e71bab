"""The socket, and how the server ends: what is under way is finished, for some seconds."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from kmcli.errors import ResourceError, UsageError
from kmcli.serving import connections, refusals
from kmcli.serving.app import HEAD_BYTES, build
from kmcli.serving.service import Service
from kmcli.visible import clean

AFTERWARDS = 2
"""Seconds to send what was refused at the end."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises UsageError for the address, ResourceError for the port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (OSError, UnicodeError):
        raise UsageError(f"there is no address {host!r} on this machine.", "For example: --host 127.0.0.1") from None
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        why = (error.strerror or str(error)).lower()
        raise ResourceError(
            f"port {port} of {host} cannot be had: {why}.", "Choose another with --port, or 0 for a free one."
        ) from None
    return sock


def url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make(service: Service, key: str | None, tell: Callable[[str], None], token: str | None = None) -> Server:
    """tell: takes a sentence for the person who runs it. token: of `build`; None: one that nobody knows."""
    limits = service.limits
    config = uvicorn.Config(
        build(service, key, token or secrets.token_urlsafe(32)),
        http=connections.protocol(limits.parallel + limits.waiting + connections.SPARE),
        ws="none",  # whose requests would come by another door
        h11_max_incomplete_event_size=HEAD_BYTES,
        proxy_headers=False,  # a client says nobody else's address
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(limits.grace) + AFTERWARDS,
    )
    return Server(config, service, tell)


def run(server: Server, sock: socket.socket) -> signal.Signals | None:
    """Serve until a signal ends it, which is returned."""
    log = logging.getLogger("uvicorn.error")
    log.addFilter(_is_bug)
    if logging.lastResort:  # what writes to standard error where nobody has asked for more
        logging.lastResort.setFormatter(_Cleaned())
    try:
        server.run([sock])
    finally:
        log.removeFilter(_is_bug)
        server.service.close()
    return server.ended_by


class Server(uvicorn.Server):
    """uvicorn's, which says how it ends. The first signal ends it gently, a second at once."""

    def __init__(self, config: uvicorn.Config, service: Service, tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self.service, self._tell = service, tell
        self.ended_by: signal.Signals | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, but the signal is not raised again afterwards."""
        self.ended_by = self.ended_by or signal.Signals(sig)
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        under_way, grace = self.service.under_way, self.service.limits.grace
        if under_way:
            answers = f"{under_way} answer" + "s" * (under_way != 1)
            self._tell(f"stopping: {answers} under way, {grace:g} seconds to finish (Ctrl-C again stops at once)")
        cut = asyncio.get_running_loop().call_later(grace, self._cut)
        await super().shutdown(sockets)
        cut.cancel()

    def _cut(self) -> None:
        if self.service.under_way:
            self._tell(f"cut off: {self.service.under_way}, which were not finished in time")
        self.service.refuse_all(refusals.ending())


class _Cleaned(logging.Formatter):
    """A traceback may have a client's text in it, and is read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def _is_bug(record: logging.LogRecord) -> bool:
    """Of what uvicorn logs only tracebacks are shown: the rest is told in sentences, or to the client."""
    return bool(record.exc_info and record.exc_info[0] and issubclass(record.exc_info[0], Exception))
