"""kill -9 of a process that runs a generation inline, at each step of the paid call. No workflow continues it.

The sweeper ends its attempt as lost. The caller's retry with the key, in another process, is paid at most once more and
charged once.
"""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from parley import Backend
from parley.domain.generate.contract import GenerateResult
from starter.embedded import Addresses
from tests.faults.inline_process import QUESTION, USER
from tests.faults.scene import Scene, exited, frozen, scene
from tests.workflows.modes import inline_client

KEY = "order-7"
# The states of the attempts after the sweep and after the retry, and how many requests the provider bills.
POINTS = {
    "claiming": ([], ["settled"], 1),
    "claimed": (["lost"], ["lost", "settled"], 1),
    "in flight": (["lost"], ["lost", "settled"], 2),
    "called": (["lost"], ["lost", "settled"], 2),
    "settling": (["lost"], ["lost", "settled"], 2),
    "settled": (["settled"], ["settled"], 1),
}


@dataclass
class Outcome:
    swept: list[str]
    reserved_after_sweep: int
    audit_after_sweep: list[object]
    result: GenerateResult
    attempts: list[str]
    billed: list[str]
    known: set[str]
    charged: tuple[int, int]
    rows: list[dict[str, object]]
    audit: list[object]


async def killed_at(point: str, place: Scene) -> Outcome:
    """Kill the process at `point`, sweep, and ask again with the key."""
    client, workspace_id = place.client, place.client.workspace_id
    armed = {} if point == "in flight" else {"PARLEY_FAILPOINTS": f"{point}=kill"}
    if point == "in flight":
        await place.simulator.gate(closed=True, provider="openai")
    process = await place.start("tests.faults.inline_process", workspace_id, KEY, environment=armed)
    if point == "in flight":
        await place.simulator.requests(at_least=1, billed="true", timeout=30)
        process.kill()
    await exited(process, signal.SIGKILL)
    await place.simulator.gate(closed=False, provider="openai")
    await place.sweep()
    swept, reserved, audited = await place.attempts(), (await client.energy(USER)).reserved, await client.audit()
    async with inline_client(Backend(client.temporal, place.database, client.settings), workspace_id) as again:
        result = await again.generate(QUESTION, user_id=USER, key=KEY)
    energy = await client.energy(USER)
    return Outcome(
        swept=swept,
        reserved_after_sweep=reserved,
        audit_after_sweep=list(audited),
        result=result,
        attempts=await place.attempts(),
        billed=[request["attempt_id"] for request in await place.simulator.billed()],
        known={str(row["id"]) for row in await place.query("SELECT id::text FROM attempts")},
        charged=(energy.charged, energy.reserved),
        rows=await place.query("SELECT outcome, cached FROM generations"),
        audit=list(await client.audit()),
    )


@pytest.fixture(scope="module")
async def outcomes(stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    async def play(point: str) -> Outcome:
        directory = tmp_path_factory.mktemp(point.replace(" ", "-"))
        async with scene(stack, template, directory) as place:
            return await killed_at(point, place)

    return dict(zip(POINTS, await asyncio.gather(*map(play, POINTS)), strict=True))


@pytest.mark.parametrize("point", POINTS)
class TestKilledAt:
    def test_the_sweeper_ends_its_attempt_as_lost(self, point: str, outcomes: dict[str, Outcome]) -> None:
        outcome = outcomes[point]
        assert (outcome.swept, outcome.reserved_after_sweep) == (POINTS[point][0], 0)
        assert outcome.audit_after_sweep == []

    def test_the_retry_with_its_key_answers_and_is_charged_once(self, point: str, outcomes: dict[str, Outcome]) -> None:
        outcome = outcomes[point]
        assert outcome.result.success
        assert outcome.charged == (1, 0)
        assert outcome.rows == [{"outcome": "completed", "cached": ""}]

    def test_only_what_was_in_flight_is_paid_again(self, point: str, outcomes: dict[str, Outcome]) -> None:
        _, attempts, billed = POINTS[point]
        assert (outcomes[point].attempts, len(outcomes[point].billed)) == (attempts, billed)
        assert set(outcomes[point].billed) <= outcomes[point].known

    def test_the_ledger_agrees_with_itself(self, point: str, outcomes: dict[str, Outcome]) -> None:
        assert outcomes[point].audit == []


async def test_a_frozen_process_that_thaws_after_the_retry_charges_nothing(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    """It received the reply, lost its lease, and settles second."""
    async with scene(stack, template, tmp_path) as place:
        assert (await thawed(place)).success
        assert sorted(await place.attempts()) == ["duplicate", "settled"]
        assert (await place.client.energy(USER)).charged == 1
        assert await place.client.audit() == []


async def thawed(place: Scene) -> GenerateResult:
    client = place.client
    armed = {"PARLEY_FAILPOINTS": "called=stop"}
    stopped = await place.start("tests.faults.inline_process", client.workspace_id, KEY, environment=armed)
    await frozen(stopped)
    async with inline_client(Backend(client.temporal, place.database, client.settings), client.workspace_id) as again:
        result = await again.generate(QUESTION, user_id=USER, key=KEY)
    stopped.send_signal(signal.SIGCONT)
    assert await stopped.wait() == 0
    return result
