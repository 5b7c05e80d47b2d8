"""The paid call with real parts around it; every test ends with a clean audit."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest

from activities.metrics import Metrics, serve_metrics
from activities.paid_call import PaidCalls
from activities.workspaces import Workspaces
from parley.providers.registry import Providers
from parley.settings import Settings
from parley.storage.database import Database
from tests.activities.proxy import DatabaseProxy
from tests.activities.scraping import free_address
from tests.storage.ledger_fixture import books, database, must_agree

__all__ = ["books", "database", "must_agree"]


class Opener(Protocol):
    def __call__(self, database: Database, settings: Settings, metrics: Metrics | None = None) -> PaidCalls: ...


@pytest.fixture
async def open_calls() -> AsyncIterator[Opener]:
    """Makes `PaidCalls`, as each worker has, and closes them afterwards."""
    async with AsyncExitStack() as opened:

        def make(database: Database, settings: Settings, metrics: Metrics | None = None) -> PaidCalls:
            providers = Providers(settings)
            opened.push_async_callback(providers.close)
            return PaidCalls(database, settings, Workspaces(database), providers, metrics)

        yield make


@pytest.fixture
def paid_calls(open_calls: Opener, database: Database, settings: Settings) -> PaidCalls:
    return open_calls(database, settings)


@pytest.fixture
def address() -> str:
    """The address at which this test's metrics are exported."""
    return free_address()


@pytest.fixture
def metrics(address: str) -> Iterator[Metrics]:
    counted, runtime = serve_metrics(address)
    yield counted
    del runtime  # The exporter listens while the runtime is referenced.


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    """A proxy to the test's database, whose connections can be cut."""
    async with DatabaseProxy(database_url) as running:
        yield running
