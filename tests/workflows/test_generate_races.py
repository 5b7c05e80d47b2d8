"""`Generate` under concurrency: one key twice, a cancellation in the middle, a change of worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.generate import paid_steps
from parley import Backend, Client
from parley.client.generate import Messages
from parley.domain.errors import InvalidInput, JobFailed
from parley.domain.generate.contract import GenerateResult, Prompt
from parley.domain.requests import Reply
from parley.settings import DEFAULT_POLICY, Settings
from parley.storage.database import Database
from starter.embedded import Addresses
from tests.parts import SimulatorAdmin, reset_to_start, running_workers, until
from tests.workflows.modes import BOTH_MODES, cancel, durable_only, inline_client

pytestmark = BOTH_MODES

USER = "ann"
QUESTION = "What does the export to CSV contain?"
KEY = "mine"
VERDICT = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}
TALK = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}: about the invoice"} for turn in range(31)]
Query = Callable[[str], Awaitable[list[dict[str, Any]]]]
Learns = Callable[[], Awaitable[None]]


@pytest.fixture
def query(database: Database) -> Query:
    async def run(sql: str) -> list[dict[str, Any]]:
        async with database.transaction() as tx:
            return [dict(row) for row in (await tx.execute(text(sql))).mappings()]

    return run


@pytest.fixture
def learns(caplog: pytest.LogCaptureFixture) -> Learns:
    """Waits until the worker knows of the cancellation, with its next heartbeat."""
    caplog.set_level("INFO", logger="activities.paid_call")

    async def signalled() -> bool:
        return "cancelled during a paid call" in caplog.text

    return lambda: until(signalled)


def asking(client: Client, **terms: Any) -> asyncio.Task[GenerateResult]:
    return asyncio.create_task(client.generate(QUESTION, user_id=USER, key=KEY, **terms))


def workflow(client: Client) -> WorkflowHandle[Any, GenerateResult]:
    return client.temporal.get_workflow_handle(f"generate/{client.workspace_id}/{KEY}", result_type=GenerateResult)


async def states(query: Query) -> list[str]:
    return [row["state"] for row in await query("SELECT state FROM attempts ORDER BY started_at")]


async def charges(client: Client) -> tuple[int, int]:
    energy = await client.energy(USER)
    return energy.charged, energy.reserved


async def outcomes(query: Query) -> list[str]:
    return [row["outcome"] for row in await query("SELECT outcome FROM generations")]


@asynccontextmanager
async def day_locked(database: Database, workspace_id: str) -> AsyncIterator[None]:
    """Block claims and settlements in the workspace during the block. Only a bulk transaction may be idle so long."""
    async with database.transaction(bulk=True) as tx:
        # If the day has no row yet, a transaction inserts it, and waits for this one too.
        await tx.execute(
            text(
                "INSERT INTO budgets (workspace_id, scope, reserved_usd, confirmed_usd, uncertain_usd)"
                " VALUES (:ours, 'day:' || (now() AT TIME ZONE 'UTC')::date, 0, 0, 0)"
                " ON CONFLICT (workspace_id, scope) DO UPDATE SET reserved_usd = budgets.reserved_usd"
            ),
            {"ours": workspace_id},
        )
        yield


async def waiting(query: Query) -> bool:
    """Whether a transaction waits for a lock in this test's database."""
    return bool(
        await query("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    )


@pytest.mark.usefixtures("worker")
async def test_a_reply_is_paid_once_also_if_its_judgement_fails(
    client: Client, query: Query, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    """The caller's schema judges a reply after it is stored; the next try judges the stored one."""
    judge, judged = paid_steps.read_answer, []

    def fails_once(reply: Reply, prompt: Prompt) -> tuple[Any, str]:
        judged.append(reply)
        if len(judged) == 1:
            raise OverflowError("a number with 400 digits")
        return judge(reply, prompt)

    monkeypatch.setattr(paid_steps, "read_answer", fails_once)
    result = await asking(client, response_schema=VERDICT)
    assert (result.success, await states(query), await outcomes(query)) == (True, ["settled"], ["completed"])
    assert len(await simulator.billed()) == 1
    assert judged[0] == judged[1]
    assert (await charges(client))[1] == 0


@pytest.mark.usefixtures("worker")
async def test_a_paid_answer_that_no_worker_recorded_is_given_at_the_end(
    client: Client, query: Query, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    async def dies(*_: object) -> None:
        raise InvalidInput("the worker is gone")

    monkeypatch.setattr(paid_steps, "_record_answer", dies)
    result = await asking(client)
    assert (result.success, await states(query), await outcomes(query)) == (True, ["settled"], ["completed"])
    assert len(await simulator.billed()) == 1
    assert result.meta.cost_usd > 0


@pytest.mark.usefixtures("worker")
class TestTheSameKey:
    async def test_two_clients_with_one_key_start_one_generation(
        self, client: Client, stack: Addresses, settings: Settings, query: Query, simulator: SimulatorAdmin, mode: str
    ) -> None:
        temporal = await TemporalClient.connect(stack.temporal_address, data_converter=pydantic_data_converter)
        database = Database(settings.database_url)
        backend = Backend(temporal, database, settings)
        async with inline_client(backend, client.workspace_id) as elsewhere:
            other = elsewhere if mode == "inline" else backend.client(client.workspace_id)
            results = await asyncio.gather(*(asking(one, cache="off") for one in [client, other] * 10))
        assert len({result.model_dump_json() for result in results}) == 1
        assert len(await simulator.requests()) == 1
        assert await outcomes(query) == ["completed"]
        assert await charges(client) == (1, 0)
        assert await client.audit() == []
        await database.close()


@pytest.mark.usefixtures("worker")
class TestCancelled:
    async def test_during_the_claim_nothing_is_paid(
        self, client: Client, database: Database, query: Query, simulator: SimulatorAdmin
    ) -> None:
        async with day_locked(database, client.workspace_id):
            asked = asking(client)
            await until(lambda: waiting(query))
            await cancel(client, KEY)
            with pytest.raises(JobFailed, match="cancelled"):
                await asked
            # The worker learns of it with its next heartbeat.
            await until(lambda: no_session_is(waiting, query))
        assert await simulator.requests() == []
        assert await states(query) == []
        assert await outcomes(query) == ["cancelled"]
        assert await charges(client) == (0, 0)
        assert await client.audit() == []

    async def test_during_the_call_the_reply_is_settled_and_charged_once(
        self, client: Client, query: Query, simulator: SimulatorAdmin, learns: Learns
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        asked = asking(client)
        await simulator.requests(at_least=1, billed="true")
        await cancel(client, KEY)
        with pytest.raises(JobFailed, match="cancelled"):
            await asked
        await learns()
        await simulator.gate(closed=False, provider="openai")
        await until(lambda: paid_and_recorded(query))
        assert await charges(client) == (1, 0)
        assert await client.audit() == []
        # The reply that was paid for answers the next request.
        assert (await client.generate(QUESTION, user_id=USER)).meta.cached == "exact"

    async def test_during_the_settlement_the_reply_is_settled_and_charged_once(
        self, client: Client, database: Database, query: Query, simulator: SimulatorAdmin, learns: Learns
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        asked = asking(client)
        await simulator.requests(at_least=1, billed="true")
        async with day_locked(database, client.workspace_id):
            await simulator.gate(closed=False, provider="openai")
            await until(lambda: waiting(query))
            await cancel(client, KEY)
            await learns()
        with pytest.raises(JobFailed, match="cancelled"):
            await asked
        await until(lambda: settled(query))
        assert len(await simulator.requests()) == 1
        assert await charges(client) == (1, 0)
        assert await client.audit() == []


@pytest.mark.usefixtures("worker")
class TestCancelledBeforeItIsSettled:
    """The row is written when the workflow ends. The cost of the running attempt is known later."""

    @pytest.mark.parametrize("schema", [None, VERDICT], ids=["an answer", "no answer"])
    async def test_the_row_has_the_final_cost(
        self, client: Client, query: Query, simulator: SimulatorAdmin, learns: Learns, schema: dict[str, Any] | None
    ) -> None:
        if schema:
            await simulator.fault("malformed", provider="openai")
        await self.cancelled(client, simulator, learns, QUESTION, response_schema=schema)
        outcome = "cancelled" if schema else "completed"
        await until(lambda: paid_and_recorded(query, outcome))
        [paid] = await query("SELECT cost_usd, tokens_total FROM ai_usage_logs")
        [row] = await query("SELECT outcome, cost_usd, tokens_total FROM generations")
        assert paid["cost_usd"] > 0
        tokens = 0 if schema else paid["tokens_total"]
        assert row == {"outcome": outcome, **paid, "tokens_total": tokens}
        assert await client.audit() == []

    async def test_the_row_has_the_final_cost_of_a_prompt_that_was_being_condensed(
        self, client: Client, query: Query, simulator: SimulatorAdmin, learns: Learns
    ) -> None:
        await simulator.fault("context_too_long", provider="openai")
        await self.cancelled(client, simulator, learns, TALK)

        async def condensed() -> bool:
            return await states(query) == ["failed", "settled"]

        await until(condensed)
        [paid] = await query("SELECT cost_usd FROM ai_usage_logs")
        assert await query("SELECT outcome, cost_usd FROM generations") == [{"outcome": "cancelled", **paid}]

    async def cancelled(
        self, client: Client, simulator: SimulatorAdmin, learns: Learns, messages: Messages, **terms: Any
    ) -> None:
        """Cancel the workflow after the provider billed the reply, which arrives after the workflow has ended."""
        await simulator.gate(closed=True, provider="openai")
        asked = asyncio.create_task(client.generate(messages, user_id=USER, key=KEY, **terms))
        await simulator.requests(at_least=1, billed="true")
        await cancel(client, KEY)
        with pytest.raises(JobFailed, match="cancelled"):
            await asked
        await learns()
        await simulator.gate(closed=False, provider="openai")


async def no_session_is(condition: Callable[[Query], Awaitable[bool]], query: Query) -> bool:
    return not await condition(query)


async def paid_and_recorded(query: Query, outcome: str = "completed") -> bool:
    """Whether the reply is settled and the generation's end is recorded, which follows."""
    return await settled(query) and await outcomes(query) == [outcome]


async def settled(query: Query) -> bool:
    return await states(query) == ["settled"]


@durable_only("resets a workflow")
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("cache", ["off", "exact"])
async def test_a_reset_to_the_beginning_pays_nothing_again(
    client: Client, query: Query, simulator: SimulatorAdmin, cache: str
) -> None:
    first = await asking(client, cache=cache)
    again = await (await reset_to_start(client.temporal, workflow(client).id, GenerateResult)).result()
    assert (again.content, again.meta.request_id) == (first.content, first.meta.request_id)
    assert len(await simulator.requests()) == 1
    assert await outcomes(query) == ["completed"]
    assert await charges(client) == (1, 0)
    assert await client.audit() == []


async def prepared(client: Client) -> bool:
    """Whether `prepare` has decided."""
    try:
        history = await workflow(client).fetch_history()
    except Exception:  # noqa: BLE001 - it was not started yet
        return False
    return any(event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED for event in history.events)


@durable_only("an inline generation does not change its process")
async def test_a_worker_with_another_policy_serves_on_the_terms_that_were_decided(
    client: Client, temporal: TemporalClient, database: Database, settings: Settings, query: Query, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    expensive = DEFAULT_POLICY.read_text().replace(
        "energy = 1\n", 'energy = 9\ncache = "off"\ntemplate = "casual"\n', 1
    )
    policy.write_text(expensive.replace('provider = "openai"\npriority = 3', 'provider = "openai"\npriority = 9'))
    async with running_workers(temporal, database, settings, roles=("workflows",)):
        asked = asking(client)
        await until(lambda: prepared(client))
    async with running_workers(temporal, database, settings.model_copy(update={"policy_file": policy})):
        result = await asked
        later = await client.generate("Another question", user_id=USER)
    assert (result.meta.energy_charged, result.meta.template, result.meta.model) == (1, "", "gpt-4o-mini")
    assert (later.meta.energy_charged, later.meta.template) == (9, "casual@1")
    assert len(await query("SELECT key FROM llm_cache")) == 1
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_a_configuration_that_changes_meanwhile_does_not_change_the_request(
    client: Client, query: Query, simulator: SimulatorAdmin
) -> None:
    await client.configuration.set("company", {"industry": "shipping"})
    await simulator.gate(closed=True, provider="openai")
    await simulator.fault("cut", provider="openai")
    asked = asking(client)
    await simulator.requests(at_least=1, billed="true")
    before = await query("SELECT fingerprint FROM paid_requests")
    await client.configuration.set("company", {"industry": "farming"})
    await simulator.gate(closed=False, provider="openai")
    result = await asked
    assert result.meta.attempts == 2
    assert await query("SELECT fingerprint FROM paid_requests") == before
    first, second = await simulator.requests()
    assert first["input_tokens"] == second["input_tokens"]
    assert await client.audit() == []
