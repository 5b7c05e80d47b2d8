"""Walk the ranked candidates of a paid step: each try is an activity of its own in the history."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    BreakerOpen,
    ContextTooLong,
    MalformedReply,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.routing import Candidate
from workflows.policies import FIRST_PARK, LONGEST_PARK

R = TypeVar("R")

# After these, another provider may do better at once ...
TRY_THE_NEXT = {
    error.__name__
    for error in (
        AuthenticationFailed,
        BadRequest,
        BreakerOpen,
        ContextTooLong,
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


# These say something of the request alone, and nothing of who was asked.
REFUSALS = {error.__name__ for error in (BadRequest, ContextTooLong)}


class NobodyServed(ApplicationError):
    """No candidate could serve. `refused`: every one of them refused just this request.

    Its type is `ProviderUnavailable`, or `ContextTooLong` where they all say so.
    """

    def __init__(self, failures: Sequence[tuple[Candidate, ApplicationError]]) -> None:
        self.tried = "; ".join(f"{failure.message} ({candidate.model})" for candidate, failure in failures)
        types = {failure.type for _, failure in failures}
        too_long = types == {ContextTooLong.__name__}
        kind = ContextTooLong if too_long else ProviderUnavailable
        super().__init__(f"no provider could serve: {self.tried}", type=kind.__name__)
        self.refused = types <= REFUSALS


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
        NobodyServed: not within `patience`, or waiting would not help.
        ApplicationError: nothing that a provider can mend.
    """
    deadline = workflow.now() + patience
    pause = FIRST_PARK
    while True:
        failures: list[tuple[Candidate, ApplicationError]] = []
        for candidate in candidates:
            try:
                return await attempt(candidate)
            except ActivityError as error:
                failures.append((candidate, _try_next_or_raise(error)))
                end_if_cancelled()
        nobody = NobodyServed(failures)
        worth_waiting = any(failure.type in WORTH_WAITING for _, failure in failures)
        if not worth_waiting or workflow.now() + pause > deadline:
            raise nobody
        parked(nobody.tried, pause)
        await workflow.sleep(pause)
        pause = min(pause * 2, LONGEST_PARK)


def end_if_cancelled() -> None:
    """A step that is waited for to its end although the workflow is cancelled swallows that: call this after it.

    Raises:
        CancelledError: the workflow was cancelled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


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
