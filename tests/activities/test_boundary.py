"""The boundary between an activity and Temporal: errors, heartbeats, outages of the database."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.boundary import ERROR_CHARACTERS, boundary
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    BreakerOpen,
    BudgetExhausted,
    ContextTooLong,
    IdempotencyConflict,
    InsufficientEnergy,
    InvalidInput,
    MalformedReply,
    NotFound,
    ParleyError,
    ProviderNotConfigured,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    ReplyLost,
    TruncatedReply,
    UnpricedModel,
    Unreachable,
)

FOR_GOOD = (
    AuthenticationFailed,
    BadRequest,
    BreakerOpen,
    BudgetExhausted,
    ContextTooLong,
    IdempotencyConflict,
    InsufficientEnergy,
    InvalidInput,
    NotFound,
    ProviderNotConfigured,
    QuotaExceeded,
    UnpricedModel,
)
WORTH_A_RETRY = (MalformedReply, ProviderUnavailable, RateLimited, ReplyLost, TruncatedReply, Unreachable)


async def crossed(error: Exception) -> ApplicationError:
    """What Temporal receives when an activity raises `error`."""

    @boundary
    async def work() -> None:
        raise error

    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(work)
    return raised.value


def made(kind: type[ParleyError], **terms: Any) -> ParleyError:
    words = ("provider", "what went wrong") if hasattr(kind, "may_have_billed") else ("what went wrong",)
    return kind(*words, **terms)


@pytest.mark.parametrize("kind", [*FOR_GOOD, *WORTH_A_RETRY], ids=lambda kind: kind.__name__)
async def test_an_error_keeps_its_code_and_retryability(kind: type[ParleyError]):
    error = await crossed(made(kind))
    assert (error.type, error.non_retryable) == (kind.__name__, kind in FOR_GOOD)
    assert "what went wrong" in error.message
    assert error.next_retry_delay is None


async def test_a_rate_limit_sets_the_retry_delay():
    error = await crossed(made(RateLimited, retry_after=7.5))
    assert error.next_retry_delay == timedelta(seconds=7.5)
    assert list(error.details) == [7.5]


async def test_an_open_breaker_has_a_delay_and_is_not_retried():
    error = await crossed(made(BreakerOpen, retry_after=42.0))
    assert (error.non_retryable, error.next_retry_delay, list(error.details)) == (True, None, [42.0])


async def test_an_invalid_payload_is_not_retried():
    class Contract(BaseModel):
        number: int

    with pytest.raises(ValidationError) as invalid:
        Contract.model_validate({"number": "x"})
    error = await crossed(invalid.value)
    assert (error.type, error.non_retryable) == ("ValidationError", True)


async def test_a_long_message_is_cut():
    error = await crossed(NotFound("x" * 1_000_000))
    assert len(error.message) == ERROR_CHARACTERS


async def test_a_bug_is_retried_without_its_message_in_the_history():
    @boundary
    async def work() -> None:
        raise ZeroDivisionError("my card is 4111")

    with pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment().run(work)
    error = failed.value
    assert (error.type, error.message, error.non_retryable) == (
        "ZeroDivisionError",
        "unexpected ZeroDivisionError",
        False,
    )
    assert error.__cause__ is None


async def test_an_activity_heartbeats_while_it_works():
    beaten = asyncio.Event()
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: beaten.set()

    @boundary
    async def work() -> str:
        await beaten.wait()
        return "done"

    assert await environment.run(work) == "done"


async def test_a_lost_paid_reply_is_not_retried_within_the_attempt():
    begun: list[None] = []

    @boundary
    async def work() -> None:
        begun.append(None)
        raise ReplyLost("away")

    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(work)
    assert len(begun) == 1


async def test_a_cancelled_activity_is_not_retried():
    begun: list[None] = []

    @boundary
    async def work() -> None:
        begun.append(None)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Unreachable("away") from None

    environment = ActivityEnvironment()
    running = asyncio.create_task(environment.run(work))
    while not begun:
        await asyncio.sleep(0)
    environment.cancel()
    with pytest.raises(ApplicationError):
        await running
    assert len(begun) == 1


async def test_an_unreachable_database_is_retried_within_the_attempt():
    begun: list[None] = []

    @boundary
    async def work() -> str:
        begun.append(None)
        if len(begun) == 1:
            raise Unreachable("away")
        return "done"

    environment = ActivityEnvironment()
    environment.info = replace(environment.info, start_to_close_timeout=timedelta(minutes=1))
    assert (await environment.run(work), len(begun)) == ("done", 2)
