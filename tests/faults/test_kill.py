"""kill -9 of the worker at each step of the paid call, then recovery by another worker.

Failpoints make the worker kill itself at the exact step. All kills run at once, each in a separate scene, since each
waits ten seconds for Temporal to detect that the worker is dead.
"""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from parley import AnalysisReport
from parley.client.reading import read_session
from parley.domain.session_analysis import COACHING_ACTION, ENERGY, VOICE_ACTION, Step
from starter.embedded import Addresses
from tests.faults.scene import Scene, exited, frozen, scene
from tests.parts import SAMPLES, TEST_TIMEOUT_SECONDS

SAMPLE = SAMPLES / "cold-call-logistics.json"
RECORDING = SAMPLES / "gatekeeper-dental-clinic.ogg"

# What the ledger must say of the attempts, and how many calls the provider bills at most, by the point of death.
POINTS = {
    "claiming": (["settled"], 1),
    "claimed": (["lost", "settled"], 1),
    "in flight": (["lost", "settled"], 2),
    "called": (["lost", "settled"], 2),
    "settling": (["lost", "settled"], 2),
    "settled": (["settled"], 1),
}


@dataclass
class Outcome:
    report: AnalysisReport
    attempts: list[str]
    billed: list[str]
    known: set[str]
    charged: int
    disagreements: list[object]


async def killed_at(point: str, place: Scene) -> Outcome:
    """Kill the worker at `point`, start another, and return the final state of the ledger and the provider."""
    if point == "in flight":
        await place.simulator.gate(closed=True)
    worker = await place.start_worker("" if point == "in flight" else f"{point}=kill")
    session = read_session(SAMPLE)
    job = await place.client.analyze(session)
    if point == "in flight":
        await place.simulator.requests(at_least=1, billed="true")
        worker.kill()
    await exited(worker, signal.SIGKILL)
    if point == "in flight":
        await place.simulator.gate(closed=False)
    await place.start_worker()
    report = await job.result()
    known = await place.query("SELECT id::text FROM attempts")
    return Outcome(
        report=report,
        attempts=await place.attempts(),
        billed=[request["attempt_id"] for request in await place.simulator.billed()],
        known={str(row["id"]) for row in known},
        charged=(await place.client.energy(session.user_id)).charged,
        disagreements=list(await place.client.audit()),
    )


@pytest.fixture(scope="module")
async def outcomes(stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    async def play(point: str) -> Outcome:
        async with scene(stack, template, tmp_path_factory.mktemp(point.replace(" ", "-"))) as place:
            return await killed_at(point, place)

    return dict(zip(POINTS, await asyncio.gather(*map(play, POINTS)), strict=True))


@pytest.mark.parametrize("point", POINTS)
class TestKillAt:
    def test_no_result_is_lost(self, point: str, outcomes: dict[str, Outcome]) -> None:
        analysis = outcomes[point].report.analysis
        assert analysis is not None
        assert analysis.coaching.processed

    def test_the_user_is_charged_exactly_once(self, point: str, outcomes: dict[str, Outcome]) -> None:
        assert outcomes[point].charged == ENERGY[COACHING_ACTION]

    def test_only_what_was_in_flight_is_paid_again(self, point: str, outcomes: dict[str, Outcome]) -> None:
        attempts, most_billed = POINTS[point]
        assert outcomes[point].attempts == attempts
        assert len(outcomes[point].billed) == most_billed

    def test_every_billed_call_is_in_the_ledger(self, point: str, outcomes: dict[str, Outcome]) -> None:
        assert set(outcomes[point].billed) <= outcomes[point].known

    def test_the_ledger_agrees_with_itself(self, point: str, outcomes: dict[str, Outcome]) -> None:
        assert outcomes[point].disagreements == []


async def test_two_workers_on_one_request_charge_once_and_record_the_duplicate(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    """The first worker freezes after it received the reply, and continues after the second has settled."""
    async with scene(stack, template, tmp_path) as place:
        await place.start_worker(roles=("workflows", "storage"))
        # Its only slot is in use, so the frozen worker does not poll, and cannot receive the retry.
        first = await place.start_worker("called=stop", roles=("anthropic",), PARLEY_PAID_CALLS_IN_FLIGHT="1")
        session = read_session(SAMPLE)
        job = await place.client.analyze(session)
        await frozen(first)
        await place.start_worker(roles=("anthropic",))
        report = await job.result()
        first.send_signal(signal.SIGCONT)
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while await place.attempts() != ["duplicate", "settled"]:
                await asyncio.sleep(0.1)
        rows = await place.query(
            "SELECT outcome, confirmed, cost_usd, energy_charged FROM ai_usage_logs ORDER BY outcome"
        )
        assert [(row["outcome"], row["confirmed"], row["energy_charged"]) for row in rows] == [
            ("duplicate", True, 0),
            ("settled", True, ENERGY[COACHING_ACTION]),
        ]
        assert all(row["cost_usd"] > 0 for row in rows)
        assert len(await place.simulator.billed()) == 2
        assert report.analysis is not None
        assert (await place.client.energy(session.user_id)).charged == ENERGY[COACHING_ACTION]
        assert await place.client.audit() == []


async def test_sigterm_lets_a_paid_call_finish(stack: Addresses, template: str, tmp_path: Path) -> None:
    async with scene(stack, template, tmp_path) as place:
        await place.simulator.gate(closed=True)
        worker = await place.start_worker(fresh=True)
        job = await place.client.analyze(read_session(SAMPLE))
        await place.simulator.requests(at_least=1, billed="true")
        worker.terminate()
        await place.simulator.gate(closed=False)
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            assert await worker.wait() == 0
        assert await place.attempts() == ["settled"]
        await place.start_worker()
        await job.result()
        assert len(await place.simulator.billed()) == 1
        assert await place.client.audit() == []


async def test_a_kill_between_the_first_result_and_the_voice_loses_nothing(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    """The voice waits for its retry when the worker dies, and amends the result on the next worker."""
    async with scene(stack, template, tmp_path) as place:
        worker = await place.start_worker(PARLEY_HEARING="elevenlabs")
        await place.simulator.fault("rate_limit", provider="elevenlabs", times=1, retry_after=3)
        session = read_session(SAMPLE)
        job = await place.client.analyze(session, audio=RECORDING.read_bytes(), voice_deadline_seconds=0.2)
        first = (await job.result()).analysis
        assert first is not None
        assert first.pending == (Step.VOICE,)
        worker.kill()
        await exited(worker, signal.SIGKILL)
        await place.start_worker(PARLEY_HEARING="elevenlabs")
        last = (await job.result(final=True)).analysis
        assert last is not None
        assert (last.pending, last.voice_metrics.source) == ((), "recording")
        assert last.coaching.overall_score == first.coaching.overall_score
        billed = [request["provider"] for request in await place.simulator.billed()]
        assert sorted(billed) == ["anthropic", "elevenlabs"]
        assert (await place.client.energy(session.user_id)).charged == ENERGY[COACHING_ACTION] + ENERGY[VOICE_ACTION]
        assert await place.client.audit() == []
