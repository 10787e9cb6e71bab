"""Generation by a `km serve` that runs already on this machine: nothing is loaded here, not even a client's package."""

from __future__ import annotations

import hmac
import http.client
import json
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from kmcli.engines import Chat, Engine, Generation, Sampling, TokenLogprobs
from kmcli.errors import KmError

HELLO_SECONDS = 1.0
ANSWER_SECONDS = 600.0
"""Longer than a server lets anybody wait, by default."""

IDLE_SECONDS = 2.0
"""Servers close a connection that nobody uses; uvicorn after 5 seconds."""

LOST = (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError)
"""What a server that is gone, or is none, comes as."""


class Cold(Protocol):
    """What answers without a server."""

    @property
    def engine(self) -> Engine: ...

    @property
    def count(self) -> Callable[[str], int]: ...


class ServerEngine:
    """Once the server does not answer, all goes to the cold engine, opened then: `name` says which it was."""

    def __init__(self, server: Server, model: str, revision: str, name: str, cold: Callable[[], Cold]) -> None:
        """model, revision: the base's. name: what the server calls the Knowledge Module, or the base."""
        self.model, self.revision = model, revision
        self._server, self._served, self._open_cold = server, name, cold
        self._cold: Cold | None = None
        self.name = "server"
        self.context = server.context

    def count(self, chat: Chat) -> int:
        return self._count({"messages": _messages(chat)}, lambda cold: cold.engine.count(chat))

    def count_text(self, text: str) -> int:
        return self._count({"text": text}, lambda cold: cold.count(text))

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        made = []
        for chat in chats:
            made.append(self.stream(chat, sampling, lambda _: None))
            if progress:
                progress(len(made))
        return made

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        """Raises KmError where the server leaves in the middle of an answer that has been shown in part."""
        if self._cold is None and sampling.max_tokens <= self._server.max_tokens:
            shown, pieces = False, self._server.answer(self._served, chat, sampling)
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    made: Generation = end.value
                    return made
                except LOST:
                    if shown:
                        raise KmError("km serve, which was answering, has left.", "Ask again.") from None
                    break
                shown = True
                on_text(piece)
        return self._opened().engine.stream(chat, sampling, on_text)

    def _count(self, what: dict[str, Any], by_cold: Callable[[Cold], int]) -> int:
        if self._cold is None:
            try:
                return self._server.count(what)
            except LOST:
                pass
        return by_cold(self._opened())

    def _opened(self) -> Cold:
        if self._cold is None:
            self._server.close()
            self._cold = self._open_cold()
            self.name = self._cold.engine.name
        return self._cold


class Server:
    """A server that has shown that it knows the token. context, max_tokens: of its answers. base_name: of its base."""

    def __init__(self, url: str, token: str, revision: str) -> None:
        """Raises one of LOST where it is gone, another program, or serves another base.

        The token is sent only afterwards, and on the same connection: whoever has taken the port of a server that died
        learns neither the token nor a question.
        """
        address = urlsplit(url)
        self._token, self._revision = token, revision
        self._under_way, self._used = False, 0.0
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=HELLO_SECONDS)
        self._greet()

    def _greet(self) -> None:
        """A new connection, to who proves to be the server."""
        nonce = secrets.token_hex(16)
        try:
            self._connection.close()
            self._connection.connect()
            self._connection.auto_open = 0  # none is opened without a greeting
            self._connection.request("GET", f"/km/hello?nonce={nonce}")
            said = self._read()
            if not hmac.compare_digest(str(said["proof"]), proof(self._token, nonce)):
                raise ValueError
            if said["revision"] != self._revision:
                raise ValueError
            self.base_name, self.context = str(said["model"]), int(said["context"])
            self.max_tokens = int(said["max_tokens"])
            self._connection.sock.settimeout(ANSWER_SECONDS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def count(self, what: dict[str, Any]) -> int:
        self._post("/km/count", what)
        return int(self._read()["tokens"])

    def answer(self, model: str, chat: Chat, sampling: Sampling) -> Generator[str, None, Generation]:
        """Pieces of text. To leave early frees the answer's place. Raises one of LOST."""
        body = {
            "model": model,
            "messages": _messages(chat),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "km_as_is": True,
        }
        if sampling.logprobs:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        self._post("/v1/chat/completions", body)
        response = self._connection.getresponse()
        if response.status != 200:
            raise ValueError
        text, finish, usage = "", "", None
        scores: list[TokenLogprobs] = []
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            data = json.loads(line.removeprefix(b"data: "))
            usage = data.get("usage") or usage
            for choice in data["choices"]:
                finish = choice["finish_reason"] or finish
                scores += map(_scored, (choice.get("logprobs") or {}).get("content") or ())
                if piece := choice["delta"].get("content"):
                    text += piece
                    yield piece
        if not finish or usage is None:
            raise ValueError
        self._done()
        told = tuple(scores) if sampling.logprobs else None
        return Generation(text, usage["prompt_tokens"], usage["completion_tokens"], finish == "stop", told)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        if self._under_way or time.monotonic() > self._used + IDLE_SECONDS:
            self._greet()
        self._under_way = True
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        self._connection.request("POST", path, json.dumps(body).encode(), headers)

    def _read(self) -> Any:
        response = self._connection.getresponse()
        data = response.read(1 << 20)
        if response.status != 200:
            raise ValueError
        self._done()
        return json.loads(data)

    def _done(self) -> None:
        """The response has been read to its end: the connection is free for another."""
        self._under_way, self._used = False, time.monotonic()


def proof(token: str, nonce: str) -> str:
    """That one knows the token, without showing it."""
    return hmac.new(token.encode(), nonce.encode(), "sha256").hexdigest()


def _scored(one: dict[str, Any]) -> TokenLogprobs:
    top = tuple((str(other["token"]), float(other["logprob"])) for other in one.get("top_logprobs") or ())
    return TokenLogprobs(str(one["token"]), float(one["logprob"]), top)


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]
