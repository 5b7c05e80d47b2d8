"""What is changed and asked through a conversation, on real parts: preferences, memories, its state, its export."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from parley import (
    CachePolicy,
    Client,
    ConversationClosed,
    ConversationCost,
    ConversationHandle,
    InvalidInput,
    Memory,
    MemoryChanged,
    NotFound,
)
from parley.domain.conversation.contract import CONTEXT, COST, ContextState, workflow_id
from parley.domain.conversation.memory import Changes
from parley.storage import memories
from parley.storage.tables import utc_now
from tests.parts import SimulatorAdmin
from workflows import conversation as workflow

pytestmark = pytest.mark.usefixtures("worker")

USER = "ann"


@pytest.fixture
async def client(client: Client) -> AsyncIterator[Client]:
    """Whatever a test does, the ledger agrees with itself afterwards."""
    yield client
    assert await client.audit() == []


@pytest.fixture
def talk(client: Client) -> ConversationHandle:
    return client.conversation("talk", user_id=USER)


async def remembered(client: Client, value: str, **known: Any) -> Memory:
    """A stored memory of the user."""
    what = {"subject": "user", "predicate": "lives_in", "confidence": 0.9, "importance": 0.7, "turn_id": "t1"} | known
    memory = Memory(id=uuid4(), value=value, valid_from=utc_now() - timedelta(days=1), **what)
    async with client.database.transaction() as tx:
        await memories.apply(tx, client.workspace_id, USER, Changes(added=(memory,)))
    return memory


async def asked(client: Client, query: str, result_type: Any) -> Any:
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
    return await handle.query(query, result_type=result_type)


async def running_turn(talk: ConversationHandle, simulator: SimulatorAdmin) -> asyncio.Task[Any]:
    """A turn whose request waits at the provider."""
    await simulator.gate(closed=True, provider="openai")
    sent = asyncio.create_task(talk.say("Where do I live?", cache=CachePolicy.OFF))
    await simulator.requests(at_least=1, state="in_flight")
    return sent


class TestChanges:
    async def test_preferences_are_those_of_the_next_turn(self, client: Client, talk: ConversationHandle) -> None:
        await talk.say("Hello!")
        await talk.set_preferences({"tone": "dry"})
        await talk.say("How?")
        context = await talk.context()
        assert (context[0].role, '"dry"' in context[0].text) == ("system", True)
        assert (await client.configuration.show(USER)).configuration.ai_settings.tone == "dry"
        await talk.set_preferences({})
        await talk.say("And how?")
        assert (await talk.context())[0].role == "user"

    async def test_a_memory_is_corrected_and_forgotten(self, client: Client, talk: ConversationHandle) -> None:
        memory = await remembered(client, "Bergen")
        await talk.say("Hello!")
        made = await talk.correct_memory(memory.id, "Oslo")
        assert await client.memory.show(USER) == [made]
        with pytest.raises(MemoryChanged, match="'Oslo'"):
            await talk.correct_memory(memory.id, "Paris")
        assert await client.memory.show(USER) == [made]
        await talk.say("In which city do I live?")
        assert "The user lives in Oslo" in (await talk.context())[-1].text
        assert await talk.forget_memory(made.id) == 1
        assert await talk.forget_memory() == 1  # the superseded one
        await talk.say("In which city do I live?", cache=CachePolicy.OFF)
        assert "Oslo" not in (await talk.context())[-1].text

    async def test_a_change_waits_for_the_turn_that_is_answered(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        memory = await remembered(client, "Bergen")
        sent = await running_turn(talk, simulator)
        changes = [
            asyncio.create_task(talk.correct_memory(memory.id, "Oslo")),
            asyncio.create_task(talk.set_preferences({"tone": "dry"})),
        ]
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        async with asyncio.timeout(60):
            while sum(kind.startswith(("correct", "set_p")) for kind in await _accepted(handle)) < 2:
                await asyncio.sleep(0.02)
        assert [one.value for one in await client.memory.show(USER)] == ["Bergen"]
        assert (await client.configuration.show(USER)).configuration.ai_settings.tone == "friendly"
        await simulator.gate(closed=False, provider="openai")
        assert (await sent).success
        await asyncio.gather(*changes)
        assert [one.value for one in await client.memory.show(USER)] == ["Oslo"]
        assert (await client.configuration.show(USER)).configuration.ai_settings.tone == "dry"

    async def test_what_cannot_be_changed_is_refused_and_changes_nothing(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        memory = await remembered(client, "Bergen")
        await talk.say("Hello!")
        for value in ("", "  ", "x" * 201, "nul \0", "half \ud83d"):
            with pytest.raises(InvalidInput, match="value"):
                await talk.correct_memory(memory.id, value)
        with pytest.raises(InvalidInput, match="colour"):
            await talk.set_preferences({"colour": "red"})
        with pytest.raises(NotFound, match="no memory"):
            await talk.correct_memory(uuid4(), "Oslo")
        with pytest.raises(NotFound, match="no memory"):
            await talk.forget_memory(uuid4())
        assert [one.value for one in await client.memory.show(USER)] == ["Bergen"]
        assert (await talk.say("Are you still there?")).success

    async def test_the_workflow_checks_what_another_client_sends(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        await talk.say("Hello!")
        handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "talk"))
        before = await _accepted(handle)
        for update, given in (
            ("set_preferences", {"preferences": {"colour": "red"}}),
            ("correct_memory", {"memory_id": str(UUID(int=1)), "value": " "}),
        ):
            with pytest.raises(Exception, match="update failed"):
                await handle.execute_update(update, given)
        assert await _accepted(handle) == before

    async def test_nothing_is_changed_of_another_user_or_workspace(
        self, client: Client, talk: ConversationHandle
    ) -> None:
        memory = await remembered(client, "Bergen")
        await talk.say("Hello!")
        await client.conversation("bobs", user_id="bob").say("Hello!")
        other = client._backend.client(f"{client.workspace_id}-b")
        strangers = (
            client.conversation("talk", user_id="bob"),
            client.conversation("bobs", user_id="bob"),
            other.conversation("talk", user_id=USER),
        )
        for stranger in strangers:
            with pytest.raises(NotFound):
                await stranger.correct_memory(memory.id, "Oslo")
            with pytest.raises(NotFound):
                await stranger.forget_memory(memory.id)
        for stranger in (strangers[0], strangers[2]):
            for change in (stranger.forget_memory(), stranger.set_preferences({}), stranger.export()):
                with pytest.raises(NotFound):
                    await change
        assert [one.value for one in await client.memory.show(USER)] == ["Bergen"]

    async def test_a_closed_conversation_takes_no_change(self, talk: ConversationHandle) -> None:
        await talk.say("Hello!")
        await talk.close()
        for change in (talk.set_preferences({"tone": "dry"}), talk.forget_memory()):
            with pytest.raises(ConversationClosed, match=r"client\.memory"):
                await change

    async def test_many_changes_and_turns_at_once_are_all_made(
        self, client: Client, talk: ConversationHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More than Temporal lets wait, while the workflow continues as new."""
        monkeypatch.setattr(workflow, "TURNS_PER_RUN", 2)
        memory = await remembered(client, "Bergen")
        await talk.say("Hello!")
        turns = [talk.say(f"text {number}") for number in range(8)]
        changes = [talk.set_preferences({"tone": f"tone {number}"}) for number in range(8)]
        results = await asyncio.gather(*turns, *changes, talk.correct_memory(memory.id, "Oslo"))
        assert all(result.success for result in results[:8])
        assert [one.value for one in await client.memory.show(USER)] == ["Oslo"]


async def _accepted(handle: Any) -> list[str]:
    """The names of the updates that the workflow accepted."""
    events = (await handle.fetch_history()).events
    return [
        event.workflow_execution_update_accepted_event_attributes.accepted_request.input.name
        for event in events
        if event.HasField("workflow_execution_update_accepted_event_attributes")
    ]


class TestQueries:
    async def test_the_cost_agrees_with_the_database(
        self, client: Client, talk: ConversationHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workflow, "TURNS_PER_EXTRACTION", 2)
        monkeypatch.setattr(workflow, "TURNS_PER_RUN", 3)
        await client.conversation("other", user_id=USER).say("How?")
        for text in ("How?", "Why?", "When?", "Who?"):
            assert (await talk.say(text)).success
        # The database has the cost of an extraction a moment earlier.
        async with asyncio.timeout(10):
            while (cost := await asked(client, COST, ConversationCost)) != await talk.cost() or not cost.upkeep_usd:
                await asyncio.sleep(0.02)
        assert cost.saved_usd > 0  # the first turn is that of the other conversation

    async def test_the_context_says_what_it_was_made_of(self, client: Client, talk: ConversationHandle) -> None:
        await remembered(client, "Bergen")
        for text in ("Hello!", "Where do I live?"):
            await talk.say(text)
        found = await asked(client, CONTEXT, ContextState)
        assert found == ContextState(messages=len(await talk.context()), exchanges=1, memories=1, summarized_through=0)


class TestExport:
    async def test_has_everything_of_the_conversation(
        self, client: Client, talk: ConversationHandle, simulator: SimulatorAdmin
    ) -> None:
        learned = await remembered(client, "Bergen", conversation_id="talk")
        await remembered(client, "a boat", predicate="owns", conversation_id="another")
        await talk.say("Hello!", turn_id="one")
        sent = await running_turn(talk, simulator)
        found = await talk.export()
        assert [(turn.number, turn.text) for turn in found.turns] == [(1, "Hello!"), (2, "Where do I live?")]
        assert (found.conversation_id, found.user_id, found.status, found.closed_at) == ("talk", USER, "open", None)
        assert found.memories == (learned,)
        assert found.cost == await talk.cost()
        await simulator.gate(closed=False, provider="openai")
        await sent
        await talk.close()
        closed = await talk.export()
        assert closed.turns == await talk.history()
        assert (closed.status, closed.closed_at is None) == ("closed", False)
