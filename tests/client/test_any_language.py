"""Any language can start a job with Temporal's own client: here its command line, as docs/auto-analyze.md shows."""

import asyncio
import json
import re
from typing import Any

import pytest

from parley import Client
from parley.domain.errors import NotFound
from starter.embedded import Addresses
from starter.embedded.services import temporal_binary
from tests.parts import ROOT, SAMPLES

pytestmark = pytest.mark.usefixtures("worker")


async def temporal(stack: Addresses, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(temporal_binary()),
        *arguments,
        "--address",
        stack.temporal_address,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def known(client: Client, job_id: str) -> Any:
    """The job, once its workflow has recorded its workspace."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.job(job_id)
            except NotFound:
                await asyncio.sleep(0.05)


async def test_the_documented_command_starts_a_labelling_run(stack: Addresses, client: Client) -> None:
    shown = (ROOT / "docs" / "auto-analyze.md").read_text()
    command = re.search(r"temporal (workflow start .*?)\n +--input '(.*?)'", shown, re.DOTALL)
    assert command is not None
    imported = await client.import_chats(SAMPLES / "chats" / "support.jsonl")
    given = json.loads(command[2]) | {"workspace_id": client.workspace_id, "dataset_id": imported.dataset_id}
    job_id = f"my-run-{client.workspace_id}"
    words = command[1].replace("\\", "").replace("my-run", job_id).split()
    terms = {"discovery": {"min_sessions": 3, "max_sessions": 3}, "sessions_per_stream": 20}
    await temporal(stack, *words, "--input", json.dumps(given | terms))
    report = await (await known(client, job_id)).result()
    assert report.status == "completed"
    progress = await temporal(
        stack, "workflow", "query", "--workflow-id", job_id, "--type", "get_progress", "-o", "json"
    )
    assert '"finish"' in progress
