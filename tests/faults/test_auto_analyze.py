"""kill -9 in the middle of a labelling run: it continues, and pays twice at most for requests in flight."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from parley.cli.billed import read_billed
from parley.domain.auto_analyze.contract import DiscoveryTerms
from starter.embedded import Addresses
from tests.faults.scene import Scene, scene
from tests.parts import SAMPLES
from tests.workflows.test_auto_analyze import results_of

STREAMS = 4
SESSIONS = 72


async def reconciled(place: Scene) -> tuple[Decimal, Decimal]:
    """The dollars of the ledger, confirmed by the simulator's list, and those that are uncertain still."""
    await place.sweep()
    listed = place.directory / "billed.json"
    listed.write_text(json.dumps(await place.simulator.billed()))
    billed = read_billed(listed)
    await place.client.reconcile(billed, complete_until=datetime.now(UTC))
    assert await place.client.audit(billed) == []
    costs = await place.client.costs()
    return costs.confirmed_usd, costs.uncertain_usd


@pytest.mark.parametrize(
    ("max_staleness", "after", "then_streams"),
    [(0, 0.6, None), (1, 0.8, None), (2, 0.1, None), (2, 0.5, None), (2, 0.4, 2), (None, 0.5, None)],
    ids=["barrier", "a round old", "in discovery", "two rounds old", "other streams", "continuous"],
)
async def test_a_run_that_is_killed_halfway_accounts_for_every_session(
    max_staleness: int | None,
    after: float,
    then_streams: int | None,
    stack: Addresses,
    template: str,
    tmp_path: Path,
) -> None:
    """`after`: the share of the requests after which the worker is killed. `then_streams`: set right before that."""
    lines = (SAMPLES / "chats" / "support.jsonl").read_text().splitlines(keepends=True)[:SESSIONS]
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
                max_staleness=max_staleness,
                discovery=discovery,
            )

        worker = await place.start_worker()
        undisturbed = await start("undisturbed")
        await undisturbed.result()
        requests = len(await place.simulator.billed())
        job = await start("killed")
        await place.simulator.requests(at_least=requests + round(requests * after))
        if then_streams is not None:
            await job.set_streams(then_streams)
        worker.kill()
        await worker.wait()
        await place.start_worker()
        report = await job.result()

        assert report.statistics is not None
        assert (report.statistics.labelled, report.statistics.fallbacks) == (len(lines), 0)
        if max_staleness is not None and then_streams is None:
            assert await results_of(place.client, job) == await results_of(place.client, undisturbed)
        states = await place.attempts()
        billed = await place.simulator.billed()
        assert 0 <= len(billed) - states.count("settled") <= states.count("lost") <= STREAMS
        known = {str(row["id"]) for row in await place.query("SELECT id::text FROM attempts")}
        assert {request["attempt_id"] for request in billed} <= known
        assert await place.client.audit() == []
        assert report.status == "completed"

        confirmed, uncertain = await reconciled(place)
        [spent] = await place.query("SELECT sum(cost_usd) AS usd FROM attempts WHERE state <> 'open'")
        assert (confirmed, uncertain) == (spent["usd"], 0)
