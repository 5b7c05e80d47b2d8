"""The specification's endpoints: a streamed answer, context, optimization, performance."""

import asyncio
import json
import re
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from parley import Client
from parley.testing import SimulatorAdmin
from tests.gateway.parts import read_events
from tests.parts import TEST_TIMEOUT_SECONDS

BODY = {"messages": "Which plan has SSO?", "user_id": "ann"}
HISTORY = [
    {"role": "system", "content": "Answer briefly."},
    *(
        {"role": ("user", "assistant")[number % 2], "content": f"Message {number}: " + "we talk about the plans. " * 20}
        for number in range(30)
    ),
]

pytestmark = pytest.mark.usefixtures("worker")


async def streamed(http: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        async with http.stream("POST", "/api/chat/stream", json=body, headers=headers) as stream:
            assert stream.status_code == 200, await stream.aread()
            return [event async for event in read_events(stream)]


async def test_an_answer_is_streamed_and_ends_with_its_result(http: httpx.AsyncClient):
    events = await streamed(http, BODY)
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    result = events[-1]["data"]
    text = "".join(event["data"]["text"] for event in events if event["event"] == "delta")
    assert result["success"]
    assert text == result["content"]
    assert float(result["meta"]["cost_usd"]) > 0


@pytest.mark.parametrize("mode", ["durable", "inline"])
async def test_another_request_under_a_key_reads_nothing_of_the_first(http: httpx.AsyncClient, mode: str):
    headers = {"idempotency-key": "turn-1", "x-parley-mode": mode}
    await streamed(http, BODY, **headers)
    async with http.stream("POST", "/api/chat/stream", json={**BODY, "user_id": "bob"}, headers=headers) as refused:
        assert (refused.status_code, json.loads(await refused.aread())["code"]) == (409, "IdempotencyConflict")


async def test_the_same_key_streams_the_same_answer_and_is_paid_once(
    http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    key = {"idempotency-key": "turn-1"}
    first, second = [await streamed(http, BODY, **key) for _ in range(2)]
    assert first == second
    assert len(await simulator.billed()) == 1


async def test_a_failure_before_the_first_text_is_a_status(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await simulator.fault("server_error", times=None)
    failed = await http.post("/api/chat/stream", json=BODY)
    assert (failed.status_code, failed.json()["code"]) == (503, "ProviderUnavailable")


async def test_the_context_of_a_generation_has_its_answer(http: httpx.AsyncClient):
    [start, *_, end] = await streamed(http, BODY)
    path = f"/api/conversation/context/{start['data']['id'].replace('/', '%2F')}"
    context = (await http.get(path)).json()
    assert context["messages"] == [
        {"role": "user", "content": BODY["messages"]},
        {"role": "assistant", "content": end["data"]["content"]},
    ]
    assert context["status"] == "completed"
    assert context["tokens"] > 0


async def test_the_context_of_a_generation_has_the_tools_that_its_answer_calls(http: httpx.AsyncClient):
    parameters = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
    tools = [{"name": "get_order", "description": "Read an order by its number", "parameters": parameters}]
    asked = {"messages": "Where is order 17?", "user_id": "ann", "tools": tools, "tool_choice": "required"}
    [start, *_, end] = await streamed(http, asked)
    context = (await http.get(f"/api/conversation/context/{quote(start['data']['id'], safe='')}")).json()
    assert context["messages"][-1]["tool_calls"] == end["data"]["tool_calls"] != []


async def test_a_history_is_condensed_to_its_budget_once(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    body = {"messages": HISTORY, "user_id": "ann", "budget_tokens": 2000}
    done, again = [(await http.post("/api/chat/optimize", json=body)).json() for _ in range(2)]
    assert done["tokens_before"] > 2000 >= done["tokens_after"]
    assert done["tokens_saved"] == done["tokens_before"] - done["tokens_after"]
    assert done["condensed_messages"] > 0
    assert done["messages"][0] == HISTORY[0]
    assert done["messages"][-1] == HISTORY[-1]
    assert again == done
    assert len(await simulator.billed()) == 1


async def test_a_short_history_is_left_as_it_is(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    body = {"messages": HISTORY[:3], "user_id": "ann", "budget_tokens": 2000}
    done = (await http.post("/api/chat/optimize", json=body)).json()
    assert (done["messages"], done["tokens_saved"], done["meta"]) == (HISTORY[:3], 0, None)
    assert await simulator.billed() == []


def agent_history(turns: int) -> list[dict[str, Any]]:
    """What an agent said: calls of tools with long arguments, and short results."""
    question = {"role": "user", "content": "Where are my orders?"}
    history = [question]
    for number in range(turns):
        arguments = json.dumps({"query": f"order {number}: " + " order" * 300})
        call = {"id": f"call-{number}", "name": "find_orders", "arguments": arguments}
        history += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "none"},
        ]
    return [*history, {"role": "assistant", "content": "There are none."}, question]


async def test_a_history_of_tool_calls_is_condensed_to_its_budget(http: httpx.AsyncClient):
    history = agent_history(turns=10)
    body = {"messages": history, "user_id": "ann", "budget_tokens": 1500}
    done = (await http.post("/api/chat/optimize", json=body)).json()
    assert done["tokens_before"] > 3000
    assert done["tokens_after"] <= 1500
    assert done["messages"][-1] == history[-1]


async def test_the_tokens_of_a_context_are_those_that_its_optimization_counts(http: httpx.AsyncClient):
    [start, *_] = await streamed(http, {"messages": agent_history(turns=2), "user_id": "ann"})
    context = (await http.get(f"/api/conversation/context/{quote(start['data']['id'], safe='')}")).json()
    body = {"messages": context["messages"], "user_id": "ann", "budget_tokens": 10_000}
    assert (await http.post("/api/chat/optimize", json=body)).json()["tokens_before"] == context["tokens"] > 600


async def test_the_budget_that_a_refusal_names_is_enough(http: httpx.AsyncClient):
    developer = {"role": "developer", "content": "Answer briefly." * 20}
    body = {"messages": [developer, *agent_history(turns=10)[:-2]], "user_id": "ann", "budget_tokens": 100}
    refused = await http.post("/api/chat/optimize", json=body)
    assert refused.status_code == 400
    [needed] = re.findall(r"need (\d+) tokens", refused.json()["detail"])
    done = await http.post("/api/chat/optimize", json={**body, "budget_tokens": int(needed)})
    assert done.status_code == 200, done.text
    assert done.json()["condensed_messages"] > 0


async def test_a_budget_that_nothing_fits_is_refused(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    body = {"messages": HISTORY, "user_id": "ann", "budget_tokens": 100}
    refused = await http.post("/api/chat/optimize", json=body)
    assert (refused.status_code, "budget_tokens" in refused.json()["detail"]) == (400, True)
    assert await simulator.billed() == []


class HeldVocabulary:
    """A vocabulary whose counts wait until the test lets them go on."""

    def __init__(self) -> None:
        self.is_counting, self.may_go_on = threading.Event(), threading.Event()

    def encode_ordinary(self, text: str) -> list[int]:
        self.is_counting.set()
        assert self.may_go_on.wait(5), "the event loop waits for the count"
        return [0] * len(text)


@pytest.mark.parametrize("counted", ["optimize", "context", "count_tokens"])
async def test_other_requests_are_answered_while_tokens_are_counted(
    counted: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    [start, *_] = await streamed(http, BODY)
    said = [{"role": "user", "content": "Which plan has SSO?"}]
    bodies: dict[str, tuple[str, str, dict[str, Any] | None]] = {
        "optimize": ("POST", "/api/chat/optimize", {"messages": said, "user_id": "ann", "budget_tokens": 2000}),
        "context": ("GET", f"/api/conversation/context/{quote(start['data']['id'], safe='')}", None),
        "count_tokens": ("POST", "/v1/messages/count_tokens", {"model": "claude-haiku-4-5", "messages": said}),
    }
    held = HeldVocabulary()
    monkeypatch.setattr("parley.domain.tokens._encoding", lambda: held)
    method, path, body = bodies[counted]
    counting = asyncio.create_task(http.request(method, path, json=body))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        assert await asyncio.to_thread(held.is_counting.wait, TEST_TIMEOUT_SECONDS)
        assert (await http.get("/healthz")).status_code == 200
        held.may_go_on.set()
        answer = await counting
    assert answer.status_code == 200, answer.text


async def test_performance_is_over_a_time(http: httpx.AsyncClient, client: Client):
    for number in range(3):
        await client.generate(f"Question {number}", user_id="ann")
    now = (await http.get("/api/metrics/performance")).json()
    assert now["requests"] == 3
    assert now["requests_per_minute"] > 0
    assert now["average_ms"] > 0 < now["p95_ms"]
    assert now["tokens_prompt"] > 0 < float(now["confirmed_usd"])
    assert (now["error_rate"], now["cache_hit_rate"]) == (0, 0)
    before = await http.get("/api/metrics/performance", params={"until": "2026-01-01T00:00:00Z"})
    assert before.json()["requests"] == 0
    wrong = {"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    refused = await http.get("/api/metrics/performance", params=wrong)
    assert (refused.status_code, refused.json()["field"]) == (400, "since")
    for impossible in (
        {"since": "9999-01-01T00:00:00Z"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"until": "0001-01-01T00:00:00Z"},
    ):
        refused = await http.get("/api/metrics/performance", params=impossible)
        assert (refused.status_code, "since" in refused.text) == (400, True)


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event["data"]["text"] for event in events if event["event"] == "delta")


async def test_a_reader_continues_after_the_last_event_that_it_got(http: httpx.AsyncClient):
    key = {"idempotency-key": "turn-9"}
    [start, *deltas, end] = await streamed(http, BODY, **key)
    assert [delta["id"] for delta in deltas] == [str(number) for number in range(1, len(deltas) + 1)]
    job_id = start["data"]["id"].replace("/", "%2F")
    for half in (deltas[: len(deltas) // 2], deltas):
        after = {"last-event-id": half[-1]["id"]}
        again = await streamed(http, BODY, **key, **after)
        async with http.stream("GET", f"/api/chat/stream/{job_id}", headers=after) as stream:
            followed = [event async for event in read_events(stream)]
        assert texts(half) + texts(again) == end["data"]["content"] == texts(half) + texts(followed)
        assert again[-1] == followed[-1] == end


async def test_an_answer_of_the_cache_is_one_delta_after_which_nothing_is_missing(http: httpx.AsyncClient):
    await streamed(http, BODY)
    key = {"idempotency-key": "turn-10"}
    [_, delta, end] = await streamed(http, BODY, **key)
    assert (delta["id"], end["data"]["meta"]["cached"]) == ("all", "exact")
    [_, again] = await streamed(http, BODY, **key, **{"last-event-id": "all"})
    assert again == end


async def test_an_event_id_of_another_stream_and_an_unknown_generation_are_refused(http: httpx.AsyncClient):
    refused = await http.post("/api/chat/stream", json=BODY, headers={"last-event-id": "x"})
    assert (refused.status_code, refused.json()["field"]) == (400, "Last-Event-ID")
    assert (await http.get("/api/chat/stream/generate%2Facme%2Fnone")).status_code == 404
