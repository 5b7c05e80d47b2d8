"""The paid call while PostgreSQL answers with errors that pass: no paid reply is lost, and no lease."""

import asyncio

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

import parley.storage.database
from activities.paid_call import PaidCalls
from parley.domain.errors import ProviderUnavailable
from parley.settings import Settings
from parley.storage.database import Database
from parley.storage.ledger import Granted
from tests.activities.asking import make, started
from tests.activities.conftest import Opener
from tests.activities.proxy import DatabaseProxy
from tests.parts import SimulatorAdmin, run_sql, until
from tests.storage.ledger_fixture import PRICE, LedgerFixture

# The error is raised for the first two rows, also after a rollback: a sequence never goes back.
FAIL_TWICE = """
    CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('failures') <= 2 THEN RAISE EXCEPTION 'not now' USING ERRCODE = TG_ARGV[0]; END IF;
        RETURN NEW;
    END $$"""
TRANSIENT = {
    "disk full": "53100",
    "deadlock": "40P01",
    "cancelled": "57014",
    "serialization": "40001",
    "internal": "XX000",
}


async def fail_twice(books: LedgerFixture, event: str, sqlstate: str) -> None:
    """Make the first two statements of a kind fail. `event`: the kind, in the words of CREATE TRIGGER."""
    await books.run("CREATE SEQUENCE failures")
    await books.run(FAIL_TWICE)
    await books.run(f"CREATE TRIGGER fails BEFORE {event} FOR EACH ROW EXECUTE FUNCTION fail_twice('{sqlstate}')")


async def tries(books: LedgerFixture) -> int:
    async with books.database.transaction() as tx:
        return (await tx.execute(text("SELECT last_value FROM failures"))).scalar_one()


@pytest.mark.parametrize("sqlstate", TRANSIENT.values(), ids=TRANSIENT)
async def test_a_settlement_is_repeated_after_a_transient_error(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, sqlstate: str
):
    await fail_twice(books, "INSERT ON replies", sqlstate)
    await make(paid_calls)
    assert await tries(books) == 3
    assert len(await simulator.billed()) == 1
    assert (await books.states(), await books.energy()) == (["settled"], (PRICE, 0))


async def test_a_failure_is_recorded_after_a_transient_error(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    await fail_twice(books, "INSERT ON outbox", TRANSIENT["disk full"])
    await simulator.fault("cut")
    with pytest.raises(ProviderUnavailable):
        await make(paid_calls)
    assert (await books.states(), await books.energy()) == (["failed"], (0, 0))


async def set_default(server: str, database_url: str, setting: str, value: str) -> None:
    """Change a default of the database and end its sessions, so that their successors have it."""
    name = make_url(database_url).database or ""
    change = f"ALTER DATABASE {name} SET {setting} = '{value}'"
    await run_sql(server, change)  # pyright: ignore[reportArgumentType]
    await run_sql(server, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", name)


async def test_a_reply_outlasts_a_failover_to_a_read_only_server(
    open_calls: Opener,
    books: LedgerFixture,
    settings: Settings,
    simulator: SimulatorAdmin,
    database_url: str,
    template: str,
    caplog: pytest.LogCaptureFixture,
):
    """The sessions end, and the server that answers next is still a standby."""
    long_lease = settings.model_copy(update={"lease_seconds": 60})
    await simulator.gate(closed=True)
    call = started(open_calls(books.database, long_lease))
    await simulator.requests(at_least=1)
    await set_default(template, database_url, "default_transaction_read_only", "on")
    await simulator.gate(closed=False)

    async def waits() -> bool:
        return call.done() or "25006" in caplog.text

    await until(waits)
    await set_default(template, database_url, "default_transaction_read_only", "off")
    await call
    assert len(await simulator.billed()) == 1
    assert (await books.states(), await books.energy()) == (["settled"], (PRICE, 0))


@pytest.mark.parametrize("sqlstate", ["40P01", "25006", "23514"], ids=["deadlock", "read only", "permanent"])
async def test_the_lease_is_renewed_after_an_error(
    open_calls: Opener, books: LedgerFixture, settings: Settings, simulator: SimulatorAdmin, sqlstate: str
):
    await simulator.gate(closed=True)
    call = started(open_calls(books.database, settings.model_copy(update={"lease_seconds": 0.6})))
    await simulator.requests(at_least=1)
    await fail_twice(books, "UPDATE OF lease_until ON paid_requests", sqlstate)
    before = (await books.request()).lease_until

    async def renewed() -> bool:
        return (await books.request()).lease_until != before

    await until(renewed)
    await simulator.gate(closed=False)
    await call
    assert await books.states() == ["settled"]


async def test_a_server_with_a_stricter_isolation_level_grants_every_claim(
    books: LedgerFixture, database_url: str, template: str
):
    await books.open(energy_granted=40 * PRICE, user="bob")
    await set_default(template, database_url, "default_transaction_isolation", "repeatable read")
    strict = Database(SecretStr(database_url))
    claims = [LedgerFixture(strict).claim(str(number), user_id="bob") for number in range(40)]
    assert {type(one) for one in await asyncio.gather(*claims)} == {Granted}
    async with strict.reads() as tx:
        level = (await tx.execute(text("SELECT current_setting('transaction_isolation')"))).scalar_one()
    assert level == "read committed"
    await strict.close()


async def test_a_worker_that_vanishes_in_mid_transaction_frees_its_rows(
    books: LedgerFixture, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parley.storage.database, "IDLE_SECONDS", 0.5, raising=False)
    attempt_id = await books.granted()
    is_locked = asyncio.Event()
    async with DatabaseProxy(database_url) as proxy:

        async def vanish() -> None:
            async with proxy.database.transaction() as tx:
                await tx.execute(text("SELECT 1 FROM paid_requests FOR UPDATE"))
                proxy.fall_silent()
                is_locked.set()
                await asyncio.Event().wait()

        vanished = asyncio.create_task(vanish())
        await is_locked.wait()
        try:
            async with asyncio.timeout(20):
                await books.settle(attempt_id)
        finally:
            proxy.cut()
            vanished.cancel()
    assert await books.states() == ["settled"]
