"""`PhoneCall` on real parts: its end is recorded once, however it becomes known; and what was said is analysed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from parley import Client, ConversationClosed, InvalidInput
from parley.client.backend import start_workflow
from parley.client.phone import PhoneTalk, new_call, phone_call_start
from parley.domain.phone.contract import (
    ACTION,
    CONNECTED,
    ENDED,
    LEFT,
    STATE,
    WORKFLOW,
    CallEnd,
    CallStatus,
    Moment,
    PhoneCallState,
    turn_id,
    workflow_id,
)
from parley.domain.phone.settings import NumberSettings
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import ChatReply, Finish, Usage
from parley.storage import conversations, phone_calls
from tests.parts import TEST_TIMEOUT_SECONDS, SimulatorAdmin

NUMBER, CALLER, SID = "+15550100002", "+15550100001", "CA1"
LONGEST = 4200.0


async def begun(client: Client, *, caller: str = CALLER, **settings: Any) -> WorkflowHandle[Any, Any]:
    """A phone call that has begun, and its workflow."""
    number = await client.phone.set_number(NUMBER, settings)
    call = new_call(client.workspace_id, SID, number.settings, number=NUMBER, caller=caller)
    async with client.database.transaction() as tx:
        await phone_calls.begin(tx, call)
    backend = client._backend  # pyright: ignore[reportPrivateUsage]
    start = phone_call_start(client.workspace_id, SID, call.user_id, longest_seconds=LONGEST)
    await start_workflow(backend, client.workspace_id, start)
    return client.temporal.get_workflow_handle(workflow_id(client.workspace_id, SID))


def talk(client: Client) -> PhoneTalk:
    call = new_call(client.workspace_id, SID, NumberSettings(), number=NUMBER, caller=CALLER)
    backend = client._backend  # pyright: ignore[reportPrivateUsage]
    return PhoneTalk(backend, client.workspace_id, SID, call.user_id, longest_seconds=LONGEST)


async def result(workflow: WorkflowHandle[Any, Any]) -> None:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await workflow.result()


@pytest.mark.usefixtures("worker")
async def test_the_first_end_is_the_right_one(client: Client):
    workflow = await begun(client)
    await workflow.signal(CONNECTED, Moment(session_id="VX1"))
    await talk(client).say("Which formats can I export?", turn_id=turn_id(SID, 1))
    known = await workflow.query(STATE, result_type=PhoneCallState)
    assert (known.status, known.connected, known.turns, known.cost_usd > 0) == ("open", True, 1, True)
    await workflow.signal(ENDED, CallEnd(status=CallStatus.COMPLETED, reason="transfer"))
    await result(workflow)
    call = await client.phone.call(SID)
    assert (call.status, call.reason, call.ended_at is not None) == ("completed", "transfer", True)
    with pytest.raises(ConversationClosed):
        await talk(client).say("And now?", turn_id=turn_id(SID, 2))


@pytest.mark.usefixtures("worker")
async def test_a_turn_that_is_sent_twice_is_answered_once(client: Client):
    workflow = await begun(client)
    first, second = [await talk(client).say("Which formats can I export?", turn_id=turn_id(SID, 1)) for _ in range(2)]
    assert first == second
    assert len(await client.phone.turns(SID)) == 1
    await workflow.signal(ENDED, CallEnd())
    await result(workflow)


@pytest.mark.usefixtures("worker")
async def test_what_was_said_is_analysed_after_the_hang_up(client: Client):
    workflow = await begun(client, analysis=True)
    for number, text in enumerate(("Which formats can I export?", "And which of them is the fastest?"), 1):
        await talk(client).say(text, turn_id=turn_id(SID, number))
    await workflow.signal(ENDED, CallEnd(reason="caller"))
    await result(workflow)
    call = await client.phone.call(SID)
    job = await client.job(call.analysis)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await job.result()
    session = await job.session()  # pyright: ignore[reportAttributeAccessIssue] - of an analysis
    assert [(turn.role, turn.text) for turn in session.turns][::2] == [
        ("prospect", "Which formats can I export?"),
        ("prospect", "And which of them is the fastest?"),
    ]
    assert (session.session_id, session.user_id) == (SID, call.user_id)


@pytest.mark.usefixtures("worker")
async def test_facts_and_a_summary_are_paid_once_after_the_hang_up(client: Client, simulator: SimulatorAdmin):
    workflow = await begun(client, summary=True, remember=True)
    await talk(client).say("I live in Oslo. Which formats can I export?", turn_id=turn_id(SID, 1))
    answered = len(await simulator.billed())
    await workflow.signal(ENDED, CallEnd(reason="caller"))
    await workflow.signal(ENDED, CallEnd(reason="completed"))
    await result(workflow)
    call = await client.phone.call(SID)
    assert (call.status, call.reason) == ("completed", "caller")
    assert "export" in call.summary
    assert [one.text for one in await client.memory.show(call.user_id)] == ["The user lives in Oslo"]
    assert len(await simulator.billed()) == answered + 2
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_of_a_caller_who_withholds_the_number_nothing_is_remembered(client: Client, simulator: SimulatorAdmin):
    workflow = await begun(client, caller="+266696687", remember=True)
    call = await client.phone.call(SID)
    backend = client._backend  # pyright: ignore[reportPrivateUsage]
    own = PhoneTalk(backend, client.workspace_id, SID, call.user_id, longest_seconds=LONGEST)
    await own.say("I live in Oslo. Which formats can I export?", turn_id=turn_id(SID, 1))
    answered = len(await simulator.billed())
    await workflow.signal(ENDED, CallEnd(reason="caller"))
    await result(workflow)
    assert await client.memory.show(call.user_id) == []
    assert len(await simulator.billed()) == answered


@pytest.mark.usefixtures("worker")
async def test_a_failure_after_the_hang_up_does_not_touch_the_end(client: Client, simulator: SimulatorAdmin):
    workflow = await begun(client, summary=True, remember=True)
    await talk(client).say("I live in Oslo. Which formats can I export?", turn_id=turn_id(SID, 1))
    await simulator.fault("auth", times=None)
    await workflow.signal(ENDED, CallEnd(reason="caller"))
    await result(workflow)
    call = await client.phone.call(SID)
    assert (call.status, call.reason, call.summary) == ("completed", "caller", "")


@pytest.mark.usefixtures("worker")
async def test_nothing_is_analysed_where_nothing_was_said(client: Client):
    workflow = await begun(client, analysis=True)
    await workflow.signal(ENDED, CallEnd(status=CallStatus.NO_ANSWER, reason="no-answer"))
    await result(workflow)
    call = await client.phone.call(SID)
    assert (call.status, call.analysis) == ("no-answer", "")


async def test_a_phone_call_that_does_not_come_back_is_over(skipping_client: Client):
    workflow = await begun(skipping_client)
    await workflow.signal(CONNECTED, Moment(session_id="VX1"))
    await workflow.signal(LEFT, Moment(session_id="VX1"))
    await result(workflow)
    call = await skipping_client.phone.call(SID)
    assert (call.status, call.reason) == ("completed", "lost")


async def test_a_phone_call_that_never_has_a_session_is_over(skipping_client: Client):
    workflow = await begun(skipping_client)
    await result(workflow)
    assert (await skipping_client.phone.call(SID)).reason == "lost"


async def test_an_earlier_session_that_is_reported_late_does_not_replace_a_later_one(skipping_client: Client):
    """Its gateway could not reach Temporal for some time."""
    workflow, began_at = await begun(skipping_client), datetime.now(UTC)
    first = Moment(session_id="VX1", began_at=began_at)
    await workflow.signal(CONNECTED, Moment(session_id="VX2", began_at=began_at + timedelta(seconds=30)))
    await workflow.signal(CONNECTED, first)
    await workflow.signal(LEFT, first)
    await result(workflow)
    assert (await skipping_client.phone.call(SID)).reason == "too_long"


async def test_the_end_of_an_earlier_session_is_not_the_end(skipping_client: Client):
    """The gateway that was lost reports late, or never; the phone call lasts as long as it may."""
    workflow = await begun(skipping_client)
    await workflow.signal(CONNECTED, Moment(session_id="VX1"))
    await workflow.signal(CONNECTED, Moment(session_id="VX2"))
    await workflow.signal(LEFT, Moment(session_id="VX1"))
    await result(workflow)
    assert (await skipping_client.phone.call(SID)).reason == "too_long"


async def test_an_answer_without_the_database_prevails_over_the_end_of_a_workflow_that_came_back(client: Client):
    """The caller has heard it. The workflow knows only that the readers of its own answer have left."""
    number = await client.phone.set_number(NUMBER, {})
    call = new_call(client.workspace_id, SID, number.settings, number=NUMBER, caller=CALLER)
    text, where = "Which formats can I export?", (client.workspace_id, SID, turn_id(SID, 1))
    turn = talk(client)._turn(text, turn_id(SID, 1), ACTION, {}, True)  # pyright: ignore[reportPrivateUsage]
    async with client.database.transaction() as tx:
        await phone_calls.begin(tx, call)
        await conversations.begin_turn(tx, turn)
        await conversations.start_turn(tx, *where)
        assert await conversations.end_turn(tx, *where, outcome="cancelled", answer="")
    reply = ChatReply(text="CSV and PDF.", finish=Finish.STOP, usage=Usage(output_tokens=3), model="any")
    for _ in range(2):
        await talk(client).store_answered(text, turn_id(SID, 1), reply, knowledge=True, action=ACTION)
    [stored] = await client.phone.turns(SID)
    assert (stored.outcome, stored.answer, stored.number) == ("completed", "CSV and PDF.", 1)


@pytest.mark.usefixtures("worker")
async def test_without_input_it_fails(client: Client):
    workflow = await client.temporal.start_workflow(
        WORKFLOW, id=f"phone-call/{client.workspace_id}/none", task_queue=WORKFLOWS
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await workflow.result()
    assert InvalidInput.__name__ in repr(failed.value.cause)
