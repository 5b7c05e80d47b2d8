"""kill -9 in the middle of a labelling run: it continues, and pays twice at most for requests in flight."""

import json
from pathlib import Path

from parley.domain.auto_analyze.contract import DiscoveryTerms
from starter.embedded import Addresses
from tests.faults.scene import scene
from tests.parts import SAMPLES

STREAMS = 4


async def test_a_run_that_is_killed_halfway_accounts_for_every_session(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    lines = (SAMPLES / "chats" / "support.jsonl").read_text().splitlines(keepends=True)[:120]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(lines))
    discovery = DiscoveryTerms(min_sessions=10, max_sessions=10)
    async with scene(stack, template, tmp_path / "scene") as place:
        imported = await place.client.import_chats(path)

        async def start(label: str):
            return await place.client.auto_analyze(
                imported.dataset_id,
                user_id="operator",
                run_name=label,
                streams=STREAMS,
                sessions_per_stream=4,
                discovery=discovery,
            )

        async def labels(job_id: str) -> list[object]:
            return [session.model_dump() async for session in place.client.labelled_sessions(job_id)]

        worker = await place.start_worker()
        undisturbed = await start("undisturbed")
        await undisturbed.result()
        requests = len(await place.simulator.billed())
        job = await start("killed")
        await place.simulator.requests(at_least=requests + requests // 2)
        worker.kill()
        await worker.wait()
        await place.start_worker()
        report = await job.result()

        assert report.statistics is not None
        assert (report.statistics.labelled, report.statistics.fallbacks) == (len(lines), 0)
        assert await labels(job.id) == await labels(undisturbed.id)
        states = await place.attempts()
        billed_twice = len(await place.simulator.billed()) - states.count("settled")
        assert 0 <= billed_twice <= states.count("lost") <= STREAMS
        known = {str(row["id"]) for row in await place.query("SELECT id::text FROM attempts")}
        assert {request["attempt_id"] for request in await place.simulator.billed()} <= known
        assert await place.client.audit() == []
        assert json.loads(report.model_dump_json())["status"] == "completed"
