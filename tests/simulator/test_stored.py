"""Stored completions, which can be listed even if their delivery failed, and other requests that are not billed."""

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


async def listed(client: openai.AsyncOpenAI, **filters: Any) -> list[Any]:
    return (await client.chat.completions.list(**filters)).data


async def found(client: openai.AsyncOpenAI, attempt: str) -> list[Any]:
    return await listed(client, metadata={"parley_attempt_id": attempt})


async def test_the_stored_completion_equals_the_delivered_one(openai_client):
    reply = await openai_client.chat.completions.create(**stored("a"))
    await openai_client.chat.completions.create(**stored("b"))
    [completion] = await found(openai_client, "a")
    assert completion.metadata == {"parley_attempt_id": "a"}
    assert completion.model_copy(update={"metadata": None}) == reply
    assert await openai_client.chat.completions.retrieve(reply.id) == completion


async def test_nothing_is_stored_without_the_store_parameter(openai_client, local_client, admin):
    reply = await openai_client.chat.completions.create(**ASK)
    await openai_client.chat.completions.create(**ASK, store=False)
    await local_client.chat.completions.create(**stored("a"))  # a local server stores nothing
    assert await listed(openai_client) == []
    with pytest.raises(openai.NotFoundError, match="not found"):
        await openai_client.chat.completions.retrieve(reply.id)


async def test_metadata_without_store_is_refused(openai_client, admin):
    with pytest.raises(openai.BadRequestError, match="only allowed when 'store' is enabled"):
        await openai_client.chat.completions.create(**ASK, metadata={"parley_attempt_id": "a"})
    assert (await admin.only_request())["billed"] is False


@pytest.mark.parametrize("fault", ["cut", "hang", "not_json"])
async def test_a_reply_that_is_not_delivered_is_stored_completely(openai_client, admin, fault):
    whole = await openai_client.chat.completions.create(**ASK)
    await admin.post("faults", fault=fault, times=None, hold=0.05)
    with pytest.raises((openai.APIConnectionError, ValueError)):
        await openai_client.chat.completions.create(**stored("lost"), extra_headers={"X-Parley-Attempt-Id": "lost"})
    [completion] = await found(openai_client, "lost")
    assert (completion.choices, completion.usage) == (whole.choices, whole.usage)
    request = await admin.only_request(attempt_id="lost")
    assert (request["billed"], request["output_tokens"]) == (True, completion.usage.completion_tokens)


async def test_a_held_reply_is_stored_as_soon_as_it_is_billed(openai_client, admin):
    await admin.post("gate", provider="openai", closed=True)
    asking = asyncio.create_task(openai_client.chat.completions.create(**stored("held")))
    await admin.get("requests", billed="true", at_least=1)
    [completion] = await found(openai_client, "held")
    await admin.post("gate", provider="openai", closed=False)
    assert (await asking).id == completion.id


async def test_a_stream_is_stored_as_a_completion(openai_client):
    text = ""
    async for chunk in await openai_client.chat.completions.create(**stored("s", stream=True)):
        text += chunk.choices[0].delta.content or ""
    [completion] = await found(openai_client, "s")
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == (text, "stop")


async def test_a_damaged_completion_is_stored_as_damaged(openai_client, admin):
    await admin.post("faults", fault="no_finish")
    reply = await openai_client.chat.completions.create(**stored("a"))
    [completion] = await found(openai_client, "a")
    assert completion.choices == reply.choices
    assert completion.choices[0].finish_reason is None


async def test_a_refused_request_stores_nothing(openai_client, admin):
    await admin.post("faults", fault="server_error")
    with pytest.raises(openai.InternalServerError):
        await openai_client.chat.completions.create(**stored("a"))
    assert await found(openai_client, "a") == []


async def test_lists_have_pages_order_and_filters(openai_client):
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
async def test_an_invalid_query_is_refused(admin, query):
    answer = await admin.http.get("/openai/v1/chat/completions", params=query, headers={"authorization": "Bearer any"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


async def test_a_list_needs_a_key_is_not_logged_and_fails_in_an_outage(openai_client, admin):
    assert (await admin.http.get("/openai/v1/chat/completions")).status_code == 401
    await admin.post("faults", fault="server_error", provider="openai", times=None)
    with pytest.raises(openai.InternalServerError):
        await listed(openai_client)
    assert await admin.get("requests") == []


async def test_a_reset_deletes_stored_completions(openai_client, admin):
    await openai_client.chat.completions.create(**stored("a"))
    await admin.post("reset")
    assert await listed(openai_client) == []


async def test_the_next_simulator_knows_the_completions_of_a_killed_one(tmp_path: Path):
    log = tmp_path / "requests.jsonl"
    headers = {"authorization": "Bearer any"}
    process, url = await start("--log", str(log))
    async with httpx2.AsyncClient(base_url=url, timeout=20, headers=headers) as client:
        await client.post("/admin/gate", json={"closed": True})
        held = asyncio.create_task(client.post("/openai/v1/chat/completions", json=stored("a")))
        await client.get("/admin/requests", params={"at_least": 1, "billed": "true"})
        process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            await held
        await process.wait()
    process, url = await start("--log", str(log))
    try:
        async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="any", max_retries=0) as client:
            [completion] = await found(client, "a")
            assert completion.choices[0].message.content
            assert completion.id == (await client.chat.completions.retrieve(completion.id)).id
            await client.chat.completions.create(**stored("b"))
            assert len({one.id for one in await listed(client)}) == 2
    finally:
        process.terminate()
        await process.wait()


# Other requests that are not billed


async def test_every_provider_lists_its_models(openai_client, local_client, anthropic_client, elevenlabs_client, admin):
    names = [
        (await openai_client.models.list()).data[0].id,
        (await local_client.models.list()).data[0].id,
        (await anthropic_client.models.list()).data[0].id,
        (await elevenlabs_client.models.list(request_options={"max_retries": 0}))[0].model_id,
    ]
    assert names == ["simulator/any"] * 4
    assert await admin.get("requests") == []


async def test_a_fault_for_one_request_skips_unbilled_requests(openai_client, admin):
    await admin.post("faults", fault="server_error", provider="openai")
    await openai_client.models.list()
    with pytest.raises(openai.InternalServerError):
        await openai_client.chat.completions.create(**ASK)


@pytest.mark.parametrize("fault", ["quota", "bad_request", "context_too_long", "malformed"])
async def test_faults_of_completions_do_not_affect_the_list_of_models(openai_client, admin, fault):
    await admin.post("faults", fault=fault, times=None)
    assert (await openai_client.models.list()).data
