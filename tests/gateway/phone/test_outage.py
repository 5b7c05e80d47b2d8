"""A phone call while PostgreSQL is down: the talk goes on, and its cost is booked once when the database is back."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.phone import calls
from gateway.phone.calls import OpenCall
from gateway.phone.outage import request_of
from gateway.phone.routes import MOST_TRIES
from parley import Backend, Client, Settings
from parley.domain.conversation.context import NOTHING_KNOWN
from parley.domain.phone import keys
from parley.domain.phone.settings import NumberSettings
from parley.storage.spool import Spool
from parley.storage.tables import Attempt, UsageLog
from tests.activities.proxy import DatabaseProxy
from tests.gateway.parts import Running, running_gateway
from tests.gateway.phone.twilio import NUMBER, Twilio
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import LedgerFixture

pytestmark = pytest.mark.usefixtures("worker", "client")
QUESTION, NEXT, LAST = "Which formats can I export?", "And which of them is the fastest?", "Who may start the export?"
AGAIN = "And the smallest one?"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"on_ledger_down": "spool", "spool_dir": tmp_path / "spool"})


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    async with DatabaseProxy(database_url) as running:
        yield running


@pytest.fixture
async def gateway(backend: Backend, proxy: DatabaseProxy, settings: Settings) -> AsyncIterator[Running]:
    """A gateway whose connections to the database can be cut."""
    own = Backend(backend.temporal, proxy.database, settings, backend.receiver)
    async with running_gateway(own, settings) as running:
        yield running


async def test_the_talk_goes_on_and_is_stored_later(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, tmp_path: Path, simulator: SimulatorAdmin
):
    phone, spool = twilio.phone(), Spool(tmp_path / "spool", cap_usd=Decimal(1))
    await phone.ring()
    said: list[str] = []
    async with phone.session() as session:
        await session.say(QUESTION)
        said.append(await session.answer())
        proxy.cut()
        await session.say(NEXT)
        said.append(await session.answer())
        assert [one.outcome is not None for one in spool.attempts()] == [True]
        proxy.restore()
        await session.say(LAST)
        said.append(await session.answer())
    await gateway.server.phone.reported()
    assert spool.attempts() == []
    turns = await client.phone.turns(phone.sid)
    assert [(one.text, one.answer, one.outcome) for one in turns] == [
        (text, answer, "completed") for text, answer in zip((QUESTION, NEXT, LAST), said, strict=True)
    ]
    rows = await LedgerFixture(client.database, client.workspace_id).all(UsageLog)
    assert sorted(one.cost_usd for one in turns) == sorted(row.cost_usd for row in rows)
    counted = await simulator.billed()
    assert sorted(row.tokens_completion for row in rows) == sorted(one["output_tokens"] for one in counted)
    assert all(row.confirmed for row in rows)


async def test_an_answer_that_may_cost_more_than_is_left_of_the_phone_call_is_not_requested(
    gateway: Running,
    twilio: Twilio,
    client: Client,
    proxy: DatabaseProxy,
    tmp_path: Path,
    number: dict[str, Any],
):
    await client.phone.set_number(NUMBER, {**number, "limits": {"call_usd": "0.00001"}})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        proxy.cut()
        await session.say(QUESTION)
        assert "we have to end here" in await session.answer()
        assert Spool(tmp_path / "spool", cap_usd=Decimal(1)).attempts() == []
        proxy.restore()
    await gateway.server.phone.reported()


async def test_requests_of_a_turn_without_an_answer_are_booked_too(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, tmp_path: Path, simulator: SimulatorAdmin
):
    phone, spool = twilio.phone(), Spool(tmp_path / "spool", cap_usd=Decimal(1))
    await phone.ring()
    async with phone.session() as session:
        proxy.cut()
        await simulator.fault("cut", times=None)
        await session.say(QUESTION)
        assert "Could you say it again" in await session.answer()
        assert len(spool.attempts()) > 0
        proxy.restore()
        await gateway.server.phone.reported()
    assert spool.attempts() == []
    rows = await LedgerFixture(client.database, client.workspace_id).all(Attempt)
    assert [(row.state, row.billed) for row in rows] == [("failed", "unknown")]


async def test_a_report_that_fails_is_sent_again(gateway: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 0.01)
    tried = list[str]()

    async def work() -> None:
        tried.append("")
        if len(tried) == 1:
            raise RuntimeError("the connection was closed in the middle of a result")

    gateway.server.phone._report("any", work)  # pyright: ignore[reportPrivateUsage]
    await gateway.server.phone.reported()
    assert len(tried) == 2


async def test_an_interruption_is_kept(gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        proxy.cut()
        await session.say(QUESTION)
        said = await session.answer()
        await session.interrupt(" ".join(said.split()[:3]), 900)
        proxy.restore()
        await session.say(NEXT)
        await session.answer()
    await gateway.server.phone.reported()
    turns = await client.phone.turns(phone.sid)
    assert [(one.text, one.heard) for one in turns] == [(QUESTION, " ".join(said.split()[:3])), (NEXT, None)]


async def test_a_phone_call_that_is_connected_again_meanwhile_keeps_its_turns(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy
):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say(QUESTION)
        said = [await session.answer()]
    proxy.cut()
    async with phone.session() as session:
        await session.say(NEXT)
        said.append(await session.answer())
    proxy.restore()
    await gateway.server.phone.reported()
    turns = await client.phone.turns(phone.sid)
    assert [(one.text, one.answer) for one in turns] == list(zip((QUESTION, NEXT), said, strict=True))


async def test_the_talk_goes_on_while_postgresql_is_silent(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, tmp_path: Path
):
    """It refuses nothing and answers nothing, as when its host is frozen: statements wait, also when cancelled."""
    phone, said = twilio.phone(), list[str]()
    await phone.ring()
    async with phone.session() as session:
        await session.say(QUESTION)
        said.append(await session.answer())
        proxy.fall_silent()
        await session.say(NEXT)
        said.append(await session.answer())
        await session.say(AGAIN)
        said.append(await session.answer())
        assert len(Spool(tmp_path / "spool", cap_usd=Decimal(1)).attempts()) == 2
        proxy.cut()
        proxy.restore()
        await session.say(LAST)
        said.append(await session.answer())
    await gateway.server.phone.reported()
    turns = await client.phone.turns(phone.sid)
    assert [(one.text, one.answer, one.outcome) for one in turns] == [
        (text, answer, "completed") for text, answer in zip((QUESTION, NEXT, AGAIN, LAST), said, strict=True)
    ]


async def test_a_phone_call_begins_and_ends_while_postgresql_is_silent(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy
):
    """What this process knows of the number is enough. The session is recorded later, and its end is not waited for."""
    await twilio.phone().ring()
    proxy.fall_silent()
    phone = twilio.phone()
    assert (await phone.ring()).find("Connect/ConversationRelay") is not None
    async with phone.session() as session:
        await session.say(QUESTION)
        said = await session.answer()
    assert (await phone.action(SessionStatus="failed", ErrorCode="64105")).find("Connect/ConversationRelay") is not None
    proxy.cut()
    proxy.restore()
    await gateway.server.phone.reported()
    call, turns = await client.phone.call(phone.sid), await client.phone.turns(phone.sid)
    assert (call.status, call.sessions, call.turns) == ("ringing", 1, 1)
    assert [(one.text, one.answer, one.outcome) for one in turns] == [(QUESTION, said, "completed")]
    async with phone.session() as session:
        assert "the line was interrupted" in await session.answer()
    assert (await client.phone.call(phone.sid)).sessions == 2


@pytest.mark.parametrize("had_session", [False, True])
async def test_a_number_that_is_not_known_while_postgresql_is_silent_is_asked_for_again(
    gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, had_session: bool
):
    phone = twilio.phone()
    proxy.fall_silent()
    if had_session:
        twiml = await phone.action(SessionStatus="failed", ErrorCode="64105")
    else:
        twiml = await phone.ring()
    assert [verb.tag for verb in twiml] == ["Say", "Pause", "Redirect"]
    twiml = await phone.follow(twiml)
    assert [verb.tag for verb in twiml] == ["Pause", "Redirect"]
    proxy.cut()
    proxy.restore()
    await until(gateway.server.phone.database.is_up)  # a caller waits some seconds meanwhile
    while (relay := twiml.find("Connect/ConversationRelay")) is None:
        twiml = await phone.follow(twiml)
    assert (relay.get("welcomeGreeting") is None) == had_session
    proxy.cut()
    gateway.server.phone._known.clear()  # pyright: ignore[reportPrivateUsage]
    twiml, redirects = await phone.ring(), 0
    while twiml.find("Redirect") is not None:
        twiml, redirects = await phone.follow(twiml), redirects + 1
    assert [verb.tag for verb in twiml] == ["Say", "Hangup"]
    assert redirects == MOST_TRIES
    proxy.restore()


@pytest.mark.parametrize("when", ["it opens", "the next session begins"])
async def test_digits_are_secret_where_postgresql_could_not_say_that_their_entry_is_open(  # noqa: PLR0917
    gateway: Running,
    twilio: Twilio,
    client: Client,
    backend: Backend,
    settings: Settings,
    proxy: DatabaseProxy,
    number: dict[str, Any],
    when: str,
):
    entry = {"kind": "enter", "name": "PIN", "secret": True, "text": "Enter your PIN, please."}
    await client.phone.set_number(NUMBER, {**number, "keys": {"2": entry}, "digits": {"seconds": 60}})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session, running_gateway(backend, settings) as running:

        async def is_recorded() -> bool:
            return (await client.phone.call(phone.sid)).sessions == 1

        await until(is_recorded)
        if when == "it opens":
            proxy.cut()
        await session.press("2")
        await session.answer()
        await session.press("407")
        if when == "it opens":  # the first gateway is lost, and the next one has PostgreSQL
            other = Twilio(running).phone(phone.sid)
        else:
            proxy.cut()
            other = phone
        async with other.session() as again:
            if when == "it opens":
                assert "the line was interrupted" in await again.answer()
            await again.press("18253#")
            await again.answer()
        proxy.restore()
    await gateway.server.phone.reported()
    assert [one.text for one in await client.phone.turns(phone.sid)] == [
        f"(The caller entered the PIN by keys. It has 5 digits, and is secret. {keys.AGAIN})"
    ]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_model_reads_that_the_knowledge_base_says_nothing(is_wanted: bool):
    call = OpenCall("acme", "CA1", "ann", NumberSettings(knowledge=is_wanted), "en-US", {})
    asked = request_of(call, QUESTION).messages[-1].text
    assert asked == (f"{NOTHING_KNOWN}\n\n{QUESTION}" if is_wanted else QUESTION)


class TestRefusing:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"on_ledger_down": "refuse"})

    async def test_nothing_is_sent_and_the_caller_hears_an_apology(
        self, gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, simulator: SimulatorAdmin
    ):
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            proxy.cut()
            await session.say(QUESTION)
            assert "Could you say it again" in await session.answer()
            proxy.restore()
            assert await simulator.billed() == []
            await session.say(QUESTION)
            said = await session.answer()
        await gateway.server.phone.reported()
        turns = await client.phone.turns(phone.sid)
        assert [(one.outcome, one.error, one.answer) for one in turns] == [
            ("failed", "Unreachable", None),
            ("completed", "", said),
        ]


class TestWithoutASpool:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"on_ledger_down": "refuse"})

    async def test_the_caller_gets_an_apology_at_the_deadline_while_postgresql_is_silent(
        self, gateway: Running, twilio: Twilio, client: Client, proxy: DatabaseProxy, number: dict[str, Any]
    ):
        deadlines = {"filler": 50, "template": 60, "response_timeout": 1, "silence": 600}
        await client.phone.set_number(NUMBER, {**number, "deadlines": deadlines})
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say(QUESTION)
            await session.answer()
            proxy.fall_silent()
            for text in (NEXT, AGAIN):  # the second one also has what could not be stored of the first
                await session.say(text)
                # The driver gives up after half a minute.
                assert "Could you say it again" in await asyncio.wait_for(session.answer(), 20)
            proxy.cut()
            proxy.restore()
            await session.say(LAST)
            assert await session.answer()
        await gateway.server.phone.reported()
