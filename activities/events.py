"""Deliver events to the webhook, at least once."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import httpx2
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from parley.domain.events import Event, headers, next_wait, signing_key
from parley.domain.housekeeping import DeliverInput, DeliverReport
from parley.settings import Settings
from parley.storage import outbox
from parley.storage.database import Database

ATTEMPT_SECONDS = 10.0
# Longer than an attempt and its record: until then no other worker delivers the event.
HOLD_SECONDS = 60.0
POLL_SECONDS = 5.0


class EventActivities:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._webhook = Webhook.of(settings)

    @activity.defn(name="deliver_events")
    @boundary
    async def deliver(self, job: DeliverInput) -> DeliverReport:
        """Deliver the events that are due, and poll for more until the time is up or the worker drains."""
        if self._webhook is None:
            return DeliverReport()
        clock = asyncio.get_running_loop()
        last_poll = clock.time() + job.seconds - POLL_SECONDS
        ends: Counter[str] = Counter()
        # `Webhook.post` limits the duration of the whole attempt, so the client needs no timeouts.
        async with httpx2.AsyncClient(timeout=None, follow_redirects=False) as http:
            while True:
                batch = await self._batch(self._webhook, http, job.batch)
                ends.update(batch)
                # After a full batch there is no pause, unless the receiver accepted nothing.
                pause = 0 if len(batch) == job.batch and "delivered" in batch else POLL_SECONDS
                if clock.time() > last_poll or await _draining(pause):
                    return DeliverReport(**ends)

    async def _batch(self, webhook: "Webhook", http: httpx2.AsyncClient, size: int) -> list[str]:
        """Deliver the next events concurrently. Returns the outcome of each, by the name of the report's field."""
        async with self._database.transaction() as tx:
            events = await outbox.claim_due(tx, limit=size, hold_seconds=HOLD_SECONDS)
        problems = await asyncio.gather(*(webhook.post(http, event) for event in events))
        async with self._database.transaction() as tx:
            return [await _record(tx, event, problem) for event, problem in zip(events, problems, strict=True)]


async def _record(tx: AsyncSession, event: Event, problem: str) -> str:
    if not problem:
        await outbox.delivered(tx, event)
        return "delivered"
    wait = next_wait(event.tries)
    await outbox.put_off(tx, event, wait, problem)
    if wait:
        return "failed"
    activity.logger.error(
        "event %s (%s) could not be delivered in %s attempts: %s",
        event.id,
        event.kind,
        event.tries,
        problem,
    )
    return "abandoned"


async def _draining(seconds: float) -> bool:
    """Wait so many seconds. Returns True as soon as the worker shuts down."""
    try:
        async with asyncio.timeout(seconds):
            await activity.wait_for_worker_shutdown()
    except TimeoutError:
        return False
    return True


@dataclass(frozen=True, repr=False)
class Webhook:
    """The receiver's URL, which may contain a token, and the signing key."""

    url: str
    key: bytes

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        url, secret = settings.webhook_url, settings.webhook_secret
        return cls(url.get_secret_value(), signing_key(secret.get_secret_value())) if url and secret else None

    async def post(self, http: httpx2.AsyncClient, event: Event) -> str:
        """Send the event once. Returns the problem, without the URL or the key; empty if it was delivered."""
        signed = headers(event, self.key, datetime.now(UTC))
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._post(http, event.body, signed)
        except TimeoutError:
            return f"no answer within {ATTEMPT_SECONDS:.0f} s"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return type(error).__name__

    async def _post(self, http: httpx2.AsyncClient, body: bytes, signed: dict[str, str]) -> str:
        async with http.stream("POST", self.url, content=body, headers=signed) as response:
            async for _ in response.aiter_raw():  # read to the end, so that the connection can be reused
                pass
            return "" if response.is_success else f"HTTP {response.status_code}"
