"""The requests of one account: signed webhooks, and the WebSocket of a session."""

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import SplitResult, urlencode, urlsplit

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI

from simulator.twilio import signature
from simulator.twilio.log import CallLog

WEBHOOK_SECONDS = 15.0
AGENT = "TwilioProxy/1.1 (simulator)"
ACCOUNT_SID, AUTH_TOKEN = "AC" + "0" * 32, "simulated-auth-token"

Form = list[tuple[str, str]]


class Unreachable(Exception):
    """A request to the server failed. `code`: Twilio's error code."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True)
class Account:
    """Who signs, and how the server is reached.

    Attributes:
        token: the auth token, or the secret of a shared key if `algorithm` is HMAC_SHA256.
        public_url: the server's public address, such as `https://phone.example.com`: the simulator also plays the
            tunnel to it. Requests go to `local_url` with the headers of a proxy, and are signed for the public one.
        local_url: the address behind the tunnel.
    """

    sid: str = ACCOUNT_SID
    token: str = field(default=AUTH_TOKEN, repr=False)
    algorithm: str = "HMAC_SHA1"
    public_url: str | None = None
    local_url: str | None = None

    def sign(self, url: str, form: Form) -> dict[str, str]:
        return signature.headers(self.token, url, form, self.algorithm)

    def route(self, url: str) -> tuple[str, dict[str, str]]:
        """The address behind a URL, and the headers that a tunnel adds."""
        if self.public_url is None or self.local_url is None:
            return url, {}
        wanted, public, local = urlsplit(url), urlsplit(self.public_url), urlsplit(self.local_url)
        if wanted.netloc != public.netloc:
            return url, {}
        scheme = local.scheme.replace("http", "ws") if wanted.scheme.startswith("ws") else local.scheme
        behind = SplitResult(scheme, local.netloc, wanted.path, wanted.query, "")
        # Tunnels pass on the public name as the host.
        return behind.geturl(), {
            "Host": public.netloc,
            "X-Forwarded-Proto": "https" if public.scheme == "https" else "http",
            "X-Forwarded-Host": public.netloc,
        }


class Line:
    """Sends the signed requests of one account."""

    def __init__(self, account: Account, client: httpx2.AsyncClient) -> None:
        self.account, self._client = account, client

    async def request(self, url: str, form: Form, log: CallLog, *, method: str = "POST") -> httpx2.Response:
        """Send a webhook.

        Raises:
            Unreachable: no answer, or not a 2xx.
        """
        address, headers = self.account.route(url)
        signed = url
        if method == "GET":
            query = urlencode(form)
            signed, address = (f"{one}{'&' if '?' in one else '?'}{query}" for one in (url, address))
        headers |= self.account.sign(signed, [] if method == "GET" else form) | {"User-Agent": AGENT}
        content = None if method == "GET" else urlencode(form)
        if content is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
        began = asyncio.get_running_loop().time()
        try:
            response = await self._client.request(method, address, content=content, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as problem:
            raise Unreachable(11200, f"{url} cannot be reached: {str(problem) or type(problem).__name__}") from problem
        seconds = asyncio.get_running_loop().time() - began
        log.note("request", url=url, status=response.status_code, seconds=round(seconds, 3))
        if not response.is_success:
            raise Unreachable(11200, f"{url} answers {response.status_code}: {response.text[:200].strip()}")
        return response

    async def open_socket(self, url: str) -> ClientConnection:
        """Open the WebSocket of a session.

        Raises:
            Unreachable: the server refuses it, or does not answer.
        """
        address, headers = self.account.route(url)
        host = headers.pop("Host", None)
        headers |= self.account.sign(url, [])
        if address.startswith("wss://") and _is_local(address):
            address = address.replace("wss://", "ws://", 1)
        sock = urlsplit(address)
        given = {"host": sock.hostname, "port": sock.port or (443 if sock.scheme == "wss" else 80)} if host else {}
        try:
            return await connect(
                f"{sock.scheme}://{host}{sock.path}" if host else address,
                additional_headers=headers,
                user_agent_header=AGENT,
                proxy=None,
                compression=None,
                open_timeout=WEBHOOK_SECONDS,
                **given,
            )
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as problem:
            raise Unreachable(64102, f"unable to connect to {url}: {problem}") from problem


def _is_local(url: str) -> bool:
    """Whether a URL names this machine, where nothing has a certificate."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def new_client() -> httpx2.AsyncClient:
    """A client for many phone calls at once, which asks no proxy."""
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(timeout=WEBHOOK_SECONDS, limits=limits, trust_env=False, verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: to read the CA certificates takes 10 ms."""
    return httpx2.create_ssl_context(trust_env=False)
