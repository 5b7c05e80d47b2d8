"""Housekeeping runs on schedules, catches up after an outage, and is idempotent."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.client import Client as TemporalClient
from temporalio.client import Schedule, ScheduleBackfill, ScheduleOverlapPolicy
from temporalio.service import RPCError

from parley import Client
from parley.domain.housekeeping import DELIVER_EVENTS, DeliverInput, DeliverReport, Week, week_before
from parley.domain.queues import WORKFLOWS
from parley.settings import Settings
from parley.storage import energy
from parley.storage.database import Database
from parley.storage.tables import CostAlert, OutboxEvent
from starter.embedded import Addresses
from tests.activities.receiver import Receiver
from tests.faults.scene import scene
from tests.parts import ROOT, TEST_TIMEOUT_SECONDS, running_workers, until
from tests.storage.ledger_fixture import EXPIRED, LedgerFixture
from workflows.schedules import TIMETABLES, ensure_scheduled

TIMES = {
    "parley-sweep": timedelta(minutes=1),
    "parley-events": timedelta(minutes=1),
    "parley-refill": timedelta(days=1),
    "parley-purge": timedelta(days=1),
    "parley-alert": timedelta(weeks=1),
}


async def remove(temporal: TemporalClient) -> None:
    for schedule_id in TIMETABLES:
        try:
            await temporal.get_schedule_handle(schedule_id).delete()
        except RPCError:
            continue


@pytest.fixture
async def no_schedules(temporal: TemporalClient) -> AsyncIterator[None]:
    """The server is shared: what a test schedules must not run in the next."""
    await remove(temporal)
    yield
    await remove(temporal)


async def scheduled(temporal: TemporalClient) -> dict[str, Schedule]:
    found: dict[str, Schedule] = {}
    for schedule_id in TIMETABLES:
        try:
            found[schedule_id] = (await temporal.get_schedule_handle(schedule_id).describe()).schedule
        except RPCError:
            continue
    return found


@pytest.mark.usefixtures("no_schedules")
class TestSchedules:
    async def test_each_job_has_its_schedule_in_utc(self, temporal: TemporalClient) -> None:
        await ensure_scheduled(temporal, with_events=True)
        for schedule_id, every in TIMES.items():
            found = await temporal.get_schedule_handle(schedule_id).describe()
            first, second = found.info.next_action_times[:2]
            assert second - first == every, schedule_id
            if every == timedelta(days=1):
                assert (first.hour, first.minute) == (0, 0)
            if every == timedelta(weeks=1):
                assert (first.isoweekday(), first.hour, first.minute) == (1, 0, 5)

    async def test_missed_days_and_weeks_are_caught_up_and_minutes_are_not(self, temporal: TemporalClient) -> None:
        await ensure_scheduled(temporal, with_events=True)
        for schedule_id, found in (await scheduled(temporal)).items():
            minutely = TIMES[schedule_id] == timedelta(minutes=1)
            overlap = ScheduleOverlapPolicy.SKIP if minutely else ScheduleOverlapPolicy.BUFFER_ALL
            assert found.policy.overlap == overlap
            assert found.policy.catchup_window
            assert found.policy.catchup_window >= TIMES[schedule_id]

    async def test_without_a_webhook_deliveries_are_not_scheduled(self, temporal: TemporalClient) -> None:
        await ensure_scheduled(temporal, with_events=False)
        assert set(await scheduled(temporal)) == set(TIMES) - {"parley-events"}

    async def test_the_schedule_of_a_removed_webhook_is_deleted(self, temporal: TemporalClient) -> None:
        await ensure_scheduled(temporal, with_events=True)
        assert set(await scheduled(temporal)) == set(TIMES)
        await ensure_scheduled(temporal, with_events=False)
        assert "parley-events" not in await scheduled(temporal)

    async def test_a_paused_schedule_stays_paused(self, temporal: TemporalClient) -> None:
        await ensure_scheduled(temporal, with_events=True)
        await temporal.get_schedule_handle("parley-refill").pause()
        await asyncio.gather(*(ensure_scheduled(temporal, with_events=True) for _ in range(3)))
        assert (await scheduled(temporal))["parley-refill"].state.paused

    async def test_each_missed_week_has_an_alert(
        self, temporal: TemporalClient, database: Database, settings: Settings
    ) -> None:
        """If the runs of two past Mondays are caught up together, each checks its own week."""
        books = await LedgerFixture(database).open(cap=Decimal(1000))
        last = week_before(datetime.now(UTC))
        earlier = Week(monday=last.monday - timedelta(weeks=1))
        for step, week in (("one", earlier), ("two", last)):
            attempt = await books.granted(step, bound=Decimal(60), terms=EXPIRED)
            await books.sweep(step)
            await books.run(
                "UPDATE ai_usage_logs SET created_at = :at WHERE attempt_id = :id", at=week.begins, id=attempt
            )
        await ensure_scheduled(temporal, with_events=False)
        async with running_workers(temporal, database, settings, ("workflows", "storage")):
            span = ScheduleBackfill(
                start_at=last.begins - timedelta(minutes=1),
                end_at=last.ends + timedelta(minutes=10),
                overlap=ScheduleOverlapPolicy.BUFFER_ALL,
            )
            await temporal.get_schedule_handle("parley-alert").backfill(span)
            await until(lambda: has_rows(books, 2))
        assert {alert.period for alert in await books.all(CostAlert)} == {earlier.name, last.name}
        assert len(await books.all(OutboxEvent, kind="cost_alert")) == 2


async def has_rows(books: LedgerFixture, count: int) -> bool:
    return len(await books.all(CostAlert)) == count


async def test_an_event_of_a_settled_call_reaches_the_webhook(
    temporal: TemporalClient, database: Database, settings: Settings
) -> None:
    books = await LedgerFixture(database).open()
    await books.settle(await books.granted())
    async with Receiver() as receiver:
        secrets = {"webhook_url": SecretStr(receiver.url), "webhook_secret": SecretStr("plain")}
        hooked = settings.model_copy(update=secrets)
        async with running_workers(temporal, database, hooked, ("workflows", "storage")):
            done = await temporal.execute_workflow(
                DELIVER_EVENTS,
                DeliverInput(seconds=0),
                id=f"deliver-{uuid4().hex}",
                task_queue=WORKFLOWS,
                result_type=DeliverReport,
            )
        assert done == DeliverReport(delivered=1)
        assert [message.data["workspace_id"] for message in receiver.messages] == ["acme"]


async def test_a_worker_schedules_deliveries_and_logs_neither_url_nor_secret(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    async with Receiver() as receiver, scene(stack, template, tmp_path) as made:
        books = await LedgerFixture(made.database).open()
        await books.settle(await books.granted())
        process = await made.start_worker(
            roles=("workflows", "storage"), PARLEY_WEBHOOK_URL=receiver.url, PARLEY_WEBHOOK_SECRET="a-plain-secret"
        )
        await made.client.temporal.get_schedule_handle("parley-events").trigger()
        await until(partial(has_arrived, books))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        log = (tmp_path / "worker-0.log").read_text()
    assert "polling as workflows, storage" in log
    assert "a-token-in-the-address" not in log
    assert "a-plain-secret" not in log


async def has_arrived(books: LedgerFixture) -> bool:
    (event,) = await books.all(OutboxEvent)
    return event.delivered_at is not None


async def test_a_requested_refill_covers_every_workspace(client: Client, worker: None) -> None:
    for workspace, user in (("acme", "ann"), ("globex", "bob")):
        await LedgerFixture(client.database, workspace).open(user=user, energy_granted=1)
    async with client.database.transaction() as tx:
        await energy.set_tier(tx, "globex", "bob", "gold")
        await energy.open_account(tx, client.workspace_id, "cy", starting_energy=2)
    done = await client.housekeeping.refill_energy()
    assert (done.users, done.energy, done.skipped, done.unknown_tiers) == (2, 19 + 18, 1, ("gold",))
    assert (await client.housekeeping.refill_energy()).users == 0
    assert (await client.energy("cy")).available == 20


@pytest.mark.usefixtures("no_schedules", "worker")
async def test_the_runs_of_schedules_are_hidden_from_the_list_of_jobs(client: Client) -> None:
    """The query is that of docs/operations.md."""
    temporal = client.temporal
    await ensure_scheduled(temporal, with_events=False)
    await temporal.get_schedule_handle("parley-sweep").trigger()
    await client.generate("hello", user_id="ann")
    seen: set[str] = set()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not seen >= {"Sweep", "Generate"}:
            seen = {one.workflow_type async for one in temporal.list_workflows()}
            await asyncio.sleep(0.05)
    query = "ParleyWorkspace IS NOT NULL"
    assert f"`{query}`" in (ROOT / "docs" / "operations.md").read_text()
    jobs = [one async for one in temporal.list_workflows(query)]
    assert "Generate" in {one.workflow_type for one in jobs}
    assert not {one.workflow_type for one in jobs} & {timetable.workflow for timetable in TIMETABLES.values()}
    assert [job.kind for job in await client.jobs()] == ["Generate"]
