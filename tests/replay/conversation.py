"""Representative runs of `Conversation`. Each waits for what is done between turns, so that the order is the same."""

from unittest import mock

from parley import CachePolicy, Client, ConversationHandle
from parley.domain.conversation.context import MOST_EXCHANGES
from parley.domain.conversation.contract import Ended, workflow_id
from parley.domain.errors import ConversationClosed
from tests.parts import SimulatorAdmin, until
from tests.replay.generate import USER
from workflows import conversation


def opened(client: Client) -> ConversationHandle:
    return client.conversation("talk", user_id=USER)


def of(client: Client) -> str:
    return workflow_id(client.workspace_id, "talk")


async def said(client: Client, count: int) -> None:
    """Say something so often, each time after what is done between turns."""
    talk, handle = opened(client), client.temporal.get_workflow_handle(of(client))

    async def is_idle() -> bool:
        found = (await handle.describe()).raw_description
        return not found.pending_activities and not found.HasField("pending_workflow_task")

    for number in range(count):
        assert (await talk.say(f"text {number}", cache=CachePolicy.OFF)).success
        await until(is_idle)


async def conversation_of_two_turns(client: Client, _: SimulatorAdmin) -> str:
    await said(client, 2)
    return of(client)


async def conversation_condensed(client: Client, _: SimulatorAdmin) -> str:
    await said(client, MOST_EXCHANGES + 2)
    return of(client)


async def conversation_without_a_provider(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("auth", times=None)
    assert not (await opened(client).say("How?")).success
    assert (await opened(client).history())[0].outcome is Ended.FAILED
    return of(client)


async def conversation_closed(client: Client, _: SimulatorAdmin) -> str:
    await said(client, 1)
    await opened(client).close()
    try:
        await opened(client).say("And now?")
    except ConversationClosed:
        await client.temporal.get_workflow_handle(of(client)).result()
    return of(client)


async def conversation_continued_as_new(client: Client, _: SimulatorAdmin) -> str:
    """The run that follows a full one: its input carries the counts and the last turns."""
    with mock.patch.object(conversation, "TURNS_PER_RUN", 3):
        await said(client, 4)
    return of(client)


SCENARIOS = (
    conversation_of_two_turns,
    conversation_condensed,
    conversation_without_a_provider,
    conversation_closed,
    conversation_continued_as_new,
)
