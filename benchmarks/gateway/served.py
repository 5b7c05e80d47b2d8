"""Server processes: start, wait until ready, kill, restart."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from benchmarks.gateway.question import MODEL
from benchmarks.stack import Bench

PYTHON = "BENCH_GATEWAY_PYTHON"
# The proxy does not start with a short key.
MASTER_KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
START_SECONDS = 120


class Served:
    """A process and its readiness check."""

    def __init__(self, argv: list[str], env: dict[str, str], log: Path, answers: Callable[[], Awaitable[bool]]) -> None:
        self._argv, self._env, self._log, self._answers = argv, os.environ | env, log, answers
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TimeoutError: it is not ready in time.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, env=self._env, cwd=self._log.parent, stdout=log, stderr=log)  # noqa: ASYNC220
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():  # noqa: ASYNC110 - another process answers
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()

    async def done(self) -> None:
        """Wait until it ends by itself."""
        assert self._process
        assert await asyncio.to_thread(self._process.wait) == 0


def worker(bench: Bench) -> Served:
    """Parley's worker."""
    ready = bench.directory / "worker-polls"

    async def polls() -> bool:
        return ready.exists()

    return Served(
        [sys.executable, "-m", "worker"],
        {
            "DATABASE_URL": bench.addresses.database_url,
            "TEMPORAL_ADDRESS": bench.addresses.temporal_address,
            "PARLEY_SIMULATOR_URL": bench.addresses.simulator_url or "",
            "PARLEY_READY_FILE": str(ready),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        bench.directory / "worker.log",
        polls,
    )


def plain(bench: Bench, requests: int, concurrency: int) -> Served:
    """The script that inserts one row for each reply."""

    async def at_once() -> bool:
        return True

    where = [bench.addresses.simulator_url or "", bench.addresses.database_url]
    return Served(
        [sys.executable, "-m", "benchmarks.gateway.plain", *where, str(requests), str(concurrency)],
        {"PYTHONPATH": str(Path(__file__).parents[2])},
        bench.directory / "plain.log",
        at_once,
    )


def litellm(bench: Bench, python: str) -> tuple[Served, str]:
    """LiteLLM's proxy with its callback that writes rows, and its address."""
    port = _free_port()
    home = bench.directory / "litellm"
    home.mkdir()
    (home / "books.py").write_bytes((Path(__file__).parent / "books.py").read_bytes())
    (home / "config.yaml").write_text(f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      {{model: openai/{MODEL}, api_base: "{bench.addresses.simulator_url}/openai/v1", api_key: none, max_retries: 0}}
litellm_settings: {{callbacks: books.books, num_retries: 0}}
""")
    address = f"http://127.0.0.1:{port}"

    async def alive() -> bool:
        async with httpx2.AsyncClient() as http:
            try:
                return (await http.get(f"{address}/health/liveliness", timeout=2)).is_success
            except httpx2.HTTPError:
                return False

    environment = {
        "BENCH_BOOKS": bench.addresses.database_url,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_TELEMETRY": "False",
    }
    command = [str(Path(python).parent / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
    return Served([*command, "--port", str(port)], environment, home / "litellm.log", alive), address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
