"""Each fault of a provider in each paid step of a phone call, and a fault of the local search before the answer.

The answer itself is in test_every_fault.py. Here as many phone calls are held as there are faults: each fault meets one
of them. Whatever fails, the caller hears something, or the phone call ends as it should; nothing is paid twice, and the
ledger agrees with what the simulator would bill.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from parley import Client, Settings
from parley.cli.billed import read_billed
from parley.domain.phone.contract import PhoneCallReport, workflow_id
from parley.domain.phone.settings import Phrases
from parley.embedder import Embedder
from parley.testing import SimulatorAdmin
from simulator.faults import CHAT, FAULTS
from tests.gateway.parts import Running, with_open_models
from tests.gateway.phone.test_recordings import made
from tests.gateway.phone.twilio import NUMBER, Phone, Session, Twilio
from tests.parts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.usefixtures("worker", "ledger_agrees")

REFUSED = ("rate_limit", "server_error", "overloaded", "auth", "html")
LATE = ("hang", "slow")
BROKEN = ("cut", "not_json")
# Only a chat completion has these. The reply is paid for, and may be of no use.
CORRUPTED = ("malformed", "truncated", "empty", "no_finish")
BREAKS_OF_STREAMS = ("cut_at_first_token", "cut_after_last_token", "in_stream_error", "stall")
FACT = "I live in Oslo. Which formats can I export?"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """A provider that hangs is given up soon, no breaker opens, and there are models to fall back to."""
    settings = with_open_models(settings, tmp_path)
    return settings.model_copy(update={"provider_timeout_seconds": 2, "breaker_failures": 1000})


@pytest.fixture
async def ledger_agrees(client: Client, simulator: SimulatorAdmin, tmp_path: Path) -> AsyncIterator[None]:
    """After the test the ledger agrees with the provider's list."""
    yield
    path = tmp_path / "billed.json"
    path.write_text(json.dumps(await simulator.requests()))
    assert await client.audit(read_billed(path)) == []


class Calls(NamedTuple):
    """Phone calls that are held at once, each of a caller of its own."""

    phones: Sequence[Phone]
    sessions: Sequence[Session]

    async def each(self, work: Callable[[Session], Awaitable[Any]]) -> list[Any]:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return await asyncio.gather(*map(work, self.sessions))

    async def end(self) -> None:
        await asyncio.gather(*(one.action(CallStatus="completed", SessionStatus="completed") for one in self.phones))


Hold = Callable[[int], Awaitable[Calls]]


@pytest.fixture
async def hold(twilio: Twilio) -> AsyncIterator[Hold]:
    """Begins so many phone calls."""
    async with AsyncExitStack() as open_sessions:

        async def begin(count: int) -> Calls:
            phones = [twilio.phone(From=f"+1555020{number:04}") for number in range(count)]
            await asyncio.gather(*(phone.ring() for phone in phones))
            return Calls(phones, [await open_sessions.enter_async_context(phone.session()) for phone in phones])

        yield begin


async def plan(simulator: SimulatorAdmin, faults: Sequence[str], **terms: Any) -> None:
    for fault in faults:
        await simulator.fault(fault, **terms, **({"hold": 0.3} if fault == "slow" else {}))


async def all_happened(simulator: SimulatorAdmin, faults: Sequence[str]) -> None:
    assert sorted(one["fault"] for one in await simulator.requests() if one["fault"]) == sorted(faults)


class TestAfterTheHangUp:
    """The summary, the facts of the caller, and the analysis: each is the only paid step after the hang-up."""

    FAULTS = (*REFUSED, *LATE, *BROKEN, *CORRUPTED)

    @pytest.fixture
    async def ended(
        self,
        client: Client,
        number: dict[str, Any],
        hold: Hold,
        simulator: SimulatorAdmin,
        request: pytest.FixtureRequest,
    ) -> list[PhoneCallReport]:
        """Phone calls after their work is done, which one setting of the number wants. In each a fault happened."""
        faults = self.FAULTS
        await client.phone.set_number(NUMBER, {**number, request.param: True})
        calls = await hold(len(faults))
        await calls.each(lambda session: session.say(FACT))
        await calls.each(lambda session: session.answer())
        await plan(simulator, faults)
        await calls.end()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            for phone in calls.phones:
                await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, phone.sid)).result()
        ended = [await client.phone.call(phone.sid) for phone in calls.phones]
        assert [(one.status, one.reason, one.turns, one.errors) for one in ended] == [
            ("completed", "caller", 1, 0)
        ] * len(faults)
        if request.param != "analysis":  # its own job
            await all_happened(simulator, faults)
        return ended

    @pytest.mark.parametrize("ended", ["summary"], indirect=True)
    async def test_the_summary_is_made(self, ended: list[PhoneCallReport]):
        assert all(one.summary for one in ended)

    @pytest.mark.parametrize("ended", ["remember"], indirect=True)
    async def test_facts_are_extracted_where_the_reply_can_be_read(self, client: Client, ended: list[PhoneCallReport]):
        remembered = [bool(await client.memory.show(one.user_id)) for one in ended]
        assert remembered.count(False) <= len(CORRUPTED), remembered

    @pytest.mark.parametrize("ended", ["analysis"], indirect=True)
    async def test_the_analysis_is_made(self, client: Client, simulator: SimulatorAdmin, ended: list[PhoneCallReport]):
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            reports = [await (await client.job(one.analysis)).result() for one in ended]
        await all_happened(simulator, self.FAULTS)
        assert all(one.analysis and one.analysis.coaching.processed for one in reports)


async def test_the_caller_hears_something_where_the_turn_of_a_tool_fails(
    client: Client, number: dict[str, Any], hold: Hold, simulator: SimulatorAdmin
):
    faults = [*REFUSED, *LATE, *BROKEN, *CORRUPTED, *BREAKS_OF_STREAMS]
    await client.phone.set_number(
        NUMBER, {**number, "tools": ["change_language"], "languages": [{"code": "de-DE"}, {"code": "es-ES"}]}
    )
    calls = await hold(len(faults))
    await plan(simulator, faults)
    await calls.each(lambda session: session.say("Please change the language to es-ES."))
    said = await calls.each(lambda session: session.answer())
    await all_happened(simulator, faults)
    assert set(said) <= {Phrases().done, Phrases().apology}
    assert said.count(Phrases().apology) <= len(CORRUPTED), said
    for phone, heard in zip(calls.phones, said, strict=True):
        [turn] = await client.phone.turns(phone.sid)
        assert (turn.heard, bool(turn.error)) == (heard, heard == Phrases().apology)


async def test_the_caller_hears_what_could_not_be_recorded(
    client: Client,
    gateway: Running,
    number: dict[str, Any],
    hold: Hold,
    simulator: SimulatorAdmin,
):
    faults = [fault for fault in (*REFUSED, *LATE, *BROKEN) if not FAULTS[fault] & CHAT]
    await client.phone.set_number(NUMBER, {**number, "recorded_voice": "AnyVoice1"})
    await plan(simulator, faults, provider="elevenlabs")
    calls = await hold(1)
    await made(gateway)
    await all_happened(simulator, faults)
    recordings = gateway.server.phone.recordings._made.values()  # pyright: ignore[reportPrivateUsage]
    # Another attempt succeeds, except where a key is refused, which is not tried again, or where there was no time.
    assert sum(one.result() is None for one in recordings) <= len(faults) // 2
    await simulator.fault("auth", times=None)
    await calls.sessions[0].say("Which formats can I export?")
    frame = await calls.sessions[0].frame()
    assert frame["type"] == "play" or frame["token"] == Phrases().apology


async def test_the_knowledge_base_is_searched_by_words_where_no_vector_can_be_computed(
    client: Client, hold: Hold, monkeypatch: pytest.MonkeyPatch
):
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the model cannot be loaded")

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.sleep(TEST_TIMEOUT_SECONDS)

    await client.knowledge.add("The pool opens at six and closes at ten.", name="pool.md")
    calls = await hold(2)
    for fault, session in zip((fail, hang), calls.sessions, strict=True):
        monkeypatch.setattr(Embedder, "vectors", fault)
        await session.say("When does the pool open?")
        assert await session.answer()
    for phone in calls.phones:
        [turn] = await client.phone.turns(phone.sid)
        assert (turn.error, bool(turn.knowledge_used)) == ("", True)
