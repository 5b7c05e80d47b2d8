"""All errors that Parley raises on purpose, as one small tree.

An error's message says in one line what is wrong, where, and what to do. `kind` decides exit codes and HTTP statuses.
`retryable` decides whether Temporal retries; `billed` says whether a provider may have charged for the attempt.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import ClassVar

from parley.domain.requests import Usage


class Billed(StrEnum):
    """Whether the provider charged for an attempt, as far as is known."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class ErrorKind(StrEnum):
    """The category of an error, and so where it can be corrected."""

    INPUT = "input"
    """The caller's input or configuration is wrong: correct it."""
    NOT_FOUND = "not_found"
    """The workspace has no such object."""
    CONFLICT = "conflict"
    """The request contradicts an earlier one, or another process uses the same resource."""
    BUDGET = "budget"
    """Energy or budget does not cover it."""
    UNAVAILABLE = "unavailable"
    """A server does not answer, or refuses: try again later."""
    CANCELLED = "cancelled"
    """A user or an operator stopped the job."""
    BUG = "bug"
    """An error in Parley itself."""


class ParleyError(Exception):
    """Root of all errors that Parley raises on purpose."""

    retryable: ClassVar[bool] = False
    kind: ErrorKind = ErrorKind.BUG

    @property
    def code(self) -> str:
        """The stable name that crosses process borders (Temporal's error type, `--json` output)."""
        return type(self).__name__


class InvalidInput(ParleyError):
    """The caller's data is not usable. `where` names the file or argument, `field` the place in it."""

    kind = ErrorKind.INPUT

    def __init__(self, problem: str, *, where: str = "", field: str = "") -> None:
        self.where, self.field, self.problem = where, field, problem
        super().__init__(": ".join(part for part in (where, field, problem) if part))


class NotFound(ParleyError):
    """The workspace has no such object."""

    kind = ErrorKind.NOT_FOUND


class Unreachable(ParleyError):
    """Temporal or the database does not answer."""

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class ReplyLost(Unreachable):
    """The database was down for longer than a worker holds an attempt's outcome. The next attempt may be paid again."""


class IdempotencyConflict(ParleyError):
    """One idempotency key was used for two different requests."""

    kind = ErrorKind.CONFLICT


class LabelsChanged(ParleyError):
    """The labels of a run have another version than the one that was to be changed: look at them again."""

    kind = ErrorKind.CONFLICT


class MemoryChanged(ParleyError):
    """The memory was replaced, or has ended, before it was to be corrected: show the memories again."""

    kind = ErrorKind.CONFLICT


class StreamSuperseded(ParleyError):
    """A newer attempt makes the answer. Nothing was sent to a provider, or the request was stopped."""

    kind = ErrorKind.CONFLICT


class ConversationClosed(ParleyError):
    """The conversation is closed: it takes no further turn."""

    kind = ErrorKind.CONFLICT


class ConversationBusy(ParleyError):
    """Another turn of the conversation is being answered, or too many wait. Send the turn again later."""

    kind = ErrorKind.CONFLICT


class UnpricedModel(ParleyError):
    """No price is known for the model, so its cost would be unknown. Refused before anything is paid."""

    kind = ErrorKind.INPUT


class InsufficientEnergy(ParleyError):
    """The user's energy does not cover the action."""

    kind = ErrorKind.BUDGET


class BudgetExhausted(ParleyError):
    """The budget that is left does not cover the request's upper bound."""

    kind = ErrorKind.BUDGET


class ProviderNotConfigured(ParleyError):
    """The provider has neither a key nor an address."""

    kind = ErrorKind.INPUT


class JobFailed(ParleyError):
    """A workflow ended without a result.

    `reason` is the code of the error that stopped it, for example `ProviderUnavailable`, or `Cancelled`. `kind` is that
    error's kind. `retry_after`: the seconds after which a retry may succeed, if a provider says so.
    """

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        self.reason, self.retry_after = reason, retry_after
        self.kind = ErrorKind.CANCELLED if reason == "Cancelled" else _kind_of(reason)
        super().__init__(message)


class ProviderError(ParleyError):
    """A provider did not give a usable reply.

    `retry_after`: the seconds to wait, as the provider says. `usage`: what the provider counted, if it is known.
    """

    kind = ErrorKind.UNAVAILABLE
    may_have_billed: ClassVar[Billed] = Billed.NO
    trips_breaker: ClassVar[bool] = False

    def __init__(
        self,
        provider: str,
        detail: str,
        *,
        retry_after: float | None = None,
        billed: Billed | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.provider, self.detail, self.retry_after, self.usage = provider, detail, retry_after, usage
        self.billed = Billed.YES if usage else billed or self.may_have_billed
        super().__init__(f"{provider}: {detail}")


class RateLimited(ProviderError):
    """Too many requests. `retry_after`: the seconds to wait, if the provider says so."""

    retryable = True


class ProviderUnavailable(ProviderError):
    """The provider answered 5xx, timed out, or closed the connection. It may have done and billed the work."""

    retryable = True
    trips_breaker = True
    may_have_billed = Billed.UNKNOWN


class BreakerOpen(ProviderError):
    """The circuit breaker stops requests to a provider that is down. `retry_after`: seconds until a probe."""


class ContextTooLong(ProviderError):
    """The prompt does not fit the model's context window."""

    kind = ErrorKind.INPUT


class QuotaExceeded(ProviderError):
    """The provider's account has no credit left, or has reached its limit; a retry does not help."""


class ContentFiltered(ProviderError):
    """The provider's content filter refused the request before any model answered it."""

    kind = ErrorKind.INPUT


class AuthenticationFailed(ProviderError):
    """The provider refused the key."""


class BadRequest(ProviderError):
    """The provider refused the request as malformed, or does not know the model."""

    kind = ErrorKind.INPUT


class TruncatedReply(ProviderError):
    """The finish reason says that the reply goes on, so part of it is missing."""

    retryable = True
    may_have_billed = Billed.UNKNOWN


class EmptyReply(ProviderError):
    """The reply is paid for and has no text, for example because all its tokens went into reasoning.

    The same request would probably end the same way: ask with more room. `is_complete`: the model had nothing to say,
    and was not cut off.
    """

    may_have_billed = Billed.YES
    is_complete = False


class MalformedReply(ProviderError):
    """The reply does not follow the wire format or the response schema."""

    retryable = True
    may_have_billed = Billed.UNKNOWN


def _kind_of(code: str) -> ErrorKind:
    """The kind of the error class with that name; a name that is not Parley's means a bug."""
    return next((error.kind for error in _classes(ParleyError) if error.__name__ == code), ErrorKind.BUG)


def _classes(error: type[ParleyError]) -> Iterator[type[ParleyError]]:
    yield error
    for narrower in error.__subclasses__():
        yield from _classes(narrower)
