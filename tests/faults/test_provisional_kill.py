"""kill -9 of the worker while a job with a provisional result waits for a provider."""

from pathlib import Path

from parley.client.reading import read_session
from parley.domain.session_analysis import COACHING_ACTION, ENERGY
from starter.embedded import Addresses
from tests.faults.scene import scene
from tests.parts import SAMPLES


async def test_the_next_worker_amends_the_result_and_charges_once(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    async with scene(stack, template, tmp_path) as place:
        await place.simulator.fault("rate_limit", times=2, retry_after=3)
        worker = await place.start_worker()
        job = await place.client.analyze(read_session(SAMPLES / "cold-call-logistics.json"))
        assert (await job.result()).status == "running"
        worker.kill()
        await worker.wait()
        await place.start_worker()
        report = await job.result(final=True)
        assert report.analysis is not None
        assert (report.analysis.pending, report.analysis.coaching.processed) == ((), True)
        assert report.costs.energy_charged == ENERGY[COACHING_ACTION]
        assert len(await place.simulator.billed()) == 1
        kinds = [event.kind for event in await place.client.housekeeping.events()]
        assert (kinds.count("session_analysis_provisional"), kinds.count("session_analysis_amended")) == (1, 1)
        assert await place.client.audit() == []
