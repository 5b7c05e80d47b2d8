"""`parley demo` from an empty directory to its reports; it leaves nothing behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.parts import ROOT

# A small discovery sample: how the demo starts, reports and ends does not depend on it.
QUICK = {"DISCOVERY_MIN_SESSIONS": "5", "DISCOVERY_MAX_SESSIONS": "5", "SESSIONS_PER_STREAM": "auto"}

# The demo must not use them: their addresses refuse every connection.
KEYS = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": "http://127.0.0.1:1", "LOCAL_BASE_URL": "http://127.0.0.1:1"}


class Demo:
    """One run of the demo, with every process that it ever started."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._children: dict[int, psutil.Process] = {}
        self.output = ""

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "parley", "demo",
            cwd=ROOT,
            env={**os.environ, **QUICK, **KEYS, "PARLEY_STATE_DIR": str(self._state_dir)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(90):
            while text not in self.output:
                line = await self.process.stdout.readline()
                assert line, self.output
                self.output += line.decode()
                self._remember()

    async def end(self) -> int:
        assert self.process.stdout is not None
        self._remember()
        async with asyncio.timeout(90):
            self.output += (await self.process.stdout.read()).decode()
            return await self.process.wait()

    def left_behind(self) -> list[int]:
        return [pid for pid, child in self._children.items() if child.is_running()]

    def _remember(self) -> None:
        if self.process.returncode is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self._children.update({child.pid: child for child in children})

    @property
    def seen(self) -> int:
        return len(self._children)


@pytest.fixture
async def demo(reachable: Path) -> AsyncIterator[Demo]:
    made = Demo(reachable / ".parley")
    yield made
    if made.process.returncode is None:
        made.process.kill()
        await made.process.wait()


async def test_a_demo_beside_another_that_ctrl_c_ends_prints_its_reports_and_both_leave_nothing(
    demo: Demo, reachable: Path
) -> None:
    other = Demo(reachable / ".parley")
    await asyncio.gather(demo.start(), other.start())
    await asyncio.gather(demo.read_until("The stack is up"), other.read_until("The stack is up"))
    other.process.send_signal(signal.SIGINT)
    assert await asyncio.gather(demo.end(), other.end()) == [0, 130]
    for expected in (
        "fast_parallel",
        "hybrid",
        "simulator/claude",
        "the simulator answered",
        "Only the simulator answers",
        "confirmed $",
        "379 of 379",
        "Which formats can I export?",
        "openai gpt-4o-mini (simulated): $0.0",
        "without the first one",
        "What is my dog called?",
        "Rex",
        "The ledger agrees with itself.",
        "To look at a job in the Temporal UI, run ",
    ):
        assert expected in demo.output
    for run in (demo, other):
        assert run.seen > 0
        assert run.left_behind() == []
        assert "Traceback" not in run.output
    assert list((reachable / ".parley").iterdir()) == []


async def test_ctrl_c_during_the_start_leaves_no_process_and_no_file(demo: Demo, reachable: Path) -> None:
    await demo.start()
    await demo.read_until("PostgreSQL is up")
    demo.process.send_signal(signal.SIGINT)
    assert await demo.end() == 130
    assert demo.seen > 0
    assert demo.left_behind() == []
    assert list((reachable / ".parley").iterdir()) == []
    assert "Traceback" not in demo.output
