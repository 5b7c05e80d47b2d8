"""Which requests the sweeper is shown."""

from dataclasses import replace

from parley.storage.sweep import StaleRequest, stale_requests
from tests.storage.ledger_fixture import EXPIRED, TERMS, LedgerFixture


async def stale(books: LedgerFixture, limit: int = 100, after: StaleRequest | None = None) -> list[StaleRequest]:
    async with books.database.transaction() as tx:
        return await stale_requests(tx, limit=limit, after=after)


def steps(found: list[StaleRequest]) -> list[str]:
    return [request.request_id.removeprefix("job/") for request in found]


async def test_only_requests_with_expired_leases_are_stale(books: LedgerFixture):
    await books.granted("live")
    await books.settle(await books.granted("settled", terms=EXPIRED))
    await books.fail(await books.granted("failed", terms=EXPIRED))
    await books.granted("swept", terms=EXPIRED)
    await books.sweep("swept")
    await books.granted("expired", terms=EXPIRED)
    (found,) = await stale(books)
    assert (found.workspace_id, found.request_id, found.workflow_id) == ("acme", "job/expired", "workflow")
    assert (found.job_key, found.expired) == ("job", False)


async def test_a_reservation_expires_after_its_time(books: LedgerFixture):
    await books.granted(terms=replace(EXPIRED, reservation_seconds=0))
    (found,) = await stale(books)
    assert found.expired


async def test_a_new_lease_extends_the_reservation(books: LedgerFixture):
    await books.granted(terms=replace(EXPIRED, reservation_seconds=0))
    await books.granted(terms=replace(TERMS, lease_seconds=0))
    (found,) = await stale(books)
    assert not found.expired


async def test_stale_requests_of_all_workspaces_are_found(books: LedgerFixture):
    other = await LedgerFixture(books.database, "globex").open()
    await books.granted(terms=EXPIRED)
    await other.granted(terms=EXPIRED)
    assert {request.workspace_id for request in await stale(books)} == {"acme", "globex"}


async def test_pages_begin_with_the_oldest_request_and_miss_none(books: LedgerFixture):
    names = [f"step {number}" for number in range(7)]
    for name in names:
        await books.granted(name, terms=EXPIRED, energy=0)
    seen: list[StaleRequest] = []
    while page := await stale(books, limit=3, after=seen[-1] if seen else None):
        assert len(page) <= 3
        seen += page
    assert steps(seen) == names


async def test_pages_split_requests_of_one_moment(books: LedgerFixture):
    for number in range(5):
        await books.granted(f"step {number}", terms=EXPIRED, energy=0)
    await books.run("UPDATE paid_requests SET lease_until = '2020-01-01'")
    first = await stale(books, limit=2)
    rest = await stale(books, after=first[-1])
    assert sorted(steps(first + rest)) == [f"step {number}" for number in range(5)]
