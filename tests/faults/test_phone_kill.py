"""kill -9 in the middle of a sentence of a phone call: of the worker, and of the gateway. The talk goes on.

The caller is a small Twilio; gateways and workers are processes.
"""

import asyncio
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from starter.embedded import Addresses
from tests.faults.scene import Scene, exited, scene
from tests.faults.test_gateway_kill import start_gateway
from tests.gateway.phone.twilio import NUMBER, TOKEN, Phone, Session, Twilio
from tests.parts import TEST_TIMEOUT_SECONDS

QUESTION = "Which formats can I export, and who may start the export at the end of the month?"
DEADLINES = {"worker": 600, "filler": 50, "template": 55, "response_timeout": 60, "silence": 600}
PATIENT = {"deadlines": DEADLINES}


@dataclass(frozen=True)
class Address:
    """A gateway of another process."""

    url: str

    def http(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=TEST_TIMEOUT_SECONDS, **options)


async def gateway_of(place: Scene, name: str) -> tuple[Any, Twilio]:
    process, url = await start_gateway(place, name)
    return process, Twilio(Address(url))  # pyright: ignore[reportArgumentType] - it has what is needed


async def begun(place: Scene, session: Session) -> str:
    """Ask, and read the first words of the answer."""
    await session.say(QUESTION)
    said = await session.first_text()
    while len(said.split()) < 4:
        said += (await session.frame())["token"]
    return said


async def test_the_worker_is_killed_in_the_middle_of_a_sentence(stack: Addresses, template: str, tmp_path: Path):
    async with scene(stack, template, tmp_path) as place:
        place.environment["TWILIO_AUTH_TOKEN"] = TOKEN
        await place.client.phone.set_number(NUMBER, PATIENT)
        _, twilio = await gateway_of(place, "gateway")
        doomed = await place.start_worker("mid_text=kill")
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say(QUESTION)
            await exited(doomed, signal.SIGKILL)
            await place.start_worker()
            await session.answer()
            said = "".join(frame["token"] for frame in session.frames)
            await session.say("And which of them is the fastest?")
            assert await session.answer()
        await phone.action(CallStatus="completed", SessionStatus="completed")
        [turn, _] = await place.client.phone.turns(phone.sid)
        assert turn.answer == said
        assert not re.search(r"\b(\w{4,}) \1\b", said)
        assert (turn.heard, turn.error) == (None, "")
        assert (await place.client.phone.call(phone.sid)).sessions == 1
        assert await place.client.audit() == []


async def test_the_gateway_is_killed_in_the_middle_of_a_sentence(stack: Addresses, template: str, tmp_path: Path):
    async with scene(stack, template, tmp_path) as place:
        place.environment["TWILIO_AUTH_TOKEN"] = TOKEN
        await place.client.phone.set_number(NUMBER, PATIENT)
        await place.simulator.post("latency", seconds=0, tokens_per_second=20)
        await place.start_worker()
        (doomed, first), (_, second) = await gateway_of(place, "doomed"), await gateway_of(place, "other")
        phone = first.phone()
        await phone.ring()
        async with phone.session() as session:
            await begun(place, session)
            doomed.send_signal(signal.SIGKILL)
            await exited(doomed, signal.SIGKILL)
            await session.closed()
        again = Phone(second, phone.sid)
        twiml = await again.action(SessionStatus="failed", ErrorCode="64105")
        relay = twiml.find("Connect/ConversationRelay")
        assert relay is not None
        async with again.session(relay.get("url")) as session:
            said = await session.answer()
            await session.say("And which of them is the fastest?")
            assert await session.answer()
        await again.action(CallStatus="completed", SessionStatus="completed")
        turns = await place.client.phone.turns(phone.sid)
        assert [one.text for one in turns] == [QUESTION, "And which of them is the fastest?"]
        assert said == f"I am sorry, the line was interrupted. {turns[0].answer}"
        call = await place.client.phone.call(phone.sid)
        assert (call.sessions, call.status) == (2, "completed")
        assert len(await place.simulator.billed()) == 2
        assert await place.client.audit() == []


async def test_a_new_version_of_the_worker_is_deployed_in_the_middle_of_a_sentence(
    stack: Addresses, template: str, tmp_path: Path
):
    """The new worker starts, and the old one drains: it ends what it has begun, and takes nothing else."""
    async with scene(stack, template, tmp_path) as place:
        place.environment["TWILIO_AUTH_TOKEN"] = TOKEN
        await place.client.phone.set_number(NUMBER, PATIENT)
        await place.simulator.post("latency", seconds=0, tokens_per_second=20)
        _, twilio = await gateway_of(place, "gateway")
        old = await place.start_worker()
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await begun(place, session)
            await place.start_worker()
            old.send_signal(signal.SIGTERM)
            await session.answer()
            said = "".join(frame["token"] for frame in session.frames)
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                assert await old.wait() == 0
            await session.say("And which of them is the fastest?")
            second = await session.answer()
        turns = await place.client.phone.turns(phone.sid)
        assert [(one.answer, one.error) for one in turns] == [(said, ""), (second, "")]
        assert await place.attempts() == ["settled", "settled"]
        assert await place.client.audit() == []


async def test_without_any_worker_the_gateway_answers(stack: Addresses, template: str, tmp_path: Path):
    """The worker dies before the first word, and none comes back: not even its lease is waited for."""
    async with scene(stack, template, tmp_path) as place:
        place.environment |= {"TWILIO_AUTH_TOKEN": TOKEN, "PARLEY_LEASE_SECONDS": "600"}
        await place.client.phone.set_number(NUMBER, {"deadlines": {**DEADLINES, "worker": 3}})
        _, twilio = await gateway_of(place, "gateway")
        doomed = await place.start_worker()
        await place.simulator.gate(closed=True, provider="openai")
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say(QUESTION)
            await place.simulator.requests(at_least=1)
            doomed.kill()
            await exited(doomed, signal.SIGKILL)
            await place.simulator.gate(closed=False, provider="openai")
            first = await session.answer()
            await session.say("And which of them is the fastest?")
            second = await session.answer()
        turns = await place.client.phone.turns(phone.sid)
        assert [(one.answer, one.error) for one in turns] == [(first, ""), (second, "")]
        assert not re.search(r"\b(\w{4,}) \1\b", first)
        assert await place.client.audit() == []
