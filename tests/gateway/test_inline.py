"""What only the inline mode of `Generate` has: a time limit, a bound in the process, callers that leave.

The scenarios of tests/workflows/test_generate*.py run in this mode too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.inline import InlineGenerate
from parley import Backend, Client
from parley.client.generate import generate_input
from parley.domain.errors import ErrorKind, IdempotencyConflict, JobFailed
from parley.domain.generate.contract import GenerateInput, GenerateResult
from parley.settings import DEFAULT_POLICY, Settings
from parley.storage.tables import Attempt, Generation
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import LedgerFixture

USER, KEY = "ann", "order-7"
QUESTION = "What does the export to CSV contain?"
Make = Callable[..., InlineGenerate]


@pytest.fixture
async def make(backend: Backend) -> AsyncIterator[Make]:
    """Makes an `InlineGenerate` with other settings: each is a process of its own."""
    made: list[InlineGenerate] = []

    def make(*, graded: bool = True, **changes: Any) -> InlineGenerate:
        settings = backend.settings.model_copy(update=changes)
        made.append(InlineGenerate(backend.database, settings, backend.temporal if graded else None))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def inline(make: Make) -> InlineGenerate:
    return make()


def asked(client: Client, question: str = QUESTION, **terms: Any) -> GenerateInput:
    return generate_input(client.workspace_id, question, **{"user_id": USER, "cache": "off", **terms})


def started(work: Any) -> asyncio.Task[GenerateResult]:
    return asyncio.create_task(work)


class TestOneKey:
    async def test_in_one_process_another_request_is_a_conflict_while_the_first_runs(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        first = started(inline.run(asked(client), KEY))
        await simulator.requests(at_least=1, state="in_flight")
        with pytest.raises(IdempotencyConflict):
            await inline.run(asked(client, "Something else"), KEY)
        await simulator.gate(closed=False, provider="openai")
        assert (await first).success

    async def test_in_another_process_another_request_is_a_conflict_too(
        self, client: Client, make: Make, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        first = started(make().run(asked(client), KEY))
        await simulator.requests(at_least=1, state="in_flight")
        with pytest.raises(IdempotencyConflict):
            await make().run(asked(client, "Something else"), KEY)
        await simulator.gate(closed=False, provider="openai")
        assert (await first).success

    @pytest.mark.usefixtures("worker")
    @pytest.mark.parametrize("first", ["durable", "inline"])
    async def test_both_modes_share_one_paid_request(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin, first: str
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        works = {
            "durable": lambda: client.generate(QUESTION, user_id=USER, key=KEY, cache="off"),
            "inline": lambda: inline.run(asked(client), KEY),
        }
        tasks = [started(works.pop(first)())]
        await simulator.requests(at_least=1, state="in_flight")
        tasks.append(started(next(iter(works.values()))()))
        await simulator.gate(closed=False, provider="openai")
        one, other = await asyncio.gather(*tasks)
        assert one.success
        assert (one.content, one.meta.cost_usd) == (other.content, other.meta.cost_usd)
        assert len(await simulator.billed()) == 1
        energy = await client.energy(USER)
        assert (energy.charged, energy.reserved) == (1, 0)
        assert await client.audit() == []

    @pytest.mark.usefixtures("worker")
    async def test_a_workflow_after_an_inline_answer_refuses_another_request(
        self, client: Client, inline: InlineGenerate
    ) -> None:
        await inline.run(asked(client), KEY)
        with pytest.raises(IdempotencyConflict):
            await client.generate("Something else", user_id=USER, key=KEY)


class TestTimeLimit:
    async def test_a_rate_limit_beyond_it_is_refused_at_once_with_the_wait(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("rate_limit", times=None, retry_after=300)
        with pytest.raises(JobFailed, match="429") as failed:
            await inline.run(asked(client), KEY)
        assert (failed.value.reason, failed.value.kind) == ("ProviderUnavailable", ErrorKind.UNAVAILABLE)
        assert failed.value.retry_after == 300
        assert (await client.energy(USER)).reserved == 0

    async def test_an_outage_beyond_it_is_not_waited_for(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("server_error", times=None)
        with pytest.raises(JobFailed, match="no provider could serve"):
            await inline.run(asked(client, wait_limit_seconds=3600), KEY, time_limit=0.5)
        assert await client.audit() == []

    async def test_without_a_free_slot_it_is_refused_with_a_wait(
        self, client: Client, make: Make, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        narrow = make(paid_calls_in_flight=1)
        first = started(narrow.run(asked(client)))
        await simulator.requests(at_least=1, state="in_flight")
        with pytest.raises(JobFailed, match="all 1 paid calls that this process may have in flight") as failed:
            await narrow.run(asked(client), time_limit=0.2)
        assert failed.value.retry_after == 1
        assert len(await simulator.requests()) == 1
        await simulator.gate(closed=False, provider="openai")
        assert (await first).success
        assert (await narrow.run(asked(client))).success


class TestCallers:
    async def test_a_caller_that_leaves_changes_nothing(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        leaving, staying = (started(inline.run(asked(client), KEY)) for _ in range(2))
        await simulator.requests(at_least=1, state="in_flight")
        leaving.cancel()
        await simulator.gate(closed=False, provider="openai")
        assert (await staying).success
        assert leaving.cancelled()
        assert len(await simulator.requests()) == 1

    async def test_closing_finishes_what_runs(
        self, client: Client, inline: InlineGenerate, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        leaving = started(inline.run(asked(client), KEY))
        await simulator.requests(at_least=1, state="in_flight")
        leaving.cancel()
        closing = asyncio.create_task(inline.close())
        await simulator.gate(closed=False, provider="openai")
        await closing
        books = LedgerFixture(client.database, client.workspace_id)
        assert [row.outcome for row in await books.all(Generation)] == ["completed"]
        assert [one.state for one in await books.all(Attempt)] == ["settled"]

    async def test_cancelling_what_does_not_run_says_so(self, client: Client, inline: InlineGenerate) -> None:
        assert not inline.cancel(client.workspace_id, KEY)


class TestGrading:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        path = tmp_path / "policy.toml"
        path.write_text(f"{DEFAULT_POLICY.read_text()}\n[action.graded]\nquality_sample = 1\n")
        return settings.model_copy(update={"policy_file": path})

    @pytest.mark.usefixtures("worker")
    async def test_a_workflow_grades_a_sampled_answer(self, client: Client, inline: InlineGenerate) -> None:
        await inline.run(asked(client, action="graded"), KEY)
        books = LedgerFixture(client.database, client.workspace_id)

        async def is_graded() -> bool:
            (row,) = await books.all(Generation)
            return row.quality is not None

        await until(is_graded)
        assert await client.audit() == []

    async def test_without_temporal_an_answer_is_not_graded(
        self, client: Client, make: Make, simulator: SimulatorAdmin, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", logger="gateway.inline")
        without = make(graded=False)
        assert (await without.run(asked(client, action="graded"), KEY)).success
        await without.close()
        assert "quality is not scored" in caplog.text
        assert len(await simulator.requests()) == 1
