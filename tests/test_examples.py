"""The programs in examples/ run, and do what they say."""

import asyncio
import csv
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from starter.embedded import Addresses
from tests.parts import ROOT, SAMPLES, TEST_TIMEOUT_SECONDS, SimulatorAdmin

EXAMPLES = ROOT / "examples"
QUICK = {"DISCOVERY_MIN_SESSIONS": "5", "DISCOVERY_MAX_SESSIONS": "5", "SESSIONS_PER_STREAM": "auto"}
SESSIONS = 40


@pytest.fixture
def environment(worker: None, stack: Addresses, database_url: str, tmp_path: Path) -> dict[str, str]:
    """What an example finds where Parley's worker runs."""
    return {
        **os.environ,
        **QUICK,
        "DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "PARLEY_STATE_DIR": str(tmp_path / ".parley"),
    }


async def run_example(name: str, *arguments: str | Path, environment: dict[str, str]) -> str:
    """Run an example; returns its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *map(str, arguments)),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * TEST_TIMEOUT_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def test_readme_shows_every_example():
    shown = re.findall(r"^ {4}(python examples/.*?)(?: +#.*)?$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert {shlex.split(command)[1] for command in shown} == {f"examples/{path.name}" for path in EXAMPLES.glob("*.py")}
    assert shown


async def test_label_chats_writes_a_row_for_each_session(environment: dict[str, str], tmp_path: Path):
    source, target = tmp_path / "chats.jsonl", tmp_path / "labelled.csv"
    lines = (SAMPLES / "chats" / "support.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("".join(lines[:SESSIONS]), encoding="utf-8")
    output = await run_example("label_chats.py", source, target, environment=environment)
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SESSIONS
    assert all(row["intent"] for row in rows)
    assert f"{SESSIONS} sessions, " in output
    assert "intent: " in output


async def test_generate_with_budget_pays_once_and_is_refused(environment: dict[str, str], simulator: SimulatorAdmin):
    first, again, refused, spent = (await run_example("generate_with_budget.py", environment=environment)).splitlines()
    assert first == again
    assert refused.startswith("refused: budget_exhausted: ")
    assert re.fullmatch(r"this workspace has spent \$0\.\d*[1-9]\d*", spent)
    assert len(await simulator.billed()) == 1


async def test_own_worker_runs_generate_as_a_child(environment: dict[str, str], simulator: SimulatorAdmin):
    output = await run_example("own_worker.py", "The parcel is late again.", environment=environment)
    assert re.fullmatch(r"team: (delivery|billing|other)\n", output)
    assert len(await simulator.billed()) == 1
