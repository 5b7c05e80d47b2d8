"""What the requests of one gateway process share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.auth import Authentication, Caller
from gateway.feeds import Feeds
from gateway.inline import InlineGenerate
from gateway.metrics import GatewayMetrics
from gateway.phone.calls import PhoneCalls
from gateway.phone.outage import Outage
from gateway.phone.recordings import Recordings
from gateway.retries import Retries
from parley.client.backend import Backend, temporal_errors
from parley.domain.errors import Unreachable
from parley.settings import Settings
from parley.storage.spool import Spool

READY_SECONDS = 5.0
# How long the end waits for reports to the workflows of phone calls, while Temporal does not answer.
REPORT_SECONDS = 5.0


class Gateway:
    """The connections, keys and streams of a gateway process.

    Attributes:
        backend: the connections to Temporal and PostgreSQL.
        auth: the keys.
        metrics: the counters.
        feeds: the events of jobs.
        inline: runs generations in this process.
        phone: the phone calls that this process holds.
        policy: the operator's policy.
        retries: the requests that an SDK may repeat without a key.
        draining: set when the process begins to end. Streams that have no end of their own end then.

    Raises:
        InvalidInput: the policy file cannot be read, or is invalid.
    """

    def __init__(self, backend: Backend, metrics: GatewayMetrics) -> None:
        self.backend, self.metrics = backend, metrics
        self.auth = Authentication(backend)
        self.draining = asyncio.Event()
        self.feeds = Feeds(backend, self.draining)
        self.policy = backend.settings.policy()
        self.retries = Retries()
        self.inline = InlineGenerate(backend.database, backend.settings, backend.temporal, metrics.paid)
        self.phone = PhoneCalls(
            backend,
            self.inline,
            self.draining,
            recordings=Recordings(self.inline, backend.settings),
            outage=self._outage(backend.settings),
        )
        self._kept: set[asyncio.Future[Any]] = set()

    def _outage(self, settings: Settings) -> Outage | None:
        return Outage(self.inline.parts, Spool(settings.spool, settings.spool_usd)) if settings.spool else None

    def keep(self, work: asyncio.Future[Any]) -> None:
        """Let work end that no request waits for any more."""
        self._kept.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._kept.discard(work)
        if not work.cancelled():
            work.exception()  # else the event loop reports that nothing has read it

    async def close(self, seconds: float) -> None:
        """Finish the generations that run in this process, within this time."""
        await self.phone.close(REPORT_SECONDS)
        await self.inline.close(seconds)
        for work in self._kept:
            work.cancel()

    @asynccontextmanager
    async def stream(self, caller: Caller) -> AsyncIterator[None]:
        """Count an open stream, of the key and of the process.

        Raises:
            TooManyRequests: the key has as many open streams as it may.
        """
        async with self.auth.stream(caller):
            self.metrics.streams(1)
            try:
                yield
            finally:
                self.metrics.streams(-1)

    async def check_servers(self) -> None:
        """Check that both servers answer.

        Raises:
            Unreachable: one does not.
        """
        await self.backend.database.ping()
        try:
            async with asyncio.timeout(READY_SECONDS):
                with temporal_errors():
                    await self.backend.temporal.service_client.check_health()
        except TimeoutError:
            raise Unreachable(f"Temporal does not answer within {READY_SECONDS:g} s") from None
