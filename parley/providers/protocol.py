"""What every vendor's adapter can do, and the words they share."""

import math
from collections.abc import Mapping
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
from parley.domain.model import storable
from parley.domain.requests import Reply, Request

ATTEMPT_HEADER = "X-Parley-Attempt-Id"
ATTEMPT_METADATA = "parley_attempt_id"
DETAIL_CHARACTERS = 300
LONGEST_WAIT_SECONDS = 24 * 3600.0
# What reading a body runs into that is not what the vendor documents: the SDKs check no types.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
# ElevenLabs' SDK is built on httpx, the others on httpx2.
HTTP_ERRORS = (httpx.HTTPError, httpx2.HTTPError)
NEVER_SENT = (
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout),
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout),
)
TIMEOUTS = (httpx.TimeoutException, httpx2.TimeoutException)
# A shorter one is a placeholder, and would be found in innocent words.
SHORTEST_KEY = 8


class Adapter(Protocol):
    """One vendor. SDK retries are off: Temporal owns retries and waiting."""

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        """Make the call once.

        Raises:
            ProviderError: one of its kinds, whatever the SDK raised.
        """
        ...

    async def recover(self, attempt_id: str) -> Reply | None:
        """The reply to an attempt that got lost on its way, where the vendor was told to keep replies. Costs nothing.

        None proves nothing: most vendors keep none, and where one does, a reply is there only seconds after its end.

        Raises:
            ProviderError: the listing failed, or the reply that it holds is not a usable one.
        """
        ...

    async def ping(self) -> None:
        """Ask for something that costs nothing, to see whether the provider answers and takes the key.

        Raises:
            ProviderError: one of its kinds, as for a call.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


def check_listing(models: object) -> None:
    """A proxy or a captive portal answers 200 as well; the SDKs check no types."""
    if not isinstance(models, list):
        raise TypeError("the body is no list of models")


def short(text: object) -> str:
    """A vendor's words, cut and mended so that they fit into a history, a log line and the ledger."""
    line = " ".join(storable(str(text)).split())
    return line if len(line) <= DETAIL_CHARACTERS else line[: DETAIL_CHARACTERS - 1] + "…"


def redacted(error: ProviderError, key: str) -> ProviderError:
    """The error without the key, which some servers quote when they refuse it."""
    if len(key) >= SHORTEST_KEY:
        error.detail = error.detail.replace(key, "[key]")
        error.args = (f"{error.provider}: {error.detail}",)
    return error


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`, a day at most; None where absent or a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float((headers or {}).get(name, "")) * scale
        except ValueError:
            continue
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)
    return None


def from_status(provider: str, status: int, detail: str, headers: Mapping[str, str] | None) -> ProviderError:
    """The error that an HTTP status means where the vendor's body says nothing more precise.

    An answer from the API itself was not billed. A bare gateway error (502, 504) hides what became of the request.
    """
    detail = short(f"{status} {detail}")
    if status == 429:
        return RateLimited(provider, detail, retry_after=retry_after(headers))
    if status in (401, 403):
        return AuthenticationFailed(provider, detail)
    if status in (408, 409) or status >= 500:
        billed = None if status in (408, 502, 504) else ProviderError.may_have_billed
        return ProviderUnavailable(provider, detail, retry_after=retry_after(headers), billed=billed)
    return BadRequest(provider, detail)


def from_connection(provider: str, error: Exception) -> ProviderError:
    """The error that a call without an answer means. SDKs wrap what the HTTP client raised, or let it through."""
    cause = error if isinstance(error, HTTP_ERRORS) else error.__cause__ or error
    detail = "no answer within the timeout" if isinstance(cause, TIMEOUTS) else short(f"connection: {cause}")
    return ProviderUnavailable(provider, detail, billed=Billed.NO if isinstance(cause, NEVER_SENT) else None)
