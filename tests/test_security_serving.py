"""km serve: who is let in, what it takes of them, and what it tells."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

import hmac
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kmcli import config
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library
from kmcli.serving import app, connections, refusals, server
from kmcli.serving.service import Service
from serving_cases import Running, ingested, serving, teach
from training_cases import one_thread

JSON = {"Content-Type": "application/json"}
ASK = {"model": "embedded", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a key. Its one module is damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(tmp_path_factory.mktemp("serves")))
        patch.setattr(connections, "HEAD_SECONDS", 0.5)
        broken = teach("broken", 3, steps=0)
        (broken.path / "adapter_model.safetensors").write_bytes(b"x")
        with serving("hf", parallel=2, waiting=2) as running:
            yield running


def sent(url: str, raw: bytes, seconds: float = 20, to_the_end: bool = False) -> bytes:
    """What a server answers to these bytes until it closes, or has nothing more to say. to_the_end: until it closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(raw)
        told = b""
        while block := connection.recv(65536):
            told += block
            if not to_the_end and b"\r\n\r\n" in told and b"}" in told.partition(b"\r\n\r\n")[2]:
                break
        return told


# --- who is let in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://127.0.0.1"}, 200),
    ],
)
def test_other_peoples_pages_are_not_answered(open_to_all: Running, headers: dict[str, str], status: int) -> None:
    """A browser on this machine reaches it for any page: by a name that resolves here, or unasked."""
    assert httpx2.get(f"{open_to_all.url}/v1/models", headers=headers).status_code == status
    answer = httpx2.post(f"{open_to_all.url}/km/count", json={"text": "a"}, headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/km/count"])
def test_what_a_page_may_send_unasked_is_not_taken(open_to_all: Running, path: str, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert httpx2.post(open_to_all.url + path, content=json.dumps(ASK), headers=headers).status_code == 415


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        app.hmac, "compare_digest", lambda one, other: (compared.append((one, other)), real(one, other))[1]
    )
    door = app._Door(None, None, "s3cret", "token")  # type: ignore[arg-type]

    def status(client: str, *headers: tuple[bytes, bytes]) -> int:
        scope = {"path": "/v1/models", "headers": headers, "client": (client, 1)}
        refused = door._refusal(scope)
        return refused.status if refused else 200

    def bearer(key: bytes) -> tuple[bytes, bytes]:
        return b"authorization", b"Bearer " + key

    assert status("10.0.0.1", bearer(b"s3cret")) == 200
    assert compared == [(b"s3cret", b"s3cret")]
    for wrong in (b"", b"s3cre", b"s3cret1", b"S3CRET", b"\xff", b"token"):
        assert status("10.0.0.1", bearer(wrong)) == 401, wrong
    assert status("127.0.0.1", bearer(b"token")) == 200, "km itself, from this machine"
    assert status("10.0.0.1") == status("10.0.0.1", (b"authorization", b"Basic s3cret")) == 401


# --- what it takes


def test_a_request_that_says_twice_how_long_it_is(open_to_all: Running) -> None:
    """Else a proxy before it and km disagree where one request ends, and the rest is somebody else's: a question to
    another Knowledge Module, behind whatever the proxy checks."""
    inner = json.dumps(ASK).encode()
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lengths in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 400\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: +4\r\n",
    ):
        head = b"POST /km/count HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + lengths + b"\r\n"
        told = sent(open_to_all.url, head + b"0\r\n\r\n" + hidden + inner, 4, to_the_end=True)
        assert told.split(b" ")[1] in (b"400", b"501"), (lengths, told)
        assert told.count(b"HTTP/1.1") == 1, lengths
    two_hosts = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert b" 400 " in sent(open_to_all.url, two_hosts)
    folded = b"GET /v1/models HTTP/1.1\r\nHost : localhost\r\n\r\n"
    assert b" 400 " in sent(open_to_all.url, folded)


def test_limits_of_a_head(open_to_all: Running) -> None:
    for lines in (b"X: " + b"x" * 40_000, b"\r\n".join(b"X%d: %s" % (n, b"x" * 90) for n in range(400))):
        told = sent(open_to_all.url, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n\r\n")
        assert b" 431 " in told or b" 400 " in told
    assert httpx2.get(f"{open_to_all.url}/health").status_code == 200


@pytest.mark.parametrize("begun", [b"", b"GET /v1/mod", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1"])
def test_who_says_nothing_is_not_waited_for(open_to_all: Running, begun: bytes) -> None:
    host, port = open_to_all.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(begun)
        began = time.monotonic()
        while connection.recv(65536):
            assert time.monotonic() - began < 20
        assert time.monotonic() - began < 20, "closed"


def test_a_body_that_does_not_come_is_not_waited_for(open_to_all: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.BODY_SECONDS == 30.0
    monkeypatch.setattr(app, "BODY_SECONDS", 0.5)
    head = b"POST /km/count HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    assert sent(open_to_all.url, head + b'{"te').startswith(b"HTTP/1.1 408 ")


def test_there_are_only_so_many_connections(open_to_all: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)  # or they are closed for what they do not say
    most = 2 + 2 + connections.SPARE
    host, port = open_to_all.url.removeprefix("http://").split(":")
    opened = [socket.create_connection((host, int(port)), timeout=20) for _ in range(most + 8)]
    try:
        for one in opened[-4:]:
            with pytest.raises((ConnectionError, AssertionError)):
                assert one.recv(10), "closed"
    finally:
        for one in opened:
            one.close()
    from serving_cases import until

    def answers() -> bool:
        try:
            return bool(httpx2.get(f"{open_to_all.url}/health").status_code == 200)
        except httpx2.HTTPError:
            return False

    assert until(answers), "and it goes on"


def test_no_other_door(open_to_all: Running) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    told = sent(open_to_all.url, b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n" + upgrade + b"\r\n")
    assert b" 403 " in told.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "model", ["../../etc/passwd", "/etc/passwd", "a/../broken", "..", "broken@../x", "%2e%2e", "+"]
)
def test_a_model_name_is_no_path(open_to_all: Running, model: str) -> None:
    answer = httpx2.post(f"{open_to_all.url}/v1/chat/completions", json={**ASK, "model": model})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("model_not_found", "model_unusable")


# --- what it tells


def test_no_error_tells_a_path(open_to_all: Running, caplog: pytest.LogCaptureFixture) -> None:
    home = str(open_to_all.home)
    answer = httpx2.post(f"{open_to_all.url}/v1/chat/completions", json={**ASK, "model": "broken"})
    assert answer.status_code == 503
    assert home not in answer.text
    assert "/" not in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text
    assert home in caplog.text, "who runs it reads where"


def test_a_bug_tells_no_traceback(open_to_all: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "entries", lambda self: 1 / 0)
    answer = httpx2.get(f"{open_to_all.url}/v1/models")
    told = {"message": "this is a bug in km. The server's standard error says more.", "type": "server_error"}
    assert (answer.status_code, answer.json()["error"]) == (500, {**told, "param": None, "code": "internal_error"})
    assert httpx2.get(f"{open_to_all.url}/health").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        "/home/me/x is damaged.",
        "the module in /home/me/a b cannot be loaded.",
        "in '~/km/x'.",
        "it fits C:\\km\\x.",
        "(/x)",
    ],
)
def test_paths_are_found(message: str, caplog: pytest.LogCaptureFixture) -> None:
    told = refusals.from_error(ResourceError(message, "Look at /home/me."))
    assert (told.status, told.message) == (503, "this model cannot be loaded.")
    harmless = KmError("notes fits Qwen/Qwen3-0.6B, and/or not.", "km serve --model Qwen/Qwen3-0.6B")
    assert str(refusals.from_error(harmless)) == str(harmless)


def test_what_a_client_says_is_cleaned_before_it_is_logged() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "bad %s", ("\x1b]52;c;eA==\x07",), None)
    assert server._Cleaned().format(record) == "bad \\x1b]52;c;eA==\\x07"
