"""Where an activity meets Temporal: it heartbeats while it works, and its errors become Temporal's."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from parley.domain.errors import ParleyError, ProviderError, ReplyLost, Unreachable
from parley.domain.text import shorten

HEARTBEAT_SECONDS = 2.0
RECONNECT_SECONDS = 0.5
# A long error message could exceed the size limit of a history event.
ERROR_CHARACTERS = 1000

P = ParamSpec("P")
R = TypeVar("R")


def boundary(work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Wrap an activity. A long one can only learn that it was cancelled, or be missed, if it heartbeats."""

    @functools.wraps(work)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        # A local activity runs within its workflow's task, which is the heartbeat.
        pulse = None if activity.info().is_local else asyncio.create_task(_heartbeat())
        try:
            return await patiently(functools.partial(work, *args, **kwargs), seconds=_patience(activity.info()))
        except ParleyError as error:
            raise as_application_error(error) from None
        except ValidationError as error:
            message = shorten(str(error), ERROR_CHARACTERS)
            raise ApplicationError(message, type="ValidationError", non_retryable=True) from None
        except Exception as error:  # noqa: BLE001 - nothing may reach history as it is
            # A bug, or a wrong statement: its words may quote what it worked on, so only its name goes to history.
            activity.logger.exception("unforeseen error in %s", activity.info().activity_type)
            raise ApplicationError(f"unforeseen {type(error).__name__}", type=type(error).__name__) from None
        finally:
            if pulse:
                pulse.cancel()

    return wrapped


def _patience(running: activity.Info) -> float:
    """How long an absent database is waited for: that is not one of the few tries that a paid step has.

    A local activity has tries without end, and its workflow's task does not wait.
    """
    limit = running.start_to_close_timeout
    return 0 if limit is None or running.is_local else limit.total_seconds() / 2


async def patiently(work: Callable[[], Awaitable[R]], *, seconds: float) -> R:
    """Do it again while the database is away, for so many seconds, as long as that cannot pay for anything anew.

    Raises:
        Unreachable: it is away for longer, or nobody waits any more.
    """
    clock = asyncio.get_running_loop()
    deadline = clock.time() + seconds
    while True:
        try:
            return await work()
        except Unreachable as error:
            if isinstance(error, ReplyLost) or _is_cancelled() or clock.time() > deadline:
                raise
            activity.logger.warning("%s waits: %s", activity.info().activity_type, error)
        await asyncio.sleep(RECONNECT_SECONDS)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _heartbeat() -> None:
    while True:
        # Most activities are over before the first one, which would cost the server a write.
        await asyncio.sleep(HEARTBEAT_SECONDS)
        activity.heartbeat()


def as_application_error(error: ParleyError) -> ApplicationError:
    """The error as Temporal stores it: its name as type, its delay as the next retry's, its text kept short.

    The cause is left out on purpose: an SDK's exception may quote the request.
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
