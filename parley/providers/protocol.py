"""The interface of every vendor's adapter, and the helpers that they share."""

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import uuid4

import httpx
import httpx2

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ContextTooLong,
    EmptyReply,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.model import storable
from parley.domain.requests import ChatReply, Finish, Reply, Request, ToolCall, Usage
from parley.domain.streaming import Delta
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
# A gateway between the API and this process gave the answer, so the API may have done the work: bad gateway, gateway
# timeout, and Cloudflare's codes (https://developers.cloudflare.com/support/troubleshooting/http-status-codes/).
GATEWAY_STATUSES = frozenset({408, 502, 504, *range(520, 528), 530})
# A rate limit's message names the allowance and the size of the request.
ALLOWANCE = re.compile(r"\blimit:? ([\d,]+)\b.*\brequested:? ([\d,]+)", re.DOTALL)


class Adapter(Protocol):
    """One vendor. SDK retries are off: Temporal owns retries and waiting."""

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        """Make one call.

        Raises:
            ProviderError: in place of every exception of the SDK.
        """
        ...

    def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        """Make one call, and yield the reply in deltas as it comes, and last the whole reply, as `call` returns it.

        Raises:
            ProviderError: as for a call, also in the middle of the reply; with the usage, if the vendor counted it.
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
    except ProviderError as error:
        raise _redacted(error, key) from None
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


@dataclass(frozen=True)
class ErrorTable:
    """What the errors of one vendor mean. Names are the codes and types of an error, in lower case.

    codes: names that mean one error each. They precede all else.
    words: parts of messages, in lower case, for errors that share a name.
    general: names that several errors share. They decide where no HTTP status does: in the body of a 200.
    """

    codes: Mapping[str, type[ProviderError]]
    words: Mapping[str, type[ProviderError]]
    general: Mapping[str, type[ProviderError]]

    def error(
        self, provider: str, status: int, body: object, headers: Mapping[str, str] | None, *, usage: Usage | None = None
    ) -> ProviderError:
        """The error that a vendor's body describes. `usage`: what the vendor counted nevertheless."""
        names, message = read_error(body)
        if status < 300:
            # Some gateways put the status that they received into the body.
            status = next((int(name) for name in names if re.fullmatch("[45][0-9][0-9]", name)), status)
        detail, wait = vendor_text(message or body), retry_after(headers)
        kind = self._named(names, self.codes) or self._worded(message.lower())
        if kind and status not in GATEWAY_STATUSES:
            return kind(provider, detail, retry_after=wait, billed=Billed.NO, usage=usage)
        if status >= 300:
            return from_status(provider, status, detail, headers)
        kind = self._named(names, self.general) or MalformedReply
        return kind(provider, detail, retry_after=wait, usage=usage)

    def _named(self, names: Iterable[str], table: Mapping[str, type[ProviderError]]) -> type[ProviderError] | None:
        return next((table[name] for name in names if name in table), None)

    def _worded(self, message: str) -> type[ProviderError] | None:
        if exceeds_allowance(message):
            return ContextTooLong
        return next((kind for words, kind in self.words.items() if words in message), None)


def exceeds_allowance(message: str) -> bool:
    """Whether a rate limit's message says that the request alone is larger than the allowance: no wait helps."""
    found = ALLOWANCE.search(message)
    if found is None:
        return False
    limit, requested = (int(number.replace(",", "")[:18]) for number in found.groups())
    return requested > limit


def read_error(body: object) -> tuple[tuple[str, ...], str]:
    """The names and the message of an error, from any of the shapes that vendors use."""
    for name in ("error", "detail"):
        if isinstance(body, dict) and cast(dict[str, Any], body).get(name):
            body = cast(dict[str, Any], body)[name]
    if not isinstance(body, dict):
        return (), body if isinstance(body, str) else ""
    fields = cast(dict[str, Any], body)
    inner = fields.get("innererror")
    found = [fields.get(name) for name in ("code", "type", "status")]
    found += [cast(dict[str, Any], inner).get("code")] if isinstance(inner, dict) else []
    names = tuple(str(name).lower() for name in found if isinstance(name, (str, int)))
    return names, str(fields.get("message") or "")


def from_status(provider: str, status: int, detail: str, headers: Mapping[str, str] | None) -> ProviderError:
    """The error for an HTTP status, where the vendor's body is not more precise.

    An error from the API itself was not billed. After an error of a gateway it is unknown whether the request was.
    """
    detail = vendor_text(f"{status} {detail}")
    if status == 429:
        return RateLimited(provider, detail, retry_after=retry_after(headers))
    if status == 402:
        return QuotaExceeded(provider, detail)
    if status in (401, 403):
        return AuthenticationFailed(provider, detail)
    if status in (408, 409) or status >= 500:
        billed = None if status in GATEWAY_STATUSES else ProviderError.may_have_billed
        return ProviderUnavailable(provider, detail, retry_after=retry_after(headers), billed=billed)
    return BadRequest(provider, detail)


def from_connection(provider: str, error: Exception) -> ProviderError:
    """The error for a call without a response. SDKs wrap the HTTP client's exception, or pass it on."""
    cause = error if isinstance(error, HTTP_ERRORS) else error.__cause__ or error
    detail = "no answer within the timeout" if isinstance(cause, TIMEOUTS) else vendor_text(f"connection: {cause}")
    return ProviderUnavailable(provider, detail, billed=Billed.NO if isinstance(cause, NEVER_SENT) else None)


@contextmanager
def usage_kept(provider: str, usage: Usage | None) -> Generator[None]:
    """Add what the vendor counted to the error of a reply that cannot be read.

    Raises:
        MalformedReply: the reply does not follow the vendor's documentation.
    """
    try:
        yield
    except UNREADABLE as error:
        raise MalformedReply(provider, vendor_text(error), usage=usage) from error


def usage_of(read: Callable[[], Usage]) -> Usage | None:
    """What the vendor counted; None where it has no counts. Such a reply is paid for, and may be an answer."""
    try:
        return read()
    except UNREADABLE:
        return None


def finish_of(
    provider: str, reason: object, known: Mapping[str, Finish | None], usage: Usage | None, max_tokens: int | None
) -> Finish:
    """How a reply ended, from the vendor's reason. `known`: reasons in lower case; None for a reply that goes on.

    A reason from outside the vendor's list, or none, does not make a whole reply worthless: such a reply is complete,
    unless it is as long as it may be. OpenAI, vLLM and llama.cpp leave the reason out only in a stream's chunks; Ollama
    and gateways also where they do not know it.

    Raises:
        TruncatedReply: the reply goes on.
    """
    name = reason.lower() if isinstance(reason, str) else ""
    if known.get(name, Finish.STOP) is None:
        raise TruncatedReply(provider, f"finish reason {reason!r}", usage=usage)
    at_limit = usage is not None and max_tokens is not None and usage.output_tokens >= max_tokens
    return known.get(name) or (Finish.LENGTH if at_limit else Finish.STOP)


def tool_call(id: object, name: object, arguments: object) -> ToolCall:
    """A tool call of a reply. Some servers give no id, and some give the arguments as an object instead of its JSON.

    Raises:
        TypeError: it has no name.
    """
    if not isinstance(name, str) or not name:
        raise TypeError("a tool call has no name")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall.model_construct(
        id=storable(id) if id and isinstance(id, str) else new_call_id(),
        name=storable(name),
        arguments=storable(text) if text.strip() else "{}",
    )


def new_call_id() -> str:
    """An id for a tool call that came without one."""
    return f"call_{uuid4().hex[:24]}"


def finish_with(finish: Finish, tool_calls: Sequence[ToolCall]) -> Finish:
    """How a reply with these calls ended: servers also name any other end for it."""
    if finish in (Finish.STOP, Finish.TOOL_CALLS):
        return Finish.TOOL_CALLS if tool_calls else Finish.STOP
    return finish


def with_text(provider: str, reply: ChatReply) -> ChatReply:
    """The reply, which has text or tool calls.

    Raises:
        EmptyReply: it has neither, and no filter or refusal is the reason.
    """
    if reply.text.strip() or reply.tool_calls or reply.finish is Finish.REFUSED:
        return reply
    tokens = reply.usage.output_tokens
    error = EmptyReply(provider, f"no text in {tokens} tokens ({reply.finish.value})", usage=reply.usage)
    error.is_complete = reply.finish is Finish.STOP
    raise error
