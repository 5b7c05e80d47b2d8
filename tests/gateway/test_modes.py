"""Which mode a generation over HTTP runs in: the header, else the key, else the action's policy, else durable."""

import asyncio
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from activities.token_sink import Sinks
from gateway.inline import InlineGenerate
from parley import Backend, Client
from parley.client.backend import describe_workflow
from parley.client.generate import generate_input
from parley.domain.errors import NotFound, ParleyError
from parley.domain.generate.contract import Mode
from parley.settings import DEFAULT_POLICY, Settings
from parley.streams.hub import PROCESS_HUB
from parley.streams.receiver import SocketReceiver
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, read_events, running_gateway
from tests.parts import running_workers

BODY = {"messages": "Which plan has SSO?", "user_id": "ann", "cache": "off"}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "policy.toml"
    path.write_text(f'{DEFAULT_POLICY.read_text()}\n[action.quick]\nmode = "inline"\n')
    return settings.model_copy(update={"policy_file": path})


async def run(http: httpx.AsyncClient, action: str = "ai_message", **headers: str) -> dict[str, Any]:
    async with http.stream("POST", "/api/chat/stream", json={**BODY, "action": action}, headers=headers) as stream:
        assert stream.status_code == 200, await stream.aread()
        [start, *_, end] = [event async for event in read_events(stream)]
    assert end["data"]["success"]
    return start["data"]


async def has_workflow(backend: Backend, client: Client, job_id: str) -> bool:
    try:
        await describe_workflow(backend, client.workspace_id, job_id)
    except NotFound:
        return False
    return True


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("header", "key", "action", "mode"),
    [
        (None, None, "ai_message", "durable"),
        (None, None, "quick", "inline"),
        (None, "durable", "quick", "durable"),
        (None, "inline", "ai_message", "inline"),
        ("durable", "inline", "quick", "durable"),
        ("inline", "durable", "ai_message", "inline"),
    ],
)
async def test_the_mode_is_of_the_header_then_the_key_then_the_action(
    header: str | None, key: str | None, action: str, mode: str, gateway: Running, backend: Backend, client: Client
):
    made = await client.gateway_keys.create("app", mode=Mode(key) if key else None)
    async with gateway.http(made.secret) as http:
        started = await run(http, action, **({"x-parley-mode": header} if header else {}))
    assert await has_workflow(backend, client, started["id"]) == (mode == "durable")
    assert await client.audit() == []


async def test_an_unknown_mode_is_refused(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    refused = await http.post("/api/chat/stream", json=BODY, headers={"x-parley-mode": "fast"})
    assert (refused.status_code, refused.json()["field"]) == (400, "x-parley-mode")
    assert await simulator.requests() == []


async def test_a_drain_finishes_what_runs_inline_and_begins_nothing(
    gateway: Running, http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    await simulator.gate(closed=True, provider="openai")
    running = asyncio.create_task(run(http, **{"x-parley-mode": "inline"}))
    await simulator.requests(at_least=1, state="in_flight")
    gateway.server.stop()
    await simulator.gate(closed=False, provider="openai")
    assert await running
    await gateway.serving


async def test_a_closed_engine_begins_nothing(backend: Backend, client: Client, simulator: SimulatorAdmin):
    inline = InlineGenerate(backend.database, backend.settings)
    await inline.close()
    with pytest.raises(ParleyError, match="this gateway ends"):
        await inline.run(generate_input(client.workspace_id, "Hello", user_id="ann"), uuid4().hex)
    assert await simulator.requests() == []


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("mode", [*Mode])
async def test_a_caller_that_leaves_may_cancel_the_request_to_the_provider(
    mode: str, http: httpx.AsyncClient, client: Client, simulator: SimulatorAdmin
):
    await simulator.fault("stall")
    headers = {"x-parley-mode": mode, "x-parley-on-disconnect": "cancel", "idempotency-key": "leaving"}
    async with http.stream("POST", "/api/chat/stream", json=BODY, headers=headers) as stream:
        events = read_events(stream)
        assert [(await anext(events))["event"] for _ in range(2)] == ["start", "delta"]
    again = await http.post("/api/chat/stream", json=BODY, headers=headers)
    assert '"finish":"cancelled"' in again.text
    assert len(await simulator.requests()) == 1
    assert await client.audit() == []


async def test_a_key_that_runs_in_one_mode_is_paid_once_in_both(
    backend: Backend, client: Client, settings: Settings, simulator: SimulatorAdmin
):
    """The deltas of the durable run come from a worker of another process. A request in the other mode joins it."""
    database = backend.database
    receiver, sinks = SocketReceiver(PROCESS_HUB, settings), Sinks(database, settings)
    receiving = Backend(backend.temporal, database, settings, receiver)
    secret = (await client.gateway_keys.create("app")).secret
    async with (
        running_workers(backend.temporal, database, settings, sinks=sinks),
        running_gateway(receiving, settings.model_copy(update={"gateway_port": 0})) as gateway,
        gateway.http(secret, headers={"idempotency-key": "both"}) as http,
    ):
        await simulator.fault("slow_tokens", hold=1)
        durable = {"x-parley-mode": "durable"}
        async with http.stream("POST", "/api/chat/stream", json=BODY, headers=durable) as stream:
            first = read_events(stream)
            begun = [await anext(first), await anext(first)]
            inline = await http.post("/api/chat/stream", json=BODY, headers={"x-parley-mode": "inline"})
            *texts, end = [*begun[1:], *[event async for event in first]]
        assert "".join(event["data"]["text"] for event in texts) == end["data"]["content"]
        assert end["data"]["content"] in inline.text.replace('\\"', '"')
        assert len(await simulator.requests()) == 1
        assert await client.audit() == []
    await sinks.close()
    await receiver.close()


async def test_an_answer_that_workers_can_only_store_goes_on_where_it_broke(
    backend: Backend, client: Client, settings: Settings, simulator: SimulatorAdmin
):
    """The gateway cannot listen for deltas, and reads what is stored. What it has sent is not generated again."""
    database, sinks = backend.database, Sinks(backend.database, settings)
    taken = socket.create_server(("127.0.0.1", 0))
    receiver = SocketReceiver(
        PROCESS_HUB, settings.model_copy(update={"stream_host": "127.0.0.1", "stream_port": taken.getsockname()[1]})
    )
    receiving = Backend(backend.temporal, database, settings, receiver)
    secret = (await client.gateway_keys.create("app")).secret
    async with (
        running_workers(backend.temporal, database, settings, sinks=sinks),
        running_gateway(receiving, settings.model_copy(update={"gateway_port": 0})) as gateway,
        gateway.http(secret, headers={"x-parley-mode": "durable"}) as http,
    ):
        await simulator.fault("cut")
        async with http.stream("POST", "/api/chat/stream", json=BODY) as stream:
            *texts, end = [event async for event in read_events(stream)][1:]
        assert "".join(event["data"]["text"] for event in texts) == end["data"]["content"]
        broken, rest = await simulator.billed()
        assert rest["output_tokens"] < broken["output_tokens"]
    taken.close()
    await sinks.close()
    await receiver.close()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("mode", [*Mode])
async def test_the_answer_of_a_caller_that_leaves_is_completed(
    mode: str, http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    await simulator.gate(closed=True, provider="openai")
    headers = {"x-parley-mode": mode, "idempotency-key": "leaving"}
    task = asyncio.create_task(run(http, **headers))
    await simulator.requests(at_least=1, state="in_flight")
    task.cancel()
    await simulator.gate(closed=False, provider="openai")
    assert await run(http, **headers)
    assert len(await simulator.requests()) == 1
