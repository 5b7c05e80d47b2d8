"""The boundary between a step and what runs it: the conversion of errors, and the heartbeats of an activity."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.logs import step_logger
from parley.domain.errors import ParleyError, ProviderError
from parley.domain.text import shorten
from parley.storage.database import retry_while_unreachable

HEARTBEAT_SECONDS = 2.0
# A long error message could exceed the size limit of a history event.
ERROR_CHARACTERS = 1000

P = ParamSpec("P")
R = TypeVar("R")

log = step_logger(__name__)


def boundary(work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Wrap an activity: heartbeat while it works, so that it can be cancelled and its death is noticed."""

    @functools.wraps(work)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        running = activity.info()
        # A local activity has no heartbeat: it runs within the task of its workflow.
        pulse = None if running.is_local else asyncio.create_task(_heartbeat())
        try:
            step = functools.partial(work, *args, **kwargs)
            return await attempt(step, name=running.activity_type, seconds=_retry_seconds(running))
        finally:
            if pulse:
                pulse.cancel()

    return wrapped


async def attempt(step: Callable[[], Awaitable[R]], *, name: str, seconds: float) -> R:
    """One attempt at a step. While the database is unreachable it is retried, for so many seconds.

    Raises:
        ApplicationError: typed after the step's error. The error of a bug says no more than its type.
    """
    try:
        return await retry_while_unreachable(step, seconds=seconds)
    except ParleyError as error:
        raise as_application_error(error) from None
    except ValidationError as error:
        message = shorten(str(error), ERROR_CHARACTERS)
        raise ApplicationError(message, type="ValidationError", non_retryable=True) from None
    except Exception as error:
        # A bug: its message may quote user data, so only its type goes to a history or a caller.
        log.exception("unexpected error in %s", name)
        raise ApplicationError(f"unexpected {type(error).__name__}", type=type(error).__name__) from None


def without_boundary(work: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
    """The code of an activity, to run it inline."""
    return inspect.unwrap(work)


def _retry_seconds(running: activity.Info) -> float:
    """How long to wait for an unreachable database within one attempt, because a paid step has only a few attempts.

    A local activity does not wait: it has unlimited attempts, and would block the task of its workflow.
    """
    limit = running.start_to_close_timeout
    return 0 if limit is None or running.is_local else limit.total_seconds() / 2


async def _heartbeat() -> None:
    while True:
        # Sleep first: most activities end before, and each heartbeat costs the server a write.
        await asyncio.sleep(HEARTBEAT_SECONDS)
        activity.heartbeat()


def as_application_error(error: ParleyError) -> ApplicationError:
    """The error as Temporal stores it: its code as type, its `retry_after` as the next retry delay, a short message.

    The cause is left out, because an SDK's exception may quote the request.
    """
    delay = error.retry_after if isinstance(error, ProviderError) else None
    details: list[Any] = [delay] if delay is not None else []
    return ApplicationError(
        shorten(str(error), ERROR_CHARACTERS),
        *details,
        type=error.code,
        non_retryable=not error.retryable,
        next_retry_delay=timedelta(seconds=delay) if delay is not None and error.retryable else None,
    )
