"""The purge deletes what is old enough, and nothing that is still needed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.purge import PurgeActivities
from parley import Backend, Client
from parley.client.generate import generate_input
from parley.client.phone import new_call
from parley.domain.errors import NotFound
from parley.domain.generate.contract import Cached, GenerateResult, Prompt, workflow_id
from parley.domain.housekeeping import PURGE, PurgeInput, PurgeReport
from parley.domain.phone.settings import NumberSettings
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import Message
from parley.storage import generations, phone_calls, streams
from parley.storage.tables import CachedAnswer, JournaledReply, StoredPrompt
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import LedgerFixture, reply

pytestmark = pytest.mark.usefixtures("worker")

USER = "ann"
LONG = "the invoice is wrong, and nobody answers. " * 100


async def purge(client: Client, *, at: datetime | None = None, batch: int = 1000) -> PurgeReport:
    return await client.temporal.execute_workflow(
        PURGE,
        PurgeInput(at=at or datetime.now(UTC), batch=batch),
        id=f"purge-{uuid4().hex}",
        task_queue=WORKFLOWS,
        result_type=PurgeReport,
    )


async def store(client: Client, said: str, workspace: str = "acme") -> None:
    async with client.database.transaction() as tx:
        await generations.save_prompt(tx, workspace, Prompt(messages=(Message(role="user", content=said),)))


async def age(client: Client, table: str, column: str, days: float, where: str = "true", **values: Any) -> None:
    await LedgerFixture(client.database).run(
        f"UPDATE {table} SET {column} = clock_timestamp() - make_interval(secs => :secs) WHERE {where}",
        secs=days * 86400,
        **values,
    )


async def questions(client: Client) -> set[str]:
    return {row.question for row in await LedgerFixture(client.database).all(CachedAnswer)}


async def prompts(client: Client) -> set[str]:
    return {row.payload["messages"][-1]["content"] for row in await LedgerFixture(client.database).all(StoredPrompt)}


async def test_answers_expired_a_month_ago_are_deleted_in_batches(client: Client) -> None:
    other = Backend(client.temporal, client.database, client.settings).client(f"{client.workspace_id}-other")
    for number in range(5):
        await (client if number % 2 else other).generate(f"old {number}", user_id=USER)
    for said in ("expired", "fresh"):
        await client.generate(said, user_id=USER)
    await age(client, "llm_cache", "expires_at", 31, "question LIKE 'old%'")
    await age(client, "llm_cache", "expires_at", 29, "question = 'expired'")
    assert (await purge(client, batch=2)).answers == 5
    assert await questions(client) == {"expired", "fresh"}
    assert (await purge(client, batch=2)).answers == 0


async def test_an_expired_answer_within_the_retention_is_served(client: Client, simulator: SimulatorAdmin) -> None:
    await client.generate("How?", user_id=USER)
    await age(client, "llm_cache", "expires_at", 29)
    await purge(client)
    await simulator.fault("server_error", times=None)
    assert (await client.generate("How?", user_id=USER)).meta.cached is Cached.STALE


async def test_prompts_stored_a_month_ago_are_deleted_in_batches(client: Client) -> None:
    for number in range(5):
        await store(client, f"old {number}", workspace=f"workspace {number % 2}")
    await age(client, "prompts", "stored_at", 400)
    await store(client, "recent")
    await age(client, "prompts", "stored_at", 29, "payload::text LIKE '%recent%'")
    assert (await purge(client, batch=2)).prompts == 5
    assert await prompts(client) == {"recent"}


async def test_a_prompt_that_is_stored_again_is_not_deleted(client: Client) -> None:
    await store(client, "again")
    await age(client, "prompts", "stored_at", 400)
    await store(client, "again")
    assert (await purge(client)).prompts == 0
    assert await prompts(client) == {"again"}


async def test_the_prompt_of_a_running_workflow_is_not_deleted(client: Client, simulator: SimulatorAdmin) -> None:
    """Seen from forty days ahead: data stored before the job started is deleted, the job's own input stays."""
    await store(client, "of another workspace")
    await age(client, "prompts", "stored_at", 400)
    await simulator.gate(closed=True, provider="openai")
    waiting = asyncio.create_task(client.generate(LONG, user_id=USER))
    await simulator.requests(at_least=1, state="in_flight")
    ahead = datetime.now(UTC) + timedelta(days=40)
    assert (await purge(client, at=ahead)).prompts == 1
    assert await prompts(client) == {LONG}
    await simulator.gate(closed=False, provider="openai")
    assert (await waiting).success


async def test_the_prompt_of_an_ended_workflow_is_deleted(client: Client) -> None:
    await client.generate(LONG, user_id=USER)
    await age(client, "prompts", "stored_at", 400)
    assert (await purge(client)).prompts == 1


async def test_nothing_that_a_workflow_may_still_read_is_deleted_without_any_retention(client: Client) -> None:
    """A prompt is stored before its workflow starts: no list of workflows shows who needs it."""
    await store(client, "just now")
    await store(client, "yesterday")
    await age(client, "prompts", "stored_at", 2, "payload::text LIKE '%yesterday%'")
    job = PurgeInput(at=datetime.now(UTC), batch=1000)
    settings = client.settings.model_copy(update={"cache_stale_days": 0})
    purges = PurgeActivities(client.database, client.temporal, settings)
    assert (await ActivityEnvironment().run(purges.purge, job)).prompts == 1
    assert await prompts(client) == {"just now"}


async def asked_by_id(client: Client, key: str) -> GenerateResult:
    """Start the workflow of a key as if Temporal had deleted the finished one."""
    return await client.temporal.execute_workflow(
        "Generate",
        generate_input(client.workspace_id, "How?", user_id=USER, cache="off"),
        id=workflow_id(client.workspace_id, key),
        task_queue=WORKFLOWS,
        result_type=GenerateResult,
    )


async def test_a_key_is_paid_once_until_its_job_is_purged(client: Client, simulator: SimulatorAdmin) -> None:
    books = LedgerFixture(client.database)
    for _ in range(2):
        await asked_by_id(client, "invoice")
        # The last moment of the key's life: the settings keep jobs for 400 days.
        assert (await purge(client, at=datetime.now(UTC) + timedelta(days=399))).requests == 0
    assert len(await simulator.requests(billed="true")) == 1
    spent = await client.costs()
    report = await purge(client, at=datetime.now(UTC) + timedelta(days=401))
    assert (report.requests, report.results["generations"], report.events) == (1, 1, 0)
    assert await client.costs() == spent
    assert await books.disagreements() == []
    assert (await asked_by_id(client, "invoice")).success
    assert len(await simulator.requests(billed="true")) == 2
    assert await books.disagreements() == []


async def test_the_rows_of_a_running_job_are_not_deleted(client: Client, simulator: SimulatorAdmin) -> None:
    """Without an owner, as between two attempts: only the list of running workflows shows that it goes on."""
    await simulator.gate(closed=True, provider="openai")
    waiting = asyncio.create_task(client.generate("How?", user_id=USER, cache="off"))
    await simulator.requests(at_least=1, state="in_flight")
    await LedgerFixture(client.database).run("UPDATE paid_requests SET owner_attempt_id = NULL, lease_until = NULL")
    assert (await purge(client, at=datetime.now(UTC) + timedelta(days=500))).requests == 0
    await simulator.gate(closed=False, provider="openai")
    assert (await waiting).success
    assert await client.audit() == []


@pytest.mark.parametrize(("webhook", "deleted"), [(None, 1), ("http://127.0.0.1:9/hook", 0)])
async def test_events_do_not_pile_up_without_a_webhook(client: Client, webhook: str | None, deleted: int) -> None:
    """With one, an event that waits for its delivery stays, however old it is."""
    await client.generate("How?", user_id=USER)
    hooked = {"webhook_url": SecretStr(webhook), "webhook_secret": SecretStr("plain")} if webhook else {}
    purges = PurgeActivities(client.database, client.temporal, client.settings.model_copy(update=hooked))
    in_time = PurgeInput(at=datetime.now(UTC) + timedelta(days=6))
    assert (await ActivityEnvironment().run(purges.purge, in_time)).events == 0
    late = PurgeInput(at=datetime.now(UTC) + timedelta(days=8))
    assert (await ActivityEnvironment().run(purges.purge, late)).events == deleted
    assert await LedgerFixture(client.database).disagreements() == []


async def test_the_stream_of_an_answer_is_deleted_an_hour_after_its_end(client: Client) -> None:
    async with client.database.reads() as tx:
        for stream_id in ("ended", "begun"):
            await streams.open_attempt(tx, "acme", stream_id, "ws://127.0.0.1:9000")
            answer = reply() if stream_id == "ended" else None
            await streams.store(tx, "acme", stream_id, 1, streams.News(0, reply=answer, ends=True))
    now = datetime.now(UTC)
    assert (await purge(client, at=now)).streams == 0
    assert (await purge(client, at=now + timedelta(hours=2))).streams == 1
    assert (await purge(client, at=now + timedelta(days=2))).streams == 1


async def test_a_workspace_keeps_content_for_its_own_time(client: Client) -> None:
    """What was said is removed and reported; what it cost stays."""
    await client.configuration.set("privacy", {"content_days": 7})
    for key in ("old", "new"):
        await client.generate(f"{key}: how do I cancel?", user_id=USER, key=key)
    spent = await client.costs()
    old = "workflow_id LIKE '%/old'"
    await age(client, "attempts", "started_at", 8, f"request_id IN (SELECT request_id FROM paid_requests WHERE {old})")
    await age(client, "paid_requests", "expires_at", 8, old)
    await age(client, "llm_cache", "created_at", 8, "question LIKE 'old%'")
    report = await purge(client, batch=1)
    assert report.contents == {client.workspace_id: {"llm_cache": 1, "replies": 1}}
    assert await questions(client) == {"new: how do I cancel?"}
    texts = [row.payload["text"] for row in await LedgerFixture(client.database).all(JournaledReply)]
    assert sorted(map(bool, texts)) == [False, True]
    assert await client.costs() == spent
    assert [event.kind for event in await client.housekeeping.events()].count("content_removed") == 1
    assert (await purge(client)).contents == {}


async def test_a_workspace_whose_content_cannot_be_removed_does_not_keep_that_of_the_others(client: Client) -> None:
    backend, ledger = Backend(client.temporal, client.database, client.settings), LedgerFixture(client.database)
    clients = {name: backend.client(f"{client.workspace_id}-{name}") for name in ("a", "broken", "z")}
    for one in clients.values():
        await one.configuration.set("privacy", {"content_days": 7})
        await one.generate("How?", user_id=USER)
    await age(client, "llm_cache", "created_at", 8)
    await ledger.run("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN 1 / 0; END'")
    broken = "CREATE TRIGGER fail BEFORE DELETE ON llm_cache FOR EACH ROW WHEN (OLD.workspace_id = '{}')"
    await ledger.run(f"{broken.format(clients['broken'].workspace_id)} EXECUTE FUNCTION fail()")
    purges = PurgeActivities(client.database, client.temporal, client.settings)
    try:
        with pytest.raises(ApplicationError, match="DataError"):
            await ActivityEnvironment().run(purges.purge, PurgeInput(at=datetime.now(UTC), batch=1000))
    finally:
        await ledger.run("DROP FUNCTION fail CASCADE")
    left = {row.workspace_id for row in await ledger.all(CachedAnswer)}
    assert left & {one.workspace_id for one in clients.values()} == {clients["broken"].workspace_id}


@pytest.mark.parametrize("is_added_again", [False, True])
async def test_phone_calls_of_a_removed_number_are_kept_as_long_as_it_said(client: Client, is_added_again: bool):
    number, settings = "+15550100002", NumberSettings(keep_days=30)
    await client.phone.set_number(number, settings)
    async with client.database.transaction() as tx:
        for call_sid in ("CA-29", "CA-31"):
            call = new_call(client.workspace_id, call_sid, settings, caller="+15550100001", number=number)
            await phone_calls.begin(tx, call)
    for days in (29, 31):
        await age(client, "call_sessions", "ended_at", days, "call_sid = :sid", sid=f"CA-{days}")
    await client.phone.remove_number(number)
    if is_added_again:
        await client.phone.set_number(number, NumberSettings())
    assert (await purge(client)).conversations == 1
    assert [call.call_sid for call in await client.phone.calls()] == ["CA-29"]


async def test_phone_calls_are_kept_as_long_as_their_number_says(client: Client):
    kept = {"+15550100002": 30, "+15550100003": None}
    for number, days in kept.items():
        settings = NumberSettings(keep_days=days)
        await client.phone.set_number(number, settings)
        async with client.database.transaction() as tx:
            for age_in_days in (None, 29, 31):
                call_sid, caller = f"CA-{number[1:]}-{age_in_days}", "+15550100001"
                call = new_call(client.workspace_id, call_sid, settings, caller=caller, number=number)
                await phone_calls.begin(tx, call)
    for days in (29, 31):
        await age(client, "call_sessions", "ended_at", days, "call_sid LIKE :sid", sid=f"%-{days}")
    assert (await purge(client, batch=1)).conversations == 1
    found = {call.call_sid for call in await client.phone.calls()}
    assert len(found) == 5
    assert "CA-15550100002-31" not in found
    with pytest.raises(NotFound):
        await client.find_conversation("CA-15550100002-31")
