"""Build the wheel, install it in a virtual environment without access to the repository, and run programs there."""

import asyncio
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.parts import ROOT, TEST_TIMEOUT_SECONDS

# Variables of the test run itself, and of its virtual environment.
OUTER = ("PYTHON", "PYTEST", "SLIPCOVER", "VIRTUAL_ENV")
DEPENDENCIES = sysconfig.get_path("purelib")


@dataclass(frozen=True)
class Installed:
    """A virtual environment with Parley's wheel."""

    wheel: Path
    home: Path

    @property
    def python(self) -> str:
        return str(self.home / "bin" / "python")

    @property
    def parley(self) -> str:
        return str(self.home / "bin" / "parley")

    async def run(self, *command: str | Path, cwd: Path, **environment: str) -> "Ended":
        """Run a command to its end."""
        async with self.running(*command, cwd=cwd, **environment) as program:
            return Ended(await program.wait(), program.output())

    @asynccontextmanager
    async def running(self, *command: str | Path, cwd: Path, **environment: str) -> AsyncIterator["Program"]:
        """Run a program during the block; kill its remaining processes at the end."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTER)}
        # A stack of the user who runs the tests is not touched.
        kept["XDG_STATE_HOME"] = str(self.home.parent / "state")
        with tempfile.NamedTemporaryFile(prefix="parley-test-", suffix=".log") as log:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                cwd=cwd,
                env=kept | environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            program = Program(process, Path(log.name))
            try:
                yield program
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                program.kill_children()


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


class Program:
    """A running program and every process that it was seen to start."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log
        self._children: dict[int, psutil.Process] = {}

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def says(self, text: str) -> None:
        """Wait until the text is in the output."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while text not in self.output():
                assert self._process.returncode is None, self.output()
                await asyncio.sleep(0.05)

    async def interrupt(self) -> int:
        """Send SIGINT, as Ctrl-C does; return the exit code."""
        self.children()
        self._process.send_signal(signal.SIGINT)
        return await self.wait()

    async def terminate(self) -> int:
        self._process.terminate()
        return await self.wait()

    async def wait(self) -> int:
        async with asyncio.timeout(2 * TEST_TIMEOUT_SECONDS):
            return await self._process.wait()

    def children(self) -> list[psutil.Process]:
        """The processes that it started and that still run."""
        if self._process.returncode is None:
            found = psutil.Process(self._process.pid).children(recursive=True)
            self._children.update({child.pid: child for child in found})
        return [child for child in self._children.values() if child.is_running()]

    def kill_children(self) -> None:
        for child in self.children():
            child.kill()


def build_wheel(directory: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    run(build)
    [wheel] = directory.glob("*.whl")
    return wheel


def install(wheel: Path, home: Path) -> Installed:
    """Install the wheel. Its dependencies are those of `.venv`, without its link to the repository."""
    venv.create(home, symlinks=True)
    python = str(home / "bin" / "python")
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
    packages = next((home / "lib").glob("python*/site-packages"))
    # Only directories on sys.path have their .pth files read: `_parley.pth` of `.venv` has no effect here.
    (packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return Installed(wheel, home)


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
