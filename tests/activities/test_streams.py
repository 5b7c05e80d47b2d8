"""The paid call with a stream: what its sink does or fails to do changes nothing of what is paid."""

import asyncio
from datetime import datetime
from uuid import UUID

import pytest
from temporalio.testing import ActivityEnvironment

from activities.paid_call import PaidCalls
from activities.streams import ReplyStream
from parley.domain.errors import ProviderUnavailable, StreamSuperseded, Unreachable
from parley.domain.requests import ChatReply, Finish
from parley.domain.streaming import Delivered, Delta, TextDelta
from parley.settings import Settings
from parley.storage.database import Database
from parley.storage.ledger import Charge, Settled
from tests.activities.asking import ANTHROPIC, OPENAI, Ask
from tests.activities.conftest import Opener
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import JOB, PRICE, STEP, USAGE, USER, WORKSPACE, LedgerFixture

CHATS = pytest.mark.parametrize("ask", [OPENAI, ANTHROPIC], ids=lambda ask: ask.provider.value)


class RecordingSink:
    """Keeps what it is given. `fails`: the methods that raise an error."""

    def __init__(self, delivered: Delivered | None = None, fails: tuple[str, ...] = ()) -> None:
        self._delivered, self._fails = delivered or Delivered(attempt=1), fails
        self.sent: list[Delta] = []
        self.pays: list[tuple[str, str]] = []
        self.replies: list[ChatReply] = []
        self.readers_left, self.is_closed, self.is_newest = asyncio.Event(), False, True

    async def open(self, scheduled_at: datetime | None = None) -> Delivered:
        self._may_fail("open")
        return self._delivered

    async def record_claim(self, paid_request_id: str, attempt_id: str) -> bool:
        self._may_fail("record_claim")
        self.pays.append((paid_request_id, attempt_id))
        return self.is_newest

    def send(self, delta: Delta) -> None:
        self._may_fail("send")
        self.sent.append(delta)

    async def complete(self, reply: ChatReply) -> None:
        self._may_fail("complete")
        self.replies.append(reply)

    async def cancelled(self) -> None:
        self._may_fail("cancelled")
        await self.readers_left.wait()

    async def close(self) -> None:
        self.is_closed = True
        self._may_fail("close")

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.sent if isinstance(delta, TextDelta))

    def _may_fail(self, name: str) -> None:
        if name in self._fails:
            raise OSError(f"{name} fails")


async def opened(sink: RecordingSink, *, holds_text: bool = False) -> ReplyStream:
    stream = await ReplyStream.open(sink, holds_text=holds_text)
    assert stream
    return stream


async def make(paid_calls: PaidCalls, stream: ReplyStream, ask: Ask = OPENAI, step: str = STEP) -> Settled:
    charge = Charge(
        workspace_id=WORKSPACE,
        user_id=USER,
        job_key=JOB,
        workflow_id="workflow",
        request_id=f"{JOB}/{step}",
        action="ai_message",
        energy=PRICE,
    )
    made = paid_calls.make(charge, ask.request, ask.provider, ask.model, stream=stream)

    async def run() -> Settled:
        return await made

    return await ActivityEnvironment().run(run)


def chat(settled: Settled) -> ChatReply:
    assert isinstance(settled.reply, ChatReply)
    return settled.reply


@CHATS
async def test_a_reply_is_claimed_sent_recorded_and_settled_at_the_vendors_count(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, ask: Ask
):
    sink = RecordingSink()
    settled = await make(paid_calls, await opened(sink), ask)
    assert sink.pays == [(f"{JOB}/{STEP}", str(settled.attempt_id))]
    assert len(sink.sent) > 3
    assert (sink.text, sink.replies) == (chat(settled).text, [settled.reply])
    (counted,) = await simulator.requests()
    row = await books.row(settled.attempt_id)
    assert (row.tokens_completion, row.cost_usd, row.confirmed) == (counted["output_tokens"], ask.cost(counted), True)


@pytest.mark.parametrize("step", ["record_claim", "send", "complete", "cancelled"])
async def test_a_sink_that_fails_changes_nothing(
    paid_calls: PaidCalls, books: LedgerFixture, caplog: pytest.LogCaptureFixture, step: str
):
    stream = await opened(RecordingSink(fails=(step, "close")))
    settled = await make(paid_calls, stream)
    await stream.close()
    assert chat(settled).finish is Finish.STOP
    assert (await books.row(settled.attempt_id)).confirmed
    assert "close fails" in caplog.text


async def test_a_sink_that_does_not_open_leaves_the_answer_without_a_stream():
    assert await ReplyStream.open(RecordingSink(fails=("open",)), holds_text=False) is None


async def test_an_unreachable_database_is_waited_for_before_a_stream_is_opened():
    class WithoutDatabase(RecordingSink):
        async def open(self, scheduled_at: datetime | None = None) -> Delivered:
            raise Unreachable("PostgreSQL does not answer")

    with pytest.raises(Unreachable):
        await ReplyStream.open(WithoutDatabase(), holds_text=False)


async def test_text_that_is_held_back_is_sent_with_the_rest(paid_calls: PaidCalls, books: LedgerFixture):
    sink = RecordingSink()
    stream = await opened(sink, holds_text=True)
    settled = await make(paid_calls, stream)
    assert (sink.sent, sink.replies) == ([], [settled.reply])
    stream.send_rest(chat(settled))
    assert sink.sent == [TextDelta(text=chat(settled).text)]


async def test_a_continuation_is_settled_with_the_text_before_it(paid_calls: PaidCalls, books: LedgerFixture):
    sink = RecordingSink(Delivered(attempt=2, deltas=(TextDelta(text="Before that. "),)))
    settled = await make(paid_calls, await opened(sink))
    assert chat(settled).text == f"Before that. {sink.text}"
    assert chat(settled).continues
    assert sink.replies == [settled.reply]


@CHATS
async def test_readers_who_leave_close_the_connection_and_the_cost_is_uncertain(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, ask: Ask
):
    await simulator.fault("stall")
    sink = RecordingSink()
    making = asyncio.create_task(make(paid_calls, await opened(sink), ask))
    await simulator.requests(at_least=1, state="cut")
    while len(sink.sent) < 3:
        await asyncio.sleep(0.01)
    sink.readers_left.set()
    settled = await making
    assert (chat(settled).text, chat(settled).finish) == (sink.text, Finish.CANCELLED)
    (billed,) = await simulator.requests(at_least=1, state="gone")
    row = await books.row(settled.attempt_id)
    assert (row.confirmed, row.cost_usd, row.energy_charged) == (False, ask.bound, PRICE)
    assert 0 < ask.cost(billed) <= row.cost_usd


@CHATS
async def test_an_attempt_in_whose_place_a_newer_one_is_paid_stops_its_request(
    open_calls: Opener,
    database: Database,
    settings: Settings,
    books: LedgerFixture,
    simulator: SimulatorAdmin,
    ask: Ask,
):
    calls = open_calls(database, settings.model_copy(update={"lease_seconds": 0.3}))
    await simulator.fault("stall")
    sink = RecordingSink()
    making = asyncio.create_task(make(calls, await opened(sink), ask))
    await simulator.requests(at_least=1, state="cut")
    newer = await books.granted("stream-2", supersedes=UUID(sink.pays[0][1]))
    with pytest.raises(StreamSuperseded):
        await making
    (billed,) = await simulator.requests(at_least=1, state="gone")
    row = await books.row(UUID(sink.pays[0][1]))
    assert (row.confirmed, row.cost_usd, row.energy_charged) == (False, ask.bound, 0)
    assert 0 < ask.cost(billed) <= row.cost_usd
    assert (await books.states(), sink.replies) == (["lost"], [])
    await books.settle(newer)
    assert await books.energy() == (PRICE, 0)


async def test_a_stream_may_be_longer_than_the_timeout_but_not_silent_for_so_long(
    open_calls: Opener, database: Database, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    calls = open_calls(database, settings.model_copy(update={"provider_timeout_seconds": 0.4}))
    await simulator.fault("slow_tokens", hold=1.6)
    assert chat(await make(calls, await opened(RecordingSink()))).finish is Finish.STOP
    await simulator.fault("stall")
    with pytest.raises(ProviderUnavailable, match="no answer within"):
        await make(calls, await opened(RecordingSink()), step="another")


async def test_a_reply_that_was_received_is_settled_once_although_its_worker_held_the_lease(
    paid_calls: PaidCalls, books: LedgerFixture
):
    attempt_id: UUID = await books.granted()
    answer = ChatReply(text="whole", finish=Finish.STOP, usage=USAGE, model="model-1")
    for _ in range(2):
        settled = await paid_calls.settle_received(WORKSPACE, attempt_id, answer)
        assert (chat(settled).text, settled.attempt_id) == ("whole", attempt_id)
    assert await books.energy() == (PRICE, 0)
    assert await books.states() == ["settled"]


async def test_an_attempt_that_is_not_the_newest_sends_and_costs_nothing(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    sink = RecordingSink()
    sink.is_newest = False
    stream = await opened(sink)
    with pytest.raises(StreamSuperseded):
        await make(paid_calls, stream)
    assert (await simulator.requests(), await books.states(), await books.rows()) == ([], ["failed"], [])
    sink.is_newest = True
    assert (await make(paid_calls, stream)).cost_usd > 0
