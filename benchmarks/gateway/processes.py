"""Processes of a comparison: start, wait until ready, kill, restart."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from benchmarks.gateway.prompt import MODEL
from benchmarks.stack import Bench

PYTHON = "BENCH_GATEWAY_PYTHON"
# LiteLLM's proxy rejects a short master key.
MASTER_KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
START_SECONDS = 120


class ManagedProcess:
    """A process and its readiness check."""

    def __init__(
        self, argv: list[str], env: dict[str, str], log: Path, is_ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._argv, self._env, self._log, self._is_ready = argv, os.environ | env, log, is_ready
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            TimeoutError: it is not ready in time.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, env=self._env, cwd=self._log.parent, stdout=log, stderr=log)  # noqa: ASYNC220
        async with asyncio.timeout(START_SECONDS):
            while not await self._is_ready():  # noqa: ASYNC110 - another process becomes ready
                await asyncio.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()

    async def wait(self) -> None:
        """Wait until it ends without a signal, and assert that it succeeded."""
        assert self._process
        assert await asyncio.to_thread(self._process.wait) == 0


def worker(bench: Bench, *, database_url: str = "", name: str = "worker") -> ManagedProcess:
    """Parley's worker. `database_url`: its address of the database, if it is not that of the stack."""
    ready_file = bench.directory / f"{name}-is-ready"

    async def is_ready() -> bool:
        return ready_file.exists()

    return ManagedProcess(
        [sys.executable, "-m", "worker"],
        {
            "DATABASE_URL": database_url or bench.addresses.database_url,
            "TEMPORAL_ADDRESS": bench.addresses.temporal_address,
            "PARLEY_CODEC_KEYS": bench.addresses.codec_keys,
            "PARLEY_SIMULATOR_URL": bench.addresses.simulator_url or "",
            "PARLEY_READY_FILE": str(ready_file),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        bench.directory / f"{name}.log",
        is_ready,
    )


def gateway(bench: Bench) -> tuple[ManagedProcess, str]:
    """Parley's gateway, and its address."""
    address = f"http://127.0.0.1:{(port := _free_port())}"
    return ManagedProcess(
        [sys.executable, "-m", "gateway"],
        {
            "DATABASE_URL": bench.addresses.database_url,
            "TEMPORAL_ADDRESS": bench.addresses.temporal_address,
            "PARLEY_CODEC_KEYS": bench.addresses.codec_keys,
            "PARLEY_SIMULATOR_URL": bench.addresses.simulator_url or "",
            "PARLEY_GATEWAY_PORT": str(port),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        bench.directory / "gateway.log",
        lambda: _answers(f"{address}/readyz"),
    ), address


def plain(bench: Bench, requests: int, concurrency: int) -> ManagedProcess:
    """The script that inserts one row for each reply."""

    async def always_ready() -> bool:
        return True

    addresses = [bench.addresses.simulator_url or "", bench.addresses.database_url]
    return ManagedProcess(
        [sys.executable, "-m", "benchmarks.gateway.plain", *addresses, str(requests), str(concurrency)],
        {"PYTHONPATH": str(Path(__file__).parents[2])},
        bench.directory / "plain.log",
        always_ready,
    )


def litellm(bench: Bench, python: str) -> tuple[ManagedProcess, str]:
    """LiteLLM's proxy with the callback that inserts rows, and its address."""
    port = _free_port()
    home = bench.directory / "litellm"
    home.mkdir()
    (home / "usage_rows.py").write_bytes((Path(__file__).parent / "usage_rows.py").read_bytes())
    (home / "config.yaml").write_text(f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      {{model: openai/{MODEL}, api_base: "{bench.addresses.simulator_url}/openai/v1", api_key: none, max_retries: 0}}
litellm_settings: {{callbacks: usage_rows.usage_rows, num_retries: 0}}
""")
    address = f"http://127.0.0.1:{port}"

    environment = {
        "BENCH_ROWS_DATABASE": bench.addresses.database_url,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_TELEMETRY": "False",
    }
    command = [str(Path(python).parent / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
    return ManagedProcess(
        [*command, "--port", str(port)],
        environment,
        home / "litellm.log",
        lambda: _answers(f"{address}/health/liveliness"),
    ), address


async def _answers(url: str) -> bool:
    async with httpx2.AsyncClient() as http:
        try:
            return (await http.get(url, timeout=2)).is_success
        except httpx2.HTTPError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
