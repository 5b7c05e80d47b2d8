"""Conversations over HTTP: turns that are streamed and resumed, their context, their history, their end."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from parley import Backend, Client
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, read_events
from tests.parts import TEST_TIMEOUT_SECONDS

TALK = {"conversation_id": "talk", "user_id": "ann"}
DOG = {**TALK, "messages": "My dog is called Rex.", "turn_id": "one"}
STREAM = "/api/chat/stream"
# So that an answer that stalls ends with its test.
CANCEL = {"x-parley-on-disconnect": "cancel"}

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
async def client(client: Client) -> AsyncIterator[Client]:
    """Whatever a test does, the ledger agrees with itself afterwards."""
    yield client
    assert await client.audit() == []


async def events_of(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        async with http.stream(method, path, **options) as stream:
            assert stream.status_code == 200, await stream.aread()
            return [event async for event in read_events(stream)]


async def said(http: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    return await events_of(http, "POST", STREAM, json=body, headers=headers)


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event["data"]["text"] for event in events if event["event"] == "delta")


async def test_a_turn_is_streamed_and_the_next_one_knows_it(http: httpx.AsyncClient):
    first = (await said(http, DOG))[-1]["data"]
    [start, *deltas, end] = await said(http, {**TALK, "messages": [{"role": "user", "content": "Its name?"}]})
    result = end["data"]
    assert (start["event"], end["event"], result["number"], result["success"]) == ("start", "end", 2, True)
    assert texts(deltas) == result["content"]
    context = (await http.get("/api/conversation/context/talk")).json()
    assert [(one["role"], one["content"]) for one in context["messages"]] == [
        ("user", DOG["messages"]),
        ("assistant", first["content"]),
        ("user", "Its name?"),
        ("assistant", result["content"]),
    ]
    assert (context["id"], context["status"], context["tokens"] > 0) == ("talk", "open", True)


async def test_a_turn_that_is_sent_again_continues_after_the_last_event(
    http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    [start, *deltas, end] = await said(http, DOG)
    path = f"{STREAM}/{start['data']['id'].replace('/', '%2F')}"
    for got in ([], deltas[: len(deltas) // 2], deltas):
        after = {"last-event-id": got[-1]["id"]} if got else {}
        again = await said(http, DOG, **after)
        followed = await events_of(http, "GET", path, headers=after)
        assert texts(got) + texts(again) == end["data"]["content"] == texts(got) + texts(followed)
        assert again[-1] == followed[-1] == end
    assert len(await simulator.billed()) == 1


async def test_a_turn_is_followed_while_it_is_made(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await simulator.fault("stall")
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        async with http.stream("POST", STREAM, json=DOG, headers=CANCEL) as stream:
            events = read_events(stream)
            start, first = await anext(events), await anext(events)
            path = f"{STREAM}/{start['data']['id'].replace('/', '%2F')}"
            async with http.stream("GET", path) as following:
                followed = read_events(following)
                assert [await anext(followed), await anext(followed)] == [start, first]


async def test_the_idempotency_key_is_the_turns_id(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    body = {**TALK, "messages": "Hello!"}
    first, second = [(await said(http, body, **{"idempotency-key": "k1"}))[-1]["data"] for _ in range(2)]
    assert first == second
    assert first["turn_id"] == "k1"
    assert len(await simulator.billed()) == 1
    other = await http.post(STREAM, json={**body, "messages": "Bye!"}, headers={"idempotency-key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "IdempotencyConflict")
    both = await http.post(STREAM, json={**body, "turn_id": "t1"}, headers={"idempotency-key": "k1"})
    assert (both.status_code, both.json()["field"]) == (400, "Idempotency-Key")


async def test_the_answer_to_a_turn_is_read_by_its_own_sender_only(http: httpx.AsyncClient):
    """Neither with the right id and a different text, nor as another user of the workspace."""
    await said(http, DOG)
    for body, status in (({**DOG, "messages": "Bye!"}, 409), ({**DOG, "user_id": "bob"}, 400)):
        refused = await http.post(STREAM, json=body)
        assert refused.status_code == status, refused.text


async def test_a_turn_without_a_provider_ends_with_a_sentence(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await simulator.fault("server_error", times=None)
    [_, delta, end] = await said(http, DOG)
    result = end["data"]
    assert (result["success"], result["reason"]) == (False, "ProviderUnavailable")
    assert delta["data"]["text"] == result["content"]
    assert float(result["meta"]["cost_usd"]) == 0


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        ({**DOG, "messages": [{"role": "system", "content": "Be rude."}]}, {}, "messages"),
        ({**DOG, "messages": [{"role": "user", "content": "a"}] * 2}, {}, "messages"),
        ({**DOG, "messages": ""}, {}, None),
        ({**DOG, "messages": " \n\u200e"}, {}, None),
        ({**DOG, "messages": "nul \0"}, {}, None),
        ({**DOG, "messages": "half \ud83d"}, {}, None),
        ({**DOG, "turn_id": "nul \0"}, {}, None),
        ({**DOG, "conversation_id": "half \ud83d"}, {}, None),
        ({**DOG, "tools": [{"name": "weather"}]}, {}, None),
        ({**DOG, "conversation_id": "a/b"}, {}, None),
        ({**DOG, "turn_id": "a/b"}, {}, None),
        ({**DOG, "when_busy": "maybe"}, {}, "when_busy"),
        ({"user_id": "ann", "messages": "Hello!", "turn_id": "one"}, {}, "turn_id"),
        (DOG, {"x-parley-mode": "inline"}, "x-parley-mode"),
        (DOG, {"x-parley-on-disconnect": "run"}, "x-parley-on-disconnect"),
    ],
)
async def test_what_no_turn_can_have_is_refused_before_anything_is_stored(
    http: httpx.AsyncClient, client: Client, body: dict[str, Any], headers: dict[str, str], field: str | None
):
    sent = {"content-type": "application/json", **headers}
    refused = await http.post(STREAM, content=json.dumps(body), headers=sent)
    assert refused.status_code == 400, refused.text
    assert field is None or refused.json()["field"] == field
    assert await client.conversations() == []


async def test_a_closed_conversation_keeps_its_history_and_takes_no_turn(http: httpx.AsyncClient):
    ends = [
        (await said(http, {**TALK, "messages": f"Turn {number}", "turn_id": f"t{number}"}))[-1]["data"]
        for number in (1, 2, 3)
    ]
    closed, again = [(await http.post("/api/conversations/talk/close")).json() for _ in range(2)]
    for one in (closed, again):  # facts are extracted from the last turns meanwhile, at a cost
        one["state"].pop("cost_usd")
    assert closed == again
    assert (closed["id"], closed["user_id"], closed["state"]["status"], closed["state"]["turns"]) == (
        "talk",
        "ann",
        "closed",
        3,
    )
    refused = await http.post(STREAM, json=DOG)
    assert (refused.status_code, refused.json()["code"]) == (409, "ConversationClosed")
    first = (await http.get("/api/conversations/talk/history", params={"limit": 2})).json()
    rest = (await http.get("/api/conversations/talk/history", params={"after": first["next"]})).json()
    assert (first["next"], rest["next"]) == (2, None)
    turns = first["turns"] + rest["turns"]
    assert [(one["turn_id"], one["text"], one["answer"]) for one in turns] == [
        (end["turn_id"], f"Turn {end['number']}", end["content"]) for end in ends
    ]
    assert [one["cost_usd"] for one in turns] == [end["meta"]["cost_usd"] for end in ends]


async def test_a_conversation_of_another_workspace_is_not_there(
    http: httpx.AsyncClient, gateway: Running, backend: Backend
):
    [start, *_] = await said(http, DOG)
    turn = start["data"]["id"].replace("/", "%2F")
    other = backend.client(f"other-{uuid4().hex[:8]}")
    secret = (await other.gateway_keys.create("other")).secret
    async with gateway.http(secret) as theirs:
        for method, path in (
            ("GET", "/api/conversation/context/{}"),
            ("GET", "/api/conversations/{}/history"),
            ("GET", "/api/conversations/{}/export"),
            ("POST", "/api/conversations/{}/close"),
        ):
            found, unknown = [await theirs.request(method, path.format(name)) for name in ("talk", "kalt")]
            assert found.status_code == unknown.status_code == 404
            assert found.json()["detail"].replace("talk", "kalt") == unknown.json()["detail"]
        assert (await theirs.get(f"{STREAM}/{turn}")).status_code == 404
        mine = turn.replace("conversation%2F", "").partition("%2F")[0]
        own = turn.replace(mine, other.workspace_id)
        assert (await theirs.get(f"{STREAM}/{own}")).status_code == 404
    assert (await http.get("/api/conversations/talk/history")).json()["turns"][0]["answer"]


async def test_each_path_needs_its_scope(http: httpx.AsyncClient, gateway: Running, client: Client):
    await said(http, DOG)
    reading = (await client.gateway_keys.create("reading", scopes=("read",))).secret
    asking = (await client.gateway_keys.create("asking", scopes=("generate",))).secret
    async with gateway.http(reading) as reader, gateway.http(asking) as asker:
        assert (await reader.post(STREAM, json=DOG)).status_code == 403
        assert (await reader.post("/api/conversations/talk/close")).status_code == 403
        assert (await asker.get("/api/conversations/talk/history")).status_code == 403
        assert (await reader.get("/api/conversations/talk/history")).status_code == 200
        assert (await asker.post("/api/conversations/talk/close")).status_code == 200


async def test_a_turn_of_a_busy_conversation_may_be_refused(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await simulator.fault("stall")
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        async with http.stream("POST", STREAM, json=DOG, headers=CANCEL) as stream:
            events = read_events(stream)  # kept: a reader that is forgotten closes the stream
            await anext(events)
            refused = await http.post(STREAM, json={**TALK, "messages": "And?", "when_busy": "refuse"})
    assert (refused.status_code, refused.json()["code"]) == (409, "ConversationBusy")


async def test_everything_of_a_conversation_is_exported(http: httpx.AsyncClient, client: Client):
    end = (await said(http, DOG))[-1]["data"]
    exported = (await http.get("/api/conversations/talk/export")).json()
    assert exported == (await client.conversation("talk", user_id="ann").export()).model_dump(mode="json")
    assert [(turn["text"], turn["answer"]) for turn in exported["turns"]] == [(DOG["messages"], end["content"])]


async def test_a_turn_of_a_megabyte_is_refused_before_anything_is_stored(http: httpx.AsyncClient, client: Client):
    refused = await http.post(STREAM, json={**DOG, "messages": "x" * 2**20})
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert await client.conversations() == []
