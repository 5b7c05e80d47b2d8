"""Random schedules of the ledger's operations, with faults, break no invariant; a broken ledger is found."""

from tests.ledger_checker.checker import checking


async def test_no_schedule_breaks_an_invariant(database_url: str):
    async with checking(database_url) as checker:
        found = await checker.search(60)
        print(await checker.counts())
    assert found is None, str(found)
