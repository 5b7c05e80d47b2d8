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

TRY_SECONDS = 10.0
# Longer than a try and the note of it: until then nobody else delivers the event.
HOLD_SECONDS = 60.0
LOOK_SECONDS = 5.0


class EventActivities:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._webhook = Webhook.of(settings)

    @activity.defn(name="deliver_events")
    @boundary
    async def deliver(self, job: DeliverInput) -> DeliverReport:
        """Deliver what is due, and look out for more until the time is up or the worker drains."""
        if self._webhook is None:
            return DeliverReport()
        clock = asyncio.get_running_loop()
        last_look = clock.time() + job.seconds - LOOK_SECONDS
        ends: Counter[str] = Counter()
        # A try is bounded as a whole, not each of its steps.
        async with httpx2.AsyncClient(timeout=None, follow_redirects=False) as http:
            while True:
                batch = await self._batch(self._webhook, http, job.batch)
                ends.update(batch)
                # With more to do there is no wait, unless the receiver takes nothing.
                pause = 0 if len(batch) == job.batch and "delivered" in batch else LOOK_SECONDS
                if clock.time() > last_look or await _draining(pause):
                    return DeliverReport(**ends)

    async def _batch(self, webhook: "Webhook", http: httpx2.AsyncClient, size: int) -> list[str]:
        """Try the next events at once; returns what became of each, as the report names it."""
        async with self._database.transaction() as tx:
            events = await outbox.claim_due(tx, limit=size, hold_seconds=HOLD_SECONDS)
        problems = await asyncio.gather(*(webhook.post(http, event) for event in events))
        async with self._database.transaction() as tx:
            return [await _note(tx, event, problem) for event, problem in zip(events, problems, strict=True)]


async def _note(tx: AsyncSession, event: Event, problem: str) -> str:
    if not problem:
        await outbox.delivered(tx, event)
        return "delivered"
    wait = next_wait(event.tries)
    await outbox.put_off(tx, event, wait, problem)
    if wait:
        return "failed"
    activity.logger.error("event %s (%s) is given up after %s tries: %s", event.id, event.kind, event.tries, problem)
    return "given_up"


async def _draining(seconds: float) -> bool:
    """Wait that long; True as soon as the worker is told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await activity.wait_for_worker_shutdown()
    except TimeoutError:
        return False
    return True


@dataclass(frozen=True, repr=False)
class Webhook:
    """The receiver's address, which may carry a token, and the key that signs."""

    url: str
    key: bytes

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        url, secret = settings.webhook_url, settings.webhook_secret
        return cls(url.get_secret_value(), signing_key(secret.get_secret_value())) if url and secret else None

    async def post(self, http: httpx2.AsyncClient, event: Event) -> str:
        """Try once. Returns why it did not arrive, in words that tell neither address nor key; empty if it did."""
        signed = headers(event, self.key, datetime.now(UTC))
        try:
            async with asyncio.timeout(TRY_SECONDS):
                return await self._post(http, event.body, signed)
        except TimeoutError:
            return f"no answer within {TRY_SECONDS:.0f} s"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return type(error).__name__

    async def _post(self, http: httpx2.AsyncClient, body: bytes, signed: dict[str, str]) -> str:
        async with http.stream("POST", self.url, content=body, headers=signed) as response:
            async for _ in response.aiter_raw():  # read to its end, so that the connection can be used again
                pass
            return "" if response.is_success else f"HTTP {response.status_code}"
