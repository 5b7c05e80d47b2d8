"""The paid call with real parts around it; every test ends with a clean audit."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from activities import metrics
from activities.paid_call import PaidCalls
from parley.settings import Settings
from parley.storage.database import Database
from tests.activities.proxy import DatabaseProxy
from tests.activities.scraping import free_address
from tests.storage.books import books, database, must_agree

__all__ = ["books", "database", "must_agree"]

Opener = Callable[[Database, Settings], PaidCalls]


@pytest.fixture
async def open_calls() -> AsyncIterator[Opener]:
    """Makes a door to the providers, as each worker has one, and closes it afterwards."""
    async with AsyncExitStack() as opened:

        def make(database: Database, settings: Settings) -> PaidCalls:
            paid_calls = PaidCalls(database, settings)
            opened.push_async_callback(paid_calls.close)
            return paid_calls

        yield make


@pytest.fixture
def paid_calls(open_calls: Opener, database: Database, settings: Settings) -> PaidCalls:
    return open_calls(database, settings)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Metrics shown for this test, at an address of its own; nobody counts on them afterwards."""
    monkeypatch.setattr(metrics, "_now", metrics._now)
    at = free_address()
    runtime = metrics.serve(at)
    yield at
    del runtime  # it listens for as long as somebody has it: a worker's client does


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    """A second way to the test's database, which can be cut."""
    async with DatabaseProxy(database_url) as running:
        yield running
