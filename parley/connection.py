"""How to reach Temporal, and how a process of ours ends."""

import asyncio
import logging
import os
import sys
from typing import NoReturn

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime

from parley.domain.errors import InvalidInput, Unreachable

CONNECT_SECONDS = 5


async def connect(address: str | None = None, *, runtime: Runtime | None = None) -> Client:
    """A client at `address`, else as the environment says: TEMPORAL_ADDRESS, or a profile of Temporal's own TOML.

    `runtime`: the SDK's, where it is not the default one, to show its metrics.

    Raises:
        InvalidInput: the profile cannot be read.
        Unreachable: no Temporal server answers there.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(str(error), where="Temporal's configuration") from error
    address = address or config.get("target_host") or "localhost:7233"
    config["target_host"] = address
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await Client.connect(**config, data_converter=pydantic_data_converter, runtime=runtime)
    except (RuntimeError, TimeoutError) as error:
        raise Unreachable(f"TEMPORAL_ADDRESS: no Temporal server answers at {address}") from error


def leave(code: int) -> NoReturn:
    """End the process with its own exit code.

    Threads of the SDK's core can abort an interpreter that takes itself apart (sdk-python#300), and SIGABRT
    would hide how the command went.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
