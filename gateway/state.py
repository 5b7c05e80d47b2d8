"""What the requests of one gateway process share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.auth import Authentication, Caller
from gateway.feeds import Feeds
from gateway.metrics import GatewayMetrics
from parley.client.backend import Backend, temporal_errors

READY_SECONDS = 5.0


class Gateway:
    """The connections, keys and streams of a gateway process.

    Attributes:
        backend: the connections to Temporal and PostgreSQL.
        auth: the keys.
        metrics: the counters.
        feeds: the events of jobs.
        draining: set when the process begins to end. Streams that have no end of their own end then.
    """

    def __init__(self, backend: Backend, metrics: GatewayMetrics) -> None:
        self.backend, self.metrics = backend, metrics
        self.auth = Authentication(backend)
        self.draining = asyncio.Event()
        self.feeds = Feeds(backend, self.draining)

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
        with temporal_errors():
            await self.backend.temporal.service_client.check_health()
