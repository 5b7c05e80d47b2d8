"""Who sends a request: the key decides the workspace and the rights, and nothing else in a request can."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from gateway.errors import NotPermitted, TooManyRequests, Unauthenticated, UnsupportedMediaType
from parley.client.backend import Backend
from parley.client.client import Client
from parley.domain.errors import Unreachable
from parley.domain.gateway_keys import KEY_PATTERN, GatewayKey, Scope, hash_of, share
from parley.storage import gateway_keys

# How long a process uses what it knows of a key. A revoked key is refused everywhere after twice this time.
KNOWN_SECONDS = 1.0
MOST_KNOWN = 10_000
STREAM_RETRY_SECONDS = 1.0
SCOPE, BODY = "x-parley-scope", "x-parley-body"
JSON = "application/json"


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its key, the hash of the key's secret, and a client of the key's workspace."""

    key: GatewayKey
    sha256: str
    client: Client
    backend: Backend


@dataclass
class _Share:
    """What a process may still serve of a minute's allowance, until `until` on its own clock.

    `is_last`: the minute has no more.
    """

    left: int = 0
    until: float = 0.0
    is_last: bool = False

    @property
    def is_used_up(self) -> bool:
        return time.monotonic() >= self.until or (self.left == 0 and not self.is_last)


@dataclass
class _Known:
    key: GatewayKey
    read_at: float
    is_being_read: bool = False
    share: _Share = field(default_factory=_Share)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authentication:
    """The keys that this process knows, their shares of the rate limits, and their open streams."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, _Known] = {}
        self._streams: Counter[str] = Counter()

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """The sender of a request, which counts against the key's limit.

        Raises:
            Unauthenticated: there is no valid key.
            NotPermitted: the key does not have the scope.
            TooManyRequests: the key's requests of this minute are used up.
            Unreachable: PostgreSQL does not answer.
        """
        return await self.admit(hash_of(_secret(connection)), scope)

    async def admit(self, sha256: str, scope: Scope) -> Caller:
        """The caller whose key has this hash. The request counts against the key's limit.

        Raises:
            As `identify` does.
        """
        known = await self._find(sha256)
        if not known.key.is_valid(datetime.now(UTC)):
            raise Unauthenticated("the key is revoked or has expired: make another one with `parley keys create`")
        if scope not in known.key.scopes:
            raise NotPermitted(f"the key {known.key.key_id} does not have the scope {scope.value!r}")
        await self._count(known)
        return Caller(known.key, sha256, self._backend.client(known.key.workspace_id), self._backend)

    async def is_admitted(self, caller: Caller) -> bool:
        """Whether a caller's key is still valid. While PostgreSQL does not answer, what was known of it counts."""
        key = caller.key
        try:
            key = (await self._find(caller.sha256)).key
        except Unauthenticated:
            return False
        except Unreachable:
            pass
        return key.is_valid(datetime.now(UTC))

    @asynccontextmanager
    async def stream(self, caller: Caller) -> AsyncIterator[None]:
        """Count an open stream of a key.

        Raises:
            TooManyRequests: the key has as many open streams as it may.
        """
        key = caller.key
        if self._streams[key.key_id] >= key.concurrent_streams:
            raise TooManyRequests(
                f"the key {key.key_id} has {key.concurrent_streams} open streams, which is its limit",
                retry_after=STREAM_RETRY_SECONDS,
            )
        self._streams[key.key_id] += 1
        try:
            yield
        finally:
            self._streams[key.key_id] -= 1
            if not self._streams[key.key_id]:
                del self._streams[key.key_id]

    async def _find(self, sha256: str) -> _Known:
        """What is known of a key, read again after `KNOWN_SECONDS`.

        One of several concurrent requests reads it again. The others use what was known until then, which is at most
        twice as old.
        """
        now = time.monotonic()
        known = self._known.get(sha256)
        if known is not None:
            age = now - known.read_at
            if age < KNOWN_SECONDS or (known.is_being_read and age < 2 * KNOWN_SECONDS):
                return known
            known.is_being_read = True
        try:
            return await self._read(sha256, now)
        finally:
            if known is not None:
                known.is_being_read = False

    async def _read(self, sha256: str, now: float) -> _Known:
        async with self._backend.database.reads() as tx:
            key = await gateway_keys.find(tx, sha256)
        if key is None:
            self._known.pop(sha256, None)
            raise Unauthenticated("the key is not known: make one with `parley keys create`")
        known = self._known.get(sha256)  # a concurrent request may have read it: its share is the one to use
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            known = self._known[sha256] = _Known(key, now)
        known.key, known.read_at = key, now
        return known

    async def _count(self, known: _Known) -> None:
        """Serve the request from this process's share of the minute, or take another share."""
        key = known.key
        async with known.lock:  # concurrent requests take one share
            if known.share.is_used_up:
                known.share = await self._take(key)
            if known.share.left == 0:
                raise TooManyRequests(
                    f"the key {key.key_id} may send {key.requests_per_minute} requests a minute",
                    retry_after=max(known.share.until - time.monotonic(), 0.0),
                )
            known.share.left -= 1

    async def _take(self, key: GatewayKey) -> _Share:
        began, wanted = time.monotonic(), share(key.requests_per_minute)
        async with self._backend.database.transaction() as tx:
            taken, seconds = await gateway_keys.take(tx, key, wanted)
        return _Share(taken, began + seconds, is_last=taken < wanted)


def _secret(connection: HTTPConnection) -> str:
    """The secret of a request: `Authorization: Bearer`, or `x-api-key` as Anthropic's SDK sends it.

    Raises:
        Unauthenticated: there is none, or two different ones, or it is not one of the gateway's.
    """
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    given = {bearer.strip()} if scheme.lower() == "bearer" else set[str]()
    given |= {connection.headers[name].strip() for name in ("x-api-key",) if name in connection.headers}
    if not given:
        raise Unauthenticated("send a key as `Authorization: Bearer …` or as `x-api-key`")
    if len(given) > 1:
        raise Unauthenticated("`Authorization` and `x-api-key` have different keys: send one")
    secret = given.pop()
    if not KEY_PATTERN.fullmatch(secret):
        raise Unauthenticated("the key is not one of this gateway: make one with `parley keys create`")
    return secret


def requires(scope: Scope, body: str = JSON) -> dict[str, Any]:
    """What a route declares: the scope of its callers and the type of its body. For `openapi_extra`."""
    return {SCOPE: scope.value, BODY: body, "security": [{"bearer": []}, {"apiKey": []}]}


class KeyedRoute(APIRoute):
    """A route that identifies its caller before it reads the body, which may be large.

    A route without `requires(...)` cannot be made: none is open by mistake.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, after the checks of the key and of the body's type."""
        declared, handle = self.openapi_extra or {}, super().get_route_handler()
        scope, body = Scope(declared[SCOPE]), declared[BODY]

        async def identified(request: Request) -> Response:
            request.state.caller = await self.identify(request, scope)
            if request.method != "GET":
                _check_type(request, body)
            return await handle(request)

        return identified

    async def identify(self, request: Request, scope: Scope) -> Caller:
        """The sender of a request, by the key in its headers. `Authentication.identify` documents it."""
        return await request.app.state.gateway.auth.identify(request, scope)


def _check_type(request: Request, wanted: str) -> None:
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and given not in wanted.split(" or "):
        raise UnsupportedMediaType(f"the body must be {wanted}; set Content-Type, got {given[:100]!r}")


def _caller(request: Request) -> Caller:
    return request.state.caller


CurrentCaller = Annotated[Caller, Depends(_caller)]
"""The caller that the route has identified."""
