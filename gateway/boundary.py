"""What surrounds every request: its ids, its limits, and one line in the log."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from activities.logs import WorkerFormatter
from gateway.errors import BodyTooLarge, TooSlow, response_of
from gateway.metrics import GatewayMetrics
from parley.correlation import CORRELATION_ID, HTTP_REQUEST_ID, correlation
from parley.domain.errors import InvalidInput
from parley.settings import Settings

# What containers and clusters ask: under any name, because it says nothing about this gateway's data.
PROBES = ("/healthz", "/readyz")
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
FORMAT = "%(asctime)s %(levelname)s %(name)s %(ids)s%(message)s"

log = logging.getLogger("parley.gateway")


class GatewayFormatter(WorkerFormatter):
    """Formats records with the HTTP request id and the correlation id of the request that they are about."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line, with the ids in brackets."""
        ids = dict.fromkeys(correlation.get().values())
        record.ids = f"[{' '.join(ids)}] " if ids else ""
        return super().format(record)


def _public_host(settings: Settings) -> tuple[str, ...]:
    """The host under which Twilio requests the gateway: an operator who names it trusts it."""
    host = urlsplit(settings.phone_public_url or "").hostname
    return (host,) if host else ()


class Boundary:
    """The outermost part of the application.

    It gives each request its ids, refuses hosts that are not trusted, bodies that are too large or too slow, and turns
    what no handler expected into a problem without details. Pages of the settings' origins may read every response,
    also those that it makes itself. `body_limit`: the most bytes for a path and its headers.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, metrics: GatewayMetrics, body_limit: Callable[[str, Headers], int]
    ) -> None:
        self._origins = names(settings.gateway_cors_origins)
        self._app = self._with_cors(app) if self._origins else app
        self._metrics, self._body_limit = metrics, body_limit
        self._hosts = (*names(settings.gateway_trusted_hosts.lower()), *_public_host(settings))
        self._read_seconds = settings.gateway_read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        token = correlation.set(_ids(headers))
        try:
            await self._serve(scope, headers, receive, send)
        finally:
            correlation.reset(token)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        began, response = time.monotonic(), _Response(send, scope["path"])
        try:
            if scope["path"] not in PROBES:
                self._check_host(headers.get("host", ""))
            if scope["type"] == "websocket":
                await self._app(scope, receive, response)
                return
            body = _Body(receive, self._body_limit(scope["path"], headers), self._read_seconds)
            body.check_length(headers.get("content-length", ""))
            await self._app(scope, body, response)
        except Exception as error:  # noqa: BLE001 - what is not a problem of the caller's is logged and answered as 500
            await self._answer(error, scope, receive, response)
        finally:
            if response.status:
                self._record(scope, response.status, time.monotonic() - began)

    def _check_host(self, host: str) -> None:
        name = re.sub(r":\d+$", "", host.lower())
        below = [f".{trusted.removeprefix('*.')}" for trusted in self._hosts if trusted.startswith("*.")]
        if "*" not in self._hosts and name not in self._hosts and not name.endswith(tuple(below)):
            raise InvalidInput(
                "is not a host of this gateway: the operator names its hosts in PARLEY_GATEWAY_TRUSTED_HOSTS",
                where="Host",
            )

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, response: "_Response") -> None:
        made = response_of(error, scope["path"])
        if made.status_code == 500:
            log.error("an error that no handler expected", exc_info=error)
        if response.status == 0:
            await self._refuse(made, scope, receive, response)
        elif scope["type"] == "websocket":
            await response({"type": "websocket.close", "code": 1011, "reason": ""})
        # A response that has begun cannot become an error: the server cuts the connection, so that no client takes it
        # for complete.
        else:
            raise error

    async def _refuse(self, made: Response, scope: Scope, receive: Receive, response: "_Response") -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, response).send_denial_response(made)
        elif self._origins:  # not as the answer to a preflight, which would say that the request is allowed
            await self._with_cors(made).simple_response(scope, receive, response, request_headers=Headers(scope=scope))
        else:
            await made(scope, receive, response)

    def _with_cors(self, app: ASGIApp) -> CORSMiddleware:
        """An application, or a response, that pages of the origins may read with all of its headers."""
        everything = ["*"]
        return CORSMiddleware(
            app,
            allow_origins=self._origins,
            allow_methods=everything,
            allow_headers=everything,
            expose_headers=everything,
        )

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "")
        method = scope.get("method", "WEBSOCKET")
        self._metrics.ended(path or "none", method, status, seconds)
        # The path as it was sent: percent-encoding shows a line feed, and keeps the line whole.
        sent = scope.get("raw_path", b"").decode("ascii", "replace")[:300]
        level = logging.DEBUG if path in (*PROBES, "/metrics") else logging.INFO
        log.log(level, "%s %s %s %.0f ms", method, sent, status, seconds * 1000)


class _Body:
    """The body of a request, within its limits of size and time."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self._read, self._is_complete = 0, False

    def check_length(self, declared: str) -> None:
        if declared.isdigit() and int(declared) > self._limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._is_complete:  # what is awaited now is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            raise TooSlow(f"no more of the body came within {self._seconds:g} s: send it again") from None
        self._read += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._read > self._limit:
            raise self._too_large()
        return message

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body has more than the {self._limit:,} bytes allowed here")


class _Response:
    """The response of a request with the gateway's headers. `status`: 0 until it begins."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self.status = send, 0
        self._is_of_vendor = path.startswith("/v1/")

    async def __call__(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            ids = correlation.get()
            headers["x-request-id"], headers["x-correlation-id"] = ids[HTTP_REQUEST_ID], ids[CORRELATION_ID]
            if self._is_of_vendor:  # Anthropic's SDKs read this name only, also of a list of models
                headers["request-id"] = ids[HTTP_REQUEST_ID]
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


def names(listed: str) -> tuple[str, ...]:
    """The names of a list that is separated by commas."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _ids(headers: Headers) -> dict[str, str]:
    """The ids of a request: its own, if they are safe to log and to send back, else new ones."""
    request_id = _safe(headers.get("x-request-id")) or uuid4().hex
    return {HTTP_REQUEST_ID: request_id, CORRELATION_ID: _safe(headers.get("x-correlation-id")) or request_id}


def _safe(text: str | None) -> str | None:
    return text if text and SAFE_ID.fullmatch(text) else None
