"""A worker that cannot start says why in one line, and exits with 2."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parley.settings import Settings
from starter.embedded import Addresses
from tests.parts import ROOT


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("TEMPORAL_NAMESPACE", "prod", "TEMPORAL_NAMESPACE: Temporal has no namespace 'prod'"),
        ("PARLEY_READY_FILE", "{directory}/none/ready", "PARLEY_READY_FILE: {directory}/none/ready cannot be written"),
        ("DATABASE_URL", "", "DATABASE_URL: is not set"),
    ],
)
async def test_what_is_wrong_is_one_line(
    name: str, value: str, problem: str, stack: Addresses, settings: Settings, tmp_path: Path
) -> None:
    assert settings.database_url is not None
    given = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "PARLEY_CODEC_KEYS": "off",
        "PYTHONPATH": str(ROOT),
        name: value.format(directory=tmp_path),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "--role", "storage"),
        env=os.environ | given,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2, err
    *_, last = err.decode().splitlines()
    assert problem.format(directory=tmp_path) in last
    assert b"Traceback" not in err
