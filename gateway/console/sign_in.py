"""Sign in with a gateway key. The browser holds a random token; the database holds its hash, and never the key."""

import secrets
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.requests import HTTPConnection

from gateway.auth import Caller, KeyedRoute, requires
from gateway.console.pages import PREFIX, page
from gateway.errors import NotPermitted, TooManyRequests, Unauthenticated
from gateway.state import Gateway
from parley.domain.gateway_keys import KEY_PATTERN, Scope, hash_of
from parley.storage import console_sessions

COOKIE = "parley_console"
LASTS = timedelta(hours=12)
FORM = "application/x-www-form-urlencoded"
SIGN_IN, SIGN_OUT = f"{PREFIX}/sign-in", f"{PREFIX}/sign-out"
# One answer for a key that is unknown, revoked or expired.
REFUSED = "This key is not valid. Make one with `parley keys create`."
TRIES, TRIES_SECONDS, MOST_CLIENTS = 10, 60.0, 10_000


class SignInTries:
    """How often each address has tried to sign in since the last time it could, within a minute."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[int, float]] = {}

    def begin(self, address: str) -> None:
        """Count a try.

        Raises:
            TooManyRequests: the address has had its tries of this minute.
        """
        now = time.monotonic()
        count, until = self._tries.get(address, (0, 0.0))
        if now >= until:
            count, until = 0, now + TRIES_SECONDS
        if count >= TRIES:
            raise TooManyRequests("too many tries to sign in: wait a minute", retry_after=until - now)
        if address not in self._tries and len(self._tries) >= MOST_CLIENTS:
            self._tries.pop(next(iter(self._tries)))
        self._tries[address] = (count + 1, until)

    def succeeded(self, address: str) -> None:
        """Forget the tries of an address."""
        self._tries.pop(address, None)


class ConsoleRoute(KeyedRoute):
    """A page of the console: its caller is known by the cookie of the sign-in, never by a key in a header."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which sends a browser without a cookie to the sign-in."""
        handle = super().get_route_handler()

        async def signed_in(request: Request) -> Response:
            if request.method == "GET" and COOKIE not in request.cookies:
                here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"{SIGN_IN}?next={quote(here, safe='')}", status_code=303)
            return await handle(request)

        return signed_in

    async def identify(self, request: Request, scope: Scope) -> Caller:
        """The caller who signed in. A form must also have the token of this sign-in."""
        if request.method != "GET":
            check_origin(request)
        caller = await caller_of(request, scope)
        if request.method != "GET" and not _has_token(await request.form(), request.cookies[COOKIE]):
            raise NotPermitted("the form belongs to another sign-in: load the page again")
        return caller


async def caller_of(connection: HTTPConnection, scope: Scope) -> Caller:
    """The caller who signed in, by the cookie.

    Raises:
        Unauthenticated: the sign-in has ended.
        NotPermitted, TooManyRequests, Unreachable: as `Authentication.admit` does.
    """
    gateway = _gateway(connection)
    async with gateway.backend.database.reads() as tx:
        key = await console_sessions.find(tx, connection.cookies.get(COOKIE, ""))
    if key is None:
        raise Unauthenticated("your sign-in has ended: sign in again")
    return await gateway.auth.admit(key, scope)


router = APIRouter(prefix=PREFIX, include_in_schema=False)
signed_in = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/sign-in")
async def show_sign_in(next: str = PREFIX) -> HTMLResponse:
    """The form that asks for a key."""
    return page("sign-in.html", next=_own_path(next), refused="")


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Exchange a key for a cookie."""
    check_origin(request)
    gateway, address = _gateway(request), request.client.host if request.client else ""
    tries: SignInTries = request.app.state.sign_in_tries
    tries.begin(address)
    form = await request.form()
    secret, target = str(form.get("key", "")).strip(), _own_path(str(form.get("next", "")))
    try:
        if not KEY_PATTERN.fullmatch(secret):
            raise Unauthenticated(REFUSED)
        caller = await gateway.auth.admit(hash_of(secret), Scope.READ)
    except Unauthenticated:
        return page("sign-in.html", status=401, next=target, refused=REFUSED)
    tries.succeeded(address)
    token = secrets.token_urlsafe(32)
    async with gateway.backend.database.transaction() as tx:
        await console_sessions.begin(tx, caller.key, token, lasts=LASTS)
    response = RedirectResponse(target, status_code=303)
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(LASTS.total_seconds()),
        path=PREFIX,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@signed_in.post("/sign-out", openapi_extra=requires(Scope.READ, FORM))
async def sign_out(request: Request) -> Response:
    """End the sign-in, here and in the database."""
    async with _gateway(request).backend.database.transaction() as tx:
        await console_sessions.end(tx, request.cookies[COOKIE])
    response = RedirectResponse(SIGN_IN, status_code=303)
    response.delete_cookie(COOKIE, path=PREFIX)
    return response


def form_token(token: str) -> str:
    """What the forms of a sign-in's pages must send. A page of another origin cannot know it."""
    return hash_of(f"form {token}")


def check_origin(request: HTTPConnection) -> None:
    """Refuse a request that a page of another origin made.

    Raises:
        NotPermitted: it came from another origin.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if not _is_own(origin, request) or site not in ("same-origin", "none"):
        raise NotPermitted("the request came from a page of another origin")


def _is_own(origin: str | None, request: HTTPConnection) -> bool:
    """Whether an origin is this gateway; without one, another header decides."""
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:  # it is not an address
        return False


def show(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page for the caller who signed in."""
    caller: Caller = request.state.caller
    return page(
        template,
        status=status,
        workspace=caller.client.workspace_id,
        key=caller.key,
        scopes=caller.key.scopes,
        path=request.url.path,
        form_token=form_token(request.cookies[COOKIE]),
        **context,
    )


def _has_token(form: Any, token: str) -> bool:
    return secrets.compare_digest(str(form.get("form_token", "")).encode(), form_token(token).encode())


def _own_path(path: str) -> str:
    """Where to go after the sign-in: a page of the console, and of no other host."""
    return path if path == PREFIX or path.startswith((f"{PREFIX}/", f"{PREFIX}?")) else PREFIX


def _gateway(request: HTTPConnection) -> Gateway:
    return request.app.state.gateway
