"""Walk the ranked candidates of a paid step: each try is an activity of its own in the history."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from domain.errors import (
    AuthenticationFailed,
    BadRequest,
    BreakerOpen,
    MalformedReply,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from domain.routing import Candidate
from workflows.policies import FIRST_PARK, LONGEST_PARK

R = TypeVar("R")

# After these, another provider may do better at once ...
TRY_THE_NEXT = {
    error.__name__
    for error in (
        AuthenticationFailed,
        BadRequest,
        BreakerOpen,
        MalformedReply,
        ProviderUnavailable,
        QuotaExceeded,
        RateLimited,
        TruncatedReply,
    )
}
# ... and after these, the same one later.
WORTH_WAITING = {
    error.__name__ for error in (BreakerOpen, ProviderUnavailable, RateLimited, TruncatedReply, MalformedReply)
}


async def in_turn(
    candidates: Sequence[Candidate],
    attempt: Callable[[Candidate], Awaitable[R]],
    *,
    patience: timedelta,
    parked: Callable[[str, timedelta], None],
) -> R:
    """The first candidate's outcome that comes; while all are down, park durably and go round again.

    An outage is not data: within `patience` the job waits rather than making do. `parked` is told what it waits for.

    Raises:
        ApplicationError: `ProviderUnavailable` says what was tried; other types are nothing a provider can mend.
    """
    deadline = workflow.now() + patience
    pause = FIRST_PARK
    while True:
        failures: list[ApplicationError] = []
        for candidate in candidates:
            try:
                return await attempt(candidate)
            except ActivityError as error:
                failures.append(_try_next_or_raise(error))
        tried = "; ".join(str(failure.message) for failure in failures)
        worth_waiting = any(failure.type in WORTH_WAITING for failure in failures)
        if not worth_waiting or workflow.now() + pause > deadline:
            raise ApplicationError(f"no provider could serve: {tried}", type=ProviderUnavailable.__name__)
        parked(tried, pause)
        await workflow.sleep(pause)
        pause = min(pause * 2, LONGEST_PARK)


def _try_next_or_raise(error: ActivityError) -> ApplicationError:
    """The provider's failure behind an activity's. A worker that fell silent counts as one."""
    if is_cancelled_exception(error):
        raise error
    cause = error.cause
    if not isinstance(cause, ApplicationError):
        return ApplicationError(str(cause), type=ProviderUnavailable.__name__)
    if cause.type not in TRY_THE_NEXT:
        raise cause
    return cause
