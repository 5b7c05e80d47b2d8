"""A lost reply is recovered by its attempt's id, instead of being paid again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parley.domain.errors import (
    AuthenticationFailed,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    TruncatedReply,
)
from parley.domain.requests import ChatReply, Finish, Provider
from parley.providers.openai import OpenAIAdapter
from tests.parts import SimulatorAdmin
from tests.providers.vendors import ALL, KEY, MODEL, answering, chat, openai_body, providers, question, simulated


@asynccontextmanager
async def storing(
    url: str, *, store: bool = True, key: str = "any", seconds: float = 20
) -> AsyncIterator[OpenAIAdapter]:
    adapter = OpenAIAdapter(Provider.OPENAI, api_key=key, base_url=url, timeout=seconds, store=store)
    try:
        yield adapter
    finally:
        await adapter.close()


@pytest.fixture
async def adapter(simulator: SimulatorAdmin) -> AsyncIterator[OpenAIAdapter]:
    async with storing(f"{simulator.url}/openai/v1", seconds=0.5) as opened:
        yield opened


def listed(*completions: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(completions), "has_more": False, "first_id": None, "last_id": None}


def kept(attempt: str, **fields: Any) -> dict[str, Any]:
    return openai_body(**fields) | {"metadata": {"parley_attempt_id": attempt}}


async def test_the_recovered_reply_is_the_original(adapter: OpenAIAdapter):
    replies = {attempt: await adapter.call(chat(), MODEL, attempt) for attempt in ("a", "b")}
    assert {attempt: await adapter.recover(attempt) for attempt in replies} == replies
    assert replies["a"] != replies["b"]


@pytest.mark.parametrize("fault", ["cut", "hang", "not_json"])
async def test_a_lost_reply_is_recovered_with_its_usage_and_paid_once(
    adapter: OpenAIAdapter, simulator: SimulatorAdmin, fault: str
):
    await simulator.fault(fault, times=None)
    with pytest.raises(ProviderError):
        await adapter.call(chat(), MODEL, "lost")
    reply = await adapter.recover("lost")
    assert reply is not None
    [request] = await simulator.billed()
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (request["input_tokens"], request["output_tokens"])
    assert (reply.finish, reply.model) == (Finish.STOP, f"simulator/{MODEL}")
    assert "simulator" in reply.text


async def test_a_reply_after_the_timeout_is_recovered(adapter: OpenAIAdapter, simulator: SimulatorAdmin):
    await simulator.gate(closed=True, provider="openai")
    asking = asyncio.create_task(adapter.call(chat(), MODEL, "left"))
    await simulator.requests(billed="true", at_least=1)
    asking.cancel()
    assert isinstance(await adapter.recover("left"), ChatReply)


async def test_an_attempt_without_a_reply_has_nothing_to_recover(adapter: OpenAIAdapter, simulator: SimulatorAdmin):
    await simulator.fault("server_error")
    with pytest.raises(ProviderUnavailable):
        await adapter.call(chat(), MODEL, "refused")
    assert await adapter.recover("refused") is None
    assert await adapter.recover("never made") is None


@pytest.mark.parametrize("provider", ALL)
async def test_without_stored_replies_no_listing_is_requested(simulator: SimulatorAdmin, provider: Provider):
    """Without the option, and at every vendor that stores no replies."""
    await simulator.fault("server_error", times=None)  # a listing would fail
    async with providers(simulated(simulator.url)) as opened:
        assert await opened.adapter(provider).recover("a") is None


async def test_the_setting_applies_to_openai_only(simulator: SimulatorAdmin):
    async with providers(simulated(simulator.url, openai_store=True)) as opened:
        for provider, is_kept in ((Provider.OPENAI, True), (Provider.LOCAL, False), (Provider.ANTHROPIC, False)):
            reply = await opened.adapter(provider).call(chat(), MODEL, f"to {provider}")
            assert await opened.adapter(provider).recover(f"to {provider}") == (reply if is_kept else None)


async def test_a_completion_is_stored_only_with_the_option():
    for store in (True, False):
        async with answering(openai_body()) as stub, storing(stub.url, store=store) as adapter:
            await adapter.call(chat(), MODEL, "a")
        [received] = stub.requests
        expected = {"store": True, "metadata": {"parley_attempt_id": "a"}} if store else {}
        assert {name: value for name, value in received.json.items() if name in ("store", "metadata")} == expected


async def test_the_listing_is_filtered_by_attempt_only():
    """Not by model: OpenAI lists completions under dated names such as gpt-4o-mini-2024-07-18."""
    async with answering(listed(kept("a"))) as stub, storing(stub.url) as adapter:
        reply = await adapter.recover("a")
    assert reply is not None
    assert reply.text == "A lift."
    [received] = stub.requests
    assert received.path.replace("%5B", "[").replace("%5D", "]") == "/chat/completions?metadata[parley_attempt_id]=a"


async def test_the_reply_to_another_attempt_is_never_used():
    others = [kept("b"), openai_body(), openai_body() | {"metadata": None}]
    async with answering(listed(*others)) as stub, storing(stub.url) as adapter:
        assert await adapter.recover("a") is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (listed(kept("a", finish="error")), 200, TruncatedReply),
        (listed({"metadata": {"parley_attempt_id": "a"}}), 200, MalformedReply),
        (listed("text"), 200, MalformedReply),
        ({"object": "list", "data": None}, 200, MalformedReply),
        (b"not JSON", 200, MalformedReply),
        ({"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}}, 401, AuthenticationFailed),
        (b"<html>", 502, ProviderUnavailable),
    ],
)
async def test_a_failed_listing_is_a_provider_error(body: object, status: int, expected: type[ProviderError]):
    async with answering(body, status) as stub, storing(stub.url, key=KEY) as adapter:
        with pytest.raises(expected) as caught:
            await adapter.recover("a")
    assert KEY not in str(caught.value)
    assert len(stub.requests) == 1


async def test_a_listing_that_hangs_ends_with_the_timeout():
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, storing(url, seconds=0.3) as adapter:
        with pytest.raises(ProviderUnavailable, match="no answer within the timeout"):
            await adapter.recover("a")


async def test_each_call_has_one_attempt_id(adapter: OpenAIAdapter, simulator: SimulatorAdmin):
    await adapter.call(question(Provider.OPENAI), MODEL, "a")
    [request] = await simulator.requests(attempt_id="a")
    assert request["state"] == "answered"
