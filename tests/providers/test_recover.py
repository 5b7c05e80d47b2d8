"""A reply that was lost on its way is fetched by its attempt's id, instead of being paid for again."""

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


async def test_the_recovered_reply_is_the_one_that_was_made(adapter: OpenAIAdapter):
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
    [call] = await simulator.billed()
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (call["input_tokens"], call["output_tokens"])
    assert (reply.finish, reply.model) == (Finish.STOP, f"simulator/{MODEL}")
    assert "simulator" in reply.text


async def test_a_reply_that_nobody_waited_for_is_recovered(adapter: OpenAIAdapter, simulator: SimulatorAdmin):
    await simulator.gate(closed=True, provider="openai")
    asking = asyncio.create_task(adapter.call(chat(), MODEL, "left"))
    await simulator.calls(billed="true", at_least=1)
    asking.cancel()
    assert isinstance(await adapter.recover("left"), ChatReply)


async def test_an_attempt_that_was_never_answered_has_nothing_to_recover(
    adapter: OpenAIAdapter, simulator: SimulatorAdmin
):
    await simulator.fault("server_error")
    with pytest.raises(ProviderUnavailable):
        await adapter.call(chat(), MODEL, "refused")
    assert await adapter.recover("refused") is None
    assert await adapter.recover("never made") is None


@pytest.mark.parametrize("provider", ALL)
async def test_where_nothing_is_stored_nothing_is_asked(simulator: SimulatorAdmin, provider: Provider):
    """Unless it was opted for, and with every vendor that keeps no replies."""
    await simulator.fault("server_error", times=None)  # a listing would fail
    async with providers(simulated(simulator.url)) as opened:
        assert await opened.adapter(provider).recover("a") is None


async def test_the_setting_opts_in_for_openai_alone(simulator: SimulatorAdmin):
    async with providers(simulated(simulator.url, openai_store=True)) as opened:
        for provider, is_kept in ((Provider.OPENAI, True), (Provider.LOCAL, False), (Provider.ANTHROPIC, False)):
            reply = await opened.adapter(provider).call(chat(), MODEL, f"to {provider}")
            assert await opened.adapter(provider).recover(f"to {provider}") == (reply if is_kept else None)


async def test_a_completion_is_stored_only_where_that_is_wanted():
    for store in (True, False):
        async with answering(openai_body()) as stub, storing(stub.url, store=store) as adapter:
            await adapter.call(chat(), MODEL, "a")
        [asked] = stub.asked
        expected = {"store": True, "metadata": {"parley_attempt_id": "a"}} if store else {}
        assert {name: value for name, value in asked.json.items() if name in ("store", "metadata")} == expected


async def test_the_listing_asks_for_the_attempt_alone():
    """Not for the model: OpenAI files completions under dated names such as gpt-4o-mini-2024-07-18."""
    async with answering(listed(kept("a"))) as stub, storing(stub.url) as adapter:
        reply = await adapter.recover("a")
    assert reply is not None
    assert reply.text == "A lift."
    [asked] = stub.asked
    assert asked.path.replace("%5B", "[").replace("%5D", "]") == "/chat/completions?metadata[parley_attempt_id]=a"


async def test_nobody_is_given_the_reply_of_another_attempt():
    others = [kept("b"), openai_body(), openai_body() | {"metadata": None}]
    async with answering(listed(*others)) as stub, storing(stub.url) as adapter:
        assert await adapter.recover("a") is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (listed(kept("a", finish=None)), 200, TruncatedReply),
        (listed({"metadata": {"parley_attempt_id": "a"}}), 200, MalformedReply),
        (listed("text"), 200, MalformedReply),
        ({"object": "list", "data": None}, 200, MalformedReply),
        (b"not JSON", 200, MalformedReply),
        ({"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}}, 401, AuthenticationFailed),
        (b"<html>", 502, ProviderUnavailable),
    ],
)
async def test_a_listing_that_goes_wrong_is_one_of_the_usual_errors(
    body: object, status: int, expected: type[ProviderError]
):
    async with answering(body, status) as stub, storing(stub.url, key=KEY) as adapter:
        with pytest.raises(expected) as caught:
            await adapter.recover("a")
    assert KEY not in str(caught.value)
    assert len(stub.asked) == 1


async def test_a_listing_that_hangs_ends_with_the_timeout():
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, storing(url, seconds=0.3) as adapter:
        with pytest.raises(ProviderUnavailable, match="no answer within the timeout"):
            await adapter.recover("a")


async def test_each_call_still_carries_one_attempt(adapter: OpenAIAdapter, simulator: SimulatorAdmin):
    await adapter.call(question(Provider.OPENAI), MODEL, "a")
    [call] = await simulator.calls(attempt_id="a")
    assert call["state"] == "answered"
