"""kill -9 of a process that runs an embedding: the sweeper ends its attempt, and the retry with the key is charged."""

import signal
from pathlib import Path

from gateway.inline import InlineGenerate
from starter.embedded import Addresses
from tests.faults.inline_process import USER, embedding
from tests.faults.scene import exited, scene

KEY = "document-7"


async def test_only_what_was_in_flight_is_paid_again(stack: Addresses, template: str, tmp_path: Path):
    """The steps are those of the paid call: tests/faults/test_inline_kill.py kills a process at each."""
    async with scene(stack, template, tmp_path) as place:
        client, workspace_id = place.client, place.client.workspace_id
        armed = {"PARLEY_FAILPOINTS": "called=kill"}
        process = await place.start("tests.faults.inline_process", workspace_id, KEY, "embed", environment=armed)
        await exited(process, signal.SIGKILL)
        await place.sweep()
        assert await place.attempts() == ["lost"]
        assert (await client.energy(USER)).reserved == 0
        assert await client.audit() == []
        inline = InlineGenerate(place.database, client.settings)
        result = await inline.embed(embedding(workspace_id), KEY)
        await inline.close()
        assert len(result.vectors) == 1
        assert (await place.attempts(), len(await place.simulator.billed())) == (["lost", "settled"], 2)
        energy = await client.energy(USER)
        assert (energy.charged, energy.reserved) == (1, 0)
        assert await client.audit() == []
