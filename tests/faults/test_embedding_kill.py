"""kill -9 of a process that runs an embedding: the sweeper ends its attempt, and the retry with the key is charged."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities.sweep import SweepActivities
from gateway.inline import InlineGenerate
from parley.domain.housekeeping import SweepInput
from starter.embedded import Addresses
from tests.faults.inline_process import USER, embedding
from tests.faults.scene import exited, scene
from tests.parts import ROOT
from tests.storage.ledger_fixture import until

KEY = "document-7"
# The states of the attempts after the sweep and after the retry, and how many requests the provider bills.
POINTS = {
    "claimed": (["lost"], ["lost", "settled"], 1),
    "called": (["lost"], ["lost", "settled"], 2),
    "settled": (["settled"], ["settled"], 1),
}


@pytest.mark.parametrize("point", POINTS)
async def test_only_what_was_in_flight_is_paid_again(point: str, stack: Addresses, template: str, tmp_path: Path):
    after_sweep, after_retry, billed = POINTS[point]
    async with scene(stack, template, tmp_path) as place:
        client, workspace_id = place.client, place.client.workspace_id
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.inline_process", workspace_id, KEY, "embed"),
            cwd=ROOT,
            env=place.environment | {"PARLEY_FAILPOINTS": f"{point}=kill"},
        )
        place.processes.append(process)
        await exited(process, signal.SIGKILL)
        sweeper = SweepActivities(place.database, client.temporal)

        async def nothing_is_open() -> bool:
            await ActivityEnvironment().run(sweeper.sweep, SweepInput())
            return "open" not in await place.attempts()

        await until(nothing_is_open)
        assert await place.attempts() == after_sweep
        assert (await client.energy(USER)).reserved == 0
        assert await client.audit() == []
        inline = InlineGenerate(place.database, client.settings)
        result = await inline.embed(embedding(workspace_id), KEY)
        await inline.close()
        assert len(result.vectors) == 1
        assert (await place.attempts(), len(await place.simulator.billed())) == (after_retry, billed)
        energy = await client.energy(USER)
        assert (energy.charged, energy.reserved) == (1, 0)
        assert await client.audit() == []
