"""Fetching a URL, carefully: http and https only, public addresses only, within limits of time and size.

Every connection, also after a redirect, is made to an address that was checked first, so a host name that changes its
address between check and use gains nothing. Proxies of the environment are not used: behind one the check is worthless.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import logging
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from kmcli import __version__
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.ingest import html
from kmcli.ingest.text import Extract, clean

TIMEOUT = 30.0
"""Seconds to wait for a connection or for the next bytes."""
MAX_SECONDS = 300.0
"""For one download as a whole."""
MAX_BYTES = 50_000_000
ALLOW_PRIVATE = "KM_ALLOW_PRIVATE_URLS"
"""Environment variable: "1" lets km read from this machine and its private network."""

_DOWNLOAD_INSTEAD = "Download it yourself and add the file."
_ESCAPED = re.compile(r"\\([*_`\[\]#+>.-])")
"""What trafilatura escapes so that Markdown is not mistaken; a model reads it better plain."""
_SAFE = "/:=&?~+!$,;'@()*[]%-._"


@dataclass(frozen=True, slots=True)
class Fetched:
    """url: where the redirects ended. content_type, charset: as the server says, lower case, "" where it does not."""

    url: str
    data: bytes
    content_type: str
    charset: str


def fetch(url: str) -> Fetched:
    """Raises UsageError for a URL km must not or cannot open, NotFoundError for 404 and 410, ResourceError where the
    host cannot be reached, KmError for every other answer and for downloads that are too large or too slow."""
    request = urllib.request.Request(_checked(url), headers={"User-Agent": f"kmcli/{__version__}", "Accept": "*/*"})
    clock = _Clock()
    opener = urllib.request.OpenerDirector()  # build_opener would add readers of file: and ftp: URLs
    for handler in (
        _Http(clock),
        _Https(clock),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        with clock, opener.open(request, timeout=TIMEOUT) as response:
            data = _download(response, url)
            headers = response.headers
            charset = headers.get_content_charset() or ""
            kind = headers.get_content_type() if "content-type" in headers else ""
            return Fetched(response.url, data, kind, charset)
    except KmError:
        if clock.ran_out:
            raise _too_slow(url) from None
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise NotFoundError(f"there is no page {url} (status {error.code}).", "Check the URL.") from None
        if error.code < 400:
            raise KmError(f"{url} redirects in circles, or to what is no web page.", _DOWNLOAD_INSTEAD) from None
        raise KmError(f"{url} answers with status {error.code} {error.reason}.", _DOWNLOAD_INSTEAD) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # a URLError too
        if clock.ran_out:
            raise _too_slow(url) from None
        raise _unreachable(url, getattr(error, "reason", error)) from None


def main_text(data: bytes, url: str, charset: str) -> Extract:
    """A page's article without what surrounds it; the whole page where no article is found."""
    import trafilatura

    markup = html.decode(data, url, charset)
    page = html.from_markup(markup)
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        article = trafilatura.extract(markup, output_format="markdown", include_comments=False)
    except (ValueError, TypeError, AttributeError, RecursionError):  # lxml on odd markup
        article = None
    if not article or not article.strip():
        return page
    parts = article.split("```")  # prose and code by turns
    parts[::2] = [_ESCAPED.sub(r"\1", part) for part in parts[::2]]
    heading = f"# {page.title}\n\n" if page.title and not article.startswith("# ") else ""
    return Extract(clean(heading + "```".join(parts)), title=page.title)


def _checked(url: str) -> str:
    """The URL with odd characters quoted and without its fragment. Raises UsageError where it is not to be opened."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # a UnicodeError too
        raise UsageError(f"{url} is not a valid URL.", "Check how it is written.") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise UsageError(f"{url} is neither http nor https.", _DOWNLOAD_INSTEAD)
    if not host:
        raise UsageError(f"{url} names no host.", "Check how it is written.")
    if parts.username or parts.password:
        raise UsageError("a URL with a name or password in it is not opened.", _DOWNLOAD_INSTEAD)
    place = f"[{host}]{port}" if ":" in host else host + port
    return urlunsplit((parts.scheme.lower(), place, quote(parts.path, _SAFE), quote(parts.query, _SAFE), ""))


def _download(response: http.client.HTTPResponse, url: str) -> bytes:
    blocks: list[bytes] = []
    size = 0
    while block := response.read(1 << 16):
        blocks.append(block)
        size += len(block)
        if size > MAX_BYTES:
            raise KmError(f"{url} is larger than {MAX_BYTES // 1_000_000} MB.", _DOWNLOAD_INSTEAD)
    if response.length:  # reading in blocks does not notice by itself
        raise KmError(f"{url} broke off after {size} bytes.", "Try again.")
    if not size:
        raise KmError(f"{url} is empty.", "Open it in a browser: it may need a log-in or scripts.")
    return b"".join(blocks)


def _too_slow(url: str) -> KmError:
    return KmError(f"{url} takes longer than {MAX_SECONDS / 60:.0f} minutes.", _DOWNLOAD_INSTEAD)


class _Clock:
    """Ends a download that takes too long, also one whose server sends a byte now and then, be it of a header.

    A context manager: its end is the clock's. The connections of all redirects have one clock.
    """

    def __init__(self) -> None:
        self._end = time.monotonic() + MAX_SECONDS
        self._timer = threading.Timer(max(0.0, MAX_SECONDS), self._strike)
        self._timer.daemon = True
        self._opened: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> _Clock:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def ran_out(self) -> bool:
        return time.monotonic() >= self._end

    def connect(self, address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        opened = _connect(address, *args, **kwargs)
        with self._lock:
            self._opened.append(opened.dup())  # TLS takes the socket itself over
        if self.ran_out:
            self._strike()
        return opened

    def _strike(self) -> None:
        """Whatever waits for such a connection hears that it is over."""
        with self._lock:
            for one in self._opened:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def _connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
    """socket.create_connection, to the first of the host's addresses that is allowed and answers."""
    host, port = address
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if os.environ.get(ALLOW_PRIVATE) != "1":
        # One private address is enough to refuse: a public host has no reason to have any.
        for one in found:
            if not _public(one):
                raise UsageError(
                    f"{host} is an address of this machine or of a private network.",
                    f"If you trust it, set {ALLOW_PRIVATE}=1.",
                )
    failure: OSError | None = None
    for one in dict.fromkeys(found):
        try:
            return socket.create_connection((one, port), *args, **kwargs)
        except OSError as error:
            failure = error
    raise failure or OSError("the host has no address")


_INNER = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))
"""Addresses of IPv6 whose last 32 bits are one of IPv4, where a gateway translates; those that `ipaddress` knows besides."""
_NEVER = tuple(map(ipaddress.ip_network, ("fec0::/10", "5f00::/16", "3fff::/20", "192.88.99.0/24", "192.0.0.0/24")))
"""Of no public host, whatever the version of Python holds of them."""


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in network for network in _INNER):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _public(str(inner))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NEVER)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            made = http.client.HTTPConnection(*args, **kwargs)
            # what the standard library offers for this; its tests use it too
            made._create_connection = self._clock.connect  # type: ignore[attr-defined]
            return made

        return self.do_open(connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPSConnection:
            made = http.client.HTTPSConnection(*args, **kwargs)
            made._create_connection = self._clock.connect  # type: ignore[attr-defined]
            return made

        return self.do_open(connection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, _checked(newurl))


def _unreachable(url: str, reason: object) -> ResourceError:
    detail = str(reason)
    if isinstance(reason, OSError):
        detail = "it took too long" if isinstance(reason, TimeoutError) else reason.strerror or detail
    return ResourceError(f"{url} cannot be reached: {detail}.", "Check the address and your network, and try again.")
