"""The log of a real worker process: an expected failure is one line."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError

from activities.logs import WorkerFormatter
from parley import Client, JobFailed, Provider
from parley.client.reading import read_session
from starter.embedded import Addresses
from tests.parts import ROOT, SAMPLES, TEST_TIMEOUT_SECONDS, SimulatorAdmin


def formatted(error: Exception) -> str:
    try:
        raise error
    except (ApplicationError, ZeroDivisionError):
        record = logging.LogRecord("n", logging.WARNING, __file__, 1, "an %s failed", ("activity",), sys.exc_info())
    return WorkerFormatter("%(message)s").format(record)


def test_an_expected_failure_is_one_line_that_quotes_it():
    assert (
        formatted(ApplicationError("100% of\nit", type="RateLimited")) == "an activity failed: RateLimited: 100% of it"
    )


def test_a_bug_keeps_its_traceback():
    assert "Traceback" in formatted(ZeroDivisionError("division by zero"))


async def test_a_worker_logs_the_failures_of_callers_and_providers_without_tracebacks(
    client: Client, stack: Addresses, database_url: str, simulator: SimulatorAdmin, tmp_path: Path
) -> None:
    await simulator.fault("quota", times=None)
    ready, log = tmp_path / "ready", tmp_path / "worker.log"
    given = {
        "DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "PARLEY_SIMULATOR_URL": simulator.url,
        "PARLEY_READY_FILE": str(ready),
    }
    with log.open("wb") as file:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "worker.py"), env={**os.environ, **given}, stderr=file, cwd=ROOT
        )
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not ready.exists():
                assert worker.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
            with pytest.raises(JobFailed):
                await client.generate("hello", user_id="ann")
            job = await client.analyze(read_session(SAMPLES / "cold-call-logistics.json"), provider=Provider.LOCAL)
            with pytest.raises(JobFailed):
                await job.result()
    finally:
        worker.terminate()
        await worker.wait()
    text = log.read_text()
    assert "QuotaExceeded" in text
    assert "Traceback" not in text
