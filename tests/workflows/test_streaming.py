"""An answer is streamed while it is made: every delta once, one charge, whatever breaks; in both modes."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from parley import Backend, CachePolicy, Client, GenerateResult, GenerateStream, TextDelta, ToolCallDelta
from parley.client.generate import generate, generate_input
from parley.domain.budgets import Period
from parley.domain.errors import IdempotencyConflict, JobFailed
from parley.domain.generate.contract import Cached, Job, ask_id, workflow_id
from parley.domain.requests import ChatReply, Finish, Provider
from parley.domain.streaming import Delta, StreamBroken, StreamTarget
from parley.storage import energy, ledger
from parley.storage.budgets import Envelope
from parley.storage.ledger import Charge, Claim, Granted, Offer, Settlement
from parley.storage.tables import Attempt, CachedAnswer, Generation, UsageLog, utc_now
from parley.streams.hub import PROCESS_HUB
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import BOUND, RATES, TERMS, reply
from tests.workflows.modes import BOTH_MODES, durable_only

pytestmark = [pytest.mark.usefixtures("worker"), BOTH_MODES]

USER, KEY = "ann", "order-7"
QUESTION = "Does the export to CSV contain the notes, and who may start the export at the end of the month?"
VERDICT = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def streamed(client: Client, question: str = QUESTION, **options: Any) -> GenerateStream:
    return client.generate_stream(question, **{"user_id": USER, "cache": CachePolicy.OFF, "key": KEY, **options})


async def read(client: Client, question: str = QUESTION, **options: Any) -> tuple[list[Delta], GenerateResult]:
    async with streamed(client, question, **options) as stream:
        return [delta async for delta in stream], await stream.result()


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def stored(client: Client, kind: type[Any]) -> list[Any]:
    async with client.database.transaction() as tx:
        rows = (await tx.execute(select(kind).where(kind.workspace_id == client.workspace_id))).scalars().all()
    return sorted(rows, key=lambda row: getattr(row, "started_at", None) or row.created_at)


async def states(client: Client) -> list[str]:
    return [attempt.state for attempt in await stored(client, Attempt)]


async def charged(client: Client) -> tuple[int, int]:
    balance = await client.energy(USER)
    return balance.charged, balance.reserved


@pytest.fixture
async def client(client: Client) -> AsyncIterator[Client]:
    """Whatever a test does, the ledger agrees with itself afterwards."""
    yield client
    assert await client.audit() == []


class TestAnAnswer:
    async def test_comes_in_deltas_and_ends_with_the_result_of_generate(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        deltas, result = await read(client)
        assert len(deltas) > 5
        assert text(deltas) == result.content
        assert (result.meta.attempts, result.meta.finish, result.meta.warnings) == (1, Finish.STOP, ())
        assert [request["stream"] for request in await simulator.billed()] == [True]
        assert (await states(client), await charged(client)) == (["settled"], (1, 0))

    async def test_is_read_before_it_is_complete(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("stall")
        async with streamed(client, on_disconnect="cancel") as stream:
            assert isinstance(await anext(aiter(stream)), TextDelta)

    async def test_that_is_stored_already_comes_as_one_delta(self, client: Client) -> None:
        first = await client.generate(QUESTION, user_id=USER, key=KEY, cache=CachePolicy.OFF)
        deltas, again = await read(client)
        assert (text(deltas), again.meta.request_id) == (first.content, first.meta.request_id)
        assert len(deltas) == 1

    async def test_from_the_cache_comes_as_one_delta(self, client: Client) -> None:
        first = await client.generate(QUESTION, user_id=USER, cache=CachePolicy.EXACT)
        deltas, hit = await read(client, cache=CachePolicy.EXACT)
        assert (text(deltas), hit.meta.cached) == (first.content, Cached.EXACT)

    async def test_has_several_readers_and_one_charge(self, client: Client) -> None:
        (one, first), (other, second) = await asyncio.gather(read(client), read(client))
        assert text(one) == text(other) == first.content == second.content
        assert await charged(client) == (1, 0)

    async def test_that_must_follow_a_schema_comes_after_it_was_checked(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("malformed")
        deltas, result = await read(client, response_schema=VERDICT)
        assert len(deltas) == 1
        assert json.loads(text(deltas)) == result.parsed
        assert result.meta.attempts == 2

    async def test_of_any_json_object_comes_as_it_is_made(self, client: Client) -> None:
        deltas, result = await read(client, json_object=True)
        assert json.loads(text(deltas)) == result.parsed

    async def test_with_tool_calls_comes_with_each_call_whole(self, client: Client) -> None:
        deltas, result = await read(client, "What is the weather in Oslo?", tools=[WEATHER], tool_choice="required")
        [call] = result.tool_calls
        assert deltas == [ToolCallDelta(index=0, id=call.id, name=call.name, arguments=call.arguments)]

    async def test_that_is_too_long_for_a_history_is_whole(self, client: Client) -> None:
        deltas, result = await read(client, f"Is it in the notes? {'The notes say so. ' * 200}")
        assert text(deltas) == result.content

    async def test_that_is_refused_has_no_deltas(self, client: Client) -> None:
        await client.set_cap(Period.DAY, Decimal(0))
        deltas, result = await read(client)
        assert (deltas, result.success) == ([], False)

    async def test_without_a_provider_is_an_error(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("quota", times=None)
        with pytest.raises(JobFailed):
            await read(client)
        await simulator.reset()
        deltas, result = await read(client)
        assert text(deltas) == result.content

    async def test_under_the_key_of_another_request_is_a_conflict(self, client: Client) -> None:
        await read(client)
        with pytest.raises(IdempotencyConflict):
            await read(client, "Something else")

    async def test_may_be_asked_again_without_a_stream(self, client: Client) -> None:
        _, first = await read(client)
        again = await client.generate(QUESTION, user_id=USER, cache=CachePolicy.OFF, key=KEY)
        assert again.content == first.content
        assert (await states(client), await charged(client)) == (["settled"], (1, 0))


@pytest.fixture
async def whole(client: Client) -> str:
    """The answer, as another user gets it."""
    return (await client.generate(QUESTION, user_id="bob", cache=CachePolicy.OFF)).content or ""


class TestABreakAfterText:
    """Nothing that a reader saw is taken back or repeated."""

    @pytest.mark.parametrize(
        ("fault", "provider"),
        [
            ("cut_at_first_token", Provider.OPENAI),
            ("cut", Provider.ANTHROPIC),
            ("in_stream_error", Provider.OPENAI),
            ("aborted", Provider.ANTHROPIC),
            ("cut_after_last_token", Provider.OPENAI),
            ("no_finish", Provider.ANTHROPIC),
        ],
    )
    async def test_is_continued_by_a_further_request(
        self, client: Client, simulator: SimulatorAdmin, whole: str, fault: str, provider: Provider
    ) -> None:
        async with client.database.transaction() as tx:
            await energy.open_account(tx, client.workspace_id, USER, starting_energy=1)
        await client.set_tier(USER, "pro")
        await simulator.fault(fault, provider=provider.value)
        deltas, result = await read(client, provider=provider)
        assert text(deltas) == result.content == whole
        assert (result.meta.attempts, result.meta.finish, len(result.meta.warnings)) == (2, Finish.STOP, 1)
        assert await charged(client) == (1, 0)

    async def test_costs_what_both_requests_cost(self, client: Client, simulator: SimulatorAdmin, whole: str) -> None:
        await simulator.fault("aborted")
        _, result = await read(client)
        broken, rest = [row for row in await stored(client, UsageLog) if row.user_id == USER]
        counted = (await simulator.billed())[-2:]
        assert [row.tokens_completion for row in (broken, rest)] == [one["output_tokens"] for one in counted]
        assert result.meta.cost_usd == broken.cost_usd + rest.cost_usd
        assert result.meta.usage.output_tokens == sum(one["output_tokens"] for one in counted)
        [generation] = [row for row in await stored(client, Generation) if row.user_id == USER]
        assert generation.cost_usd == result.meta.cost_usd
        again = await client.generate(QUESTION, user_id=USER, cache=CachePolicy.OFF, key=KEY)
        assert (again.content, again.meta.usage, again.meta.attempts) == (whole, result.meta.usage, 2)

    async def test_is_continued_by_another_provider(
        self, client: Client, simulator: SimulatorAdmin, whole: str
    ) -> None:
        await client.set_tier(USER, "pro")
        await simulator.fault("cut", provider="anthropic")
        await simulator.fault("quota", provider="anthropic", times=None)
        deltas, result = await read(client, provider=Provider.ANTHROPIC)
        assert text(deltas) == result.content == whole
        assert result.meta.provider is Provider.OPENAI

    async def test_may_happen_again(self, client: Client, simulator: SimulatorAdmin, whole: str) -> None:
        await simulator.fault("cut", times=2)
        deltas, result = await read(client)
        assert text(deltas) == result.content == whole
        assert (result.meta.attempts, await charged(client)) == (3, (1, 0))

    async def test_before_any_text_repeats_the_request(
        self, client: Client, simulator: SimulatorAdmin, whole: str
    ) -> None:
        await simulator.fault("server_error")
        deltas, result = await read(client)
        assert (text(deltas), result.meta.warnings) == (whole, ())
        assert len({attempt.request_id for attempt in await stored(client, Attempt)}) == 2  # bob's and ann's

    async def test_of_an_object_that_is_not_one_in_the_end_is_an_error(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("malformed", times=None)
        with pytest.raises(JobFailed) as failed:
            await read(client, json_object=True)
        assert failed.value.reason == "MalformedReply"
        assert await states(client) == ["settled"]

    async def test_is_not_cached(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("cut")
        await read(client, cache=CachePolicy.EXACT)
        assert await stored(client, CachedAnswer) == []


class TestAReaderWhoLeaves:
    async def test_does_not_end_the_answer(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.gate(closed=True, provider="openai")
        async with streamed(client):
            await simulator.requests(at_least=1, state="in_flight")
        await simulator.gate(closed=False, provider="openai")

        async def answered() -> bool:
            return await states(client) == ["settled"]

        await until(answered)
        deltas, result = await read(client)
        assert (text(deltas), result.meta.attempts, await charged(client)) == (result.content, 1, (1, 0))

    async def test_at_once_does_not_end_the_answer_either(self, client: Client) -> None:
        async with streamed(client):
            pass

        async def answered() -> bool:
            return await states(client) == ["settled"]

        await until(answered)

    @pytest.mark.parametrize("provider", [Provider.OPENAI, Provider.ANTHROPIC])
    async def test_cancels_the_request_where_that_is_wanted(
        self, client: Client, simulator: SimulatorAdmin, provider: Provider
    ) -> None:
        await client.set_tier(USER, "pro")
        await client.set_tier("bob", "pro")
        await simulator.fault("stall", provider=provider.value)
        seen: list[Delta] = []
        async with streamed(client, on_disconnect="cancel", provider=provider) as stream:
            async for delta in stream:
                seen.append(delta)
                if len(seen) == 5:
                    break
        [billed] = await simulator.requests(at_least=1, state="gone")

        async def settled() -> bool:
            return await states(client) == ["settled"]

        await until(settled)
        result = await client.generate(QUESTION, user_id=USER, cache=CachePolicy.OFF, key=KEY, provider=provider)
        assert result.success and result.meta.finish is Finish.CANCELLED
        assert (result.content or "").startswith(text(seen))
        [attempt], [row] = await stored(client, Attempt), await stored(client, UsageLog)
        assert (row.confirmed, row.cost_usd) == (False, attempt.upper_bound_usd)
        # The simulator bills the tokens that it sent before the client left.
        whole = await client.generate(QUESTION, user_id="bob", cache=CachePolicy.OFF, provider=provider)
        assert 0 < billed["output_tokens"] < whole.meta.usage.output_tokens
        assert await charged(client) == (1, 0)

    @durable_only("an inline generation begins with its reader")
    async def test_before_the_request_is_sent_costs_nothing(
        self, client: Client, backend: Backend, simulator: SimulatorAdmin
    ) -> None:
        target = StreamTarget(on_disconnect="cancel")
        asked = generate_input(client.workspace_id, QUESTION, user_id=USER, cache=CachePolicy.OFF)
        PROCESS_HUB.read(client.workspace_id, workflow_id(client.workspace_id, KEY)).close()
        result = await generate(backend, asked.model_copy(update={"stream": target}), KEY)
        assert (result.success, result.meta.finish) == (True, Finish.CANCELLED)
        assert await simulator.requests() == []
        [row] = await stored(client, UsageLog)
        assert (row.confirmed, row.cost_usd) == (True, 0)

    async def test_of_an_answer_that_is_held_back_cancels_it_too(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("stall")
        async with streamed(client, on_disconnect="cancel", response_schema=VERDICT):
            await simulator.requests(at_least=1)
        await simulator.requests(at_least=1, state="gone")

        async def settled() -> bool:
            return await states(client) == ["settled"]

        await until(settled)


class DeadWorker:
    """An earlier attempt of the stream, whose worker died while it held the lease: what it claimed and sent."""

    def __init__(self, client: Client) -> None:
        self._client, self._workspace_id = client, client.workspace_id
        asked = generate_input(client.workspace_id, QUESTION, user_id=USER, cache=CachePolicy.OFF)
        self.job = Job.of(asked, workflow_id(client.workspace_id, KEY), utc_now())
        self.sink = PROCESS_HUB.sink(client.workspace_id, self.job.workflow_id, StreamTarget())
        self.attempt_id = uuid4()

    async def claimed(self) -> "DeadWorker":
        """It opened the stream and made the claim, with a lease that outlives the test, and all energy of the user."""
        request_id = ask_id(self.job.job_key, 1)
        charge = Charge(
            workspace_id=self._workspace_id,
            user_id=USER,
            job_key=self.job.job_key,
            workflow_id=self.job.workflow_id,
            request_id=request_id,
            result_id=request_id,
            action="ai_message",
            energy=1,
            envelope=Envelope(cap_usd=None),
        )
        offer = Offer(provider=Provider.OPENAI, model="gpt-4o-mini", simulated=True, upper_bound_usd=BOUND, rates=RATES)
        terms = replace(TERMS, lease_seconds=3600)
        async with self._client.database.transaction() as tx:
            await energy.open_account(tx, self._workspace_id, USER, starting_energy=1)
            claim = Claim(charge, self.job.fingerprint, offer, terms, self.attempt_id)
            assert isinstance(await ledger.claim(tx, claim), Granted)
        await self.sink.open()
        await self.sink.record_claim(request_id, str(self.attempt_id))
        return self

    async def settle(self, answer: str) -> None:
        """It lives after all, and settles its reply."""
        settlement = Settlement(self._workspace_id, self.attempt_id, self.reply(answer), Decimal("0.001"), RATES)
        async with self._client.database.transaction() as tx:
            await ledger.settle(tx, settlement)

    @staticmethod
    def reply(answer: str) -> ChatReply:
        return reply(answer, model="simulator/gpt-4o-mini")


@pytest.fixture
async def dead(client: Client, whole: str) -> DeadWorker:
    assert whole
    return await DeadWorker(client).claimed()


def mine(rows: list[Any]) -> list[Any]:
    """The rows that are not of the other user."""
    return [row for row in rows if getattr(row, "user_id", USER) == USER]


class TestADeadWorker:
    """Its lease, and its user's last energy, are not waited for."""

    async def test_that_sent_text_is_succeeded_by_one_that_continues_it(
        self, client: Client, dead: DeadWorker, whole: str
    ) -> None:
        for word in (whole[:4], whole[4:10]):
            dead.sink.send(TextDelta(text=word))
        deltas, result = await read(client)
        assert text(deltas) == result.content == whole
        assert deltas[:2] == [TextDelta(text=whole[:4]), TextDelta(text=whole[4:10])]
        assert (sorted(await states(client)), await charged(client)) == (["lost", "settled", "settled"], (1, 0))
        assert (result.meta.attempts, len(result.meta.warnings)) == (2, 1)

    async def test_that_sent_nothing_is_succeeded_by_a_repetition(
        self, client: Client, dead: DeadWorker, whole: str
    ) -> None:
        deltas, result = await read(client)
        assert (text(deltas), result.content, result.meta.attempts) == (whole, whole, 2)
        assert (result.meta.warnings, await charged(client)) == ((), (1, 0))

    async def test_that_recorded_its_reply_is_succeeded_by_one_that_settles_it(
        self, client: Client, dead: DeadWorker, simulator: SimulatorAdmin, whole: str
    ) -> None:
        dead.sink.send(TextDelta(text=whole[:20]))
        await dead.sink.complete(dead.reply(whole))
        before = len(await simulator.billed())
        deltas, result = await read(client)
        assert text(deltas) == result.content == whole
        assert (len(await simulator.billed()), result.meta.attempts) == (before, 1)
        assert await charged(client) == (1, 0)

    async def test_that_settled_its_reply_is_succeeded_by_one_that_sends_the_rest(
        self, client: Client, dead: DeadWorker, simulator: SimulatorAdmin, whole: str
    ) -> None:
        dead.sink.send(TextDelta(text=whole[:20]))
        await dead.settle(whole)
        before = len(await simulator.billed())
        deltas, result = await read(client)
        assert (text(deltas), len(await simulator.billed())) == (whole, before)
        assert (result.content, await charged(client)) == (whole, (1, 0))

    async def test_that_lives_after_all_is_charged_or_its_successor_is(
        self, client: Client, dead: DeadWorker, simulator: SimulatorAdmin, whole: str
    ) -> None:
        dead.sink.send(TextDelta(text=whole[:20]))
        await simulator.gate(closed=True, provider="openai")
        reading = asyncio.create_task(read(client))
        await simulator.requests(at_least=2)
        await dead.settle(f"{whole[:20]} and something else")
        await simulator.gate(closed=False, provider="openai")
        deltas, result = await reading
        assert text(deltas) == result.content == whole
        assert await charged(client) == (1, 0)
        rows = mine(await stored(client, UsageLog))
        assert sorted((row.outcome, row.energy_charged > 0) for row in rows) in (
            [("settled", False), ("settled", True)],
        )
        assert result.meta.cost_usd == sum(row.cost_usd for row in rows)

    async def test_that_sent_the_whole_text_is_succeeded_by_an_empty_continuation(
        self, client: Client, dead: DeadWorker, whole: str
    ) -> None:
        dead.sink.send(TextDelta(text=whole))
        deltas, result = await read(client)
        assert text(deltas) == result.content == whole
        assert (len(deltas), result.meta.finish, await charged(client)) == (1, Finish.STOP, (1, 0))

    @durable_only("an inline generation dies with its process")
    async def test_is_not_waited_for_once_its_stream_is_reported_as_broken(
        self, client: Client, simulator: SimulatorAdmin, whole: str
    ) -> None:
        await simulator.fault("stall", hold=2)
        async with streamed(client) as stream:
            deltas = [await anext(aiter(stream))]
            handle = client.temporal.get_workflow_handle(stream.id)
            await handle.signal("stream_broken", StreamBroken(attempt=1))
            await handle.signal("stream_broken", StreamBroken(attempt=1))
            deltas += [delta async for delta in stream]
            result = await stream.result()
        assert text(deltas) == result.content == whole
        assert [attempt.state for attempt in await stored(client, Attempt)][1:] == ["lost", "settled"]
        assert await charged(client) == (1, 0)
