"""Paid steps on ranked candidates: the next provider after a failure, a durable wait while all are down.

Code that runs paid steps is written against `Engine`, so that a workflow and an inline mode can run the same code.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    BreakerOpen,
    BudgetExhausted,
    ContentFiltered,
    ContextTooLong,
    EmptyReply,
    MalformedReply,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.queues import provider_queue
from parley.domain.routing import Candidate
from parley.domain.streaming import Restartable
from workflows.policies import FIRST_PARK, LOCAL_STEP, LONGEST_PARK

S = TypeVar("S")
R = TypeVar("R")
SUMMARY_CHARACTERS = 200
# How often a step is started again at once because its worker died in the middle of a stream.
MOST_RESTARTS = 3

# After these failures another provider may succeed at once ...
TRY_NEXT = {
    error.__name__
    for error in (
        AuthenticationFailed,
        BadRequest,
        BreakerOpen,
        ContentFiltered,
        ContextTooLong,
        EmptyReply,
        MalformedReply,
        ProviderUnavailable,
        QuotaExceeded,
        RateLimited,
        TruncatedReply,
    )
}
# ... and after these the same provider may succeed later.
TRY_LATER = {
    error.__name__ for error in (BreakerOpen, ProviderUnavailable, RateLimited, TruncatedReply, MalformedReply)
}
# These depend on the request alone, and not on the state of the provider.
REQUEST_REFUSED = {error.__name__ for error in (BadRequest, ContentFiltered, ContextTooLong)}
# What all candidates may agree on: then it is the error, and no outage.
UNANIMOUS = {error.__name__ for error in (ContentFiltered, ContextTooLong)}


class Engine(Protocol):
    """What a story of paid steps needs from its surroundings."""

    def now(self) -> datetime:
        """The current time: in a workflow, the same in every replay."""
        ...

    async def sleep(self, pause: timedelta) -> None:
        """Wait."""
        ...

    def report_waiting(self, reason: str, pause: timedelta) -> None:
        """Show that the job waits, for example because every provider is down."""
        ...

    def waits_until(self, limit: timedelta) -> datetime:
        """Until when a story may wait that wants to wait for at most `limit` from now."""
        ...

    async def decide(self, activity: Callable[[Any, S], Awaitable[R]], step: S, *, summary: str) -> R:
        """Run a free activity, which only reads and writes the database. `summary`: one line for operators.

        Raises:
            ApplicationError: the step failed; `type` is the name of a `ParleyError`.
        """
        ...

    async def run_step(
        self, activity: Callable[[Any, S], Awaitable[R]], step: S, candidate: Candidate, *, summary: str
    ) -> R:
        """Run a paid activity on the candidate's provider. `summary`: one line for operators.

        Raises:
            ApplicationError: the step failed; `type` is the name of a `ParleyError`.
            CancelledError: the job was cancelled while the step ran.
        """
        ...


class DurableEngine:
    """The engine of a workflow: paid steps are activities on their provider's task queue, waits are timers.

    options: timeouts and retries of the paid steps. report_waiting: receives the reason and the length of each wait.
    """

    def __init__(self, options: Mapping[str, Any], report_waiting: Callable[[str, timedelta], None]) -> None:
        self._options, self._report_waiting = options, report_waiting
        self._running: workflow.ActivityHandle[Any] | None = None
        self._broken, self._restarts = 0, 0

    def now(self) -> datetime:
        return workflow.now()

    async def sleep(self, pause: timedelta) -> None:
        await workflow.sleep(pause)

    def report_waiting(self, reason: str, pause: timedelta) -> None:
        self._report_waiting(reason, pause)

    def waits_until(self, limit: timedelta) -> datetime:
        return self.now() + limit

    async def decide(self, activity: Callable[[Any, S], Awaitable[R]], step: S, *, summary: str) -> R:
        return await workflow.execute_local_activity_method(activity, step, summary=summary, **LOCAL_STEP)

    def stream_broke(self, attempt: int) -> None:
        """Start the step again that runs: its worker died in the middle of a stream, and its timeout is not awaited.

        attempt: of the stream. What is not newer than the last one that broke is ignored.
        """
        if self._running is None or attempt <= self._broken or self._restarts >= MOST_RESTARTS:
            return
        self._broken, self._restarts = attempt, self._restarts + 1
        self._running.cancel()

    async def run_step(
        self, activity: Callable[[Any, S], Awaitable[R]], step: S, candidate: Candidate, *, summary: str
    ) -> R:
        while True:
            restarts = self._restarts
            if self._broken and isinstance(step, Restartable):
                step = step.model_copy(update={"broken": self._broken})
            try:
                return await self._run_once(activity, step, candidate, summary)
            except ActivityError as error:
                # A step that was started again ends as cancelled at once. Its worker does not answer any more.
                if not is_cancelled_exception(error) or self._restarts == restarts:
                    raise
                raise_if_cancelled()

    async def _run_once(
        self, activity: Callable[[Any, S], Awaitable[R]], step: S, candidate: Candidate, summary: str
    ) -> R:
        try:
            self._running = workflow.start_activity_method(
                activity,
                step,
                task_queue=provider_queue(candidate.provider),
                summary=summary[:SUMMARY_CHARACTERS],
                **self._options,
            )
            return await self._running
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise_if_cancelled()
            if isinstance(error.cause, ApplicationError):
                raise error.cause from None
            # A timeout: its worker was lost, or no worker took the step.
            raise ApplicationError(str(error.cause), type=ProviderUnavailable.__name__) from None
        finally:
            self._running = None


class NoProviderServed(ApplicationError):
    """Every candidate failed. `tried`: what each one answered. `refused`: every one refused this request.
    `may_recover`: one of them may serve it later.

    Its type is `ProviderUnavailable`, or the type of all failures if it is one of `UNANIMOUS`. Its detail is the
    shortest wait that a provider asks for, in seconds, if one does.
    """

    def __init__(self, failures: Sequence[tuple[Candidate, ApplicationError]]) -> None:
        self.tried = "; ".join(f"{failure.message} ({candidate.model})" for candidate, failure in failures)
        types = {failure.type for _, failure in failures}
        kind = failures[0][1].type if len(types) == 1 and types <= UNANIMOUS else ProviderUnavailable.__name__
        waits = [float(failure.details[0]) for _, failure in failures if failure.type in TRY_LATER and failure.details]
        super().__init__(f"no provider could serve: {self.tried}", *sorted(waits)[:1], type=kind)
        self.refused = types <= REQUEST_REFUSED
        self.may_recover = bool(types & TRY_LATER)


async def first_success(
    engine: Engine,
    candidates: Sequence[Candidate],
    attempt: Callable[[Candidate], Awaitable[R]],
    *,
    wait_limit: timedelta,
    raise_at_once: frozenset[str] = frozenset(),
) -> R:
    """The result of the first candidate that succeeds. While all are down, wait and try all of them again.

    wait_limit: how long to wait in total; 0 for one round without a wait.
    raise_at_once: types of errors after which no further candidate is tried.

    Raises:
        NoProviderServed: no candidate succeeded within the wait limit, or a wait would not help.
        ApplicationError: an error that another provider would not help with.
    """
    deadline = engine.waits_until(wait_limit)
    pause = FIRST_PARK
    while True:
        failures: list[tuple[Candidate, ApplicationError]] = []
        for candidate in candidates:
            try:
                return await attempt(candidate)
            except ApplicationError as error:
                if error.type not in TRY_NEXT - raise_at_once:
                    raise
                failures.append((candidate, error))
        problem = NoProviderServed(failures)
        if not problem.may_recover or engine.now() + pause > deadline:
            raise problem
        engine.report_waiting(problem.tried, pause)
        await engine.sleep(pause)
        pause = min(pause * 2, LONGEST_PARK)


def raise_if_cancelled() -> None:
    """Raise what a step has swallowed that runs to its end although the workflow is cancelled: call this after it.

    Raises:
        CancelledError: the workflow was cancelled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def is_over_budget(result: object) -> bool:
    """Whether the budget did not allow a request, perhaps because of what concurrent ones had reserved."""
    return isinstance(result, ApplicationError) and result.type == BudgetExhausted.__name__
