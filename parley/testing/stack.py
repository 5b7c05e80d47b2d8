"""Parley's stack in processes of its own: what `parley up` runs, with a temporary state directory."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from parley.cli.run import application_command
from parley.client.backend import Backend
from parley.connection import Addresses, running_stack
from parley.settings import Settings, variable

START_SECONDS = 300.0
STOP_SECONDS = 90.0
POLL_SECONDS = 0.05
# The stack serves all tests of a run: one test's faults must not hold back the requests of the next.
QUICK = {
    "PARLEY_BREAKER_FAILURES": "1000000",
    "OPENAI_REQUESTS_PER_SECOND": "1000",
    "ANTHROPIC_REQUESTS_PER_SECOND": "1000",
    "ELEVENLABS_REQUESTS_PER_SECOND": "1000",
}


@dataclass(frozen=True)
class Stack:
    """A running stack, for the tests of a service."""

    state_dir: Path
    addresses: Addresses

    async def connect(self) -> Backend:
        """Parley's connections to this stack: `async with await stack.connect() as backend`."""
        return await Backend.connect(Settings(state_dir=self.state_dir, database_url=None))


def isolated(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what names real providers, a database or a Temporal server, or changes Parley."""
    ours = set(map(variable, Settings.model_fields))
    return {name: value for name, value in environment.items() if name not in ours and not name.startswith("TEMPORAL_")}


@contextmanager
def run_stack(environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run Temporal, PostgreSQL, the simulator and a worker during the block, and remove their data at its end.

    No provider's key reaches them, so that the simulator answers every request.

    Args:
        environment: variables for the worker, for example `PARLEY_POLICY_FILE`.

    Raises:
        InvalidInput: the extra `embedded` is not installed.
        RuntimeError: the stack did not start; the message has the end of its output.
    """
    arguments, inherited = application_command("starter", ["up", "--latency", "0"])
    with tempfile.TemporaryDirectory(prefix="parley-testing-") as directory:
        home = Path(directory)
        home.chmod(0o755)  # PostgreSQL may run as an account that owns nothing here
        state = home / "state"
        given = isolated(inherited) | QUICK | dict(environment or {}) | {"PARLEY_STATE_DIR": str(state)}
        with (home / "output").open("w+b") as output:
            process = subprocess.Popen(  # noqa: S603 - no shell
                arguments, cwd=home, env=given, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                yield Stack(state, _addresses(process, state, home / "output"))
            finally:
                _stop(process)


def _addresses(process: subprocess.Popen[bytes], state: Path, output: Path) -> Addresses:
    """The addresses, as soon as the stack has written them."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if (addresses := running_stack(state)) is not None:
            return addresses
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"Parley's stack did not start:\n{output.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the stack. The second signal shortens the wait for requests that a closed gate holds back."""
    for seconds in (1.0, STOP_SECONDS):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
        process.wait()


def environment_of(stack: Stack) -> dict[str, str]:
    """The variables with which any code of the service finds this stack: `Client.connect()` needs no argument."""
    return {"PARLEY_STATE_DIR": str(stack.state_dir), "TEMPORAL_CONFIG_FILE": os.devnull}
