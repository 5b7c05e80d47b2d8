"""Long conversations: each part is condensed once, and later turns use the stored summary."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.testing import ActivityEnvironment

from activities.parts import Parts
from parley import Client
from parley.client.generate import generate_input
from parley.domain.generate.condensing import KEEP, prefix_hashes
from parley.domain.generate.contract import CondenseOutcome, CondenseStep, Job, Refused, Serving, SummaryReference
from parley.domain.housekeeping import PURGE, PurgeInput
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.settings import DEFAULT_POLICY, Settings
from parley.storage import generations, summaries
from parley.storage.database import Database
from parley.storage.tables import Attempt, ConversationSummary, UsageLog
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import LedgerFixture
from tests.workflows.modes import BOTH_MODES, durable_only, in_workspace

pytestmark = [pytest.mark.usefixtures("worker"), BOTH_MODES]

USER = "ann"
LIMITED, TIGHT, LIMIT = "limited", "tight", 1200
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}: about the invoice ".ljust(400, ".")}
    for turn in range(201)
]
# A number of messages above the limit, with enough to condense before the last ten.
LONG = 21
# A number of messages for which a summary is looked up although the action has no limit.
VERY_LONG = 101


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "policy.toml"
    terms = f'cache = "off"\ncondense_above_tokens = {LIMIT}\n'
    actions = f"[action.{LIMITED}]\n{terms}\n[action.{TIGHT}]\nmax_cost_usd = 0.0031\n{terms}"
    path.write_text(f"{DEFAULT_POLICY.read_text()}\n{actions}")
    return settings.model_copy(update={"policy_file": path})


async def ask(client: Client, turns: int, talk: list[dict[str, str]] = TALK, **terms: Any) -> Any:
    result = await client.generate([SYSTEM, *talk[:turns]], user_id=USER, **{"action": LIMITED, **terms})
    assert result.success
    return result.meta


async def condensings(client: Client) -> list[UsageLog]:
    """The usage rows of summaries, in order of time."""
    rows = await LedgerFixture(client.database).all(UsageLog, order="created_at", workspace_id=client.workspace_id)
    return [row for row in rows if "/condense" in row.request_id]


async def covered(client: Client) -> list[int]:
    """The number of messages of each stored summary."""
    rows = await LedgerFixture(client.database).all(
        ConversationSummary, order="messages", workspace_id=client.workspace_id
    )
    return [row.messages for row in rows]


class TestLimit:
    async def test_the_next_turn_uses_the_stored_summary_and_pays_no_other(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        first = await ask(client, LONG)
        again = await ask(client, LONG + 2)
        assert first.condensed and again.condensed
        assert (first.attempts, again.attempts) == (2, 1)
        assert first.usage.input_tokens < again.usage.input_tokens < LIMIT + 300 < LONG * 100
        assert await covered(client) == [LONG - KEEP]
        assert len(await simulator.billed()) == 3
        assert await client.audit() == []

    async def test_each_message_is_summarized_about_once(self, client: Client) -> None:
        last, answering, whole = 61, 0, 0
        for turns in range(1, last + 1, 2):
            meta = await ask(client, turns)
            answering, whole = answering + meta.usage.input_tokens, whole + turns * 100
        paid = await condensings(client)
        instructions = 400  # with the summary so far
        assert 5 < len(paid) < 15
        assert sum(row.tokens_prompt for row in paid) < last * 100 + len(paid) * instructions
        assert answering + sum(row.tokens_total for row in paid) < 0.6 * whole

    async def test_the_upper_bound_is_that_of_the_condensed_prompt(self, client: Client) -> None:
        turn = [SYSTEM, *TALK[: LONG + 2]]
        refused = await client.generate(turn, user_id=USER, action=TIGHT)
        assert refused.refusal and refused.refusal.code is Refused.BUDGET_EXHAUSTED
        await ask(client, LONG)
        assert (await ask(client, LONG + 2, action=TIGHT)).condensed

    async def test_a_different_conversation_has_its_own_summary(self, client: Client) -> None:
        await ask(client, LONG)
        await ask(client, LONG, [{"role": "user", "content": "something else"}, *TALK[1:]])
        assert len(await condensings(client)) == 2

    async def test_the_summary_does_not_depend_on_system_prompt_or_user(self, client: Client) -> None:
        await ask(client, LONG)
        meta = await client.generate(
            [{"role": "system", "content": "Be verbose."}, *TALK[:LONG]], user_id="bob", action=LIMITED
        )
        assert meta.meta.condensed
        assert len(await condensings(client)) == 1

    async def test_another_workspace_does_not_use_the_summary(self, client: Client) -> None:
        await ask(client, LONG)
        other = in_workspace(client, f"{client.workspace_id}-other")
        await ask(other, LONG)
        assert len(await condensings(other)) == 1

    async def test_after_its_summary_is_purged_a_conversation_is_condensed_again(self, client: Client) -> None:
        await ask(client, LONG)
        for days, left in ((29, [LONG - KEEP]), (31, [])):
            await client.temporal.execute_workflow(
                PURGE,
                PurgeInput(at=datetime.now(UTC) + timedelta(days=days)),
                id=f"purge-{uuid4().hex}",
                task_queue=WORKFLOWS,
            )
            assert await covered(client) == left
        await ask(client, LONG)
        assert len(await condensings(client)) == 2

    async def test_if_condensing_fails_the_stored_summary_is_used(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await ask(client, LONG)
        await simulator.fault("quota", provider="openai")
        meta = await ask(client, LONG + 10)
        assert meta.condensed and meta.usage.input_tokens < (LONG + 10) * 100 - 500
        assert await covered(client) == [LONG - KEEP]
        tried = await LedgerFixture(client.database).all(Attempt, workspace_id=client.workspace_id)
        assert meta.attempts == sum(one.request_id.startswith(meta.request_id) for one in tried) > 1

    @durable_only("measures the history")
    async def test_histories_stay_small(self, client: Client) -> None:
        for turns in (LONG, LONG + 2, LONG + 12):
            await ask(client, turns, key=str(turns))
            handle = client.temporal.get_workflow_handle(f"generate/{client.workspace_id}/{turns}")
            history = await handle.fetch_history()
            assert max(event.ByteSize() for event in history.events) < 4000

    async def test_the_cache_key_is_that_of_the_whole_conversation(self, client: Client) -> None:
        for cached in ("", "exact"):
            assert (await ask(client, LONG, cache="exact")).cached == cached
        assert (await ask(client, LONG, [{"role": "user", "content": "else"}, *TALK[1:]], cache="exact")).cached == ""


class TestTooLong:
    async def test_a_prompt_with_a_stored_summary_that_is_too_long_is_condensed_again(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await ask(client, LONG)
        await simulator.fault("context_too_long", provider="openai")
        meta = await ask(client, LONG + 2)
        assert (meta.condensed, meta.attempts) == (True, 3)
        assert await covered(client) == [LONG - KEEP, LONG - KEEP + 2]
        first, second = await condensings(client)
        assert second.tokens_prompt < first.tokens_prompt - 500
        assert await client.audit() == []

    async def test_without_new_messages_it_is_refused_without_another_call(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await ask(client, LONG)
        await simulator.fault("context_too_long", provider="openai", times=None)
        result = await client.generate([SYSTEM, *TALK[:LONG]], user_id=USER, action=LIMITED)
        assert result.refusal and result.refusal.code is Refused.CONTEXT_TOO_LONG
        assert len(await condensings(client)) == 1
        assert len(await simulator.requests()) == 3

    @durable_only("reads the steps in the history")
    async def test_a_prompt_is_condensed_once(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("context_too_long", provider="openai", after=1, times=None)
        result = await client.generate([SYSTEM, *TALK[:LONG]], user_id=USER, action=LIMITED, key="mine")
        assert result.refusal and result.refusal.code is Refused.CONTEXT_TOO_LONG
        history = await client.temporal.get_workflow_handle(f"generate/{client.workspace_id}/mine").fetch_history()
        steps = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
        assert [step for step in steps if step] == ["generate.condense", "generate.ask"]

    async def test_without_a_limit_only_messages_since_the_summary_are_condensed(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        for turns in (VERY_LONG, VERY_LONG + 2):
            await simulator.fault("context_too_long", provider="openai")
            assert (await ask(client, turns, action="ai_message")).condensed
        first, second = await condensings(client)
        assert first.tokens_prompt > (VERY_LONG - KEEP) * 90
        assert second.tokens_prompt < 1000

    async def test_without_a_limit_a_repeated_turn_uses_the_stored_summary(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        for _ in range(2):
            await simulator.fault("context_too_long", provider="openai")
            assert (await ask(client, VERY_LONG, action="ai_message", cache="off")).condensed
        assert len(await condensings(client)) == 1

    async def test_without_a_limit_a_prompt_that_fits_is_sent_whole(self, client: Client) -> None:
        assert not (await ask(client, VERY_LONG, action="ai_message")).condensed
        assert await condensings(client) == []


@durable_only("runs an activity")
async def test_a_retried_step_sends_the_same_request_also_after_a_new_summary(
    client: Client, database: Database, settings: Settings, simulator: SimulatorAdmin
) -> None:
    """Another turn of the conversation may be condensed between two attempts: the step names its summary."""
    await ask(client, LONG)
    (row,) = await LedgerFixture(database).all(ConversationSummary)
    asked = generate_input(client.workspace_id, [SYSTEM, *TALK[: LONG + 12]], user_id=USER)
    async with database.transaction() as tx:
        prompt = await generations.save_prompt(tx, client.workspace_id, asked.prompt)
    job = Job(
        input=asked, job_key="job", workflow_id="workflow", fingerprint="asked", started_at=datetime.now(UTC)
    ).with_prompt(prompt)
    mini = Candidate(provider=Provider.OPENAI, model="gpt-4o-mini", simulated=True, reason="cheap")
    summary = SummaryReference(attempt_id=row.attempt_id, messages=row.messages)
    step = CondenseStep(job=job, serving=Serving(), candidate=mini, summary=summary)
    parts = Parts(database, settings)
    condense = parts.generate_paid_steps().condense
    first: CondenseOutcome = await ActivityEnvironment().run(condense, step)
    hashes = prefix_hashes(asked.prompt.messages)[: LONG + 1 - KEEP]
    async with database.transaction() as tx:
        await summaries.store(tx, client.workspace_id, hashes[-1], len(hashes), row.attempt_id)
    assert await ActivityEnvironment().run(condense, step) == first
    assert len(await condensings(client)) == 2
    await parts.close()
