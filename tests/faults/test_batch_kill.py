"""kill -9 around the submission of a batch: it is sent once, and each of its requests is paid once."""

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from parley.cli.billed import read_billed
from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.requests import Provider
from starter.embedded import Addresses
from tests.faults.scene import exited, scene
from tests.parts import SAMPLES

SESSIONS, DISCOVERED, QUOTA = 48, 8, 4


@pytest.mark.parametrize(
    ("point", "provider", "looks"),
    [
        ("submitted", Provider.OPENAI, False),
        ("submitted", Provider.ANTHROPIC, False),
        ("submitting", Provider.OPENAI, False),
        ("submitted", Provider.OPENAI, True),
        ("submitting", Provider.ANTHROPIC, True),
    ],
)
async def test_a_batch_is_sent_once_wherever_its_worker_is_killed(
    point: str, provider: Provider, looks: bool, stack: Addresses, template: str, tmp_path: Path
) -> None:
    """`submitted`: the provider has it, and nothing says so. `submitting`: it may have been sent, and was not.

    `looks`: the only batch is that of the second look, since all sessions are the discovery.
    """
    discovered = SESSIONS if looks else DISCOVERED
    lines = (SAMPLES / "chats" / "support.jsonl").read_text().splitlines(keepends=True)[:SESSIONS]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(lines))
    async with scene(stack, template, tmp_path / "scene") as place:
        imported = await place.client.import_chats(path)
        worker = await place.start_worker(failpoints=f"{point}=kill")
        job = await place.client.auto_analyze(
            imported.dataset_id,
            user_id="operator",
            provider=provider,
            processing="batch",
            reassign=looks,
            streams=3,
            sessions_per_stream=QUOTA,
            discovery=DiscoveryTerms(min_sessions=discovered, max_sessions=discovered),
        )
        await exited(worker, signal.SIGKILL)
        # After twelve times that time it is certain that no worker sends the batch any more.
        await place.start_worker(PARLEY_PROVIDER_TIMEOUT_SECONDS="1")
        statistics = (await job.result()).statistics
        assert statistics is not None
        assert statistics.batch is not None
        billed = await place.simulator.billed()
        times = Counter(one["attempt_id"] for one in billed if one["batch"])
        listed = place.directory / "billed.json"
        listed.write_text(json.dumps(billed))

        assert (statistics.labelled, statistics.fallbacks) == (SESSIONS, 0)
        assert statistics.batch.answered == statistics.batch.submitted == len(times) > 0
        assert set(times.values()) == {1}
        assert (statistics.looked_at > 0) == looks
        of_lines = "SELECT DISTINCT state FROM attempts JOIN submission_lines ON id = attempt_id"
        assert await place.query(of_lines) == [{"state": "settled"}]
        [submission] = await place.query("SELECT state, vendor_id FROM submissions")
        assert submission["state"] == "ended"
        assert await place.client.audit(read_billed(listed)) == []
