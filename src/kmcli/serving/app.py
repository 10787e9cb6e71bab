"""The HTTP routes, and who may use them."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kmcli.engines.server import proof
from kmcli.errors import KmError
from kmcli.serving import Entry, refusals, wire
from kmcli.serving.refusals import Refused
from kmcli.serving.service import Service
from kmcli.serving.wire import Head, Wanted, Written

OPEN = ("/health", "/km/hello")
"""What needs no key."""

HEAD_BYTES = 16384
"""Of a request's headers together."""

BODY_SECONDS = 30.0
"""In which a request's body has to arrive."""

DRAINED = 16
"""A body that is too large is read and thrown away up to so many times the limit, so that its sender hears why."""

PRINTABLE = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")
"""What stands in a header as it is; the rest as in a URL."""


def build(service: Service, key: str | None, token: str) -> ASGIApp:
    """key: what clients must send as their API key. None: none, and then only those on this machine are answered.

    token: what km itself sends instead, from this machine.
    """
    api = _Api(service, token)
    routes = [
        Route("/health", api.health),
        Route("/metrics", api.metrics),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/km/hello", api.hello),
        Route("/km/count", api.count, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[..., Any]] = {KmError: _refused, HTTPException: _no_route, Exception: _bug}
    return _Door(Starlette(routes=routes, exception_handlers=handlers), service, key, token)


class _Door:
    """Keys, hosts, and the count of what goes out."""

    def __init__(self, app: ASGIApp, service: Service, key: str | None, token: str) -> None:
        self._app, self._service, self._key, self._token = app, service, key, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.counts.requests.labels(message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        app = _response(refusal) if refusal else self._app
        await app(scope, receive, counted)

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            return Refused(431, "headers_too_large", f"the headers are larger than {HEAD_BYTES:,} bytes.")
        if b"transfer-encoding" in headers and b"content-length" in headers:
            # What stands before this server may go by the other one, and take the rest for another's request.
            # Nothing behind it is read as another one (RFC 9112, section 6.1).
            closing = {"Connection": "close"}
            return Refused(400, "ambiguous_length", "the request says twice how long it is.", headers=closing)
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            if not is_local(_without_port(host)):
                # A web page may have its name resolve to this machine, and speak to the server as if it were its own.
                return Refused(403, "wrong_host", f"this server answers on this machine only, and not as {host!r}.")
            origin = headers.get(b"origin")
            if origin is not None and not _is_local_page(origin.decode("latin-1")):
                return Refused(
                    403, "wrong_origin", "this server answers no page of another host.", "Give it a key: --api-key."
                )
            return None
        if scope["path"] in OPEN:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        keys = [self._key, *([self._token] if is_local((scope["client"] or ("",))[0]) else [])]
        if kind.lower() == b"bearer" and any(hmac.compare_digest(given.strip(), one.encode()) for one in keys):
            return None
        how = "Send it as: Authorization: Bearer KEY"
        return Refused(
            401, "invalid_api_key", "the API key is missing or wrong.", how, headers={"WWW-Authenticate": "Bearer"}
        )


class _Api:
    def __init__(self, service: Service, token: str) -> None:
        self._service, self._token = service, token
        self._began = int(time.time())

    async def health(self, request: Request) -> Response:
        if not self._service.healthy:
            raise refusals.broken()
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.counts.text(), media_type=self._service.counts.content_type)

    async def models(self, request: Request) -> Response:
        data = [self._base()]
        for entry in self._service.entries():
            names = [entry.name, entry.pinned]
            data += [_model(name, entry) for name in names if name != self._service.base_id]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        entry = self._service.find(name)
        return JSONResponse(_model(name, entry) if entry else self._base())

    async def hello(self, request: Request) -> Response:
        """Who this is, shown to who knows the token as well: see engines/server.py."""
        service = self._service
        shown = proof(self._token, request.query_params.get("nonce", ""))
        limits = {"context": service.base.context, "max_tokens": service.limits.max_tokens}
        return JSONResponse({"proof": shown, "model": service.base_id, "revision": service.base.revision, **limits})

    async def count(self, request: Request) -> Response:
        _require_json(request)
        what = wire.read_count(await _body(request, self._service.limits.body_bytes))
        backend = self._service.backend
        if isinstance(what, str):
            return JSONResponse({"tokens": await asyncio.to_thread(backend.count, what)})
        return JSONResponse({"tokens": len(await asyncio.to_thread(backend.read, what))})

    async def chat(self, request: Request) -> Response:
        _require_json(request)
        wanted = wire.read(await _body(request, self._service.limits.body_bytes))
        ready = await self._service.prepare(wanted)
        head = Head(wanted.model, int(time.time()), ready.fingerprint, len(ready.prompt))
        scored = wanted.top_logprobs is not None
        headers = {"X-KM-Warning": quote(ready.warning, safe=PRINTABLE)} if ready.warning else {}
        answer = self._service.answer(ready, asyncio.ensure_future(_disconnected(request)))
        first = await anext(answer)  # what is refused until now has a status of its own
        if not wanted.stream:
            await answer.aclose()
            return JSONResponse(head.completion(first, scored), headers=headers)
        events = _events(head, wanted, first, answer)
        headers["Cache-Control"] = "no-cache"
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _base(self) -> dict[str, Any]:
        return {"id": self._service.base_id, "object": "model", "created": self._began, "owned_by": "km"}


async def _events(
    head: Head, wanted: Wanted, first: Written, rest: AsyncGenerator[Written, None]
) -> AsyncIterator[bytes]:
    """The answer as server-sent events. What goes wrong on the way is the last of them."""
    scored, written = wanted.top_logprobs is not None, first
    async with aclosing(rest):
        try:
            for event in [head.opening(), *head.chunks(first, scored)]:
                yield event
            async for written in rest:
                for event in head.chunks(written, scored):
                    yield event
            if wanted.include_usage:
                yield head.usage_chunk(written.tokens)
            yield wire.DONE
        except KmError as error:
            yield wire.event(refusals.from_error(error).as_json())


def _require_json(request: Request) -> None:
    """Also what keeps other web pages out: a browser asks before it sends such a body for one."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "wrong_content_type", "the body must be JSON.", "Send it as: Content-Type: application/json")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, limit: int) -> bytes:
    """Raises Refused where it is too large, or does not come."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > DRAINED * limit:
        raise _too_large(limit)
    try:
        return await asyncio.wait_for(_collected(request, limit), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(408, "timeout", f"the body did not arrive within {BODY_SECONDS:g} seconds.") from None
    except ClientDisconnect:
        raise refusals.gone() from None


async def _collected(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > DRAINED * limit:
            break
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> Refused:
    return Refused(
        413, "body_too_large", f"the body is larger than the {limit:,} bytes allowed.", "Send a shorter one."
    )


def _model(name: str, entry: Entry) -> dict[str, Any]:
    created = int(datetime.fromisoformat(entry.module.created).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "km"}


def _response(refusal: Refused) -> Response:
    return JSONResponse(refusal.as_json(), refusal.status, refusal.headers)


def _refused(request: Request, error: KmError) -> Response:
    return _response(refusals.from_error(error))


def _no_route(request: Request, error: HTTPException) -> Response:
    path, headers = request.scope["path"], dict(error.headers or {})  # not its URL: a query may be no UTF-8
    if error.status_code == 405:
        message = f"{path} does not take {request.method}."
        return _response(Refused(405, "method_not_allowed", message, headers=headers))
    hint = "See /v1/models and /v1/chat/completions."
    return _response(Refused(error.status_code, "not_found", f"there is no {path}.", hint, headers=headers))


def _bug(request: Request, error: Exception) -> Response:
    """The traceback goes to standard error by the server's own log."""
    return _response(refusals.broken())


def is_local(host: str) -> bool:
    """Whether a host is this machine's own: nobody else can come in by it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_local_page(origin: str) -> bool:
    try:
        return is_local(urlsplit(origin).hostname or "")
    except ValueError:
        return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
