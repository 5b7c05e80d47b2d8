"""`parley gateway`: a process that serves, counts, and drains after SIGTERM."""

import asyncio
import re
import socket

import httpx

from starter.embedded import Addresses
from tests.gateway.parts import listening, started
from tests.parts import TEST_TIMEOUT_SECONDS


async def test_it_serves_counts_and_drains(stack: Addresses, database_url: str):
    process = await started(stack, database_url, 0)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            async with httpx.AsyncClient(base_url=await listening(process)) as http:
                assert (await http.get("/readyz")).json() == {"status": "ready"}
                metrics = (await http.get("/metrics")).text
            process.terminate()
            rest = await process.stdout.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert re.search(r'parley_gateway_requests_total\{[^}]*path="/readyz"[^}]*\} 1\n', metrics)
    assert b"drained" in rest
    assert b"Traceback" not in rest


async def test_a_port_that_is_in_use_is_an_error_in_one_line(stack: Addresses, database_url: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await started(stack, database_url, taken.getsockname()[1])
        output, _ = await process.communicate()
    assert process.returncode == 2
    assert b"PARLEY_GATEWAY_PORT: cannot listen on 127.0.0.1" in output
    assert b"Traceback" not in output
