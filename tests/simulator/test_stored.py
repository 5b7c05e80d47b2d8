"""Completions that OpenAI is asked to store: they can be listed, whatever became of their delivery."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.simulator.test_process import start

ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "How is the weather on the ferry?"}]}


def stored(attempt: str, **more: Any) -> Any:
    return {**ASK, "store": True, "metadata": {"parley_attempt_id": attempt}, **more}


async def listed(client: openai.AsyncOpenAI, **wanted: Any) -> list[Any]:
    return (await client.chat.completions.list(**wanted)).data


async def found(client: openai.AsyncOpenAI, attempt: str) -> list[Any]:
    return await listed(client, metadata={"parley_attempt_id": attempt})


async def test_what_was_delivered_is_what_is_stored(openai_client):
    reply = await openai_client.chat.completions.create(**stored("a"))
    await openai_client.chat.completions.create(**stored("b"))
    [kept] = await found(openai_client, "a")
    assert kept.metadata == {"parley_attempt_id": "a"}
    assert kept.model_copy(update={"metadata": None}) == reply
    assert await openai_client.chat.completions.retrieve(reply.id) == kept


async def test_only_what_was_asked_to_be_stored_is(openai_client, local_client, admin):
    reply = await openai_client.chat.completions.create(**ASK)
    await openai_client.chat.completions.create(**ASK, store=False)
    await local_client.chat.completions.create(**stored("a"))  # a local server stores nothing
    assert await listed(openai_client) == []
    with pytest.raises(openai.NotFoundError, match="not found"):
        await openai_client.chat.completions.retrieve(reply.id)


async def test_metadata_goes_with_store_alone(openai_client, admin):
    with pytest.raises(openai.BadRequestError, match="only allowed when 'store' is enabled"):
        await openai_client.chat.completions.create(**ASK, metadata={"parley_attempt_id": "a"})
    assert (await admin.only_call())["billed"] is False


@pytest.mark.parametrize("fault", ["cut", "hang", "not_json"])
async def test_a_reply_that_never_arrived_is_stored_whole(openai_client, admin, fault):
    whole = await openai_client.chat.completions.create(**ASK)
    await admin.post("faults", fault=fault, times=None, hold=0.05)
    with pytest.raises((openai.APIConnectionError, ValueError)):
        await openai_client.chat.completions.create(**stored("lost"), extra_headers={"X-Parley-Attempt-Id": "lost"})
    [kept] = await found(openai_client, "lost")
    assert (kept.choices, kept.usage) == (whole.choices, whole.usage)
    call = await admin.only_call(attempt_id="lost")
    assert (call["billed"], call["output_tokens"]) == (True, kept.usage.completion_tokens)


async def test_a_held_reply_is_stored_as_soon_as_it_is_billed(openai_client, admin):
    await admin.post("gate", provider="openai", closed=True)
    asking = asyncio.create_task(openai_client.chat.completions.create(**stored("held")))
    await admin.get("calls", billed="true", at_least=1)
    [kept] = await found(openai_client, "held")
    await admin.post("gate", provider="openai", closed=False)
    assert (await asking).id == kept.id


async def test_a_stream_is_stored_as_the_completion_it_spells(openai_client):
    text = ""
    async for chunk in await openai_client.chat.completions.create(**stored("s", stream=True)):
        text += chunk.choices[0].delta.content or ""
    [kept] = await found(openai_client, "s")
    assert (kept.choices[0].message.content, kept.choices[0].finish_reason) == (text, "stop")


async def test_a_damaged_completion_is_stored_as_damaged(openai_client, admin):
    await admin.post("faults", fault="no_finish")
    reply = await openai_client.chat.completions.create(**stored("a"))
    [kept] = await found(openai_client, "a")
    assert kept.choices == reply.choices
    assert kept.choices[0].finish_reason is None


async def test_a_refused_request_stores_nothing(openai_client, admin):
    await admin.post("faults", fault="server_error")
    with pytest.raises(openai.InternalServerError):
        await openai_client.chat.completions.create(**stored("a"))
    assert await found(openai_client, "a") == []


async def test_pages_order_and_filters(openai_client):
    for number in range(5):
        await openai_client.chat.completions.create(**stored(str(number), model=f"m{number % 2}"))

    def numbers(completions: list[Any]) -> list[str]:
        return [one.metadata["parley_attempt_id"] for one in completions]

    first = await openai_client.chat.completions.list(limit=2)
    assert (numbers(first.data), first.has_more) == (["0", "1"], True)
    assert numbers([one async for one in openai_client.chat.completions.list(limit=2)]) == ["0", "1", "2", "3", "4"]
    assert numbers(await listed(openai_client, order="desc")) == ["4", "3", "2", "1", "0"]
    assert numbers(await listed(openai_client, model="m1")) == ["1", "3"]
    assert await listed(openai_client, metadata={"parley_attempt_id": "1", "other": "x"}) == []
    assert await listed(openai_client, metadata={"other": "1"}) == []


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "many"}, {"limit": "101"}, {"order": "random"}])
async def test_a_wrong_listing_is_refused(admin, query):
    answer = await admin.http.get("/openai/v1/chat/completions", params=query, headers={"authorization": "Bearer any"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


async def test_a_listing_wants_a_key_is_not_logged_and_fails_in_an_outage(openai_client, admin):
    assert (await admin.http.get("/openai/v1/chat/completions")).status_code == 401
    await admin.post("faults", fault="server_error", provider="openai", times=None)
    with pytest.raises(openai.InternalServerError):
        await listed(openai_client)
    assert await admin.get("calls") == []


async def test_a_reset_forgets_what_is_stored(openai_client, admin):
    await openai_client.chat.completions.create(**stored("a"))
    await admin.post("reset")
    assert await listed(openai_client) == []


async def test_a_killed_simulators_completions_are_known_to_the_next(tmp_path: Path):
    log = tmp_path / "calls.jsonl"
    headers = {"authorization": "Bearer any"}
    process, url = await start("--log", str(log))
    async with httpx2.AsyncClient(base_url=url, timeout=20, headers=headers) as client:
        await client.post("/admin/gate", json={"closed": True})
        held = asyncio.create_task(client.post("/openai/v1/chat/completions", json=stored("a")))
        await client.get("/admin/calls", params={"at_least": 1, "billed": "true"})
        process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            await held
        await process.wait()
    process, url = await start("--log", str(log))
    try:
        async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="any", max_retries=0) as client:
            [kept] = await found(client, "a")
            assert kept.choices[0].message.content
            assert kept.id == (await client.chat.completions.retrieve(kept.id)).id
            await client.chat.completions.create(**stored("b"))
            assert len({one.id for one in await listed(client)}) == 2
    finally:
        process.terminate()
        await process.wait()


# What else costs nothing


async def test_every_provider_lists_its_models(openai_client, local_client, anthropic_client, elevenlabs_client, admin):
    names = [
        (await openai_client.models.list()).data[0].id,
        (await local_client.models.list()).data[0].id,
        (await anthropic_client.models.list()).data[0].id,
        (await elevenlabs_client.models.list(request_options={"max_retries": 0}))[0].model_id,
    ]
    assert names == ["simulator/any"] * 4
    assert await admin.get("calls") == []


async def test_a_fault_for_the_next_call_waits_for_a_call(openai_client, admin):
    await admin.post("faults", fault="server_error", provider="openai")
    await openai_client.models.list()
    with pytest.raises(openai.InternalServerError):
        await openai_client.chat.completions.create(**ASK)


@pytest.mark.parametrize("fault", ["quota", "bad_request", "context_too_long", "malformed"])
async def test_what_concerns_paid_calls_alone_leaves_the_models_listed(openai_client, admin, fault):
    await admin.post("faults", fault=fault, times=None)
    assert (await openai_client.models.list()).data
