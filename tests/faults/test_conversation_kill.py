"""kill -9 of a worker in the middle of a turn: it is answered and charged once, and its readers miss nothing.

The worker is a process with every role, so that the workflow dies with the paid call. Another process takes over.
"""

import asyncio
import signal
from dataclasses import dataclass

import pytest

from parley import Backend, ConversationHandle, GenerateStream, TurnResult
from parley.client.backend import reporting_broken_streams
from parley.domain.conversation.contract import workflow_id
from parley.domain.generate.contract import CachePolicy
from parley.domain.streaming import text_of
from parley.streams.hub import StreamHub
from parley.streams.receiver import SocketReceiver
from starter.embedded import Addresses
from tests.faults.scene import Scene, at_each, exited
from tests.parts import TEST_TIMEOUT_SECONDS

USER = "ann"
# The other process comes after the heartbeat timeout, when the server has started the step again as well.
LATE = ", late"
POINTS = ("claiming", "first_token", "mid_text", "settling", *(f"mid_text{LATE} {number}" for number in (1, 2)))


@dataclass
class Outcome:
    seen: str
    result: TurnResult
    again: TurnResult
    next_one: TurnResult
    context: list[str]
    charged: tuple[int, int]
    attempts: list[str]
    billed: int
    audit: list[object]


async def killed_at(point: str, place: Scene) -> Outcome:
    own = place.client
    receiver = SocketReceiver(StreamHub(), own.settings, reporting_broken_streams(own.temporal))
    backend = Backend(own.temporal, own.database, own.settings, receiver)
    talk = backend.client(own.workspace_id).conversation("talk", user_id=USER)
    try:
        return await _played(point, place, talk)
    finally:
        await receiver.close()


async def _played(point: str, place: Scene, talk: ConversationHandle) -> Outcome:
    point, _, is_late = point.partition(LATE)
    process = await place.start_worker(f"{point}=kill")
    async with talk.stream("Which formats can I export?", turn_id="one", cache=CachePolicy.OFF) as stream:
        reading = asyncio.create_task(_read(stream))
        await exited(process, signal.SIGKILL)
        if is_late:
            await _started_again(place, talk)
        await place.start_worker()
        seen = await reading
        result = await stream.result()
    again = await talk.say("Which formats can I export?", turn_id="one", cache=CachePolicy.OFF)
    next_one = await talk.say("And who may start it?", cache=CachePolicy.OFF)
    await place.sweep()
    energy = await place.client.energy(USER)
    assert isinstance(result, TurnResult)
    return Outcome(
        seen=seen,
        result=result,
        again=again,
        next_one=next_one,
        context=[message.text for message in await talk.context()],
        charged=(energy.charged, energy.reserved),
        attempts=await place.attempts(),
        billed=len(await place.simulator.billed()),
        audit=list(await place.client.audit()),
    )


async def _started_again(place: Scene, talk: ConversationHandle) -> None:
    """Wait until the server wants the step done again."""
    handle = place.client.temporal.get_workflow_handle(workflow_id(place.client.workspace_id, talk.id))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while True:
            pending = (await handle.describe()).raw_description.pending_activities
            if any(activity.attempt > 1 for activity in pending):
                return
            await asyncio.sleep(0.1)


async def _read(stream: GenerateStream) -> str:
    return text_of([delta async for delta in stream])


@pytest.fixture(scope="module")
async def outcomes(stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return await at_each(POINTS, killed_at, stack, template, tmp_path_factory)


@pytest.mark.parametrize("point", POINTS)
def test_a_turn_is_answered_and_charged_once(point: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[point]
    assert (outcome.result.success, outcome.result.number, outcome.next_one.number) == (True, 1, 2)
    assert outcome.seen == outcome.result.content
    assert outcome.again == outcome.result
    assert outcome.context == ["Which formats can I export?", outcome.result.content, "And who may start it?"]
    assert outcome.charged == (2, 0)
    # The step may be started again by the workflow and by its timeout: the user pays for one of the two.
    assert {*outcome.attempts} <= {"lost", "settled", "failed"}
    # Of the turn that broke, at most one further attempt; and one for the next turn.
    assert outcome.billed <= 3
    assert outcome.audit == []
