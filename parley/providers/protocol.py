"""The interface of every vendor's adapter, and the helpers that they share."""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Protocol

import httpx
import httpx2

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from parley.domain.requests import Reply, Request
from parley.domain.text import one_line

ATTEMPT_HEADER = "X-Parley-Attempt-Id"
ATTEMPT_METADATA = "parley_attempt_id"
DETAIL_CHARACTERS = 300
LONGEST_WAIT_SECONDS = 24 * 3600.0
# Errors while reading a body that does not follow the vendor's documentation: the SDKs check no types.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
# ElevenLabs' SDK is built on httpx, the others on httpx2.
HTTP_ERRORS = (httpx.HTTPError, httpx2.HTTPError)
NEVER_SENT = (
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout),
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout),
)
TIMEOUTS = (httpx.TimeoutException, httpx2.TimeoutException)
# A shorter key is a placeholder that may be part of ordinary words.
SHORTEST_KEY = 8


class Adapter(Protocol):
    """One vendor. SDK retries are off: Temporal owns retries and waiting."""

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        """Make one call.

        Raises:
            ProviderError: in place of every exception of the SDK.
        """
        ...

    async def recover(self, attempt_id: str) -> Reply | None:
        """The stored reply to an attempt whose reply was lost, if the vendor stores replies. It is free.

        None does not prove that there is no reply: most vendors store none, and a stored one is listed seconds late.

        Raises:
            ProviderError: the listing failed, or the reply in it is not usable.
        """
        ...

    async def ping(self) -> None:
        """Send a free request, to see whether the provider answers and accepts the key.

        Raises:
            ProviderError: as for a call.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def check_listing(models: object) -> None:
    """Check that a body is a list: a proxy or a captive portal may answer 200 too, and the SDKs check no types.

    Raises:
        TypeError: it is not a list.
    """
    if not isinstance(models, list):
        raise TypeError("the body is not a list of models")


def vendor_text(text: object) -> str:
    """A vendor's message as one short line for a history, a log and the ledger."""
    return one_line(text, DETAIL_CHARACTERS)


@contextmanager
def errors_mapped(
    api_error: type[Exception], mapped: Callable[[Exception], ProviderError], key: str
) -> Generator[None]:
    """Translate the errors of a vendor's SDK.

    Args:
        api_error: the root of the SDK's errors. HTTP errors and errors while reading a body are translated as well.
        mapped: the translation.
        key: the API key, which must not be in a message.

    Raises:
        ProviderError: the translated error, without the key.
    """
    try:
        yield
    except (api_error, *HTTP_ERRORS, *UNREADABLE) as error:
        raise _redacted(mapped(error), key) from error


def _redacted(error: ProviderError, key: str) -> ProviderError:
    """The error without the key, which some servers quote in their message."""
    if len(key) >= SHORTEST_KEY:
        error.detail = error.detail.replace(key, "[key]")
        error.args = (f"{error.provider}: {error.detail}",)
    return error


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`, at most a day; None where absent or a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float((headers or {}).get(name, "")) * scale
        except ValueError:
            continue
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)
    return None


def from_status(provider: str, status: int, detail: str, headers: Mapping[str, str] | None) -> ProviderError:
    """The error for an HTTP status, where the vendor's body is not more precise.

    An error from the API itself was not billed. After a gateway error (502, 504) it is unknown whether the request was.
    """
    detail = vendor_text(f"{status} {detail}")
    if status == 429:
        return RateLimited(provider, detail, retry_after=retry_after(headers))
    if status in (401, 403):
        return AuthenticationFailed(provider, detail)
    if status in (408, 409) or status >= 500:
        billed = None if status in (408, 502, 504) else ProviderError.may_have_billed
        return ProviderUnavailable(provider, detail, retry_after=retry_after(headers), billed=billed)
    return BadRequest(provider, detail)


def from_connection(provider: str, error: Exception) -> ProviderError:
    """The error for a call without a response. SDKs wrap the HTTP client's exception, or pass it on."""
    cause = error if isinstance(error, HTTP_ERRORS) else error.__cause__ or error
    detail = "no answer within the timeout" if isinstance(cause, TIMEOUTS) else vendor_text(f"connection: {cause}")
    return ProviderUnavailable(provider, detail, billed=Billed.NO if isinstance(cause, NEVER_SENT) else None)
