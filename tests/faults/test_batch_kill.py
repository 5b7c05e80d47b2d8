"""kill -9 around the submission of a batch: it is sent once, and each of its requests is paid once."""

import json
import signal
from collections import Counter
from typing import Any

import pytest

from parley.cli.billed import read_billed
from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.requests import Provider
from starter.embedded import Addresses
from tests.faults.scene import Scene, at_each, exited
from tests.parts import SAMPLES

SESSIONS, DISCOVERED, QUOTA = 48, 8, 4
LINES = (SESSIONS - DISCOVERED) // QUOTA
# The point at which the worker is killed, and who gets the batch.
CASES = {
    "submitted openai": ("submitted", Provider.OPENAI),
    "submitted anthropic": ("submitted", Provider.ANTHROPIC),
    "submitting openai": ("submitting", Provider.OPENAI),
}


async def play(case: str, place: Scene) -> dict[str, Any]:
    point, provider = CASES[case]
    lines = (SAMPLES / "chats" / "support.jsonl").read_text().splitlines(keepends=True)[:SESSIONS]
    path = place.directory / "chats.jsonl"
    path.write_text("".join(lines))
    imported = await place.client.import_chats(path)
    # After that time it is certain that no request is under way that creates the batch.
    quick = {"PARLEY_PROVIDER_TIMEOUT_SECONDS": "5"}
    worker = await place.start_worker(failpoints=f"{point}=kill", **quick)
    job = await place.client.auto_analyze(
        imported.dataset_id,
        user_id="operator",
        provider=provider,
        processing="batch",
        reassign=False,
        streams=3,
        sessions_per_stream=QUOTA,
        discovery=DiscoveryTerms(min_sessions=DISCOVERED, max_sessions=DISCOVERED),
    )
    await exited(worker, signal.SIGKILL)
    await place.start_worker(**quick)
    report = await job.result()
    billed = await place.simulator.billed()
    listed = place.directory / "billed.json"
    listed.write_text(json.dumps(billed))
    return {
        "statistics": report.statistics,
        "times": Counter(one["attempt_id"] for one in billed if one["batch"]),
        "disagreements": await place.client.audit(read_billed(listed)),
        "states": await place.attempts(),
        "submissions": await place.query("SELECT state, vendor_id IS NOT NULL AS known FROM submissions"),
    }


async def test_a_batch_is_sent_once_wherever_its_worker_is_killed(
    stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for case, found in (await at_each(CASES, play, stack, template, tmp_path_factory)).items():
        statistics = found["statistics"]
        assert statistics.batch is not None, case
        copies = statistics.copies
        assert (statistics.labelled, statistics.fallbacks) == (SESSIONS, 0), case
        assert statistics.batch.answered == statistics.batch.submitted == len(found["times"]), case
        assert copies or len(found["times"]) == LINES, case
        assert set(found["times"].values()) == {1}, case
        assert set(found["states"]) == {"settled"}, case
        assert found["submissions"] == [{"state": "ended", "known": True}], case
        assert found["disagreements"] == [], case
