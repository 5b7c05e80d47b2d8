"""kill -9 while a reply is in flight or received: stored replies are fetched, others are recorded as lost."""

import asyncio
import json
import signal
from pathlib import Path

from parley.cli.billed import read_billed
from parley.domain.errors import JobFailed
from parley.domain.generate.contract import GenerateResult
from parley.storage.ledger import WITHDRAWN
from starter.embedded import Addresses
from tests.faults.gated_simulator import gated_simulator
from tests.faults.scene import exited, scene

USER = "ann"
CALLED, IN_FLIGHT = 3, 3


async def test_a_reply_that_the_dead_worker_did_not_record_is_fetched(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    async with gated_simulator() as simulator, scene(stack, template, tmp_path, simulator) as place:
        client = place.client

        def ask(name: str) -> asyncio.Task[GenerateResult]:
            return asyncio.create_task(client.generate(f"How do I sound? [ok for {name}]", user_id=USER))

        worker = await place.start_worker(f"called=hold:{CALLED}", OPENAI_STORE="true")
        generations = [ask(f"called-{number}") for number in range(CALLED)]
        await place.holding("called", CALLED)
        generations += [ask(f"in-flight-{number}, held") for number in range(IN_FLIGHT)]
        await simulator.requests(at_least=CALLED + IN_FLIGHT, billed="true")
        worker.kill()
        await exited(worker, signal.SIGKILL)
        simulator.middleware.release()
        await place.start_worker(OPENAI_STORE="true")
        results = await asyncio.gather(*generations)

        billed = await simulator.billed()
        assert len(billed) == len(generations)
        assert len({result.content for result in results}) == len(generations)
        assert await place.attempts() == ["settled", "failed"] * len(generations)
        attempts = await place.query("SELECT error_type, billed, cost_usd FROM attempts WHERE state = 'failed'")
        assert {tuple(attempt.values()) for attempt in attempts} == {(WITHDRAWN, "no", 0)}
        listing = tmp_path / "billed.json"
        listing.write_text(json.dumps(billed))
        assert await client.audit(read_billed(listing)) == []
        costs = await client.costs()
        assert costs.confirmed_usd == sum(result.meta.cost_usd for result in results) > 0
        assert costs.uncertain_usd == 0
        energy = await client.energy(USER)
        assert (energy.charged, energy.reserved) == (len(generations), 0)


async def test_the_sweeper_releases_the_reservations_of_a_terminated_generation(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    async with gated_simulator() as simulator, scene(stack, template, tmp_path, simulator) as place:
        client = place.client
        worker = await place.start_worker("called=hold:1")
        generations = [
            asyncio.create_task(client.generate(f"How do I sound? [ok for {name}]", user_id=USER, key=name))
            for name in ("called", "in-flight, held")
        ]
        await place.holding("called", 1)
        await simulator.requests(at_least=2, billed="true")
        worker.kill()
        await exited(worker, signal.SIGKILL)
        simulator.middleware.release()
        for name in ("called", "in-flight, held"):
            await client.temporal.get_workflow_handle(f"generate/{client.workspace_id}/{name}").terminate()
        ended = await asyncio.gather(*generations, return_exceptions=True)
        assert [type(error) for error in ended] == [JobFailed] * 2
        assert (await client.energy(USER)).reserved == 2
        await place.sweep()
        assert await place.attempts() == ["lost", "lost"]
        energy, costs = await client.energy(USER), await client.costs()
        assert (energy.charged, energy.reserved) == (0, 0)
        assert costs.confirmed_usd == 0
        booked = await place.query(
            "SELECT left(scope, 3) AS scope, sum(reserved_usd) AS reserved, sum(confirmed_usd) AS confirmed,"
            " sum(uncertain_usd) AS uncertain FROM budgets GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row.values()) for row in booked] == [
            ("day", 0, 0, costs.uncertain_usd),
            ("job", 0, 0, costs.uncertain_usd),
        ]
        listing = tmp_path / "billed.json"
        listing.write_text(json.dumps(await simulator.billed()))
        assert await client.audit(read_billed(listing)) == []
