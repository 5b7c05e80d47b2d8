"""One idempotency key is one generation: paid once, however often it is asked, cancelled, reset or run twice."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from parley import Backend, Client
from parley.client.generate import generate_input
from parley.domain.errors import IdempotencyConflict, InvalidInput, JobFailed
from parley.domain.generate.contract import Cached, GenerateInput, GenerateResult, Refused, workflow_id
from parley.domain.queues import WORKFLOWS
from parley.settings import Settings
from parley.storage.database import Database
from tests.parts import SimulatorAdmin, reset_to_start, until
from tests.workflows.modes import BOTH_MODES, InlineClient, cancel, durable_only

pytestmark = [pytest.mark.usefixtures("worker"), BOTH_MODES]

USER, KEY = "ann", "invoice/4711"
QUESTION = "What does the export to CSV contain?"
VERDICT = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}
Query = Callable[[str], Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def query(database: Database) -> Query:
    async def run(sql: str) -> list[dict[str, Any]]:
        async with database.transaction() as tx:
            found = await tx.execute(text(sql))
            return [dict(row) for row in found.mappings()] if found.returns_rows else []

    return run


def asking(client: Client, messages: Any = QUESTION, **terms: Any) -> asyncio.Task[GenerateResult]:
    given = {"user_id": USER, "key": KEY, "cache": "off", **terms}
    return asyncio.create_task(client.generate(messages, **given))


def handle(client: Client) -> WorkflowHandle[Any, GenerateResult]:
    job_id = workflow_id(client.workspace_id, KEY)
    return client.temporal.get_workflow_handle(job_id, result_type=GenerateResult)


async def started_by_id(client: Client, message: str = QUESTION, **terms: Any) -> GenerateResult:
    """Start the workflow as another language would: by its id, under Temporal's default policies."""
    options = {"user_id": USER, "cache": "off", **terms}
    given: GenerateInput = generate_input(client.workspace_id, message, **options)
    return await client.temporal.execute_workflow(
        "Generate", given, id=workflow_id(client.workspace_id, KEY), task_queue=WORKFLOWS, result_type=GenerateResult
    )


async def cancelled_in_mid_call(client: Client, simulator: SimulatorAdmin, **terms: Any) -> None:
    await simulator.gate(closed=True, provider="openai")
    asked = asking(client, **terms)
    await simulator.requests(at_least=1, billed="true")
    await cancel(client, KEY)
    with pytest.raises(JobFailed, match="cancelled"):
        await asked


async def states(query: Query) -> list[str]:
    return sorted(row["state"] for row in await query("SELECT state FROM attempts"))


async def charged(client: Client) -> tuple[int, int]:
    energy = await client.energy(USER)
    return energy.charged, energy.reserved


class TestAskedAgain:
    async def test_after_a_cancellation_in_mid_call_the_call_answers(
        self, client: Client, simulator: SimulatorAdmin, query: Query
    ) -> None:
        await cancelled_in_mid_call(client, simulator)
        again = asking(client)
        await until(lambda: is_running(client))
        await simulator.gate(closed=False, provider="openai")
        result = await again
        assert result.content
        assert (result.meta.energy_charged, result.meta.attempts) == (1, 1)
        assert len(await simulator.requests()) == 1
        assert await states(query) == ["settled"]
        assert await charged(client) == (1, 0)
        assert await client.audit() == []

    async def test_a_frozen_worker_that_thaws_later_charges_nothing(
        self, client: Client, simulator: SimulatorAdmin, query: Query
    ) -> None:
        await cancelled_in_mid_call(client, simulator)
        [first] = await query("SELECT id FROM attempts")
        again = asking(client)

        async def is_taken_over() -> bool:
            # The attempt renews its lease, so it may do so between the change and the next claim.
            await query(
                "UPDATE paid_requests SET lease_until = now() - interval '1 second' "
                f"WHERE owner_attempt_id = '{first['id']}'"
            )
            return len(await simulator.requests()) == 2

        await until(is_taken_over)
        await simulator.gate(closed=False, provider="openai")
        result = await again

        async def both_ended() -> bool:
            return await states(query) == ["duplicate", "settled"]

        await until(both_ended)
        assert result.success
        assert await charged(client) == (1, 0)
        [row] = await query("SELECT outcome, cost_usd FROM generations")
        [spent] = await query("SELECT sum(cost_usd) AS cost_usd FROM attempts")
        assert row == {"outcome": "completed", **spent}
        assert await client.audit() == []

    async def test_by_the_workflows_id_after_its_completion_the_first_answer_is_returned(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        first, again = await asking(client), await started_by_id(client)
        assert (again.content, again.meta.request_id) == (first.content, first.meta.request_id)
        assert (again.meta.cost_usd, again.meta.model) == (first.meta.cost_usd, first.meta.model)
        assert len(await simulator.requests()) == 1
        assert await charged(client) == (1, 0)
        assert await client.audit() == []

    @pytest.mark.parametrize(
        "not_recorded",
        [
            "DELETE FROM generations",
            "UPDATE generations SET outcome = 'cancelled', attempt_id = NULL",
            "UPDATE generations SET cached = 'stale'",
        ],
        ids=["no row", "a cancelled run", "an expired answer"],
    )
    async def test_a_reply_that_was_paid_for_and_not_judged_is_the_answer(
        self, client: Client, simulator: SimulatorAdmin, query: Query, not_recorded: str
    ) -> None:
        """The worker stopped after it stored the reply."""
        first = await asking(client, response_schema=VERDICT, cache="exact")
        await query(not_recorded)
        await query("DELETE FROM llm_cache")
        again = await started_by_id(client, response_schema=VERDICT, cache="exact")
        assert (again.parsed, again.meta.cached) == (first.parsed, Cached.NO)
        assert (again.meta.cost_usd, again.meta.attempts) == (first.meta.cost_usd, 1)
        assert len(await simulator.requests()) == 1
        assert await query("SELECT outcome, cached FROM generations") == [{"outcome": "completed", "cached": ""}]
        [cached] = await query("SELECT attempt_id FROM llm_cache")
        assert await query("SELECT id AS attempt_id FROM attempts") == [cached]
        assert await charged(client) == (1, 0)
        assert await client.audit() == []

    async def test_after_replies_off_the_schema_new_tries_cost_the_user_nothing(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("malformed", provider="openai", times=3)
        with pytest.raises(JobFailed, match="schema"):
            await asking(client, response_schema=VERDICT)
        result = await asking(client, response_schema=VERDICT)
        assert result.success
        assert result.meta.attempts == 4
        assert await charged(client) == (1, 0)
        assert await client.audit() == []

    async def test_another_request_under_the_key_is_a_conflict_and_changes_nothing(
        self, client: Client, query: Query
    ) -> None:
        await asking(client)
        before = await query("SELECT * FROM generations")
        with pytest.raises(WorkflowFailureError) as caught:
            await started_by_id(client, "Something else")
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == IdempotencyConflict.__name__
        assert await query("SELECT * FROM generations") == before
        assert (await started_by_id(client)).success
        assert await charged(client) == (1, 0)


class TestWithOneEnergy:
    """The user has the energy for one answer."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"starting_energy": 1})

    async def test_what_a_call_in_flight_has_reserved_pays_for_its_answer(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await cancelled_in_mid_call(client, simulator)
        again = asking(client)
        await until(lambda: is_running(client))
        await simulator.gate(closed=False, provider="openai")
        assert (await again).success
        assert await charged(client) == (1, 0)

    async def test_after_a_refusal_all_callers_share_one_payment(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await client.generate("Something else", user_id=USER)
        refused = await asking(client)
        assert refused.refusal is not None
        assert refused.refusal.code is Refused.INSUFFICIENT_ENERGY
        await client.grant_energy(USER, 10, key="more")
        results = [*await asyncio.gather(*(asking(client) for _ in range(5))), await started_by_id(client)]
        assert {result.content for result in results} == {results[0].content}
        assert len(await simulator.requests()) == 2
        assert await charged(client) == (2, 0)
        assert await client.audit() == []


@durable_only("resets a workflow")
class TestReset:
    async def test_a_generation_that_failed_and_is_answered_after_a_reset_is_completed(
        self, client: Client, simulator: SimulatorAdmin, query: Query
    ) -> None:
        for provider in ("openai", "anthropic"):
            await simulator.fault("auth", provider=provider, times=None)
        long = [{"role": "user", "content": "Repeat every word of this. " + "word " * 600}]
        with pytest.raises(JobFailed):
            await asking(client, long, max_tokens=5000)
        assert await query("SELECT outcome FROM generations") == [{"outcome": "failed"}]
        await simulator.post("reset")
        await (await reset_to_start(client.temporal, handle(client).id, GenerateResult)).result()
        [row] = await query("SELECT outcome, reason, cost_usd, tokens_total FROM generations")
        assert (row["outcome"], row["reason"]) == ("completed", "")
        assert row["cost_usd"] > 0
        assert row["tokens_total"] > 0
        assert (await asking(client, long, max_tokens=5000)).content
        assert await client.audit() == []


class TestStale:
    async def test_an_expired_answer_reports_what_was_paid_before_it(
        self, client: Client, simulator: SimulatorAdmin, query: Query
    ) -> None:
        await client.generate(QUESTION, user_id=USER)
        await query("UPDATE llm_cache SET expires_at = now() - interval '1 hour'")
        await simulator.fault("aborted", provider="openai", times=None)
        await simulator.fault("aborted", provider="anthropic", times=None)
        stale = await client.generate(QUESTION, user_id=USER)
        assert stale.meta.cached is Cached.STALE
        [paid] = await query("SELECT sum(cost_usd) AS usd, count(*) AS n FROM attempts WHERE state = 'failed'")
        assert paid["usd"] > Decimal(0)
        assert (stale.meta.cost_usd, stale.meta.attempts) == (paid["usd"], paid["n"])
        [row] = await query("SELECT cost_usd FROM generations WHERE cached = 'stale'")
        assert row["cost_usd"] == paid["usd"]
        assert await client.audit() == []


@pytest.mark.parametrize("name", ["a/b", "", " \t", "x" * 201])
async def test_a_workspace_id_has_no_slash(backend: Backend, name: str) -> None:
    """Workspace `a` with key `b/k` would be workspace `a/b` with key `k`."""
    with pytest.raises(InvalidInput, match="workspace_id"):
        backend.client(name)
    with pytest.raises(InvalidInput, match="workspace_id"):
        generate_input(name, QUESTION, user_id=USER)


async def is_running(client: Client) -> bool:
    if isinstance(client, InlineClient):
        return True  # it runs as soon as it is asked for
    found = await handle(client).describe()
    return found.status is not None and found.status.name == "RUNNING"
