"""What km serve is fuzzed with: whole requests, past uvicorn, to the application with a backend that writes at once."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kmcli import bases
from kmcli.serving import Limits, app, wire
from kmcli.serving.counts import Counts
from kmcli.serving.service import Service

BASE = bases.Base("embedded", Path("/nowhere"), "r" * 16, "llama", 640, 128, 2, "embedded")
objects = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
_ROUTES = (
    "/health", "/metrics", "/v1/models", "/v1/models/embedded", "/v1/models/a@b", "/v1/chat/completions",
    "/km/hello", "/km/count", "/v1/models/../../etc/passwd", "/",
)  # fmt: skip
_FIELDS = ("model", "messages", "n", "max_tokens", "stop", "stream", "logprobs", "temperature", "seed", "text")
_GOOD: dict[str, Any] = {"model": "embedded", "messages": [{"role": "user", "content": "Where is the heron?"}]}
bodies = st.one_of(
    st.dictionaries(
        st.sampled_from(_FIELDS),
        st.one_of(
            objects, st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "x"]), "content": objects}))
        ),
    ).map(lambda one: json.dumps(_GOOD | one).encode()),
    objects.map(lambda one: json.dumps(one).encode()),
    st.binary(max_size=80),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b'{"model": "\\ud800"}']),
)
headers = st.lists(
    st.tuples(
        st.sampled_from([b"host", b"content-type", b"authorization", b"content-length", b"x"]),
        st.one_of(
            st.sampled_from([b"localhost", b"application/json", b"Bearer key", b"[::1", b"9" * 30]),
            st.binary(max_size=20),
        ),
    ),
    max_size=4,
)
requests = st.tuples(st.sampled_from(["GET", "POST", "PUT", "X"]), st.one_of(st.sampled_from(_ROUTES), st.text(max_size=20)),
                     st.binary(max_size=20), headers, st.booleans(), bodies)  # fmt: skip


def ask_server(folder: Path, given: tuple[str, str, bytes, list[tuple[bytes, bytes]], bool, bytes]) -> None:
    method, path, query, more, usual, body = given
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), *more] if usual else more
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
             "raw_path": path.encode("utf-8", "replace"), "query_string": query, "headers": headers, "scheme": "http",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip
    sent: list[Any] = []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if coming:
            return coming.pop()
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    _LOOP.run_until_complete(_SERVER(scope, receive, send))
    assert sent[0]["type"] == "http.response.start"
    assert sent[0]["status"] < 500
    answer = b"".join(one.get("body", b"") for one in sent[1:])
    assert b"Traceback" not in answer
    assert os.fsencode(folder) not in answer


class Echo:
    """A backend that writes at once what it was asked."""

    name, alive, running, waiting, modules = "echo", True, 0, 0, 0

    def read(self, turns: Any) -> list[int]:
        return [ord(char) for _, content in turns for char in content]

    def count(self, text: str) -> int:
        return len(text)

    def module(self, entry: Any) -> None:
        return None

    def submit(self, job: Any) -> None:
        job.on_written(wire.Written("The heron.", 2, (), "stop"))

    def cancel(self, job: Any) -> None:
        pass

    close = cancel


class Nothing:
    def entries(self) -> list[Any]:
        return []

    def find(self, name: str) -> None:
        return None


_LOOP = asyncio.new_event_loop()
_SERVER = app.build(Service(BASE, Echo(), Nothing(), Limits(), Counts()), None, "token")  # type: ignore[arg-type]
