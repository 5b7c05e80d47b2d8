"""State directories for stacks, and what tests look at to see that a stack left nothing behind."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from parley.cli import console
from parley.cli.main import execute
from starter.embedded import Addresses, postgres
from tests.parts import SimulatorAdmin
from tests.starter.command import Ran, Run


@pytest.fixture(scope="session")
def system_base() -> Iterator[Path]:
    """Root's own directory that every account can reach, in the place of `/var/lib/parley`."""
    base = Path(tempfile.mkdtemp(prefix="parley-test-"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def state_dir(tmp_path: Path, system_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory; when the tests run as root, in a place that no other account can reach."""
    monkeypatch.setattr(postgres, "SYSTEM_BASES", (system_base,))
    tmp_path.chmod(0o700)
    return tmp_path / ".parley"


@pytest.fixture
def parley(
    stack: Addresses,
    database_url: str,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run a command in a thread of its own, as a process would, on the test's parts."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
    monkeypatch.setenv("PARLEY_STATE_DIR", str(tmp_path / ".parley"))
    # Set on the consoles themselves: they were made when their module was imported, with the width of then.
    for made in (console.out, console.err):
        monkeypatch.setattr(made, "width", 200)

    async def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(execute, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
