"""The command line on the test's servers."""

import asyncio
from pathlib import Path

import pytest

from parley.cli import console
from parley.cli.main import execute
from starter.embedded import Addresses
from tests.cli.command import Ran, Run
from tests.parts import SimulatorAdmin


@pytest.fixture
def parley(
    stack: Addresses,
    database_url: str,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run a command in another thread, with its own event loop, on the test's servers."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
    monkeypatch.setenv("PARLEY_STATE_DIR", str(tmp_path / ".parley"))
    # The consoles exist since the import of their module, so COLUMNS has no effect on them.
    for made in (console.out, console.err):
        monkeypatch.setattr(made, "width", 200)

    async def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(execute, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
