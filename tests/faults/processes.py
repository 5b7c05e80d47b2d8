"""Processes of Parley that tests start and kill.

To load Parley's modules takes more than a second of CPU, and a test of kills starts a dozen processes. After
`fork_processes` they are forked from a process that has loaded the modules: separate processes with an environment,
a log and a death of their own, that run the same program. `fresh` processes begin with the interpreter.
"""

import asyncio
import gc
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.parts import ROOT

# Every program that tests start here, and what it loads when it is first used.
LOADED = (
    "worker",
    "gateway.server",
    "tests.faults.inline_process",
    "parley.providers.anthropic",
    "parley.providers.elevenlabs",
    "parley.providers.openai",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_forking = False


class Forked:
    """A forked process, with the members of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid
        self._process, self.pid = process, process.pid
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.sentinel, self._end)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def _end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._ended.set()


AnyProcess = asyncio.subprocess.Process | Forked


def fork_processes() -> None:
    """From now on, fork processes in place of starting them."""
    global _forking  # noqa: PLW0603
    _forking = True
    _CONTEXT.set_forkserver_preload(["tests.faults.loaded"])


async def start(
    module: str, *arguments: str, environment: Mapping[str, str], log: Path, fresh: bool = False
) -> AnyProcess:
    """Start `python -m module arguments` with this environment, and its output in the file `log`."""
    log.touch()
    if _forking and not fresh:
        given = (module, arguments, dict(environment), log)
        process = _CONTEXT.Process(target=_run, args=given, daemon=True)
        # Not in a thread, though the first start waits until the modules are loaded: each start reads the exit codes of
        # all processes, and where two threads read one code, multiprocessing sets it to 255.
        process.start()
        return Forked(process)
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments), cwd=ROOT, env=environment, stdout=file, stderr=file
        )


def load() -> None:
    """Load every module, in the process that is forked."""
    for name in LOADED:
        import_module(name)
    gc.collect()
    gc.freeze()


def _run(module: str, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
