"""Every way that Parley fails, as one small tree.

An error says what was wrong, where, and what to do, in one line. `retryable` tells Temporal whether trying
the same thing again can help; `billed` tells the ledger whether a provider may have charged for the failed try.
"""

from enum import StrEnum
from typing import ClassVar

from parley.domain.requests import Usage


class Billed(StrEnum):
    """Whether the provider charged for a call, as far as we can know."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class ParleyError(Exception):
    """Root of all errors that Parley raises on purpose."""

    retryable: ClassVar[bool] = False

    @property
    def code(self) -> str:
        """The stable name that crosses process borders (Temporal's error type, `--json` output)."""
        return type(self).__name__


class InvalidInput(ParleyError):
    """The caller's data cannot be used. `where` names the file or argument, `field` the place in it."""

    def __init__(self, problem: str, *, where: str = "", field: str = "") -> None:
        self.where, self.field, self.problem = where, field, problem
        super().__init__(": ".join(part for part in (where, field, problem) if part))


class NotFound(ParleyError):
    """The workspace holds no such thing."""


class Unreachable(ParleyError):
    """Temporal or the database did not answer."""

    retryable = True


class ReplyLost(Unreachable):
    """The database was away for longer than a worker keeps a call's end in memory. The next try may pay anew."""


class IdempotencyConflict(ParleyError):
    """One request id was used for two different requests."""


class UnpricedModel(ParleyError):
    """No price is known for the model, so calling it could hide a cost. Refused before the call."""


class InsufficientEnergy(ParleyError):
    """The user's energy does not cover the action."""


class BudgetExhausted(ParleyError):
    """The dollars left do not cover the call's upper bound."""


class ProviderNotConfigured(ParleyError):
    """A provider was asked for that has neither a key nor an address."""


class JobFailed(ParleyError):
    """A workflow ended without a result. `kind` is the code of the error that stopped it."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class ProviderError(ParleyError):
    """A provider did not give a usable reply.

    `retry_after`: seconds that it asks us to wait. `usage`: what it counted all the same, where we know.
    """

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
    """Too many requests. `retry_after`: seconds that the provider asks us to wait, if it said."""

    retryable = True


class ProviderUnavailable(ProviderError):
    """The provider answered 5xx, hung, or cut the connection. It may have done, and billed, the work."""

    retryable = True
    trips_breaker = True
    may_have_billed = Billed.UNKNOWN


class BreakerOpen(ProviderError):
    """The fleet's breaker holds calls back from a provider that is down. `retry_after`: seconds until a probe."""


class ContextTooLong(ProviderError):
    """The prompt does not fit the model's context window."""


class QuotaExceeded(ProviderError):
    """The account has no credit left; waiting will not help."""


class AuthenticationFailed(ProviderError):
    """The key was refused."""


class BadRequest(ProviderError):
    """The provider refused the request as malformed, or knows no such model."""


class TruncatedReply(ProviderError):
    """The reply ended without a finish reason: part of it is missing."""

    retryable = True
    may_have_billed = Billed.UNKNOWN


class MalformedReply(ProviderError):
    """The reply is not what the wire format or the response schema promises."""

    retryable = True
    may_have_billed = Billed.UNKNOWN


# What the caller must mend, as opposed to a run that failed: exit code 2 against 1.
CALLERS_FAULT = frozenset(
    error.__name__
    for error in (
        InvalidInput,
        NotFound,
        Unreachable,
        IdempotencyConflict,
        UnpricedModel,
        ProviderNotConfigured,
    )
)
