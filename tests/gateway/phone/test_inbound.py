"""Inbound phone calls: webhook, session, turns, what was heard, and the end."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from parley import Client, Period
from parley.domain.conversation.context import NOTHING_KNOWN
from parley.domain.phone.contract import SESSION_ENDED, workflow_id
from parley.testing import SimulatorAdmin
from simulator.twilio.summary import turns_of
from tests.gateway.parts import Running
from tests.gateway.phone.twilio import CALLER, NUMBER, Phone, Twilio, simulated
from tests.parts import TEST_TIMEOUT_SECONDS, run_sql, until

pytestmark = pytest.mark.usefixtures("worker", "client")
# Enough for the upper bound of one answer, and not of two.
ONE_ANSWER_USD = "0.002"


async def ended(client: Client, phone: Phone) -> None:
    """Wait for the end of the phone call's workflow."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, phone.sid)).result()


async def test_a_phone_call_is_answered_token_by_token_and_recorded(client: Client, twilio: Twilio):
    phone = twilio.phone()
    twiml = await phone.ring()
    relay = twiml.find("Connect/ConversationRelay")
    assert relay is not None
    async with phone.session(relay.get("url")) as session:
        await session.say("Which formats can I export?")
        first = await session.answer()
        await session.say("And which of them is the fastest?")
        second = await session.answer()
        tokens = [frame for frame in session.frames if frame["type"] == "text"]
    assert len(tokens) > 4
    assert [frame["last"] for frame in tokens].count(True) == 2
    assert (await phone.action(CallStatus="completed", SessionStatus="completed")).findall("*") == []
    await ended(client, phone)
    call, turns = await client.phone.call(phone.sid), await client.phone.turns(phone.sid)
    assert [(one.text, one.answer, one.heard) for one in turns] == [
        ("Which formats can I export?", first, None),
        ("And which of them is the fastest?", second, None),
    ]
    assert all(one.response_ms is not None and one.audio_ms for one in turns)
    assert (call.status, call.reason, call.turns, call.sessions, call.errors) == ("completed", "caller", 2, 1, 0)
    assert call.cost_usd == sum(one.cost_usd for one in turns) > 0


async def questions(client: Client, phone: Phone) -> list[tuple[str, str]]:
    """What the last turn was answered with, without system prompts."""
    context = await (await client.find_conversation(phone.sid)).context()
    return [
        (message.role, message.text.replace(f"{NOTHING_KNOWN}\n\n", ""))
        for message in context
        if message.role != "system"
    ]


async def all_ended(client: Client, phone: Phone) -> bool:
    return all(one.outcome is not None for one in await client.phone.turns(phone.sid))


async def test_an_interruption_before_the_first_word_leaves_no_answer(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await simulator.fault("hang")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("I want to book")
        await simulator.requests(at_least=1)
        await session.interrupt("", "0")
        await session.say("an appointment for Monday")
        answer = await session.answer()
    [(role, text)] = await questions(client, phone)
    assert role == "user"
    assert text.split("\n\n") == ["I want to book", "an appointment for Monday"]
    turns = await client.phone.turns(phone.sid)
    assert [(one.heard, one.outcome) for one in turns] == [("", "cancelled"), (None, "completed")]
    assert turns[1].answer == answer


async def test_a_turn_that_is_interrupted_before_it_is_stored_is_not_lost(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        for text in ("I want to book", "an appointment", "for Monday"):
            await session.interrupt("", "0")
            await session.say(text)
        await session.answer()
    asked = " ".join(text for role, text in await questions(client, phone) if role == "user")
    assert asked.split() == ["I", "want", "to", "book", "an", "appointment", "for", "Monday"]


@pytest.mark.parametrize("duration", [900, "900", 900.25, "900.25"])
async def test_memory_keeps_what_was_heard_of_an_answer_that_was_interrupted(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin, duration: Any
):
    await simulator.fault("stall")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.first_text()
        while len(said.split()) < 4:
            said += (await session.frame())["token"]
        heard = " ".join(said.split()[:3])
        await session.interrupt(heard, duration)
        await session.say("Stop, please.")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", heard)
    turns = await client.phone.turns(phone.sid)
    assert (turns[0].heard, turns[0].outcome) == (heard, "cancelled")
    assert (await client.phone.call(phone.sid)).interruptions == 1


async def test_an_answer_that_was_sent_whole_is_cut_to_what_was_heard(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        said = await session.answer()
        heard = " ".join(said.split()[:5])
        await session.interrupt(heard, 1200)
        await session.interrupt(heard, 1200)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", heard)
    turn = (await client.phone.turns(phone.sid))[0]
    assert (turn.heard, turn.answer, turn.outcome) == (heard, said, "completed")


@pytest.mark.parametrize("is_overtaken", [False, True])
async def test_an_interruption_at_a_breath_leaves_the_sentences_before_it(
    client: Client, twilio: Twilio, is_overtaken: bool
):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.answer()
        heard = " ".join(said.split()[:5])
        for words in (said.split()[:3], said.split()[3:5]):
            await session.send("info", name="tokensPlayed", value=" ".join(words))
        if is_overtaken:
            await session.say("And which of them is the fastest?")
        await session.interrupt("", 120.5)
        if not is_overtaken:
            await session.say("And which of them is the fastest?")
        await session.answer()
    assert [one.heard for one in await client.phone.turns(phone.sid)] == [heard, None]
    assert (await questions(client, phone))[1] == ("assistant", heard)


async def test_what_the_caller_says_may_overtake_its_interruption(client: Client, gateway: Running):
    steps = (
        "network late interrupts",
        'say "Which formats can I export, and who may start the export?"',
        'barge in after 2 s with "And when?"',
        "wait until quiet",
    )
    one = await simulated(gateway, "\n".join(steps))
    await gateway.server.phone.reported()
    turns = await client.phone.turns(one.phone_call.dialled.sid)
    assert [(turn.interrupted, turn.error) for turn in turns] == [(True, ""), (False, "")]
    sent = turns_of(one.log.events)[0].answer
    assert turns[0].heard is not None
    assert sent.startswith(turns[0].heard)
    assert turns[0].heard != sent.strip()


async def test_an_interruption_of_something_else_does_not_cut_the_answer(
    client: Client, twilio: Twilio, number: dict[str, Any]
):
    """After the answer, the agent asks for digits: what is heard of that is not a part of the answer."""
    keys = {"1": {"kind": "enter", "text": "Please enter your number."}}
    await client.phone.set_number(NUMBER, {**number, "keys": keys})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        said = await session.answer()
        await session.press("1")
        assert await session.answer() == "Please enter your number."
        await session.interrupt("Please enter", 500)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", said)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_interruption_that_is_overtaken_by_the_next_question_cuts_the_answer_before_it(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin, is_whole: bool
):
    if not is_whole:
        await simulator.fault("stall")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.answer() if is_whole else await session.first_text()
        while len(said.split()) < 4:
            said += (await session.frame())["token"]
        heard = " ".join(said.split()[:3])
        await session.say("And which of them is the fastest?")
        await session.interrupt(heard, 900)
        if not is_whole:
            await session.answer()  # the end of the first sentence
        assert await session.answer()
    assert [one.heard for one in await client.phone.turns(phone.sid)] == [heard, None]
    assert (await questions(client, phone))[1] == ("assistant", heard)


class TestSilence:
    @pytest.fixture
    def number(self, number: dict[str, Any]) -> dict[str, Any]:
        return {**number, "deadlines": {**number["deadlines"], "silence": 0.2, "silences": 20}}

    async def test_an_interruption_of_are_you_still_there_does_not_cut_the_answer(self, client: Client, twilio: Twilio):
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say("Which formats can I export?")
            said = await session.answer()
            assert await session.answer() == "Are you still there?"
            await session.interrupt("Are you", 300)
            await session.say("And who may start it?")
            await session.answer()
        assert (await questions(client, phone))[1] == ("assistant", said)

    @pytest.mark.parametrize("what", ["a lone #", "a blank partial", "a partial that was answered"])
    async def test_what_says_nothing_does_not_end_the_question_whether_the_caller_is_there(
        self, client: Client, twilio: Twilio, number: dict[str, Any], what: str
    ):
        deadlines = {**number["deadlines"], "silence": 1.5, "speech_timeout": 0.1}
        await client.phone.set_number("+15550100003", {**number, "deadlines": deadlines})
        phone = twilio.phone(To="+15550100003")
        await phone.ring()
        async with phone.session() as session:
            if what == "a partial that was answered":
                await session.partial("Which formats can I export?")
                await session.answer()
                await session.partial("Which formats can I export?")
            elif what == "a blank partial":
                await session.partial(" ")
            else:
                await session.press("#")
            assert await session.answer() == "Are you still there?"


@pytest.mark.parametrize("is_spoken", [True, False])
async def test_a_caller_who_hangs_up_has_heard_what_was_spoken_until_then(
    client: Client, twilio: Twilio, is_spoken: bool
):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        session.is_slow = not is_spoken
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.answer()
    [turn] = await client.phone.turns(phone.sid)
    assert turn.answer == said
    if is_spoken:
        assert (turn.heard, turn.error) == (None, "")
    else:
        assert turn.error == SESSION_ENDED
        assert turn.heard is not None
        assert turn.heard != said
        assert said.startswith(turn.heard)


async def test_an_answer_that_was_too_long_is_cut_to_what_was_heard(
    client: Client, twilio: Twilio, number: dict[str, Any]
):
    await client.phone.set_number(NUMBER, {**number, "max_response_words": 10})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export at the end of the month?")
        heard = " ".join((await session.answer()).split()[:5])
        await session.interrupt(heard, 1200)
        await session.say("And who may start it?")
        await session.answer()
    await until(lambda: all_ended(client, phone))  # the requests for both answers were cancelled
    assert (await questions(client, phone))[1] == ("assistant", heard)


@pytest.mark.parametrize("way", ["an answer that was cut", "an earlier session"])
async def test_a_phone_call_costs_no_more_than_it_may(
    client: Client, twilio: Twilio, number: dict[str, Any], simulator: SimulatorAdmin, database_url: str, way: str
):
    """What a request that was cut off has cost is not known: its upper bound counts."""
    await client.phone.set_number(NUMBER, {**number, "limits": {"call_usd": ONE_ANSWER_USD}})
    await simulator.fault("hang")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        await simulator.requests(at_least=1)
        await session.interrupt("", 0)
        await until(lambda: all_ended(client, phone))
        if way == "an answer that was cut":
            await session.say("And who may start it?")
            assert "we have to end here" in await session.answer()
    if way == "an earlier session":
        async with phone.session() as session:
            assert "the line was interrupted" in await session.answer()
            await session.say("And who may start it?")
            assert "we have to end here" in await session.answer()
    assert (await client.phone.call(phone.sid)).reason == "call_usd"
    [row] = await run_sql(
        database_url,
        "SELECT sum(reserved_usd + confirmed_usd + uncertain_usd) AS usd FROM budgets WHERE scope LIKE 'job:%'",
    )
    assert 0 < row["usd"] <= Decimal(ONE_ANSWER_USD)
    assert len(await simulator.requests()) == 1


async def test_an_answer_that_may_cost_more_than_is_left_is_refused_before_it_is_paid(
    client: Client, twilio: Twilio, number: dict[str, Any], simulator: SimulatorAdmin
):
    await client.phone.set_number(NUMBER, {**number, "limits": {"call_usd": "0.00001"}})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        assert "we have to end here" in await session.answer()
        assert json.loads((await session.until("end"))["handoffData"])["reason"] == "call_usd"
    assert await simulator.requests() == []
    [turn] = await client.phone.turns(phone.sid)
    assert (turn.outcome, turn.error, turn.cost_usd) == ("refused", "budget_exhausted", 0)


async def test_a_cap_of_the_workspace_is_not_the_limit_of_the_phone_call(
    client: Client, twilio: Twilio, number: dict[str, Any]
):
    await client.phone.set_number(NUMBER, {**number, "limits": {"call_usd": "1"}})
    await client.set_cap(Period.DAY, Decimal("0.00001"))
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        assert "Could you say it again" in await session.answer()


async def test_the_view_counts_interruptions_and_nothing_else_that_was_not_heard(
    client: Client, twilio: Twilio, number: dict[str, Any], simulator: SimulatorAdmin, database_url: str
):
    await client.phone.set_number(NUMBER, {**number, "max_response_words": 10})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        heard = " ".join((await session.answer()).split()[:3])
        await session.interrupt(heard, 900)
        await session.say("And who may start it?")  # the answer is too long
        await session.answer()
        await simulator.fault("auth", times=None)
        await session.say("And when?")
        assert "Could you say it again" in await session.answer()
        await simulator.reset()
        session.is_slow = True
        await session.say("Which of them is the fastest?")  # and the caller hangs up
        await session.answer()
    await until(lambda: all_ended(client, phone))
    turns = await client.phone.turns(phone.sid)
    assert [(one.heard is not None, one.interrupted) for one in turns] == [
        (True, True), (True, False), (True, False), (True, False)
    ]  # fmt: skip
    [row] = await run_sql(
        database_url,
        """SELECT sum(phone_calls) AS phone_calls, sum(turns) AS turns, sum(interruptions) AS interruptions,
                  sum(errors) AS errors FROM system_metrics WHERE workspace_id = %s""",
        client.workspace_id,
    )
    assert row == {"phone_calls": 1, "turns": 4, "interruptions": 1, "errors": 1}


async def test_an_answer_of_the_cache_is_spoken_like_any_other(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await client.knowledge.add("# Prices\n\nA ticket for the pool costs $20 today.", name="prices.md")
    said: list[str] = []
    for _ in range(2):
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say("What does a ticket for the pool cost?")
            said.append(await session.answer())
    [turn] = await client.phone.turns(phone.sid)
    assert turn.cached == "exact"
    assert len(await simulator.billed()) == 1
    assert said[0] == said[1]
    assert "20 dollars today" in said[1]
    assert "$20 today" in (turn.answer or "")


async def test_an_interruption_after_the_last_word_changes_nothing(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.interrupt("Hello! How can", 500)
        await session.say("Which formats can I export?")
        said = await session.answer()
        await session.interrupt(said, 9000)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", said)


async def test_a_doubled_prompt_is_answered_once(client: Client, twilio: Twilio, simulator: SimulatorAdmin):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        await session.say("Which formats can I export?")
        await session.answer()
    assert len(await client.phone.turns(phone.sid)) == 1
    assert len(await simulator.billed()) == 1


async def test_frames_that_overtake_the_setup_wait_for_it(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session(setup=False) as session:
        await session.press("7")
        await session.say("is my number")
        await session.send("setup", callSid=phone.sid, sessionId="VX1", **{"from": CALLER}, to=NUMBER)
        await session.send("setup", callSid=phone.sid, sessionId="VX1", **{"from": CALLER}, to=NUMBER)
        await session.answer()
    assert [one.text for one in await client.phone.turns(phone.sid)] == ["(The caller entered by keys: 7) is my number"]


async def test_ten_malformed_frames_in_a_row_end_the_session(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    bad = ["{", "[]", b"\x00", '{"type": "surprise"}', '{"type": "dtmf", "digit": "12"}', '{"type": "prompt"'] * 2
    async with phone.session() as session:
        for frame in bad[:9]:
            await session.socket.send(frame)
        await session.say("Are you there?")
        assert await session.answer()
        for frame in bad[:10]:
            await session.socket.send(frame)
        assert await session.closed() == 1007


async def test_an_error_frame_is_counted_and_changes_nothing(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.send("error", description="Invalid message received")
        await session.send("info", name="roundTripDelayMs", value=80)
        await session.say("Which formats can I export?")
        assert await session.answer()
    await until(lambda: counted(client, phone))


async def counted(client: Client, phone: Phone) -> bool:
    return (await client.phone.call(phone.sid)).errors == 1
