"""The deadlines of a phone call: whatever fails, the caller hears something, and there is a row that says what."""

import asyncio
import json
from typing import Any
from unittest import mock

import pytest

from gateway import state
from gateway.phone import answering, talk
from gateway.phone import calls as gateway_calls
from gateway.phone.calls import OpenCall, PhoneCalls
from parley import Backend, Client, Settings
from parley.domain.errors import Unreachable
from parley.domain.phone.contract import workflow_id
from parley.testing import SimulatorAdmin
from tests.gateway.parts import running_gateway
from tests.gateway.phone.twilio import Phone, Twilio

pytestmark = pytest.mark.usefixtures("client")
SHORT = "+15550100010"
# A request to the provider that hangs is given up long after the caller has heard that there is no answer.
SOON = {"filler": 0.05, "template": 0.1, "response_timeout": 0.3, "silence": 600}
PHRASES = {"filler": "Hm.", "slow": "Still looking.", "apology": "Sorry?", "good_bye": "Bye.", "hand_off": "A person."}


async def numbered(client: Client, **settings: Any) -> None:
    await client.phone.set_number(SHORT, {"deadlines": SOON, "phrases": PHRASES, **settings})


@pytest.mark.usefixtures("worker")
async def test_a_late_answer_is_preceded_by_a_filler_and_by_the_template_of_its_kind(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    patient = {**SOON, "response_timeout": 60}
    await numbered(client, deadlines=patient, templates=[{"words": ["export"], "text": "I look at the exports."}])
    await simulator.fault("slow", hold=1)
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I EXPORT?")
        said = await session.answer()
        await session.interrupt(" ".join(said.split()[:8]), 2000)
        await session.say("And then?")
        await session.answer()
    assert said.startswith("Hm. I look at the exports. ")
    turn = (await client.phone.turns(phone.sid))[0]
    assert (turn.answer or "").startswith((turn.heard or "") + " ")
    assert turn.heard == " ".join(said.split()[6:8])
    times = (turn.filler_ms, turn.template_ms, turn.first_token_ms, turn.response_ms)
    assert times == tuple(sorted(time or 0 for time in times)), times
    assert (turn.filler_ms or 0) >= 50


@pytest.mark.usefixtures("worker")
async def test_an_answer_in_time_has_no_filler(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        said = await session.answer()
    turn = (await client.phone.turns(phone.sid))[0]
    assert (turn.answer, turn.filler_ms, turn.template_ms) == (said, None, None)


@pytest.mark.usefixtures("worker")
async def test_two_failures_in_a_row_end_in_an_apology_and_a_person(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await numbered(client, transfer_to="+15550100099")
    phone, handoff = await _failed(twilio, simulator, failures=2, last_words="A person.")
    [verb] = await phone.action(SessionStatus="ended", HandoffData=json.dumps(handoff))
    assert verb.tag == "Dial"
    await _recorded(client, phone, failures=2)


@pytest.mark.usefixtures("worker")
async def test_without_a_person_the_phone_call_goes_on_until_the_fifth_failure_in_a_row(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await numbered(client)
    phone, handoff = await _failed(twilio, simulator, failures=5, last_words="Bye.")
    [verb] = await phone.action(SessionStatus="ended", HandoffData=json.dumps(handoff))
    assert verb.tag == "Hangup"
    await _recorded(client, phone, failures=5)


async def _failed(
    twilio: Twilio, simulator: SimulatorAdmin, *, failures: int, last_words: str
) -> tuple[Phone, dict[str, Any]]:
    """A phone call whose agent gives up after so many turns without an answer; returns it, and what it hands over."""
    await simulator.fault("hang", times=None)
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        for number in range(1, failures):
            await session.say(f"Which formats can I export, {number}?")
            assert await session.answer() == "Hm. Still looking. Sorry?"
        await session.say("Which formats?")
        assert (await session.answer()).endswith(last_words)
        handoff = json.loads((await session.until("end"))["handoffData"])
    await simulator.reset()
    return phone, handoff


async def _recorded(client: Client, phone: Phone, *, failures: int) -> None:
    turns = await client.phone.turns(phone.sid)
    assert [one.error for one in turns] == ["ResponseTimeout"] * failures
    assert {one.heard for one in turns[:-1]} == {"Sorry?"}
    call = await client.phone.call(phone.sid)
    assert (call.reason, call.errors) == ("failures", failures)


@pytest.mark.usefixtures("worker")
async def test_a_failure_between_answers_is_an_apology(client: Client, twilio: Twilio, simulator: SimulatorAdmin):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        for _ in range(2):
            await simulator.fault("auth", times=None)
            await session.say("Which formats can I export?")
            assert "Could you say it again" in await session.answer()
            await simulator.reset()
            await session.say("Which formats?")
            assert "simulator" in await session.answer()
    errors = [one.error for one in await client.phone.turns(phone.sid)]
    assert errors == ["ProviderUnavailable", "", "ProviderUnavailable", ""]


@pytest.mark.usefixtures("worker")
async def test_a_stream_that_stalls_in_the_middle_is_given_up(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await numbered(client, deadlines={**SOON, "filler": 50, "template": 60, "response_timeout": 5})
    await simulator.fault("stall")
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.answer()
    assert said.endswith(" Sorry?")
    turn = (await client.phone.turns(phone.sid))[0]
    assert (turn.error, turn.heard) == ("ResponseTimeout", said)


@pytest.mark.usefixtures("worker")
async def test_what_the_worker_and_the_gateway_both_answer_is_answered_and_charged_once(client: Client, twilio: Twilio):
    """The gateway does not wait for the worker: each turn has two runs at the same time."""
    patient = {"worker": 0.001, "filler": 50, "template": 60, "response_timeout": 60}
    await client.phone.set_number(SHORT, {"deadlines": patient, "action": "ai_message"})
    phone, said = twilio.phone(To=SHORT), list[str]()
    await phone.ring()
    async with phone.session() as session:
        for number in range(6):
            await session.say(f"Which formats can I export, and what is number {number} of them?")
            said.append(await session.answer())
    turns = await client.phone.turns(phone.sid)
    assert [(one.answer, one.outcome, one.error) for one in turns] == [(one, "completed", "") for one in said]
    charged = await client.energy((await client.phone.call(phone.sid)).user_id)
    assert (charged.charged, charged.reserved) == (len(turns), 0)


@pytest.mark.usefixtures("worker")
async def test_what_was_recognised_counts_as_said_after_a_pause(client: Client, twilio: Twilio):
    await numbered(client, deadlines={"speech_timeout": 0.1, "response_timeout": 60, "filler": 50, "template": 60})
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.partial("Which")
        await session.partial("Which formats")
        await session.answer()
        await session.say("Which formats can I export?")
        await session.answer()
    assert [one.text for one in await client.phone.turns(phone.sid)] == ["Which formats", "can I export?"]


@pytest.mark.usefixtures("worker")
async def test_a_speech_whose_end_is_never_reported_takes_no_words_from_a_later_one(
    client: Client, twilio: Twilio, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(talk, "SAME_SPEECH_SECONDS", 0.0)
    await numbered(client, deadlines={"speech_timeout": 0.1, "response_timeout": 60, "filler": 50, "template": 60})
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.partial("Yes")
        await session.answer()
        await session.say("Yes, which formats can I export?")
        await session.answer()
    turns = await client.phone.turns(phone.sid)
    assert [one.text for one in turns] == ["Yes", "Yes, which formats can I export?"]


@pytest.mark.usefixtures("worker")
async def test_a_pause_and_the_end_of_a_speech_at_once_begin_one_answer(
    client: Client, twilio: Twilio, monkeypatch: pytest.MonkeyPatch
):
    """The timer of the pause is still at work as the final frame arrives."""
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    read_costs = PhoneCalls.read_costs

    async def slow(self: PhoneCalls, call: OpenCall) -> None:
        asked.set()
        await may_go_on.wait()
        await read_costs(self, call)

    monkeypatch.setattr(PhoneCalls, "read_costs", slow)
    deadlines = {"speech_timeout": 0.1, "response_timeout": 60, "filler": 50, "template": 60}
    await numbered(client, deadlines=deadlines, limits={"call_usd": "1"})
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.partial("Which formats")
        await asked.wait()
        await session.say("Which formats can I export?")
        await (await session.socket.ping())  # the gateway has received the frame before it
        may_go_on.set()
        await session.answer()
    assert [one.text for one in await client.phone.turns(phone.sid)] == ["Which formats can I export?"]


@pytest.mark.usefixtures("worker")
async def test_a_speech_that_does_not_end_is_answered(client: Client, twilio: Twilio):
    await numbered(client, deadlines={"max_speech": 0.2, "response_timeout": 60, "filler": 50, "template": 60})
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        speaking = asyncio.ensure_future(_speak_on(session))
        await session.answer()
        speaking.cancel()
    assert (await client.phone.turns(phone.sid))[0].text.startswith("word word")


async def _speak_on(session: Any) -> None:
    for count in range(2, 10_000):
        await session.partial("word " * count)
        await asyncio.sleep(0.02)


@pytest.mark.usefixtures("worker")
async def test_an_answer_has_a_longest_length(client: Client, twilio: Twilio):
    await numbered(client, deadlines={"response_timeout": 60, "filler": 50, "template": 60}, max_response_words=10)
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export at the end of the month?")
        said = await session.answer()
    assert 10 <= len(said.split()) <= 30
    assert (await client.phone.turns(phone.sid))[0].heard == said


@pytest.mark.parametrize(
    ("said", "piece", "kept", "is_whole"),
    [
        ("", "one two", "one two", True),
        ("one two three ", "four. Five six", "four.", False),
        ("one two three four ", "five", "five", True),
        ("one two three four ", "five six. Seven", "five six.", False),
        ("word " * 24, " last more", "", False),
        ("word " * 23, " last more", " last", False),
    ],
)
def test_an_answer_that_is_too_long_ends_with_a_sentence(said: str, piece: str, kept: str, is_whole: bool):
    assert answering._within(said, piece, 4) == (kept, is_whole)  # pyright: ignore[reportPrivateUsage]


async def test_a_caller_who_says_nothing_is_asked_and_then_left(client: Client, twilio: Twilio):
    phrases = {"are_you_there": "Hello?", "silence_good_bye": "Bye."}
    silent = {"deadlines": {"silence": 0.05}, "phrases": phrases, "welcome_greeting": ""}
    await client.phone.set_number(SHORT, silent)
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        assert [await session.answer() for _ in range(3)] == ["Hello?", "Hello?", "Bye."]
        await session.until("end")
    assert (await client.phone.call(phone.sid)).reason == "silence"


async def test_a_phone_call_ends_after_its_longest_time(client: Client, twilio: Twilio):
    phrases = {"time_is_up": "Time is up."}
    await client.phone.set_number(SHORT, {"limits": {"call_minutes": 0.001}, "phrases": phrases})
    phone = twilio.phone(To=SHORT)
    await phone.ring()
    async with phone.session() as session:
        assert await session.answer() == "Time is up."
        await session.until("end")
    assert (await client.phone.call(phone.sid)).reason == "time_is_up"


class _NoService:
    """Temporal, while it does not answer: neither at once nor with an error."""

    def __getattr__(self, name: str) -> Any:
        async def hang(*_: Any, **__: Any) -> None:
            await asyncio.sleep(3600)

        return hang


class _NoTemporal:
    def __init__(self, known: Any) -> None:
        self.namespace, self.data_converter = known.namespace, known.data_converter
        self.service_client = _NoService()

    def get_workflow_handle(self, *_: Any, **__: Any) -> Any:
        return _NoService()

    def __getattr__(self, name: str) -> Any:
        return getattr(_NoService(), name)


class _Switch:
    """Temporal's client, which can be switched off."""

    def __init__(self, known: Any) -> None:
        self._on, self._off, self.is_on = known, _NoTemporal(known), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._on if self.is_on else self._off, name)


async def test_while_temporal_is_down_the_gateway_answers_and_reports_later(
    client: Client, backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(state, "REPORT_SECONDS", 0.1)
    switch: Any = _Switch(backend.temporal)
    cut_off = Backend(switch, backend.database, settings)
    async with running_gateway(cut_off, settings) as running:
        twilio = Twilio(running)
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say("Which formats can I export?")
            first = await session.answer()
            await session.say("And which of them is the fastest?")
            second = await session.answer()
        assert [one.answer for one in await client.phone.turns(phone.sid)] == [first, second]
    assert "simulator" in first


async def test_reports_that_temporal_did_not_take_are_sent_later(
    client: Client, backend: Backend, settings: Settings, worker: None
):
    """The workflow starts late, and learns of the end."""
    real, fails = gateway_calls.start_workflow, [True]

    async def start(*of: Any, **known: Any) -> Any:
        if fails[0]:
            raise Unreachable("Temporal does not answer")
        return await real(*of, **known)

    with mock.patch.object(gateway_calls, "start_workflow", start):
        async with running_gateway(backend, settings) as running:
            twilio = Twilio(running)
            phone = twilio.phone()
            await phone.ring()
            await phone.action(CallStatus="completed", SessionStatus="completed")
            fails[0] = False
            ended = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, phone.sid))
            await running.server._gateway.phone.reported()  # pyright: ignore[reportPrivateUsage]
            await ended.result()
    assert (await client.phone.call(phone.sid)).status == "completed"
