"""A model hub on 127.0.0.1 that speaks what huggingface_hub asks for, and misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0
    """Bytes of a file that went out."""


@dataclass
class FakeHub:
    """models: name -> file name -> content; the name of a dataset begins with "datasets/".

    Everything else is how to misbehave.
    """

    models: dict[str, dict[str, bytes]]
    refuse: tuple[int, dict[str, str]] | None = None
    """Status and headers for every request."""
    refuse_files: tuple[int, dict[str, str]] | None = None
    """The same for files alone, as of a gated model whose page everybody may see."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """file name -> bytes after which each next GET of it is cut; complete again when the list is used up."""
    corrupt: set[str] = field(default_factory=set)
    ranges: bool = True
    xet: bool = False
    """Offer huggingface_hub's own transfer protocol (which nobody answers here)."""
    silence: float = 0.0
    """Seconds before any answer."""
    body: bytes | None = None
    """Sent for the listing instead of it."""
    elsewhere: FakeHub | None = None
    """The server that large files are redirected to."""
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            def setup(self) -> None:
                self.hub = hub
                super().setup()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def gets(self, file: str) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and request.path.endswith("/" + file)]


def closed_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        self.hub.requests.append(request)
        time.sleep(self.hub.silence)
        if self.hub.refuse:
            self.answer(*self.hub.refuse)
        elif "/xet-read-token/" in path:
            cas = {"X-Xet-Cas-Url": f"http://127.0.0.1:{closed_port()}", "X-Xet-Access-Token": "t"}
            self.answer(200, {**cas, "X-Xet-Token-Expiration": str(int(time.time()) + 3600)})
        elif match := re.fullmatch(r"/api/(models/|(?=datasets/))(.+?)(?:/revision/(.+))?", path):
            self.listing(match[2], match[3] or "main")
        elif match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[3], request)
        else:
            self.answer(404, {})

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def listing(self, name: str, revision: str) -> None:
        files = self.hub.models.get(name)
        if files is None:
            return self.answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if revision not in ("main", COMMIT):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": file, "size": len(data), "blobId": _git(data), **_lfs(file, data)}
            for file, data in files.items()
        ]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        return self.answer(200, {"Content-Type": "application/json"}, self.hub.body or body)

    def file(self, name: str, file: str, request: Request) -> None:
        if self.hub.refuse_files:
            return self.answer(*self.hub.refuse_files)
        data = self.hub.models.get(name, {}).get(file)
        if data is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_git(data)}"', "Content-Type": "application/octet-stream"}
        if large := _lfs(file, data).get("lfs"):
            headers |= {"X-Linked-Etag": f'"{large["sha256"]}"', "X-Linked-Size": str(len(data))}
            if self.hub.xet:
                route = f"{self.hub.url}/api/models/{name}/xet-read-token/{COMMIT}"
                headers |= {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": route}
            if self.hub.elsewhere:
                return self.answer(302, {**headers, "Location": self.hub.elsewhere.url + self.path})
        return self.send_file(file, data, headers, request)

    def send_file(self, file: str, data: bytes, headers: dict[str, str], request: Request) -> None:
        start = int(request.range.removeprefix("bytes=").rstrip("-")) if request.range and self.hub.ranges else 0
        if file in self.hub.corrupt:
            data = bytes(len(data))
        body = data[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and self.hub.cuts.get(file):
            body = body[: self.hub.cuts[file].pop(0)]
            self.close_connection = True  # fewer bytes than promised, then the end
        request.sent = len(body)
        return self.answer(206 if start else 200, {**headers, "Content-Length": str(len(data) - start)}, body)


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _lfs(file: str, data: bytes) -> dict[str, dict[str, object]]:
    if not file.endswith((".safetensors", ".bin", ".gguf")):
        return {}
    return {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
