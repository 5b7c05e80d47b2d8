"""Fetch a recording from its URL, without reaching what only this machine or its network can reach.

A URL is of the caller. Each host, that of a redirect too, is resolved here, all its addresses must be public, and the
connection is made to the address that was checked: a name that changes its address meanwhile gains nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Collection
from contextlib import aclosing

import httpx

from parley.client.reading import AUDIO_FILES, MAX_RECORDING_BYTES, is_recording, shown
from parley.domain.errors import InvalidInput

FETCH_SECONDS = 120.0
CONNECT_SECONDS = 10.0
MOST_REDIRECTS = 5
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
PRESIGNED = "give an https URL; of an object in a private bucket, a presigned one"
# Addresses of IPv6 that a translator sends on to the IPv4 address in their last 32 bits (RFC 6052).
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_url(text: str) -> bool:
    """Whether a text is the URL of something, and not the path of a file."""
    return URL.match(text) is not None


async def fetch_recording(url: str, *, hosts: Collection[str] = (), seconds: float = FETCH_SECONDS) -> bytes:
    """The recording at a URL. Its content decides whether it is one, not the type that the server states.

    Args:
        url: an https URL.
        hosts: `host:port` of servers that may be asked by http and have private addresses; default: none.
        seconds: the longest time that it may take.

    Raises:
        InvalidInput: the URL is not https, a host of it is not public, the server does not answer with the content, or
            that is too large or no recording. The error does not repeat the query, which may be a signature.
    """
    where = _without_query(url)
    # Without the proxies of the environment, which would resolve the name themselves.
    client = httpx.AsyncClient(
        transport=PublicTransport(hosts),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
        headers={"accept-encoding": "identity"},
    )
    try:
        async with asyncio.timeout(seconds), client:
            content = await _content(client, url, where)
    except TimeoutError:
        raise InvalidInput(f"cannot be fetched within {seconds:g} s", where=where) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidInput(f"cannot be fetched: {type(error).__name__}", where=where) from None
    except Refused as error:
        raise InvalidInput(str(error), where=where) from None
    if not is_recording(content):
        raise InvalidInput(f"is not audio: {AUDIO_FILES}", where=where)
    return content


class Refused(Exception):
    """A host or a scheme that is not asked."""


class PublicTransport(httpx.AsyncBaseTransport):
    """Sends each request to a public address, which it has resolved and checked itself."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._inner = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; a redirect is another one.

        Raises:
            Refused: its scheme or host is not allowed.
            httpx.TransportError: the server cannot be reached.
        """
        url = request.url
        port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
        is_allowed = f"{url.host}:{port}" in self._hosts
        if url.scheme not in (("http", "https") if is_allowed else ("https",)):
            raise Refused(f"{url.scheme}:// is not fetched: {PRESIGNED}")
        addresses = await _addresses(url.host, port)
        if not is_allowed and not all(map(is_public, addresses)):
            raise Refused(f"{shown(url.host)} is not a public host: its address is private or reserved")
        return await self._send_to_first(request, addresses)

    async def _send_to_first(self, request: httpx.Request, addresses: list[Address]) -> httpx.Response:
        """Send to the first address that can be reached. The certificate is still that of the host's name."""
        for number, address in enumerate(addresses, start=1):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise Refused(f"{shown(request.url.host)} has no address")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet, and so is the one of IPv4 that it contains, if any."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        inner += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in TRANSLATED else []
        if not all(is_public(one) for one in inner if one is not None):
            return False
        if address.ipv4_mapped:
            return True
    return address.is_global and not address.is_multicast


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused(f"{shown(host)} has no address") from None
    # A zone (`fe80::1%eth0`) is of a link, and not a part of the address.
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


async def _content(client: httpx.AsyncClient, url: str, where: str) -> bytes:
    """Follow redirects to the content. Their bodies are not read, as httpx would, without a limit of their size."""
    request = client.build_request("GET", url)
    for _ in range(MOST_REDIRECTS + 1):
        async with aclosing(await client.send(request, stream=True)) as response:
            if response.next_request is None:
                return await _body(response, where)
            request = response.next_request
    raise httpx.TooManyRedirects(f"more than {MOST_REDIRECTS} redirects", request=request)


async def _body(response: httpx.Response, where: str) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise InvalidInput(f"cannot be fetched: its server answers {response.status_code}", where=where)
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > MAX_RECORDING_BYTES:
            raise InvalidInput(f"has more than the {MAX_RECORDING_BYTES:,} bytes allowed", where=where)
        parts.append(part)
    return b"".join(parts)


def _without_query(url: str) -> str:
    """The URL as errors name it: without name, password and query, which may be secret."""
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    return shown(re.sub(r"//[^/]*@", "//", plain))
