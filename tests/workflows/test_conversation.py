"""Conversations on real parts: one answer, one charge and one place for each turn, whatever breaks between."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from parley import (
    Backend,
    Cached,
    CachePolicy,
    Client,
    ConversationBusy,
    ConversationClosed,
    ConversationHandle,
    Ended,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    Refused,
    TextDelta,
    TurnResult,
)
from parley.domain.conversation import contract
from parley.domain.conversation.context import KEPT_EXCHANGES, MOST_EXCHANGES
from parley.domain.conversation.contract import (
    STATE,
    TURNS_PER_EXTRACTION,
    ConversationState,
    Say,
    turn_job_id,
    workflow_id,
)
from parley.domain.housekeeping import PURGE, PurgeInput, PurgeReport
from parley.domain.queues import WORKFLOWS
from parley.settings import DEFAULT_POLICY, Settings
from parley.storage.tables import Attempt, ConversationTurn, Generation, StoredConversation, UsageLog
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import LedgerFixture
from workflows import conversation as workflow

pytestmark = pytest.mark.usefixtures("worker")

USER = "ann"
# Short contexts, and a conversation whose answers are graded.
TIGHT, GRADED = "tight", "graded"
POLICY = f"""
[action.{TIGHT}]
cache = "off"
condense_above_tokens = 2000
[action.{GRADED}]
quality_sample = 1
"""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "policy.toml"
    path.write_text(f"{DEFAULT_POLICY.read_text()}\n{POLICY}")
    return settings.model_copy(update={"policy_file": path, "starting_energy": 10_000})


@pytest.fixture
async def client(client: Client) -> AsyncIterator[Client]:
    """Whatever a test does, the ledger agrees with itself afterwards."""
    yield client
    assert await client.audit() == []


@pytest.fixture
def talk(client: Client) -> ConversationHandle:
    return client.conversation("talk", user_id=USER)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workflow continues as new after every other turn."""
    monkeypatch.setattr(workflow, "TURNS_PER_RUN", 2)


async def rows(client: Client, kind: type[Any]) -> list[Any]:
    return await LedgerFixture(client.database).all(kind, workspace_id=client.workspace_id)


async def runs(client: Client) -> int:
    """How many runs the conversation's workflow had."""
    query = f"WorkflowId = '{workflow_id(client.workspace_id, 'talk')}'"
    return len([found async for found in client.temporal.list_workflows(query)])


async def waiting(client: Client, count: int) -> None:
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))

    async def has_come() -> bool:
        try:
            return (await handle.query(STATE, result_type=ConversationState)).waiting == count
        except RPCError as error:  # a turn is stored before its workflow begins
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False

    await until(has_come)


async def summarized(client: Client) -> StoredConversation:
    async def found() -> StoredConversation | None:
        (row,) = await rows(client, StoredConversation)
        return row if row.summary else None

    return await until(found)


class TestATurn:
    async def test_is_answered_and_is_a_generation(self, client: Client, talk: ConversationHandle) -> None:
        result = await talk.say("How do I export to CSV?", turn_id="one")
        assert (result.success, result.number, result.turn_id, result.reason) == (True, 1, "one", "")
        assert result.content
        (generation,) = await rows(client, Generation)
        assert (generation.request_id, generation.cost_usd) == (result.meta.request_id, result.meta.cost_usd)
        assert (await client.energy(USER)).charged == 1
        report = await client.generation(turn_job_id(client.workspace_id, "talk", "one")).report()
        assert report.answer == result.content

    async def test_is_answered_with_what_was_said_before(self, talk: ConversationHandle) -> None:
        first = await talk.say("My dog is called Rex.")
        await talk.say("What is my dog called?")
        assert [message.text for message in await talk.context()] == [
            "My dog is called Rex.",
            first.content,
            "What is my dog called?",
        ]

    async def test_may_be_rated(self, client: Client, talk: ConversationHandle) -> None:
        result = await talk.say("How?", action=GRADED)
        await client.feedback(result.meta.request_id, "good")
        await until(lambda: _graded(client))

    async def test_with_a_schema_has_a_value(self, talk: ConversationHandle) -> None:
        schema = {
            "type": "object",
            "properties": {"sure": {"type": "boolean"}},
            "required": ["sure"],
            "additionalProperties": False,
        }
        assert isinstance((await talk.say("Sure?", response_schema=schema)).parsed["sure"], bool)

    async def test_with_a_template_has_it_before_the_context(
        self, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        result = await talk.say("How?", template="concise")
        assert result.meta.template == "concise@1"

    async def test_is_read_while_it_is_made(self, talk: ConversationHandle, simulator: SimulatorAdmin) -> None:
        async with talk.stream("How does the export work, and who may start it?", cache=CachePolicy.OFF) as stream:
            deltas = [delta async for delta in stream]
            result = await stream.result()
        assert len(deltas) > 5
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == result.content
        assert [request["stream"] for request in await simulator.billed()] == [True]
        assert (await talk.history())[0].answer == result.content

    async def test_that_was_answered_comes_as_one_delta_when_it_is_sent_again(self, talk: ConversationHandle) -> None:
        first = await talk.say("How?", turn_id="one")
        async with talk.stream("How?", turn_id="one") as stream:
            assert [delta.text async for delta in stream] == [first.content]
            assert await stream.result() == first

    async def test_that_a_model_refuses_as_too_long_is_condensed_and_asked_again(
        self, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        for number in range(7):
            await talk.say(f"text {number}", cache=CachePolicy.OFF)
        await simulator.fault("context_too_long", provider="openai")
        result = await talk.say("and now?", cache=CachePolicy.OFF)
        assert (result.success, result.meta.condensed) == (True, True)

    async def test_whose_readers_leave_is_not_part_of_the_conversation(
        self, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("stall")
        async with talk.stream("How does it work?", cache=CachePolicy.OFF, on_disconnect="cancel") as stream:
            await anext(aiter(stream))

        async def ended() -> bool:
            return (await talk.state()).turns == 1

        await until(ended)
        (turn,) = await talk.history()
        assert turn.outcome is Ended.CANCELLED
        await talk.say("Hello?")
        assert [message.text for message in await talk.context()] == ["Hello?"]

    async def test_with_another_text_under_its_id_is_a_conflict(self, talk: ConversationHandle) -> None:
        await talk.say("How?", turn_id="one")
        with pytest.raises(IdempotencyConflict, match="different text"):
            await talk.say("Why?", turn_id="one")
        with pytest.raises(IdempotencyConflict):
            await talk.say("How?", turn_id="one", max_tokens=5)

    @pytest.mark.parametrize("text", ["", "  \n", "\u200e", "nul \0", "half \ud83d", "x" * (2**20)])
    async def test_that_cannot_be_sent_is_refused_before_anything_is_stored(
        self, client: Client, talk: ConversationHandle, text: str
    ) -> None:
        with pytest.raises(InvalidInput):
            await talk.say(text)
        with pytest.raises(NotFound):
            await talk.state()
        assert await rows(client, ConversationTurn) == []

    async def test_takes_no_tools_and_waits_for_an_hour_at_most(self, talk: ConversationHandle) -> None:
        options: Any = {"tools": [{"name": "weather"}]}
        with pytest.raises(InvalidInput, match="tools"):
            await talk.say("How?", **options)
        with pytest.raises(InvalidInput, match="3600"):
            await talk.say("How?", wait_limit_seconds=3601)

    async def test_that_is_too_long_for_every_model_ends_in_a_sentence_and_costs_nothing(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        result = await talk.say("many words " * 90_000)
        assert (result.success, result.reason) == (False, Refused.CONTEXT_TOO_LONG.value)
        assert result.content == contract.sentence_for(result.reason)
        assert (await talk.say("Hello?")).success
        assert [message.text for message in await talk.context()] == ["Hello?"]
        assert (await client.energy(USER)).charged == 1


async def _graded(client: Client) -> bool:
    (generation,) = await rows(client, Generation)
    return generation.quality is not None


class TestWithoutAnAnswer:
    """A turn never ends in silence."""

    async def test_a_stale_answer_is_marked(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        first = await client.conversation("other", user_id=USER).say("How?")
        await LedgerFixture(client.database).run("UPDATE llm_cache SET expires_at = now() - interval '1 day'")
        await simulator.fault("auth", times=None)
        result = await talk.say("How?")
        assert (result.success, result.content, result.meta.cached) == (True, first.content, Cached.STALE)
        assert [turn.cached for turn in await talk.history()] == [Cached.STALE]

    async def test_a_sentence_says_so_is_free_and_is_not_part_of_the_conversation(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("auth", times=None)
        result = await talk.say("How?", turn_id="one")
        assert (result.success, result.reason) == (False, "ProviderUnavailable")
        assert result.content == contract.UNAVAILABLE
        assert await talk.say("How?", turn_id="one") == result
        await simulator.reset()
        await talk.say("Hello?")
        assert [message.text for message in await talk.context()] == ["Hello?"]
        assert [(turn.outcome, turn.answer is None) for turn in await talk.history()] == [
            (Ended.FAILED, True),
            (Ended.COMPLETED, False),
        ]
        assert (await client.energy(USER)).charged == 1

    async def test_the_sentence_comes_as_the_only_delta_of_a_stream(
        self, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("auth", times=None)
        async with talk.stream("How?") as stream:
            assert [delta.text async for delta in stream] == [contract.UNAVAILABLE]

    async def test_a_provider_after_another_answers(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await client.set_tier(USER, "pro")
        await simulator.fault("auth", provider="anthropic", times=None)
        assert (await talk.say("How?")).meta.provider == "openai"


class TestASenderWhoGivesUp:
    async def test_is_let_go_and_finds_the_answer_later(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        sent = asyncio.create_task(talk.say("How?", turn_id="one"))
        await waiting_for_request(simulator)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        await simulator.gate(closed=False, provider="openai")
        assert (await talk.say("How?", turn_id="one")).success
        assert (await client.energy(USER)).charged == 1


class TestOrder:
    async def test_turns_sent_together_are_answered_one_after_the_other(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        sent = []
        for number in range(4):
            sent.append(asyncio.create_task(talk.say(f"text {number}", turn_id=str(number))))
            await until_stored(client, number + 1)
            await waiting(client, number + 1)
        assert len(await simulator.requests(at_least=1, state="in_flight")) == 1
        await simulator.gate(closed=False, provider="openai")
        results = await asyncio.gather(*sent)
        assert [result.number for result in results] == [1, 2, 3, 4]
        said = [message.text for message in await talk.context() if message.role == "user"]
        assert said == ["text 0", "text 1", "text 2", "text 3"]

    async def test_a_turn_may_be_refused_while_another_is_answered(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        first = asyncio.create_task(talk.say("one"))
        await simulator.requests(at_least=1, state="in_flight")
        with pytest.raises(ConversationBusy):
            await client.conversation("talk", user_id=USER).say("two", when_busy="refuse")
        await simulator.gate(closed=False, provider="openai")
        assert (await first).success

    async def test_more_turns_than_temporal_lets_wait_are_all_answered(self, client: Client) -> None:
        """Half of them come from another process: each process sends as many as the workflow takes, and again."""
        other = Backend(client.temporal, client.database, client.settings).client(client.workspace_id)
        handles = [one.conversation("talk", user_id=USER) for one in (client, other)]
        results = await asyncio.gather(*(handles[number % 2].say(f"text {number}") for number in range(24)))
        assert sorted(result.number for result in results) == list(range(1, 25))
        assert all(result.success for result in results)
        assert (await client.energy(USER)).charged == 24


async def until_stored(client: Client, count: int) -> None:
    async def stored() -> bool:
        return len(await rows(client, ConversationTurn)) == count

    await until(stored)


class TestAgain:
    async def test_a_turn_that_is_sent_again_is_answered_and_charged_once(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        results = await asyncio.gather(*(talk.say("How?", turn_id="one") for _ in range(5)))
        assert {result.content for result in results} == {results[0].content}
        assert await talk.say("How?", turn_id="one") == results[0]
        assert (await client.energy(USER)).charged == 1
        assert len(await rows(client, Attempt)) == 1

    @pytest.mark.usefixtures("short_runs")
    async def test_also_after_the_workflow_continued_as_new(self, client: Client, talk: ConversationHandle) -> None:
        results = [await talk.say(f"text {number}", turn_id=str(number)) for number in range(7)]
        assert await runs(client) >= 3
        again = [await talk.say(f"text {number}", turn_id=str(number)) for number in range(7)]
        assert again == results
        assert [result.number for result in results] == [1, 2, 3, 4, 5, 6, 7]
        assert (await client.energy(USER)).charged == 7

    @pytest.mark.usefixtures("short_runs")
    async def test_two_clients_send_everything_twice_while_the_workflow_continues_as_new(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        other = client.conversation("talk", user_id=USER)

        async def twice(handle: ConversationHandle, name: str) -> tuple[TurnResult, TurnResult]:
            first = asyncio.create_task(handle.say(name, turn_id=name))
            await asyncio.sleep(0.1)
            return await asyncio.gather(first, handle.say(name, turn_id=name))

        pairs = await asyncio.gather(
            *(twice(handle, f"{side}-{number}") for number in range(6) for side, handle in (("a", talk), ("b", other)))
        )
        assert all(first == second for first, second in pairs)
        assert sorted(first.number for first, _ in pairs) == list(range(1, 13))
        assert (await client.energy(USER)).charged == 12
        assert await runs(client) >= 2

    async def test_a_turn_of_a_terminated_workflow_goes_on(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        lost = asyncio.create_task(talk.say("How?", turn_id="one"))
        await simulator.requests(at_least=1, state="in_flight")
        await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk")).terminate()
        await simulator.gate(closed=False, provider="openai")
        result = await lost
        assert (result.success, result.number) == (True, 1)
        assert await talk.say("How?", turn_id="one") == result
        assert (await client.energy(USER)).charged == 1


class TestClosing:
    async def test_a_closed_conversation_takes_no_turn_and_can_be_read(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        first = await talk.say("How?", turn_id="one")
        await talk.close()
        await talk.close()
        with pytest.raises(ConversationClosed):
            await talk.say("And now?")
        assert await talk.say("How?", turn_id="one") == first
        assert (await talk.state()).status == "closed"
        assert len(await talk.history()) == 1
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        assert (await handle.result())["status"] == "closed"

    async def test_a_turn_that_is_stored_as_the_conversation_closes_does_not_wait(
        self, client: Client, talk: ConversationHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await talk.say("How?", turn_id="one")
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        send = ConversationHandle._have_answered

        async def close_before(self: ConversationHandle, say: Say) -> None:
            await self.close()
            await handle.result()
            await send(self, say)

        monkeypatch.setattr(ConversationHandle, "_have_answered", close_before)
        for _ in "first", "again":
            with pytest.raises(ConversationClosed):
                await talk.say("And now?", turn_id="two")
        with pytest.raises(ConversationClosed):
            async with talk.follow("two") as stream:
                await stream.result()
        assert (await talk.state()).waiting == 0
        assert (await handle.result())["status"] == "closed"

    async def test_turns_that_wait_are_answered_first(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        sent = asyncio.create_task(talk.say("one"))
        await waiting_for_request(simulator)
        closing = asyncio.create_task(talk.close())
        await simulator.gate(closed=False, provider="openai")
        assert (await sent).success
        await closing
        assert (await talk.state()).status == "closed"

    async def test_what_does_not_exist_cannot_be_closed(self, talk: ConversationHandle) -> None:
        with pytest.raises(NotFound):
            await talk.close()


async def waiting_for_request(simulator: SimulatorAdmin) -> None:
    await simulator.requests(at_least=1, state="in_flight")


class TestIsolation:
    async def test_the_same_id_in_another_workspace_is_another_conversation(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        await talk.say("My secret is 42.", turn_id="one")
        other = client._backend.client(f"{client.workspace_id}-b").conversation("talk", user_id=USER)
        with pytest.raises(NotFound):
            await other.history()
        await other.say("What is my secret?", turn_id="one")
        assert [message.text for message in await other.context()] == ["What is my secret?"]

    async def test_another_user_neither_reads_nor_speaks(self, client: Client, talk: ConversationHandle) -> None:
        await talk.say("My secret is 42.")
        other = client.conversation("talk", user_id="bob")
        with pytest.raises(InvalidInput, match="another user"):
            await other.say("What is my secret?")
        for read in (other.history, other.context, other.state, other.cost, other.close):
            with pytest.raises(NotFound):
                await read()

    @pytest.mark.parametrize("name", ["", "a/b", "x" * 300])
    def test_an_id_that_is_not_valid_is_refused(self, client: Client, name: str) -> None:
        with pytest.raises(InvalidInput, match="conversation_id"):
            client.conversation(name, user_id=USER)


class TestBetweenTurns:
    async def test_a_long_conversation_is_condensed_after_its_answer(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        for number in range(MOST_EXCHANGES + 1):
            await talk.say(f"text {number}", cache=CachePolicy.OFF)
        row = await summarized(client)
        assert row.summarized_through == MOST_EXCHANGES + 1 - KEPT_EXCHANGES
        await talk.say("and now?", cache=CachePolicy.OFF)
        context = await talk.context()
        assert context[0].text.count("<summary>") == 1
        assert sum(message.role == "assistant" for message in context) == KEPT_EXCHANGES
        cost = await talk.cost()
        assert cost.upkeep_usd > 0
        assert cost.total_usd == (await talk.state()).cost_usd
        assert (await client.energy(USER)).charged == MOST_EXCHANGES + 2

    async def test_a_small_budget_holds(self, client: Client, talk: ConversationHandle) -> None:
        said = "the export to CSV contains the notes of the customer. " * 40
        sizes = []
        for number in range(12):
            await talk.say(f"{number} {said}", action=TIGHT)
            await until(lambda: _is_idle(talk, client))
            sizes.append(sum(len(message.text) for message in await talk.context()) / 4)
        assert max(sizes) < 2000 + 1000
        assert [log.action for log in await rows(client, UsageLog) if "/condense/" in log.request_id]

    async def test_a_summary_that_fails_fails_no_turn_and_is_made_after_the_next(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        for number in range(MOST_EXCHANGES):
            await talk.say(f"text {number}", cache=CachePolicy.OFF)
        before = MOST_EXCHANGES + MOST_EXCHANGES // TURNS_PER_EXTRACTION
        await simulator.requests(at_least=before)
        await simulator.fault("bad_request", provider="openai", after=1)
        assert (await talk.say("one more", cache=CachePolicy.OFF)).success
        assert len(await simulator.requests(at_least=before + 2)) == before + 2
        assert (await talk.say("and one more", cache=CachePolicy.OFF)).success
        assert (await talk.context())[0].text == "text 0"
        assert (await summarized(client)).summarized_through == MOST_EXCHANGES + 2 - KEPT_EXCHANGES

    async def test_turns_that_the_cache_answers_alone_do_not_stop_it(
        self, client: Client, talk: ConversationHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is due between turns needs a provider, and such turns choose none."""
        monkeypatch.setattr(workflow, "TURNS_PER_EXTRACTION", 2)
        other = client.conversation("other", user_id=USER)
        for text in ("How?", "Why?"):
            await other.say(text)
        cached = [(await talk.say(text)).meta.cached for text in ("How?", "Why?")]
        assert cached == [Cached.EXACT, Cached.EXACT]
        assert (await talk.say("When?")).success
        await until(lambda: _has_extracted(client))

    @pytest.mark.usefixtures("short_runs")
    async def test_what_is_closed_after_it_continued_as_new_is_remembered(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        for text in ("I live in Bergen.", "Thanks."):
            await talk.say(text)
        await until(lambda: _has_runs(client, 2))
        await talk.close()
        [memory] = await until(lambda: client.memory.show(USER))
        assert memory.text == "The user lives in Bergen"

    async def test_preferences_are_before_everything(self, client: Client, talk: ConversationHandle) -> None:
        await client.configuration.set("ai_settings", {"tone": "dry"}, user_id=USER)
        await talk.say("How?")
        context = await talk.context()
        assert [message.role for message in context] == ["system", "user"]
        assert '"dry"' in context[0].text


async def _is_idle(talk: ConversationHandle, client: Client) -> bool:
    """Whether nothing is left to do between turns."""
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, talk.id))
    return not (await handle.describe()).raw_description.pending_activities


async def _has_extracted(client: Client) -> bool:
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
    events = (await handle.fetch_history()).events
    begun = {event.activity_task_scheduled_event_attributes.activity_type.name for event in events}
    return "conversation.remember" in begun


async def _has_runs(client: Client, count: int) -> bool:
    return await runs(client) >= count


class TestTheHistory:
    async def test_has_no_text_and_as_many_bytes_for_every_turn(self, client: Client, talk: ConversationHandle) -> None:
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        sizes = []
        for number in range(4):
            text = f"secret number {number} " * (1 if number % 2 else 3000)
            result = await talk.say(text, turn_id=f"t{number}", cache=CachePolicy.OFF)
            assert result.success
            history = await handle.fetch_history()
            sizes.append(sum(event.ByteSize() for event in history.events))
            assert b"secret" not in b"".join(event.SerializeToString() for event in history.events)
            assert result.content.encode()[:30] not in b"".join(event.SerializeToString() for event in history.events)
        steps = [after - before for before, after in pairwise(sizes)]
        assert max(steps) < 1.02 * min(steps)
        assert max(steps) < 6_000

    async def test_has_no_timer_and_no_activity_while_nothing_is_asked(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        await talk.say("How?")
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        found = await handle.describe()
        assert found.status is WorkflowExecutionStatus.RUNNING
        assert not found.raw_description.pending_activities
        kinds = {event.event_type for event in (await handle.fetch_history()).events}
        assert EventType.EVENT_TYPE_TIMER_STARTED not in kinds

    async def test_the_state_agrees_with_the_database(self, client: Client, talk: ConversationHandle) -> None:
        for number in range(3):
            await talk.say(f"text {number}", cache=CachePolicy.OFF)
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        assert await handle.query(STATE, result_type=ConversationState) == await talk.state()


async def test_a_conversation_without_a_turn_for_years_is_purged_with_its_workflow(
    client: Client, talk: ConversationHandle
) -> None:
    await talk.say("How?")
    await client.conversation("new", user_id=USER).say("How?")
    await LedgerFixture(client.database).run(
        "UPDATE conversations SET last_turn_at = now() - interval '4 years' WHERE conversation_id = 'talk'"
    )
    report = await client.temporal.execute_workflow(
        PURGE,
        PurgeInput(at=datetime.now(UTC), batch=1),
        id=f"purge-{uuid4().hex}",
        task_queue=WORKFLOWS,
        result_type=PurgeReport,
    )
    assert report.conversations == 1
    assert [row.conversation_id for row in await rows(client, ConversationTurn)] == ["new"]
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))

    async def ended() -> bool:
        return (await handle.describe()).status is WorkflowExecutionStatus.CANCELED

    await until(ended)
    assert (await talk.say("Again?")).number == 1


async def test_a_turn_waits_for_a_provider_for_an_hour(skipping_client: Client, simulator: SimulatorAdmin) -> None:
    """With time skipping: the waits are durable timers."""
    await simulator.fault("server_error", times=4)
    handle = skipping_client.conversation("talk", user_id=USER)
    begun = datetime.now(UTC)
    assert (await handle.say("How?", wait_limit_seconds=3600, cache=CachePolicy.OFF)).success
    assert datetime.now(UTC) - begun < timedelta(seconds=50)
